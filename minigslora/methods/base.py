"""What a method is: settings as fields, its equation as :meth:`Method.loss`; and what a loss is given.

A method never asks which problem it serves, draws from the given streams only, and reads nothing back from
the device in a step. The loop and the data order are :mod:`minigslora.training`'s, the files are
:mod:`minigslora.sequence`'s, the evaluation is the problem's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from minigslora.config import AtLeastOne, Count, NonNegative
from minigslora.errors import ConfigError, DataError
from minigslora.problems.base import Batch, Losses, Problem, Role, Space
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task

Terms = dict[str, Tensor]
"""Loss terms of one step by name: scalars on the device, each weighted. The loop minimises their sum."""

ParamGroup = dict[str, Any]
"""An optimiser's parameter group: {"params": […], "weight_decay": …}."""


@dataclass(frozen=True)
class Training:
    """How the one loop trains, whatever the method.

    Attributes:
        epochs: passes over the retained images.
        updates: least number of updates of a request, so that few images do not mean little training:
            an epoch then goes through them several times.
        batch_retain, batch_forget: images of each role in a step.
        lr: peak learning rate.
        lr_min: the rate that the cosine by epoch falls to, and would have an epoch after the last one.
        weight_decay: AdamW's, for parameter groups that do not set their own.
        schedule: "cosine" by epoch, "cosine by step", or "constant".
        warmup_epochs: linear warm-up of the rate.
        averaged_epochs: how many last epochs enter the mean of the parameters, taken after each update,
            that a request ends with; 0 keeps those of the last update.
        optimizer: "adamw" or "adam".
        clip: largest gradient norm; 0 for none.
        augment: whether images are augmented on the device.
        whole_batches: whether images that fill no batch are left out of an epoch.
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
    schedule: Literal["cosine", "cosine by step", "constant"] = "cosine"
    warmup_epochs: Count = 0
    averaged_epochs: Count = 0
    optimizer: Literal["adamw", "adam"] = "adamw"
    clip: NonNegative = 0.0
    augment: bool = False
    whole_batches: bool = False
    dropout: bool = True
    deterministic: bool = False
    compile: bool = False


def state() -> Any:
    """Declare a field that is no setting: what a method keeps while it serves requests."""
    return field(init=False, repr=False, compare=False)


@dataclass(kw_only=True)
class Method(ABC):
    """How forgetting is done. Everything but :meth:`loss` has a default.

    A subclass is a dataclass: its fields are its settings, with the corrected recipe's constants as
    defaults. Every subclass in this folder's files that has a ``name`` is in the table of methods.

    Attributes:
        name: what the method is called in tables and commands.
        published: what the published tables call it; "" where they do not have it.
        revocable: whether :func:`minigslora.lora.revoke` can undo one of its tasks.
        problems: the kinds of problem it is defined for.
        taught: roles of images that a teacher answers, too.
        by_labels: whether retained images are trained on with their true labels.
        training: how the loop trains it.
    """

    name: ClassVar[str]
    published: ClassVar[str] = ""
    revocable: ClassVar[bool] = False
    problems: ClassVar[tuple[str, ...]] = ("classification", "detection")
    taught: ClassVar[tuple[Role, ...]] = ()
    by_labels: ClassVar[bool] = True

    training: Training = field(default_factory=Training)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, without those of the loop."""
        own = (f.name for f in fields(self) if f.init and f.name != "training")
        return {name: getattr(self, name) for name in own}

    @abstractmethod
    def loss(self, step: Step) -> Terms:
        """Return the terms of the loss, each weighted."""

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

    def widened(self, batch: Batch) -> Batch:
        """Return ``batch`` with the images that the method makes itself, if any."""
        return batch

    def relabel(self, batch: Batch) -> Batch:
        """Return ``batch`` with other labels on its forgotten images."""
        raise ConfigError(f"{self.name} does not relabel")

    def answered(self, problem: Problem, batch: Batch) -> Any:
        """Return the teacher's outputs; called without gradients."""
        raise ConfigError(f"{self.name} has no teacher")

    def before_update(self) -> None:
        """Act on the gradients, once they are clipped."""

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


