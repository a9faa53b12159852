"""Deformable DETR, as transformers builds it: small by configuration, or a real checkpoint.

Source: Zhu et al., "Deformable DETR", arXiv 2010.04159. A ResNet gives feature maps of several
resolutions, an encoder relates their places, and a decoder turns a fixed number of learnt *queries* into
boxes, each with one sigmoid per class. A model is transformers' own, so that transformers loads what is
saved; only how small maps are read has a quicker way (:mod:`deformable_attention`, without weights).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigslora.config import parse_value
from minigslora.errors import ConfigError, ModelError, first_line
from minigslora.files import load_tensors, read_json
from minigslora.models.architectures import Classes, Depth, Pixels, Size, check_timm_name

PRIOR = 0.01
"""π: what a head of sigmoids says of every class and place before training (arXiv 1708.02002, 4.1)."""

NORM_GROUPS = 32
"""How many groups transformers' GroupNorm of the feature maps has, whatever their width."""


@dataclass(frozen=True)
class DetectorConfig:
    """Architecture of a small Deformable DETR.

    Attributes:
        classes: how many categories; one row of the classifier each.
        image_size: height and width of the input, in pixels.
        dim: of tokens and queries.
        heads: of every attention.
        mlp: width of the feed-forward networks.
        layers: of the encoder and of the decoder each.
        queries: how many boxes an image is given.
        points: places that one attention head reads at each resolution.
        stem, stages: channels of the ResNet's stem and its four stages; the last three are read.
        depths: blocks of each stage.
    """

    classes: Classes = 15
    image_size: Pixels = 96
    dim: Size = 96
    heads: Size = 3
    mlp: Size = 192
    layers: Depth = 6
    queries: Size = 30
    points: Size = 2
    stem: Size = 16
    stages: tuple[Size, ...] = (24, 48, 96, 128)
    depths: tuple[Depth, ...] = (1, 1, 1, 1)


MINI_SCENES = DetectorConfig()
"""The shipped detector."""


def deformable_detr(config: DetectorConfig) -> nn.Module:
    """Build a Deformable DETR with random weights, box refinement and auxiliary losses on."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    if config.layers < 2:
        raise ConfigError(f"layers = {config.layers}; expected 2 or more (transformers ties their heads)")
    step = math.lcm(NORM_GROUPS, config.heads)
    if config.dim < 1 or config.dim % step:
        raise ConfigError(
            f"dim = {config.dim}; expected a multiple of {step}, of {NORM_GROUPS} groups of a "
            f"norm and of heads = {config.heads}"
        )
    backbone = ResNetConfig(  # type: ignore[call-arg]
        embedding_size=config.stem,
        hidden_sizes=list(config.stages),
        depths=list(config.depths),
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    sizes: dict[str, Any] = {"layers": config.layers, "ffn_dim": config.mlp}
    sizes |= {"attention_heads": config.heads, "n_points": config.points}
    model: nn.Module = DeformableDetrForObjectDetection(
        DeformableDetrConfig(  # type: ignore[call-arg]
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=backbone,
            d_model=config.dim,
            **{f"{part}_{key}": size for part in ("encoder", "decoder") for key, size in sizes.items()},
            num_queries=config.queries,
            num_feature_levels=3,
            num_labels=config.classes,
            auxiliary_loss=True,
            with_box_refine=True,
            dropout=0.0,
        )
    )
    _start_from_prior(model)
    return model.requires_grad_(True)  # transformers freezes a ResNet's first stage


@torch.no_grad()
def _start_from_prior(model: Any) -> None:
    """Start as Deformable DETR does: every class at p = 0.01, every box small and at its query's place."""
    for head in model.class_embed:
        head.bias.fill_(-math.log((1 - PRIOR) / PRIOR))
    for place, head in enumerate(model.bbox_embed):
        last = head.layers[-1]
        last.weight.zero_()
        last.bias.zero_()
        if place == 0:
            last.bias[2:] = -2.0


