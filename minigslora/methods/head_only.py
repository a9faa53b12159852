"""Control: erase the classifier's rows of the forgotten classes, in closed form, and nothing else.

    w_c = 0, and b_c out of reach, for every forgotten class c

A class without a bias then has logit 0: it loses wherever another logit is positive, which is nearly
always, but not by necessity. Accuracy falls as with any good method, while the embedding still tells the
forgotten classes apart: what it shows is that accuracy alone is no proof of forgetting. In no published
table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from minigslora.methods.base import ParamGroup, Terms
from minigslora.methods.finetuning import FineTuning
from minigslora.problems.base import Batch, Problem, Role
from minigslora.prototypes import NEVER
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class HeadOnlyConfig:
    """Nothing to set."""


class HeadOnly(FineTuning):
    """Erasing rows of the classifier."""

    name: ClassVar[str] = "head-only"
    published: ClassVar[str] = ""
    needs: ClassVar[tuple[Role, ...]] = ()
    Config: ClassVar[type[Any]] = HeadOnlyConfig
    config: HeadOnlyConfig

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Train nothing."""
        self.check(problem, task)
        problem.model.requires_grad_(False)
        return []

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Never called: nothing is trained."""
        raise NotImplementedError

    @torch.no_grad()
    def end(self, problem: Problem, task: Task) -> None:
        """Erase the rows."""
        rows: Any = problem.head
        rows.weight[list(task.forget)] = 0.0
        if getattr(rows, "bias", None) is not None:
            rows.bias[list(task.forget)] = NEVER
