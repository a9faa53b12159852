"""Models and their files: what is needed to build a model again travels in the file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from minigslora.config import from_mapping
from minigslora.errors import ModelError
from minigslora.files import load_tensors, save_tensors, shipped_root
from minigslora.models.detection import DetectorConfig, configured, deformable_detr, pretrained
from minigslora.models.face import FaceConfig, face_transformer

DETR_SIZE = 800
"""Height and width, in pixels, that images are given to a pre-trained Deformable DETR at."""

SHIPPED: dict[str, str] = {
    "mini-faces": "mini-faces.safetensors",
    "mini-glyphs": "mini-glyphs.safetensors",
    "mini-scenes": "mini-scenes.safetensors",
}
"""The checkpoints that ship, by the data set they were pre-trained on."""


@dataclass(frozen=True)
class Card:
    """What stands in a checkpoint's header.

    Attributes:
        architecture: {"kind": "face", …FaceConfig}, {"kind": "deformable-detr", …DetectorConfig},
            {"kind": "timm", "name": …} or {"kind": "transformers", "config": …}.
        classes: names of the classes, in the order of the head.
        mean, std: normalisation of images in [0, 1].
        image_size: height and width of the input.
        notes: how the weights came about.
    """

    architecture: dict[str, Any]
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    image_size: int = 112
    notes: dict[str, Any] = field(default_factory=dict)


_CARD = "_card"
"""A model's attribute: the card of the file it was loaded from."""


def card_of(model: nn.Module) -> Card | None:
    """Return the card of the file that a model was loaded from; None where it came another way."""
    return getattr(model, _CARD, None)


def set_card(model: nn.Module, card: Card) -> None:
    """Say what a model is, so that what is made of it can hand it on."""
    object.__setattr__(model, _CARD, card)


def name_classes(model: nn.Module, classes: tuple[str, ...]) -> None:
    """Keep a model's card true where its head was cut or restored: these are its classes now."""
    if (card := card_of(model)) is not None:
        architecture = {**card.architecture, "classes": len(classes)}
        set_card(model, replace(card, architecture=architecture, classes=classes))


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build a model with random weights from its description."""
    values = dict(architecture)
    kind = values.pop("kind", None)
    if kind == "face":
        return face_transformer(from_mapping(FaceConfig, values))
    if kind == "timm":
        return timm_model(values.pop("name"), **values)
    if kind == "deformable-detr":
        return deformable_detr(from_mapping(DetectorConfig, values))
    if kind == "transformers":
        return configured(values["config"], values.get("classes"))
    raise ModelError(
        f"unknown architecture {kind!r}; expected 'face', 'timm', 'deformable-detr' or 'transformers'"
    )


def timm_model(name: str, classes: int, **arguments: Any) -> nn.Module:
    """Build a timm model by name with a head of ``classes`` classes and random weights.

    Raises:
        ModelError: for a name timm does not have, or arguments the model does not take.
    """
    check_timm_name(name)
    try:
        model: nn.Module = timm.create_model(name, num_classes=classes, **arguments)
    except (TypeError, AssertionError, ValueError) as problem:
        raise ModelError(f"timm cannot build {name} with {arguments}: {problem}") from problem
    return model


def check_timm_name(name: str) -> None:
    """Raise a :class:`ModelError` for a name timm does not have."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ModelError(f"timm has no model {name!r}" + (f"; it has {', '.join(near)}, …" if near else ""))


def save(path: Path, model: nn.Module, card: Card, half: bool = False) -> None:
    """Write a plain model's weights, with its card in the header.

    Args:
        path: the safetensors file.
        model: the model.
        card: what stands in the header.
        half: store the parameters in half precision. After :func:`halve` nothing is lost by it: the
            same weights are loaded, bit for bit.
    """
    tensors = model.state_dict()
    if half:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            tensors[name] = parameter.half()
    save_tensors(path, tensors, {"card": vars(card)})


@torch.no_grad()
def halve(model: nn.Module) -> None:
    """Round a model's parameters to values that half precision has, in place; they stay float32.

    What is measured afterwards is what is shipped.
    """
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


def load(path: Path) -> tuple[nn.Module, Card]:
    """Build the model a file describes, with its weights.

    A file beside a ``config.json`` is a Deformable DETR as transformers saves it.

    Raises:
        ModelError: for a file without a card, or whose weights do not fit its architecture.
    """
    tensors, notes = load_tensors(path)
    if "card" not in notes and (path.parent / "config.json").is_file():
        return _from_transformers(path)
    if "card" not in notes:
        raise ModelError(f"{path} does not say its architecture; name it (--model NAME)")
    card = from_mapping(Card, notes["card"])
    model = build(card.architecture)
    load_weights(model, tensors, str(path))
    set_card(model, card)
    return model, card


def _from_transformers(path: Path) -> tuple[nn.Module, Card]:
    """Return a detector that transformers saved, and what its kind is normalised by."""
    model = pretrained(path.parent)
    config: Any = model.config
    names = tuple(str(config.id2label[row]) for row in range(config.num_labels))
    card = Card(
        architecture={"kind": "transformers", "config": json.loads(config.to_json_string(use_diff=False))},
        classes=names,
        mean=tuple(IMAGENET_DEFAULT_MEAN),
        std=tuple(IMAGENET_DEFAULT_STD),
        image_size=DETR_SIZE,
    )
    set_card(model, card)
    return model, card


def load_shipped(name: str) -> tuple[nn.Module, Card]:
    """Return the pre-trained model that ships for a data set."""
    if name not in SHIPPED:
        raise ModelError(f"no checkpoint ships for {name!r}; shipped: {', '.join(SHIPPED)}")
    return load(shipped_root() / SHIPPED[name])


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights strictly.

    Raises:
        ModelError: naming what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in tensors]
    unexpected = [k for k in tensors if k not in own]
    other = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or unexpected or other:
        k = other[0] if other else ""
        shapes = f" ({tuple(tensors[k].shape)} in the file, {tuple(own[k].shape)} here)" if k else ""
        raise ModelError(
            f"{where} is a checkpoint of another architecture than this {type(model).__name__}: "
            f"{_count('missing', missing)}, {_count('unexpected', unexpected)}, "
            f"{_count('of another shape', other)}{shapes}"
        )
    model.load_state_dict(dict(tensors))


def _count(what: str, keys: list[str]) -> str:
    return f"{len(keys)} {what}" + (f" (first {keys[0]!r})" if keys else "")
