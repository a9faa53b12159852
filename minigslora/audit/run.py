"""Auditing anyone's own model: checks, reference models, all attacks, one report.

Three lines attack a file, show the verdicts, and write the report:

    report = minigslora.audit("erased.safetensors", "photos", original="original.safetensors", oracles=[…])
    print(report.summary())
    report.write("audited")
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigslora import ledger, lora
from minigslora.audit import detection, unseen
from minigslora.audit.relearning import Attack
from minigslora.audit.report import IMAGES, QUESTION, Line, Report, measured
from minigslora.audit.subject import Beside, Case, Found, Subject
from minigslora.audit.table import AUDITS, Audit
from minigslora.datasets import folders
from minigslora.datasets.detection import DetectionData
from minigslora.datasets.images import DataSet, Images
from minigslora.datasets.rendered import mini_faces
from minigslora.erasure import as_requests, data_for, ledger_rows
from minigslora.errors import ConfigError, DataError, ModelError, OutputError, WeakOracle
from minigslora.files import data_root, read_json, sha256, write_json
from minigslora.fingerprint import fingerprint_of, library_fingerprint
from minigslora.models import checkpoint
from minigslora.models.checkpoint import normalisation
from minigslora.problems.classification import Classification
from minigslora.progress import bar
from minigslora.prototypes import NEVER
from minigslora.text import some

Model = nn.Module | str | Path
Data = DataSet | DetectionData
Figures = dict[str, Found]

ONE_LABEL = "it asks for one label an image, and a detector's images hold several objects"
"""Why an audit is not defined for a detector."""


def audit(
    model: Model,
    data: Data | str | Path,
    classes: Sequence[str | int] | None = None,
    *,
    original: Model | None = None,
    oracles: Iterable[Model] = (),
    strangers: str | Path | Images | None = None,
    only: Sequence[str] = (),
    images: int = 20,
    relearning: Attack | None = None,
    seed: int = 0,
    device: str = "auto",
    watch: bool = True,
) -> Report:
    """Ask of a model what it still knows of the classes that it forgot, beside models that never saw them.

    Args:
        model: a finalised file, or a live model with its adapters; it is not changed.
        data: a data set, its name, or a folder, as :func:`minigslora.forget` takes it; of a detector
            detection data, whose annotated objects stand for images.
        classes: the forgotten classes, names or ids; those of the model's ledger where none are given.
        original: the model before it was edited. With it an audit can say whether it would have found out.
        oracles: models trained without the forgotten classes, by the original's recipe; two make a band,
            five a narrow one.
        strangers: images of classes that no model ever saw: a folder of class folders, or uint8 (N, 3, H,
            W). For mini-faces they are rendered where none are given; otherwise the stranger test is left
            out.
        only: the audits to run, by name; all by default.
        images: training images of each class that the attacker has at most.
        relearning: how the attacker trains; the defaults of its class where None.
        seed: of the attacker's images, and of all else that is drawn.
        device: "auto", "cpu" or "cuda".
        watch: whether to show progress.

    Raises:
        ConfigError: for an unknown audit, one that is not defined for a detector, or images below 1.
        DataError: for classes that are not named, not in the data or without images, and data that are not
            the models'.
        ModelError: for a file of neither a classifier nor a detector, an original that does not know the
            classes, and a reference model that does, knows hardly anything, or is given twice.
    """
    chosen = _chosen(only, images)
    live = loaded(model)
    if detection.is_detector(live):
        _require_for_detectors(only)
    pictures = _data(live, data, watch)
    gone = forgotten(live, pictures, classes)
    unknown = _strangers(strangers, pictures, watch)
    case = Case(pictures, gone, relearning or Attack(), seed, images, *unknown)
    subject = subject_of("model", live, case, device)
    before = None if original is None else _original(subject_of("original", loaded(original), case, device))
    given = list(oracles)
    references = [subject_of(f"oracle {i}", loaded(o), case, device) for i, o in enumerate(given, 1)]
    require_oracles(references, subject)
    controls = [head_only(before)] if before else []
    skipped = _skipped(chosen, subject, before, references)
    asked = [a for a in chosen if a.name not in skipped]
    found: dict[str, Figures] = {}
    # The subject comes last: by then it is known of the others what takes long.
    models = [*([before] if before else []), *controls, *references, subject]
    for it in bar(models, "audits", watch):
        beside = Beside(tuple(o for o in references if o is not it), before)
        found[it.name] = _measured(asked, it, beside) if it is subject else _kept(asked, it, beside)
    never = [_never_seen(chosen, subject, watch), _never_seen(chosen, before, watch, keep=True)]
    return Report(_asked(subject, model, original, given), _lines(found, never), _curves(found), skipped)


# --- what is given ------------------------------------------------------------------------------------


def _chosen(only: Sequence[str], images: int) -> list[Audit]:
    if images < 1:
        raise ConfigError(f"images = {images}; an attacker without images attacks nothing: give 1 or more")
    if unknown := [name for name in only if name not in AUDITS]:
        raise ConfigError(f"unknown audit {unknown[0]!r}; there are {', '.join(AUDITS)}")
    return [a for a in AUDITS.values() if not only or a.name in only]


def loaded(model: Model) -> nn.Module:
    """Return a classifier or a detector, from its file where one is given."""
    network = model if isinstance(model, nn.Module) else checkpoint.load(Path(model).expanduser())[0]
    if not callable(getattr(network, "get_classifier", None)) and not detection.is_detector(network):
        raise ModelError(
            f"{type(network).__name__} is no classifier with timm's interface, and no Deformable DETR of "
            "transformers; the audits are defined for these"
        )
    return network


def _require_for_detectors(only: Sequence[str]) -> None:
    if other := [name for name in only if "detection" not in AUDITS[name].kinds]:
        able = " and ".join(a.name for a in AUDITS.values() if "detection" in a.kinds)
        raise ConfigError(f"the audit {other[0]!r} is not defined for a detector: {ONE_LABEL}; {able} are")


def _data(model: nn.Module, data: Data | str | Path, watch: bool) -> Data:
    if detection.is_detector(model):
        return detection.scenes_for(model, data, watch)
    if isinstance(data, DetectionData):
        raise DataError(
            f"{data.name} holds images with boxed objects, but {type(model).__name__} is no detector; give "
            "images with one label each"
        )
    return data_for(model, data, watch)


def forgotten(model: nn.Module, data: Data, classes: Sequence[str | int] | None) -> tuple[int, ...]:
    """Return the classes given, or else those of the model's ledger, checked against the data."""
    known = ledger_rows(ledger.events(model), data)
    if classes is None and not known:
        raise DataError(
            "which classes were forgotten is not known, since the model has no ledger; name them: "
            "classes=[…], or --classes a,b,c"
        )
    gone = tuple(known) if classes is None else tuple(c for r in as_requests(data, classes) for c in r)
    if len(data.classes) - len(gone) < 2:
        raise DataError(f"{len(gone)} of {len(data.classes)} classes are forgotten; at least two must stay")
    for split in (data.train, data.test):
        if empty := [data.classes[c] for c in gone if not len(split.of_classes([c]))]:
            which = "training" if split is data.train else "test"
            raise DataError(
                f"there is no {which} image of {some(map(repr, empty))}; attacks need images of both splits"
            )
    return gone


