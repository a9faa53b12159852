"""Control: erase the classifier's rows of the forgotten classes, in closed form, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from minigslora.methods.base import ParamGroup, Step, Terms
from minigslora.methods.finetuning import FineTuning
from minigslora.problems.base import Problem, Role
from minigslora.prototypes import NEVER
from minigslora.rng import Streams
from minigslora.tasks import Task


@dataclass(kw_only=True)
class HeadOnly(FineTuning):
    """w_c = 0, and b_c out of reach, for every forgotten class c.

    A class without a bias then has logit 0: it loses wherever another logit is positive, which is nearly
    always, but not by necessity. Accuracy falls as with any good method, while the embedding still tells the
    forgotten classes apart: what it shows is that accuracy alone is no proof of forgetting. In no published
    table.
    """

    name: ClassVar[str] = "head-only"
    needs: ClassVar[tuple[Role, ...]] = ()

    def loss(self, step: Step) -> Terms:
        """Never called: nothing is trained."""
        raise NotImplementedError

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Train nothing."""
        self.check(problem, task)
        problem.model.requires_grad_(False)
        return []

    @torch.no_grad()
    def end(self, problem: Problem, task: Task) -> None:
        """Erase the rows."""
        rows: Any = problem.head
        rows.weight[list(task.forget)] = 0.0
        if getattr(rows, "bias", None) is not None:
            rows.bias[list(task.forget)] = NEVER
