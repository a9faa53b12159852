"""GS-LoRA++: GS-LoRA with class prototypes (notebook 06).

The corrected recipe takes prototypes from the original model, in logit space, and pulls retained images to
theirs; the released one takes them from the edited model, in embedding space, and leaves out the pull.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from minigslora.config import NonNegative, Positive
from minigslora.lora import bypassed
from minigslora.methods.base import ParamGroup, Step, Terms, of_task, state
from minigslora.methods.gslora import GSLoRA
from minigslora.methods.original import class_prototypes, forgotten_so_far, means_or_rows
from minigslora.problems.base import Problem, Space
from minigslora.prototypes import Distance, prototype_distance, pull_loss, push_loss, without
from minigslora.rng import Streams
from minigslora.tasks import Task


@dataclass(kw_only=True)
class GSLoRAPlusPlus(GSLoRA):
    """L = GS-LoRA's + w_f · ReLU(BND_pro − K_f) + w_r · K_r.   arXiv 2501.09705, section 4; (6.3).

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
        centres: the prototypes of all classes, (C, D).
        gone: which classes are forgotten so far, (C,).
    """

    name: ClassVar[str] = "gslora++"
    published: ClassVar[str] = "GS-LoRA++"

    push: tuple[NonNegative, ...] = (0.05,)
    push_bound: NonNegative = 4.0
    pull: NonNegative = 40.0
    space: Space = "logits"
    distance: Distance = "kl"
    temperature: Positive = 0.8
    masked: bool = True
    prototypes: Literal["original", "edited", "rows"] = "original"
    centres: Tensor = state()
    gone: Tensor = state()

    def data_terms(self, step: Step) -> Terms:
        """Add the prototype terms of (6.3)."""
        terms = super().data_terms(step)
        if (forgotten := self.distances(step, "forget")) is not None:
            push = push_loss(forgotten, self.push_bound, self.per_sample)
            terms["push"] = of_task(self.push, step.progress.task) * push
        if self.pull and (kept := self.distances(step, "retain")) is not None:
            terms["pull"] = self.pull * pull_loss(kept)
        return terms

    def distances(self, step: Step, role: Literal["retain", "forget"]) -> Tensor | None:
        """Return each object's distance (6.2) from its class's prototype."""
        if (objects := step.objects(role, self.space)) is None:
            return None
        vectors, labels = objects
        centres = self.centres[labels]
        if role == "retain" and self.masked and (self.space, self.distance) == ("logits", "kl"):
            centres = without(centres, self.gone)
        return prototype_distance(centres, vectors, self.distance, self.temperature * self.spread)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Attach fresh adapters, which do nothing yet, and take the prototypes."""
        groups = super().begin(problem, task, streams)
        self.gone = forgotten_so_far(problem, task)
        self.centres = self._prototypes(problem, task)
        return groups

    def _prototypes(self, problem: Problem, task: Task) -> Tensor:
        if self.prototypes == "rows":
            return problem.class_rows(self.space)
        if self.prototypes == "edited":
            return class_prototypes(problem, task, self.space)
        if self.relative and self.space == "logits":
            return means_or_rows(problem, *self.original, self.space)  # of the spread's own pass
        with bypassed(problem.model):
            return class_prototypes(problem, task, self.space)
