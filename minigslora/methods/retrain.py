"""Retrain: the same architecture from random weights, on retained images; and the oracle, on all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from minigslora.config import Share
from minigslora.methods.base import ParamGroup, Step, Terms
from minigslora.methods.finetuning import FineTuning
from minigslora.problems.base import Problem, Role
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(kw_only=True)
class Retrain(FineTuning):
    """L = CE_r.   arXiv 2501.09705, section 5.1.

    Each request starts anew, the head included, in as many updates as any other method takes; on little data
    that is not what forgetting is measured against (see :class:`RetrainOracle`).

    Attributes:
        margin_after: share of the epochs before cross-entropy carries the head's margin, since a full margin
            from random weights does not get off the ground; the released recipe has it from the start.
    """

    name: ClassVar[str] = "retrain"
    published: ClassVar[str] = "Retrain"
    needs: ClassVar[tuple[Role, ...]] = ("retain",)

    margin_after: Share = 0.3

    def loss(self, step: Step) -> Terms:
        """Return the cross-entropy of retained images."""
        progress = step.progress
        margin = self.margin and progress.epoch >= self.margin_after * progress.epochs
        return {"retain": step.cross_entropy("retain", margin).mean()}

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Draw all weights anew and open them."""
        self.check(problem, task)
        problem.model.load_state_dict(problem.fresh_model(streams).state_dict())
        problem.model.requires_grad_(True)
        return [{"params": list(problem.model.parameters())}]

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for retained images only."""
        return ("retain",)


@dataclass(kw_only=True)
class RetrainOracle(Retrain):
    """L = CE_r over the whole training split of the retained classes: what forgetting is measured against.

    A model that never saw a forgotten image, and saw every other one: also those of retained classes that
    have none at hand. It is trained as models are pre-trained here (notebook 01), not in the number of
    updates of the other methods, and is in no published table.
    """

    name: ClassVar[str] = "retrain-oracle"
    published: ClassVar[str] = ""
    needs: ClassVar[tuple[Role, ...]] = ()

    def images(self, problem: Problem, task: Task) -> Task:
        """Take every training image of the retained classes, and no other."""
        return replace(task, retain_images=problem.training_images(task.retain), forget_images=())
