"""Bad Teacher: obey the pre-trained model on retained images, one that knows nothing on forgotten ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minigslora.config import Positive
from minigslora.methods.base import ParamGroup, Step, Terms, state, vectors
from minigslora.methods.finetuning import Taught
from minigslora.problems.base import Problem, Role
from minigslora.prototypes import softened_kl
from minigslora.rng import Streams
from minigslora.tasks import Task


@dataclass(kw_only=True)
class BadTeacher(Taught):
    """L = mean over retained x of KL(p₀ ‖ p) + mean over forgotten x of KL(p' ‖ p).   arXiv 2205.08096.

    p = softmax(z / T); p₀ is that of the competent teacher, the pre-trained model, and p' that of an
    incompetent one, the same architecture with random weights, drawn anew for each request.

    Attributes:
        temperature: T, in units of the spread of the competent teacher's logits where ``relative``.
        incompetent: the teacher of forgotten images.
    """

    name: ClassVar[str] = "bad-teacher"
    published: ClassVar[str] = "BAD-T"
    problems: ClassVar[tuple[str, ...]] = ("classification",)
    taught: ClassVar[tuple[Role, ...]] = ("retain",)

    temperature: Positive = 1.0
    relative: bool = False
    incompetent: nn.Module = state()

    def loss(self, step: Step) -> Terms:
        """Return the terms on one batch."""
        temperature = self.temperature * self.spread
        keep = softened_kl(step.teacher("retain"), step.student("retain"), temperature)
        forget = softened_kl(self.says_nothing(step), step.student("forget"), temperature)
        return {"keep": keep.mean(), "forget": forget.mean()}

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Open all but the head, and draw the incompetent teacher, which a resumed run draws again."""
        groups = super().begin(problem, task, streams)
        self.incompetent = problem.fresh_model(streams).eval().requires_grad_(False)
        return groups

    @torch.no_grad()
    def says_nothing(self, step: Step) -> Tensor:
        """Return the incompetent teacher's logits (B, C) on forgotten images."""
        shown = step.batch.only("forget")
        return vectors(step.problem, step.problem.forward(shown, self.incompetent), shown, "forget")
