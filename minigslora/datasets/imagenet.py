"""ImageNet's kin in their own layouts: folders named by WordNet ids ("n01440764").

ImageNet100, ImageNet and Tiny-ImageNet come as ``train/WNID/*.JPEG`` and ``val/WNID/*.JPEG``;
Tiny-ImageNet as its makers distribute it has ``train/WNID/images/*.JPEG`` and one ``val/images`` with
``val/val_annotations.txt``. Beside the folders may lie ``wnids.txt``, one class a line, which says what
must be there, and ``words.txt`` (WNID, tab, names) or ``Labels.json`` ({WNID: names}), which say what the
classes are called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from minigslora.datasets import folders
from minigslora.datasets.folders import Files
from minigslora.datasets.images import ImageSet
from minigslora.errors import DataError
from minigslora.files import read_lines

WNID = re.compile(r"n\d{8}")
ANNOTATIONS = "val_annotations.txt"


def splits(root: Path, classes: int = 0) -> dict[str, Files]:
    """Return the files of train, val and test below ``root`` by WordNet id; for :func:`folders.load`.

    Args:
        root: the folder with ``train`` and ``val``.
        classes: how many classes there must be where no ``wnids.txt`` says so; 0 for any number.

    Raises:
        DataError: naming a folder that is no WordNet id or is not listed, a listed class without
            folder or images, a wrong number of classes, or what :mod:`folders` refuses.
    """
    distributed = (root / "val" / ANNOTATIONS).is_file()
    _only_wnids(root, *(("train",) if distributed else ("train", "val", "test")))
    found = _as_distributed(root) if distributed else folders.splits(root)
    _check_classes(root, found, classes)
    return found


def _as_distributed(root: Path) -> dict[str, Files]:
    """Return the splits of Tiny-ImageNet's own layout."""
    notes = root / "val" / ANNOTATIONS
    for folder in (root / "train", root / "val" / "images"):
        if not folder.is_dir():
            raise DataError(f"{root} has val/{ANNOTATIONS} but no folder {folder}; unpack the archive anew")
    train, val = folders.held_out(folders.class_files(root / "train"), 0.1)
    test: Files = {}
    for line in read_lines(notes):
        file, *after = line.split("\t")
        if not after:
            raise DataError(f"{notes}: {line!r} is not of the form FILE, tab, WNID")
        if not (path := root / "val" / "images" / file).is_file():
            raise DataError(f"{notes} names {file}, which is not in val/images")
        test.setdefault(after[0].strip(), []).append(path)
    if strange := sorted(set(test) - set(train)):
        raise DataError(f"{notes} names the class {strange[0]}, which train/ lacks")
    return {"train": train, "val": val, "test": test}


def _only_wnids(root: Path, *splits: str) -> None:
    """Refuse a class folder that is no WordNet id: a class under a wrong name would shift the head's rows."""
    for folder in (root / split for split in splits):
        for sub in folders.visible(folder) if folder.is_dir() else ():
            if sub.is_dir() and not WNID.fullmatch(sub.name):
                raise DataError(
                    f"the folder {sub} is not named by a WordNet id; expected a name such as n01440764. "
                    "Rename or remove it"
                )


def _check_classes(root: Path, splits: Mapping[str, Files], classes: int) -> None:
    named, listed, train = names(root), wnids(root), splits["train"]
    for folder, files in ((root / "train", train), (root / "val", splits["test"])):
        lacking = [wnid for wnid in listed or train if not files.get(wnid)]
        strange = [wnid for wnid in files if listed and wnid not in listed]
        first = next(iter(lacking + strange), "")
        what = f"{first} ({named[first]})" if first in named else first
        if lacking and listed:
            raise DataError(
                f"{folder} has no image of {what}, which {root / 'wnids.txt'} lists "
                f"({len(lacking)} of {len(listed)} classes are missing); add its folder"
            )
        if strange:
            raise DataError(
                f"{folder} has the class folder {what}, which {root / 'wnids.txt'} does not list; remove the "
                "folder, or add it to the list"
            )
        if lacking:
            raise DataError(f"{folder} has no image of {what}, which train/ has; add some")
    if classes and not listed and len(train) != classes:
        raise DataError(
            f"{root / 'train'} has {len(train)} class folders, not {classes}; remove those that do not "
            f"belong there, or list the wanted ones in {root / 'wnids.txt'}"
        )


def wnids(root: Path) -> list[str]:
    """Return the WordNet ids that ``wnids.txt`` below ``root`` lists; none where there is no such file."""
    path = root / "wnids.txt"
    if not path.is_file():
        return []
    found = " ".join(read_lines(path)).split()
    for number, wnid in enumerate(found, 1):
        if not WNID.fullmatch(wnid):
            raise DataError(f"{path}, entry {number}: {wnid!r} is no WordNet id such as n01440764")
        if wnid in found[: number - 1]:
            raise DataError(f"{path}, entry {number}: {wnid} is listed twice; list it once")
    return found


def names(root: Path) -> dict[str, str]:
    """Return what the classes are called, from ``words.txt`` or ``Labels.json``; empty without either."""
    words, labels = root / "words.txt", root / "Labels.json"
    if words.is_file():
        return {wnid: called for wnid, _, called in (line.partition("\t") for line in read_lines(words))}
    if not labels.is_file():
        return {}
    try:
        return {str(k): str(v) for k, v in json.loads(labels.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        raise DataError(f"{labels} is no JSON of the form {{WNID: names}}; correct or remove it") from None


def outside(root: Path, task: Sequence[str], image_size: int, watch: bool = False) -> ImageSet:
    """Return ImageNet's validation images of all classes below ``root`` but those of the task.

    Args:
        root: a folder with ``val/WNID``, the task's classes among them or not.
        task: the task's WordNet ids.
        image_size: height and width to resize to.
        watch: whether to show progress.
    """
    _only_wnids(root, "val")
    folder = root / "val"
    files = folders.class_files(folder) if folder.is_dir() else {}
    others = {wnid: own for wnid, own in files.items() if wnid not in set(task) and own}
    if not others:
        raise DataError(
            f"{folder} has no class folder outside the task; expected val/WNID/*.JPEG of ImageNet's other "
            "classes"
        )
    return folders.image_set(others, tuple(others), image_size, f"{root.name}/val", watch)
