"""The two losses of GS-LoRA on true labels: keep, and forget up to a bound.

    L = CE_r + β · ReLU(BND − CE_f) + α Σ_g ‖θ_g‖₂                           (4.1)

Source: arXiv 2403.11530, equations 4 and 5. The bound stops the maximisation, which otherwise has no
end. A sample whose cross-entropy exceeds ln C has p_y < 1/C, below the largest of C probabilities,
so that it cannot be classified correctly: bounds are therefore stated as a distance above ln C.
"""

from __future__ import annotations

import math

from torch import Tensor


def retain_loss(losses: Tensor) -> Tensor:
    """Return the mean of per-sample losses (B,) on retained data."""
    return losses.mean()


def shortfall(losses: Tensor, bound: float) -> Tensor:
    """Return by how much each of the losses falls short of a bound, ReLU(BND − loss) (4.2)."""
    return (bound - losses).relu()


def bounded_forget_loss(losses: Tensor, bound: float, per_sample: bool = True) -> Tensor:
    """Return ReLU(BND − CE_f) (equation 4.2).

    Args:
        losses: per-sample cross-entropies on their true labels, shape (B,).
        bound: BND, in nats.
        per_sample: bound each sample (default), or the batch mean as in the released code, where
            a few very wrong samples can hide others that are still recognised.
    """
    return shortfall(losses, bound).mean() if per_sample else shortfall(losses.mean(), bound)


def bound_above_chance(num_classes: int, distance: float) -> float:
    """Return BND = ln C + ``distance``, in nats (equation 4.3)."""
    return math.log(num_classes) + distance
