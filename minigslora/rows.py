"""Rows of a layer replaced by name, beside its own, which are only read.

A layer with a row per output, such as a classifier, reads its weight and bias with the rows of each name put
in the place of its own. It stays the module it was, of its own kind and under its own keys: whoever asks for
``layer.weight`` is given the rows that act, whoever saves its parameters the layer's own. Taking the names
off gives back the layer bit for bit. :mod:`minigslora.lora` treats the rows as it does adapters.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from minigslora.errors import ModelError


class Rows(nn.Module):
    """Rows that act in place of a layer's own.

    Attributes:
        index: which, (n,).
        weight: (n, in_features).
        bias: (n,); None where the layer has none.
    """

    index: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(self, index: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def parts(self) -> dict[str, Tensor]:
        """Return what a file needs to make them again."""
        return {key: value.detach().clone() for key, value in self.state_dict().items()}


class Replaced(nn.Module):
    """What a layer is, beside its own kind, once :func:`replace` was called on it.

    Attributes:
        adapters: the rows by name, oldest first; of two for one place, the newer acts.
        silent: the names of those that do not act at the moment.
    """

    adapters: MutableMapping[str, Rows]
    silent: frozenset[str]

    @property
    def weight(self) -> Tensor:
        """The rows as they act."""
        return self.acting("weight", self.silent)

    @property
    def bias(self) -> Tensor | None:
        """The bias as it acts; None where the layer has none."""
        return None if self._parameters.get("bias") is None else self.acting("bias", self.silent)

    def acting(self, key: str, silent: frozenset[str]) -> Tensor:
        """Return the weight or the bias, which ``key`` says, with the rows of all names but the silent."""
        values: Any = self._parameters[key]
        for name, rows in self.adapters.items():
            if name not in silent:
                values = values.index_copy(0, rows.index, getattr(rows, key))
        acting: Tensor = values
        return acting

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as the layer's own kind, which has a name to be found by."""
        return _blank, (own_kind(self),), self.__dict__

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}
"""The class of a layer with replaced rows, by its own."""


def _with_rows(kind: type[nn.Module]) -> type[nn.Module]:
    if kind not in _KINDS:
        _KINDS[kind] = type(kind.__name__, (Replaced, kind), {"__module__": kind.__module__})
    return _KINDS[kind]


def _blank(kind: type[nn.Module]) -> nn.Module:
    return object.__new__(_with_rows(kind))


def own_kind(layer: nn.Module) -> type[nn.Module]:
    """Return the class of a layer as it was before rows of it were replaced."""
    kind: type[nn.Module] = type(layer).__bases__[1] if isinstance(layer, Replaced) else type(layer)
    return kind


@torch.no_grad()
def replace(
    layer: nn.Module, name: str, index: Sequence[int] | Tensor, weight: Tensor, bias: Tensor | None = None
) -> None:
    """Let other rows act in place of some of a layer's own, which stay beside them.

    Args:
        layer: a module whose ``weight`` (C, D), and ``bias`` (C,) if it has one, are a row per output.
        name: whose rows they are; :func:`minigslora.lora.revoke` takes them off again.
        index: which rows, (n,).
        weight: (n, D).
        bias: (n,), where the layer has one.

    Raises:
        ModelError: for a name that is taken, or rows that the layer does not have.
    """
    own: dict[str, Any] = {key: layer._parameters.get(key) for key in ("weight", "bias")}
    if own["weight"] is None:
        raise ModelError(f"a {type(layer).__name__} has no weight of its own whose rows could be replaced")
    if isinstance(layer, Replaced) and name in layer.adapters:
        raise ModelError(f"rows named {name!r} are already replaced; choose another name, or revoke it")
    where = torch.as_tensor(index, dtype=torch.long).to(own["weight"].device)
    total, given = len(own["weight"]), sorted(where.tolist())
    if len({*given}) < len(given) or (given and not 0 <= given[0] <= given[-1] < total):
        raise ModelError(
            f"rows {given} were given for a layer of {total} rows; expected some of 0 to {total - 1}"
        )
    parts: dict[str, Tensor | None] = {"weight": weight, "bias": bias}
    for key, value in own.items():
        expected = None if value is None else (len(where), *value.shape[1:])
        shape = None if (part := parts[key]) is None else tuple(part.shape)
        if shape != expected:
            raise ModelError(f"the {key} of {len(where)} rows has shape {shape}; the layer's has {expected}")
        parts[key] = None if part is None else part.detach().to(value).clone()
    _stack(layer).adapters[name] = Rows(where, *parts.values())


def _stack(layer: Any) -> Replaced:
    """Return the layer, in place, as one whose rows can be replaced."""
    if not isinstance(layer, Replaced):
        layer.__class__ = _with_rows(type(layer))
        layer.adapters, layer.silent = nn.ModuleDict(), frozenset()
    return cast(Replaced, layer)


@torch.no_grad()
def write(layer: Any, index: int, weight: Tensor, bias: Tensor | None = None) -> None:
    """Write one row as the layer's own, in place of what is there or as a further one at its end.

    Rows replaced at that place are taken off, so that it acts; the others stay beside the layer's own.

    Args:
        layer: as in :func:`replace`.
        index: which row; the number of rows for a further one.
        weight: (D,).
        bias: of no dimension, where the layer has one.
    """
    for key, value in {"weight": weight, "bias": bias}.items():
        own = layer._parameters.get(key)
        if own is not None and value is not None:
            row = value.to(own)[None]
            written = torch.cat([own.detach()[:index], row, own.detach()[index + 1 :]])
            setattr(layer, key, nn.Parameter(written, requires_grad=own.requires_grad))
    if isinstance(layer, nn.Linear):
        layer.out_features = len(layer.weight)
    if isinstance(layer, Replaced):
        for name, rows in layer.adapters.items():
            layer.adapters[name] = _of(rows, (rows.index != index).nonzero().flatten())


def _of(rows: Rows, places: Tensor) -> Rows:
    """Return some of the rows, by their places among them."""
    parts = (rows.index, rows.weight, rows.bias)
    return Rows(*(None if part is None else part[places] for part in parts))  # type: ignore[arg-type]


@torch.no_grad()
def moved(layer: Replaced, name: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return how far the rows called ``name`` lie from those that acted in their place before them.

    Returns:
        Which rows, (n,); the differences of their weights, (n, D), and of their biases, (n,), or None where
        the layer has none; in float32 at least.
    """
    rows, names = layer.adapters[name], list(layer.adapters)
    later = frozenset(names[names.index(name) :])
    kind = torch.promote_types(rows.weight.dtype, torch.float32)

    def difference(key: str) -> Tensor:
        now: Tensor = getattr(rows, key)
        return now.to(kind) - layer.acting(key, later)[rows.index].to(kind)

    return rows.index, difference("weight"), None if rows.bias is None else difference("bias")


def put_back(layer: Any) -> None:
    """Make a layer what it was before any row was replaced, in place, bit for bit."""
    if isinstance(layer, Replaced):
        del layer.adapters, layer.silent
        layer.__class__ = own_kind(layer)  # type: ignore[assignment]


@torch.no_grad()
def make_own(layer: Any) -> None:
    """Write the rows that act into the layer's own, in place; what they were is lost."""
    if isinstance(layer, Replaced):
        acting = {"weight": layer.weight, "bias": layer.bias}
        put_back(layer)
        for key, value in acting.items():
            if value is not None:
                getattr(layer, key).copy_(value)
