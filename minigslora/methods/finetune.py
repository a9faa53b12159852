"""Control: GS-LoRA's bounded loss, without adapters, on everything but the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minigslora.methods.base import ParamGroup
from minigslora.methods.bounded import Bounded
from minigslora.methods.finetuning import Taught
from minigslora.problems.base import Problem, Role
from minigslora.rng import Streams
from minigslora.tasks import Task


@dataclass(kw_only=True)
class FineTune(Bounded, Taught):
    """L = CE_r + β · ReLU(BND − CE_f) by fine-tuning everything but the head.

    What it lacks against GS-LoRA is what the adapters and their sparsity give. In no published table.
    """

    name: ClassVar[str] = "finetune"
    taught: ClassVar[tuple[Role, ...]] = ("retain", "forget")  # the teacher gives the bound its unit

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Open all but the head, and take the bound's unit from the pre-trained model."""
        groups = super().begin(problem, task, streams)
        self.set_bound(problem, self.spread)
        return groups
