"""Low-rank adapters that wrap linear layers and never write to them.

A wrapped layer computes (notebook 02)

    y = W x + b + Σ_t s B_t (A_t x)                                          (2.1)

with one adapter (A_t, B_t) per request, held by name. The base weight is only ever read: taking the
last adapter away gives back the previous model bit for bit, and taking all away the pre-trained one.
There is no merged state; :func:`fold` makes a dense copy for inference instead. Rows of a layer that are
replaced under a name (:mod:`minigslora.rows`) are taken off, silenced, folded and saved with the adapters of
that name.

Source: Hu et al., "LoRA", arXiv 2106.09685; placement on the FFNs: arXiv 2403.11530, section 3.2.
This module knows nothing of forgetting; :mod:`minigslora.blocks` finds the layers.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora import rows
from minigslora.blocks import Targets as Targets
from minigslora.blocks import Wrapper, parent_of
from minigslora.blocks import find_blocks as find_blocks
from minigslora.blocks import find_linears as find_linears
from minigslora.errors import ModelError

Grouping = Literal["block", "module", "matrix"]
"""What is kept or removed together: all adapters of a block, one (A, B) pair, or one matrix."""

_FLAGS, _FOLDED = "_requires_grad_before_lora", "_folded_adapters"

JOINED = "__"
"""Between the names of requests that share one adapter; see :mod:`minigslora.compact`."""


class Adapter(nn.Module):
    """One low-rank update s·B·A of a linear layer.

    Attributes:
        A: (rank, in_features), drawn Kaiming-uniform with a = √5.
        B: (out_features, rank), zero at the start, so that a fresh adapter changes nothing.
        scale: the factor s.
    """

    def __init__(self, beside: nn.Linear, rank: int, scale: float, generator: torch.Generator | None) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(beside.in_features)  # Kaiming-uniform with a = √5
        start = torch.empty(rank, beside.in_features).uniform_(-bound, bound, generator=generator)
        # fp32 at least: an optimiser's small steps vanish in a half-precision weight.
        dtype = torch.promote_types(beside.weight.dtype, torch.float32)
        self.A = nn.Parameter(start.to(device=beside.weight.device, dtype=dtype))
        self.B = nn.Parameter(self.A.new_zeros(beside.out_features, rank))
        self.scale = scale

    def parts(self) -> dict[str, Tensor]:
        """Return what a file needs to make it again."""
        scale = torch.tensor(self.scale, dtype=torch.float64)
        return {"A": self.A.detach().clone(), "B": self.B.detach().clone(), "scale": scale}

    def delta(self) -> Tensor:
        """Return the dense update s·B·A, shape (out_features, in_features)."""
        return self.scale * (self.B @ self.A)

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        """Return y + s·B(A x), the sum inside B's product; y is (..., out_features), x (..., in_features)."""
        if torch.is_autocast_enabled(x.device.type) or x.dtype == y.dtype == self.A.dtype:
            low = F.linear(x, self.A).reshape(-1, len(self.A))
            return torch.addmm(y.reshape(-1, len(self.B)), low, self.B.T, alpha=self.scale).view(y.shape)
        update = self.scale * F.linear(F.linear(x.to(self.A.dtype), self.A), self.B)
        return y + update.to(y.dtype)  # a half-precision model: its small update is made in fp32


def cast_once(x: Tensor) -> Tensor:
    """Return x in autocast's type where that is on, or every product would cast it again."""
    kind = x.device.type
    if x.dtype is torch.float64 or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


class WeightReadError(ModelError, AttributeError):
    """The model reads a wrapped layer's weight itself, so that its adapters could not act."""


