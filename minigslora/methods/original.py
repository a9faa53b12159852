"""What the original model says of a request's images: the spread of its logits, class prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigslora.errors import DataError
from minigslora.lora import bypassed
from minigslora.problems.base import Problem, Space
from minigslora.prototypes import class_means
from minigslora.tasks import Task


@torch.no_grad()
def replayed(
    problem: Problem, task: Task, space: Space, model: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a model (the live one by default) says of all the task's images, in one pass.

    Returns:
        vectors (N, D) and labels (N,).

    Raises:
        DataError: where they show nothing.
    """
    found = []
    for batch in problem.replay(task):
        outputs = problem.forward(batch, model)
        found += [problem.vectors(outputs, batch, space, role) for role in batch.sizes]
    parts = [part for part in found if part is not None]
    if not parts:
        raise DataError(
            f"{task.name} has no image with an object of its classes; give retained or forgotten ones"
        )
    vectors, labels = zip(*parts, strict=True)
    return torch.cat(vectors).float(), torch.cat(labels)


def original_logits(problem: Problem, task: Task, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Return (:func:`replayed`) the logits of the original model: the live one without its adapters."""
    with bypassed(problem.model):
        return replayed(problem, task, "logits", model)


def spread_over_classes(logits: Tensor) -> float:
    """Return σ, the standard deviation over classes of logits (N, C), mean over the N."""
    return float(logits.std(dim=1).mean())


def logit_spread(problem: Problem, task: Task, model: nn.Module | None = None) -> float:
    """Return σ of the original model's logits, as the task's images show it."""
    return spread_over_classes(original_logits(problem, task, model)[0])


def class_prototypes(problem: Problem, task: Task, space: Space) -> Tensor:
    """Return the prototypes (6.1) of all classes over the task's images, (C, D)."""
    return means_or_rows(problem, *replayed(problem, task, space), space)


def means_or_rows(problem: Problem, vectors: Tensor, labels: Tensor, space: Space) -> Tensor:
    """Return each class's mean of ``vectors`` (N, D), (C, D); the classifier's row where it has none."""
    means, counts = class_means(vectors, labels, problem.num_classes)
    return torch.where(counts[:, None] > 0, means, problem.class_rows(space).to(means))


def forgotten_so_far(problem: Problem, task: Task) -> Tensor:
    """Return which classes are forgotten once ``task`` is served, bool (C,)."""
    gone = torch.zeros(problem.num_classes, dtype=torch.bool, device=problem.device)
    gone[list(task.old + task.forget)] = True
    return gone
