"""Data sets by name or folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigslora.class_order import reordered
from minigslora.datasets import downloaded, folders, imagenet
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.errors import DataError
from minigslora.files import data_root

if TYPE_CHECKING:
    from minigslora.datasets.detection import DetectionData

RENDERED = {
    "mini-faces": ("mini_faces", "main"),
    "mini-faces-tuning": ("mini_faces", "tuning"),
    "mini-glyphs": ("mini_glyphs", "task"),
    "mini-glyphs-outside": ("mini_glyphs", "outside"),
    "mini-glyphs-all": ("mini_glyphs", "all"),
}
"""Data sets that are drawn on first use: by which module of ``rendered``, and which part of it."""
SCENES = {"mini-scenes": ("mini_scenes", "main"), "mini-scenes-tuning": ("mini_scenes", "tuning")}
"""Detection data that are drawn on first use."""

DOWNLOADED: dict[str, Callable[[int | None], DataSet]] = {
    "cifar100": downloaded.cifar100,
    "olivetti": downloaded.olivetti,
}
"""Data sets that are downloaded on first use."""


@dataclass(frozen=True)
class Own:
    """A data set that the user has as a folder below the data root.

    Attributes:
        names: those that the folder goes by.
        image_size: what images are resized to where nobody says.
        expected: what lies below it, for the message where it is not there.
        splits: finds its files by class.
    """

    names: tuple[str, ...]
    image_size: int
    expected: str = "train/WNID/*.JPEG and val/WNID/*.JPEG"
    splits: Callable[[Path], dict[str, folders.Files]] = imagenet.splits


CASIA = ("casia-face100", "casia_face100", "CASIA-Face100", "casia_face100_gpu")
IMAGENET100 = ("imagenet100", "ImageNet100", "imagenet-100")
TINY = ("tiny-imagenet-200", "tiny-imagenet", "tiny_imagenet", "tiny_imagenet32")
FOLDERS: dict[str, Own] = {
    "casia-face100": Own(CASIA, 112, "train/IDENTITY/*.jpg and test/IDENTITY/*.jpg", folders.splits),
    "imagenet100": Own(IMAGENET100, 224, splits=partial(imagenet.splits, classes=100)),
    "tiny-imagenet": Own(TINY, 64),
}
"""Data sets that the user has as folders."""
BOXED: dict[str, tuple[str, ...]] = {
    "coco": ("coco", "coco2017", "COCO", "coco_tiny"),
    "voc": ("voc", "VOC2012", "VOC2007", "foda_voc"),
}
"""Detection data that the user has, and the names those folders go by."""


def names() -> list[str]:
    """Return the names that :func:`load` knows."""
    return [*RENDERED, *FOLDERS, *DOWNLOADED]


def detection_names() -> list[str]:
    """Return the names that :func:`load_detection` knows."""
    return [*SCENES, *BOXED]


def load(
    name: str | Path,
    image_size: int | None = None,
    watch: bool = False,
    classes: Sequence[str] | None = None,
) -> DataSet:
    """Return a data set by name, or from a folder of class folders.

    Args:
        name: one of :func:`names`, or the path of a folder.
        image_size: height and width to resize to; rendered data have their own.
        watch: whether to show progress.
        classes: its classes in the order of the model's head, where that is not the data set's.

    Raises:
        DataError: for an unknown name, a data set that is not on this machine, or other classes than its.
    """
    known = str(name)
    if known in FOLDERS:
        own = FOLDERS[known]
        return folders.load(find(known), image_size or own.image_size, known, watch, classes, own.splits)
    if known in RENDERED or known in DOWNLOADED:
        fetch = DOWNLOADED.get(known)
        data: DataSet = fetch(image_size) if fetch else _rendered(*RENDERED[known], known, image_size, watch)
        return data if classes is None else reordered(data, classes)
    if Path(name).expanduser().is_dir():
        return folders.load(name, image_size or 224, watch=watch, classes=classes)
    raise DataError(f"no data set {known!r}: neither a folder nor one of {', '.join(names())}")


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
        scenes: DetectionData = _rendered(*SCENES[str(name)], str(name), image_size, watch)
        return scenes
    from minigslora.datasets import detection

    root = find_detection(name)
    if _is_coco(root):
        return detection.load_coco(root, image_size or 512, str(name), watch)
    return detection.load_voc(root, image_size or 300, str(name), watch)


def _rendered(module: str, part: str, name: str, image_size: int | None, watch: bool) -> Any:
    draws: Any = importlib.import_module(f"minigslora.datasets.rendered.{module}")
    if image_size not in (None, draws.SIZE):
        raise DataError(f"{name} is rendered at {draws.SIZE} pixels, not {image_size}")
    return draws.load(part, watch=watch)


def find(name: str) -> Path:
    """Return the folder of a data set that the user has.

    Raises:
        DataError: where it is not below the data root.
    """
    places = [data_root() / folder for folder in FOLDERS[name].names]
    for place in places:
        if (place / "train").is_dir():
            return place
    raise _not_here(name, f"{FOLDERS[name].expected} in {places[0]}")


def find_detection(name: str | Path) -> Path:
    """Return the folder of detection data that the user has, by name or path.

    Raises:
        DataError: where there is none in COCO's or Pascal VOC's layout.
    """
    places = [data_root() / folder for folder in BOXED.get(str(name), ())] or [Path(name).expanduser()]
    for place in places:
        if _is_coco(place) or (place / "ImageSets").is_dir():
            return place
    layouts = "annotations/instances_train*.json and train*/, or JPEGImages/, Annotations/ and ImageSets/"
    if str(name) in BOXED:
        raise _not_here(str(name), f"{places[0]} with {layouts}")
    raise DataError(
        f"no detection data {str(name)!r}: neither one of {', '.join(detection_names())} nor a folder with "
        f"{layouts}"
    )


def _is_coco(root: Path) -> bool:
    return any((root / "annotations").glob("instances_*.json"))


def _not_here(name: str, expected: str) -> DataError:
    return DataError(
        f"{name} is not below {data_root()}: expected {expected}. Put it there, or set MINIGSLORA_DATA to "
        "the folder that holds it"
    )


def outside(
    name: str, task: Sequence[str], image_size: int | None = None, watch: bool = False
) -> ImageSet | None:
    """Return test images of classes outside a data set's own, for the outside check; None without any.

    mini-glyphs has a hundred more characters; ImageNet100 has ImageNet's other classes where the user
    has an ``imagenet`` folder below the data root.

    Args:
        name: the task's data set.
        task: its classes.
        image_size: height and width to resize to.
        watch: whether to show progress.
    """
    if name == "mini-glyphs":
        return load("mini-glyphs-outside", image_size, watch).test
    if name == "imagenet100" and (root := data_root() / "imagenet").is_dir():
        return imagenet.outside(root, task, image_size or FOLDERS[name].image_size, watch)
    return None
