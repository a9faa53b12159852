"""Which class is which: the order of a data set's classes, and whether a model's head has the same.

A model whose head counts its classes another way than the data do would forget a wrong class and look like a
success. So that is asked before anything is trained.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minigslora.datasets.images import DataSet, spread
from minigslora.errors import DataError
from minigslora.text import some

if TYPE_CHECKING:
    from minigslora.problems.classification import Classification

MOST, CLOSELY, OF_EACH = 500, 50, 20
"""Training images that the model is asked about; classes that are looked at closely; images of each."""

REMEDY = (
    "Give the classes in the order of the model's head: --class-names FILE with one name a line, or such a "
    "file called classes.txt beside the class folders"
)


def in_order(given: Sequence[str], found: Iterable[str], source: str) -> tuple[str, ...]:
    """Return the names found in the order given; a name's accents may be composed or not.

    Raises:
        DataError: naming ``source``, for a name that is given twice, is not there, or is not given.
    """
    known = {unicodedata.normalize("NFC", name): name for name in found}
    order = tuple(known.get(unicodedata.normalize("NFC", name), name) for name in given)
    faults = {
        "names twice": {name for i, name in enumerate(order) if name in order[:i]},
        "names what is no class": set(order) - set(known.values()),
        "leaves out": set(known.values()) - set(order),
    }
    if wrong := [f"{what} {some(map(repr, sorted(names)))}" for what, names in faults.items() if names]:
        raise DataError(
            f"{source}: the list {' and '.join(wrong)}; expected the {len(known)} classes of training, each "
            "once, in the order of the model's head. Correct the list, or remove it for the order by name"
        )
    return order


def reordered(data: DataSet, classes: Sequence[str]) -> DataSet:
    """Return a data set whose labels count its classes in another order."""
    order = in_order(classes, data.classes, "the class names given")
    places = torch.tensor([order.index(name) for name in data.classes])
    sets: dict[str, Any] = {
        split: replace(own, labels=places[own.labels], classes=order)
        for split, own in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    return replace(data, **sets)


def common_orders(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the orders that training programs commonly give to class folders, by what they are called.

    The first is ours, by code point (torchvision, Keras). An order equal to one before it is left out.
    """
    keys: dict[str, Callable[[str], Any]] = {
        "by code point": lambda name: name,
        "natural, whatever the case (2 before 10)": lambda name: _natural(name.casefold()),  # as timm
        "natural (2 before 10)": _natural,
        "whatever the case": str.casefold,
        "as paths (a-b before a)": lambda name: f"{name}/",
    }
    known = sorted(names)
    if all(re.fullmatch("-?[0-9]+", name) for name in known):
        keys["numeric"] = int
    found: dict[str, tuple[str, ...]] = {}
    for what, key in keys.items():
        if (order := tuple(sorted(known, key=key))) not in found.values():
            found[what] = order
    return found


def _natural(name: str) -> list[str | int]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))]


def require_same_order(
    problem: Classification, requested: Sequence[int] = (), old: Sequence[int] = ()
) -> None:
    """Stop where the model does not know the classes by the names that the data give them.

    It is asked about training images, never about the test split: some of all classes, and more of those that
    are to be forgotten and of those whose place differs from one common order to another.

    Args:
        problem: the model and the data.
        requested: classes that are to be forgotten.
        old: classes that the model forgot already.

    Raises:
        DataError: where another common order fits clearly better, or the model is at chance.
    """
    train, names = problem.data.train, problem.data.classes
    orders = {way: [names.index(n) for n in order] for way, order in common_orders(names).items()}
    moved = [c for c in range(len(names)) if any(order[c] != c for order in orders.values())]
    closely = {*requested, *moved[:: max(1, len(moved) // CLOSELY)]} - set(old)
    evenly = spread(train.of_classes([c for c in range(len(names)) if c not in old]), MOST)
    more = [spread(train.of_classes([c]), OF_EACH) for c in sorted(closely)]
    rows = torch.cat([evenly, *more])
    asked = replace(train, images=train.images[rows], labels=train.labels[rows])
    said, labels = problem.logits_of(asked).argmax(dim=1), asked.labels
    right = said == labels
    for way, order in orders.items():
        if fits_better(torch.tensor(order, device=said.device)[said] == labels, right):
            raise DataError(
                f"the model seems to count its classes in another order, {way}: "
                f"{some([names[c] for c in order])}. Here they are {some(names)}, so that it would forget "
                f"another class than you ask for. {REMEDY}"
            )
    right, labels = right[: len(evenly)], labels[: len(evenly)]
    total, known = len(labels), len(labels.unique())
    chance = 1 / max(1, known)
    if known > 1 and float(right.sum()) <= total * chance + 2 * math.sqrt(total * chance * (1 - chance)):
        raise DataError(
            f"the model names {100 * float(right.float().mean()):.1f} % of {total} training images of "
            f"{problem.data.name} rightly, no more than guessing would ({100 * chance:.1f} %): nothing is "
            "to be forgotten, or the wrong class would be. Look for the cause in the order of the classes "
            f"({some(names)}), the normalisation (--mean, --std) and the input size. {REMEDY}. If the model "
            "really knows this little, switch this check off (--no-check, or check=False)"
        )


def fits_better(other: Tensor, own: Tensor) -> bool:
    """Whether one way of naming images, right in ``other`` (N,), clearly beats another, right in ``own``.

    Of the images on which the two disagree, more than half by two standard errors (a sign test).
    """
    gained, lost = float((other & ~own).sum()), float((own & ~other).sum())
    return gained - lost > 2 * math.sqrt(gained + lost)


def in_heads_order(data: DataSet, given: Sequence[str] | None, known: Sequence[str], source: str) -> DataSet:
    """Return the data with their classes in the order given, or else in the one that the model's file says.

    Args:
        data: the data set.
        given: the names in the order of the head, from the user.
        known: the same, from the model's file; empty where it does not say.
        source: what says so.

    Raises:
        DataError: where that names other classes than the data have, or given and file differ.
    """
    if given is not None and known and list(given) != list(known):
        raise DataError(
            f"--class-names has {some(given)}, but {source} says that its head's classes are {some(known)}; "
            "leave --class-names out, or correct it"
        )
    if given is None and known and set(known) != set(data.classes):
        raise DataError(
            f"{source} is for the classes {some(known)}, but {data.name} has {some(data.classes)}; give "
            "images of the model's own classes, in folders of their names"
        )
    order = given if given is not None else known
    return reordered(data, order) if order and tuple(order) != data.classes else data
