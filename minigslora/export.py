"""Handing a model over: to timm, PEFT, ONNX and Hugging Face.

Each function takes a live model or a plain one, and compares what it wrote with the model's own answers on
random images before the file or folder takes its name: what does not answer alike is not written. Only PEFT's
folders hold adapters, to be put beside the pre-trained weights; everything else is a plain model, of which
nobody can take the erasure off (:func:`minigslora.erasure.finalize`).

Read images as the library does: the shorter side resized to the model's size (bicubic), the centre cropped.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from minigslora import __version__, ledger, lora, peft_format
from minigslora.config import from_mapping
from minigslora.erasure import finalize, finalized_file
from minigslora.errors import ModelError, first_line
from minigslora.files import load_tensors, save_tensors, staged, write_json, write_text
from minigslora.fingerprint import weights_hash
from minigslora.model_card import LIMITS, READ, SQUEEZED, model_card
from minigslora.models import checkpoint
from minigslora.models.architectures import checked
from minigslora.models.checkpoint import card_of, normalisation
from minigslora.models.head_slicing import classifier
from minigslora.models.heads import CosineHead
from minigslora.models.vit import FaceConfig

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far logits may lie from the live model's, by its precision, as a share of the largest (1 at least).

Folding an adapter into half-precision weights rounds them once more than the live model does.
"""

_IMAGES = 4
"""Random images that an export is compared on."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        difference: the largest distance of its logits from the live model's.
        tolerance: the largest that would have been allowed.
    """

    path: Path
    difference: float
    tolerance: float

    @property
    def size(self) -> int:
        """Bytes of the file, or of all files of the folder."""
        return sum(file.stat().st_size for file in (self.path, *self.path.rglob("*")) if file.is_file())

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.path}: {self.size / 1e6:.2f} MB; its logits differ from the model's by at most "
            f"{self.difference:.1e} ({self.tolerance:.1e} allowed)"
        )


def to_timm(model: nn.Module, path: str | Path, classes: Sequence[str] = ()) -> Exported:
    """Write one plain safetensors file as :func:`~minigslora.erasure.finalize` does; timm loads it strictly.

    Args:
        model: a model of timm's, live or plain, or a Face Transformer with a linear head.
        path: a file ending in .safetensors, which must not be there yet.
        classes: names in the order of the head, where no card says them.

    Raises:
        ModelError: for a model that timm cannot build, or one that does not answer alike there.
    """
    target, live = finalized_file(path), _still(model)
    name, arguments = timm_description(live)
    _say_what_it_is(live, name, arguments, class_names(live, classes))
    with staged(target) as file:
        finalize(live, file)
        plain = timm.create_model(name, num_classes=_rows(live), **arguments)
        plain.load_state_dict(load_tensors(file)[0], strict=True)
        figures = require_alike(live, plain.to(_kind(live)).eval(), "timm's model")
    return Exported(target, *figures)


def to_onnx(model: nn.Module, path: str | Path, classes: Sequence[str] = ()) -> Exported:
    """Write a classifier as one ONNX file, checked in onnxruntime on the CPU.

    The graph takes ``images``, (B, 3, H, W) in float32 and [0, 1], for any B, and gives ``logits``, (B, C) in
    float32; the normalisation is part of it, so that nobody can leave it out. A model in float16 computes in
    float16 there, any other in float32. The metadata hold JSON: ``classes``, ``ledger``, ``input``,
    ``normalisation`` (what the graph does), ``weights`` (hash of the plain model) and ``minigslora``.

    Args:
        model: a live or plain classifier, Face Transformers included.
        path: a file ending in .onnx, which must not be there yet.
        classes: names in the order of the head, where no card says them.

    Raises:
        ModelError: for a detector, a model that torch cannot export, or one that does not answer alike.
    """
    if (target := Path(path)).suffix != ".onnx":
        raise ModelError(f"{target} should end in .onnx, the format it is written in")
    _refuse_detector(model, "ONNX")
    live = _still(model)
    plain = lora.fold(live)
    said = _metadata(live, plain, class_names(live, classes))
    graph = _Normalised(plain if _kind(plain) is torch.float16 else plain.float(), *normalisation(live))
    program = _onnx_program(graph, _images(live)[:2])
    program.model.metadata_props.update({key: json.dumps(value) for key, value in said.items()})
    with staged(target) as file:
        program.save(str(file), external_data=False)
        figures = require_alike(live, _session(file), "onnxruntime", inside=True)
    return Exported(target, *figures)


