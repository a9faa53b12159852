"""Data sets by name or folder."""

from __future__ import annotations

from pathlib import Path

from minigslora.datasets import detection, folders, mini_faces, mini_scenes
from minigslora.datasets.detection import DetectionData
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


# --- detection --------------------------------------------------------------------------------------

SCENES: dict[str, str] = {"mini-scenes": "main", "mini-scenes-tuning": "tuning"}
"""Rendered detection data, and the world each shows."""

BOXED: dict[str, tuple[str, ...]] = {
    "coco": ("coco", "coco2017", "COCO", "coco_tiny"),
    "voc": ("voc", "VOC2012", "VOC2007", "foda_voc"),
}
"""Detection data that the user has, and the names those folders go by."""


def detection_names() -> list[str]:
    """Return the names that :func:`load_detection` knows."""
    return [*SCENES, *BOXED]


def load_detection(name: str | Path, image_size: int | None = None, watch: bool = False) -> DetectionData:
    """Return a detection data set by name, or from a folder in COCO's or Pascal VOC's layout.

    Args:
        name: one of :func:`detection_names`, or the path of a folder.
        image_size: height and width that images are squeezed to; rendered scenes have their own.
        watch: whether to show progress.

    Raises:
        DataError: for an unknown name, or a data set that is not on this machine.
    """
    if str(name) in SCENES:
        if image_size not in (None, mini_scenes.SIZE):
            raise DataError(f"{name} is rendered at {mini_scenes.SIZE} pixels, not {image_size}")
        return mini_scenes.load(SCENES[str(name)], watch=watch)
    root = find_detection(name)
    if _is_coco(root):
        return detection.load_coco(root, image_size or 512, str(name), watch)
    return detection.load_voc(root, image_size or 300, str(name), watch)


def _is_coco(root: Path) -> bool:
    return any((root / "annotations").glob("instances_*.json"))


def find_detection(name: str | Path) -> Path:
    """Return the folder of detection data that the user has, by name or path.

    Raises:
        DataError: where there is none in COCO's or Pascal VOC's layout.
    """
    places = [data_root() / folder for folder in BOXED.get(str(name), ())] or [Path(name).expanduser()]
    for root in places:
        if _is_coco(root) or (root / "ImageSets").is_dir():
            return root
    layouts = "annotations/instances_train*.json and train*/, or JPEGImages/, Annotations/ and ImageSets/"
    if str(name) in BOXED:
        raise DataError(
            f"{name} is not below {data_root()}: expected {places[0]} with {layouts}. Put it there, or set "
            "MINIGSLORA_DATA to the folder that holds it"
        )
    raise DataError(
        f"no detection data {str(name)!r}: neither one of {', '.join(detection_names())} nor a folder with "
        f"{layouts}"
    )
