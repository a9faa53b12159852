"""What a model forgot, request by request: kept on the model, and in the header of its finalised file."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from minigslora.config import from_mapping
from minigslora.errors import MiniGSLoRAError, ModelError
from minigslora.lora import adapter_names, folded_names

KEY = "ledger"
"""The key of a file's header under which its ledger stands."""

_LEDGER, _IN_ADAPTERS = "_ledger", "_ledger_in_adapters"
"""A model's attributes: its ledger, and the names of those requests that live in adapters."""


@dataclass(frozen=True)
class Entry:
    """One request that a model served.

    Attributes:
        request: its name: "task1", "task2", …
        classes: the names of the classes forgotten.
        rows: their rows of the model's head.
        method: how it was done.
        recipe: "corrected" or "released".
        version: of this library.
        weights: :func:`~minigslora.fingerprint.weights_hash` of the model that the request's call began with.
        date: when it was served, as YYYY-MM-DD in UTC.
    """

    request: str
    classes: tuple[str, ...]
    rows: tuple[int, ...]
    method: str = ""
    recipe: str = ""
    version: str = ""
    weights: str = ""
    date: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        how = ", ".join(part for part in (self.method, self.recipe, self.date) if part)
        return f"{self.request}: {', '.join(self.classes)} ({how})"


def of(model: nn.Module) -> tuple[Entry, ...]:
    """Return what ``model`` is known to have forgotten, oldest first.

    A request whose adapter was taken away since is not forgotten any more.
    """
    entries: tuple[Entry, ...] = getattr(model, _LEDGER, ())
    gone = getattr(model, _IN_ADAPTERS, set[str]()) - {*adapter_names(model), *folded_names(model)}
    return tuple(entry for entry in entries if entry.request not in gone)


def put(model: nn.Module, entries: Sequence[Entry]) -> None:
    """Say what ``model`` has forgotten; :func:`copy.deepcopy` takes it along."""
    object.__setattr__(model, _LEDGER, tuple(entries))
    object.__setattr__(model, _IN_ADAPTERS, set(adapter_names(model)))


def header(model: nn.Module) -> dict[str, Any]:
    """Return a model's ledger as it stands in a file's header; nothing where there is none."""
    return {KEY: [asdict(entry) for entry in of(model)]} if of(model) else {}


def read(notes: Mapping[str, Any], where: str) -> tuple[Entry, ...]:
    """Return the ledger in a file's header, empty where there is none.

    Raises:
        ModelError: for a ledger that is damaged; what it says decides what is kept.
    """
    values = notes.get(KEY, [])
    try:
        if not isinstance(values, list) or not all(isinstance(v, Mapping) for v in values):
            raise ModelError("it is no list of requests")
        entries = tuple(from_mapping(Entry, value) for value in values)
        names = [entry.request for entry in entries]
        if not all(re.fullmatch(r"task[0-9]{1,9}", name) for name in names) or len({*names}) < len(names):
            raise ModelError("requests are called task1, task2, …, each once")
        if any(len(e.rows) != len(e.classes) or min(e.rows, default=0) < 0 for e in entries):
            raise ModelError("a request names other classes than rows of the head")
        if len({row for e in entries for row in e.rows}) != sum(len(e.rows) for e in entries):
            raise ModelError("two requests name one row of the head")
    except (MiniGSLoRAError, TypeError) as problem:
        raise ModelError(
            f"the ledger in the header of {where} is damaged ({problem}), so that nobody can tell what the "
            "model forgot; take the file anew from where it was finalised"
        ) from None
    return entries


def today() -> str:
    """Return the date in UTC, or that of SOURCE_DATE_EPOCH, for files that are equal to the byte."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.datetime.now(datetime.UTC)
    moment = datetime.datetime.fromtimestamp(int(given), datetime.UTC) if given.isdecimal() else now
    return moment.date().isoformat()
