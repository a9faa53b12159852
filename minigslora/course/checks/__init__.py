"""The exercises' self-checks: each says what is right, or what to look at next, and never the answer.

A file for each notebook has what its exercises ask, as generators ``exercise_NN_M`` of demands. Taken from
here they are checks: ``checks.exercise_04_1(my_answer)`` stops at the first demand that is not met.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

FILES = {
    "00": "start_here",
    "01": "pretrain",
    "02": "lora_injection",
    "03": "group_sparsity",
    "04": "forget_once",
    "05": "forget_again",
    "06": "prototypes",
    "07": "face_benchmark",
    "08": "image_classification",
    "09": "object_detection",
    "10": "baselines",
    "11": "ablations",
}


class NotYet(AssertionError):
    """An exercise's answer is not right yet; the message says what to look at."""


def __getattr__(name: str) -> Callable[..., None]:
    """Return the self-check of an exercise; a notebook's file is read when its first one is used."""
    kind, _, number = name.partition("_")
    if kind != "exercise" or number[:2] not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    demands = getattr(import_module(f"{__name__}.{FILES[number[:2]]}"), name)

    @functools.wraps(demands)
    def check(*args: Any, **kwargs: Any) -> None:
        for met, hint in demands(*args, **kwargs):
            if not met:
                raise NotYet(f"Exercise {number.replace('_', '.')}: not yet. {hint}")
        print(f"✔ Exercise {number.replace('_', '.')}")

    return check
