"""``minigslora audit``: an erased model beside others, a folder that is the audit's own, a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from minigslora.audit import detection, run
from minigslora.audit.report import Report
from minigslora.datasets.detection import DetectionData
from minigslora.datasets.images import DataSet
from minigslora.erasure import Erasure
from minigslora.errors import ConfigError
from minigslora.files import alone_in, load_tensors, require_new, runs_root, sha256
from minigslora.fingerprint import fingerprint_of, library_fingerprint
from minigslora.forget_command import brings_its_own, own_model, split_classes
from minigslora.models import checkpoint
from minigslora.sequence import RunFolder

TO_READ = "A pass is no proof: the page says of each audit what it does not prove."


def beside(path: Path, like: nn.Module, named: bool) -> nn.Module:
    """Return the model of a file that is read beside another: by its own card, or built as that one.

    Args:
        path: the file.
        like: the model under audit.
        named: whether the files do not say their architecture, so that it was given by name.
    """
    if not named:
        return checkpoint.load(path, "name it (--model NAME)")[0]
    card: Any = checkpoint.card_of(like)  # a model built by name has one

    tensors, notes = load_tensors(path)
    return checkpoint.with_weights(card, tensors, str(path), notes)


def own_detector(own: tuple[Any, ...]) -> tuple[nn.Module, DetectionData] | None:
    """Return a detector and detection data, where the file is one; ``own`` is as in :func:`audit_files`."""
    name, weights, data_name, arguments, image_size, mean, std, class_names, watch = own
    if name is not None:
        return None
    model, _ = checkpoint.load(weights, "name it (--model NAME)")
    if not detection.is_detector(model):
        return None
    brings_its_own(weights, {"model-args": arguments, "image-size": image_size, "mean": mean, "std": std})
    if class_names:
        raise ConfigError(f"--class-names is for classifiers; {weights.name} is a detector")
    return model, detection.scenes_for(model, data_name, watch)


def audit_files(
    own: tuple[Any, ...],
    classes: str | None,
    others: dict[str, Any],
    out: Path | None,
    begin: Callable[[Path], Any],
    **options: Any,
) -> tuple[Path, str]:
    """Audit a file beside others; write the report into a folder that is this audit's own.

    Args:
        own: what :func:`~minigslora.forget_command.own_model` reads the model and the data from.
        classes: the forgotten ones, as text; those of the ledger where None.
        others: the files of the original and of the oracles, and the folder of strangers.
        out: the folder; by default one that goes by what is asked.
        begin: is told the folder before work begins.
        options: of :func:`minigslora.audit`.

    Returns:
        The folder, and what to say on the terminal.
    """
    name, weights, given, *_, watch = own
    model, data = own_detector(own) or own_model(*own)
    hashes = hashes_of(weights, others)
    identity = {"data": data.fingerprint(), "classes": classes, **hashes, **options}
    identity |= {
        "strangers": str(others["strangers"]),
        "library": library_fingerprint(),
        "given": [name, given],
    }
    run_id = fingerprint_of(json.dumps(identity, sort_keys=True))[:10]
    folder = out or runs_root() / "audit" / f"{data.name}-{run_id}"
    wanted = None if classes is None else split_classes(data, classes)
    with alone_in(folder):
        begin(folder)
        if not (folder / "run.json").is_file():
            for page in ("audit.html", "audit.json"):
                require_new(folder / page)
        RunFolder(folder, identity)  # refuses a folder of another audit
        report = audit_beside(model, weights, data, wanted, others, name is not None, watch=watch, **options)
        report.write(folder)
    return folder, said(report)


def hashes_of(weights: Path, others: dict[str, Any]) -> dict[str, Any]:
    """Return the SHA-256 of every file of an audit, as its report says which files it is of."""
    original = others["original"] and sha256(others["original"])
    oracles = [sha256(path) for path in others["oracles"]]
    return {"model": sha256(weights), "original": original, "oracles": oracles}


def audit_beside(
    model: nn.Module,
    weights: Path,
    data: DataSet | DetectionData,
    classes: Sequence[str] | None,
    others: dict[str, Any],
    named: bool,
    **options: Any,
) -> Report:
    """Audit the model of a file beside others' files; the report says which files, by name and hash.

    Args:
        model: the model of ``weights``.
        weights: the file under audit.
        data: the images.
        classes: the forgotten ones; those of the ledger where None.
        others: the files of the original and of the oracles, and the folder of strangers.
        named: as :func:`beside` takes it.
        options: of :func:`minigslora.audit`.
    """
    original, hashes = others["original"], hashes_of(weights, others)
    report = run.audit(
        model,
        data,
        classes,
        original=original and beside(original, model, named),
        oracles=[beside(path, model, named) for path in others["oracles"]],
        strangers=others["strangers"],
        **options,
    )
    names = {"model": weights.name, **({"original": original.name} if original else {})}
    report.asked.update(names, files=hashes)
    return report


def after_forgetting(
    erasure: Erasure, erased: Path, weights: Path, oracles: Sequence[Path], folder: Path, **options: Any
) -> str:
    """Audit a file that was just finalised, beside the weights that it was made from.

    Args:
        erasure: what was done; its data are read, not its live model.
        erased: the finalised file.
        weights: the file of the model before.
        oracles: files of reference models.
        folder: the run's, which receives the page.
        options: of :func:`minigslora.audit`.

    Returns:
        What to say on the terminal.
    """
    named = "card" not in load_tensors(weights)[1]
    model, _ = checkpoint.load(erased)
    data: Any = erasure.problem.data
    others = {"original": weights, "oracles": oracles, "strangers": None}
    report = audit_beside(model, erased, data, None, others, named, **options)
    return f"{said(report)}\naudit:        {report.write(folder)}"


def said(report: Report) -> str:
    """Return what a terminal shows: a line an audit, and how to read it."""
    return f"{report.summary()}\n{TO_READ}"
