"""What the files of self-checks share: what a demand is, and the demand that two values are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Demands = Iterator[tuple[bool, str]]
"""What an exercise asks, one thing after another: whether it is met, and a hint for where it is not."""


def close(given: Any, expected: Any, hint: str, tolerance: float = 1e-5) -> tuple[bool, str]:
    """Demand that a number or tensor is the expected one, shapes included."""
    a, b = (torch.as_tensor(_detached(v), dtype=torch.float64) for v in (given, expected))
    if a.shape != b.shape:
        return False, f"Its shape is {tuple(a.shape)}, but {tuple(b.shape)} is expected. {hint}"
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance), hint


def _detached(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value
