"""The dossier of an erased file: what was asked, what was done, what was found, and how to check it.

Everything in it is read from the file and from reports that say by SHA-256 which file they are of; what
neither says is "not measured". It is one JSON file, beside a page made of it, and

    minigslora verify FILE --dossier dossier.json

compares the two again. The dossier's digest is over its content in canonical JSON. It shows accidents, not
forgery: whoever edits the content can compute another digest, as there is no signature.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from minigslora import ledger
from minigslora.audit.report import IMAGES, QUESTION, Line, Report
from minigslora.config import from_mapping
from minigslora.errors import DataError, MiniGSLoRAError, ModelError
from minigslora.files import load_tensors, read_json, sha256, sha256_of
from minigslora.fingerprint import library_fingerprint
from minigslora.sequence import written
from minigslora.tasks import TaskReport

FORMAT, VERSION = "minigslora dossier", 1

TOLERANCE = 1.0
"""Percentage points by which a figure that is measured again may differ.

On one machine figures come out the same; other hardware rounds in another order, and a few images more or
less of some hundred are named rightly.
"""

NOT = (
    "No proof that images were deleted. It is about the weights of one file; whoever held the images may "
    "hold them still.",
    "No statement about copies. The model before, earlier files, backups, the live model with its adapters, "
    "and whatever was made from them hold what they held.",
    "No legal advice, and no finding that what a law asks for was done.",
    "No signature. Its digest shows accidents, not forgery: whoever edits the content can compute another "
    "digest. Sign the JSON file with a tool for that, or keep its SHA-256 where nobody can change it.",
    "No proof that the ledger is true. It says what the library wrote into the file when it served the "
    "requests; what the model still knows is for the audits to say, and anyone can run them again.",
    "Not anonymous. It names the classes, as the file's header does. Where classes are people, both are "
    "personal data.",
)
"""What a dossier is not."""


@dataclass(frozen=True)
class Check:
    """One line of a verification.

    Attributes:
        what: was checked.
        passed: whether it is as the dossier says; None where the check was not made.
        found: the same in words.
    """

    what: str
    passed: bool | None
    found: str

    def __str__(self) -> str:
        mark = {True: "pass", False: "FAIL", None: "not made"}[self.passed]
        return f"{mark:8}  {self.what:18}  {self.found}"


# --- making one ---------------------------------------------------------------------------------------


def make(
    file: str | Path,
    *,
    run: str | Path | None = None,
    audit: Report | str | Path | None = None,
    measured: Mapping[str, Any] | None = None,
    original: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the dossier of a finalised file as plain values.

    Args:
        file: the erased model's file, whose header has a ledger.
        run: the folder of the ``minigslora forget`` that wrote it.
        audit: a report of :func:`minigslora.audit`, or its ``audit.json``.
        measured: what :func:`minigslora.dossier_command.measure` gave.
        original: the file of the model before, as :func:`minigslora.dossier_command.original_of` names it.

    Raises:
        ModelError: for a file without a ledger, or with a damaged one.
        DataError: for a run, a measurement or an audit of another file, or one that does not say of which.
    """
    path = Path(file)
    tensors, notes = load_tensors(path)
    entries = ledger.read(notes, str(path))
    if not entries:
        raise ModelError(
            f"{path} has no ledger: it does not say that anything was forgotten, so there is nothing to "
            "document. Give the file that 'minigslora forget' or Erasure.finalize() wrote"
        )
    facts = facts_of(path, tensors)
    values: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "made": {"date": ledger.today(), "library": library_fingerprint()},
        "file": {"name": path.name, **facts, "architecture": _architecture(notes)},
        "original": {"weights sha256": began_with(notes), "file": None if original is None else {**original}},
        "ledger": notes[ledger.KEY],
        "run": None if run is None else run_of(Path(run), facts["sha256"], notes),
        "measured": None if measured is None else measured_of(measured, path, facts["sha256"]),
        "audit": None if audit is None else audit_of(audit, path, facts["sha256"]).values(),
        "not": list(NOT),
    }
    values = json.loads(json.dumps(values, allow_nan=False))
    return {**values, "digest": digest(values)}


