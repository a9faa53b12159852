"""Self-checks of notebook 05, forget again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.course.checks.common import Demands
from minigslora.methods.base import Training
from minigslora.rng import Streams
from minigslora.tasks import Plan, Task
from minigslora.training import EpochOrder


def exercise_05_1(h: Callable[[float, float, float], float]) -> Demands:
    """Check H from Acc_r, the pre-trained Acc_f and today's Acc_f (equations 5.1 and 5.2)."""
    for acc_r, before, now in ((74.0, 73.0, 1.0), (50.0, 80.0, 30.0), (33.3, 90.0, 0.0)):
        expected = 1 / ((1 / acc_r + 1 / (before - now)) / 2)
        hint = f"Acc_r {acc_r}, Acc_f {before} before and {now} now gave {h(acc_r, before, now)}."
        yield abs(h(acc_r, before, now) - expected) < 1e-6, hint
    edges = h(0.0, 80.0, 80.0) == 0 and h(50.0, 80.0, 85.0) == 0
    yield edges, "Where nothing was forgotten, or all was lost, H is 0."


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
            hint = (
                f"{task.name} has {len(task.retain_images)} retained images, in batches of at most "
                f"{training.batch_retain}, for {training.epochs} epochs."
            )
            yield steps(task, training) == order.steps * training.epochs, hint


def exercise_05_4(model: nn.Module, state: Mapping[str, Tensor]) -> Demands:
    """Check that a model carries the adapters of a saved state and no others, bit for bit."""
    found = lora.adapter_state(model)
    names = lora.adapter_names(model)
    yield found.keys() == state.keys(), f"The model carries the requests {', '.join(names) or 'none'}."
    same = all(torch.equal(found[key].cpu(), state[key].cpu()) for key in state)
    yield same, "The requests are the right ones, but their weights are not those of the run."
