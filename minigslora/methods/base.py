"""How forgetting is done: what every method is to the one loop (:mod:`minigslora.training`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from minigslora.config import AtLeastOne, Count, NonNegative
from minigslora.problems.base import Batch, Problem, Role
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task

Terms = dict[str, Tensor]
"""Named loss terms of one step, scalars on the device; "loss" is the one to minimise."""


@dataclass(frozen=True)
class Training:
    """How the one loop trains, whatever the method.

    Attributes:
        epochs: passes over the retained images.
        updates: least number of updates of a request, so that few images do not mean little training:
            an epoch then goes through them several times.
        batch_retain, batch_forget: images of each role in a step.
        lr: peak learning rate.
        lr_min: the rate that the cosine falls to, and would have an epoch after the last one.
        weight_decay: AdamW's, for parameter groups that do not set their own.
        schedule: "cosine" by epoch, or "constant".
        warmup_epochs: linear warm-up of the rate.
        averaged_epochs: the last epochs, the parameters after each of whose updates are averaged into what
            a request ends with; none for those after the last update.
        optimizer: "adamw" or "adam".
        clip: largest gradient norm; 0 for none.
        augment: whether images are augmented on the device.
        dropout: whether the model's dropout acts while it is edited.
        deterministic: whether only kernels are used that give the same numbers again, bit for bit, on a GPU,
            too; a CPU's do so by themselves. Not for detection on a GPU, whose attention has none.
        compile: whether the model is compiled by torch for each task. Compiling takes about as long as a
            few hundred steps of a small model: worth it for long tasks, not for minutes.
    """

    epochs: Count = 100
    updates: Count = 0
    batch_retain: AtLeastOne = 48
    batch_forget: AtLeastOne = 48
    lr: NonNegative = 1e-2
    lr_min: NonNegative = 1e-5
    weight_decay: NonNegative = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: Count = 0
    averaged_epochs: Count = 0
    optimizer: Literal["adamw", "adam"] = "adamw"
    clip: NonNegative = 0.0
    augment: bool = False
    dropout: bool = True
    deterministic: bool = False
    compile: bool = False


ParamGroup = dict[str, Any]
"""An optimiser's parameter group: {"params": […], "weight_decay": …}."""


class Method(Protocol):
    """How forgetting is done. Everything but :meth:`step` has a default.

    Subclass it, set ``name`` and ``Config`` (a frozen dataclass with a preset per setting), and the
    table of methods finds the file.

    Attributes:
        name: what the method is called in tables and commands.
        published: what the published tables call it; "" where they do not have it.
        revocable: whether :func:`minigslora.lora.revoke` can undo one of its tasks.
        problems: the kinds of problem it is defined for.
        config: its configuration.
        training: how the loop trains it.
    """

    name: ClassVar[str]
    published: ClassVar[str] = ""
    revocable: ClassVar[bool] = False
    problems: ClassVar[tuple[str, ...]] = ("classification", "detection")
    config: Any
    training: Training

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Prepare ``task`` (adapters, a teacher, a fresh model) and say what is trained.

        No parameter groups mean that nothing is trained, as for closed-form edits in :meth:`end`.
        """
        return [{"params": [p for p in problem.model.parameters() if p.requires_grad]}]

    def images(self, problem: Problem, task: Task) -> Task:
        """Return ``task`` with the images that are trained on; by default those at hand."""
        return task

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Return which images the coming step needs."""
        return ("retain", "forget")

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the named loss terms of one batch, "loss" among them."""
        ...

    def after_step(self, lr: float, progress: Progress) -> None:
        """Act on the parameters after the optimiser (proximal step, averaging)."""

    def end(self, problem: Problem, task: Task) -> None:
        """Finish the task (freeze adapters, importances, closed-form edits)."""

    def describe(self, problem: Problem, task: Task) -> dict[str, float]:
        """Return figures of the finished task for its report, such as the zero-group ratio."""
        return {}

    def state_dict(self, problem: Problem) -> dict[str, Tensor]:
        """Return what a stopped run needs to go on after this task; by default the whole model."""
        return {k: v.detach().clone() for k, v in problem.model.state_dict().items()}

    def load_state_dict(self, problem: Problem, state: Mapping[str, Tensor]) -> None:
        """Put model and method into the state of :meth:`state_dict`."""
        problem.model.load_state_dict(dict(state))
