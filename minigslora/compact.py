"""Many requests, one adapter: what a stack of adapters adds to a layer, made anew as one product.

A stack grows by r rows and columns a request, and every forward pass goes through all of them. What they add
to a layer is one matrix,

    Δ = Σ_t s_t B_t A_t = U Σ Vᵀ,    A = Σ^½ Vᵀ,  B = U Σ^½                 (13.4)

with as many rows of A as Δ has singular values above rounding, never more than min(in, out); or with fewer,
the best approximation of that rank in the Frobenius norm (Eckart and Young). Rows that requests replaced come
along. What is folded so can no longer be taken apart: those requests are revoked together or not at all, and
the one adapter's name says which they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.errors import ModelError
from minigslora.rows import Rows


@torch.no_grad()
def compact(model: nn.Module, upto: str | None = None, rank: int | None = None) -> str:
    """Fold a model's oldest adapters into one, in place; what it computes stays the same but for rounding.

    Logits move by about 1e-5 of their size in float32 (tested), with ``rank`` by as much as is cut off. The
    ledger goes on naming every request; revoking one of them alone is refused from here on.

    Args:
        model: a model with adapters, none of them in training.
        upto: the last request to fold in, with all before it; the newest by default.
        rank: the most rows of A in a layer; None for as many as the sum needs.

    Returns:
        The name of the one adapter, as "task1__task2": :func:`minigslora.erasure.revoke` takes it back whole.

    Raises:
        ModelError: for a request without an adapter, fewer than two to fold, a rank below 1, or an adapter
            that is being trained.
    """
    names = lora.adapter_names(model)
    if upto is not None and upto not in names:
        raise ModelError(f"no adapter is called {upto!r}; attached: {names or 'none'}")
    if rank is not None and rank < 1:
        raise ModelError(f"rank = {rank}; expected 1 or more, or None for as many as the sum needs")
    folded = names if upto is None else names[: names.index(upto) + 1]
    if len(folded) < 2 and rank is None:
        raise ModelError(f"there are fewer than two adapters to fold ({', '.join(folded) or 'none'})")
    if trained := [n for n in folded for _, a in lora.adapters(model, n) if a.A.requires_grad]:
        raise ModelError(
            f"the adapter {trained[0]!r} is in training; lora.freeze(model, {trained[0]!r}) ends it"
        )
    name = lora.JOINED.join(folded)
    for stack in lora.stacks(model).values():
        own = {key: stack.adapters[key] for key in folded if key in stack.adapters}
        later = {key: part for key, part in stack.adapters.items() if key not in own}
        if not own:
            continue
        for key in list(stack.adapters):
            del stack.adapters[key]
        if isinstance(stack, lora.LoRALinear):
            _put(stack, name, [a for a in own.values() if isinstance(a, lora.Adapter)], rank)
        else:
            stack.adapters[name] = merged([r for r in own.values() if isinstance(r, Rows)])
        for key, part in later.items():
            stack.adapters[key] = part  # type: ignore[assignment]
    return name


def _put(layer: lora.LoRALinear, name: str, adapters: list[lora.Adapter], rank: int | None) -> None:
    """Attach the sum of adapters to a layer, frozen."""
    A, B = factors(adapters, rank)
    one = layer.add(name, len(A), 1.0, torch.Generator())  # a generator of its own: nothing else draws less
    one.A.copy_(A)
    one.B.copy_(B)
    one.requires_grad_(False)


def factors(adapters: list[lora.Adapter], rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Return A (r, in) and B (out, r) with B A = Σ s B A of some adapters of one layer   (13.4).

    In float64, by the triangular factors of all A and of all B side by side, so that the sum itself is never
    made. A sum of zero has one row of zeros.
    """
    A = torch.cat([a.A.detach().double() for a in adapters])  # (R, in)
    B = torch.cat([a.scale * a.B.detach().double() for a in adapters], dim=1)  # (out, R)
    (right, of_a), (left, of_b) = torch.linalg.qr(A.T), torch.linalg.qr(B)
    U, S, Vh = torch.linalg.svd(of_b @ of_a.T, full_matrices=False)
    least = S[0] * torch.finfo(adapters[0].A.dtype).eps  # what is below, rounding to that type loses too
    needed = max(1, int(S.gt(least).sum()))
    kept = needed if rank is None else min(needed, rank)
    root = S[:kept].sqrt()
    return (root[:, None] * Vh[:kept]) @ right.T, (left @ U[:, :kept]) * root


def merged(parts: list[Rows]) -> Rows:
    """Return replaced rows as one; of two for one place the newer stays, as it is the one that acts."""
    at = {int(row): (i, place) for i, part in enumerate(parts) for place, row in enumerate(part.index)}
    if not at:
        return parts[-1]
    weight = torch.stack([parts[i].weight[place] for i, place in at.values()])
    biases = [(part.bias, place) for part, place in ((parts[i], place) for i, place in at.values())]
    bias = (
        torch.stack([b[place] for b, place in biases if b is not None]) if parts[0].bias is not None else None
    )
    return Rows(torch.tensor(list(at), device=parts[0].index.device), weight, bias)
