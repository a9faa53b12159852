"""Class prototypes and the two losses that GS-LoRA++ adds.

The prototype of a class is the mean output of the *original* model over its training images,

    p_c = mean of out₀(x) over x of class c                                  (6.1)

and the distance of a sample from its own class's prototype is

    K(x) = KL(softmax(p_y / T) ‖ softmax(out(x) / T))                        (6.2)

Forgotten samples are pushed away from their prototype up to a bound, retained ones pulled to theirs:

    L += w_f · ReLU(BND_pro − K_f) + w_r · K_r                               (6.3)

Source: arXiv 2501.09705, section 4.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["kl", "l2"]


def class_means(outputs: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the prototypes (6.1) and how many samples each was made of.

    Args:
        outputs: (N, D) outputs of the original model.
        labels: (N,) class ids.
        num_classes: C.

    Returns:
        means (C, D), zero for a class without samples, and counts (C,).
    """
    sums = outputs.new_zeros(num_classes, outputs.shape[1]).index_add_(0, labels, outputs)
    counts = torch.bincount(labels, minlength=num_classes)
    return sums / counts.clamp_min(1)[:, None], counts


def prototype_distance(
    prototypes: Tensor, outputs: Tensor, distance: Distance = "kl", temperature: float = 1.0
) -> Tensor:
    """Return K(x) of (6.2), or ‖p − out(x)‖₂, per sample.

    Args:
        prototypes: (B, D), the prototype of each sample's true class.
        outputs: (B, D), the current model's outputs in the same space.
        distance: "kl" (default) or "l2".
        temperature: T; divides both before the softmax.
    """
    if distance == "l2":
        gap: Tensor = torch.linalg.vector_norm(outputs - prototypes, dim=1)
        return gap
    return softened_kl(prototypes, outputs, temperature)


def softened_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(softmax(teacher / T) ‖ softmax(student / T)) of each row, (B,), from logits (B, C)."""
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


NEVER = -1e6
"""A logit whose softmax is exactly zero; −∞ itself would give 0 · ∞ in the divergence."""


def without(logits: Tensor, gone: Tensor) -> Tensor:
    """Return logits (B, C) with the columns ``gone`` (C,) left out: their softmax is exactly zero.

    What a model would say that never knew those classes.
    """
    return logits.masked_fill(gone, NEVER)


def push_loss(distances: Tensor, bound: float, per_sample: bool = True) -> Tensor:
    """Return ReLU(BND_pro − K_f) over forgotten samples' distances (B,) (first term of 6.3)."""
    if per_sample:
        return (bound - distances).relu().mean()
    return (bound - distances.mean()).relu()


def pull_loss(distances: Tensor) -> Tensor:
    """Return the mean of K_r over retained samples' distances (B,) (second term of 6.3)."""
    return distances.mean()
