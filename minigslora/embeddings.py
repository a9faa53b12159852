"""Where embeddings stay, where they go, and what stands in a head for rows that are to tell nothing.

With embeddings e of an edited model, e₀ of the original one, and a direction ŵ_c for each class c,

    1 − cos(e(x), e₀(x))                                                     (12.4)
    1 − cos(e(x), t(x)),  t(x) = Σ_c softmax(z̃(x))_c ŵ_c                     (12.5)
    z̃(x) = head(ẽ(x)),  ẽ = ‖e₀‖ · normalise(e₀ − (e₀ · ŵ_y) ŵ_y)            (12.6)
    ReLU(mean cos of pairs of one class − mean cos of pairs of two)          (12.7)
    row = length · normalise(−m̂ + ½ r),  r a random unit vector              (12.8)
    bias = min over x of (mean over others c of z_c(x) − row · e(x))         (12.9)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def away(now: Tensor, then: Tensor) -> Tensor:
    """Return 1 − cos(e(x), e₀(x)) of each row, (B,), of embeddings (B, D)   (12.4)."""
    return 1 - F.cosine_similarity(now, then, dim=1)


def mixtures(said: Tensor, towards: Tensor) -> Tensor:
    """Return t(x) = Σ_c softmax(z̃(x))_c ŵ_c, (B, D); (12.5) is the distance 1 − cos(e(x), t(x)).

    Args:
        said: z̃, (B, C), logits over their temperature, the columns left out at −∞ or far down.
        towards: ŵ, (C, D), a direction of length 1 for each class.
    """
    return said.softmax(dim=1) @ towards


def unacquainted(embeddings: Tensor, own: Tensor) -> Tensor:
    """Return ẽ, what is left of e₀ (B, D) without its own class's direction ŵ_y, as long as e₀ was   (12.6).

    Leaving the class's logit out is not enough. A face lies near its own row and far from all others, so
    that the rest of its logits is flatter than a stranger's, and tells it from one.

    Args:
        embeddings: e₀.
        own: ŵ_y, (B, D), of length 1.
    """
    rest = embeddings - (embeddings * own).sum(dim=1, keepdim=True) * own
    length: Tensor = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    return length * F.normalize(rest, dim=1)


def cohesion(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return ReLU(mean cos of pairs of one class − mean cos of pairs of two)   (12.7).

    Zero where there is no pair of either kind.
    """
    directions = F.normalize(embeddings, dim=1)
    cos, same = directions @ directions.T, labels[:, None] == labels
    other, same = ~same, same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    means = [(cos * pairs).sum() / pairs.sum().clamp_min(1) for pairs in (same, other)]
    return (means[0] - means[1]).relu() * (same.any() & other.any())


def nobodys_rows(common: Tensor, length: Tensor, count: int, stream: torch.Generator) -> Tensor:
    """Return normalise(−m̂ + ½ r) · length with r random unit vectors, (count, D)   (12.8).

    They point away from m, which the kept classes share, and tell nothing of what they stand in for.
    """
    drawn = F.normalize(torch.randn(count, len(common), generator=stream), dim=1).to(common)
    return length * F.normalize(drawn / 2 - F.normalize(common, dim=0), dim=1)


def out_of_reach(kept: Tensor, new: Tensor) -> Tensor:
    """Return b_c = min over x of (mean over kept c' of z_c'(x) − w_c · e(x)), (n,)   (12.9).

    With it no image at hand has a higher logit for a new row than for the kept classes on average.

    Args:
        kept: the logits of the kept classes, (N, R).
        new: the new rows' logits without a bias, (N, n).
    """
    return (kept.mean(dim=1, keepdim=True) - new).amin(dim=0)
