"""Annotations of boxed objects, from COCO's JSON or Pascal VOC's XML: each entry is checked as it is read.

Both come out as COCO's dictionary of images, annotations and categories, whose parts then fit together. An
error names the file and the entry, and all that are wrong in a file are reported at once. What has one
obvious reading is read so:

- ids and sizes that are whole numbers written as text ("7") or as 7.0 are the numbers;
- boxes belong to the image that they name, whatever their own ids; an entry that is repeated counts once;
- a box that sticks out of its image a little, as by rounding, is cut at the edge; one without width or
  height, as COCO's own files have some, is no object;
- a category without objects that only heads the others, as some exporters write, is no class;
- VOC's picture is the one of the annotation's own name, ``<filename>`` counts where there is none, and a
  missing ``<size>`` is the picture's; a line of a list may carry a label or an ending.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from minigslora.datasets.folders import visible
from minigslora.datasets.pictures import ENDINGS, Faults, Size, faults_of, gathered, probe
from minigslora.errors import DataError
from minigslora.files import read_lines

Coco = dict[str, Any]
"""Images, annotations and categories, each a list of checked entries."""
KEYS = ("images", "annotations", "categories")
LISTS = "'images', 'annotations' and 'categories', each a list of entries with their ids"
SLACK = 0.02
"""Share of an image's side, and at least one pixel, by which a box may stick out."""


# --- COCO ---------------------------------------------------------------------------------------------


def read_coco(file: Path) -> Coco:
    """Return what a file in COCO's format holds.

    Raises:
        DataError: naming the file, and each entry that cannot be.
    """
    try:
        coco = checked(json.loads(file.read_bytes()))
        if nameless := [image["id"] for image in coco["images"] if "file_name" not in image]:
            raise DataError(f"image {nameless[0]!r} has no 'file_name'; add it")
    except DataError as problem:
        first, *others = faults_of(problem)
        raise Faults([f"{file} is not in COCO's format: {first}", *others]) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise DataError(
            f"{file} is not in COCO's format ({problem}); expected JSON with {LISTS}"
        ) from problem
    return coco


def checked(value: Any) -> Coco:
    """Return COCO's dictionary with all entries checked and normalised.

    Raises:
        DataError: naming each entry that cannot be.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"it holds no object; expected one with {LISTS}")
    if missing := [key for key in KEYS if not isinstance(value.get(key), list)]:
        raise DataError(f"it has no list {missing[0]!r}; expected {LISTS}")
    for key in ("images", "categories"):
        if not value[key]:
            raise DataError(f"its list {key!r} is empty; fill it")
    categories = _entries("category", value["categories"], _category)
    images = _entries("image", value["images"], _image)
    require_unique("category", categories, "id", "name")
    require_unique("image", images, "id", "file_name")
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    check = partial(_annotation, sizes=sizes, categories={category["id"] for category in categories})
    boxed = [entry for entry in _entries("annotation", value["annotations"], check) if entry["bbox"]]
    once = {repr(entry): entry for entry in boxed}
    return {"images": images, "annotations": list(once.values()), "categories": categories}


def same_categories(name: str, files: Sequence[Coco]) -> list[dict[str, Any]]:
    """Return the categories that all files must share, by id, without unused ones that head the others."""
    lists = [{category["id"]: category["name"] for category in file["categories"]} for file in files]
    if any(other != lists[0] for other in lists):
        raise DataError(
            f"the training and the test annotations of {name} list other categories; make them one list"
        )
    used = {entry["category_id"] for file in files for entry in file["annotations"]}
    categories: list[dict[str, Any]] = sorted(files[0]["categories"], key=by_id)
    classes = [c for c in categories if c["id"] in used or not _only_heads(c, categories)]
    return classes or categories


def by_id(entry: Mapping[str, Any]) -> tuple[bool, Any]:
    """Return what sorts entries by id: numbers, then text."""
    return isinstance(entry["id"], str), entry["id"]


def _only_heads(category: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> bool:
    above = [other.get("supercategory") for other in categories if other is not category]
    root = category["id"] == 0 and category.get("supercategory") == "none" and "none" not in above
    return bool(above) and (category["name"] in above or root)


def require_unique(what: str, entries: Sequence[Mapping[str, Any]], *keys: str) -> None:
    """Raise a :class:`DataError` where two entries have the same value of one of the keys."""
    faults = []
    for key in keys:
        seen = set[Any]()
        for entry in entries:
            if (value := entry.get(key)) is not None and value in seen:
                faults.append(f"{what} {entry['id']!r}: {key} {value!r:.60} is listed twice; list it once")
            seen.add(value)
    if faults:
        raise Faults(faults)


# --- one entry ----------------------------------------------------------------------------------------


def _entries(
    what: str, entries: Sequence[Any], check: Callable[[str, Mapping[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return each entry as ``check`` returns it, given what it is called in errors."""

    def one(place: int, entry: Any) -> dict[str, Any]:
        if not isinstance(entry, Mapping):
            raise DataError(f"{what} number {place} is {entry!r:.40}; expected an object with keys")
        return check(f"{what} {entry['id']!r:.40}" if "id" in entry else f"{what} number {place}", entry)

    return gathered(partial(one, place, entry) for place, entry in enumerate(entries, 1))


