"""Whether a model's head and the classes of the data are in the same order, asked before anything is trained.

A model whose head counts its classes another way than the data do would forget a wrong class and look like a
success.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minigslora.datasets.folders import common_orders
from minigslora.datasets.images import spread
from minigslora.errors import DataError
from minigslora.problems.classification import Classification

MOST = 500
"""Training images that the model is asked about."""

REMEDY = (
    "Give the classes in the order of the model's head: --class-names FILE with one name a line, or such a "
    "file called classes.txt beside the class folders"
)


def require_same_order(problem: Classification, old: Sequence[int] = ()) -> None:
    """Stop where the model does not know the classes by the names that the data give them.

    It is asked about training images, never about the test split.

    Args:
        problem: the model and the data.
        old: classes that the model forgot already.

    Raises:
        DataError: where another common order fits clearly better, or the model is at chance.
    """
    train, names = problem.data.train, problem.data.classes
    rows = spread(train.of_classes([c for c in range(len(names)) if c not in old]), MOST)
    asked = replace(train, images=train.images[rows], labels=train.labels[rows])
    said, labels = problem.logits_of(asked).argmax(dim=1), asked.labels
    right = said == labels
    for way, order in common_orders(names).items():
        if fits_better(
            torch.tensor([names.index(n) for n in order], device=said.device)[said] == labels, right
        ):
            raise DataError(
                f"the model seems to count its classes in another order, {way}: {some(order)}. Here they are "
                f"{some(names)}, so that it would forget another class than you ask for. {REMEDY}"
            )
    total, chance = len(labels), 1 / max(1, len(labels.unique()))
    if float(right.sum()) <= total * chance + 2 * math.sqrt(total * chance * (1 - chance)):
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


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, and how many there are."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
