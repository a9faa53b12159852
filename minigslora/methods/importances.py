"""How much each weight matters: the mean over retained images of a gradient's power; for EWC and MAS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minigslora.methods.base import trained
from minigslora.problems.base import Batch, Problem
from minigslora.tasks import Task

Named = dict[str, Tensor]
"""A tensor for each trained parameter, by the parameter's name."""


def gradient_importances(
    problem: Problem,
    task: Task,
    objective: Callable[[Batch], Tensor],
    power: int,
    images: int = 1,
    draws: int = 1,
) -> Named:
    """Return the mean over retained images of |∂ objective / ∂θ| to a power.

    Args:
        problem: the benchmark and its live model.
        task: whose retained images are looked at.
        objective: a scalar for a batch.
        power: 2 for the Fisher information, 1 for MAS.
        images: how many images share one gradient; one for the papers' definitions. The released code
            takes whole batches, and the sum of |gradient|^power · images over the number of batches.
        draws: how often each image is looked at, where the objective is random.
    """
    parameters = trained(problem)
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    batches = 0
    for _ in range(draws):
        for part in retained_pieces(problem, task, images):
            found = torch.autograd.grad(
                objective(part), list(parameters.values()), allow_unused=True, materialize_grads=True
            )
            batches += 1
            for total, gradient in zip(sums.values(), found, strict=True):
                total += gradient.abs().pow(power) * len(part.inputs)
    return {name: total / batches for name, total in sums.items()}


def retained_pieces(problem: Problem, task: Task, images: int) -> Iterator[Batch]:
    """Give the task's retained images once, unaugmented, in batches of at most ``images``."""
    for whole in problem.replay(task):
        for start in range(0, whole.sizes.get("retain", 0), images):
            inputs = whole.inputs[start : start + images]
            yield Batch(inputs, whole.targets[start : start + images], {"retain": len(inputs)})
