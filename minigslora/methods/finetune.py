"""Control: GS-LoRA's bounded loss (4.1), without adapters, on everything but the head.

    L = CE_r + β · ReLU(BND − CE_f)

What it lacks against GS-LoRA is what the adapters and their sparsity give. In no published table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minigslora.methods.base import ParamGroup, Terms, Training
from minigslora.methods.finetuning import Taught, TaughtConfig, with_total
from minigslora.methods.gslora import Bound, BoundedConfig, bound_for, bounded_terms, of_task
from minigslora.problems.base import Batch, Problem
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class FineTuneConfig(BoundedConfig, TaughtConfig):
    """Settings of full fine-tuning: those of the loss."""


class FineTune(Taught):
    """Bounded forgetting by fine-tuning everything but the head."""

    name: ClassVar[str] = "finetune"
    published: ClassVar[str] = ""
    lr: ClassVar[float] = 3e-4
    Config: ClassVar[type[Any]] = FineTuneConfig
    config: FineTuneConfig

    def __init__(self, config: FineTuneConfig, training: Training) -> None:
        super().__init__(config, training)
        self.bound = Bound(config.bound)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Open all but the head, and take the bound's unit from the pre-trained model."""
        groups = super().begin(problem, task, streams)
        self.bound = bound_for(self.config, problem, self.spread)
        return groups

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the terms of the loss on one batch of retained and forgotten images."""
        terms = bounded_terms(self.config, self.bound, problem, problem.forward(batch), batch)
        return with_total(terms, {"forget": of_task(self.config.beta, progress.task)})
