"""What a method and a problem promise each other, and what passes between them.

A *method* (GS-LoRA, a baseline) turns batches into loss terms; a *problem* (classification,
detection) says what a batch, a loss and an output are. Neither knows the other: a method is one file
that works on every problem, a problem one file that serves every method. The loop, the data order,
the evaluation and the files are :mod:`minigslora.forgetting`'s.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from minigslora.config import AtLeastOne, Count, NonNegative
from minigslora.streams import Streams

Role = Literal["retain", "forget", "retain2", "foreign"]
"""Which part of a batch: retained images, images to forget, a second draw of retained ones, images of
nothing that has a label."""

Space = Literal["logits", "embedding"]
"""Where prototypes live: the classifier's outputs, or what the classifier reads."""


@dataclass(frozen=True)
class Task:
    """One erasure request and the images at hand for it.

    Attributes:
        name: "task1", "task2", …
        index: its place in the sequence, from 0.
        forget: class ids to forget now.
        old: class ids forgotten by earlier tasks.
        retain: class ids to keep, those without images included.
        missing: retained class ids without a single image.
        retain_images: indices of retained training images, for replay.
        forget_images: indices of training images of the classes to forget.
        foreign_images: indices of foreign images, which show no class at all.
    """

    name: str
    index: int
    forget: tuple[int, ...]
    old: tuple[int, ...]
    retain: tuple[int, ...]
    missing: tuple[int, ...] = ()
    retain_images: tuple[int, ...] = ()
    forget_images: tuple[int, ...] = ()
    foreign_images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where training is. ``step`` counts within the epoch, ``epoch`` within the task, from 0."""

    task: int = 0
    epoch: int = 0
    epochs: int = 1
    step: int = 0
    steps: int = 1


@dataclass
class Batch:
    """Images of several roles behind one another, so that one forward pass serves all.

    Attributes:
        inputs: what the model reads, images first to last by role.
        targets: labels (B,) for classification, a list of annotations for detection.
        sizes: how many images of each role, in order.
    """

    inputs: Tensor
    targets: Any
    sizes: dict[Role, int]

    def part(self, values: Tensor, role: Role) -> Tensor | None:
        """Return the rows of ``values`` (B, …) that belong to ``role``; None where it has none."""
        start = 0
        for name, size in self.sizes.items():
            if name == role:
                return values[start : start + size]
            start += size
        return None


@dataclass
class Losses:
    """Per-image losses on true labels, each of shape (B,).

    Attributes:
        bounded: what forgetting maximises up to a bound (cross-entropy; focal loss of boxes).
        plain: what is minimised for every image, forgotten or not (box losses); zero otherwise.
    """

    bounded: Tensor
    plain: Tensor

    @property
    def total(self) -> Tensor:
        """What retaining minimises."""
        return self.bounded + self.plain

    def short_of(self, bound: float) -> Tensor:
        """Return by how much each image falls short of a bound, ReLU(BND − loss) (4.2), (B,)."""
        return (bound - self.bounded).relu()


Terms = dict[str, Tensor]
"""Named loss terms of one step, scalars on the device; "loss" is the one to minimise."""


@runtime_checkable
class Problem(Protocol):
    """What a benchmark means to a method.

    Attributes:
        kind: "classification" or "detection"; methods say which they are defined for.
        eval_batch: how many images are looked at in one go where nothing is trained.
        model: the model being edited; methods may wrap its layers or train its parameters.
        num_classes: C.
        device: where the model and its batches live.
    """

    kind: ClassVar[str] = "classification"
    eval_batch: ClassVar[int] = 500
    model: nn.Module
    num_classes: int
    device: torch.device

    @property
    def margin(self) -> float:
        """The most that the head's training margin adds to a cross-entropy, in nats; 0 without one."""
        ...

    @property
    def chance(self) -> float:
        """The bounded loss of an answer that knows nothing, in nats; bounds are distances above it."""
        return math.log(self.num_classes)

    @property
    def head(self) -> nn.Module:
        """The classifier: its ``weight`` has a row per class, its ``bias``, if any, a value."""
        ...

    @property
    def whole_head(self) -> tuple[nn.Module, tuple[int, ...]]:
        """The head that the task's was cut from, and its row of each class; its own where none was."""
        return self.head, tuple(range(self.num_classes))

    def identity(self) -> dict[str, Any]:
        """Return what determines a run's numbers beside model and method: data, normalisation, machine."""
        ...

    def training_images(self, classes: Sequence[int]) -> tuple[int, ...]:
        """Return the indices of all training images of some classes, at hand or not."""
        ...

    def begin(self, task: Task) -> None:
        """Learn which classes the coming batches keep and forget."""

    def batch(self, indices: Mapping[Role, Tensor], moves: torch.Generator | None = None) -> Batch:
        """Return training images by index, on the device, augmented where a stream is given."""
        ...

    def forward(self, batch: Batch, model: nn.Module | None = None) -> Any:
        """Return the outputs of ``model`` (the live one by default) for ``batch``."""
        ...

    def losses(self, outputs: Any, batch: Batch, margin: bool = True, handicap: float = 0.0) -> Losses:
        """Return per-image losses on true labels, with the head's training margin if it has one.

        ``handicap`` nats are taken off the true logit besides.
        """
        ...

    def vectors(self, outputs: Any, batch: Batch, space: Space, role: Role) -> tuple[Tensor, Tensor] | None:
        """Return (vectors (M, D), labels (M,)) of the objects of ``role``, one row per object.

        A classification image is one object; a detection image has one per matched box. None where
        the batch has none.
        """
        ...

    def class_rows(self, space: Space, model: nn.Module | None = None) -> Tensor:
        """Return the classifier's own rows as prototypes, (C, D): what a class without data has."""
        ...

    def replay(self, task: Task) -> Iterator[Batch]:
        """Give the task's images once, unaugmented, in evaluation mode; for teachers and prototypes."""
        self.model.eval()
        roles: tuple[tuple[Role, tuple[int, ...]], ...] = (
            ("retain", task.retain_images),
            ("forget", task.forget_images),
        )
        for role, images in roles:
            rows = torch.tensor(images, dtype=torch.long, device=self.device)
            for part in rows.split(self.eval_batch) if images else ():
                yield self.batch({role: part})

    def fresh_model(self, streams: Streams) -> nn.Module:
        """Return the same architecture with random weights, for Retrain."""
        ...

    def evaluate(self, tasks: Sequence[Task]) -> list[dict[str, float]]:
        """Return each task's metrics for the live model on the test split, from one pass over it."""
        ...

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the precision context of training."""
        ...

    def compiled(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the live model's forward passes are compiled, where they can be."""
        return contextlib.nullcontext()


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


@dataclass
class TaskReport:
    """What one task gave: its classes, its metrics in percent, its figures, its time and its date."""

    task: str
    forget: tuple[int, ...]
    metrics: dict[str, float]
    figures: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    date: str = ""

    def row(self) -> dict[str, Any]:
        """Return a flat row for a table."""
        times = {"seconds": round(self.seconds, 2)}
        return {"task": self.task, **self.metrics, **self.figures, **times}
