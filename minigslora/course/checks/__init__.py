"""The exercises' self-checks: each says what is right, or what to look at next, and never the answer.

Five files have what the exercises ask, as generators ``exercise_NN_M`` of demands. Taken from
here they are checks: ``checks.exercise_04_1(my_answer)`` stops at the first demand that is not met.
"""

import functools
import re
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any

FILES = {
    "adapters": range(4),
    "forgetting": range(4, 7),
    "benchmarks": range(7, 12),
    "audits": range(12, 13),
    "shipping": range(13, 14),
}
"""The notebooks whose exercises a file has."""


class NotYet(AssertionError):
    """An exercise's answer is not right yet; the message says what to look at."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints: the message alone, since the traceback shows only the check."""
        return [f"✘ {self}"]


def __getattr__(name: str) -> Callable[..., None]:
    """Return the self-check of an exercise; a file is read when one of its exercises is first checked."""
    found = re.fullmatch(r"exercise_(\d\d)_\d", name)
    files = [file for file, notebooks in FILES.items() if found and int(found[1]) in notebooks]
    if not files:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    demands = getattr(import_module(f"{__name__}.{files[0]}"), name)
    number = name.removeprefix("exercise_").replace("_", ".")

    @functools.wraps(demands)
    def check(*args: Any, **kwargs: Any) -> None:
        try:
            hint = next((hint for met, hint in demands(*args, **kwargs) if not met), "")
        except Exception as error:
            if answer := _of_the_answer(error.__traceback__):
                raise error.with_traceback(answer) from None  # it leads to the line
            hint = (
                "The answer has another form than the check expects; read again what to return, of which "
                f"type and shape, and whether you return it at all. ({type(error).__name__}: {error})"
            )
            raise NotYet(f"Exercise {number}: not yet. {hint}") from error
        if hint:
            raise NotYet(f"Exercise {number}: not yet. {hint}")
        print(f"✔ Exercise {number}")

    return check


def _of_the_answer(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in a notebook's cell, where an answer's own code ran."""
    while trace and trace.tb_frame.f_globals.get("__name__") != "__main__":
        trace = trace.tb_next
    return trace
