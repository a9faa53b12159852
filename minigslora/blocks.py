"""Where the linear layers of a network are: in attentions, in feed-forward networks, in blocks of both.

All are found by type and place (timm's, torchvision's, torch's own, and transformers' Deformable DETR's),
never by a substring of a name.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minigslora.errors import ModelError

Targets = Literal["ffn", "attention", "ffn+attention"] | Sequence[str] | Callable[[str, nn.Linear], bool]
"""Which linear layers are meant: a part of every block, a list of module names, or a predicate."""

DETR = "transformers.models.deformable_detr.modeling_deformable_detr"
"""Where Deformable DETR's types are; where it was not imported, no model has them."""

_TIMM = (
    "vision_transformer vision_transformer_relpos beit eva swin_transformer swin_transformer_v2 "
    "swin_transformer_v2_cr"
)
"""timm's modules whose attentions are types of their own; not every release of timm has all."""

_TYPES = {
    "ffn": "Mlp GluMlp SwiGLU SwiGLUPacked GatedMlp GlobalResponseNormMlp MLP DeformableDetrMLP",
    "attention": "MultiheadAttention Attention AttentionRope EvaAttention WindowAttention "
    "WindowMultiHeadAttention RelPosAttention DeformableDetrSelfAttention "
    "DeformableDetrMultiscaleDeformableAttention",
    "position": "RelPosMlp RelPosBias",
}
"""The types of feed-forward networks, of attentions, and of what serves their relative positions only."""


class Wrapper(nn.Module):
    """What stands in a model for the linear layer that it holds as ``base``."""

    base: nn.Linear


def parent_of(model: nn.Module, name: str) -> nn.Module:
    """Return the module that holds the one called ``name``."""
    return model.get_submodule(name.rpartition(".")[0])


def find_linears(model: nn.Module, targets: Targets = "ffn") -> list[str]:
    """Return the names of the linear layers that ``targets`` selects, in the model's order.

    Raises:
        ModelError: where nothing is selected, a name is not a linear layer, or a layer is shared.
    """
    if isinstance(model, nn.Linear):
        raise ModelError("the model is itself one linear layer; wrap it: nn.Sequential(model)")
    linears = dict(_linears(model))
    if isinstance(targets, str):
        parts = {"ffn": _in_ffn, "attention": _in_attention}
        kinds = targets.split("+")
        if unknown := [kind for kind in kinds if kind not in parts]:
            raise ModelError(
                f"unknown LoRA target {unknown[0]!r}; expected 'ffn', 'attention', 'ffn+attention', "
                "a list of module names or a predicate"
            )
        inside = {name for kind in kinds for name in parts[kind](model)}
        chosen = [name for name in linears if name in inside]
    elif callable(targets):
        chosen = [name for name, layer in linears.items() if targets(name, layer)]
    else:
        chosen = list(targets)
        if missing := [name for name in chosen if name not in linears]:
            raise ModelError(
                f"{missing[0]!r} is not a linear layer of this {type(model).__name__}; "
                f"its linear layers are {_shorten(list(linears))}"
            )
    if not chosen:
        raise ModelError(
            f"this {type(model).__name__} has no linear layer selected by targets={targets!r}; "
            + _instead(model, list(linears))
        )
    _refuse_shared(model, chosen)
    return chosen


def find_blocks(model: nn.Module) -> dict[str, str]:
    """Map each linear layer of a Transformer block to the block's name.

    A block is the smallest module that holds both an attention and a feed-forward network. Where there is
    none (an attention of an unknown type), it is the module that holds the layer's own attention or
    feed-forward network. Layers in neither are not listed.
    """
    attention, ffn = _in_attention(model), _in_ffn(model)
    holds_attention = {parent for name in attention.values() for parent in _parents(name)}
    holds_ffn = {parent for name in ffn.values() for parent in _parents(name)}
    both = holds_attention & holds_ffn
    smallest = both - {parent for name in both for parent in _parents(name)}
    homes = attention | ffn
    return {
        name: next((p for p in _parents(name) if p in smallest), homes[name].rpartition(".")[0])
        for name, _ in _linears(model)
        if name in homes
    }


@contextlib.contextmanager
def outputs_of(model: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what some modules give in a forward pass within the context, by name.

    What of it is no token (B, N, D), or tokens on a grid (B, H, W, D), is left out.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() > 2:
            seen[name] = output

    handles = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def class_token(model: nn.Module, features: Tensor) -> Tensor:
    """Return class tokens (B, D) of a block's output (B, N, D) or (B, H, W, D), in float32 at least.

    A model without a class token has the mean of its tokens instead.
    """
    has_one = getattr(model, "cls_token", None) is not None
    tokens = features[:, 0] if has_one else features.flatten(1, -2).mean(dim=1)
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))


def _types(part: str) -> tuple[type[nn.Module], ...]:
    import timm  # not above, as both take seconds to load, and whoever only names a run has no model
    import torchvision

    places = [nn, timm.layers, torchvision.ops.misc, sys.modules.get(DETR)]
    places += [getattr(timm.models, name, None) for name in _TIMM.split()]
    types = {getattr(place, name, None) for place in places for name in _TYPES[part].split()}
    return tuple(t for t in types if isinstance(t, type))


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Wrapper):
            yield name, module.base
        elif isinstance(module, nn.Linear) and not isinstance(parent_of(model, name), Wrapper):
            yield name, module


def _in_attention(model: nn.Module) -> dict[str, str]:
    """Map the linear layers of attentions to their attention: those of its own.

    What lies deeper in it, such as a small network for relative positions, does nothing to the tokens.
    """
    kinds = _types("attention")
    homes = {name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, kinds)}
    return {name: home for name, _ in _linears(model) if (home := name.rpartition(".")[0]) in homes}


def _in_ffn(model: nn.Module) -> dict[str, str]:
    """Map the linear layers of blocks' feed-forward networks to their network.

    A network inside an attention, or for its relative positions, is none.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    kinds, aside = _types("ffn"), _types("attention") + _types("position")
    homes = [
        name
        for name, module in modules.items()
        if isinstance(module, kinds) and not any(isinstance(modules[up], aside) for up in _parents(name))
    ]
    return {name: home for home in homes for name, _ in _linears(model) if name.startswith(home + ".")}


def _refuse_shared(model: nn.Module, chosen: Sequence[str]) -> None:
    first_name: dict[int, str] = {}
    for name, layer in _linears(model):
        other = first_name.setdefault(id(next(layer.parameters())), name)
        if other != name and (name in chosen or other in chosen):
            raise ModelError(
                f"{name!r} and {other!r} share one weight; an adapter on one would not act on the "
                "other. Untie them, or leave both out with an explicit list of module names"
            )


def _instead(model: nn.Module, linears: list[str]) -> str:
    """Say what to do where no layer was selected; a classifier is not among what to name."""
    getter = getattr(model, "get_classifier", None)
    head = getter() if callable(getter) else None
    inside = set(head.modules()) if isinstance(head, nn.Module) else set()
    inner = [name for name in linears if model.get_submodule(name) not in inside]
    if inner and (inside or len(linears) > 1):
        return f"name the layers yourself, from: {_shorten(inner)}"
    only = f"its only linear layer is the classifier {linears[0]!r}" if linears else "it has none at all"
    return (
        f"{only}, and an adapter there leaves what the network sees as it is. Give a vision transformer, or "
        "choose a method that trains the weights themselves"
    )


def _shorten(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
