"""Forgetting on anyone's own model and data: the front door of the library.

Four lines load a model, erase a class, show what became of the others, and write a file to hand over:

    model = timm.create_model("vit_small_patch16_224", checkpoint_path="mine.pth", num_classes=10)
    erasure = minigslora.forget(model, "photos", classes=["cat"])
    print(erasure.table())
    erasure.finalize("erased.safetensors")
"""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from minigslora import __version__, ledger, lora
from minigslora.class_order import MOST, in_heads_order, require_same_order
from minigslora.config import parse_value
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet, ImageSet, Splits, augment, spread
from minigslora.device import Precision
from minigslora.errors import DataError, ModelError, UnknownMoves
from minigslora.files import save_tensors
from minigslora.fingerprint import weights_hash
from minigslora.methods import create
from minigslora.methods.base import Method
from minigslora.metrics import with_h
from minigslora.models.checkpoint import card_of, input_size, normalisation
from minigslora.problems.classification import Classification
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence, origin_of
from minigslora.tasks import (
    Plan,
    Setting,
    Task,
    TaskReport,
    check_requests,
    plan_requests,
    warn_of_single_images,
    without,
)
from minigslora.text import some

if TYPE_CHECKING:
    import pandas as pd

_RUN = "_minigslora_run"
"""A model's attribute: the :class:`Run` that it was edited by last."""

MOVED = 0.75
"""Share of the images that a model names which it must still name once augmented."""


@dataclass(frozen=True)
class Run:
    """The call of :func:`forget` that a model was edited by last, so that the same call can resume it.

    Attributes:
        out: its folder; None where nothing was kept.
        ledger: what had become of the model when it began.
        origin: hashes of the weights and adapters that it began with.
        left: the same of the model as it left it after its last finished request; None for a new run.
    """

    out: Path | None
    ledger: tuple[ledger.Entry, ...]
    origin: dict[str, str]
    left: dict[str, str] | None = None


@dataclass
class Erasure:
    """A model from which requests were erased, with what was measured.

    Attributes:
        problem: the data and the live model, ``problem.model``, adapters included.
        method: how it was done.
        plan: the requests and the images used.
        reports: one per request.
    """

    problem: Classification
    method: Method
    plan: Plan
    reports: list[TaskReport] = field(default_factory=list)

    @property
    def model(self) -> nn.Module:
        """The live model; by a revocable method: the pre-trained weights, untouched, with adapters."""
        return self.problem.model

    @property
    def ledger(self) -> tuple[ledger.Entry, ...]:
        """What the model has forgotten, request by request, those of earlier calls and files included.

        :func:`minigslora.ledger.events` says what became of it otherwise: what was revoked or enrolled.
        """
        return ledger.of(self.model)

    @property
    def unmeasured(self) -> list[str]:
        """The names of the classes without a test image: nobody can say what became of them."""
        counts = self.problem.data.test.labels.bincount(minlength=self.problem.num_classes).tolist()
        return [name for name, count in zip(self.problem.data.classes, counts, strict=True) if not count]

    @property
    def without_effect(self) -> list[TaskReport]:
        """The reports of requests that changed nothing: Acc_f did not fall, or was at chance before."""
        chance = 100 / self.problem.num_classes
        return [
            report
            for report in self.reports
            if report.metrics["acc_f_before"] <= max(chance, report.metrics["acc_f"])
        ]

    def table(self) -> pd.DataFrame:
        """Return one row per request: what was forgotten, and accuracies in percent."""
        import pandas as pd

        rows = []
        for report in self.reports:
            named = [self.problem.data.classes[c] for c in report.forget]
            row = {k: v for k, v in report.row().items() if not k.startswith("norm/")}
            rows.append({"task": row.pop("task"), "forgot": ", ".join(named), **row})
        return pd.DataFrame(rows or {"task": [], "forgot": []}).set_index("task")

    def revoke(self, task: str | None = None) -> None:
        """Take back a request, the last one by default; see :func:`minigslora.lora.revoke`.

        Its classes are kept again. Requests after it are measured anew, since the model that their figures
        described is gone.

        Raises:
            ModelError: for a method whose requests cannot be revoked.
        """
        if not self.method.revocable:
            raise ModelError(f"{self.method.name} changes the weights themselves; nothing to revoke")
        attached = lora.adapter_names(self.model)
        own = [report.task for report in self.reports if report.task in attached]
        if task is None and not own:
            raise ModelError("no request is left to revoke")
        name = task or own[-1]
        taken, entries = lora.members(name), self.ledger
        revoke(self.model, name)
        for request in taken:
            back = [row for e in entries if e.request == request for row in e.rows]
            self.plan = without(self.plan, request, back)
        self.reports = [report for report in self.reports if report.task not in taken]
        names = [entry.request for entry in entries]
        later = names[names.index(taken[-1]) + 1 :] if taken[-1] in names else []
        for report in self.reports:
            if report.task in later:
                self._measure_anew(report)

    def _measure_anew(self, report: TaskReport) -> None:
        """Measure a request on the model as it is after it, without the adapters of later ones."""
        names = lora.adapter_names(self.model)
        later = names[names.index(report.task) + 1 :]
        (task,) = (t for t in self.plan.tasks if t.name == report.task)
        with lora.bypassed(self.model):
            before = self.problem.evaluate([task])[0]
        with lora.bypassed(self.model, *later) if later else contextlib.nullcontext():
            report.metrics = with_h(before, self.problem.evaluate([task])[0])

    def finalize(self, path: str | Path) -> Path:
        """Write the erased model as one plain safetensors file, without base or adapters.

        The keys are the pre-trained model's own, so that plain timm loads it strictly; a model that
        came from a file with a card hands the card on. The header's ledger says what was forgotten, so that
        the next request on this file does not teach it again. Whoever has only this file cannot take the
        erasure back; whoever has the live model can.
        """
        return finalize(self.model, path)


