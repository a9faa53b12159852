"""The exercises' self-checks: each says what is right, or what to look at next, and never the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.contracts import Task, Training
from minigslora.datasets.splits import Plan
from minigslora.forgetting import EpochOrder
from minigslora.streams import Streams

GOOD = "✔"
"""What a passed check prints."""


class NotYet(AssertionError):
    """An exercise's answer is not right yet; the message says what to look at."""


def passed(exercise: str, right: bool, hint: str) -> None:
    """Print that ``exercise`` is solved, or raise :class:`NotYet` with a hint."""
    if not right:
        raise NotYet(f"Exercise {exercise}: not yet. {hint}")
    print(f"{GOOD} Exercise {exercise}")


def close(exercise: str, given: Any, expected: Any, hint: str, tolerance: float = 1e-5) -> None:
    """Check a number or tensor against the expected one, shapes included."""
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (_detached(given), _detached(expected)))
    if a.shape != b.shape:
        hint = f"Its shape is {tuple(a.shape)}, but {tuple(b.shape)} is expected. {hint}"
    right = a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    passed(exercise, right, hint)


def require(exercise: str, right: bool, hint: str) -> None:
    """Raise :class:`NotYet` with a hint unless one of several demands of ``exercise`` is met."""
    if not right:
        raise NotYet(f"Exercise {exercise}: not yet. {hint}")