Strangers = tuple[Images | None, Tensor | None]


def _strangers(given: str | Path | Images | None, data: Data, watch: bool) -> Strangers:
    """Return images of classes that no model saw, and who they are; mini-faces has another population."""
    if isinstance(data, DetectionData):
        return None, None
    if isinstance(given, str | Path):
        return _own_strangers(Path(given).expanduser(), data, watch)
    if given is None and data.name == "mini-faces" and data.image_size == mini_faces.SIZE:
        found = mini_faces.load("tuning", 20, {"train": 1, "val": 1, "test": 25}, watch).test
        return found.images, found.labels
    return given, None


def _own_strangers(root: Path, data: DataSet, watch: bool) -> Strangers:
    files = folders.class_files(root) if root.is_dir() else {}
    if not any(files.values()):
        raise DataError(f"{root} has no class folder with images; expected strangers as CLASS/image.jpg")
    if known := set(files) & set(data.classes):
        raise DataError(
            f"{root} shows {some(map(repr, sorted(known)))}, which {data.name} has, too; strangers are of "
            "classes that no model was trained on"
        )
    found = folders.image_set(files, tuple(files), data.image_size, "strangers", watch)
    return found.images, found.labels


def subject_of(name: str, model: nn.Module, case: Case, device: str) -> Subject:
    """Return a plain copy of a model as what is asked; a model of other classes is refused."""
    if isinstance(case.data, DetectionData):
        return detection.Objects(name, detection.detector(model, case.data, device), case)
    data_for(model, case.data, watch=False)  # refuses
    plain = lora.fold(model).float()
    problem = Classification(plain, case.data, *normalisation(model), device=device, precision="fp32")
    return Subject(name, problem, case)


