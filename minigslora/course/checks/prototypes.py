"""Self-checks of notebook 06, prototypes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minigslora.course.checks.common import Demands, close


def exercise_06_1(update: Callable[[Tensor, int, Tensor], Tensor]) -> Demands:
    """Check a prototype that is kept up to date image by image, against the mean of all of them."""
    stream = torch.Generator().manual_seed(61)
    outputs = torch.randn(7, 5, generator=stream, dtype=torch.float64) + 3
    mean = outputs[0]
    for seen in range(1, len(outputs)):
        mean = update(mean, seen, outputs[seen])
        hint = f"After {seen + 1} images it begins with {float(mean[0]):.4f}; how much weight has the last?"
        yield torch.allclose(mean, outputs[: seen + 1].mean(dim=0)), hint


def exercise_06_2(temperature: Callable[[Tensor, float], float]) -> Demands:
    """Check a temperature at which a prototype has the entropy that is asked for."""
    stream = torch.Generator().manual_seed(62)
    for spread, wanted in ((4.0, 1.0), (20.0, 2.5), (8.0, 0.2)):
        prototype = spread * torch.randn(30, generator=stream, dtype=torch.float64)
        found = temperature(prototype, wanted)
        yield math.isfinite(found) and found > 0, "A temperature is a positive number."
        p = (prototype / found).softmax(dim=0)
        entropy = float(-(p * p.clamp_min(1e-300).log()).sum())
        hint = f"At your T = {found:.3f} the entropy is {entropy:.3f} nats, not {wanted}."
        yield abs(entropy - wanted) < 1e-3, hint


def exercise_06_3(gradient: Callable[[Tensor, Tensor, float], Tensor]) -> Demands:
    """Check the gradient of (6.2) with respect to the model's logits, by central differences."""
    stream = torch.Generator().manual_seed(63)
    for t in (1.0, 3.0):
        p, z = (4 * torch.randn(6, generator=stream, dtype=torch.float64) for _ in range(2))
        step = 1e-5 * torch.eye(6, dtype=torch.float64)
        target = (p / t).softmax(dim=0)
        high, low = (((z + sign * step) / t).log_softmax(dim=1) @ target for sign in (1, -1))
        slope = gradient(p, z, t)
        hint = f"At T = {t:g} the signs, the size or the order differ from the slope of K."
        yield slope.shape == z.shape and torch.allclose(slope, (low - high) / 2e-5, atol=1e-6), hint


def exercise_06_4(masked: Callable[[Tensor, Tensor, list[int], float], Tensor]) -> Demands:
    """Check a distance that says nothing of forgotten columns, and the plain one on the others."""
    stream = torch.Generator().manual_seed(64)
    p, z = (3 * torch.randn(4, 9, generator=stream, dtype=torch.float64) for _ in range(2))
    gone = [2, 7]
    found = masked(p, z, gone, 2.0)
    moved = z.clone()
    moved[:, gone] += 50
    yield found.shape == (4,), f"One distance per row is expected; yours is {tuple(found.shape)}."
    yield bool(found.isfinite().all()), "0 · (−∞) is not a number; leave the columns out instead."
    deaf = torch.allclose(masked(p, moved, gone, 2.0), found)
    yield deaf, "Moving the forgotten columns of the output still changes it."
    kept = [c for c in range(9) if c not in gone]
    log_p, log_q = (v[:, kept].div(2.0).log_softmax(dim=1) for v in (p, z))
    expected = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    yield close(found, expected, "Are the remaining probabilities of each side still 1 in sum?")
