"""What a benchmark is to a method: what a batch, a loss and an output are.

A problem is one file that serves every method; it knows none of them.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from minigslora.errors import DataError
from minigslora.losses import shortfall
from minigslora.rng import Streams
from minigslora.tasks import Task

Role = Literal["retain", "forget", "retain2", "foreign"]
"""Which part of a batch: retained images, images to forget, a second draw of retained ones, images of
nothing that has a label."""

Space = Literal["logits", "embedding"]
"""Where prototypes live: the classifier's outputs, or what the classifier reads."""


Values = TypeVar("Values", Tensor, list[Any])
"""One value an image."""


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

    def part(self, values: Values, role: Role) -> Values:
        """Return the rows of ``values`` (B, …) that belong to ``role``, of which there must be some."""
        start = 0
        for name, size in self.sizes.items():
            if name == role:
                return values[start : start + size]
            start += size
        raise DataError(f"the batch has no {role} image, only {' and '.join(self.sizes) or 'none'}")

    def only(self, *roles: Role) -> Batch:
        """Return the images of some roles as a batch of their own."""
        if set(roles) >= self.sizes.keys():
            return self
        kept = {role: size for role, size in self.sizes.items() if role in roles}
        inputs, targets = ([self.part(v, role) for role in kept] for v in (self.inputs, self.targets))
        labelled = isinstance(self.targets, Tensor)
        every = torch.cat(targets) if labelled else [entry for part in targets for entry in part]
        return Batch(torch.cat(inputs), every, kept)


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
        return shortfall(self.bounded, bound)


class Problem(ABC):
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
    @abstractmethod
    def margin(self) -> float:
        """The most that the head's training margin adds to a cross-entropy, in nats; 0 without one."""

    @property
    def chance(self) -> float:
        """The bounded loss of an answer that knows nothing, in nats; bounds are distances above it."""
        return math.log(self.num_classes)

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """The classifier: its ``weight`` has a row per class, its ``bias``, if any, a value."""

    @property
    def directional(self) -> bool:
        """Whether the head reads the embedding's direction only, its rows being directions, too."""
        return False

    @property
    def whole_head(self) -> tuple[nn.Module, tuple[int, ...]]:
        """The head that the task's was cut from, and its row of each class; its own where none was."""
        return self.head, tuple(range(self.num_classes))

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what determines a run's numbers beside model and method: data, normalisation, machine."""

    @abstractmethod
    def training_images(self, classes: Sequence[int]) -> tuple[int, ...]:
        """Return the indices of all training images of some classes, at hand or not."""

    def begin(self, task: Task) -> None:
        """Learn which classes the coming batches keep and forget."""

    @abstractmethod
    def batch(self, indices: Mapping[Role, Tensor], moves: torch.Generator | None = None) -> Batch:
        """Return training images by index, on the device, augmented where a stream is given."""

    @abstractmethod
    def ahead(self, indices: Mapping[Role, Tensor]) -> None:
        """Begin to read the training images of a later batch, where they are read from files."""

    @abstractmethod
    def forward(self, batch: Batch, model: nn.Module | None = None) -> Any:
        """Return the outputs of ``model`` (the live one by default) for ``batch``."""

    @abstractmethod
    def losses(self, outputs: Any, batch: Batch, margin: bool = True, handicap: float = 0.0) -> Losses:
        """Return per-image losses on true labels, with the head's training margin if it has one.

        ``handicap`` nats are taken off the true logit besides.
        """

    @abstractmethod
    def vectors(self, outputs: Any, batch: Batch, space: Space, role: Role) -> tuple[Tensor, Tensor] | None:
        """Return (vectors (M, D), labels (M,)) of the objects of ``role``, one row per object.

        A classification image is one object; a detection image has one per matched box. None where
        the batch has none.
        """

    @abstractmethod
    def class_rows(self, space: Space, model: nn.Module | None = None) -> Tensor:
        """Return the classifier's own rows as prototypes, (C, D): what a class without data has."""

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

    @abstractmethod
    def fresh_model(self, streams: Streams) -> nn.Module:
        """Return the same architecture with random weights, for Retrain."""

    @abstractmethod
    def evaluate(self, tasks: Sequence[Task]) -> list[dict[str, float]]:
        """Return each task's metrics for the live model on the test split, from one pass over it."""

    @abstractmethod
    def supervised(self, batch: Batch, share: float = 1.0) -> Tensor:
        """Return the loss that models are pre-trained with; ``share`` is of the head's training margin."""

    @abstractmethod
    def accuracy(self, split: Literal["train", "val", "test"]) -> float:
        """Return the accuracy (of a detector, its AP50) over all classes of a split, in percent."""

    @abstractmethod
    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the precision context of training."""

    def compiled(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the live model's forward passes are compiled, where they can be."""
        return contextlib.nullcontext()
