"""Deformable attention as one matrix product: the quick way where an image has few places.

Every query of Deformable DETR (arXiv 2010.04159, eq. 3) reads a few points p of a few feature maps,

    y_q = Σ_p w_qp · v(p),      v(p) bilinear between the four places around p, and 0 outside the map,

so y = A v, where row q of A has four entries a point: w_qp times the bilinear weights. transformers reads
point by point, which costs the same for a small map as for a large one. For the small maps of a CPU's
detectors it is several times quicker to write A out, places and all, and multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

FEW = 350
"""Up to how many places, of all maps together, an image is read by a matrix (``benchmarks/reading.py``)."""


class MatrixReading(MultiScaleDeformableAttention):
    """transformers' reading step, by :func:`read_by_matrix` on a CPU where an image has few places."""

    def forward(self, value: Tensor, *others: Any) -> Tensor:
        """Return what each query reads, (B, Q, H · D); arguments as in transformers."""
        if value.device.type == "cpu" and value.shape[1] <= FEW:
            _, shapes, _, places, weights, _ = others
            return read_by_matrix(value, shapes, places, weights)
        read: Tensor = super().forward(value, *others)
        return read


def read_quickly(model: nn.Module) -> None:
    """Give a Deformable DETR's attention layers :class:`MatrixReading`, in place; it has no weights."""
    for module in list(model.modules()):
        if type(getattr(module, "attn", None)) is MultiScaleDeformableAttention:
            module.attn = MatrixReading()


def read_by_matrix(
    value: Tensor, shapes: Sequence[tuple[int, int]], places: Tensor, weights: Tensor
) -> Tensor:
    """Return y = A v for every query and head.

    Args:
        value: v, (B, N, H, D), the maps of L levels one behind the other.
        shapes: height and width of each level; their products add up to N.
        places: p, (B, Q, H, L, P, 2), x and y in [0, 1].
        weights: w, (B, Q, H, L, P).

    Returns:
        y, (B, Q, H · D).
    """
    (b, n, h, d), q = value.shape, places.shape[1]
    at, entry = matrix_entries(shapes, places, weights)
    matrix = value.new_zeros(b * h * q, n).scatter_add_(1, at, entry.to(value.dtype))
    read = matrix.view(b, h, q, n) @ value.transpose(1, 2)
    return read.transpose(1, 2).reshape(b, q, h * d)


def matrix_entries(
    shapes: Sequence[tuple[int, int]], places: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the columns and values of A's entries, each (B · H · Q, 4 · L · P).

    The small dimensions come first in between, so that every operation runs along the large one.
    """
    levels = places.shape[3]
    places = places.to(torch.promote_types(places.dtype, torch.float32))  # bf16 cannot count to 350
    size = torch.tensor([(x, y) for y, x in shapes], dtype=places.dtype, device=places.device)
    size = size.T.reshape(2, levels, 1, 1)
    starts = torch.tensor([0, *(y * x for y, x in shapes[:-1])], device=places.device).cumsum(0)
    start = starts.to(places.dtype).view(levels, 1, 1)
    middle = places.permute(5, 3, 4, 0, 2, 1).flatten(3) * size - 0.5  # (x and y, L, P, B · H · Q)
    low = middle.detach().floor()
    either = torch.stack([low, low + 1])  # the two places around, along each axis
    known = either.clamp(min=0).minimum(size - 1).nan_to_num()
    inside = (known == either).to(middle.dtype)
    columns, rows = known.unbind(1)
    at = (start + rows * size[0])[:, None] + columns
    part, weights = middle - low, weights.permute(3, 4, 0, 2, 1).flatten(2)
    shares = (1 - part) * inside[0], part * inside[1]
    entry = torch.stack([(down * weights) * across for _, down in shares for across, _ in shares])
    return at.flatten(0, 3).T.long().contiguous(), entry.flatten(0, 2).T.contiguous()
