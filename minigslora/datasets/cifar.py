"""CIFAR-100, downloaded by torchvision and kept below the data root: 32×32, 100 classes."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torchvision.datasets import CIFAR100
from torchvision.transforms.v2 import functional as tv

from minigslora.datasets.images import DataSet, ImageSet
from minigslora.errors import DataError
from minigslora.files import data_root
from minigslora.rng import Streams

SIZE = 32
HELD_OUT = 0.1
"""Share of each class's training images kept for validation."""


def load(image_size: int | None = None) -> DataSet:
    """Return CIFAR-100; torchvision downloads it on first use and checks it by hash.

    Args:
        image_size: height and width to resize to, where not 32.

    Raises:
        DataError: where it is not there and cannot be downloaded.
    """
    root = data_root() / "cifar100"
    train, test = (_read(root, train, image_size or SIZE) for train in (True, False))
    held = _held_out(train.labels)
    kept = ImageSet(_rows(train, ~held), train.labels[~held], train.classes)
    val = ImageSet(_rows(train, held), train.labels[held], train.classes)
    return DataSet("cifar100", kept, val, test)


def _read(root: Path, train: bool, image_size: int) -> ImageSet:
    try:
        found = CIFAR100(root, train=train, download=True)
    except (URLError, OSError, RuntimeError) as problem:
        raise DataError(
            f"CIFAR-100 is not below {root} and could not be downloaded from {CIFAR100.url} ({problem}). "
            f"Connect to the network, or put {CIFAR100.filename} into {root}"
        ) from problem
    images = torch.from_numpy(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)))
    if image_size != SIZE:
        images = tv.resize(images, [image_size, image_size], antialias=True)
    return ImageSet(images, torch.tensor(found.targets), tuple(found.classes))


def _held_out(labels: torch.Tensor) -> torch.Tensor:
    """Return which training images are for validation, bool (N,): a fixed share of each class's."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten().tolist()
        count = max(1, round(HELD_OUT * len(rows)))
        held[Streams(0).python("hold out", "cifar100", label).sample(rows, count)] = True
    return held


def _rows(split: ImageSet, chosen: torch.Tensor) -> torch.Tensor:
    return split.images[chosen.nonzero().flatten()]
