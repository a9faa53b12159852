"""Data sets: labelled images as uint8, on the device they are used on where they fit into memory."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Generic, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.datasets.pictures import ImageFiles
from minigslora.errors import DataError
from minigslora.files import sha256_of
from minigslora.rng import Streams

Images = Tensor | ImageFiles
"""Gives uint8 images (B, 3, H, W) for indices (B,): a tensor in memory, or files read as needed."""


class Split(abc.ABC):
    """One split of a data set.

    Attributes:
        images: uint8, (N, 3, H, W).
        classes: the names of all classes of the data set, in the order of the model's head.
    """

    images: Images
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Return what tells this split from any other: a hash of images, of what is learnt, and of classes.

        Images that are read as needed say themselves what tells them apart.
        """
        digest, tensors = hashlib.sha256(json.dumps(list(self.classes)).encode()), self.tensors()
        if isinstance(self.images, Tensor):
            tensors = {**tensors, "images": self.images}
        else:
            digest.update(self.images.fingerprint().encode())
        digest.update(sha256_of(tensors).encode())
        return digest.hexdigest()

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what is to be learnt of the images."""

    @abc.abstractmethod
    def to(self, device: torch.device) -> Self:
        """Return the split with its images on ``device``."""

    @abc.abstractmethod
    def of_classes(self, wanted: Sequence[int]) -> Tensor:
        """Return the indices of the images that show some classes."""


@dataclass(frozen=True)
class ImageSet(Split):
    """A split of images with one label each: ``labels``, int64 (N,), are positions in ``classes``."""

    images: Images
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataError(f"{len(self.images)} images but {len(self.labels)} labels")

    def tensors(self) -> dict[str, Tensor]:
        """Return the labels."""
        return {"labels": self.labels}

    def to(self, device: torch.device) -> ImageSet:
        """Return the split with images and labels on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def of_classes(self, wanted: Sequence[int]) -> Tensor:
        """Return the indices of the images of some classes."""
        chosen = torch.as_tensor(list(wanted), device=self.labels.device, dtype=torch.long)
        return torch.nonzero(torch.isin(self.labels, chosen)).flatten()


S = TypeVar("S", bound=Split)
T = TypeVar("T")


