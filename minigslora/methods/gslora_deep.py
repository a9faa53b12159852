"""Deep forgetting: the embedding forgets, too, and the head keeps no row that is a class's template.

Accuracy says what a model answers, not what it knows. On top of masked-teacher distillation, retained images'
embeddings stay where they were, and forgotten ones go where a model would have them that never knew their
classes: among the kept classes that they resemble. At the end of a request the rows of the forgotten give way
to rows that are nobody's (:mod:`minigslora.rows`). Beyond the papers; not in their tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora import rows
from minigslora.config import NonNegative
from minigslora.embeddings import away, cohesion, mixtures, nobodys_rows, out_of_reach, unacquainted
from minigslora.lora import bypassed
from minigslora.methods.base import ParamGroup, Step, Terms, state
from minigslora.methods.gslora_distill import GSLoRADistill
from minigslora.methods.original import replayed
from minigslora.problems.base import Problem, Role
from minigslora.prototypes import without
from minigslora.rng import Streams
from minigslora.tasks import Task


@dataclass(kw_only=True)
class GSLoRADeep(GSLoRADistill):
    """L = GS-LoRA-distill's + stay · (12.4) + move · (12.5) + blur · (12.7); then :func:`nobodys_rows`.

    Of forgotten images z̃ is (12.6), here and in distillation's term.

    A cosine head reads the embedding's direction from the origin; for a linear one e below is the embedding
    less the mean of the original model's on the task's images, and w_c a row less the mean of all.

    Attributes:
        stay: weight of (12.4), on retained images, and on foreign ones where the task has some.
        move: weight of (12.5), on forgotten images.
        blur: weight of (12.7), on forgotten images.
        centre: the mean embedding, (D,); zero for a cosine head.
        towards: the direction w_c of each class, (C, D).
        common: the direction that the kept classes share, (D,).
    """

    name: ClassVar[str] = "gslora-deep"
    problems: ClassVar[tuple[str, ...]] = ("classification",)

    stay: NonNegative = 10.0
    move: NonNegative = 10.0
    blur: NonNegative = 10.0
    centre: Tensor = state()
    towards: Tensor = state()
    common: Tensor = state()
    _stream: torch.Generator = state()

    def data_terms(self, step: Step) -> Terms:
        """Return distillation's terms, and those of the embeddings."""
        terms = super().data_terms(step)
        roles: tuple[Role, ...] = ("retain", "foreign") if self.strangers else ("retain",)
        if kept := [role for role in roles if step.has(role)]:
            now, then = (
                torch.cat([of(role, "embedding") - self.centre for role in kept])
                for of in (step.student, step.teacher)
            )
            terms["stay"] = self.stay * away(now, then).mean()
        if (forgotten := step.objects("forget", "embedding")) is not None:
            now, labels = forgotten[0] - self.centre, forgotten[1]
            said = self.told(step, "forget") / (self.temperature * self.spread)
            terms["move"] = self.move * away(now, mixtures(said, self.towards)).mean()
            if self.blur:
                terms["blur"] = self.blur * cohesion(now, labels)
        return terms

    @torch.no_grad()
    def told(self, step: Step, role: Role) -> Tensor:
        """Return z̃, of forgotten images from what is left of their embeddings (12.6)."""
        if role != "forget":
            return super().told(step, role)
        labels = step.batch.part(step.batch.targets, role)
        rest = unacquainted(step.teacher(role, "embedding") - self.centre, self.towards[labels])
        head: Any = step.problem.head
        return without(head((self.centre + rest).to(head.weight.dtype)).float(), self.gone)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Attach fresh adapters, and look at how the original model's embeddings and classes lie."""
        trained = super().begin(problem, task, streams)
        self._stream = streams("rows")
        with bypassed(problem.model):
            mean, weight = (
                replayed(problem, task, "embedding")[0].mean(dim=0),
                problem.class_rows("embedding"),
            )
        weight = weight.float()  # of a model in another precision, too
        if problem.directional:
            self.centre, self.towards = torch.zeros_like(mean), F.normalize(weight, dim=1)
            self.common = self.towards[list(task.retain)].mean(dim=0)
        else:
            self.centre, self.towards = mean, F.normalize(weight - weight.mean(dim=0), dim=1)
            self.common = mean
        return trained

    @torch.no_grad()
    def end(self, problem: Problem, task: Task) -> None:
        """Freeze the task's adapters, and replace the forgotten rows."""
        super().end(problem, task)
        head: Any = problem.head
        length = head.weight.norm(dim=1).mean()
        new = nobodys_rows(self.common, length, len(task.forget), self._stream).to(head.weight)
        bias = None
        if getattr(head, "bias", None) is not None:
            seen = replayed(problem, task, "embedding")[0].to(head.weight)
            bias = out_of_reach(head(seen)[:, list(task.retain)], seen @ new.T)
        rows.replace(head, task.name, task.forget, new, bias)