def _category(what: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    own, name = _value(what, entry, "id"), _value(what, entry, "name", _name, "the name of a class")
    return {**entry, "id": own, "name": name}


def _image(what: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {**entry, "id": _value(what, entry, "id")}
    for side in ("height", "width"):
        found[side] = _value(what, entry, side, _pixels, "a whole number of pixels")
    if "file_name" in entry:
        _value(what, entry, "file_name", _text, "the name of its picture")  # which may begin with a blank
    return found


def _annotation(
    what: str, entry: Mapping[str, Any], sizes: Mapping[Any, tuple[int, int]], categories: Container[Any]
) -> dict[str, Any]:
    if (image := _value(what, entry, "image_id")) not in sizes:
        raise DataError(
            f"{what} is of image {image!r}, which 'images' does not list; add it there, or remove the entry"
        )
    return {"id": entry.get("id"), "image_id": image, **checked_object(what, entry, categories, sizes[image])}


def checked_object(
    what: str, entry: Mapping[str, Any], categories: Container[Any], size: tuple[int, int]
) -> dict[str, Any]:
    """Return an annotation's category, box and crowd; the box is None where it has no extent.

    ``what`` names it in errors; ``size`` is height and width of its image.
    """
    if (category := _value(what, entry, "category_id")) not in categories:
        raise DataError(
            f"{what} has category_id {category!r}, which 'categories' does not list; add it there, or remove "
            "the annotation"
        )
    if (crowd := entry.get("iscrowd") or 0) not in (0, 1) or isinstance(crowd, str):
        raise DataError(f"{what}: iscrowd = {crowd!r:.40}; expected 0 or 1")
    box = checked_box(what, _present(what, entry, "bbox"), size)
    return {"category_id": category, "bbox": box, "iscrowd": int(crowd)}


def checked_box(what: str, box: Any, size: tuple[int, int]) -> list[float] | None:
    """Return a box, [left, top, width, height], in an image of some height and width; None without extent."""
    given, layout = f"{what}: bbox = {box!r:.80}", "[left, top, width, height]"
    if not isinstance(box, list | tuple) or len(box) != 4:
        raise DataError(f"{given}; expected {layout}")
    if not all(type(v) in (int, float) and abs(v) < 1e9 for v in box):  # which NaN is not
        raise DataError(f"{given}; expected four numbers of pixels")
    if min(box[2:]) < 0:
        raise DataError(f"{given}; expected {layout}, width and height above 0")
    if min(box[2:]) == 0:
        return None
    cut = [0.0] * 4
    for axis, side in enumerate(reversed(size)):
        start, end = box[axis], box[axis] + box[axis + 2]
        if max(-start, end - side) > max(1, SLACK * side) or not (end > 0 and start < side):
            raise DataError(
                f"{given} does not lie in its image of width {size[1]} and height {size[0]}; expected "
                f"{layout} in pixels of the image"
            )
        inside = start >= 0 and end <= side
        cut[axis] = float(max(0, start))
        cut[axis + 2] = float(box[axis + 2] if inside else min(side, end) - max(0, start))
    return cut


def _present(what: str, entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        raise DataError(f"{what} has no {key!r} in the annotation file; add it")
    return entry[key]


def _id(value: Any) -> int | str | None:
    return _text(value) if (number := _whole(value)) is None else number


def _value(
    what: str,
    entry: Mapping[str, Any],
    key: str,
    read: Callable[[Any], Any] = _id,
    expected: str = "a whole number",
) -> Any:
    """Return what ``read`` makes of an entry's value; None from it is an error."""
    if (value := read(given := _present(what, entry, key))) is None:
        raise DataError(f"{what}: {key} = {given!r:.40}; expected {expected}")
    return value


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _name(value: Any) -> str | None:
    return str(value) if type(value) is int else _text(value)


def _pixels(value: Any) -> int | None:
    return number if (number := _whole(value)) and 0 < number < 1 << 31 else None


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        return int(value)
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


# --- Pascal VOC ---------------------------------------------------------------------------------------


def read_voc(root: Path) -> dict[str, Coco]:
    """Return the training and the test split of a folder in VOC's layout.

    Corners may be fractions of a pixel: (xmin, ymin) is the box's left top, and its width xmax − xmin. VOC's
    own files count pixels from 1 and include the last one, which is a pixel less here. Objects marked
    difficult become crowds, which are no targets and count neither for nor against a detector, as in VOC's
    evaluation. Category ids count from 1, by name.

    Raises:
        DataError: where a part is missing, and for each annotation that is not as VOC writes it.
    """
    if not (root / "JPEGImages").is_dir():
        raise DataError(f"no folder of images at {root / 'JPEGImages'}; expected VOC's layout")
    lists = {"train": _voc_list(root, "trainval", "train"), "test": _voc_list(root, "test", "val")}
    if both := sorted(set(lists["train"]) & set(lists["test"])):
        raise DataError(
            f"{root / 'ImageSets' / 'Main'} lists {both[0]!r} for training and for the test "
            f"({len(both)} such images); list each once"
        )
    there: dict[str, list[Path]] = {}
    for path in visible(root / "JPEGImages"):
        if path.suffix.lower() in ENDINGS:
            there.setdefault(path.stem, []).append(path)
    read = partial(_voc_image, root, there)
    splits = gathered(partial(gathered, (partial(read, stem) for stem in stems)) for stems in lists.values())
    names = sorted({found["name"] for split in splits for image in split for found in image["objects"]})
    return {split: _as_coco(images, names) for split, images in zip(lists, splits, strict=True)}


def _as_coco(found: Sequence[dict[str, Any]], names: Sequence[str]) -> Coco:
    images = [{"id": i, **image} for i, image in enumerate(found, 1)]
    require_unique("image", images, "file_name")
    annotations = [
        {**own, "image_id": image["id"], "category_id": names.index(own["name"]) + 1}
        for image in images
        for own in image["objects"]
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _voc_image(root: Path, there: Mapping[str, list[Path]], stem: str) -> dict[str, Any]:
    """Return an image's file, size and objects."""
    file = root / "Annotations" / f"{stem}.xml"
    tree = _tree(file)
    picture = _voc_picture(file, tree.findtext("filename") or "", stem, there)
    width, height = _voc_size(file, tree) or probe(picture)
    objects = gathered(
        partial(_voc_object, f"{file}, object {place}", entry, (height, width))
        for place, entry in enumerate(tree.iter("object"), 1)
    )
    kept = [found for found in objects if found["bbox"]]
    return {"file_name": picture.name, "width": width, "height": height, "objects": kept}


def _voc_object(what: str, entry: ElementTree.Element, size: tuple[int, int]) -> dict[str, Any]:
    if not (name := _below(what, entry, "name")):
        raise DataError(f"{what}, has an empty <name>; expected the name of a class")
    left, top, right, bottom = (
        _number(what, entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    box = checked_box(f"{what} ({name})", [left, top, right - left, bottom - top], size)
    return {"name": name, "bbox": box, "iscrowd": int((entry.findtext("difficult") or "").strip() == "1")}


def _voc_size(file: Path, tree: ElementTree.Element) -> Size | None:
    """Return the width and height that an annotation declares; None where it does not, or 0."""
    width, height = (
        _number(str(file), tree, side) if (tree.findtext(side) or "").strip() else 0.0
        for side in ("size/width", "size/height")
    )
    if 0 in (width, height):
        return None
    if min(width, height) < 0 or not (width.is_integer() and height.is_integer()):
        raise DataError(f"{file}: <size> is {width:g} × {height:g}; expected whole numbers of pixels")
    return int(width), int(height)


def _voc_picture(file: Path, named: str, stem: str, there: Mapping[str, list[Path]]) -> Path:
    name = named.replace("\\", "/").strip().rpartition("/")[2]
    found = there.get(Path(stem).name) or there.get(Path(name).stem) or there.get(name) or []
    if len(found) > 1:
        found = [path for path in found if path.name == name] or found
    if len(found) != 1:
        what = f"several pictures {', '.join(path.name for path in found)}" if found else "no picture"
        raise DataError(
            f"{file} has {what} in JPEGImages; expected one of its name, {stem}.jpg or another ending"
        )
    return found[0]


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, whose entities may grow without end; remove it")


def _tree(file: Path) -> ElementTree.Element:
    try:
        with file.open("rb") as opened:
            parser = ElementTree.XMLParser(target=_NoDoctype())
            root: ElementTree.Element = ElementTree.parse(opened, parser).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as problem:
        raise DataError(f"{file} is no readable annotation ({problem}); expected VOC's XML") from problem
    if root.tag != "annotation":
        raise DataError(f"{file} is no readable annotation (it holds a <{root.tag}>); expected VOC's XML")
    return root


def _below(what: str, element: ElementTree.Element, path: str) -> str:
    if (found := element.findtext(path)) is None:
        raise DataError(f"{what}, has no <{path.replace('/', '><')}> in its <{element.tag}>; add it")
    return found.strip()


def _number(what: str, element: ElementTree.Element, path: str) -> float:
    text = _below(what, element, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e9 or "_" in text:
        raise DataError(f"{what}: <{path.replace('/', '><')}> is {text!r:.40}; expected a number of pixels")
    return number


def _voc_list(root: Path, *names: str) -> list[str]:
    """Return the names of the images in the first list that is there, each once."""
    folder = root / "ImageSets" / "Main"
    for name in names:
        if (file := folder / f"{name}.txt").is_file():
            read = partial(_voc_stem, root / "Annotations", file)
            return list(dict.fromkeys(gathered(partial(read, line) for line in read_lines(file))))
    raise DataError(
        f"{folder} has neither {' nor '.join(f'{n}.txt' for n in names)}; add a list of image names"
    )


def _voc_stem(annotations: Path, file: Path, line: str) -> str:
    """Return the name of the annotation that a line means: it may carry a label, an ending or a folder."""
    unlabelled = re.sub(r"\s+(-1|0|1)$", "", line)
    for name in (line, unlabelled):
        path = Path(name.replace("\\", "/"))
        for stem in (name, path.stem if path.suffix.lower() in ENDINGS else path.name):
            if os.path.isfile(annotations / f"{stem}.xml"):  # which no name is too long for
                return stem
    raise DataError(
        f"{file} lists {line!r:.80}, but there is no {unlabelled}.xml in {annotations}; add it, or take "
        "it out"
    )
