"""``minigslora dossier`` and ``minigslora verify``: what they load, measure, attack and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from minigslora import dossier
from minigslora.audit.relearning import Attack
from minigslora.audit.report import IMAGES, QUESTION, Report
from minigslora.audit.run import forgotten, subject_of
from minigslora.audit.subject import Case
from minigslora.audit_command import audit_beside, beside, own_detector
from minigslora.config import from_mapping, parse_value
from minigslora.datasets.detection import DetectionData
from minigslora.datasets.images import DataSet
from minigslora.dossier import Check
from minigslora.errors import ConfigError, DataError, ModelError
from minigslora.files import load_tensors, require_new, require_writable, sha256, write_json
from minigslora.fingerprint import weights_hash
from minigslora.forget_command import own_model
from minigslora.models import checkpoint

Data = DataSet | DetectionData

OURS = "give the file that minigslora wrote, whose header says it"
"""What to do about a file that does not say its architecture."""


def loaded(file: Path, data: str, watch: bool) -> tuple[nn.Module, Data]:
    """Return the model of a file that says its architecture, and the data at its input size."""
    own: tuple[Any, ...] = (None, file, data, {}, None, None, None, None, watch)
    return own_detector(own) or own_model(*own)


def original_of(path: Path, file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model before, and its file as a dossier names it, once it is the one that the ledger names.

    Raises:
        ModelError: where its weights are not those that the first request of the ledger began with.
    """
    like, _ = checkpoint.load(file, OURS)
    model = beside(path, like, "card" not in load_tensors(path)[1])
    found, said = weights_hash(model), dossier.began_with(load_tensors(file)[1])
    if found != said:
        raise ModelError(
            f"{path} is not the model that {file.name} was made from: the hash of its weights is "
            f"{found[:12]}…, the ledger's first request began with {said[:12]}…"
        )
    return model, {"name": path.name, "sha256": sha256(path)}


