"""Models and their files: what is needed to build a model again travels in the file's header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from minigslora import ledger
from minigslora.config import Range, from_mapping, parse_value
from minigslora.errors import ConfigError, MiniGSLoRAError, ModelError, first_line
from minigslora.files import load_tensors, save_tensors, shipped_root
from minigslora.formats import plain_names
from minigslora.models.architectures import Classes, check_timm_name, checked
from minigslora.models.heads import CosineHead
from minigslora.models.vit import FaceConfig, face_transformer

DETR_SIZE = 800
"""Height and width, in pixels, that images are given to a pre-trained Deformable DETR at."""

SHIPPED = {name: f"{name}.safetensors" for name in ("mini-faces", "mini-glyphs", "mini-scenes")}
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
    image_size: Annotated[int, Range(1, 4096)] = 112
    notes: dict[str, Any] = field(default_factory=dict)


_CARD = "_card"
"""A model's attribute: the card of the file it was loaded from."""


def card_of(model: nn.Module) -> Card | None:
    """Return the card of the file that a model was loaded from; None where it came another way."""
    return getattr(model, _CARD, None)


def set_card(model: nn.Module, card: Card) -> None:
    """Say what a model is, so that what is made of it can hand it on."""
    object.__setattr__(model, _CARD, card)


def name_classes(model: nn.Module, classes: Sequence[str]) -> None:
    """Keep a model's card true where its head was cut or restored: these are its classes now."""
    if (card := card_of(model)) is not None:
        set_card(model, for_classes(card, classes))


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Build a model with random weights from its description; a part that none may have is a ModelError."""
    if not isinstance(architecture, Mapping):
        raise ModelError(f"an architecture is described by names and values, not by {architecture!r}")
    values = dict(architecture)
    kind = values.pop("kind", None)
    try:
        if kind == "face":
            return face_transformer(from_mapping(FaceConfig, values))
        if kind == "timm":
            return timm_model(values.pop("name"), values.pop("classes"), **values)
        from minigslora.models import detr  # only now, as transformers' weight is a detector's

        if kind == "deformable-detr":
            return detr.deformable_detr(from_mapping(detr.DetectorConfig, values))
        if kind == "transformers":
            return detr.configured(values["config"], values.get("classes"))
    except ConfigError as problem:
        raise ModelError(str(problem)) from problem
    except KeyError as problem:
        raise ModelError(f"an architecture of kind {kind!r} needs {problem}") from problem
    except MiniGSLoRAError:
        raise
    except Exception as problem:  # numbers that do not go together fail in many ways
        raise ModelError(f"no such model can be built: {problem}") from problem
    raise ModelError(
        f"unknown architecture {kind!r}; expected 'face', 'timm', 'deformable-detr' or 'transformers'"
    )


def timm_model(name: str, classes: int, **arguments: Any) -> nn.Module:
    """Build a timm model by name with a head of ``classes`` classes and random weights.

    Raises:
        ModelError: for a name timm does not have, or arguments the model does not take.
    """
    check_timm_name(name)
    known = checked(name, arguments)
    try:
        rows = parse_value("classes", classes, Classes)
        model: nn.Module = timm.create_model(name, num_classes=rows, **known)
    except Exception as problem:  # the constructors of a thousand models fail in many ways
        raise ModelError(f"timm cannot build {name} with {known}: {first_line(problem)}") from problem
    return model


def card_from(value: Any, where: str) -> Card:
    """Return a card from what a file says; what is wrong with it is a :class:`ModelError`."""
    try:
        if not isinstance(value, Mapping):
            raise ConfigError(f"it is {str(value)[:40]!r}, not names and values")
        for key in ("architecture", "notes"):
            if not isinstance(value.get(key, {}), Mapping):
                raise ConfigError(f"{key} = {str(value[key])[:40]!r}; expected names and values")
        if "architecture" not in value:
            raise ConfigError("it lacks 'architecture'")
        card = from_mapping(Card, {k: v for k, v in value.items() if v is not None})
        check_normalisation(card.mean, card.std)
        if len(set(card.classes)) < len(card.classes):
            raise ConfigError("it names a class twice")
        rows = card.architecture.get("classes", len(card.classes))
        if card.classes and rows != len(card.classes):
            raise ConfigError(f"it names {len(card.classes)} classes for a head of {rows}")
    except (ConfigError, TypeError, OverflowError) as problem:
        raise ModelError(f"the card of {where} cannot be used: {problem}") from None
    return card


def timm_card(
    name: str,
    arguments: Mapping[str, Any],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Card:
    """Return the card of a timm model, without classes yet.

    Args:
        name: timm's.
        arguments: of its architecture, as :data:`~minigslora.models.architectures.TIMM` lists them.
        mean: of normalisation, where not timm's for the name.
        std: likewise.
    """
    architecture = {"kind": "timm", "name": name, "classes": 1, **arguments}
    with torch.device("meta"):
        outline = build(architecture)
    own_mean, own_std = normalisation(outline)
    values = {"architecture": architecture, "mean": mean or own_mean, "std": std or own_std}
    return card_from({**values, "image_size": input_size(outline)}, name)


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
    return int(size[0] if size else resolve_model_data_config(model)["input_size"][-1])


def for_classes(card: Card, classes: Sequence[str]) -> Card:
    """Return a card for a head of these classes."""
    return replace(card, architecture={**card.architecture, "classes": len(classes)}, classes=tuple(classes))


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise a :class:`ConfigError` where images cannot be normalised by these numbers."""
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(math.isfinite(v) for v in values):
            raise ConfigError(f"{key} = {tuple(values)}; expected three numbers, one a channel")
    if min(std) <= 0:
        raise ConfigError(f"std = {tuple(std)}; images are divided by it: expected more than 0")


