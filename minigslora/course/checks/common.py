"""What all self-checks share: how an answer is compared, and what is said where it is wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GOOD = "✔"
"""What a passed check prints."""


class NotYet(AssertionError):
    """An exercise's answer is not right yet; the message says what to look at."""


def passed(exercise: str, right: bool, hint: str) -> None:
    """Print that ``exercise`` is solved, or raise :class:`NotYet` with a hint."""
    if not right:
        raise NotYet(f"Exercise {exercise}: not yet. {hint}")
    print(f"{GOOD} Exercise {exercise}")


def close(exercise: str, given: Any, expected: Any, hint: str, tolerance: float = 1e-5) -> None:
    """Check a number or tensor against the expected one, shapes included."""
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (_detached(given), _detached(expected)))
    if a.shape != b.shape:
        hint = f"Its shape is {tuple(a.shape)}, but {tuple(b.shape)} is expected. {hint}"
    right = a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    passed(exercise, right, hint)


def require(exercise: str, right: bool, hint: str) -> None:
    """Raise :class:`NotYet` with a hint unless one of several demands of ``exercise`` is met."""
    if not right:
        raise NotYet(f"Exercise {exercise}: not yet. {hint}")


def _detached(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value
