"""Images in class folders: ``ROOT/train/CLASS/*.jpg`` and ``ROOT/test/CLASS/*.jpg``.

``val`` is taken where there is one and else held out of ``train``; a root with class folders only is
split into all three. The classes are in the order of ``classes.txt`` where one lies beside their folders.
CASIA-Face100, ImageNet100 and anyone's own photographs come this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from minigslora.class_order import in_order
from minigslora.datasets.images import DataSet, ImageSet, hold_out
from minigslora.datasets.pictures import ENDINGS, ImageFiles, gathered
from minigslora.errors import DataError
from minigslora.files import read_lines
from minigslora.text import some

Files = dict[str, list[Path]]
"""Image files by class."""

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": (validation := ("val", "valid", "validation", "dev", "validation_set")),
    "test": ("test", "testing", "test_set", *validation),
}
"""What the folder of a split may be called, whatever the case."""
SPLIT_FOLDERS = {name for names in SPLIT_NAMES.values() for name in names}
BY_THE_SYSTEM = {"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle"}
"""Folders that hold none of the user's images; hidden ones (".name") and a NAS's ("@name") do not either."""
RUN_MARKS = ("run.json", "identity.json", "executed.ipynb", "report.html")
"""A folder with one of these holds a run's results, whose figures are not images of a class."""
OTHER_LAYOUTS = {
    "Pascal VOC": ("JPEGImages", "*/JPEGImages"),
    "COCO": ("annotations/instances_*.json", "*/_annotations.coco.json"),
    "YOLO": ("labels/*.txt", "labels/*/*.txt", "train/labels/*.txt"),
}
"""Detection data, and what tells their layouts."""
CLASS_LIST = "classes.txt"
"""Beside the class folders: their names in the order of the model's head, one a line."""


def load(
    root: Path | str,
    image_size: int,
    name: str = "",
    watch: bool = False,
    classes: Sequence[str] | None = None,
    find: Callable[[Path], dict[str, Files]] | None = None,
) -> DataSet:
    """Return the data set below ``root``, images as squares of ``image_size`` pixels.

    Args:
        root: the folder.
        image_size: height and width to resize to.
        name: what to call the data set; its folder's name by default.
        watch: whether to show progress.
        classes: the class folders' names in the order of the model's head. Where they are not given, a
            ``classes.txt`` in ``root`` or in its training folder says them, one a line; without one they
            are sorted by code point.
        find: gives the files of each split by class; :func:`splits` by default.

    Raises:
        DataError: for a missing folder, a split without images, a class of one split that another
            lacks in training, a list of other classes, or an unreadable image.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"no data folder at {root}; expected {root / 'train' / 'CLASS' / 'image.jpg'} and "
            f"{root / 'test' / 'CLASS' / 'image.jpg'}"
        )
    _no_detection_data(root)
    files = (find or splits)(root)
    ordered = class_order(root, files["train"], classes)
    train, val, test = gathered(
        partial(image_set, files[split], ordered, image_size, f"{root.name}/{split}", watch)
        for split in ("train", "val", "test")
    )
    return DataSet(name or root.name, train, val, test, split_by_us=split_folders(root)["train"] is None)


def class_order(root: Path, found: Iterable[str], given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the classes in the order of the model's head: as given, as ``classes.txt`` says, or sorted."""
    if given is not None:
        return in_order(given, found, "the class names given")
    places = dict.fromkeys((root, split_folders(root)["train"] or root))
    lists = [place / CLASS_LIST for place in places if (place / CLASS_LIST).is_file()]
    orders = [in_order(read_lines(file), found, str(file)) for file in lists]
    if len(set(orders)) > 1:
        raise DataError(f"{lists[0]} and {lists[1]} list the classes in two orders; remove the wrong one")
    return orders[0] if orders else tuple(sorted(found))


# --- the files ---------------------------------------------------------------------------------------


def class_files(folder: Path) -> Files:
    """Return the image files of each class folder, both sorted by name.

    Links are followed, a folder that several lead to is read once, and folders of results are passed over.
    """
    above = {folder.resolve(), *folder.resolve().parents}  # a link that leads up would bring other classes
    found: Files = {}
    for sub in visible(folder):
        if sub.is_dir():
            own = sorted(_pictures(sub, set(above)))
            if own or not any(next(sub.rglob(mark), None) for mark in RUN_MARKS):
                found[sub.name] = own
    return found


def loose_files(folder: Path) -> list[Path]:
    """Return the image files that lie in a folder itself, sorted by name.

    Raises:
        DataError: where there is none.
    """
    files = [path for path in visible(folder) if path.suffix.lower() in ENDINGS and path.is_file()]
    if not files:
        within = [sub for sub, own in class_files(folder).items() if own]
        there = f"; there are some in {some(within)}, but one class is asked for" if within else ""
        raise DataError(f"{folder} has no image in it{there} (images end in {', '.join(sorted(ENDINGS))})")
    return files


