"""The released Face Transformer's checkpoints, read into this library's model.

The released model computes what timm's vision transformer does, but for four things:

* its attention scale is dim^-½, timm's head_dim^-½: the query rows are multiplied by √(head_dim/dim);
* its patch embedding is a linear map over (row, column, channel) of a patch, timm's a convolution;
* the ε of its LayerNorms is 1e-5, timm's 1e-6;
* in training it has dropout on the embedded patches too, which :class:`FaceConfig` does not.

Its FFN layers, or its query-key-value layers, may carry LoRA matrices beside their weight. Whether
that weight already contains s·B·A (s = 1/r) cannot be told from the file. It does in every file that
the released code writes: loralib merges on ``eval()``, and all are saved in that mode. LoRA keys are
therefore ignored by default; adding them would count the update twice.

Sources: arXiv 2103.14803 and 2403.11530, the names and shapes in their released code; LoRA, arXiv
2106.09685, and loralib's layout of its matrices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from minigslora.config import parse_value
from minigslora.errors import ConfigError, ModelError
from minigslora.files import load_tensors, sha256
from minigslora.formats import plain_names, unwrapped
from minigslora.lora import load_adapters
from minigslora.models import checkpoint
from minigslora.models.vit import FaceConfig, face_transformer

LoRA = Literal["ignore", "fold", "keep"]
"""What becomes of LoRA keys: "ignore" them, as they are merged already (the default); or, in a file
saved in training mode, "fold" s·B·A into the weight or "keep" it as a frozen adapter."""

Margin = Literal["cosface", "arcface"]

ADAPTER = "official"
"""The name of the adapter that ``lora="keep"`` attaches."""

_HEAD_DIM = 64
_ENDS = {"patch_embed.proj": "patch_to_embedding", "norm": "mlp_head.0", "head": "loss"}
_BLOCK = {
    "norm1": "0.fn.norm",
    "attn.qkv": "0.fn.fn.to_qkv",
    "attn.proj": "0.fn.fn.to_out.0",
    "norm2": "1.fn.norm",
    "mlp.fc1": "1.fn.fn.net.0",
    "mlp.fc2": "1.fn.fn.net.3",
}


class Reading(TypedDict, total=False):
    """What a released state dict does not say about itself; :func:`convert_official` explains."""

    lora: LoRA
    heads: int | None
    head: Margin
    image_size: int


def convert_official(
    state: Mapping[str, Any],
    *,
    lora: LoRA = "ignore",
    heads: int | None = None,
    head: Margin = "cosface",
    image_size: int = 112,
) -> tuple[VisionTransformer, FaceConfig]:
    """Convert a released Face Transformer's state dict to a timm model with the same function.

    Args:
        state: tensors by the released names, not changed; wrappers around them and prefixes are taken off.
        lora: see :data:`LoRA`.
        heads: number of attention heads; dim / 64, as released, by default.
        head: the kind of a head without bias, which the file does not say; with a bias it is linear.
        image_size: height and width of the input, checked against the file.

    Returns:
        The model, in float64 where the file is and in float32 otherwise, and its architecture.

    Raises:
        ConfigError: where ``lora`` or ``head`` is none of the allowed values.
        ModelError: naming what is missing, unexpected or of another shape, or what timm's model cannot be.
    """
    parse_value("lora", lora, LoRA)
    parse_value("head", head, Margin)
    given = plain_names(unwrapped(state)[0])
    names = _names(given)
    weights = _floats(given, names)
    config = _config(weights, heads, image_size, head)
    model = face_transformer(config).to(weights["cls_token"].dtype)
    _require_shapes(weights, names, model.state_dict())
    updates = _updates(weights) if lora != "ignore" else {}
    weights = {key: weights[key] for key in model.state_dict()}  # without LoRA's matrices
    patches = weights["patch_embed.proj.weight"].unflatten(1, (config.patch, config.patch, 3))
    weights["patch_embed.proj.weight"] = patches.permute(0, 3, 1, 2)  # (dim, 3, patch, patch)
    if lora == "fold":
        for layer, (a, b, scale) in updates.items():
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + scale * (b @ a)
    for key in (key for key in weights if key.endswith("attn.qkv.weight")):
        weights[key] = _scaled_queries(weights[key], config)
    model.load_state_dict(weights)
    if lora == "keep":
        _attach(model, updates, config)
    return model, config


def load_official(path: Path, **how: Unpack[Reading]) -> tuple[VisionTransformer, checkpoint.Card]:
    """Read a released checkpoint with :func:`convert_official`, whose keywords are taken.

    Returns:
        The model and its card. The names of the classes are not in such a file, nor on the card.
    """
    tensors, _ = load_tensors(path)
    try:
        model, config = convert_official(tensors, **how)
    except ModelError as problem:
        raise ModelError(f"{path}: {problem}") from problem
    layers = sum(key.endswith(".lora_A") for key in tensors)
    notes = {
        "source": "converted from a released Face Transformer checkpoint",
        "file": path.name,
        "sha256": sha256(path),
        "lora": f"{layers} layers: {how.get('lora', 'ignore')}" if layers else "none",
    }
    architecture = {"kind": "face", **asdict(config)}
    return model, checkpoint.Card(architecture, image_size=config.image_size, notes=notes)


def import_official(path: Path, out: Path, **how: Unpack[Reading]) -> checkpoint.Card:
    """Write a released checkpoint as one of this library's, to ``out``, for :func:`checkpoint.load`.

    It takes the keywords of :func:`convert_official`, but for ``lora="keep"``.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} should end in .safetensors, the format it is written in")
    if how.get("lora") == "keep":
        raise ConfigError(
            "lora = 'keep'; a checkpoint holds a plain model: choose 'ignore' or 'fold', or use "
            "load_official and lora.adapter_state"
        )
    model, card = load_official(path, **how)
    checkpoint.save(out, model, card)
    return card