def revoke(model: nn.Module, task: str, date: str = "") -> None:
    """Take a request's adapter and rows off a live model, and say so in its ledger.

    Args:
        model: the live model.
        task: the request, as "task2"; or the name of the adapter that several were compacted into, which
            takes all of them back.
        date: when it was revoked, as YYYY-MM-DD; today by default.

    Raises:
        ModelError: for a request that has no adapter, or no adapter of its own any more.
    """
    entries = ledger.events(model)
    lora.revoke(model, task)
    served = [e for e in entries if e.event == "forget" and e.request in lora.members(task)]
    now = {"version": __version__, "weights": weights_hash(model), "date": date or ledger.today()}
    revoked = [ledger.Entry(e.request, e.classes, e.rows, event="revoke", **now) for e in served]
    ledger.put(model, [*entries, *revoked])


def finalize(model: nn.Module, path: str | Path) -> Path:
    """Write an edited model as one plain safetensors file; see :meth:`Erasure.finalize`.

    The keys are those of the model's own class: timm's, or transformers' for a detector.
    """
    target, card = finalized_file(path), card_of(model)
    notes = {"format": "pt", **({"card": vars(card)} if card else {}), **ledger.header(model)}
    save_tensors(target, lora.fold(model).state_dict(), notes)
    return target


def finalized_file(path: str | Path) -> Path:
    """Return where an erased model is written; raise a :class:`ModelError` for another format."""
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ModelError(f"{target} should end in .safetensors, the format it is written in")
    return target