class LoRALinear(Wrapper):
    """A linear layer with a stack of named adapters beside it (equation 2.1).

    It has no ``weight`` on purpose: code that would read the weight and so skip the adapters fails
    loudly instead.

    Attributes:
        base: the layer itself, which is only read.
        adapters: by name, oldest first.
        silent: the names of those that do not act at the moment.
    """

    adapters: MutableMapping[str, Adapter]

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()  # type: ignore[assignment]
        self.silent: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        """Say why there is no ``weight``; everything else is :class:`~torch.nn.Module`'s."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name != "weight":
                raise
            raise WeightReadError(
                "the model reads this layer's weight instead of calling the layer (as torch's "
                "MultiheadAttention, BEiT's and EVA's do), so that LoRA cannot act on it; leave it out "
                "of targets"
            ) from None

    def check(self, name: str, rank: int) -> None:
        """Raise a :class:`ModelError` where an adapter of this name and rank cannot be added."""
        if name in self.adapters:
            raise ModelError(
                f"an adapter named {name!r} is already attached; choose another name, revoke it, or "
                "take all adapters away with lora.remove(model)"
            )
        largest = min(self.base.in_features, self.base.out_features)
        if not 1 <= rank <= largest:
            raise ModelError(
                f"LoRA rank {rank} does not fit a {self.base.in_features} → "
                f"{self.base.out_features} layer; choose a rank from 1 to {largest}"
            )

    def add(
        self, name: str, rank: int, scale: float | None = None, generator: torch.Generator | None = None
    ) -> Adapter:
        """Attach a fresh adapter on top of the stack; ``scale`` defaults to 1 / rank (alpha = 1)."""
        self.check(name, rank)
        self.adapters[name] = Adapter(self.base, rank, 1.0 / rank if scale is None else scale, generator)
        return self.adapters[name]

    def forward(self, x: Tensor) -> Tensor:
        """Return y of shape (..., out_features) for x of shape (..., in_features)."""
        acting = [adapter for name, adapter in self.adapters.items() if name not in self.silent]
        x = cast_once(x) if acting else x
        y: Tensor = self.base(x)
        for adapter in acting:
            y = adapter.added_to(y, x)
        return y

    def folded(self) -> nn.Linear:
        """Return a plain linear layer with the same function: weight W + Σ s·B·A."""
        dense = copy.deepcopy(self.base)
        with torch.no_grad():
            for adapter in self.adapters.values():
                dense.weight += adapter.delta().to(dense.weight.dtype)
        return dense

    def extra_repr(self) -> str:
        """Name the adapters in ``print(model)``."""
        return f"adapters={list(self.adapters)}"


# --- the life of a stack of adapters ----------------------------------------------------------------


def inject(model: nn.Module, targets: Targets = "ffn") -> list[str]:
    """Wrap the selected linear layers in place and freeze every other parameter.

    Without adapters the wrapped model computes what it did before, bit for bit. Wrapping again adds
    layers; those already wrapped stay.

    Returns:
        The names of the selected layers.
    """
    chosen = find_linears(model, targets)
    if not hasattr(model, _FLAGS):
        object.__setattr__(model, _FLAGS, {name: p.requires_grad for name, p in model.named_parameters()})
        model.requires_grad_(False)
    for name in chosen:
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Linear):
            _put(model, name, LoRALinear(layer))
    return chosen


def remove(model: nn.Module) -> None:
    """Unwrap every layer and put rows back, in place: the model before :func:`inject`, bit for bit."""
    for name, stack in stacks(model).items():
        if isinstance(stack, LoRALinear):
            _put(model, name, stack.base)
        else:
            rows.put_back(stack)
    flags = getattr(model, _FLAGS, {})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, parameter.requires_grad))
    if hasattr(model, _FLAGS):
        object.__delattr__(model, _FLAGS)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    setattr(parent_of(model, name), name.rpartition(".")[2], layer)


def attach(
    model: nn.Module,
    name: str,
    rank: int = 8,
    scale: float | None = None,
    generator: torch.Generator | None = None,
    layers: Sequence[str] | None = None,
) -> None:
    """Put a fresh trainable adapter called ``name`` on wrapped layers.

    Args:
        model: a model on which :func:`inject` was called.
        name: the request's name; letters, digits and underscores.
        rank: r, from 1 to the smaller side of the smallest wrapped layer.
        scale: s in (2.1); 1 / rank by default.
        generator: the stream A is drawn from, on the CPU, so that every device starts alike.
        layers: their names, as :func:`inject` returns them; every wrapped layer by default.
    """
    if not name.isidentifier():
        raise ModelError(
            f"{name!r} cannot name an adapter; use letters, digits and underscores, as in 'task1'"
        )
    every = _require_wrapped(model)
    chosen = [layer for key, layer in every.items() if layers is None or key in layers]
    for layer in chosen:
        layer.check(name, rank)
    for layer in chosen:
        layer.add(name, rank, scale, generator)


def freeze(model: nn.Module, name: str) -> None:
    """Stop training the adapter called ``name``; it goes on acting."""
    for _, adapter in adapters(model, name):
        adapter.requires_grad_(False)


def revoke(model: nn.Module, name: str) -> None:
    """Remove one request's adapter, and the rows replaced under its name.

    Revoking the last one attached gives back the previous model bit for bit; revoking one from the
    middle removes exactly its weights, but those after it were trained in its presence.
    """
    for stack in _carriers(model, name).values():
        del stack.adapters[name]


@contextlib.contextmanager
def bypassed(model: nn.Module, *names: str) -> Iterator[None]:
    """Within the context the model computes what it did without any adapter, bit for bit.

    Where ``names`` are given, it computes what it would without the adapters of those names only.
    """
    every = stacks(model).values()
    for stack in every:
        stack.silent = frozenset(names or stack.adapters)
    try:
        yield
    finally:
        for stack in every:
            stack.silent = frozenset()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context the model answers without gradients or dropout; its modes are put back after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def as_teacher(model: nn.Module, *names: str) -> Iterator[None]:
    """Within the context the live model teaches: :func:`bypassed`, without gradients or dropout."""
    with evaluating(model), bypassed(model, *names):
        yield


def fold(model: nn.Module) -> nn.Module:
    """Return a plain copy of the model with all adapters folded into dense weights.

    The copy has the pre-trained model's classes and keys, and of replaced rows the new ones only. Its logits
    differ from the live model's by rounding only (about 1e-6 in float32), since W x + s B(A x) is summed in
    another order.
    """
    dense, names = copy.deepcopy(model), adapter_names(model)
    for name, stack in stacks(dense).items():
        if isinstance(stack, LoRALinear):
            _put(dense, name, stack.folded())
        else:
            rows.make_own(stack)
    remove(dense)
    served = (request for name in names for request in members(name))
    object.__setattr__(dense, _FOLDED, (*folded_names(model), *served))
    return dense


# --- what a model carries ---------------------------------------------------------------------------


def wrapped(model: nn.Module) -> dict[str, LoRALinear]:
    """Return the wrapped layers of ``model`` by name, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


