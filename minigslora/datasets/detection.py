"""Detection data: images with boxed objects, from COCO's format or Pascal VOC's.

Boxes are kept as COCO writes them, [left, top, width, height] in pixels of the original image, and
labels are positions in the list of categories: COCO's ids have gaps (1 to 90 for 80 categories). Images
are resized to squares, so that a batch is one tensor; boxes relative to the image's sides stay as they
are under that. A crowd (``iscrowd``) is no target of training; evaluation is told of it.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CocoDetection
from torchvision.transforms.v2 import functional as tv
from tqdm import tqdm

from minigslora.datasets.images import Images, Splits
from minigslora.errors import DataError
from minigslora.files import load_tensors, read_json, save_tensors, write_json
from minigslora.streams import Streams

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


class CocoImages:
    """Image files of a COCO data set, read when they are asked for, each squeezed to a square.

    Args:
        source: torchvision's data set of them.
        size: height and width to resize to, in pixels.
        rows: which of its images, in order.
        device: where images are delivered.
    """

    def __init__(
        self, source: CocoDetection, size: int, rows: Sequence[int], device: torch.device | None = None
    ) -> None:
        self.source, self.size, self.rows = source, size, tuple(rows)
        self.device = device or torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return uint8 images (B, 3, size, size) for indices (B,); B may be 0."""
        if not len(indices):
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(self._read, [self.rows[i] for i in indices.tolist()]))
        return torch.stack(images).to(self.device)

    def _read(self, row: int) -> Tensor:
        try:
            image: Image.Image = self.source[row][0]
            square = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        except OSError as problem:
            raise DataError(
                f"image {row + 1} of {self.source.root} cannot be read ({problem}); put it there, or take it "
                "out of the annotations"
            ) from problem
        tensor: Tensor = tv.pil_to_tensor(square)
        return tensor

    def to(self, device: torch.device) -> CocoImages:
        """Return the same files, delivered to ``device``."""
        return CocoImages(self.source, self.size, self.rows, device)


# --- COCO's format -----------------------------------------------------------------------------------


def objects_of(
    annotations: Sequence[Mapping[str, Any]], labels: Mapping[int, int], size: tuple[int, int]
) -> Objects:
    """Return one image's objects from its COCO annotations; boxes without extent are left out.

    Args:
        annotations: of one image; none for an image without objects.
        labels: position in the classes by category id.
        size: height and width of the image, in pixels.

    Raises:
        DataError: for a category that the file does not list, or a box that is no box.
    """
    boxes, found, crowd = list[list[float]](), list[int](), list[bool]()
    for entry in annotations:
        _require(entry, ("category_id", "bbox"), "annotation")
        if entry["category_id"] not in labels:
            raise DataError(
                f"annotation {entry.get('id')} has category_id {entry['category_id']}, which 'categories' "
                "does not list; add it there, or remove the annotation"
            )
        if len(entry["bbox"]) != 4:
            raise DataError(
                f"annotation {entry.get('id')}: bbox = {entry['bbox']}; expected [left, top, width, height]"
            )
        if min(entry["bbox"][2:]) <= 0:
            continue
        boxes.append([float(v) for v in entry["bbox"]])
        found.append(labels[entry["category_id"]])
        crowd.append(bool(entry.get("iscrowd", 0)))
    return Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(found, dtype=torch.long),
        torch.tensor(crowd, dtype=torch.bool),
        size,
    )


def _require(entry: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
    """Raise a :class:`DataError` for the first of ``keys`` that an entry of COCO's JSON lacks."""
    if missing := [key for key in keys if key not in entry]:
        raise DataError(f"{what} {entry.get('id')} has no {missing[0]!r} in the annotation file; add it")


def from_coco(images: Tensor | Images, annotations: Mapping[str, Any]) -> DetectionSet:
    """Return a split from pictures and COCO's dictionary of images, annotations and categories."""
    categories = sorted(annotations["categories"], key=lambda c: c["id"])
    labels = {c["id"]: place for place, c in enumerate(categories)}
    own: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in annotations["images"]}
    for image in annotations["images"]:
        _require(image, ("height", "width"), "image")
    for entry in annotations["annotations"]:
        own[entry["image_id"]].append(entry)
    objects = tuple(
        objects_of(own[image["id"]], labels, (image["height"], image["width"]))
        for image in annotations["images"]
    )
    return DetectionSet(images, objects, tuple(c["name"] for c in categories))


def save_cached(folder: Path, split: str, images: Tensor, annotations: Mapping[str, Any]) -> None:
    """Write a split's pictures as safetensors and its annotations as COCO's JSON."""
    save_tensors(folder / f"{split}.safetensors", {"images": images}, {"split": split})
    write_json(folder / f"{split}.json", annotations)


def load_cached(folder: Path, split: str) -> tuple[Tensor, dict[str, Any]] | None:
    """Return what :func:`save_cached` wrote; None where it did not."""
    if not (folder / f"{split}.json").is_file():  # written last
        return None
    return load_tensors(folder / f"{split}.safetensors")[0]["images"], read_json(folder / f"{split}.json")