def _pictures(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if (real := folder.resolve()) in seen or any((folder / mark).is_file() for mark in RUN_MARKS):
        return
    seen.add(real)
    for path in visible(folder):
        if path.is_dir():
            yield from _pictures(path, seen)
        elif path.suffix.lower() in ENDINGS:
            yield path


def visible(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without what is hidden or the system's."""
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if not path.name.startswith((".", "@")) and path.name not in BY_THE_SYSTEM
        )
    except OSError as problem:
        raise DataError(
            f"the folder {folder} cannot be read ({problem.strerror}); allow it, or take it out"
        ) from problem


def split_folders(root: Path) -> dict[str, Path | None]:
    """Return the folder of each split below ``root``, whatever its case; None where there is none."""
    known: dict[str, Path] = {}
    for sub in visible(root) if root.is_dir() else []:
        if sub.is_dir() and (name := sub.name.casefold()) in SPLIT_FOLDERS:
            if name in known:
                raise DataError(f"{root} has both {known[name].name}/ and {sub.name}/; keep one of them")
            known[name] = sub
    return {
        split: next((known[name] for name in names if name in known), None)
        for split, names in SPLIT_NAMES.items()
    }


def splits(root: Path) -> dict[str, Files]:
    """Return the files of train, val and test below ``root`` by class.

    Raises:
        DataError: for a split without images, or a class of one split that training lacks.
    """
    folders = split_folders(root)
    if folders["train"] is None:
        return _split_by_us(root, folders["test"])
    if folders["test"] is None:
        raise DataError(
            f"{root} has {folders['train'].name}/ but neither test/ nor val/; add one to measure on"
        )
    train, test = _not_empty(folders["train"]), _not_empty(folders["test"])
    _no_other_classes(folders["test"], test, folders["train"], train)
    if folders["val"] is None or folders["val"] == folders["test"]:
        train, val = held_out(train, 0.1)
    else:
        val = _not_empty(folders["val"])
        _no_other_classes(folders["val"], val, folders["train"], train)
    return {"train": train, "val": val, "test": test}


def _split_by_us(root: Path, test: Path | None) -> dict[str, Files]:
    """Return the splits of class folders alone; a class with one image is trained on and not tested."""
    if test is not None and any(class_files(test).values()):
        raise DataError(f"{root} has {test.name}/ but no train/; name the folder of training images train")
    for sub in visible(root):
        if sub.is_dir() and (nested := split_folders(sub)["train"]) is not None:
            raise DataError(
                f"{root} is no data set, but {sub} is one: it has {nested.name}/. Give that folder"
            )
    train, rest = held_out(_not_empty(root), 0.2)
    test_files, val = held_out(rest, 0.5)  # the only image held out is for the test
    return {"train": train, "val": val, "test": test_files}


def _no_detection_data(root: Path) -> None:
    """Refuse boxed objects: their folders would be taken for classes."""
    for layout, patterns in OTHER_LAYOUTS.items():
        if mark := next((path for pattern in patterns for path in root.glob(pattern)), None):
            raise DataError(
                f"{root} holds detection data in {layout}'s layout ({mark.relative_to(root)}); expected "
                "class folders, CLASS/image.jpg. For boxed objects see notebook 09, object detection"
            )


def _not_empty(folder: Path) -> Files:
    found = class_files(folder)
    accepted = f"images end in {', '.join(sorted(ENDINGS))}"
    if not any(found.values()):
        loose = sum(path.suffix.lower() in ENDINGS for path in visible(folder))
        there = f"; its {loose} images lie in no class folder" if loose else ""
        raise DataError(
            f"{folder} has no class folder with images; expected CLASS/image.jpg in it{there} ({accepted})"
        )
    if empty := [folder / name for name, files in found.items() if not files]:
        others = sorted({path.suffix for path in empty[0].rglob("*") if path.is_file() and path.suffix})
        there = f"; its files end in {some(map(repr, others))}" if others else ""
        more = f" ({len(empty)} such folders)" if len(empty) > 1 else ""
        raise DataError(
            f"the class folder {empty[0]} has no image; fill or remove it{more}{there} ({accepted})"
        )
    return found


def _no_other_classes(
    folder: Path, found: Mapping[str, Sequence[Path]], train: Path, known: Mapping[str, Sequence[Path]]
) -> None:
    """Refuse a class that training lacks: the model's head has no row for it."""
    if unknown := sorted(set(found) - set(known)):
        raise DataError(
            f"{folder} has the class folder {unknown[0]!r}, which {train} lacks; add its training images, "
            "or remove it"
        )


def held_out(files: Mapping[str, Sequence[Path]], share: float) -> tuple[Files, Files]:
    """Return what is left of each class, and the share held out: at least one image where it has two."""
    kept: Files = {}
    held: Files = {}
    for name, own in files.items():
        count = max(0, min(len(own) - 1, max(1, round(share * len(own)))))
        kept[name], held[name] = hold_out(own, count, name)
    return kept, held


def image_set(
    files: Mapping[str, Sequence[Path]], classes: tuple[str, ...], size: int, what: str, watch: bool
) -> ImageSet:
    """Read a split's files by class, cropped to squares; ``what`` is the split, for the progress bar."""
    paths = tuple(f for name in classes for f in files.get(name, ()))
    numbers = [i for i, n in enumerate(classes) for _ in files.get(n, ())]
    images = ImageFiles(paths, size).loaded(what, watch)
    return ImageSet(images, torch.tensor(numbers, dtype=torch.long), classes)