def _original(subject: Subject) -> Subject:
    """Refuse an original that has nothing to forget."""
    knew, chance = subject.accuracy(subject.model, subject.case.gone), 100 / len(subject.case.data.classes)
    if knew <= chance:
        raise ModelError(
            f"the original names {knew:.1f} % of the forgotten classes' test images, no more than chance: "
            "there was nothing to forget. Look at the order of the classes and the normalisation, or give "
            "the file that was edited"
        )
    return subject


def require_oracles(oracles: Sequence[Subject], subject: Subject) -> None:
    """Refuse a reference model that is none: it saw the classes, knows hardly anything, or is given twice.

    Warns:
        WeakOracle: of one that knows clearly less of the other classes than the model under audit.
    """
    case = subject.case
    most = max(10.0, 200 / len(case.data.classes))
    own = subject.accuracy(subject.model, case.kept) if oracles else 0.0
    require_different(oracles)
    for oracle in oracles:
        if (knows := oracle.accuracy(oracle.model, case.gone)) > most:
            raise ModelError(
                f"{oracle.name} names {knows:.1f} % of the forgotten classes' test images, so it was trained "
                "on them; give models that never saw them (minigslora pretrain … --without FILE)"
            )
        if (kept := oracle.accuracy(oracle.model, case.kept)) < own / 2:
            raise ModelError(
                f"{oracle.name} names only {kept:.1f} % of the others' test images, less than half of what "
                "the model under audit does; an oracle is trained on all classes that stay, by the "
                "original's recipe"
            )
        if kept < 0.9 * own:
            warnings.warn(
                f"{oracle.name} names {kept:.1f} % of the others' test images, the model under audit "
                f"{own:.1f} %: what it fails at may be weakness, not innocence, and widens the band",
                WeakOracle,
                stacklevel=3,
            )


def require_different(subjects: Sequence[Subject]) -> None:
    """Refuse a model that is given twice: copies have no spread."""
    hashes: dict[str, str] = {}
    for it in subjects:
        if (other := hashes.setdefault(it.hash, it.name)) != it.name:
            raise ModelError(f"{other} and {it.name} have the same weights; give each model once")


def head_only(original: Subject) -> Subject:
    """Return the control that forgets nothing but its answer: the original, its forgotten rows erased."""
    problem = copy.copy(original.problem)
    problem.model = copy.deepcopy(original.model)
    head: Any = problem.head
    with torch.no_grad():
        head.weight[list(original.case.gone)] = 0.0
        if getattr(head, "bias", None) is not None:
            head.bias[list(original.case.gone)] = NEVER
    return replace(original, name="head-only", problem=problem, curves={}, twin=original)


def _skipped(
    chosen: Sequence[Audit], subject: Subject, original: Subject | None, oracles: Sequence[Subject]
) -> dict[str, str]:
    kind = subject.problem.kind
    there = {
        "original": original is not None,
        "oracles": bool(oracles),
        "strangers": subject.case.strangers is not None,
    }
    ways = {
        "original": "the original",
        "oracles": "oracles",
        "strangers": "images of strangers (--strangers FOLDER)",
    }
    return {
        a.name: f"it needs {' or '.join(ways[need] for need in a.needs)}" if kind in a.kinds else ONE_LABEL
        for a in chosen
        if kind not in a.kinds or (a.needs and not any(there[need] for need in a.needs))
    }


# --- what is found ------------------------------------------------------------------------------------


def _measured(asked: Sequence[Audit], subject: Subject, beside: Beside) -> Figures:
    """Measure; an original with its rows is relearnt at once, which says nothing and takes long."""
    at_once = {"relearning"} if subject.name == "original" else set()
    return {a.name: Found({}) if a.name in at_once else a.measure(subject, beside) for a in asked}


