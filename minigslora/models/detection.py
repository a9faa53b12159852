"""Deformable DETR, as transformers builds it: small by configuration, or a real checkpoint.

Source: Zhu et al., "Deformable DETR", arXiv 2010.04159. A ResNet gives feature maps of several
resolutions, an encoder relates their places, and a decoder turns a fixed number of learnt *queries* into
boxes, each with one sigmoid per class. Nothing of it is written here: a model is transformers' own, so
that transformers loads what is saved; only how small maps are read has a quicker way (:mod:`reading`,
without weights).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minigslora.errors import ConfigError, ModelError

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

    classes: int = 15
    image_size: int = 96
    dim: int = 96
    heads: int = 3
    mlp: int = 192
    layers: int = 6
    queries: int = 30
    points: int = 2
    stem: int = 16
    stages: tuple[int, ...] = (24, 48, 96, 128)
    depths: tuple[int, ...] = (1, 1, 1, 1)


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
    model: nn.Module = DeformableDetrForObjectDetection(
        DeformableDetrConfig(  # type: ignore[call-arg]
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=backbone,
            d_model=config.dim,
            encoder_layers=config.layers,
            decoder_layers=config.layers,
            encoder_ffn_dim=config.mlp,
            decoder_ffn_dim=config.mlp,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_n_points=config.points,
            decoder_n_points=config.points,
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

    Raises:
        ModelError: where there is none, or it is another kind of model.
    """
    from transformers import DeformableDetrForObjectDetection

    folder = Path(source).expanduser()
    try:
        model: nn.Module = DeformableDetrForObjectDetection.from_pretrained(
            folder if folder.is_dir() else str(source)
        )
    except (OSError, ValueError, KeyError) as problem:
        raise ModelError(
            f"no Deformable DETR at {str(source)!r} ({str(problem).splitlines()[0]}); give a folder with "
            "config.json and model.safetensors, or a name that transformers can download"
        ) from problem
    return model


def configured(config: Mapping[str, Any], classes: int | None = None) -> nn.Module:
    """Build a Deformable DETR with random weights from transformers' own configuration.

    Args:
        config: the contents of a ``config.json``.
        classes: how many rows its classifier has, where not as many as the configuration says.
    """
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    built: Any = DeformableDetrConfig.from_dict({**config, "use_pretrained_backbone": False})
    if classes is not None and classes != built.num_labels:
        built.num_labels = classes
    model: nn.Module = DeformableDetrForObjectDetection(built)
    return model


@torch.no_grad()
def keep_classes(model: nn.Module, rows: Sequence[int]) -> None:
    """Keep some rows of a detector's classifier, in a new order, in place.

    COCO's checkpoints have a row for each id up to 90, gaps included; the data's 80 categories are
    the rows of their ids.

    Raises:
        ModelError: for a row that the classifier does not have.
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
    """Keep the classifier's rows of the categories ``wanted``, in their order, in place.

    Args:
        model: a detector.
        names: the category of each row.
        wanted: the categories of the data.

    Raises:
        ModelError: for a category that the model does not have.
    """
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
