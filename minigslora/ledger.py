"""What became of a model, event by event: kept on the model, and in the header of its finalised file.

Requests are forgotten, some are revoked since they were mistakes, and classes are enrolled, forgotten ones
again. Nothing is crossed out: an auditor reads what happened and when. What the model has forgotten *now* is
what is left of the requests, :func:`in_force`.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import nn

from minigslora.config import from_mapping
from minigslora.errors import MiniGSLoRAError, ModelError
from minigslora.lora import adapter_names, folded_names, members

KEY = "ledger"
"""The key of a file's header under which its ledger stands."""

_LEDGER, _IN_ADAPTERS = "_ledger", "_ledger_in_adapters"
"""A model's attributes: its ledger, and the names of those requests that live in adapters."""


Event = Literal["forget", "enrol", "revoke"]


@dataclass(frozen=True)
class Entry:
    """One event: a request that a model served, one that was revoked, or a class that was enrolled.

    Attributes:
        request: its name: "task1", "task2", …, of a revocation the request that is taken back; "enrol1", …
        classes: the names of the classes forgotten, kept again, or enrolled.
        rows: their rows of the model's head.
        method: how it was done.
        recipe: "corrected" or "released".
        version: of this library.
        weights: :func:`~minigslora.fingerprint.weights_hash` of the model that the request's call began with.
        date: when it was, as YYYY-MM-DD in UTC.
        event: what happened.
    """

    request: str
    classes: tuple[str, ...]
    rows: tuple[int, ...]
    method: str = ""
    recipe: str = ""
    version: str = ""
    weights: str = ""
    date: str = ""
    event: Event = "forget"

    def __str__(self) -> str:
        """Say it in one line."""
        how = ", ".join(part for part in (self.method, self.recipe, self.date) if part)
        became = {"forget": "", "enrol": ", enrolled", "revoke": ", revoked"}[self.event]
        return f"{self.request}: {', '.join(self.classes)}{became} ({how})"


def events(model: nn.Module) -> tuple[Entry, ...]:
    """Return all that is known to have become of ``model``, oldest first.

    A request whose adapter was taken away by hand (:func:`minigslora.lora.revoke`) leaves no trace;
    :func:`minigslora.erasure.revoke` leaves one.
    """
    entries: tuple[Entry, ...] = getattr(model, _LEDGER, ())
    gone = getattr(model, _IN_ADAPTERS, set[str]()) - _attached(model) - {*folded_names(model)}
    return tuple(entry for entry in entries if entry.request not in gone)


def of(model: nn.Module) -> tuple[Entry, ...]:
    """Return what ``model`` is known to have forgotten, oldest first: what of it is :func:`in_force`."""
    return in_force(events(model))


def in_force(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the requests to forget that stand: without those revoked, and without classes enrolled again."""
    left: dict[str, dict[int, str]] = {}
    for entry in entries:
        if entry.event == "forget":
            left[entry.request] = dict(zip(entry.rows, entry.classes, strict=True))
        elif entry.event == "revoke":
            left.pop(entry.request, None)
        else:
            for classes in left.values():
                classes.pop(entry.rows[0], None)
    stand = [entry for entry in entries if entry.event == "forget" and left.get(entry.request)]
    return tuple(
        replace(e, classes=tuple(left[e.request].values()), rows=tuple(left[e.request])) for e in stand
    )


def count(entries: Sequence[Entry], event: Event) -> int:
    """Return the highest number that a request, or an enrolment, bears; 0 where there is none.

    That of a revoked request is not given again.
    """
    names = (entry.request for entry in entries if entry.event == event)
    return max((int(re.sub(r"\D", "", name)) for name in names), default=0)


def put(model: nn.Module, entries: Sequence[Entry]) -> None:
    """Say what became of ``model``, all events; :func:`copy.deepcopy` takes it along."""
    object.__setattr__(model, _LEDGER, tuple(entries))
    object.__setattr__(model, _IN_ADAPTERS, _attached(model))


def _attached(model: nn.Module) -> set[str]:
    """Return the requests that live in adapters, compacted ones included."""
    return {request for name in adapter_names(model) for request in members(name)}


def header(model: nn.Module) -> dict[str, Any]:
    """Return a model's ledger as it stands in a file's header; nothing where there is none."""
    return {KEY: plain(entries)} if (entries := events(model)) else {}


def plain(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return events as plain values; that an entry is a request is not said, as before there were others."""
    said = (asdict(entry) for entry in entries)
    return [{k: v for k, v in e.items() if (k, v) != ("event", "forget")} for e in said]


def read(notes: Mapping[str, Any], where: str) -> tuple[Entry, ...]:
    """Return the ledger in a file's header, all events; empty where there is none.

    Raises:
        ModelError: for a ledger that is damaged; what it says decides what is kept.
    """
    values = notes.get(KEY, [])
    try:
        if not isinstance(values, list) or not all(isinstance(v, Mapping) for v in values):
            raise ModelError("it is no list of requests")
        entries = tuple(from_mapping(Entry, value) for value in values)
        _check(entries)
    except (MiniGSLoRAError, TypeError) as problem:
        raise ModelError(
            f"the ledger in the header of {where} is damaged ({problem}), so that nobody can tell what the "
            "model forgot; take the file anew from where it was finalised"
        ) from None
    return entries


def _check(entries: Sequence[Entry]) -> None:
    """Refuse events that cannot have come one after another."""
    for event, pattern in (("forget", r"task[0-9]{1,9}"), ("enrol", r"enrol[0-9]{1,9}")):
        names = [entry.request for entry in entries if entry.event == event]
        if not all(re.fullmatch(pattern, name) for name in names) or len({*names}) < len(names):
            raise ModelError("requests are called task1, task2, …, enrolments enrol1, …, each once")
    if any(len(e.rows) != len(e.classes) or min(e.rows, default=0) < 0 for e in entries):
        raise ModelError("a request names other classes than rows of the head")
    for i, entry in enumerate(entries):
        before = {e.request: e for e in entries[:i] if e.event == "forget"}
        revoked = {e.request for e in entries[:i] if e.event == "revoke"}
        gone = {row for e in in_force(entries[:i]) for row in e.rows}
        if entry.event == "forget" and (gone & {*entry.rows} or len({*entry.rows}) < len(entry.rows)):
            raise ModelError("two requests name one row of the head")
        if entry.event == "revoke" and (entry.request not in before or entry.request in revoked):
            raise ModelError("a request is revoked that was not served, or a second time")
        if entry.event == "enrol" and len(entry.rows) != 1:
            raise ModelError("an enrolment is of one class")


def today() -> str:
    """Return the date in UTC, or that of SOURCE_DATE_EPOCH, for files that are equal to the byte."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.datetime.now(datetime.UTC)
    moment = datetime.datetime.fromtimestamp(int(given), datetime.UTC) if given.isdecimal() else now
    return moment.date().isoformat()