Stack = LoRALinear | rows.Replaced
"""A layer that holds by name, in ``adapters``, what acts beside it or in place of rows of it."""


def stacks(model: nn.Module) -> dict[str, Stack]:
    """Return the wrapped layers of ``model`` and those with replaced rows by name, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear | rows.Replaced)}


def _require_wrapped(model: nn.Module) -> dict[str, LoRALinear]:
    if not (layers := wrapped(model)):
        raise ModelError("this model has no LoRA layers; call inject(model) first")
    return layers


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of the attached adapters, oldest first."""
    return list(dict.fromkeys(n for stack in stacks(model).values() for n in stack.adapters))


def members(name: str) -> tuple[str, ...]:
    """Return the requests that an adapter serves: itself, or those that were folded into one."""
    return tuple(name.split(JOINED))


def folded_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the adapters that :func:`fold` put into the weights of ``model``."""
    names: tuple[str, ...] = getattr(model, _FOLDED, ())
    return names


def adapters(model: nn.Module, name: str) -> list[tuple[str, Adapter]]:
    """Return (layer name, adapter) for each layer that carries the adapter called ``name``."""
    carriers = _carriers(model, name).items()
    return [(key, layer.adapters[name]) for key, layer in carriers if isinstance(layer, LoRALinear)]


def _carriers(model: nn.Module, name: str) -> dict[str, Stack]:
    _require_wrapped(model)
    if carriers := {key: stack for key, stack in stacks(model).items() if name in stack.adapters}:
        return carriers
    names = adapter_names(model)
    if shared := next((other for other in names if name in members(other)), None):
        raise ModelError(
            f"{name!r} was folded into one adapter with other requests (compact), and can no longer be taken "
            f"apart from them; {shared!r} names all of them together"
        )
    raise ModelError(f"no adapter is called {name!r}; attached: {names or 'none'}")


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require gradients."""
    return [p for p in model.parameters() if p.requires_grad]


