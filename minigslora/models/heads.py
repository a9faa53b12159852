"""Classification heads of face recognition: cosine logits, with a margin on the true class in training.

``forward`` gives margin-free logits s·cos θ, which is what a user gets; :func:`margin_logits` gives
those the head was trained with, and those the published face accuracies were measured with.

Sources: CosFace, arXiv 1801.09414; ArcFace, arXiv 1801.07698.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Module):
    """Logits s·cos θ between an embedding and each class's row.

    Attributes:
        weight: (classes, dim).
        scale: s.
        margin: m.
    """

    def __init__(self, dim: int, classes: int, scale: float = 64.0, margin: float = 0.35) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dim))
        self.scale, self.margin = scale, margin
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the rows anew."""
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return s·cos θ of shape (B, classes), in float32 at least, whatever the autocast."""
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(embedding.device.type, enabled=False):
            direction = F.normalize(embedding.to(kind), dim=1)
            return self.scale * F.linear(direction, F.normalize(self.weight.to(kind), dim=1))

    def with_margin(self, logits: Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
        """Return the training logits; ``share`` of the margin, for a ramp in pre-training."""
        raise NotImplementedError


class CosFace(CosineHead):
    """True-class logit s·(cos θ − m)."""

    def with_margin(self, logits: Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
        """Subtract s·m from the true class's logit."""
        less = logits.new_full((len(labels), 1), -share * self.scale * self.margin)
        return logits.scatter_add(1, labels[:, None], less)


class ArcFace(CosineHead):
    """True-class logit s·cos(θ + m)."""

    def __init__(self, dim: int, classes: int, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__(dim, classes, scale, margin)

    def with_margin(self, logits: Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
        """Add m to the true class's angle, as far as θ + m stays below π."""
        cos = logits.gather(1, labels[:, None]) / self.scale
        angle = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6)) + share * self.margin
        turned = self.scale * torch.cos(angle.clamp(max=torch.pi))
        return logits.scatter(1, labels[:, None], turned.to(logits.dtype))


HEADS: dict[str, type[CosineHead]] = {"cosface": CosFace, "arcface": ArcFace}


def margin_logits(head: nn.Module, logits: Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
    """Return ``logits`` with the head's margin on the true class; unchanged for a linear head."""
    return head.with_margin(logits, labels, share) if isinstance(head, CosineHead) else logits
