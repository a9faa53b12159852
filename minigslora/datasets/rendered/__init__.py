"""Data sets that are drawn by code, so that everything runs anywhere: drawn on first use, then kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigslora.datasets.images import ImageSet
from minigslora.files import data_root, load_tensors, save_tensors, sha256
from minigslora.progress import bar


def place(name: str, drawing: str, *key: str | int) -> Path:
    """Return where a drawn data set is kept; it goes by a key and by the code that draws it, a file."""
    return data_root() / name / "-".join([*map(str, key), sha256(Path(drawing))[:12]])


def drawn(
    path: Path,
    classes: Sequence[str],
    counts: Mapping[str, int],
    draw: Callable[[int, str, int], Any],
    watch: bool,
) -> list[ImageSet]:
    """Return the splits of labelled images that are kept at ``path``, drawn where they are not there yet.

    Args:
        path: without its ending; see :func:`place`.
        classes: their names.
        counts: images of each class by split; the splits come in its order.
        draw: gives uint8 images (count, 3, H, W) of a class, by its label, a split and a count.
        watch: whether to show progress.
    """
    path = path.with_name(f"{path.name}.safetensors")
    if path.is_file():
        images, _ = load_tensors(path)
    else:
        found: dict[str, list[Tensor]] = {split: [] for split in counts}
        for label, _ in enumerate(bar(classes, f"rendering {path.parent.name}", watch)):
            for split, count in counts.items():
                found[split].append(torch.as_tensor(draw(label, split, count)))
        images = {split: torch.cat(parts) for split, parts in found.items()}
        save_tensors(path, images, {"classes": list(classes)})
    labels = torch.arange(len(classes))
    return [
        ImageSet(images[split], labels.repeat_interleave(count), tuple(classes))
        for split, count in counts.items()
    ]
