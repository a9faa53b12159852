"""ImageNet's pre-trained vision transformers: timm's by name, torchvision's ViT by conversion.

The weights are downloaded where the user can, or come from a file. torchvision's ``vit_b_16`` and kin are
the same networks as timm's, under other names of the parameters; the conversion moves no number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from minigslora.errors import ModelError, first_line
from minigslora.files import load_tensors
from minigslora.formats import plain_names
from minigslora.models import checkpoint
from minigslora.models.architectures import check_timm_name
from minigslora.models.checkpoint import Card

TORCHVISION: dict[str, str] = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
}
"""torchvision's vision transformers at 224 pixels, and timm's names for them."""

_NAMES: tuple[tuple[str, str], ...] = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of torchvision's VisionTransformer under timm's names; values are untouched."""
    for pattern, name in _NAMES:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    return dict(state)


def load(name: str, weights: Path | str = "") -> tuple[nn.Module, Card]:
    """Return a pre-trained model with its whole head, and its card.

    Args:
        name: timm's name of the model, with or without the weights' tag ("vit_base_patch16_224",
            "deit_base_patch16_224.fb_in1k"), or torchvision's name ("vit_b_16").
        weights: a local file (safetensors or a state dict, of timm or of torchvision); "" downloads.
    """
    ours, where = TORCHVISION.get(name, name), str(weights or name)
    check_timm_name(ours)
    tensors, notes = load_tensors(Path(weights).expanduser()) if weights else (_download(name), {})
    tensors = dict(plain_names(tensors))
    if of_torchvision := "conv_proj.weight" in tensors:
        tensors = from_torchvision(tensors)
    if "head.weight" not in tensors:
        raise ModelError(f"{where} has no classifier ('head.weight'); give weights with their head")
    classes = len(tensors["head.weight"])
    names = notes.get("classes") or (imagenet_classes() if classes == 1000 else ())
    with torch.device("meta"):
        data: dict[str, Any] = resolve_model_data_config(checkpoint.timm_model(ours, classes))
    if of_torchvision:  # whose weights were trained under ImageNet's own normalisation
        data |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    taken = {"taken": notes["taken"]} if "taken" in notes else {}
    card = Card(
        architecture={"kind": "timm", "name": ours, "classes": classes},
        classes=names if len(names) == classes else (),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        image_size=int(data["input_size"][-1]),
        notes={"from": Path(weights).name if weights else name, **taken},
    )
    return checkpoint.with_weights(card, tensors, where, notes), card


def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1000 classes, in the order of every such model's head."""
    return tuple(ImageNetInfo().label_names())


def _download(name: str) -> dict[str, Tensor]:
    try:
        if name in TORCHVISION:
            from torchvision.models import get_model

            return dict(get_model(name, weights="DEFAULT").state_dict())
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as problem:  # hubs fail in many ways: no network, no such tag, no licence accepted
        raise ModelError(
            f"the weights of {name} could not be downloaded ({first_line(problem)}). Connect to the network, "
            "or give a file of them (--weights FILE)"
        ) from problem