@dataclass(frozen=True)
class Splits(Generic[S]):
    """Train, validation and test split of one data set.

    ``val`` is held out from training for every choice of constants; ``test`` is for reports only.
    ``mirrored`` says whether an image turned left to right still shows its class; characters do not.
    ``foreign`` images show none of the classes; a method may use what a model says of them.
    ``split_by_us`` says that the images came in one lot and were split here: a model that is not ours may
    have been trained on some of ``test``.
    """

    name: str
    train: S
    val: S
    test: S
    _: KW_ONLY
    mirrored: bool = True
    foreign: S | None = None
    split_by_us: bool = False

    def to(self, device: torch.device) -> Self:
        """Return the data set with all splits on ``device``."""
        splits: dict[str, Any] = {k: getattr(self, k).to(device) for k in ("train", "val", "test")}
        return replace(self, **splits, foreign=None if self.foreign is None else self.foreign.to(device))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes."""
        return self.train.classes

    def fingerprint(self) -> str:
        """Return what tells this data set from any other: images, labels and classes of all splits."""
        splits = (self.train, self.val, self.test, *(() if self.foreign is None else (self.foreign,)))
        return hashlib.sha256(" ".join(split.fingerprint() for split in splits).encode()).hexdigest()

    def class_ids(self, names: Sequence[str | int]) -> list[int]:
        """Return class ids for names or ids, in order and without repeats allowed.

        Raises:
            DataError: for a name that is no class, or a class named twice.
        """
        ids = [self._class_id(name) for name in names]
        if repeated := [c for i, c in enumerate(ids) if c in ids[:i]]:
            raise DataError(
                f"class {self.classes[repeated[0]]!r} is named twice in one request; name it once"
            )
        return ids

    def _class_id(self, name: str | int) -> int:
        """Return the id of a class given by name, as "#3" for a position, or by a number that is clear."""
        text, total, number = str(name), len(self.classes), str(name)
        if isinstance(name, str):
            if text in self.classes:
                return self.classes.index(text)
            number = text.removeprefix("#")
        if text.isdecimal():
            self.require_clear(text)
            if text in self.classes:
                return self.classes.index(text)
        if number.isdecimal() and int(number) < total:
            return int(number)
        raise DataError(
            f"unknown class {name!r} in {self.name}; its {total} classes are "
            f"{', '.join(self.classes[:5])}{', …' if total > 5 else ''} (or a number from 0 to {total - 1})"
        )

    def require_clear(self, number: str) -> None:
        """Refuse a number that may be a class's name or another class's position.

        Raises:
            DataError: for a number that is, or looks like, the name of a class at another position.
        """
        if not number.isdecimal():
            return
        place = int(number)
        alike = [c for c, own in enumerate(self.classes) if own.isdecimal() and int(own) == place]
        if alike in ([], [place]) or (number in self.classes and place >= len(self.classes)):
            return
        other = next(c for c in alike if c != place)
        meant = f"the class called {self.classes[other]!r}, which is number {other}"
        if place < len(self.classes):
            meant += f", or class number {place}, which is called {self.classes[place]!r}"
        raise DataError(
            f"{number} is ambiguous in {self.name}: it may be {meant}. Give the position after a #: "
            f"--classes='#{other}'; in Python, give a name as text"
        )


@dataclass(frozen=True)
class DataSet(Splits[ImageSet]):
    """The splits of labelled images."""

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(self.train.images[torch.zeros(1, dtype=torch.long)].shape[-1])


class Normalising:
    """What turns images into a model's inputs: ``mean`` and ``std``, (3, 1, 1), are of images in [0, 1]."""

    mean: Tensor
    std: Tensor
    data: Splits[Any]
    device: torch.device
    precision: str

    def normalise_by(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        """Take mean and deviation of each channel to the device that the images are on."""
        self.mean, self.std = (torch.tensor(list(v), device=device)[:, None, None] for v in (mean, std))

    def identity(self) -> dict[str, Any]:
        """Return what determines a run's numbers beside model and method, as plain values."""
        return {
            "data": self.data.fingerprint(),
            "normalisation": [self.mean.flatten().tolist(), self.std.flatten().tolist()],
            "device": self.device.type,
            "precision": self.precision,
        }

    def ahead(self, indices: Mapping[Any, Tensor]) -> None:
        """Begin to decode training images that a later batch takes, where they are read from files."""
        images = self.data.train.images
        if isinstance(images, ImageFiles):
            images.ahead(row for role, rows in indices.items() if role != "foreign" for row in rows.tolist())

    def normalise(self, images: Tensor) -> Tensor:
        """Return model inputs for uint8 images, or for float images in [0, 1]."""
        scaled = images if images.is_floating_point() else images.float() / 255
        return (scaled - self.mean) / self.std


def hold_out(items: Sequence[T], count: int, *key: str | int) -> tuple[list[T], list[T]]:
    """Return what is left of some items without a fixed random draw of ``count``, and the draw."""
    held = set(Streams(0).python("hold out", *key).sample(range(len(items)), count))
    return [item for i, item in enumerate(items) if i not in held], [items[i] for i in sorted(held)]


def spread(rows: Tensor, most: int) -> Tensor:
    """Return at most ``most`` of ``rows`` (N,), evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def augment(images: Tensor, generator: torch.Generator, mirrored: bool = True) -> Tensor:
    """Return float images (B, 3, H, W) in [0, 1] under small random affine, flip and contrast.

    All images of the batch are moved in one call on their device: flips with probability 1/2 (none
    where not ``mirrored``), rotations up to ±9°, scales up to ±10 %, shifts up to ±8 %, contrast and
    brightness ±15 %.
    """
    x = images.float() / 255
    u = torch.rand(len(x), 7, generator=generator, device=generator.device).to(x.device) * 2 - 1
    flip = torch.where(u[:, 0] > 0, 1.0, -1.0 if mirrored else 1.0)
    angle, zoom = 0.157 * u[:, 1], 1 + 0.1 * u[:, 2]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cos * flip, -sin, 0.16 * u[:, 3]], 1)]
    rows += [torch.stack([sin * flip, cos, 0.16 * u[:, 4]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = 1 + 0.15 * u[:, 5], 0.15 * u[:, 6]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * contrast[:, None, None, None] + brightness[:, None, None, None] * mean
    return x.clamp(0, 1)


def medley(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` images of nothing in particular, (count, 3, H, W), made of others.

    Half of them are put together from two images along a straight cut, the others are one image turned
    by quarters and perhaps mirrored: edges, colours and noise as in the data, in shapes that it lacks.

    Args:
        images: square images (B, 3, H, W) of any type.
        count: how many are made.
        generator: of all draws; on the images' device.
    """
    first, second = (
        images[torch.randint(len(images), (count,), generator=generator, device=images.device)]
        for _ in range(2)
    )
    u = torch.rand(4, count, generator=generator, device=images.device)[:, :, None, None, None]
    place = torch.arange(images.shape[-1], device=images.device) + 0.5
    across = torch.where(u[0] < 0.5, place, place[:, None])
    cut = torch.where(across < (0.25 + 0.5 * u[1]) * images.shape[-1], first, second)
    turned = first
    for quarters in (1, 2):  # a half turn and a quarter turn, each or not
        turned = torch.where(u[quarters + 1] < 0.5, turned, turned.rot90(quarters, (2, 3)))
    turned = torch.where(u[0] < 0.5, turned, turned.flip(3))
    half = torch.arange(count, device=images.device)[:, None, None, None] % 2 == 0
    return torch.where(half, cut, turned)
