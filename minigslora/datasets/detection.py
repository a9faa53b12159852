"""Detection data: images with boxed objects, from COCO's format or Pascal VOC's.

Boxes are kept as COCO writes them, [left, top, width, height] in pixels of the original image, and
labels are positions in the list of categories: COCO's ids have gaps (1 to 90 for 80 categories). Images
are resized to squares, so that a batch is one tensor; boxes relative to the image's sides stay as they
are under that. A crowd (``iscrowd``) is no target of training; evaluation is told of it. How annotations
are read, :mod:`minigslora.datasets.annotations` says, and how pictures are,
:mod:`minigslora.datasets.pictures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigslora.datasets import annotations as entries
from minigslora.datasets.annotations import Coco
from minigslora.datasets.images import Images, Split, Splits, hold_out
from minigslora.datasets.pictures import ImageFiles, gathered, squeezed
from minigslora.errors import DataError


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: float, (n, 4), [left, top, width, height] in pixels of the original image.
        labels: int64, (n,), positions in the data set's classes.
        crowd: bool, (n,), whether a box stands for a crowd of objects.
        size: height and width of the original image.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self) -> dict[str, Tensor]:
        """Return what a detector is trained on: labels, and boxes (n, 4) relative to the image.

        They are [centre x, centre y, width, height]; crowds are left out.
        """
        height, width = self.size
        boxes = self.boxes[~self.crowd] / self.boxes.new_tensor([width, height, width, height])
        centred = torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
        return {"class_labels": self.labels[~self.crowd], "boxes": centred}


@dataclass(frozen=True)
class DetectionSet(Split):
    """A split of images with the objects of each; an image may have none."""

    images: Images
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.objects):
            raise DataError(f"{len(self.images)} images but annotations of {len(self.objects)}")

    def tensors(self) -> dict[str, Tensor]:
        """Return boxes, labels and crowds of each image, and all sizes."""
        objects = {
            f"{i}": torch.cat([o.boxes.double(), o.labels[:, None], o.crowd[:, None]], dim=1)
            for i, o in enumerate(self.objects)
        }
        return {**objects, "sizes": torch.tensor([o.size for o in self.objects])}

    def to(self, device: torch.device) -> DetectionSet:
        """Return the split with its images on ``device``; annotations stay where they are."""
        return replace(self, images=self.images.to(device))

    def of_classes(self, wanted: Sequence[int]) -> Tensor:
        """Return the indices of the images with an object of some classes, crowds not counted."""
        chosen = torch.as_tensor(list(wanted), dtype=torch.long)
        has = [bool(torch.isin(o.labels[~o.crowd], chosen).any()) for o in self.objects]
        return torch.tensor(has, dtype=torch.bool).nonzero().flatten()


@dataclass(frozen=True)
class DetectionData(Splits[DetectionSet]):
    """Train, validation and test split of one detection data set."""


# --- COCO's format -----------------------------------------------------------------------------------


def objects_of(
    annotations: Sequence[Mapping[str, Any]], labels: Mapping[Any, int], size: tuple[int, int]
) -> Objects:
    """Return one image's objects from its COCO annotations; boxes without extent are left out.

    Args:
        annotations: of one image; none for an image without objects.
        labels: position in the classes by category id.
        size: height and width of the image, in pixels.

    Raises:
        DataError: for a category that the file does not list, or a box that is no box in the image.
    """
    found = gathered(
        partial(entries.checked_object, f"annotation {entry.get('id')}", entry, labels, size)
        for entry in annotations
    )
    kept = [entry for entry in found if entry["bbox"]]
    return Objects(
        torch.tensor([entry["bbox"] for entry in kept], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([labels[entry["category_id"]] for entry in kept], dtype=torch.long),
        torch.tensor([bool(entry["iscrowd"]) for entry in kept], dtype=torch.bool),
        size,
    )


def from_coco(images: Images, annotations: Mapping[str, Any]) -> DetectionSet:
    """Return a split from pictures and COCO's dictionary of images, annotations and categories.

    Raises:
        DataError: naming each entry that cannot be.
    """
    coco = entries.checked(annotations)
    return _boxed(images, coco, sorted(coco["categories"], key=entries.by_id))


def _boxed(images: Images, coco: Coco, categories: Sequence[Mapping[str, Any]]) -> DetectionSet:
    """Return pictures with the objects of each image of a checked dictionary, in its order."""
    labels = {category["id"]: place for place, category in enumerate(categories)}
    own: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in coco["annotations"]:
        own.setdefault(entry["image_id"], []).append(entry)
    objects = tuple(
        objects_of(own.get(image["id"], ()), labels, (image["height"], image["width"]))
        for image in coco["images"]
    )
    return DetectionSet(images, objects, tuple(category["name"] for category in categories))


def load_coco(root: Path | str, image_size: int, name: str = "coco", watch: bool = False) -> DetectionData:
    """Return a data set in COCO's layout.

    Args:
        root: holds ``annotations/instances_train*.json``, ``annotations/instances_val*.json`` and a folder
            of images for each, of the same name (``train2017``). The annotated ``val`` images are the test
            split; a tenth of the training images is held out for validation.
        image_size: height and width that images are squeezed to, in pixels.
        name: what the data set is called.
        watch: whether to show progress.

    Raises:
        DataError: where a part is missing, the two files list other categories, or entries and pictures do
            not fit.
    """
    root, files, folders = Path(root).expanduser(), list[Path](), list[Path]()
    for part in ("train", "val"):
        if not (found := sorted((root / "annotations").glob(f"instances_{part}*.json"))):
            missing = root / "annotations" / f"instances_{part}2017.json"
            raise DataError(f"no {missing}; expected COCO's layout")
        files.append(found[-1])
        folders.append(root / found[-1].stem.removeprefix("instances_"))
        if not folders[-1].is_dir():
            raise DataError(f"no folder of images at {folders[-1]}, which {files[-1].name} is about")
    train, test = gathered(partial(entries.read_coco, file) for file in files)
    return _from_files((train, folders[0]), (test, folders[1]), image_size, name, watch)


def load_voc(root: Path | str, image_size: int, name: str = "voc", watch: bool = False) -> DetectionData:
    """Return a data set in Pascal VOC's layout, converted to COCO's format; see :func:`load_coco`.

    ``root`` holds ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``, with ``trainval.txt`` or
    ``train.txt``, and ``test.txt`` or ``val.txt``. A tenth of the training images is held out.

    Raises:
        DataError: where a part is missing, or an annotation is not as VOC writes it.
    """
    root = Path(root).expanduser()
    splits, folder = entries.read_voc(root), root / "JPEGImages"
    return _from_files((splits["train"], folder), (splits["test"], folder), image_size, name, watch)


def _from_files(
    train: tuple[Coco, Path], test: tuple[Coco, Path], image_size: int, name: str, watch: bool
) -> DetectionData:
    """Return the data set of two checked dictionaries, each with the folder of its pictures."""
    categories = entries.same_categories(name, [train[0], test[0]])
    images, tested = (sorted(coco["images"], key=entries.by_id) for coco, _ in (train, test))
    kept, held = hold_out(images, len(images) // 10, name)
    parts = {"train": (*train, kept), "val": (*train, held), "test": (*test, tested)}
    return DetectionData(
        name,
        *gathered(
            partial(_read, *part, categories, image_size, f"{name}/{split}", watch)
            for split, part in parts.items()
        ),
    )


def _read(
    coco: Coco,
    folder: Path,
    images: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    size: int,
    what: str,
    watch: bool,
) -> DetectionSet:
    """Return a split of some of a dictionary's images."""
    declared = tuple((image["width"], image["height"]) for image in images)
    files = ImageFiles(tuple(_picture(folder, i["file_name"]) for i in images), size, squeezed, declared)
    return _boxed(files.loaded(what, watch), {**coco, "images": images}, categories)


def _picture(folder: Path, name: str) -> Path:
    """Return a picture's path; annotations made on Windows may separate folders by a backslash."""
    return folder / (name if "\\" not in name or (folder / name).is_file() else name.replace("\\", "/"))