def measure(
    file: Path, data: Data, original: nn.Module | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Return the accuracy on test images of forgotten and kept classes, in percent, before and after.

    Of a detector it is the share of annotated objects that are named; see :mod:`minigslora.audit.detection`.

    Args:
        file: a finalised one; its ledger says what was forgotten.
        data: the images, their classes in the order of its head.
        original: the model before; what it named is None without it.
        device: "auto", "cpu" or "cuda".
    """
    model, _ = checkpoint.load(file, OURS)
    case = Case(data, forgotten(model, data, None), Attack())
    after = subject_of("model", model, case, device)
    before = None if original is None else subject_of("original", original, case, device)
    of = {
        key: {
            "images": len(data.test.of_classes(classes)),
            "before": before and before.accuracy(before.model, classes),
            "after": after.accuracy(after.model, classes),
        }
        for key, classes in (("forgotten", case.gone), ("kept", case.kept))
    }
    drawn = isinstance(data, DataSet) and data.split_by_us
    split = "drawn from the images given" if drawn else "the data's own"
    asked = {"data": data.name, "fingerprint": data.fingerprint(), "test split": split}
    return {"file": sha256(file), **asked, "accuracy": of}


# --- the dossier --------------------------------------------------------------------------------------


def write(
    file: Path,
    page: Path,
    *,
    run: Path | None,
    audit: Path | None,
    data: str | None,
    others: Mapping[str, Any],
    device: str = "auto",
    watch: bool = False,
    **options: Any,
) -> tuple[Path, Path]:
    """Write the dossier of a file as a page and as JSON beside it; return both paths.

    Args:
        file: the erased model's.
        page: where to; ends in .html.
        run: the folder of the run that wrote the file.
        audit: an ``audit.json`` of it; with data, and without this, the file is audited now.
        data: a folder or a name, as in ``minigslora audit``.
        others: the files of the original and of the oracles, and the folder of strangers.
        device: "auto", "cpu" or "cuda".
        watch: whether to show progress.
        options: of :func:`minigslora.audit`, where the file is audited now.
    """
    from minigslora.reproduction import dossier_page  # loads matplotlib

    now = data is not None and audit is None
    if not now and (others["oracles"] or others["strangers"] or options.get("only")):
        why = "audits are taken from --audit" if audit else "images are needed: --data FOLDER"
        raise ConfigError(f"--oracle, --strangers and --only are for audits that are run now, but {why}")
    record = _record_of(page)
    given: dict[str, Any] = {"run": run, "audit": audit}
    dossier.make(file, **given)  # refuses, before long work, what is not of this file
    before = None
    if others["original"]:
        before, given["original"] = original_of(others["original"], file)
    if data is not None:
        model, images = loaded(file, data, watch)
        given["measured"] = measure(file, images, before, device)
        if now:
            how = {"device": device, "watch": watch, **options}
            given["audit"] = audit_beside(model, file, images, None, dict(others), _by_name(others), **how)
    write_json(record, values := dossier.make(file, **given))
    return dossier_page.write(values, page), record


def _record_of(page: Path) -> Path:
    """Return the JSON file beside a page, once both can be written and are not there."""
    if page.suffix != ".html":
        raise ConfigError(f"{page} should end in .html; the dossier's JSON is written beside it")
    record = page.with_suffix(".json")
    for target in (page, record):
        require_new(target)
    require_writable(page.parent)
    return record


def _by_name(others: Mapping[str, Any]) -> bool:
    """Whether the original does not say its architecture, and is built as the model under audit."""
    return bool(others["original"]) and "card" not in load_tensors(others["original"])[1]


# --- the verification ---------------------------------------------------------------------------------


def verify(
    file: Path,
    record: Path,
    *,
    data: str | None,
    others: Mapping[str, Any],
    audits: Sequence[str] = (),
    tolerance: float = dossier.TOLERANCE,
    device: str = "auto",
    watch: bool = False,
) -> Iterator[Check]:
    """Yield the checks of a file against its dossier: hashes first, then what data allow to do again.

    Args:
        file: the erased model's.
        record: the dossier's JSON.
        data: the images, to measure and attack again; None for hashes only.
        others: as in :func:`write`; the dossier's own files, by hash.
        audits: those to run again; all of the dossier's by default.
        tolerance: see :data:`~minigslora.dossier.TOLERANCE`.
        device: "auto", "cpu" or "cuda".
        watch: whether to show progress.
    """
    values = dossier.read(record)
    if data is None and (audits or others["oracles"] or others["strangers"]):
        raise ConfigError("an audit is run again on images; give them: --data FOLDER")
    yield from (checks := dossier.verify(file, values))
    if not all(check.passed for check in checks):
        if data is not None or others["original"]:
            yield Check("measured again", None, "the file or its dossier has changed")
        return
    said = values["audit"] and Report.from_values(values["audit"], str(record))
    names, before = _named(audits, said, data is None or bool(values["measured"])), None
    if others["original"]:
        before, check = _original(others["original"], file)
        yield check
    if data is None or (others["original"] and before is None):
        return
    model, images = loaded(file, data, watch)
    if values["measured"] and not audits:
        yield from _measured_again(values["measured"], measure(file, images, before, device), tolerance)
    if said and names:
        how = {"device": device, "watch": watch, "only": names}
        for check in _attacked_again(said, model, file, images, others, how, tolerance):
            yield replace(check, passed=False) if audits and check.passed is None else check


def _attacked_again(
    said: Report,
    model: nn.Module,
    file: Path,
    data: Data,
    others: Mapping[str, Any],
    how: dict[str, Any],
    tolerance: float,
) -> Iterator[Check]:
    names = how["only"]
    again = _audited_again(said, model, file, data, others, how)
    same = again.asked[QUESTION] == said.asked[QUESTION]
    yield Check("audits' images", same, "images, classes and attacker are the dossier's" if same else OTHER)
    yield from dossier.compare(said, again, names, tolerance)


OTHER = (
    "they are not the dossier's: other images, strangers, classes or attacker. Sets too large for memory are "
    "known by their files' names, sizes and times: copy them with their times"
)


def _named(audits: Sequence[str], said: Report | None, well_without: bool) -> list[str]:
    """Return the audits to run again; one that the dossier does not have is refused.

    So are none, unless all is well without: nothing is measured, or accuracies are.
    """
    there = list(dict.fromkeys(line.audit for line in said.lines)) if said else []
    if unknown := [name for name in audits if name not in there]:
        has = f"it has {', '.join(there)}" if there else "it has none"
        raise ConfigError(f"the dossier has no audit {unknown[0]!r}; {has}")
    if not (there or well_without):
        raise ConfigError("the dossier holds no figures that could be measured again; leave --data out")
    return list(audits) or there


def _original(path: Path, file: Path) -> tuple[nn.Module | None, Check]:
    try:
        model, _ = original_of(path, file)
    except ModelError as problem:
        return None, Check("original", False, str(problem))
    return model, Check(
        "original", True, f"{path.name} has the weights that the ledger's first request began with"
    )


def _measured_again(said: Mapping[str, Any], again: Mapping[str, Any], tolerance: float) -> Iterator[Check]:
    pairs = [(key, when) for key in ("forgotten", "kept") for when in ("before", "after")]
    try:
        same = said["fingerprint"] == again["fingerprint"]
        both = {pair: [of["accuracy"][pair[0]][pair[1]] for of in (said, again)] for pair in pairs}
        gaps = {pair: abs(now - then) for pair, (then, now) in both.items() if None not in (then, now)}
    except (KeyError, TypeError) as problem:
        raise DataError(f"the dossier does not say what was measured ({problem})") from None
    yield Check("images", same, f"{again['data']}, as measured for the dossier" if same else OTHER)
    for (key, when), gap in gaps.items():
        then, now = both[key, when]
        words = f"{now:.1f} %, {then:.1f} % in the dossier (tolerance {tolerance:g})"
        yield Check(f"{key}, {when}", gap <= tolerance, words)


def _audited_again(
    said: Report, model: nn.Module, file: Path, data: Data, others: Mapping[str, Any], options: dict[str, Any]
) -> Report:
    """Run audits as the dossier's were run; files beside that are not the dossier's are refused."""
    asked = said.asked
    try:
        options["seed"] = parse_value("seed", asked["seed"], int)
        options["images"] = parse_value("images", asked[IMAGES], int)
        options["relearning"] = from_mapping(Attack, asked["relearning"])
        known = asked["files"]["original"], list(asked["files"]["oracles"])
        classes = list(asked["forgotten"])
    except (KeyError, TypeError, ConfigError) as problem:
        raise DataError(f"the dossier does not say how its audits were run ({problem})") from None
    original, oracles = others["original"], {sha256(path): path for path in others["oracles"]}
    if original and sha256(original) != known[0]:
        raise ModelError(f"{original} is not the original of the dossier's audits: {_list([known[0]])}")
    if oracles and set(oracles) != set(known[1]):
        raise ModelError(
            f"the oracles of the dossier's audits are others, or more: {_list(known[1])}. Give these, or "
            "none: then figures that need no oracle are compared"
        )
    given = {**others, "oracles": [oracles[sha] for sha in known[1]] if oracles else []}
    return audit_beside(model, file, data, classes, given, _by_name(others), **options)


def _list(hashes: Sequence[str | None]) -> str:
    known = [sha for sha in hashes if sha]
    return f"sha256 {', '.join(f'{sha[:12]}…' for sha in known)}" if known else "they had none"
