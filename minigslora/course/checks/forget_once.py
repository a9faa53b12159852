"""Self-checks of notebook 04, forget once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minigslora.course.checks.common import Demands, close


def exercise_04_1(forget_term: Callable[[Tensor, float], Tensor]) -> Demands:
    """Check a bounded forgetting term per sample (equation 4.2), by its values and its gradient."""
    stream = torch.Generator().manual_seed(41)
    losses = (torch.rand(64, generator=stream) * 40).requires_grad_()
    term = forget_term(losses, 25.0)
    expected = sum(max(0.0, 25.0 - value) for value in losses.tolist()) / 64
    hint = f"The first sample has a loss of {losses[0].item():.2f} nats; what does it lack to 25?"
    yield abs(float(term.detach()) - expected) < 1e-4, hint
    (slope,) = torch.autograd.grad(term, losses)
    wanted = torch.where(losses < 25.0, -1 / 64, 0.0)
    yield close(slope, wanted, "Look at the gradient: which samples should still be pushed?")


def exercise_04_2(right: Tensor, wrong: Tensor) -> Demands:
    """Check two logit vectors for class 0 of ten, at the two ends of what cross-entropy leaves open."""
    shapes = all(v.shape == (10,) and bool(v.isfinite().all()) for v in (right, wrong))
    yield shapes, "Give two vectors of ten finite logits; class 0 is the true one."
    first, second = bool((right[0] > right[1:]).all()), bool((wrong[0] < wrong[1:].max()).item())
    yield first, "In the first, class 0 must be strictly above all others."
    yield second, "In the second, another class must be strictly above class 0."
    ce = [float(-torch.log_softmax(v.double(), 0)[0]) for v in (right, wrong)]
    hint = f"The right one has a cross-entropy of {ce[0]:.3f} nats; how far can it still rise?"
    yield ce[0] > math.log(10) - 0.01, hint
    hint = f"The wrong one has a cross-entropy of {ce[1]:.3f} nats; how many rivals does a mistake need?"
    yield ce[1] < math.log(2) + 0.01, hint


def exercise_04_3(distance: Callable[[int, float, int], float]) -> Demands:
    """Check how far above ln C a bound on the batch mean must be to certify every sample of it."""
    for size, largest, classes in ((48, 132.6, 100), (4, 20.0, 10), (1, 50.0, 7)):
        worst = torch.full((size,), largest, dtype=torch.float64)
        worst[0] = math.log(classes)  # as wrong as a right sample can be, among very wrong ones
        reached = math.log(classes) + distance(size, largest, classes)
        hint = (
            f"A batch of {size} with one sample at ln {classes} and the others at {largest} has a mean of "
            f"{float(worst.mean()):.2f} nats; the bound must be exactly there."
        )
        yield abs(reached - float(worst.mean())) < 1e-6, hint


def exercise_04_4(uniform_term: Callable[[Tensor], Tensor]) -> Demands:
    """Check a forgetting term that asks for an even answer: zero there, positive elsewhere."""
    flat = float(uniform_term(torch.full((3, 7), 2.5)))
    hint = f"Where all classes are equally likely nothing is left to do, but the term is {flat:.4f}."
    yield abs(flat) < 1e-5, hint
    stream = torch.Generator().manual_seed(44)
    logits = torch.randn(5, 7, generator=stream, dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = ((1 / 7) * (1 / (7 * p)).log()).sum(dim=1).mean()
    yield close(uniform_term(logits), expected, "Which of the two distributions is the expectation over?")
