"""Data sets by name or folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minigslora.datasets import cifar, detection, folders, imagenet, olivetti
from minigslora.datasets.detection import DetectionData
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.datasets.rendered import mini_faces, mini_glyphs, mini_scenes
from minigslora.errors import DataError
from minigslora.files import data_root


@dataclass(frozen=True)
class Own:
    """A data set that the user has as a folder below the data root.

    Attributes:
        names: those that the folder goes by.
        image_size: what images are resized to where nobody says.
        expected: what lies below it, for the message where it is not there.
        read: what reads it.
    """

    names: tuple[str, ...]
    image_size: int
    expected: str
    read: Callable[[Path, int, str, bool, Sequence[str] | None], DataSet] = folders.load


WNIDS = "train/WNID/*.JPEG and val/WNID/*.JPEG"
FOLDERS: dict[str, Own] = {
    "casia-face100": Own(
        ("casia-face100", "casia_face100", "CASIA-Face100", "casia_face100_gpu"),
        112,
        "train/IDENTITY/*.jpg and test/IDENTITY/*.jpg",
    ),
    "imagenet100": Own(
        ("imagenet100", "ImageNet100", "imagenet-100"), 224, WNIDS, partial(imagenet.load, classes=100)
    ),
    "tiny-imagenet": Own(
        ("tiny-imagenet-200", "tiny-imagenet", "tiny_imagenet", "tiny_imagenet32"), 64, WNIDS, imagenet.load
    ),
}
"""Data sets that the user has as folders."""

RENDERED: dict[str, tuple[Callable[..., DataSet], str, int]] = {
    "mini-faces": (mini_faces.load, "main", mini_faces.SIZE),
    "mini-faces-tuning": (mini_faces.load, "tuning", mini_faces.SIZE),
    "mini-glyphs": (mini_glyphs.load, "task", mini_glyphs.SIZE),
    "mini-glyphs-outside": (mini_glyphs.load, "outside", mini_glyphs.SIZE),
    "mini-glyphs-all": (mini_glyphs.load, "all", mini_glyphs.SIZE),
}
"""Data sets that are drawn on first use: by what, which part, and their size in pixels."""

DOWNLOADED: dict[str, Callable[[int | None], DataSet]] = {"cifar100": cifar.load, "olivetti": olivetti.load}
"""Data sets that are downloaded on first use."""


def names() -> list[str]:
    """Return the names that :func:`load` knows."""
    return [*RENDERED, *FOLDERS, *DOWNLOADED]


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
    if str(name) in RENDERED or str(name) in DOWNLOADED:
        data = _made(str(name), image_size, watch)
        return data if classes is None else folders.reordered(data, classes)
    if str(name) in FOLDERS:
        own = FOLDERS[str(name)]
        return own.read(find(str(name)), image_size or own.image_size, str(name), watch, classes)
    if Path(name).expanduser().is_dir():
        return folders.load(name, image_size or 224, watch=watch, classes=classes)
    raise DataError(f"no data set {str(name)!r}: neither a folder nor one of {', '.join(names())}")


def _made(name: str, image_size: int | None, watch: bool) -> DataSet:
    """Return a data set that is rendered or downloaded."""
    if name in DOWNLOADED:
        return DOWNLOADED[name](image_size)
    draw, part, size = RENDERED[name]
    if image_size not in (None, size):
        raise DataError(f"{name} is rendered at {size} pixels, not {image_size}")
    return draw(part, watch=watch)


def find(name: str) -> Path:
    """Return the folder of a data set that the user has.

    Raises:
        DataError: where it is not below the data root.
    """
    root, own = data_root(), FOLDERS[name]
    for folder in own.names:
        if (root / folder / "train").is_dir():
            return root / folder
    raise DataError(
        f"{name} is not below {root}: expected {own.expected} in {root / own.names[0]}. Put it there, or "
        "set MINIGSLORA_DATA to the folder that holds it"
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