def _detached(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


# --- notebook 04: forget once -----------------------------------------------------------------------


def exercise_04_1(forget_term: Callable[[Tensor, float], Tensor]) -> None:
    """Check a bounded forgetting term per sample (equation 4.2), by its values and its gradient."""
    stream = torch.Generator().manual_seed(41)
    losses = (torch.rand(64, generator=stream) * 40).requires_grad_()
    term = forget_term(losses, 25.0)
    expected = sum(max(0.0, 25.0 - value) for value in losses.tolist()) / 64
    hint = f"The first sample has a loss of {float(losses[0]):.2f} nats; what does it lack to 25?"
    require("04.1", abs(float(term.detach()) - expected) < 1e-4, hint)
    (slope,) = torch.autograd.grad(term, losses)
    wanted = torch.where(losses < 25.0, -1 / 64, 0.0)
    close("04.1", slope, wanted, "Look at the gradient: which samples should still be pushed?")


def exercise_04_2(right: Tensor, wrong: Tensor) -> None:
    """Check two logit vectors for class 0 of ten, at the two ends of what cross-entropy leaves open."""
    shapes = all(v.shape == (10,) and bool(v.isfinite().all()) for v in (right, wrong))
    require("04.2", shapes, "Give two vectors of ten finite logits; class 0 is the true one.")
    first, second = bool((right[0] > right[1:]).all()), bool((wrong[0] < wrong[1:].max()).item())
    require("04.2", first, "In the first, class 0 must be strictly above all others.")
    require("04.2", second, "In the second, another class must be strictly above class 0.")
    ce = [float(-torch.log_softmax(v.double(), 0)[0]) for v in (right, wrong)]
    hint = f"The right one has a cross-entropy of {ce[0]:.3f} nats; how far can it still rise?"
    require("04.2", ce[0] > math.log(10) - 0.01, hint)
    hint = f"The wrong one has a cross-entropy of {ce[1]:.3f} nats; how many rivals does a mistake need?"
    passed("04.2", ce[1] < math.log(2) + 0.01, hint)


def exercise_04_3(distance: Callable[[int, float, int], float]) -> None:
    """Check how far above ln C a bound on the batch mean must be to certify every sample of it."""
    for size, largest, classes in ((48, 132.6, 100), (4, 20.0, 10), (1, 50.0, 7)):
        worst = torch.full((size,), largest, dtype=torch.float64)
        worst[0] = math.log(classes)  # as wrong as a right sample can be, among very wrong ones
        reached = math.log(classes) + distance(size, largest, classes)
        hint = (
            f"A batch of {size} with one sample at ln {classes} and the others at {largest} has a mean of "
            f"{float(worst.mean()):.2f} nats; the bound must be exactly there."
        )
        require("04.3", abs(reached - float(worst.mean())) < 1e-6, hint)
    passed("04.3", True, "")


def exercise_04_4(uniform_term: Callable[[Tensor], Tensor]) -> None:
    """Check a forgetting term that asks for an even answer: zero there, positive elsewhere."""
    flat = float(uniform_term(torch.full((3, 7), 2.5)))
    hint = f"Where all classes are equally likely nothing is left to do, but the term is {flat:.4f}."
    require("04.4", abs(flat) < 1e-5, hint)
    stream = torch.Generator().manual_seed(44)
    logits = torch.randn(5, 7, generator=stream, dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = ((1 / 7) * (1 / (7 * p)).log()).sum(dim=1).mean()
    close("04.4", uniform_term(logits), expected, "Which of the two distributions is the expectation over?")


# --- notebook 05: forget again ----------------------------------------------------------------------


def exercise_05_1(h: Callable[[float, float, float], float]) -> None:
    """Check H from Acc_r, the pre-trained Acc_f and today's Acc_f (equations 5.1 and 5.2)."""
    for acc_r, before, now in ((74.0, 73.0, 1.0), (50.0, 80.0, 30.0), (33.3, 90.0, 0.0)):
        expected = 1 / ((1 / acc_r + 1 / (before - now)) / 2)
        hint = f"Acc_r {acc_r}, Acc_f {before} before and {now} now gave {h(acc_r, before, now)}."
        require("05.1", abs(h(acc_r, before, now) - expected) < 1e-6, hint)
    edges = h(0.0, 80.0, 80.0) == 0 and h(50.0, 80.0, 85.0) == 0
    passed("05.1", edges, "Where nothing was forgotten, or all was lost, H is 0.")


def exercise_05_2(roles: Callable[[Plan, int], tuple[set[int], set[int], set[int]]], plan: Plan) -> None:
    """Check which classes are retained, forgotten now and forgotten before, at each task of a plan."""
    everyone = set(plan.tasks[0].retain) | set(plan.tasks[0].forget)
    earlier: set[int] = set()
    for t, task in enumerate(plan.tasks):
        retain, now, before = map(set, roles(plan, t))
        at = f"At task {t + 1}"
        require("05.2", retain | now | before == everyone, f"{at} some class is in none of the three sets.")
        count = len(retain) + len(now) + len(before)
        require("05.2", count == len(everyone), f"{at} some class is in two sets.")
        require("05.2", now == set(task.forget), f"{at} look again at what is asked now.")
        require("05.2", before == earlier, f"{at}, what had the tasks before it forgotten?")
        earlier |= now
    passed("05.2", True, "")


def exercise_05_3(steps: Callable[[Task, Training], int], plan: Plan) -> None:
    """Check the number of optimiser steps of a task against the loop's own data order."""
    for training in (Training(epochs=3), Training(epochs=7, batch_retain=5, batch_forget=9)):
        for task in plan.tasks:
            order = EpochOrder(task, training, Streams(0), torch.device("cpu"))
            hint = (
                f"{task.name} has {len(task.retain_images)} retained images, in batches of at most "
                f"{training.batch_retain}, for {training.epochs} epochs."
            )
            require("05.3", steps(task, training) == order.steps * training.epochs, hint)
    passed("05.3", True, "")


def exercise_05_4(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that a model carries the adapters of a saved state and no others, bit for bit."""
    found = lora.adapter_state(model)
    names = lora.adapter_names(model)
    hint = f"The model carries the requests {', '.join(names) or 'none'}."
    require("05.4", found.keys() == state.keys(), hint)
    same = all(torch.equal(found[key].cpu(), state[key].cpu()) for key in state)
    passed("05.4", same, "The requests are the right ones, but their weights are not those of the run.")
