"""Self-checks of notebooks 04 to 06: forgetting once, again, and with prototypes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.course.checks.common import Demands, close
from minigslora.methods.base import Training
from minigslora.rng import Streams
from minigslora.tasks import Plan, Task
from minigslora.training import EpochOrder

# --- notebook 04, forget once ---------------------------------------------------------------------


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
    tensors = all(isinstance(v, Tensor) and v.shape == (10,) for v in (right, wrong))
    yield tensors, "Give two tensors of shape (10,), class 0 being the true one."
    yield all(bool(v.isfinite().all()) for v in (right, wrong)), "Give finite logits only."
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


# --- notebook 05, forget again --------------------------------------------------------------------


def exercise_05_1(h: Callable[[float, float, float], float]) -> Demands:
    """Check H from Acc_r, the pre-trained Acc_f and today's Acc_f (equations 5.1 and 5.2)."""
    for acc_r, before, now in ((74.0, 73.0, 1.0), (50.0, 80.0, 30.0), (33.3, 90.0, 0.0)):
        expected = 1 / ((1 / acc_r + 1 / (before - now)) / 2)
        hint = f"Acc_r {acc_r}, Acc_f {before} before and {now} now gave {h(acc_r, before, now)}."
        yield abs(h(acc_r, before, now) - expected) < 1e-6, hint
    given = h(50.0, 80.0, 85.0)
    yield given == 0, f"Acc_f rose from 80 to 85, so nothing was forgotten, but H is {given:.4g}."
    yield h(0.0, 80.0, 80.0) == 0, "Where nothing was forgotten and all was lost, H is 0."


def exercise_05_2(roles: Callable[[Plan, int], tuple[set[int], set[int], set[int]]], plan: Plan) -> Demands:
    """Check which classes are retained, forgotten now and forgotten before, at each task of a plan."""
    everyone = set(plan.tasks[0].retain) | set(plan.tasks[0].forget)
    earlier: set[int] = set()
    for t, task in enumerate(plan.tasks):
        retain, now, before = map(set, roles(plan, t))
        at = f"At task {t + 1}"
        yield retain | now | before == everyone, f"{at} some class is in none of the three sets."
        yield len(retain) + len(now) + len(before) == len(everyone), f"{at} some class is in two sets."
        yield now == set(task.forget), f"{at} look again at what is asked now."
        yield before == earlier, f"{at}, what had the tasks before it forgotten?"
        earlier |= now


def exercise_05_3(steps: Callable[[Task, Training], int], plan: Plan) -> Demands:
    """Check the number of optimiser steps of a task against the loop's own data order."""
    for training in (Training(epochs=3), Training(epochs=7, batch_retain=5, batch_forget=9)):
        for task in plan.tasks:
            order = EpochOrder(task, training, Streams(0), torch.device("cpu"))
            given = steps(task, training)
            hint = (
                f"{task.name} has {len(task.retain_images)} retained images, in batches of at most "
                f"{training.batch_retain}, for {training.epochs} epochs; it gave {given}. An epoch leaves "
                "no image out, so its last batch counts, too."
            )
            yield given == order.steps * training.epochs, hint


def exercise_05_4(model: nn.Module, state: Mapping[str, Tensor]) -> Demands:
    """Check that a model carries the adapters of a saved state and no others, bit for bit."""
    found = lora.adapter_state(model)
    names = lora.adapter_names(model)
    yield found.keys() == state.keys(), f"The model carries the requests {', '.join(names) or 'none'}."
    same = all(torch.equal(found[key].cpu(), state[key].cpu()) for key in state)
    yield same, "The requests are the right ones, but their weights are not those of the run."


# --- notebook 06, prototypes ----------------------------------------------------------------------


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
