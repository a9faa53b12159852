"""Data sets that are downloaded on first use and kept below the data root: CIFAR-100, the Olivetti faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR100
from torchvision.transforms.v2 import functional as tv

from minigslora.datasets.images import DataSet, ImageSet, hold_out
from minigslora.errors import DataError
from minigslora.files import data_root
from minigslora.rng import Streams

T = TypeVar("T")
HELD_OUT = 0.1
"""Share of each class's training images of CIFAR-100 kept for validation."""
PHOTOGRAPHS = {"train": 6, "val": 1, "test": 3}
"""Of each of the 40 people by split: theirs come in one lot."""


def cifar100(image_size: int | None = None) -> DataSet:
    """Return CIFAR-100, 32×32 in 100 classes; torchvision downloads it and checks it by hash.

    Args:
        image_size: height and width to resize to, where not its own.

    Raises:
        DataError: where it is not there and cannot be downloaded.
    """
    root = data_root() / "cifar100"
    found = _fetched(
        lambda: [CIFAR100(root, train=train, download=True) for train in (True, False)],
        root,
        what="CIFAR-100 is",
        file=CIFAR100.filename,
        source=f" from {CIFAR100.url}",
    )
    arrays = (torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))) for part in found)
    train, test = (
        ImageSet(_resized(images, image_size), torch.tensor(part.targets), tuple(part.classes))
        for images, part in zip(arrays, found, strict=True)
    )

    def deal(label: int, rows: list[int]) -> Sequence[list[int]]:
        return hold_out(rows, max(1, round(HELD_OUT * len(rows))), "cifar100", label)

    kept, val = _dealt(train, deal)
    return DataSet("cifar100", kept, val, test)


def olivetti(image_size: int | None = None) -> DataSet:
    """Return the Olivetti faces, 64×64; scikit-learn downloads them and checks them by hash.

    Args:
        image_size: height and width to resize to, where not their own.

    Raises:
        DataError: where they are not there and cannot be downloaded.
    """
    from sklearn.datasets import fetch_olivetti_faces  # loads pandas, too

    root = data_root() / "olivetti"
    found = _fetched(
        lambda: fetch_olivetti_faces(data_home=root, n_retries=1),
        root,
        what="the Olivetti faces are",
        file="olivettifaces.mat, as scikit-learn names it,",
    )
    grey = torch.from_numpy(found.images).mul(255).round().to(torch.uint8)
    images, labels = grey[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(found.target).long()
    names = tuple(f"person-{label:02d}" for label in range(int(labels.max()) + 1))

    def deal(label: int, rows: list[int]) -> Sequence[list[int]]:
        Streams(0).python("split", "olivetti", label).shuffle(rows)
        return [[rows.pop(0) for _ in range(count)] for count in PHOTOGRAPHS.values()]

    return DataSet("olivetti", *_dealt(ImageSet(_resized(images, image_size), labels, names), deal))


def _fetched(fetch: Callable[[], T], root: Path, what: str, file: str, source: str = "") -> T:
    try:
        return fetch()
    except (URLError, OSError, RuntimeError) as problem:
        raise DataError(
            f"{what} not below {root} and could not be downloaded{source} ({problem}). Connect to the "
            f"network, or put {file} into {root}"
        ) from problem


def _resized(images: Tensor, size: int | None) -> Tensor:
    return images if size in (None, images.shape[-1]) else tv.resize(images, [size, size], antialias=True)


def _dealt(whole: ImageSet, deal: Callable[[int, list[int]], Sequence[list[int]]]) -> list[ImageSet]:
    """Return the splits of some images: ``deal`` parts the rows of each class."""
    dealt: Any = [deal(c, whole.of_classes([c]).tolist()) for c in range(len(whole.classes))]
    parts = [torch.tensor(sorted(chain(*rows))) for rows in zip(*dealt, strict=True)]
    return [ImageSet(whole.images[rows], whole.labels[rows], whole.classes) for rows in parts]
