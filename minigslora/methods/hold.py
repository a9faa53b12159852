"""Holding a model to what it said, over the whole head: what keeps classes in place that no image shows.

A task may have some rows of a larger head only (8.1), and images of its own classes only; or no image
of some retained classes. The term

    M(x) = KL(softmax(z̃(x) / T) ‖ softmax(z(x) / T))                         (8.3)

is (6.4) over *all* rows of the head, on retained images, on those to forget and on foreign ones. z̃ are
the logits of the model as the request found it, with the classes forgotten so far left out: the
pre-trained model would teach what was forgotten before. On an image to forget it says
what to answer in place of the class, so that the embedding moves no further than it must. Foreign
images stand for what no image at hand shows; they are made of those at hand
(:func:`minigslora.datasets.images.medley`). Beyond the papers.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from minigslora.datasets.images import medley
from minigslora.errors import ConfigError
from minigslora.lora import as_teacher
from minigslora.problems.base import Batch, Problem
from minigslora.prototypes import softened_kl, without
from minigslora.rng import Streams
from minigslora.tasks import Task


class Hold:
    """The term (8.3) of one task.

    Args:
        problem: the benchmark.
        task: the request.
        temperature: T, in the logits' own unit.
        foreign: foreign images in a step, as a share of those at hand in it.
        streams: of the foreign images.

    Raises:
        ConfigError: for a problem whose images have no single label.
    """

    def __init__(
        self, problem: Problem, task: Task, temperature: float, foreign: float, streams: Streams
    ) -> None:
        if problem.kind != "classification":
            raise ConfigError(
                f"hold asks for one set of logits an image, which {problem.kind} has not; leave hold at 0"
            )
        head, rows = problem.whole_head
        self.head: nn.Module = head
        self.task, self.temperature, self.foreign = task.name, temperature, foreign
        self.moves = streams("foreign", device=problem.device)
        classes = len(cast(Tensor, head.weight))
        gone = [rows[c] for c in task.old + task.forget]
        self.gone = torch.zeros(classes, dtype=torch.bool, device=problem.device)
        self.gone[gone] = True

    def widened(self, batch: Batch) -> Batch:
        """Return the batch with foreign images behind it; their targets mean nothing."""
        count = round(self.foreign * len(batch.inputs))
        if not count:
            return batch
        inputs = torch.cat([batch.inputs, medley(batch.inputs, count, self.moves)])
        targets = torch.cat([batch.targets, batch.targets.new_zeros(count)])
        return Batch(inputs, targets, {**batch.sizes, "foreign": count + batch.sizes.get("foreign", 0)})

    def term(self, problem: Problem, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean of (8.3) over all images of a batch."""
        with as_teacher(problem.model, self.task):
            taught = without(self.said(problem, problem.forward(batch), batch), self.gone)
        now = self.said(problem, outputs, batch)
        return softened_kl(taught, now, self.temperature).mean()

    def said(self, problem: Problem, outputs: Any, batch: Batch) -> Tensor:
        """Return the whole head's logits (B, C) of all images."""
        parts = [problem.vectors(outputs, batch, "embedding", role) for role in batch.sizes]
        logits: Tensor = self.head(torch.cat([part[0] for part in parts if part is not None]))
        return logits.float()