def _once(
    measure: Callable[[], Figures], asked: Sequence[Audit], models: Sequence[Subject], how: str
) -> Figures:
    """Measure once: what is found of models that others are read beside is kept for the next file's audit.

    It goes by the models, the question, the audits, the machine and the library. A folder that cannot be
    written costs time only.
    """
    first = models[0]
    key = [first.case.fingerprint, *(m.hash for m in models), *(a.name for a in asked), how]
    key += [first.problem.device.type, library_fingerprint()]
    path = data_root() / "audits" / f"{fingerprint_of(' '.join(key))}.json"
    if path.is_file():
        return {name: Found(**found) for name, found in read_json(path).items()}
    figures = measure()
    with contextlib.suppress(OutputError):
        write_json(path, {name: asdict(found) for name, found in figures.items()})
    return figures


def _kept(asked: Sequence[Audit], subject: Subject, beside: Beside) -> Figures:
    """Measure a model that others are read beside, or take what was found of it before."""
    models = [subject, *beside.oracles, *([beside.original] if beside.original else [])]
    how = "original" if subject.name == "original" else "reference"
    figures = _once(lambda: _measured(asked, subject, beside), asked, models, how)
    curves = figures["relearning"].curves if "relearning" in figures else {}
    subject.curves.update({name.removeprefix("rows "): curve for name, curve in curves.items()})
    return figures


def _never_seen(chosen: Sequence[Audit], subject: Subject | None, watch: bool, keep: bool = False) -> Figures:
    """Ask of classes that no model ever saw what can be asked of them; nothing where there are none."""
    if subject is None or subject.problem.kind == "detection" or unseen.why_not(subject.case):
        return {}
    it = unseen.Unseen("never seen", subject.problem, subject.case, twin=subject)
    asked = [a for a in chosen if a.unseen]

    def measure() -> Figures:
        return {a.name: a.measure(it, Beside()) for a in bar(asked, "never seen", watch)}

    return _once(measure, asked, [subject], "never seen") if keep else measure()


def _lines(found: dict[str, Figures], never: Sequence[Figures]) -> tuple[Line, ...]:
    """Return all figures in the order of the table, of every model."""
    lines, none = [], float("nan")
    for name, own in found["model"].items():
        figures = [*AUDITS[name].judged, *AUDITS[name].shown]
        for figure in (f for f in figures if f in own.figures):
            of = {who: audits[name].figures.get(figure, none) for who, audits in found.items()}
            oracles = measured([v for who, v in of.items() if who.startswith("oracle ")])
            before, control = of.get("original", none), of.get("head-only", none)
            ours, theirs = (n[name].figures.get(figure, none) if name in n else none for n in never)
            lines.append(Line(name, figure, of["model"], before, control, oracles, (ours, theirs)))
    return tuple(lines)


def _curves(found: dict[str, Figures]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return every curve by audit and name, then by model."""
    return {
        name: {
            curve: {who: a[name].curves[curve] for who, a in found.items() if curve in a[name].curves}
            for curve in own.curves
        }
        for name, own in found["model"].items()
        if own.curves
    }


def _asked(
    subject: Subject, model: Model, original: Model | None, oracles: Sequence[Model]
) -> dict[str, Any]:
    case = subject.case

    def named(given: Model | None) -> str:
        return (
            "none" if given is None else "a live model" if isinstance(given, nn.Module) else Path(given).name
        )

    def hashed(given: Model | None) -> str | None:
        return sha256(Path(given).expanduser()) if isinstance(given, str | Path) else None

    return {
        "model": named(model),
        "original": named(original),
        "oracles": len(oracles),
        "files": {
            "model": hashed(model),
            "original": hashed(original),
            "oracles": [hashed(oracle) for oracle in oracles],
        },
        "data": case.data.name,
        "forgotten": [case.data.classes[c] for c in case.gone],
        IMAGES: case.images,
        **({"an image is": detection.UNIT} if subject.problem.kind == "detection" else {}),
        "classes never seen": unseen.why_not(case) or unseen.ASKED,
        "seed": case.seed,
        "relearning": asdict(case.relearning),
        QUESTION: case.fingerprint,
        "library": library_fingerprint(),
    }