def forget(
    model: nn.Module,
    data: DataSet | str | Path,
    classes: Sequence[str | int] | Sequence[Sequence[str | int]],
    *,
    method: str = "gslora-deep",
    recipe: str = "corrected",
    ratio: float = 0.1,
    shots: int = 0,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    out: str | Path | None = None,
    watch: bool = True,
    check: bool = True,
    **settings: Any,
) -> Erasure:
    """Erase classes from a pre-trained classifier and keep the rest.

    Called again with the same model, or with a finalised file that :func:`checkpoint.load` read, it serves
    the next request: earlier ones stay, and their classes stay forgotten. A call that fails or is interrupted
    leaves the model as it was after the last finished request.

    Args:
        model: any timm vision transformer, or a Face Transformer; edited in place. GS-LoRA and its
            kin put adapters beside its weights, which they never write; other methods train the
            weights themselves, and start from the model as it is each time this is called.
        data: a data set, its name, or a folder ``train/CLASS/*.jpg``, ``test/CLASS/*.jpg`` whose
            classes, sorted by name or in the order of a ``classes.txt`` beside them, are those of the
            model's head.
        classes: names or ids to forget: one request, or a list of requests served in order.
        method: a name of the table of methods.
        recipe: "corrected" (default) or "released".
        ratio: share of the training images used.
        shots: images of each class used instead, if not 0.
        seed: of the images used, initialisation and order.
        device: "auto", "cpu" or "cuda".
        precision: "auto" trains in bf16 where the hardware has it.
        out: folder for checkpoints and reports; a stopped run goes on from there.
        watch: whether to show progress.
        check: whether to make sure first that the model knows these classes in this order.
        settings: further fields of the method's configuration or training, e.g. ``epochs=10``. Without
            ``augment``, images are augmented where the recipe does so and :func:`knows_moved` or a teacher
            answers in place of the labels.

    What cannot be done as asked is a :class:`~minigslora.errors.MiniGSLoRAError`.
    """
    parse_value("precision", precision, Precision)
    mean, std = normalisation(model)
    data = data_for(model, data, watch)
    run = _run(model, Path(out).expanduser().resolve() if out is not None else None)
    old = ledger_rows(run.ledger, data)
    requests = as_requests(data, classes)
    setting = Setting(requests=tuple(map(len, requests)), ratio=ratio, shots=shots)
    way = create(method, recipe, setting.kind, **settings)
    start = ledger.count(run.ledger, "forget")
    plan = plan_requests(data, requests, setting, seed, old=old, start=start)
    warn_of_single_images(data.train, old, setting)
    problem = Classification(model, data, mean, std, device, precision)
    unasked = way.by_labels and way.training.augment and "augment" not in settings
    if unasked and not knows_moved(problem, plan.tasks[0], seed):
        way = create(method, recipe, setting.kind, **{**settings, "augment": False})
    if check and not run.left:  # what is resumed was checked, and its model has forgotten since
        require_same_order(problem, [c for request in requests for c in request], old)
    entries = list(run.ledger)

    def enter(report: TaskReport) -> None:
        names = tuple(data.classes[c] for c in report.forget)
        followed = recipe if way.published else "corrected"  # others have one recipe
        how = (way.name, followed, __version__, run.origin["weights"], report.date)
        entries.append(ledger.Entry(report.task, names, report.forget, *how))
        ledger.put(model, entries)
        if run.out is not None:
            object.__setattr__(model, _RUN, replace(run, left=origin_of(model)))

    reports = forget_sequence(problem, way, plan, seed, run.out, watch, on_task=enter, origin=run.origin)
    return Erasure(problem, way, plan, reports)


def knows_moved(problem: Classification, task: Task, seed: int = 0) -> bool:
    """Return whether the pre-trained model names retained images about as well once they are augmented.

    A model that was trained without augmentation may not. Terms that hold its answers to true labels on
    augmented images would then teach it something new, at the cost of what it knows of images as they are; a
    teacher that is shown the same picture does no such harm.

    Warns:
        UnknownMoves: where it does not.
    """
    data = problem.data.train
    rows = spread(torch.tensor(task.retain_images, device=problem.device), MOST)
    images, labels = data.images[rows], data.labels[rows]
    moves = Streams(seed)("knows moved", device=problem.device)
    moved = (augment(images, moves, problem.data.mirrored) * 255).round().to(torch.uint8)
    with lora.bypassed(problem.model):  # a run that is taken up has to find what it found at first
        both = [problem.logits_of(ImageSet(x, labels, data.classes)).argmax(dim=1) for x in (images, moved)]
    still, turned = (float((said == labels).float().mean()) for said in both)
    if turned >= MOVED * still:
        return True
    warnings.warn(
        f"the model names {100 * still:.0f} % of its training images, but {100 * turned:.0f} % once they are "
        "turned and shifted a little, as the recipe does: the images are taken as they are (augment=True "
        "augments them all the same)",
        UnknownMoves,
        stacklevel=3,
    )
    return False