# --- keys and sizes ---------------------------------------------------------------------------------


def _names(state: Mapping[str, Any]) -> dict[str, str]:
    """Map our keys to the released ones, LoRA's as LAYER.A and LAYER.B.

    Raises:
        ModelError: naming the released keys that are missing and unexpected.
    """
    layers = {found[1] for key in state if (found := re.match(r"transformer\.layers\.(\d+)\.", key))}
    modules = dict(_ENDS)
    for i in range(max(len(layers), 1)):  # without any layer, those of the first are reported as missing
        modules |= {f"blocks.{i}.{ours}": f"transformer.layers.{i}.{old}" for ours, old in _BLOCK.items()}
    names = {"cls_token": "cls_token", "pos_embed": "pos_embedding"}
    for ours, theirs in modules.items():
        names[f"{ours}.weight"] = f"{theirs}.weight"
        if not (ours.endswith("attn.qkv") or (ours == "head" and "loss.bias" not in state)):
            names[f"{ours}.bias"] = f"{theirs}.bias"
        if ours.startswith("blocks.") and "norm" not in ours:
            pair = {f"{ours}.{side}": f"{theirs}.lora_{side}" for side in "AB"}
            names |= pair if any(key in state for key in pair.values()) else {}
    missing = [key for key in names.values() if key not in state]
    unexpected = sorted(state.keys() - set(names.values()))
    if missing or unexpected:
        raise ModelError(
            "these are not the weights of a released Face Transformer: "
            f"{_listed('missing', missing)}; {_listed('unexpected', unexpected)}. Expected are "
            "cls_token, pos_embedding, patch_to_embedding, transformer.layers.N, mlp_head.0 and loss "
            "(the head), with or without LoRA keys; give the whole model's state dict. timm's own "
            "models go by their name (--model NAME)"
        )
    return names


def _listed(what: str, keys: list[str], most: int = 4) -> str:
    if not keys:
        return f"none {what}"
    return f"{len(keys)} {what} ({', '.join(keys[:most])}{', …' if len(keys) > most else ''})"