def facts_of(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what tells a file from any other."""
    return {
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "tensors sha256": sha256_of(tensors),
        "tensors": len(tensors),
        "numbers": sum(tensor.numel() for tensor in tensors.values()),
    }


def _architecture(notes: Mapping[str, Any]) -> Any:
    card = notes.get("card")
    return card.get("architecture") if isinstance(card, Mapping) else None


def began_with(notes: Mapping[str, Any]) -> str:
    """Return the hash of the weights that a ledger's first request began with; "" where it says none."""
    return next((entry["weights"] for entry in notes[ledger.KEY] if entry.get("weights")), "")


def named_in(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the classes that are forgotten by a ledger, as it stands in a file's header, in order."""
    standing = ledger.in_force(ledger.read({ledger.KEY: list(entries)}, "the dossier"))
    return [name for entry in standing for name in entry.classes]


def run_of(folder: Path, sha: str, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's folder says of the requests that it served: how, and accuracies in percent.

    Args:
        folder: of ``minigslora forget``.
        sha: the SHA-256 of the file that the run must have written.
        notes: of that file's header.

    Raises:
        DataError: for another folder, or the run of another file.
    """
    try:
        asked, hashes = read_json(folder / "run.json"), written(folder)
        files = sorted((folder / "tasks").glob("task*.json"), key=lambda f: int(f.stem.removeprefix("task")))
        reports = [from_mapping(TaskReport, read_json(file)) for file in files]
        if not reports or not isinstance(asked, dict):
            raise ValueError("no finished request")
    except (OSError, ValueError, TypeError, MiniGSLoRAError) as problem:
        raise DataError(
            f"{folder} is no folder of a finished 'minigslora forget' ({problem}); give its --out"
        ) from None
    if sha not in hashes.values():
        known = [name for name, value in hashes.items() if value]
        other = f"it wrote {known[0]}" if known else "it does not say which; give the same command again"
        raise DataError(f"the run in {folder} did not write this file, of sha256 {sha[:12]}…: {other}")
    entries = notes[ledger.KEY]
    names = {row: name for e in entries for row, name in zip(e["rows"], e["classes"], strict=True)}
    served = [{**asdict(r), "classes": [names.get(row, f"row {row}") for row in r.forget]} for r in reports]
    return {"asked": asked, "requests": served}


def measured_of(measured: Mapping[str, Any], file: Path, sha: str) -> dict[str, Any]:
    """Return what was measured, once it says that it was measured of this file."""
    if (of := measured.get("file")) != sha:
        raise DataError(
            f"these accuracies are of a file of sha256 {str(of)[:12]}…, not of {file.name}, {sha[:12]}…; "
            "measure them anew"
        )
    return dict(measured)


def audit_of(audit: Report | str | Path, file: Path, sha: str) -> Report:
    """Return a report of audits, once it says that it is of this file.

    Raises:
        DataError: for what is no report, or one of another file or of none that it says.
    """
    report = audit if isinstance(audit, Report) else _read_audit(Path(audit))
    where = "this report of audits" if isinstance(audit, Report) else str(audit)
    given = report.asked.get("files")
    of = given.get("model") if isinstance(given, Mapping) else None
    anew = f"make it anew: minigslora audit {file.name} …"
    if not of:
        raise DataError(f"{where} does not say by hash which file it is of; {anew}")
    if of != sha:
        raise DataError(
            f"{where} is of another file, {report.asked.get('model')} of sha256 {str(of)[:12]}…, not of "
            f"{file.name}, {sha[:12]}…; {anew}"
        )
    again = ("model", "original", "oracles", "data", "forgotten", "seed", "relearning", IMAGES, QUESTION)
    if lacking := [key for key in again if key not in report.asked]:
        raise DataError(f"{where} does not say {lacking[0]!r}, so that nobody can run it again; {anew}")
    return report


def _read_audit(path: Path) -> Report:
    try:
        values = read_json(path)
    except (OSError, ValueError, RecursionError) as problem:
        raise DataError(
            f"{path} cannot be read as an audit.json ({problem}); give one that minigslora audit wrote"
        ) from None
    return Report.from_values(values, str(path))


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a dossier's content, its digest left out, in canonical JSON."""
    content = {key: value for key, value in values.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


# --- checking a file against one ------------------------------------------------------------------------


def read(path: str | Path) -> dict[str, Any]:
    """Return a dossier's values; whether its digest is right is for :func:`verify` to say.

    Raises:
        DataError: for what is no dossier, a damaged one, or one of a version that is not known.
    """
    path = Path(path)
    try:
        values = read_json(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"it is no {FORMAT}")
    except (OSError, ValueError, RecursionError) as problem:
        raise DataError(
            f"{path} cannot be read as a dossier ({problem}); give the JSON file that 'minigslora dossier' "
            "wrote"
        ) from None
    if (version := values.get("version")) != VERSION:
        raise DataError(
            f"{path} is a dossier of version {version!r}; this minigslora reads version {VERSION}. Use the "
            "version of minigslora that made it"
        )
    file, parts = values.get("file"), ("original", "ledger", "run", "measured", "audit", "digest")
    if lacking := [key for key in parts if key not in values]:
        raise DataError(f"{path} is damaged: it lacks {lacking[0]!r}; take the dossier anew from its maker")
    if not isinstance(file, dict) or not {"sha256", "tensors sha256"} <= file.keys():
        raise DataError(f"{path} is damaged: it names no file; take the dossier anew from its maker")
    return values


def verify(file: str | Path, values: Mapping[str, Any]) -> list[Check]:
    """Check a file against a dossier that was :func:`read`: nothing is run, only hashes are compared.

    Raises:
        ModelError: where there is no such file.
    """
    path, said = Path(file), values["file"]
    if not path.is_file():
        raise ModelError(f"there is no file {path}; give the one that the dossier is of, {said.get('name')}")
    whole = _digest_holds(values)
    words = "its content is what its digest was taken of" if whole else "its content was edited, or damaged"
    same = (found := sha256(path)) == said["sha256"]
    checks = [
        Check("dossier", whole, words),
        Check("file", same, f"sha256 {found}" if same else _differ("sha256", found, said["sha256"])),
    ]
    try:
        tensors, notes = load_tensors(path)
    except ModelError as problem:
        reason = f"cannot be read: {problem}"
        return [*checks, Check("tensors", False, reason), Check("ledger", False, reason)]
    equal = (found := sha256_of(tensors)) == said["tensors sha256"]
    held = notes.get(ledger.KEY) == values["ledger"]
    many = f"{counted(values['ledger'])}, as in the file's header" if held else "not the file's own"
    return [
        *checks,
        Check(
            "tensors", equal, f"sha256 {found}" if equal else _differ("sha256", found, said["tensors sha256"])
        ),
        Check("ledger", held, many),
    ]


def _digest_holds(values: Mapping[str, Any]) -> bool:
    try:
        return bool(digest(values) == values["digest"])
    except (ValueError, RecursionError):  # NaN, which no dossier holds, or no end of lists
        return False


def counted(entries: Sequence[Any]) -> str:
    """Say how many entries a ledger has."""
    return f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"


def _differ(what: str, found: str, said: Any) -> str:
    return f"{what} is {found[:16]}…, the dossier says {str(said)[:16]}…"


def compare(
    said: Report, again: Report, audits: Sequence[str], tolerance: float = TOLERANCE
) -> Iterator[Check]:
    """Compare the figures of audits with those of a dossier, a check an audit.

    Args:
        said: the dossier's report.
        again: of the same file, images and attacker; beside the same references, or without them.
        audits: the names of those compared.
        tolerance: in percentage points, or in the unit that a figure's name says.
    """
    beside = [report.asked["files"] for report in (said, again)]
    whole = all(beside[0][key] == beside[1][key] for key in ("original", "oracles"))
    for name in audits:
        yield _compared(name, said.of(name), again, whole, tolerance)


def _compared(name: str, lines: Sequence[Line], again: Report, whole: bool, tolerance: float) -> Check:
    """Check one audit; ``whole`` says that all references were given again, so that its verdict counts."""
    there = {line.figure: line for line in again.of(name)}
    pairs = [(line, there[line.figure]) for line in lines if line.figure in there]
    gaps = [gap for said, now in pairs for gap in _gaps(said, now)]
    left = [line.figure for line in lines if line.figure not in {said.figure for said, _ in pairs}]
    left += [said.figure for said, now in pairs if math.isnan(now.value) and not math.isnan(said.value)]
    if not gaps:
        return Check(f"audit {name}", None, again.skipped.get(name, "no figure could be measured again"))
    found = f"{len(gaps)} figures differ by {max(gaps):.2g} at most (tolerance {tolerance:g})"
    if left:
        found += f"; not measured again{'' if whole else ' without the references'}: {', '.join(left)}"
    if other := [said.figure for said, now in pairs if whole and said.verdict != now.verdict]:
        found += f"; another verdict: {', '.join(other)}"
    return Check(f"audit {name}", max(gaps) <= tolerance and not other and not (whole and left), found)


def _gaps(said: Line, now: Line) -> Iterator[float]:
    """Yield how far apart two lines' figures lie, of each model that was measured both times."""
    for pair in zip(*((x.value, x.original, x.head_only, *x.oracles) for x in (said, now)), strict=False):
        if not any(map(math.isnan, pair)):
            yield 0.0 if pair[0] == pair[1] else abs(pair[0] - pair[1])