def pretrained(source: str | Path) -> nn.Module:
    """Return a real Deformable DETR: transformers' name of it, or the folder of a saved one.

    A folder (``config.json`` and ``model.safetensors``) needs no network.
    """
    from transformers import DeformableDetrForObjectDetection

    folder = Path(source).expanduser()
    if (folder / "model.safetensors").is_file():
        return from_file(folder / "model.safetensors", load_tensors(folder / "model.safetensors")[0])
    try:
        model: nn.Module = DeformableDetrForObjectDetection.from_pretrained(
            folder if folder.is_dir() else str(source)
        )
    except (OSError, ValueError, KeyError) as problem:
        raise ModelError(
            f"no Deformable DETR at {str(source)!r} ({first_line(problem)}); give a folder with "
            "config.json and model.safetensors, or a name that transformers can download"
        ) from problem
    return model


def is_detector(config: Path) -> bool:
    """Return whether a ``config.json`` is that of a Deformable DETR."""
    try:
        contents = read_json(config)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(contents, Mapping) and contents.get("model_type") == "deformable_detr"


def from_file(path: Path, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the Deformable DETR of ``tensors``, as the ``config.json`` beside their file describes it."""
    from transformers import DeformableDetrForObjectDetection

    if not is_detector(beside := path.parent / "config.json"):
        raise ModelError(
            f"no Deformable DETR at {path.parent}: there is no config.json of one beside {path.name}"
        )
    config = _config(read_json(beside), strict=False)
    model: nn.Module
    try:
        read: Any = DeformableDetrForObjectDetection.from_pretrained
        model, info = read(None, config=config, state_dict=dict(tensors), output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise ModelError(f"{path} does not fit {beside}: {first_line(problem)}") from problem
    wrong = [k for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for k in info[key]]
    if wrong:
        raise ModelError(f"{path} does not fit {beside}: {len(wrong)} tensors differ (first {wrong[0]!r})")
    return model


def configured(config: Mapping[str, Any], classes: int | None = None) -> nn.Module:
    """Build a Deformable DETR with random weights from transformers' own configuration.

    Args:
        config: the contents of a ``config.json``; none of its keys can name code or an address.
        classes: how many rows its classifier has, where not as many as the configuration says.
    """
    from transformers import DeformableDetrForObjectDetection

    built = _config(config)
    if classes is not None and classes != built.num_labels:
        built.num_labels = parse_value("classes", classes, Classes)
    try:
        model: nn.Module = DeformableDetrForObjectDetection(built)
    except Exception as problem:  # a constructor given numbers that do not go together
        raise ModelError(f"transformers cannot build this configuration: {problem}") from problem
    return model


_BACKBONES: dict[str, set[str]] = {
    "resnet": {
        "num_channels", "embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_act",
        "out_features", "out_indices", "downsample_in_first_stage", "downsample_in_bottleneck", "model_type",
    },
    "timm_backbone": {
        "backbone", "num_channels", "features_only", "out_indices", "freeze_batch_norm_2d", "output_stride",
        "out_features", "model_type",
    },
}  # fmt: skip
"""The backbones that a configuration may have, and what it may say of them."""

_WITHOUT_MEANING = {
    "_name_or_path", "model_type", "output_attentions", "use_pretrained_backbone", "num_labels",
    "torch_dtype", "stage_names", "layer_types",
}  # fmt: skip
"""What transformers writes into a configuration, and the model here does not depend on."""


def _config(given: Mapping[str, Any], strict: bool = True) -> Any:
    """Return transformers' configuration from known keys only; others are errors, or else left out."""
    from transformers import DeformableDetrConfig, PreTrainedConfig

    if not isinstance(given, Mapping):
        raise ModelError(f"config = {str(given)[:40]!r}; expected the contents of a config.json")
    idle = _WITHOUT_MEANING | {f.name for f in fields(PreTrainedConfig)} - {"id2label"}
    known = {*DeformableDetrConfig.__annotations__, "id2label", "backbone", "use_timm_backbone"}
    values = _known(given, known, idle, strict)
    backbone = values.pop("backbone_config", None)
    name, timms = values.pop("backbone", None), values.pop("use_timm_backbone", True)
    if backbone is None and timms is True:  # as older versions of transformers describe it
        levels = [2, 3, 4] if values.get("num_feature_levels", 4) > 1 else [4]
        backbone = {"model_type": "timm_backbone", "backbone": name or "resnet50", "out_indices": levels}
    kind = backbone.get("model_type") if isinstance(backbone, Mapping) else None
    if kind not in _BACKBONES:
        raise ModelError(f"backbone_config is of kind {kind!r}; expected {' or '.join(_BACKBONES)}")
    inner = _known(backbone, _BACKBONES[kind], idle | {"id2label"}, strict)
    if kind == "timm_backbone":
        check_timm_name(inner.get("backbone", ""))  # a plain name: no address of a hub, no folder
        inner |= {"use_pretrained_backbone": False, "features_only": True}
    labels = values.get("id2label")
    if labels is not None and not (
        isinstance(labels, Mapping) and all(isinstance(v, str) for v in labels.values())
    ):
        raise ModelError("id2label names no classes; expected a name for each row of the head")
    try:
        return DeformableDetrConfig.from_dict({**values, "backbone_config": inner})
    except Exception as problem:  # transformers checks types, and raises kinds of its own
        raise ModelError(f"transformers takes no such configuration: {problem}") from problem


def _known(given: Mapping[str, Any], known: set[str], idle: set[str], strict: bool) -> dict[str, Any]:
    """Return the known keys of a configuration, their numbers checked."""
    if strict and (other := [key for key in given if key not in known | idle]):
        raise ModelError(f"{other[0]!r} is no part of a Deformable DETR's configuration")
    kept = {key: value for key, value in given.items() if key in known and value is not None}
    for key, value in kept.items():
        most = 256 if key.endswith("layers") or key == "depths" else 65536
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not 0 <= number <= most:
                raise ModelError(f"{key} = {value}; expected 0 to {most}")
    return kept


@torch.no_grad()
def keep_classes(model: nn.Module, rows: Sequence[int]) -> None:
    """Keep some rows of a detector's classifier, in a new order, in place.

    COCO's checkpoints have a row for each id up to 90, gaps included; the data's 80 categories are
    the rows of their ids.
    """
    detector: Any = model
    have = detector.config.num_labels
    if wrong := [row for row in rows if not 0 <= row < have]:
        raise ModelError(f"the classifier has no row {wrong[0]}; its rows are 0 to {have - 1}")
    kept: dict[int, nn.Parameter] = {}  # a classifier may be tied to that of the first layer
    for head in detector.class_embed:
        for name in ("weight", "bias"):
            old = getattr(head, name)
            new = kept.setdefault(id(old), nn.Parameter(old[list(rows)].clone()))
            setattr(head, name, new)
        head.out_features = len(rows)
    detector.config.num_labels = len(rows)


def keep_named(model: nn.Module, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Keep a classifier's rows of the categories ``wanted``, in place; ``names`` says what each row is of."""
    if unknown := [name for name in wanted if name not in names]:
        raise ModelError(
            f"the detector knows no {unknown[0]!r}; it has {', '.join(names[:5])}, … Give one that was "
            "trained on the data's categories"
        )
    keep_classes(model, [names.index(name) for name in wanted])


def trainable_norms(model: nn.Module) -> None:
    """Put BatchNorm in the place of transformers' frozen one, to train from random weights, in place."""
    from transformers.models.deformable_detr import modeling_deformable_detr as detr

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, detr.DeformableDetrFrozenBatchNorm2d):
                norm = nn.BatchNorm2d(len(child.weight)).to(child.weight.device)
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(module, name, norm)


@torch.no_grad()
def frozen_norms(model: nn.Module) -> None:
    """Undo :func:`trainable_norms`, keeping what was learnt, in place."""
    from transformers.models.deformable_detr import modeling_deformable_detr as detr

    detr.replace_batch_norm(model)