def _floats(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors by our names, in float64 if one of them is, in float32 otherwise."""
    for key in names.values():
        if not isinstance(state[key], Tensor) or not state[key].is_floating_point():
            raise ModelError(f"{key} is no tensor of floating-point numbers; give the weights unquantised")
    double = any(state[key].dtype == torch.float64 for key in names.values())
    kind = torch.float64 if double else torch.float32
    return {ours: state[theirs].detach().to(kind) for ours, theirs in names.items()}


def _config(weights: Mapping[str, Tensor], heads: int | None, image_size: int, head: Margin) -> FaceConfig:
    """Read the architecture from the sizes of the tensors; their shapes are checked afterwards."""
    dim = weights["norm.weight"].numel()
    if not dim:
        raise ModelError("mlp_head.0.weight is empty; the file holds no weights")
    patches = weights["pos_embed"].numel() // dim - 1
    return FaceConfig(
        classes=weights["head.weight"].numel() // dim,
        image_size=image_size,
        patch=_patch(weights["patch_embed.proj.weight"].numel() // dim, patches, image_size),
        dim=dim,
        depth=sum(key.endswith("attn.qkv.weight") for key in weights),
        heads=_heads(weights["blocks.0.attn.qkv.weight"], dim, heads),
        mlp=weights["blocks.0.mlp.fc1.bias"].numel(),
        head="linear" if "head.bias" in weights else head,
        norm_eps=1e-5,
    )


def _patch(values: int, patches: int, image_size: int) -> int:
    """Return the side of a patch of ``values`` numbers, or raise where the image does not fit."""
    side, grid = math.isqrt(values // 3), math.isqrt(max(patches, 0))
    if (3 * side**2, grid**2, side * grid) == (values, patches, image_size) and image_size:
        return side
    raise ModelError(
        f"{patches} patches of {values} values are no image of {image_size}×{image_size} cut into "
        "squares of three channels. Give the input size (image_size) if it is another; the variant with "
        "overlapping patches (ViTs) cannot be converted"
    )


def _heads(qkv: Tensor, dim: int, heads: int | None) -> int:
    inner = len(qkv) // 3 if qkv.dim() == 2 else dim  # of no such shape: the check of shapes tells
    if inner != dim:
        raise ModelError(
            f"attention is {inner} wide inside a model {dim} wide (to_qkv is {tuple(qkv.shape)}); "
            "timm's is as wide as its model, so that this one cannot be converted"
        )
    count = dim // _HEAD_DIM if heads is None else heads
    if count < 1 or dim % count or (heads is None and dim % _HEAD_DIM):
        said = f"heads of {_HEAD_DIM}, as released" if heads is None else f"{heads} heads"
        raise ModelError(f"a width of {dim} does not divide into {said}; give the number of heads (heads)")
    return count


def _require_shapes(
    weights: Mapping[str, Tensor], names: Mapping[str, str], own: Mapping[str, Tensor]
) -> None:
    wrong = []
    for key, plain in own.items():
        shape = plain.flatten(1).shape if key == "patch_embed.proj.weight" else plain.shape
        if weights[key].shape != shape:
            wrong.append(f"{names[key]}: {tuple(weights[key].shape)} in the file, {tuple(shape)} expected")
        if f"{(layer := key.removesuffix('.weight'))}.A" in weights:
            wrong += _misfit(names[key], weights[f"{layer}.A"], weights[f"{layer}.B"], *shape)
    if wrong:
        raise ModelError(
            f"the weights do not fit together: {_listed('of another shape', wrong)}; the file is "
            "damaged, or was put together from different models"
        )


def _misfit(name: str, a: Tensor, b: Tensor, outputs: int, inputs: int) -> Iterator[str]:
    """Say what is wrong with the LoRA matrices beside the weight called ``name``, if anything."""
    if a.dim() == b.dim() == 2 and b.numel():
        rank = b.shape[1]
        rows = (rank, 3 * rank) if name.endswith("to_qkv.weight") else (rank,)
        if b.shape[0] == outputs and a.shape[1] == inputs and a.shape[0] in rows:
            return
    yield (
        f"{name.removesuffix('.weight')}.lora_A and .lora_B: {tuple(a.shape)} and {tuple(b.shape)} in the "
        f"file, (r, {inputs}) and ({outputs}, r) expected"
    )


# --- LoRA and attention -------------------------------------------------------------------------------


def _updates(weights: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Return (A, B, s) by our layer's name, such that its update is s·B·A."""
    updates = {}
    for layer in (key.removesuffix(".A") for key in weights if key.endswith(".A")):
        a, b = weights[f"{layer}.A"], weights[f"{layer}.B"]
        rank = b.shape[1]
        if len(a) != rank:  # queries, keys and values have a pair each, stacked in loralib's way
            b = torch.block_diag(*b.chunk(3))  # (3·dim, 3·r)
        updates[layer] = (a, b, 1.0 / rank)
    return updates


def _scaled_queries(rows: Tensor, config: FaceConfig) -> Tensor:
    """Multiply the query rows, the first dim of (3·dim, …), by √(head_dim/dim)."""
    head_dim = config.dim // config.heads
    scaled = rows.clone()
    scaled[: config.dim] *= math.sqrt(head_dim / config.dim)
    return scaled


def _attach(
    model: VisionTransformer, updates: Mapping[str, tuple[Tensor, Tensor, float]], config: FaceConfig
) -> None:
    adapters = {}
    for layer, (a, b, scale) in updates.items():
        key = f"{layer}.adapters.{ADAPTER}"
        adapters[f"{key}.A"] = a
        adapters[f"{key}.B"] = _scaled_queries(b, config) if layer.endswith("attn.qkv") else b
        adapters[f"{key}.scale"] = torch.tensor(scale, dtype=torch.float64)
    load_adapters(model, adapters)