def load_coco(root: Path, image_size: int, name: str = "coco", watch: bool = False) -> DetectionData:
    """Return a data set in COCO's layout.

    Args:
        root: holds ``annotations/instances_train*.json``, ``annotations/instances_val*.json`` and a folder
            of images for each, of the same name (``train2017``). The annotated ``val`` images are the test
            split; a tenth of the training images is held out for validation.
        image_size: height and width that images are squeezed to, in pixels.
        name: what the data set is called.
        watch: whether to show progress.

    Raises:
        DataError: where a part is missing, or the two files list other categories.
    """
    files = {split: _annotation_file(root, part) for split, part in (("train", "train"), ("test", "val"))}
    sources = {
        split: _coco_source(root / file.stem.removeprefix("instances_"), file)
        for split, file in files.items()
    }
    return _from_sources(sources, image_size, name, watch)


def load_voc(root: Path, image_size: int, name: str = "voc", watch: bool = False) -> DetectionData:
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
    lists = {
        "train": _first_list(root, "trainval", "train"),
        "test": _first_list(root, "test", "val"),
    }
    trees = {
        split: [_annotation(root / "Annotations" / f"{stem}.xml") for stem in stems]
        for split, stems in lists.items()
    }
    names = {_text(o, "name") for own in trees.values() for tree in own for o in tree.iter("object")}
    sources = {}
    for split, own in trees.items():
        with tempfile.TemporaryDirectory() as folder:  # torchvision reads annotations from a file
            file = Path(folder) / f"{split}.json"
            write_json(file, voc_to_coco(own, lists[split], sorted(names)))
            sources[split] = _coco_source(root / "JPEGImages", file)
    return _from_sources(sources, image_size, name, watch)


def voc_to_coco(
    trees: Sequence[ElementTree.Element], stems: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """Return COCO's dictionary for VOC's annotations; coordinates may be fractions of a pixel.

    A corner (xmin, ymin) is the box's left top, and its width xmax − xmin: VOC's own files count pixels
    from 1 and include the last one, which is a pixel less here. Objects marked difficult become crowds,
    which are no targets and count neither for nor against a detector, as in VOC's evaluation.

    Args:
        trees: the roots of the annotation files.
        stems: the images' names, without ending.
        names: the classes, in order; category ids count from 1.
    """
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (tree, stem) in enumerate(zip(trees, stems, strict=True), 1):
        size = {side: int(float(_text(tree, f"size/{side}"))) for side in ("width", "height")}
        images.append({"id": number, "file_name": tree.findtext("filename") or f"{stem}.jpg", **size})
        for entry in tree.iter("object"):
            left, top, right, bottom = (
                float(_text(entry, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(_text(entry, "name")) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(entry.findtext("difficult") == "1"),
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _text(element: ElementTree.Element, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise DataError(f"a VOC annotation has no <{path.replace('/', '><')}> in its <{element.tag}>; add it")
    return found.strip()


def _annotation(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError) as problem:
        raise DataError(f"{file} is no readable annotation ({problem}); expected VOC's XML") from problem


def _first_list(root: Path, *names: str) -> list[str]:
    folder = root / "ImageSets" / "Main"
    for name in names:
        if (file := folder / f"{name}.txt").is_file():
            return file.read_text(encoding="utf-8").split()
    raise DataError(
        f"{folder} has neither {' nor '.join(f'{n}.txt' for n in names)}; add a list of image names"
    )


def _annotation_file(root: Path, split: str) -> Path:
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if not found:
        raise DataError(f"no {root / 'annotations' / f'instances_{split}2017.json'}; expected COCO's layout")
    return found[-1]


def _coco_source(images: Path, file: Path) -> CocoDetection:
    if not images.is_dir():
        raise DataError(f"no folder of images at {images}, which {file.name} is about")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return CocoDetection(images, str(file))
    except (ValueError, KeyError, TypeError, AssertionError) as problem:
        raise DataError(
            f"{file} is not in COCO's format ({type(problem).__name__}: {problem}); expected JSON with "
            "'images', 'annotations' and 'categories', each entry with its ids"
        ) from problem


def _from_sources(
    sources: Mapping[str, CocoDetection], image_size: int, name: str, watch: bool
) -> DetectionData:
    train, test = sources["train"], sources["test"]
    if train.coco.cats != test.coco.cats:
        raise DataError(
            f"the training and the test annotations of {name} list other categories; make them one list"
        )
    held = set(Streams(0).python("hold out", name).sample(range(len(train)), len(train) // 10))
    parts = {
        "train": (train, [i for i in range(len(train)) if i not in held]),
        "val": (train, sorted(held)),
        "test": (test, range(len(test))),
    }
    splits = {
        split: _detection_set(source, rows, image_size, f"{name}/{split}", watch)
        for split, (source, rows) in parts.items()
    }
    return DetectionData(name, splits["train"], splits["val"], splits["test"])


def _detection_set(
    source: CocoDetection, rows: Sequence[int], size: int, what: str, watch: bool
) -> DetectionSet:
    coco = source.coco
    ids = [source.ids[row] for row in rows]
    found = from_coco(
        lazy := CocoImages(source, size, rows),
        {
            "images": coco.loadImgs(ids),
            "annotations": coco.loadAnns(coco.getAnnIds(ids)) if ids else [],
            "categories": list(coco.cats.values()),
        },
    )
    if len(rows) * 3 * size * size > IN_MEMORY:
        return found
    parts = torch.arange(len(rows)).split(256)
    bar = tqdm(parts, desc=f"reading {what}", disable=None if watch else True)
    return replace(found, images=torch.cat([lazy[part] for part in bar]))