def with_weights(
    card: Card, tensors: Mapping[str, Tensor], where: str, notes: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build the model that a card describes, with the weights of a file, and the ledger in its ``notes``.

    The weights are compared with the description before anything of its size is made.

    Raises:
        ModelError: for a description that builds no model, or weights that do not fit it.
    """
    with torch.device("meta"):
        outline = build(card.architecture)
    weights = _fitting(outline, tensors, where, card.architecture)
    model = build(card.architecture)
    model.load_state_dict(weights)
    set_card(model, card)
    ledger.put(model, ledger.read(notes or {}, where))
    return model


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights strictly; those that do not fit, or are no numbers, are a :class:`ModelError`."""
    model.load_state_dict(_fitting(model, tensors, where))


def save(path: Path, model: nn.Module, card: Card, half: bool = False) -> None:
    """Write a plain model's weights as safetensors, with its card in the header.

    ``half`` stores the parameters in half precision; after :func:`halve` nothing is lost by it.
    """
    tensors = model.state_dict()
    if half:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            tensors[name] = parameter.half()
    save_tensors(path, tensors, {"card": vars(card), **ledger.header(model)})


@torch.no_grad()
def halve(model: nn.Module) -> None:
    """Round a model's parameters to values that half precision has, in place; they stay float32.

    What is measured afterwards is what is shipped.
    """
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


SAY_IT = (
    "make it a checkpoint that does: 'minigslora fetch NAME --weights FILE' for a timm model, 'minigslora "
    "import FILE' for a released Face Transformer"
)
"""What to do about a file that does not say its architecture, where nothing else can."""


def load(path: str | Path, otherwise: str = SAY_IT) -> tuple[nn.Module, Card]:
    """Build the model a file describes, with its weights.

    A file beside the ``config.json`` of a Deformable DETR is one, as transformers saves it.

    Args:
        path: the file.
        otherwise: what to do where it does not say its architecture, for the message.

    Raises:
        ModelError: for a file without a card, or whose weights do not fit its architecture.
    """
    path = Path(path)
    tensors, notes = load_tensors(path)
    if "card" in notes:
        card = card_from(notes["card"], str(path))
        return with_weights(card, tensors, str(path), notes), card
    if (path.parent / "config.json").is_file():
        from minigslora.models import detr

        if detr.is_detector(path.parent / "config.json"):
            model = detr.from_file(path, tensors)
            set_card(model, card := _card_of_detector(model))
            ledger.put(model, ledger.read(notes, str(path)))
            return model, card
    raise ModelError(f"{path} does not say its architecture; {otherwise}")


def _card_of_detector(model: Any) -> Card:
    config = model.config
    return Card(
        architecture={"kind": "transformers", "config": json.loads(config.to_json_string(use_diff=False))},
        classes=tuple(str(config.id2label[row]) for row in range(config.num_labels)),
        mean=tuple(IMAGENET_DEFAULT_MEAN),
        std=tuple(IMAGENET_DEFAULT_STD),
        image_size=DETR_SIZE,
    )


def load_shipped(name: str) -> tuple[nn.Module, Card]:
    """Return the pre-trained model that ships for a data set."""
    if name not in SHIPPED:
        raise ModelError(f"no checkpoint ships for {name!r}; shipped: {', '.join(SHIPPED)}")
    return load(shipped_root() / SHIPPED[name])


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise a :class:`ModelError` where weights hold NaN or infinity before anything was trained."""
    floats = {k: v for k, v in tensors.items() if v.is_floating_point() and v.numel()}
    if not floats:
        return
    # The extremes are numbers only where all are; a sum would overflow in half precision.
    wide = (v.detach().float() if v.element_size() == 1 else v.detach() for v in floats.values())
    ends = torch.stack([torch.stack(v.aminmax()).double() for v in wide])
    finite = ends.isfinite().all(dim=1).tolist()
    if broken := [name for name, well in zip(floats, finite, strict=True) if not well]:
        raise ModelError(
            f"{where} holds NaN or infinity in {len(broken)} of its {len(tensors)} tensors (first "
            f"{broken[0]!r}), before anything was trained here: it is damaged, or its own training "
            "diverged. Give an earlier checkpoint"
        )


# --- why weights do not fit ---------------------------------------------------------------------------


def _fitting(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, architecture: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Return the weights under the model's names; where they do not fit, a ModelError says the cause."""
    tensors = plain_names(tensors, model.state_dict())
    if misfit := _misfit(model, tensors, where, architecture or {}):
        raise ModelError(misfit)
    require_finite(tensors, where)
    return dict(tensors)


def _misfit(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, architecture: Mapping[str, Any]
) -> str:
    """Say why weights do not fit a model; "" where they do."""
    own = model.state_dict()
    missing = [k for k in own if k not in tensors]
    unexpected = [k for k in tensors if k not in own]
    other = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    kind = [k for k in own if k in tensors and own[k].is_floating_point() != tensors[k].is_floating_point()]
    if not (missing or unexpected or other or kind):
        return ""
    head, causes = _head_keys(model), []
    if (lacking := set(missing)) and lacking <= head:
        weights = any(k.endswith("weight") for k in lacking)
        causes += [_NO_HEAD if weights else _NO_BIAS]
        missing = []
    if changed := [k for k in other if k in head and own[k].shape[1:] == tensors[k].shape[1:]]:
        causes += [_OTHER_HEAD.format(len(tensors[changed[0]]), len(own[changed[0]]))]
        other = [k for k in other if k not in changed]
    if not (missing or unexpected) and other:
        rest = {k: v.shape for k, v in tensors.items() if k not in head}
        if size := _size_that_fits(model, architecture, rest):
            causes += [_OTHER_SIZE.format(size)]
            other = []
    if kind and not (missing or unexpected or other):
        causes += [f"its {kind[0]!r} is {tensors[kind[0]].dtype}: give the weights unquantised"]
    elif missing or unexpected or other:
        k = other[0] if other else ""
        shapes = f" ({tuple(tensors[k].shape)} in the file, {tuple(own[k].shape)} here)" if k else ""
        return (
            f"{where} is a checkpoint of another architecture than this {type(model).__name__}: "
            f"{_count('missing', missing)}, {_count('unexpected', unexpected)}, "
            f"{_count('of another shape', other)}{shapes}"
        )
    return f"{where} does not fit this {type(model).__name__}: {'; and '.join(causes)}"


_NO_HEAD = "it has no classifier; give weights with a head that was trained on the classes"
_NO_BIAS = (
    "its classifier has no bias. If it is a plain linear layer, add zeros as the bias and save it again; if "
    "it is a cosine head (CosFace, ArcFace), give a checkpoint that says so (minigslora import)"
)
_OTHER_HEAD = (
    "its head has {} classes, and {} are asked for. Give images of all its classes, or train a head "
    "on yours first"
)
_OTHER_SIZE = (
    "it was trained on images of {0} pixels a side; take that size (--image-size {0}, or img_size={0})"
)


def _head_keys(model: nn.Module) -> set[str]:
    getter = getattr(model, "get_classifier", None)
    try:
        heads = getter() if callable(getter) else getattr(model, "class_embed", None)
    except (AttributeError, TypeError):
        return set()
    inside = set(heads.modules()) if isinstance(heads, nn.Module) else set(heads or ())
    return {f"{n}.{k}" for n, m in model.named_modules() if m in inside for k, _ in m.named_parameters()}


def _size_that_fits(
    model: nn.Module, architecture: Mapping[str, Any], shapes: Mapping[str, torch.Size]
) -> int | None:
    """Return the image size at which a timm model has tensors of these shapes."""
    if architecture.get("kind") != "timm":
        return None
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", 16)
    step = int(patch[0] if isinstance(patch, Sequence) else patch)
    for size in sorted({step * k for k in range(1, 65)} | {224, 256, 288, 320, 336, 384, 448, 512}):
        try:
            with torch.device("meta"):
                other = build({**architecture, "img_size": size}).state_dict()
        except ModelError:
            continue
        if all(k in other and other[k].shape == shape for k, shape in shapes.items()):
            return size
    return None


def _count(what: str, keys: list[str]) -> str:
    return f"{len(keys)} {what}" + (f" (first {keys[0]!r})" if keys else "")