def data_for(model: nn.Module, data: DataSet | str | Path, watch: bool) -> DataSet:
    """Return the data at the model's input size, their classes in the order that the model's card says."""
    card = card_of(model)
    known = card.classes if card else ()
    if not isinstance(data, DataSet):
        size = None if str(data) in registry.RENDERED else input_size(model)
        data = in_heads_order(registry.load(data, size, watch), None, known, "the model's card")
    elif known and known != data.classes:
        raise DataError(
            f"the model's card counts its classes as {some(known)}, but {data.name} as "
            f"{some(data.classes)}; bring the data into the model's order with "
            "minigslora.class_order.reordered"
        )
    strict = getattr(getattr(model, "patch_embed", None), "strict_img_size", False)
    if strict and len(data.train) and data.image_size != (size := input_size(model)):
        raise DataError(
            f"the images of {data.name} have {data.image_size} pixels a side, but the model reads "
            f"{size}; load them at that size, or build the model with img_size={data.image_size}"
        )
    return data


def _run(model: nn.Module, out: Path | None) -> Run:
    """Return the run that a call of :func:`forget` is: one that ``model`` was edited by, or a new one."""
    last: Run | None = getattr(model, _RUN, None)
    entries, origin = ledger.events(model), origin_of(model)
    if last is not None and out is not None and last.out == out and last.left == origin:
        begun = entries[: len(last.ledger)]
        if begun == last.ledger and (out / "run.json").is_file() and any(out.glob("task*.json")):
            return last
    known = {entry.request for entry in entries}
    if unknown := [name for name in lora.adapter_names(model) if not known.issuperset(lora.members(name))]:
        raise ModelError(
            f"the model carries the adapter {unknown[0]!r}, but which classes it forgot is not known, since "
            "forget() did not attach it; take all adapters off with minigslora.lora.remove(model), or "
            "load the pre-trained model anew"
        )
    return Run(out, entries, origin)


def ledger_rows(entries: Sequence[ledger.Entry], data: Splits[Any]) -> list[int]:
    """Return the classes that a model has forgotten by its ledger's events.

    The data must call them, and those that were enrolled or kept again, as the ledger does.
    """
    did = {"forget": "it forgot", "enrol": "there was enrolled", "revoke": "it forgot"}
    for entry in entries:
        for name, row in zip(entry.classes, entry.rows, strict=True):
            here = repr(data.classes[row]) if row < len(data.classes) else "no such class"
            if here != repr(name):
                raise DataError(
                    f"the model's ledger says that {did[entry.event]} {name!r}, row {row} of its head, but "
                    f"there {data.name} has {here}; give the data whose classes the model knows, in its order"
                )
    return [row for entry in ledger.in_force(entries) for row in entry.rows]


def as_requests(
    data: Splits[Any], classes: Sequence[str | int] | Sequence[Sequence[str | int]]
) -> list[list[int]]:
    """Return requests as lists of class ids, checked; arrays and tensors count as lists."""
    given = _plain(classes)
    if not isinstance(given, list):
        given = [given]
    nested = [group for group in given if isinstance(group, list)]
    groups = given if len(nested) == len(given) else [given]
    requests = [data.class_ids(group) for group in groups]
    check_requests(data, requests)
    return requests


def _plain(value: Any) -> Any:
    """Return names and ids as Python's own, alone or in lists."""
    if isinstance(value, str):
        return str(value)
    if callable(tolist := getattr(value, "tolist", None)):  # NumPy's and torch's, of any dimension
        return tolist()
    if isinstance(value, Iterable):
        return [_plain(v) for v in value]
    try:
        return operator.index(value)
    except TypeError:
        raise DataError(
            f"{value!r} names no class; give names or whole numbers: one request, or a list of requests"
        ) from None
