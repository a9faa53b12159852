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
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from minigslora.datasets import annotations as entries
from minigslora.datasets import pictures
from minigslora.datasets.annotations import Coco
from minigslora.datasets.faults import gathered
from minigslora.datasets.folders import fingerprint_of_files
from minigslora.datasets.images import Images, Splits, fingerprint
from minigslora.errors import DataError
from minigslora.files import load_tensors, read_json, save_tensors, write_json
from minigslora.rng import Streams

CPU = torch.device("cpu")
IN_MEMORY = 4 << 30
"""Bytes of uint8 images kept in memory; a larger split is read from its files as needed."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: float, (n, 4), [left, top, width, height] in pixels of the original image.
        labels: int64, (n,), positions in the data set's classes.
        crowd: bool, (n,), whether a box stands for a crowd of objects.
        size: height and width of the original image, in pixels.
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
class DetectionSet:
    """One split of a detection data set.

    Attributes:
        images: uint8, (N, 3, S, S), or :class:`~minigslora.datasets.images.Images` read as needed.
        objects: those of each image; an image may have none.
        classes: the names of all classes, in the order of the model's head.
    """

    images: Tensor | Images
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.objects):
            raise DataError(f"{len(self.images)} images but annotations of {len(self.objects)}")

    def __len__(self) -> int:
        return len(self.objects)

    def fingerprint(self) -> str:
        """Return what tells this split from any other: a hash of images, objects and classes."""
        objects = {
            f"{i}": torch.cat([o.boxes.double(), o.labels[:, None], o.crowd[:, None]], dim=1)
            for i, o in enumerate(self.objects)
        }
        sizes = torch.tensor([o.size for o in self.objects])
        return fingerprint(self.images, {**objects, "sizes": sizes}, self.classes)

    def to(self, device: torch.device) -> DetectionSet:
        """Return the split with its images on ``device``; annotations stay where they are."""
        images: Tensor | Images = self.images.to(device)
        return replace(self, images=images)

    def of_classes(self, wanted: Sequence[int]) -> Tensor:
        """Return the indices of the images with an object of some classes, crowds not counted."""
        chosen = torch.as_tensor(list(wanted), dtype=torch.long)
        has = [bool(torch.isin(o.labels[~o.crowd], chosen).any()) for o in self.objects]
        return torch.tensor(has, dtype=torch.bool).nonzero().flatten()

    def first(self, count: int) -> DetectionSet:
        """Return the first ``count`` images."""
        rows = torch.arange(min(count, len(self)))
        return replace(self, images=self.images[rows], objects=self.objects[:count])


@dataclass(frozen=True)
class DetectionData(Splits[DetectionSet]):
    """Train, validation and test split of one detection data set."""


@dataclass(frozen=True)
class BoxedImages:
    """Images read from files when they are asked for, each squeezed to a square.

    Attributes:
        files: the pictures.
        declared: width and height of each, as its annotation says.
        size: height and width to resize to, in pixels.
        device: where images are delivered.
    """

    files: tuple[Path, ...]
    declared: tuple[pictures.Size, ...]
    size: int
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return uint8 images (B, 3, size, size) for indices (B,); B may be 0."""
        if not len(indices):
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        reads = [partial(self._read, i) for i in indices.tolist()]
        return torch.stack(pictures.read_all(reads)).to(self.device)

    def _read(self, place: int) -> Tensor:
        return pictures.read(self.files[place], self._squeezed, self.size, self.declared[place])

    def _squeezed(self, image: Image.Image) -> Image.Image:
        return image.resize((self.size, self.size), Image.Resampling.BILINEAR)

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times of change, and of the size they are read at."""
        return fingerprint_of_files(self.files, self.size)

    def to(self, device: torch.device) -> BoxedImages:
        """Return the same files, delivered to ``device``."""
        return replace(self, device=device)


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


def from_coco(images: Tensor | Images, annotations: Mapping[str, Any]) -> DetectionSet:
    """Return a split from pictures and COCO's dictionary of images, annotations and categories.

    Raises:
        DataError: naming each entry that cannot be.
    """
    coco = entries.checked(annotations)
    categories = sorted(coco["categories"], key=entries.by_id)
    return DetectionSet(images, _objects(coco, categories), tuple(c["name"] for c in categories))


def _objects(coco: Coco, categories: Sequence[Mapping[str, Any]]) -> tuple[Objects, ...]:
    """Return the objects of each image of a checked dictionary, in its order."""
    labels = {category["id"]: place for place, category in enumerate(categories)}
    own: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for entry in coco["annotations"]:
        own[entry["image_id"]].append(entry)
    return tuple(
        objects_of(own[image["id"]], labels, (image["height"], image["width"])) for image in coco["images"]
    )


def save_cached(folder: Path, split: str, images: Tensor, annotations: Mapping[str, Any]) -> None:
    """Write a split's pictures as safetensors and its annotations as COCO's JSON."""
    save_tensors(folder / f"{split}.safetensors", {"images": images}, {"split": split})
    write_json(folder / f"{split}.json", annotations)


def load_cached(folder: Path, split: str) -> tuple[Tensor, dict[str, Any]] | None:
    """Return what :func:`save_cached` wrote; None where it did not."""
    if not (folder / f"{split}.json").is_file():  # written last
        return None
    return load_tensors(folder / f"{split}.safetensors")[0]["images"], read_json(folder / f"{split}.json")


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
    root, sources = Path(root).expanduser(), {}
    files = {split: _annotation_file(root, part) for split, part in (("train", "train"), ("test", "val"))}
    for split, file in files.items():
        folder = root / file.stem.removeprefix("instances_")
        if not folder.is_dir():
            raise DataError(f"no folder of images at {folder}, which {file.name} is about")
        sources[split] = folder
    found = gathered(partial(entries.read_coco, file) for file in files.values())
    return _from_sources(dict(zip(sources, found, strict=True)), sources, image_size, name, watch)


def load_voc(root: Path | str, image_size: int, name: str = "voc", watch: bool = False) -> DetectionData:
    """Return a data set in Pascal VOC's layout, converted to COCO's format.

    Args:
        root: holds ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``, with ``trainval.txt`` or
            ``train.txt``, and ``test.txt`` or ``val.txt``. A tenth of the training images is held out.
        image_size: height and width that images are squeezed to, in pixels.
        name: what the data set is called.
        watch: whether to show progress.

    Raises:
        DataError: where a part is missing, or an annotation is not as VOC writes it.
    """
    root = Path(root).expanduser()
    splits = entries.read_voc(root)
    return _from_sources(splits, dict.fromkeys(splits, root / "JPEGImages"), image_size, name, watch)


def _annotation_file(root: Path, split: str) -> Path:
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if not found:
        raise DataError(f"no {root / 'annotations' / f'instances_{split}2017.json'}; expected COCO's layout")
    return found[-1]


def _from_sources(
    sources: Mapping[str, Coco], folders: Mapping[str, Path], image_size: int, name: str, watch: bool
) -> DetectionData:
    """Return the data set of checked dictionaries and the folders of their pictures."""
    categories = entries.same_categories(name, list(sources.values()))
    classes = tuple(category["name"] for category in categories)
    whole = {split: _boxed(coco, folders[split], categories, image_size) for split, coco in sources.items()}
    total = len(whole["train"][0])
    held = set(Streams(0).python("hold out", name).sample(range(total), total // 10))
    parts = {
        "train": ("train", [i for i in range(total) if i not in held]),
        "val": ("train", sorted(held)),
        "test": ("test", range(len(whole["test"][0]))),
    }
    train, val, test = gathered(
        partial(_detection_set, *whole[source], classes, rows, f"{name}/{split}", watch)
        for split, (source, rows) in parts.items()
    )
    return DetectionData(name, train, val, test)


def _boxed(
    coco: Coco, folder: Path, categories: Sequence[Mapping[str, Any]], size: int
) -> tuple[BoxedImages, tuple[Objects, ...]]:
    """Return a source's images, by id, as files, and the objects of each."""
    images = sorted(coco["images"], key=entries.by_id)
    files = tuple(_picture(folder, image["file_name"]) for image in images)
    declared = tuple((image["width"], image["height"]) for image in images)
    return BoxedImages(files, declared, size), _objects({**coco, "images": images}, categories)


def _picture(folder: Path, name: str) -> Path:
    """Return a picture's path; annotations made on Windows may separate folders by a backslash."""
    return folder / (name if "\\" not in name or (folder / name).is_file() else name.replace("\\", "/"))


def _detection_set(
    images: BoxedImages,
    objects: Sequence[Objects],
    classes: tuple[str, ...],
    rows: Sequence[int],
    what: str,
    watch: bool,
) -> DetectionSet:
    """Return some images of a source, read if they fit into memory, else as files."""
    files = tuple(images.files[row] for row in rows)
    declared = tuple(images.declared[row] for row in rows)
    lazy = BoxedImages(files, declared, images.size)
    found = DetectionSet(lazy, tuple(objects[row] for row in rows), classes)
    if len(rows) * 3 * lazy.size**2 > IN_MEMORY:
        pictures.probe_all(files, declared)
        return found
    parts = torch.arange(len(rows)).split(256)
    bar = tqdm(parts, desc=f"reading {what}", disable=None if watch else True)
    return replace(found, images=torch.cat(gathered(partial(lazy.__getitem__, part) for part in bar)))
