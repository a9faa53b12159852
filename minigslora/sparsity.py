"""Group sparsity: whole blocks of adapters are driven to exactly zero.

The penalty of notebook 03 is the group lasso (Yuan & Lin 2006; arXiv 2403.11530, equation 6)

    P(θ) = Σ_g ‖θ_g‖₂                                                        (3.1)

Kept in the loss it shrinks groups but never reaches zero. The proximal step does:

    θ_g ← θ_g · max(0, 1 − τ_g / ‖θ_g‖₂),   τ_g = η α √|g|                   (3.2)

with the learning rate η and |g| parameters in the group: the proximal step of α Σ_g √|g| ‖θ_g‖₂ (3.5).
AdamW moves a group by about η√|g| a step at most (3.4), so α is of order 1 whatever the width and the
grouping. This module knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from minigslora.lora import Group

GroupNorm = Literal["parameters", "B", "product"]
"""What ‖θ_g‖ measures: both matrices, B alone (A's random start is then free), or the update s·B·A."""


def group_norm(group: Group, norm: GroupNorm = "parameters") -> Tensor:
    """Return ‖θ_g‖₂ of one group as a scalar tensor; its gradient at zero is zero, never NaN.

    "product" is ‖s·B·A‖, the length of what the group adds to the weights; it needs whole (A, B) pairs.
    """
    if norm == "product":
        parts = [group.scale * (b @ a) for a, b in group.pairs if a is not None and b is not None]
    elif norm == "B":
        parts = [b for _, b in group.pairs if b is not None]
    else:
        parts = list(group.parameters)
    norms = torch.stack([torch.linalg.vector_norm(p) for p in parts])
    total: Tensor = torch.linalg.vector_norm(norms)
    return total


def penalty(groups: Sequence[Group], norm: GroupNorm = "parameters") -> Tensor:
    """Return Σ_g ‖θ_g‖₂ (equation 3.1), a scalar."""
    return torch.stack([group_norm(group, norm) for group in groups]).sum()


def alpha_at(epoch: int, alpha: float, warmup: int) -> float:
    """Return α in ``epoch`` (from 0): zero during the first ``warmup`` epochs, then ``alpha``."""
    return 0.0 if epoch < warmup else alpha


def root_size(group: Group, norm: GroupNorm = "parameters") -> float:
    """Return √|g| of (3.2); where only B is measured, only B's parameters count."""
    only_b = sum(b.numel() for _, b in group.pairs if b is not None)
    return math.sqrt(only_b if norm == "B" else group.size)


class ProximalStep:
    """The group soft-threshold (3.2), applied in place after each optimiser step.

    Zero is absorbing: with A = B = 0 both gradients vanish, and a group once at zero is held there
    by a mask, so that stale momentum cannot revive it. Nothing here waits for the device.

    Attributes:
        alive: (groups,) float tensor, 1 for a group in use and 0 for one at zero.
    """

    def __init__(self, groups: Sequence[Group], norm: GroupNorm = "parameters") -> None:
        self.groups = list(groups)
        self.norm = norm
        first = self.groups[0].parameters[0]
        self.alive = torch.ones(len(self.groups), device=first.device, dtype=first.dtype)
        self.root_sizes = self.alive.new_tensor([root_size(group, norm) for group in self.groups])

    @torch.no_grad()
    def __call__(self, lr: float, alpha: float) -> None:
        """Shrink each group by τ_g = ``lr``·``alpha``·√|g| and zero those that fall below it."""
        if alpha == 0:
            return
        norms = torch.stack([group_norm(group, self.norm) for group in self.groups])
        tau = lr * alpha * self.root_sizes
        shrink = (1 - tau / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_min(0)
        self.alive.mul_(shrink > 0)
        for group, factor, alive in zip(
            self.groups, (shrink * self.alive).unbind(), self.alive.unbind(), strict=True
        ):
            self._scale(group, factor, alive)

    def _scale(self, group: Group, factor: Tensor, alive: Tensor) -> None:
        for a, b in group.pairs:
            if self.norm == "parameters":
                scale_a = scale_b = factor
            elif self.norm == "B":
                scale_a, scale_b = alive, factor
            else:  # √f on each side multiplies the product by f
                scale_a = scale_b = factor.sqrt()
            if a is not None:
                a.mul_(scale_a)
            if b is not None:
                b.mul_(scale_b)


def zero_groups(groups: Sequence[Group]) -> list[str]:
    """Return the names of the groups whose update is exactly zero."""
    return [group.name for group in groups if all(_is_zero(*pair) for pair in group.pairs)]


def _is_zero(*matrices: Tensor | None) -> bool:
    """A layer's update s·B·A is zero as soon as one of its two matrices is."""
    return any(not bool(matrix.any()) for matrix in matrices if matrix is not None)


def zero_group_ratio(groups: Sequence[Group]) -> float:
    """Return the number of groups at zero divided by the number of groups."""
    return len(zero_groups(groups)) / len(groups)
