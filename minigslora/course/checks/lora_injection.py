"""Self-checks of notebook 02, LoRA injection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.course.checks.common import Demands, close
from minigslora.models.checkpoint import timm_model


def exercise_02_1(answer: int) -> Demands:
    """Check the number of parameters of rank-8 adapters on every FFN of a ViT-B/16."""
    with torch.device("meta"):
        model = timm_model("vit_base_patch16_224", classes=10)
    lora.inject(model, "ffn")
    lora.attach(model, "task1", rank=8)
    expected = sum(p.numel() for p in lora.trainable(model))
    hint = "Each FFN has two layers, and each adapter a matrix on either side of the bottleneck (2.4)."
    yield close(answer, expected, hint, tolerance=0.0)


def _stack(seed: int, ranks: tuple[int, ...] = (2, 3)) -> lora.LoRALinear:
    """Return a 9 → 14 layer with adapters that act, of different ranks and scales."""
    stream = torch.Generator().manual_seed(seed)
    layer = lora.LoRALinear(nn.Linear(9, 14))
    for number, rank in enumerate(ranks, 1):
        adapter = layer.add(f"task{number}", rank, scale=0.5 * number, generator=stream)
        nn.init.normal_(adapter.B, generator=stream)
    return layer


def exercise_02_2(fold_layer: Callable[[lora.LoRALinear], nn.Linear]) -> Demands:
    """Check a function that folds a wrapped layer into a plain one."""
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(22))
    for ranks in ((2, 3), (1,), ()):
        layer = _stack(22, ranks)
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        dense = fold_layer(layer)
        yield type(dense) is nn.Linear, "Return a plain nn.Linear."
        same = all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
        yield same, "The layer that was given has changed; work on a copy of its base."
        expected = layer.base(x) + sum((x @ _dense_delta(a).T for a in _adapters(layer)), torch.zeros(()))
        hint = f"With {len(ranks)} adapter(s) the outputs differ; do all of them act, with their scales?"
        yield torch.allclose(dense(x), expected, atol=1e-5), hint


def _adapters(layer: lora.LoRALinear) -> list[lora.Adapter]:
    return [a for a in layer.adapters.values() if isinstance(a, lora.Adapter)]


def _dense_delta(adapter: lora.Adapter) -> Tensor:
    """Return s·B·A, entry by entry a sum over the rank."""
    return adapter.scale * torch.einsum("or,ri->oi", adapter.B, adapter.A)


def exercise_02_3(smallest_rank: Callable[[Tensor, float], int]) -> Demands:
    """Check the smallest rank whose best approximation leaves at most a share of the norm."""
    stream = torch.Generator().manual_seed(23)
    left, right = (torch.linalg.qr(torch.randn(7, 7, generator=stream)).Q for _ in range(2))
    for sigma, share, expected in (
        ((3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.61, 1),
        ((3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.59, 2),
        ((1.0,) * 7, 0.5, 6),
        ((2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0), 1.0, 0),
    ):
        given = smallest_rank(left @ torch.diag(torch.tensor(sigma)) @ right.T, share)
        shown = ", ".join(f"{value:g}" for value in sigma)
        hint = f"For singular values {shown} in some order and a share of {share} it gave {given}."
        yield given == expected, f"{hint} Are squares summed, and the root compared?"


def exercise_02_4(
    one_adapter: Callable[[lora.Adapter, lora.Adapter], tuple[float, Tensor, Tensor]],
) -> Demands:
    """Check one adapter that acts as a stack of two."""
    for seed in (24, 25):
        first, second = _adapters(_stack(seed))
        scale, a, b = one_adapter(first, second)
        rank = len(first.A) + len(second.A)
        shapes = tuple(a.shape) == (rank, 9) and tuple(b.shape) == (14, rank)
        hint = f"A is {tuple(a.shape)} and B {tuple(b.shape)}; ranks {len(first.A)} and {len(second.A)} add."
        yield shapes, hint
        update, wanted = scale * (b @ a), _dense_delta(first) + _dense_delta(second)
        hint = "The update is not the sum of the two; where do the two scales go?"
        yield torch.allclose(update, wanted, atol=1e-5), hint
