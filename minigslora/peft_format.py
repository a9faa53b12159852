"""A request's adapters as PEFT stores them: a configuration, and tensors under its keys.

PEFT computes W x + Σ_t (α/r) B_t (A_t x), which is (2.1) with s = α/r. Layers whose update is zero, as group
sparsity leaves them, are left out. Rows of the head that a request replaced are an update of low rank, too:
with E a column of the identity for each of the n rows, W + E (W_new − W_old). A linear head gets it as one
more layer, its bias in B's; a cosine head, which is no layer to PEFT, by ``target_parameters``. Several
requests can then be active at once; of PEFT's ``modules_to_save`` only one could.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minigslora import lora, rows
from minigslora.errors import ModelError

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Update:
    """What one request adds to one layer: its weight gets scale · B A.

    Attributes:
        A: (r, in_features).
        B: (out_features, r).
        scale: s.
        bias: what its bias gets, (out_features,); None where that stays.
        called: whether the layer is linear; of another, PEFT changes the weight that it reads.
    """

    A: Tensor
    B: Tensor
    scale: float
    bias: Tensor | None = None
    called: bool = True


def updates_of(model: nn.Module, name: str) -> dict[str, Update]:
    """Return what the request ``name`` adds, by layer; layers to which it adds nothing are left out.

    Raises:
        ModelError: for what PEFT cannot express.
    """
    found = {
        layer: Update(adapter.A.detach(), adapter.B.detach(), adapter.scale)
        for layer, adapter in lora.adapters(model, name)
        if adapter.A.any() and adapter.B.any()
    }
    for layer, stack in lora.stacks(model).items():
        if isinstance(stack, rows.Replaced) and name in stack.adapters:
            if layer.endswith(".base"):
                raise ModelError(
                    f"{name} replaced rows of {layer.removesuffix('.base')!r}, which has an adapter, too; "
                    "PEFT has room for one of the two. Write a plain model instead (--to timm, hf or onnx)"
                )
            found[layer] = _of_rows(stack, name)
    return found


def _of_rows(layer: rows.Replaced, name: str) -> Update:
    index, difference, bias = rows.moved(layer, name)
    places = torch.zeros(len(layer.weight), len(index), dtype=difference.dtype, device=difference.device)
    places[index, torch.arange(len(index))] = 1.0
    linear = isinstance(layer, nn.Linear)
    if bias is not None and not linear:
        raise ModelError(
            f"{name} replaced biases of a {rows.own_kind(layer).__name__}, which PEFT cannot do; write a "
            "plain model instead (--to timm, hf or onnx)"
        )
    return Update(difference, places, 1.0, None if bias is None else places @ bias, linear)


def configuration(model: nn.Module, updates: Mapping[str, Update]) -> dict[str, Any]:
    """Return a request's ``adapter_config.json`` for PEFT 0.21.

    Args:
        model: the pre-trained model, without adapters.
        updates: of :func:`updates_of`; there must be some.

    Raises:
        ModelError: where a layer has no bias, but PEFT would give it one.
    """
    called = [layer for layer, update in updates.items() if update.called]
    read = [layer for layer, update in updates.items() if not update.called]
    biased = any(update.bias is not None for update in updates.values())
    if biased and (bare := [c for c in called if model.get_submodule(c).bias is None]):
        raise ModelError(
            f"PEFT adds a bias to all layers of an adapter or to none: the head's moved, but {bare[0]!r} has "
            "none. Write a plain model instead (--to timm, hf or onnx)"
        )
    sizes = {layer: (len(update.A), update.scale * len(update.A)) for layer, update in updates.items()}
    # PEFT takes ranks of its own for layers, but not for parameters: theirs is the configuration's.
    usual = sizes[read[0]] if read else Counter(sizes.values()).most_common(1)[0][0]
    other = {layer: size for layer, size in sizes.items() if size != usual}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": usual[0],
        "lora_alpha": _plain(usual[1]),
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": biased,
        "target_modules": _only(model, called),
        **({"target_parameters": [f"{layer}.weight" for layer in read]} if read else {}),
        "rank_pattern": {re.escape(layer): size[0] for layer, size in other.items()},
        "alpha_pattern": {re.escape(layer): _plain(size[1]) for layer, size in other.items()},
    }


def _plain(value: float) -> float | int:
    """Return a whole number as one, as PEFT writes its α."""
    return int(value) if value == int(value) else value


def _only(model: nn.Module, layers: list[str]) -> list[str] | str:
    """Return layers as PEFT's ``target_modules``; an expression where a name ends as one of them does."""
    names = [name for name, _ in model.named_modules() if name not in layers]
    if any(name.endswith(f".{layer}") for name in names for layer in layers):
        return "|".join(re.escape(layer) for layer in layers)
    return layers


def tensors(model: nn.Module, updates: Mapping[str, Update]) -> dict[str, Tensor]:
    """Return a request's ``adapter_model.safetensors``.

    Raises:
        ModelError: for a layer that the pre-trained model does not have in this shape.
    """
    made: dict[str, Tensor] = {}
    biased = any(update.bias is not None for update in updates.values())
    for layer, update in updates.items():
        weight: Any = model.get_submodule(layer).weight
        if weight.shape != (len(update.B), update.A.shape[1]):
            raise ModelError(
                f"the update of {layer!r} does not fit its weight of shape {tuple(weight.shape)}"
            )
        made[f"{_PREFIX}{layer}.lora_A.weight"] = update.A
        made[f"{_PREFIX}{layer}.lora_B.weight"] = update.B
        if biased:
            bias = update.B.new_zeros(len(update.B)) if update.bias is None else update.bias / update.scale
            made[f"{_PREFIX}{layer}.lora_B.bias"] = bias
    return made


@torch.no_grad()
def added_to(
    model: nn.Module, written: Iterable[tuple[Mapping[str, Any], Mapping[str, Tensor]]]
) -> nn.Module:
    """Return a copy of the pre-trained model with what was written added to its weights, read by its keys."""
    dense = copy.deepcopy(model)
    for config, values in written:
        for key, A in values.items():
            if not key.endswith(".lora_A.weight"):
                continue
            stem = key.removesuffix("lora_A.weight")
            layer: Any = dense.get_submodule(stem.removeprefix(_PREFIX).removesuffix("."))
            scale = _scale(config, stem.removeprefix(_PREFIX).removesuffix("."))
            layer.weight += (scale * values[f"{stem}lora_B.weight"] @ A).to(layer.weight)
            if (bias := values.get(f"{stem}lora_B.bias")) is not None:
                layer.bias += (scale * bias).to(layer.bias)
    return dense


def _scale(config: Mapping[str, Any], layer: str) -> float:
    """Return α / r as PEFT finds it for a layer."""
    found = {"rank_pattern": config["r"], "alpha_pattern": config["lora_alpha"]}
    for pattern in found:
        for key, value in config[pattern].items():
            if re.match(rf"(.*\.)?({key})$", layer):
                found[pattern] = value
                break
    return float(found["alpha_pattern"] / found["rank_pattern"])
