"""Data sets by name or folder."""

from __future__ import annotations

from pathlib import Path

from minigslora.datasets import folders, mini_faces
from minigslora.datasets.images import DataSet
from minigslora.errors import DataError
from minigslora.files import data_root

FOLDERS: dict[str, tuple[str, ...]] = {
    "casia-face100": ("casia-face100", "casia_face100", "CASIA-Face100", "casia_face100_gpu"),
}
"""Data sets that the user has as folders, and the names those folders go by."""

RENDERED: dict[str, str] = {"mini-faces": "main", "mini-faces-tuning": "tuning"}


def names() -> list[str]:
    """Return the names that :func:`load` knows."""
    return [*RENDERED, *FOLDERS]


def load(name: str | Path, image_size: int | None = None, watch: bool = False) -> DataSet:
    """Return a data set by name, or from a folder of class folders.

    Args:
        name: one of :func:`names`, or the path of a folder.
        image_size: height and width to resize to; rendered data have their own.
        watch: whether to show progress.

    Raises:
        DataError: for an unknown name, or a data set that is not on this machine.
    """
    if str(name) in RENDERED:
        if image_size not in (None, mini_faces.SIZE):
            raise DataError(f"{name} is rendered at {mini_faces.SIZE} pixels, not {image_size}")
        return mini_faces.load(RENDERED[str(name)], watch=watch)
    if str(name) in FOLDERS:
        return folders.load(find(str(name)), image_size or 112, str(name), watch)
    if Path(name).expanduser().is_dir():
        return folders.load(name, image_size or 224, watch=watch)
    raise DataError(f"no data set {str(name)!r}: neither a folder nor one of {', '.join(names())}")


def find(name: str) -> Path:
    """Return the folder of a data set that the user has.

    Raises:
        DataError: where it is not below the data root.
    """
    root = data_root()
    for folder in FOLDERS[name]:
        if (root / folder / "train").is_dir():
            return root / folder
    raise DataError(
        f"{name} is not below {root}: expected {root / FOLDERS[name][0]}/train/IDENTITY/*.jpg and "
        "test/IDENTITY/*.jpg. Put it there, or set MINIGSLORA_DATA to the folder that holds it"
    )