@dataclass(frozen=True)
class Group:
    """Adapter matrices that are kept or removed together.

    Attributes:
        name: the block's name, the layer's, or the layer's with ``.A`` / ``.B``.
        pairs: the (A, B) matrices; one of them is None in a group of a single matrix.
        scale: the factor s of its adapters.
    """

    name: str
    pairs: tuple[tuple[nn.Parameter | None, nn.Parameter | None], ...]
    scale: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The matrices of the group, in order."""
        return [p for pair in self.pairs for p in pair if p is not None]

    @property
    def size(self) -> int:
        """|g|, the number of scalars in the group."""
        return sum(p.numel() for p in self.parameters)


def groups(model: nn.Module, name: str, by: Grouping = "block") -> list[Group]:
    """Return the groups of the adapter called ``name``, from the model's structure.

    Args:
        model: a model with adapters.
        name: the adapter's name.
        by: "block" (all adapters of one Transformer block, the default), "module" (one (A, B)
            pair) or "matrix". A layer outside every block is a block of its own.
    """
    carriers = adapters(model, name)
    if by == "matrix":
        return [
            Group(f"{layer}.{side}", ((a.A, None) if side == "A" else (None, a.B),), a.scale)
            for layer, a in carriers
            for side in "AB"
        ]
    if by not in ("block", "module"):
        raise ModelError(f"unknown grouping {by!r}; expected 'block', 'module' or 'matrix'")
    blocks = find_blocks(model) if by == "block" else {}
    gathered: dict[str, list[Adapter]] = {}
    for layer, adapter in carriers:
        gathered.setdefault(blocks.get(layer) or layer, []).append(adapter)
    return [
        Group(key, tuple((a.A, a.B) for a in members), members[0].scale) for key, members in gathered.items()
    ]


# --- states for files -------------------------------------------------------------------------------


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every adapter as ``layer.adapters.name.{A,B,scale}`` tensors, oldest first.

    Rows that are replaced are ``layer.adapters.name.{index,weight,bias}``.
    """
    return {
        f"{layer}.adapters.{name}.{key}": value
        for name in adapter_names(model)
        for layer, stack in _carriers(model, name).items()
        for key, value in stack.adapters[name].parts().items()
    }


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Wrap what is needed and attach the adapters of :func:`adapter_state`, frozen.

    Raises:
        ModelError: for a key that is no adapter's or a shape that does not fit the layer.
    """
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in state.items():
        layer, _, rest = key.partition(".adapters.")
        name, _, field = rest.partition(".")
        if field not in ("A", "B", "scale", "index", "weight", "bias"):
            raise ModelError(f"{key!r} is not an adapter's key; expected LAYER.adapters.NAME.A")
        parts.setdefault((name, layer), {})[field] = value
    for (name, layer), part in parts.items():
        if "index" in part:
            _load_rows(model, layer, name, part)
            continue
        inject(model, [layer])
        module = wrapped(model)[layer]
        if part.keys() != {"A", "B", "scale"}:
            raise ModelError(f"the adapter {name!r} of {layer!r} lacks A, B or scale; the file is incomplete")
        expected = (module.base.in_features, module.base.out_features)
        given = (part["A"].shape[1], part["B"].shape[0])
        if given != expected:
            raise ModelError(
                f"the adapter for {layer!r} is for a {given[0]} → {given[1]} layer, but this model's "
                f"is {expected[0]} → {expected[1]}; the file belongs to another architecture"
            )
        adapter = module.add(name, part["A"].shape[0], float(part["scale"]))
        with torch.no_grad():
            adapter.A.copy_(part["A"])
            adapter.B.copy_(part["B"])
        adapter.requires_grad_(False)


def _load_rows(model: nn.Module, layer: str, name: str, part: Mapping[str, Tensor]) -> None:
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        raise ModelError(
            f"this model has no layer {layer!r}; the file belongs to another architecture"
        ) from None
    if "weight" not in part:
        raise ModelError(f"the rows {name!r} of {layer!r} lack their weight; the file is incomplete")
    rows.replace(module, name, part["index"], part["weight"], part.get("bias"))


def unwrapped_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's own weights under the names they had before :func:`inject`, adapters left out."""
    plain, layers = {}, stacks(model)
    for key, value in model.state_dict().items():
        home = next((name for name in layers if key.startswith(f"{name}.")), None)
        if home is None:
            plain[key] = value
        elif not (rest := key.removeprefix(f"{home}.")).startswith("adapters."):
            plain[f"{home}.{rest.removeprefix('base.')}"] = value
    return plain
