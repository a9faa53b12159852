"""GS-LoRA++: GS-LoRA with class prototypes (notebook 06).

    L += w_f · ReLU(BND_pro − K_f) + w_r · K_r                               (6.3)

Source: arXiv 2501.09705, section 4. The corrected recipe takes prototypes from the original model,
in logit space, and pulls retained images to theirs; the released one takes them from the already
edited model, in embedding space, and leaves the pull out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from minigslora.config import NonNegative, Positive
from minigslora.lora import bypassed
from minigslora.methods.base import ParamGroup, Terms, Training
from minigslora.methods.gslora import GSLoRA, GSLoRAConfig, forgotten_so_far, of_task, replayed
from minigslora.problems.base import Batch, Problem, Space
from minigslora.prototypes import Distance, class_means, prototype_distance, pull_loss, push_loss, without
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class GSLoRAPlusPlusConfig(GSLoRAConfig):
    """Settings of GS-LoRA++, beside those of GS-LoRA.

    Attributes:
        push: w_f per task.
        push_bound: BND_pro.
        pull: w_r.
        space: "logits" or "embedding".
        distance: "kl" (6.2) or "l2".
        temperature: T of (6.2), in units of the logits' spread where ``relative``.
        masked: whether the classes forgotten so far are left out of the prototypes that retained
            images are pulled to, so that nobody is taught to resemble them (KL in logit space only).
        prototypes: whose outputs are averaged: the "original" model's, or the "edited" one's at
            the start of each task; or "rows", the classifier's own rows, which need no image.
    """

    push: tuple[NonNegative, ...] = (0.05,)
    push_bound: NonNegative = 4.0
    pull: NonNegative = 40.0
    space: Space = "logits"
    distance: Distance = "kl"
    temperature: Positive = 0.8
    masked: bool = True
    prototypes: Literal["original", "edited", "rows"] = "original"


class GSLoRAPlusPlus(GSLoRA):
    """GS-LoRA++ (arXiv 2501.09705)."""

    name: ClassVar[str] = "gslora++"
    published: ClassVar[str] = "GS-LoRA++"
    Config: ClassVar[type[Any]] = GSLoRAPlusPlusConfig
    released_choices: ClassVar[Mapping[str, Any]] = {
        "space": "embedding",
        "temperature": 1.0,
        "masked": False,
        "prototypes": "edited",
    }
    config: GSLoRAPlusPlusConfig

    def __init__(self, config: GSLoRAPlusPlusConfig, training: Training) -> None:
        super().__init__(config, training)
        self.temperature = config.temperature
        self.prototypes: Tensor = torch.empty(0)
        self.gone: Tensor = torch.empty(0)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Attach fresh adapters, which do nothing yet, and take the prototypes."""
        groups = super().begin(problem, task, streams)
        self.prototypes = self.prototypes_of(problem, task)
        self.gone = forgotten_so_far(problem, task)
        self.temperature = self.config.temperature * self.spread
        return groups

    def prototypes_of(self, problem: Problem, task: Task) -> Tensor:
        """Return the prototypes of all classes, (C, D), as configured."""
        config = self.config
        if config.prototypes == "rows":
            return problem.class_rows(config.space)
        if config.prototypes == "edited":
            return class_prototypes(problem, task, config.space)
        if config.relative and config.space == "logits":
            return means_or_rows(problem, *self.original, config.space)  # of the spread's own pass
        with bypassed(problem.model):
            return class_prototypes(problem, task, config.space)

    def weights(self, progress: Progress) -> dict[str, float]:
        """Add the weights of the two prototype terms."""
        push = of_task(self.config.push, progress.task)
        return {**super().weights(progress), "push": push, "pull": self.config.pull}

    def terms(self, problem: Problem, outputs: Any, batch: Batch) -> Terms:
        """Add the prototype terms of (6.3)."""
        config, terms = self.config, super().terms(problem, outputs, batch)
        if (forget := self.distances(problem, outputs, batch, "forget")) is not None:
            terms["push"] = push_loss(forget, config.push_bound, config.per_sample)
        if config.pull and (kept := self.distances(problem, outputs, batch, "retain")) is not None:
            terms["pull"] = pull_loss(kept)
        return terms

    def distances(
        self, problem: Problem, outputs: Any, batch: Batch, role: Literal["retain", "forget"]
    ) -> Tensor | None:
        """Return each object's distance (6.2) from its class's prototype."""
        objects = problem.vectors(outputs, batch, self.config.space, role)
        if objects is None:
            return None
        (vectors, labels), config = objects, self.config
        prototypes = self.prototypes[labels]
        if role == "retain" and config.masked and (config.space, config.distance) == ("logits", "kl"):
            prototypes = without(prototypes, self.gone)
        return prototype_distance(prototypes, vectors, config.distance, self.temperature)


def class_prototypes(problem: Problem, task: Task, space: Space) -> Tensor:
    """Return the prototypes (6.1) of all classes over the task's images, (C, D)."""
    return means_or_rows(problem, *replayed(problem, task, space), space)


def means_or_rows(problem: Problem, vectors: Tensor, labels: Tensor, space: Space) -> Tensor:
    """Return each class's mean of ``vectors`` (N, D), (C, D); the classifier's row where it has none."""
    means, counts = class_means(vectors, labels, problem.num_classes)
    return torch.where(counts[:, None] > 0, means, problem.class_rows(space).to(means))
