"""Self-checks of notebook 13's exercises: enrolment, export, dossier, compacting."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.compact import factors
from minigslora.course.checks.common import Demands, close
from minigslora.dossier import digest
from minigslora.lora import Adapter


def _stack(seed: int, requests: int, rank: int) -> list[Adapter]:
    """Return the adapters of some requests on one layer of 24 inputs and 16 outputs, trained ones."""
    stream, layer = torch.Generator().manual_seed(seed), torch.nn.Linear(24, 16)
    made = [Adapter(layer, rank, 1 / rank, stream) for _ in range(requests)]
    for adapter in made:
        adapter.B.data.normal_(generator=stream)
    return made


def exercise_13_1(row_of: Callable[[Tensor, Tensor], Tensor]) -> Demands:
    """Check the row of an enrolled class."""
    stream = torch.Generator().manual_seed(131)
    rows, features = (torch.randn(n, 32, generator=stream) for n in (7, 5))
    found = row_of(rows.clone(), features.clone())
    yield found.shape == (32,), f"One row of 32 numbers is expected, not {tuple(found.shape)}."
    hint = "Its length is the mean length of the other rows: not 1, and not that of their mean."
    yield close(found.norm(), rows.norm(dim=1).mean(), hint)
    yield close(F.normalize(found, dim=0), F.normalize(features.mean(dim=0), dim=0), "It points another way.")


def exercise_13_2(joined: Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[float]], Any]) -> Demands:
    """Check one adapter made of several, with the ranks side by side."""
    for requests, rank in ((1, 4), (3, 2), (4, 8)):
        stack = _stack(132 + requests, requests, rank)
        scales = [adapter.scale * (1 + i) for i, adapter in enumerate(stack)]
        A, B = joined([a.A.detach() for a in stack], [a.B.detach() for a in stack], scales)
        said = f"Of {requests} adapters of rank {rank}"
        yield A.shape == (requests * rank, 24), f"{said} A has shape {tuple(A.shape)}."
        yield B.shape == (16, requests * rank), f"{said} B has shape {tuple(B.shape)}."
        expected = sum(s * a.B.detach() @ a.A.detach() for s, a in zip(scales, stack, strict=True))
        yield close(B @ A, expected, f"{said} the product is not the sum; where do the scales go?")


def exercise_13_3(rows_needed: Callable[[Sequence[Tensor], Sequence[Tensor]], int]) -> Demands:
    """Check how many rows the sum of several adapters needs."""
    for requests, rank in ((1, 4), (2, 4), (3, 4), (8, 4)):
        stack = _stack(133 + requests, requests, rank)
        if requests == 3:  # the third asks for what the first asked for
            stack[2] = copy.deepcopy(stack[0])
        expected = len(factors(stack)[0])
        found = rows_needed([a.A.detach() for a in stack], [a.B.detach() for a in stack])
        hint = f"{requests} adapters of rank {rank} on a layer of 24 inputs and 16 outputs need {expected}."
        yield found == expected, f"{hint} You found {found}."


def exercise_13_4(changed: Callable[[dict[str, Any], dict[str, Any]], list[str]]) -> Demands:
    """Check what two dossiers do not have in common."""
    first: dict[str, Any] = {
        "format": "minigslora dossier",
        "file": {"name": "erased.safetensors", "sha256": "ab" * 32, "bytes": 3_000_000},
        "ledger": [{"request": "task1", "classes": ["person-007"], "date": "2026-11-28"}],
    }
    first["digest"] = digest(first)
    yield changed(first, copy.deepcopy(first)) == [], "Two equal dossiers have nothing that differs."
    second = copy.deepcopy(first)
    second["ledger"][0]["date"] = "2026-11-27"
    hint = "Where a date in the ledger was edited, name the ledger, and the digest that holds no more."
    yield sorted(changed(first, second)) == ["digest", "ledger"], hint
    second["digest"] = digest(second)
    hint = "Where the digest was computed anew after the edit, it holds: only the ledger differs."
    yield changed(first, second) == ["ledger"], hint
