"""Forgetting on anyone's own model and data: the front door of the library.

model = timm.create_model("vit_small_patch16_224", checkpoint_path="mine.pth", num_classes=10)
erasure = minigslora.forget(model, "photos", classes=["cat"])
print(erasure.table())
erasure.finalize("erased.safetensors")
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from timm.data.config import resolve_model_data_config
from torch import nn

from minigslora import lora
from minigslora.config import parse_value
from minigslora.contracts import Method, Task, TaskReport
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet
from minigslora.datasets.splits import Plan, Setting, check_requests, plan_requests
from minigslora.device import Precision
from minigslora.errors import DataError, MiniGSLoRAError, ModelError
from minigslora.files import save_tensors
from minigslora.forgetting import forget_sequence
from minigslora.methods import create
from minigslora.models.checkpoint import card_of
from minigslora.models.heads import CosineHead
from minigslora.problems.classification import Classification

_REQUESTS = "_classes_by_request"
"""A model's attribute: the classes of each request that :func:`forget` began on it."""


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

    def table(self) -> pd.DataFrame:
        """Return one row per request: what was forgotten, and accuracies in percent."""
        rows = []
        for report in self.reports:
            named = [self.problem.data.classes[c] for c in report.forget]
            row = {k: v for k, v in report.row().items() if not k.startswith("norm/")}
            rows.append({"task": row.pop("task"), "forgot": ", ".join(named), **row})
        return pd.DataFrame(rows or {"task": [], "forgot": []}).set_index("task")

    def revoke(self, task: str | None = None) -> None:
        """Take back a request, the last one by default; see :func:`minigslora.lora.revoke`.

        Raises:
            ModelError: for a method whose requests cannot be revoked.
        """
        if not self.method.revocable:
            raise ModelError(f"{self.method.name} changes the weights themselves; nothing to revoke")
        attached = lora.adapter_names(self.model)
        own = [report.task for report in self.reports if report.task in attached]
        if task is None and not own:
            raise ModelError("no request is left to revoke")
        lora.revoke(self.model, task or own[-1])
        self.reports = [r for r in self.reports if r.task != (task or own[-1])]

    def finalize(self, path: str | Path) -> Path:
        """Write the erased model as one plain safetensors file, without base or adapters.

        The keys are the pre-trained model's own, so that plain timm loads it strictly; a model that
        came from a file with a card hands the card on. Whoever has only this file cannot take the
        erasure back; whoever has the live model can.
        """
        return finalize(self.model, path)


def finalize(model: nn.Module, path: str | Path) -> Path:
    """Write an edited model as one plain safetensors file; see :meth:`Erasure.finalize`.

    The keys are those of the model's own class: timm's, or transformers' for a detector.
    """
    target, card = finalized_file(path), card_of(model)
    notes = {"format": "pt", **({"card": vars(card)} if card else {})}
    save_tensors(target, lora.fold(model).state_dict(), notes)
    return target


def finalized_file(path: str | Path) -> Path:
    """Return where an erased model is written; raise a :class:`ModelError` for another format."""
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ModelError(f"{target} should end in .safetensors, the format it is written in")
    return target


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation a model expects of images in [0, 1].

    A checkpoint's card says it; timm's models carry theirs; a face model takes pixels in [0, 1] as they
    are.
    """
    if card := card_of(model):
        return card.mean, card.std
    getter = getattr(model, "get_classifier", None)
    if callable(getter) and isinstance(getter(), CosineHead):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    config = resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def input_size(model: nn.Module) -> int:
    """Return the height and width of a model's input, in pixels."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size:
        return int(size[0])
    return int(resolve_model_data_config(model)["input_size"][-1])


def forget(
    model: nn.Module,
    data: DataSet | str | Path,
    classes: Sequence[str | int] | Sequence[Sequence[str | int]],
    *,
    method: str = "gslora++",
    recipe: str = "corrected",
    ratio: float = 0.1,
    shots: int = 0,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    out: str | Path | None = None,
    watch: bool = True,
    **settings: Any,
) -> Erasure:
    """Erase classes from a pre-trained classifier and keep the rest.

    Called again with the same model it serves the next request: the adapters of earlier ones stay,
    and their classes stay forgotten.

    Args:
        model: any timm vision transformer, or a Face Transformer; edited in place. GS-LoRA and its
            kin put adapters beside its weights, which they never write; other methods train the
            weights themselves, and start from the model as it is each time this is called.
        data: a data set, its name, or a folder ``train/CLASS/*.jpg``, ``test/CLASS/*.jpg`` whose
            classes, sorted by name, are those of the model's head.
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
        settings: further fields of the method's configuration or training, e.g. ``epochs=10``.

    Raises:
        MiniGSLoRAError: one of its kinds, for anything that cannot be done as asked.
    """
    parse_value("precision", precision, Precision)
    mean, std = normalisation(model)
    if not isinstance(data, DataSet):
        size = None if str(data) in registry.RENDERED else input_size(model)
        data = registry.load(data, size, watch)
    _check_size(model, data)
    requests, earlier = as_requests(data, classes), earlier_requests(model)
    setting = Setting(requests=tuple(map(len, requests)), ratio=ratio, shots=shots)
    way = create(method, recipe, setting.kind, **settings)
    problem = Classification(model, data, mean, std, device, precision)
    old = [c for request in earlier.values() for c in request]
    start = max((int(name.removeprefix("task")) for name in earlier), default=0)
    plan = plan_requests(data, requests, setting, seed, old=old, start=start)
    for name in lora.adapter_names(model):
        if name not in earlier:
            lora.revoke(model, name)
    # On the model itself, so that it goes where the adapters go.
    object.__setattr__(model, _REQUESTS, {**earlier, **{task.name: task.forget for task in plan.tasks}})
    reports = forget_sequence(problem, way, plan, seed, Path(out) if out is not None else None, watch)
    return Erasure(problem, way, plan, reports)


def earlier_requests(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the classes of each finished request whose adapter a model carries, by the task's name.

    A request that was stopped halfway, its adapter still trainable, is not among them.

    Raises:
        ModelError: for an adapter that :func:`forget` did not attach.
    """
    known: dict[str, tuple[int, ...]] = getattr(model, _REQUESTS, {})
    found = {}
    for name in lora.adapter_names(model):
        if name not in known:
            raise ModelError(
                f"the model carries the adapter {name!r}, but which classes it forgot is not known, since "
                "forget() did not attach it; take all adapters off with minigslora.lora.remove(model), or "
                "load the pre-trained model anew"
            )
        matrices = [p for _, adapter in lora.adapters(model, name) for p in adapter.parameters()]
        if not any(p.requires_grad for p in matrices):
            found[name] = known[name]
    return found


def _check_size(model: nn.Module, data: DataSet) -> None:
    strict = getattr(getattr(model, "patch_embed", None), "strict_img_size", False)
    if strict and len(data.train) and data.image_size != input_size(model):
        raise DataError(
            f"the images of {data.name} have {data.image_size} pixels a side, but the model reads "
            f"{input_size(model)}; load them at that size, or build the model with "
            f"img_size={data.image_size}"
        )


def as_requests(
    data: DataSet, classes: Sequence[str | int] | Sequence[Sequence[str | int]]
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


__all__ = ["Erasure", "MiniGSLoRAError", "Task", "forget"]
