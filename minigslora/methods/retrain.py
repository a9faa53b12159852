"""Retrain: the same architecture from random weights, on the retained images at hand.

    L = CE_r

Each request starts anew, the head included, in as many updates as any other method takes; on little data
that is not what forgetting is measured against (see ``retrain-oracle``). Source: arXiv 2501.09705,
section 5.1.

The corrected recipe leaves the head's margin out at first, since a full margin from random weights does
not get off the ground; the released recipe has it from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from minigslora.methods.base import ParamGroup, Terms, Training
from minigslora.methods.finetuning import FineTuning, FineTuningConfig
from minigslora.problems.base import Batch, Problem, Role
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class RetrainConfig(FineTuningConfig):
    """Settings of retraining.

    Attributes:
        margin_after: share of the epochs before cross-entropy carries the head's margin.
    """

    margin_after: float = 0.3


class Retrain(FineTuning):
    """Training from random weights on the retained images at hand."""

    name: ClassVar[str] = "retrain"
    published: ClassVar[str] = "Retrain"
    needs: ClassVar[tuple[Role, ...]] = ("retain",)
    lr: ClassVar[float] = 3e-4
    released_lr: ClassVar[float] = 3e-4
    Config: ClassVar[type[Any]] = RetrainConfig
    config: RetrainConfig

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {"margin_after": 0.0}

    @classmethod
    def released_training(cls, batch: int) -> Training:
        """Return the released code's loop, with its five epochs of warm-up."""
        return replace(super().released_training(batch), warmup_epochs=5)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Draw all weights anew and open them."""
        self.check(problem, task)
        problem.model.load_state_dict(problem.fresh_model(streams).state_dict())
        problem.model.requires_grad_(True)
        return [{"params": list(problem.model.parameters())}]

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for retained images only."""
        return ("retain",)

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the cross-entropy of retained images."""
        margin = self.config.margin and progress.epoch >= self.config.margin_after * progress.epochs
        return {"loss": problem.losses(problem.forward(batch), batch, margin).total.mean()}
