"""Labelled images in memory, as uint8 on the device they are used on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.errors import DataError


class Images(Protocol):
    """Something that gives images by index: a tensor in memory, or files read as needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """Return uint8 images (B, 3, H, W) for indices (B,)."""
        ...

    def to(self, device: torch.device, /) -> Images:
        """Return the images on ``device``; files stay files."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """One split of a data set.

    Attributes:
        images: uint8, (N, 3, H, W), or :class:`Images` read as needed.
        labels: int64, (N,), positions in ``classes``.
        classes: the names of all classes of the data set, in the order of the model's head.
    """

    images: Tensor | Images
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> ImageSet:
        """Return the split with images and labels on ``device``."""
        images: Tensor | Images = self.images.to(device)
        return replace(self, images=images, labels=self.labels.to(device))

    def of_classes(self, wanted: Sequence[int]) -> Tensor:
        """Return the indices of the images of some classes."""
        chosen = torch.as_tensor(list(wanted), device=self.labels.device, dtype=torch.long)
        return torch.nonzero(torch.isin(self.labels, chosen)).flatten()


class Split(Protocol):
    """One split of a data set: images in a fixed order, with what is to be learnt of them."""

    def __len__(self) -> int: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes of the data set, in the order of the model's head."""
        ...

    def to(self, device: torch.device, /) -> Self:
        """Return the split with its images on ``device``."""
        ...

    def of_classes(self, wanted: Sequence[int], /) -> Tensor:
        """Return the indices of the images that show some classes."""
        ...


S = TypeVar("S", bound=Split)


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
        named = self.classes.index(str(name)) if str(name) in self.classes else None
        if isinstance(name, int) and 0 <= name < len(self.classes) and named not in (None, name):
            raise DataError(
                f"{name} may be the class called {str(name)!r} or class number {name}, called "
                f"{self.classes[name]!r}; give the name as text, {str(name)!r} or {self.classes[name]!r}"
            )
        if named is not None:
            return named
        if str(name).isdecimal() and int(name) < len(self.classes):
            return int(name)
        some = ", ".join(self.classes[:5])
        raise DataError(
            f"unknown class {name!r} in {self.name}; its {len(self.classes)} classes are "
            f"{some}{', …' if len(self.classes) > 5 else ''} (or a number from 0 to "
            f"{len(self.classes) - 1})"
        )


@dataclass(frozen=True)
class DataSet(Splits[ImageSet]):
    """The splits of labelled images."""

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(self.train.images[torch.zeros(1, dtype=torch.long)].shape[-1])


class Normalising:
    """What turns images into a model's inputs of zero mean and unit deviation.

    Attributes:
        mean, std: per channel, (3, 1, 1), of images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def normalise_by(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        """Take mean and deviation of each channel to the device that the images are on."""
        self.mean, self.std = (torch.tensor(list(v), device=device)[:, None, None] for v in (mean, std))

    def normalise(self, images: Tensor) -> Tensor:
        """Return model inputs for uint8 images, or for float images in [0, 1]."""
        scaled = images if images.is_floating_point() else images.float() / 255
        return (scaled - self.mean) / self.std


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
