"""All that is wrong with a folder or a file, in one error instead of one a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from minigslora.errors import DataError

T = TypeVar("T")
SHOWN = 5
"""How many faults a message names; the rest are counted."""


class Faults(DataError):
    """Several faults found in one go.

    Attributes:
        faults: what is wrong, and what to do, of each.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        shown = "; ".join(self.faults[:SHOWN]) + ("; …" if len(faults) > SHOWN else "")
        super().__init__(shown if len(faults) == 1 else f"{shown} ({len(faults)} faults in all)")


def faults_of(problem: DataError) -> tuple[str, ...]:
    """Return what a data error is made of."""
    return problem.faults if isinstance(problem, Faults) else (str(problem),)


def gathered(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Return what each call returns.

    Raises:
        Faults: the data errors of all calls that failed.
    """
    found, faults = list[T](), list[str]()
    for call in calls:
        try:
            found.append(call())
        except DataError as problem:
            faults += faults_of(problem)
    if faults:
        raise Faults(faults)
    return found
