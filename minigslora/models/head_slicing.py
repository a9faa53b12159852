"""The class-sliced head: a task on some classes of a model that knows more (notebook 08).

The classifier of a task on the classes S is the rows S of the pre-trained model's whole head,

    z_S(x) = W[S] e(x) + b[S]                                                (8.1)

and the edit that serves the task changes e. The *outside check* puts the whole head back on the edited
backbone and asks for the classes outside S: they must not move. Source: arXiv 2501.09705, section 5.1
(ImageNet100 out of ImageNet's 1000 classes).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from minigslora import lora, rows
from minigslora.errors import ModelError
from minigslora.models import checkpoint
from minigslora.models.heads import CosineHead

Head = nn.Linear | CosineHead


@dataclass(frozen=True)
class FullHead:
    """The whole head that a sliced one was cut from.

    Attributes:
        head: the classifier of all classes, its weights as pre-trained.
        classes: the names of all its classes, in the order of its rows.
        rows: the row of each of the task's classes, in the task's order.
    """

    head: Head
    classes: tuple[str, ...]
    rows: tuple[int, ...]

    @property
    def outside(self) -> tuple[str, ...]:
        """The names of the classes outside the task, in the order of their rows."""
        task = set(self.rows)
        return tuple(name for row, name in enumerate(self.classes) if row not in task)

    @torch.no_grad()
    def around(self, sliced: nn.Module) -> Head:
        """Return a whole head whose rows of the task are those of ``sliced`` as they are now.

        Where the task's head was not trained, which is so for all methods with adapters, it is the
        pre-trained head bit for bit.
        """
        part = classifier(sliced)
        if len(part.weight) != len(self.rows):
            raise ModelError(
                f"the head has {len(part.weight)} rows, but {len(self.rows)} were cut for it: a class that "
                "was enrolled since has no place in the whole head; enrol it into the whole model instead"
            )
        whole = copy.deepcopy(self.head).to(part.weight.device)
        places = torch.tensor(self.rows, device=part.weight.device)
        for name in ("weight", "bias"):
            if (values := getattr(part, name, None)) is not None:
                getattr(whole, name)[places] = values
        return whole


def classifier(model: nn.Module) -> Head:
    """Return the one linear classifier of a model with timm's interface.

    Raises:
        ModelError: where it has none, or several as DeiT's distilled models have.
    """
    getter = getattr(model, "get_classifier", None)
    head = getter() if callable(getter) else None
    if not isinstance(head, Head):
        raise ModelError(
            f"{type(model).__name__} has no single linear classifier; expected a timm "
            "classification model (DeiT's distilled pair of heads is not supported)"
        )
    return head


def slice_head(model: nn.Module, classes: Sequence[str], wanted: Sequence[str]) -> FullHead:
    """Leave a model, in place, the rows of some of its classes (8.1).

    Args:
        model: a model with timm's interface.
        classes: the names of all its classes, in the order of its head.
        wanted: the task's classes, in the task's order.

    Returns:
        The whole head, for :func:`restore_head` and :func:`restored`.
    """
    head = classifier(model)
    if isinstance(head, rows.Replaced):
        raise ModelError(
            "rows of this model's head are replaced, and would come apart from their requests; slice the "
            "head first and edit then, or give a plain model: minigslora.lora.fold(model)"
        )
    if len(classes) != len(head.weight):
        raise ModelError(f"{len(classes)} class names were given for a head of {len(head.weight)} classes")
    places = {name: row for row, name in enumerate(classes)}
    if lacking := [name for name in wanted if name not in places]:
        raise ModelError(
            f"the model's head has no row for {len(lacking)} of the {len(wanted)} classes of the task "
            f"(first {lacking[0]!r}); give a model that was trained on them"
        )
    full = FullHead(copy.deepcopy(head), tuple(classes), tuple(places[name] for name in wanted))
    _put(model, _rows(head, full.rows))
    checkpoint.name_classes(model, wanted)
    return full


def restore_head(model: nn.Module, full: FullHead) -> None:
    """Put the whole head back on a sliced model, in place; its task's rows stay as they are now.

    Those that are replaced (:mod:`minigslora.rows`) are so in the whole head, too.
    """
    sliced = classifier(model)
    with lora.bypassed(model):
        whole = full.around(model)
    if isinstance(sliced, rows.Replaced):
        for name, part in sliced.adapters.items():
            index = [full.rows[row] for row in part.index.tolist()]
            rows.replace(whole, name, index, part.weight, part.bias)
    _put(model, whole)
    checkpoint.name_classes(model, full.classes)


@contextlib.contextmanager
def restored(model: nn.Module, full: FullHead) -> Iterator[nn.Module]:
    """Yield ``model`` with its whole head, and leave it with the very head it came with."""
    sliced = classifier(model)
    _put(model, full.around(model))
    try:
        yield model
    finally:
        _put(model, sliced)


def _rows(head: Head, rows: Sequence[int]) -> Head:
    part = copy.deepcopy(head)
    for name, values in head.named_parameters():
        chosen: Tensor = values.detach()[list(rows)].clone()
        setattr(part, name, nn.Parameter(chosen, requires_grad=values.requires_grad))
    if isinstance(part, nn.Linear):
        part.out_features = len(rows)
    return part


def _put(model: nn.Module, head: Head) -> None:
    """Replace the classifier, wherever in the model it sits."""
    old = classifier(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, head)
    if hasattr(model, "num_classes"):
        cast(Any, model).num_classes = len(head.weight)
