"""The Olivetti faces, downloaded by scikit-learn and kept below the data root: 40 people, 64×64."""

from __future__ import annotations

from urllib.error import URLError

import torch
from torchvision.transforms.v2 import functional as tv

from minigslora.datasets.images import DataSet, ImageSet
from minigslora.errors import DataError
from minigslora.files import data_root
from minigslora.rng import Streams

SIZE = 64
COUNTS = {"train": 6, "val": 1, "test": 3}
"""Photographs of each person by split."""


def load(image_size: int | None = None) -> DataSet:
    """Return the Olivetti faces; scikit-learn downloads them on first use and checks them by hash.

    Args:
        image_size: height and width to resize to, where not 64.

    Raises:
        DataError: where they are not there and cannot be downloaded.
    """
    from sklearn.datasets import fetch_olivetti_faces  # loads pandas, too

    root = data_root() / "olivetti"
    try:
        found = fetch_olivetti_faces(data_home=root, n_retries=1)
    except (URLError, OSError) as problem:
        raise DataError(
            f"the Olivetti faces are not below {root} and could not be downloaded ({problem}). Connect to "
            f"the network, or put olivettifaces.mat, as scikit-learn names it, into {root}"
        ) from problem
    grey = torch.from_numpy(found.images).mul(255).round().to(torch.uint8)
    images = grey[:, None].expand(-1, 3, -1, -1).contiguous()
    if image_size not in (None, SIZE):
        images = tv.resize(images, [image_size, image_size], antialias=True)
    labels = torch.from_numpy(found.target).long()
    names = tuple(f"person-{label:02d}" for label in range(int(labels.max()) + 1))
    train, val, test = (ImageSet(images[rows], labels[rows], names) for rows in _splits(labels))
    return DataSet("olivetti", train, val, test)


def _splits(labels: torch.Tensor) -> list[torch.Tensor]:
    """Return the rows of each split: a fixed draw of each person's photographs."""
    rows: dict[str, list[int]] = {split: [] for split in COUNTS}
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten().tolist()
        Streams(0).python("split", "olivetti", label).shuffle(own)
        for split, count in COUNTS.items():
            rows[split] += own[:count]
            del own[:count]
    return [torch.tensor(sorted(chosen)) for chosen in rows.values()]