class Step:
    """What one update offers a loss, by role.

    The forward pass, the teacher's answers and the new labels are computed once, when first asked for; losses
    are computed from them at each call. One forward pass serves all roles of the batch, one of the teacher
    those that it is asked about.

    Attributes:
        problem: the benchmark and its live model.
        batch: the images.
        progress: where training is.
        parameters: what is trained, by name.
    """

    def __init__(self, method: Method, problem: Problem, batch: Batch, progress: Progress) -> None:
        self.problem, self.progress = problem, progress
        self.batch = method.widened(batch)
        self._method = method

    @cached_property
    def outputs(self) -> Any:
        """The live model's outputs for the batch."""
        return self.problem.forward(self.batch)

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return trained(self.problem)

    def has(self, role: Role) -> bool:
        """Whether there are images of ``role``."""
        return bool(self.batch.sizes.get(role))

    def losses(self, margin: bool = True, handicap: float = 0.0) -> Losses:
        """Return all images' losses on their true labels; see :meth:`Problem.losses`."""
        return self.problem.losses(self.outputs, self.batch, margin, handicap)

    def cross_entropy(self, role: Role, margin: bool = True) -> Tensor:
        """Return the loss of each of a role's images on its true label, (B,)."""
        return self.batch.part(self.losses(margin).total, role)

    @cached_property
    def relabelled_batch(self) -> Batch:
        """The batch with other labels on its forgotten images, drawn once."""
        return self._method.relabel(self.batch)

    def relabelled(self, role: Role | None = None, margin: bool = True) -> Tensor:
        """Return the loss of each image, or of each of a role's, on its new label, (B,).

        Only images to forget have another than their true one.
        """
        losses = self.problem.losses(self.outputs, self.relabelled_batch, margin).total
        return losses if role is None else self.batch.part(losses, role)

    def objects(self, role: Role, space: Space = "logits") -> tuple[Tensor, Tensor] | None:
        """Return the vectors (M, D) and labels (M,) of a role's objects; None where there are none."""
        return self.problem.vectors(self.outputs, self.batch, space, role)

    def student(self, role: Role, space: Space = "logits") -> Tensor:
        """Return the live model's vectors (M, D) of a role's objects."""
        return vectors(self.problem, self.outputs, self.batch, role, space)

    @cached_property
    def _answers(self) -> tuple[Batch, Any]:
        """The images that the teacher is asked about, and its outputs for them."""
        asked = self.batch.only(*self._method.taught)
        with torch.no_grad():
            return asked, self._method.answered(self.problem, asked)

    def teacher(self, role: Role, space: Space = "logits") -> Tensor:
        """Return the teacher's vectors (M, D) of a role's objects, in the order of the student's."""
        asked, outputs = self._answers
        with torch.no_grad():
            return vectors(self.problem, outputs, asked, role, space)


def vectors(problem: Problem, outputs: Any, batch: Batch, role: Role, space: Space = "logits") -> Tensor:
    """Return the vectors (M, D) of a role's objects, of which there must be some."""
    if (objects := problem.vectors(outputs, batch, space, role)) is None:
        raise DataError(f"the batch has no {role} image")
    return objects[0]


def trained(problem: Problem) -> dict[str, nn.Parameter]:
    """Return the parameters that are open, by name."""
    return {name: p for name, p in problem.model.named_parameters() if p.requires_grad}


def of_task(values: tuple[float, ...], task: int) -> float:
    """Return the value for task number ``task`` (from 0); the last one serves all further tasks.

    Raises:
        ConfigError: where there is no value at all.
    """
    if not values:
        raise ConfigError("a weight per task is an empty list; give one number, or one for each task")
    return values[min(task, len(values) - 1)]