class _Normalised(nn.Module):
    """A classifier that normalises images in [0, 1] itself, and answers in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model, self.kind = model, _kind(model)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        logits: Tensor = self.model(((images - self.mean) / self.std).to(self.kind))
        return logits.float()


def _onnx_program(graph: nn.Module, images: Tensor) -> Any:
    """Return torch's ONNX program of a module that takes a batch of any size."""
    try:
        with _quiet("onnxscript", "onnx_ir", "torch.onnx"), torch.no_grad():
            return torch.onnx.export(
                graph.eval(),
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as problem:  # torch's exporter fails in many ways
        said = re.sub(r"\x1b\[[0-9;]*m", "", first_line(problem))  # it colours its messages
        raise ModelError(f"torch cannot export this model to ONNX: {said}; write another format") from problem


def _metadata(live: nn.Module, plain: nn.Module, names: Sequence[str]) -> dict[str, Any]:
    """Return what an ONNX file says of itself."""
    mean, std = normalisation(live)
    size = _image_size(live)
    return {
        "classes": list(names),
        **({ledger.KEY: []} | ledger.header(live)),
        "input": {"images": ["batch", 3, size, size], "range": [0, 1], "channels": "RGB"},
        "normalisation": {"inside": True, "mean": list(mean), "std": list(std)},
        "weights": weights_hash(plain),
        "minigslora": __version__,
    }


def _session(file: Path) -> Any:
    """Return a function that gives the logits of images, normalised inside, by onnxruntime on the CPU."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as problem:  # its exceptions share no base of their own
        raise ModelError(f"onnxruntime cannot read what torch exported: {first_line(problem)}") from problem

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return logits


# --- PEFT -----------------------------------------------------------------------------------------------


def to_peft(model: nn.Module, out: str | Path) -> Exported:
    """Write a live model's adapters as PEFT stores them, a folder ``OUT/REQUEST`` each, and a README.md.

    They go beside the pre-trained weights, which are not written; all of them active at once are the live
    model. Layers whose update is zero are left out, and so is a request without any other.

    Args:
        model: a live model.
        out: a folder that is not there yet.

    Raises:
        ModelError: for a model without adapters, or with something that PEFT cannot express.
    """
    _refuse_detector(model, "PEFT, which cannot wrap it")
    if not (names := lora.adapter_names(model)):
        raise ModelError(
            "the model carries no adapters: a finalised file has none, and methods that train the weights "
            "make none. PEFT needs a live model, or the folder of its run and the weights that the run began "
            "with (minigslora export RUN --to peft --weights FILE)"
        )
    live, target = _still(model), _folder(out)
    base = copy.deepcopy(live)
    lora.remove(base)
    updates = {name: peft_format.updates_of(live, name) for name in names}
    if not (acting := {name: found for name, found in updates.items() if found}):
        raise ModelError(f"the adapters of {', '.join(names)} are all zero: the model is the pre-trained one")
    written = {
        name: (peft_format.configuration(base, found), peft_format.tensors(base, found))
        for name, found in acting.items()
    }
    figures = require_alike(live, peft_format.added_to(base, written.values()), "what PEFT would compute")
    with staged(target) as folder:
        entries = {entry.request: entry for entry in ledger.of(live)}
        for name, (config, tensors) in written.items():
            write_json(folder / name / "adapter_config.json", config)
            own = [entries[member] for member in lora.members(name) if member in entries]
            notes = {ledger.KEY: ledger.plain(own)} if own else {}
            save_tensors(folder / name / "adapter_model.safetensors", tensors, {"format": "pt", **notes})
        write_text(folder / "README.md", _peft_card(live, list(written), weights_hash(base)))
    return Exported(target, *figures)


def _peft_card(live: nn.Module, names: Sequence[str], base: str) -> str:
    """Return the README.md of adapters in PEFT's format."""
    further = "".join(f'model.load_adapter("FOLDER/{name}", adapter_name="{name}")\n' for name in names[1:])
    loading = (
        "```python\nfrom peft import PeftModel\n\n"
        "model = ...  # the pre-trained model, with its weights\n"
        f'model = PeftModel.from_pretrained(model, "FOLDER/{names[0]}", adapter_name="{names[0]}")\n{further}'
        f"model.base_model.set_adapter({json.dumps(list(names))})\nmodel.eval()\n```\n\n"
        f"The pre-trained weights have the hash {base} (`minigslora.fingerprint.weights_hash`). A request is "
        "taken back by leaving its folder out; those after it were trained in its presence.\n"
    )
    limits = (
        "- **The pre-trained weights beside these adapters still hold what was erased**, and whoever has "
        "both can take an adapter off. Hand over a plain model to those who must not have it.\n"
    )
    title, limits = "Adapters that make a model forget", limits + LIMITS
    said = ledger.of(live), class_names(live), loading, _reading(live), limits
    return model_card(title, *said, library_name="peft")


# --- Hugging Face -----------------------------------------------------------------------------------------


def to_hf(model: nn.Module, out: str | Path, classes: Sequence[str] = ()) -> Exported:
    """Write a folder for timm and transformers: config.json, model.safetensors, and a model card, README.md.

    ``timm.create_model("local-dir:OUT", pretrained=True)`` and transformers'
    ``AutoModelForImageClassification.from_pretrained("OUT")`` load it without a network, as does
    :func:`minigslora.models.checkpoint.load`; a Deformable DETR is loaded by ``AutoModelForObjectDetection``.

    Args:
        model: a live or plain model of timm's, a Face Transformer with a linear head, or a detector.
        out: a folder that is not there yet.
        classes: names in the order of the head, where no card says them.

    Raises:
        ModelError: for a model that neither library can build, or one that does not answer alike there.
    """
    target, live = _folder(out), _still(model)
    names = class_names(live, classes)
    write = _write_detector if _is_detector(live) else _write_classifier
    with staged(target) as folder:
        folder.mkdir()
        loaded, loading, front = write(live, folder, names)
        figures = require_alike(live, loaded.to(_kind(live)).eval(), "the folder")
        card = model_card(target.name, ledger.of(live), names, loading, _reading(live), **front)
        write_text(folder / "README.md", card)
    return Exported(target, *figures)


def _write_classifier(live: Any, folder: Path, names: Sequence[str]) -> tuple[nn.Module, str, dict[str, Any]]:
    """Write a classifier's files; return it as timm loads it, how to do so, and its front matter."""
    name, arguments = timm_description(live)
    _say_what_it_is(live, name, arguments, names)
    mean, std = normalisation(live)
    size = _image_size(live)
    built: Any = timm.create_model(name, num_classes=_rows(live), **arguments)
    structure = ("first_conv", "classifier", "fixed_input_size", "pool_size")
    own = {key: built.pretrained_cfg[key] for key in structure if key in built.pretrained_cfg}
    # Written here, as timm's own function carries the registry's tag and licence over to other weights.
    reading: dict[str, Any] = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    reading |= {"input_size": [3, size, size], "mean": list(mean), "std": list(std)}
    config: dict[str, Any] = {"architecture": name, "num_classes": _rows(live)}
    config |= {"num_features": built.num_features, "model_args": arguments, "pretrained_cfg": own | reading}
    write_json(folder / "config.json", config | ({"label_names": list(names)} if names else {}))
    finalize(live, folder / "model.safetensors")
    loading = (
        "```python\nimport timm\n\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n```\n\n'
        "`pretrained=True` loads the weights; without it they are random. In transformers:\n\n"
        "```python\nfrom transformers import AutoModelForImageClassification\n\n"
        'model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()\n```\n'
    )
    front = {"library_name": "timm", "pipeline_tag": "image-classification", "tags": ["timm", "transformers"]}
    return timm.create_model(f"local-dir:{folder}", pretrained=True), loading, front


def _write_detector(live: Any, folder: Path, names: Sequence[str]) -> tuple[nn.Module, str, dict[str, Any]]:
    """Write a detector's files; return it as transformers loads it, how to do so, and its front matter."""
    from transformers import AutoModelForObjectDetection

    plain: Any = lora.fold(live)
    if names:
        plain.config.id2label = dict(enumerate(names))
        plain.config.label2id = {name: row for row, name in enumerate(names)}
    plain.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors, _ = load_tensors(file)
    save_tensors(file, tensors, {"format": "pt", **ledger.header(live)})
    loading = (
        "```python\nfrom transformers import AutoModelForObjectDetection\n\n"
        'model = AutoModelForObjectDetection.from_pretrained("FOLDER").eval()\n```\n'
    )
    front = {"library_name": "transformers", "pipeline_tag": "object-detection"}
    return AutoModelForObjectDetection.from_pretrained(folder), loading, front


def _folder(out: str | Path) -> Path:
    """Return where a folder is written; raise a :class:`ModelError` for the name of a file."""
    if (target := Path(out)).suffix in (".safetensors", ".onnx", ".pth", ".pt", ".bin"):
        raise ModelError(f"{target} is a file's name, but a folder is written; leave {target.suffix} out")
    return target


def _reading(model: nn.Module) -> str:
    """Say how a model's images are read."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalisation(model))
    return (SQUEEZED if _is_detector(model) else READ).format(size=_image_size(model), mean=mean, std=std)


# --- what a model is ------------------------------------------------------------------------------------


def timm_description(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return timm's name of a model and its arguments, the classes left out: as its card or timm says them.

    Raises:
        ModelError: for a model that timm cannot build, or of which nobody says what it is.
    """
    _refuse_detector(model, "timm")
    if isinstance(_head(model), CosineHead):
        raise ModelError(
            "timm and transformers have no cosine head (CosFace, ArcFace), so that they cannot build this "
            "Face Transformer; write ONNX instead (minigslora export --to onnx)"
        )
    said = dict(card.architecture) if (card := card_of(model)) else {}
    if said.pop("kind", "timm") == "face":
        return _face_as_timm(from_mapping(FaceConfig, said))
    if not said and (config := getattr(model, "pretrained_cfg", None)):
        said = {"name": config.get("architecture"), **getattr(model, "_model_args", {})}
    if not (name := said.pop("name", None)):
        raise ModelError(
            f"nobody says which of timm's models this {type(model).__name__} is; build it with "
            "timm.create_model, or load it from a file with a card (minigslora fetch NAME --weights FILE)"
        )
    arguments = {key: value for key, value in said.items() if key not in ("classes", "num_classes")}
    return name, checked(name, arguments)


def _face_as_timm(config: FaceConfig) -> tuple[str, dict[str, Any]]:
    """Return a Face Transformer with a linear head as one of timm's."""
    if config.norm_eps != 1e-6:
        raise ModelError(
            f"the LayerNorms of timm's models have ε = 1e-06, those of this Face Transformer "
            f"{config.norm_eps:g}; write ONNX instead (minigslora export --to onnx)"
        )
    sizes: dict[str, Any] = {"img_size": config.image_size, "patch_size": config.patch}
    sizes |= {"embed_dim": config.dim, "depth": config.depth, "num_heads": config.heads}
    sizes |= {"mlp_ratio": config.mlp / config.dim, "qkv_bias": False, "proj_drop_rate": config.dropout}
    return "vit_base_patch16_224", sizes


def _say_what_it_is(
    model: nn.Module, name: str, arguments: Mapping[str, Any], classes: Sequence[str]
) -> None:
    """Give a model of timm's that has no card one, so that its file says what it is."""
    if card_of(model) is None:
        card = checkpoint.timm_card(name, arguments, *normalisation(model))
        described = {**card.architecture, "classes": _rows(model)}
        checkpoint.set_card(model, replace(card, architecture=described, classes=tuple(classes)))


def class_names(model: nn.Module, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the classes: those given, or the card's; () where nobody says them.

    Raises:
        ModelError: for another number of names than the head has rows.
    """
    card = card_of(model)
    names = tuple(classes) or (card.classes if card else ())
    if names and len(names) != (rows := _rows(model)):
        raise ModelError(f"{len(names)} classes are named for a head of {rows}; name each row, in its order")
    return names


def _is_detector(model: nn.Module) -> bool:
    return isinstance(getattr(model, "class_embed", None), nn.ModuleList)


def _refuse_detector(model: nn.Module, what: str) -> None:
    if _is_detector(model):
        raise ModelError(
            f"a Deformable DETR cannot be written for {what}; write a folder for transformers instead "
            "(minigslora export --to hf)"
        )


def _head(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_classifier", None)
    head: nn.Module | None = getter() if callable(getter) else None
    return head


def _rows(model: Any) -> int:
    """Return how many classes a model's head has."""
    return int(model.config.num_labels if _is_detector(model) else len(classifier(model).weight))


def _kind(model: nn.Module) -> torch.dtype:
    """Return the type that a model computes in: that of its first weights, adapters left out."""
    return next(value.dtype for value in lora.unwrapped_state(model).values() if value.is_floating_point())


def _image_size(model: nn.Module) -> int:
    card = card_of(model)
    return card.image_size if card else checkpoint.input_size(model)


# --- whether it answers alike -----------------------------------------------------------------------------


def _still(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU in evaluation mode, which what is written is compared with."""
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)


def _images(model: nn.Module) -> Tensor:
    """Return random images in [0, 1] at the model's size, (B, 3, H, W), the same each time."""
    size = _image_size(model)
    return torch.rand(_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _answers(model: Any, images: Tensor) -> Tensor:
    """Return what a model says of normalised images, in float32: logits, and a detector's boxes."""
    said = model(images)
    if not isinstance(said, Tensor):
        said = torch.cat([said.logits, said.pred_boxes], dim=2) if "pred_boxes" in said else said.logits
    answers: Tensor = said.float()
    return answers


def require_alike(
    live: nn.Module, written: Callable[[Tensor], Any], what: str, inside: bool = False
) -> tuple[float, float]:
    """Compare the answers of what was written with the live model's.

    Args:
        live: of :func:`_still`.
        written: gives the answers of what was written.
        what: its name, for the message.
        inside: whether it normalises by itself.

    Returns:
        The largest difference, and the largest that is allowed.

    Raises:
        ModelError: where the difference is larger.
    """
    images, (mean, std) = _images(live), normalisation(live)
    shift, width = (torch.tensor(v)[:, None, None] for v in (mean, std))
    kind = _kind(live)
    normal = ((images - shift) / width).to(kind)
    expected, got = _answers(live, normal), _answers(written, images if inside else normal)
    allowed = TOLERANCE.get(kind, TOLERANCE[torch.float32]) * max(1.0, float(expected.abs().max()))
    difference = float((got - expected).abs().max()) if got.shape == expected.shape else math.inf
    if not difference <= allowed:
        raise ModelError(
            f"{what} answers otherwise than the model: logits differ by {difference:.1e}, where "
            f"{allowed:.1e} is allowed. Nothing was written; write another format"
        )
    return difference, allowed


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep libraries from logging what only their authors can act on."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
