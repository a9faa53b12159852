"""Self-checks of notebooks 00 to 03: a first erasure, the model, its adapters, their sparsity."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora import lora
from minigslora.course.checks.common import Demands, close
from minigslora.erasure import Erasure
from minigslora.models.checkpoint import load_shipped, timm_model
from minigslora.models.vit import FaceConfig, face_transformer

# --- notebook 00, start here ----------------------------------------------------------------------


def exercise_00_1(h_untouched: float, h_destroyed: float) -> Demands:
    """Check H of a model that nobody edited and of one that always answers the same."""
    yield h_untouched == 0, "How far did the forgotten class fall in the untouched model?"
    expected = 1 / ((1 / 1.0 + 1 / 92.0) / 2)  # Acc_r 1 and Drop 92, as the mean of reciprocals
    hint = f"{h_destroyed:.3g} for the destroyed model: its Acc_r is 1, and what is its Drop?"
    yield abs(h_destroyed - expected) < 0.02, hint


def exercise_00_2(mean_true_probability: Callable[[Tensor, Tensor], float]) -> Demands:
    """Check the mean probability of the true class on scores whose probabilities are known."""
    known = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    labels = torch.tensor([0, 2])
    hint = "Take the softmax over people, pick each photograph's own person, then the mean."
    yield close(mean_true_probability(known.log(), labels), 0.6, hint)


def exercise_00_3(taken_for: Callable[[Tensor, Tensor, int], Mapping[int, int]]) -> Demands:
    """Check whom a person's photographs are taken for, on made-up scores."""
    labels = torch.tensor([1, 1, 1, 0, 1])
    logits = torch.eye(4)[[2, 2, 1, 3, 0]]
    found = dict(taken_for(logits, labels, 1))
    hint = f"It returned {found}; both numbers of each pair should be ints, not tensors (.tolist() helps)."
    yield all(isinstance(n, int) for pair in found.items() for n in pair), hint
    yield sum(found.values()) == 4, "Person 1 has 4 photographs here; count theirs only."
    yield 3 not in found, "Person 3 was the answer to somebody else's photograph."
    yield found == {2: 2, 1: 1, 0: 1}, "The answer is the class with the highest score."


def exercise_00_4(erasure: Erasure) -> Demands:
    """Check that two requests were served in order, and that revoking both gives the shipped model."""
    reports, model = erasure.reports, erasure.model
    yield len(reports) == 2, f"{len(reports)} request was served; a list holds one list for each."
    names = [[erasure.problem.data.classes[c] for c in report.forget] for report in reports]
    yield names == [["person-007"], ["person-011"]], f"The requests were {names}, in this order."
    attached = lora.adapter_names(model)
    hint = f"Each request has corrections of its own, but the model carries {attached or 'none'}."
    yield attached == ["task1", "task2"], hint
    copied = copy.deepcopy(model)
    lora.remove(copied)
    shipped = load_shipped("mini-faces")[0].state_dict()
    same = all(torch.equal(v.cpu(), shipped[k]) for k, v in copied.state_dict().items())
    yield same, "Below the corrections is another model than the shipped one; load a fresh one."


# --- notebook 01, pretrain ------------------------------------------------------------------------


def exercise_01_1(tokens: int, numbers: int) -> Demands:
    """Check the tokens of the published face model and the numbers in a patch, by asking the model."""
    with torch.device("meta"):
        embed = face_transformer(FaceConfig()).patch_embed.proj
        grid = embed(torch.empty(1, 3, 112, 112))
    expected = int(grid[0, 0].numel()) + 1
    yield tokens != expected - 1, "One token is not a patch."
    yield tokens == expected, f"Not {tokens}: how many patches fit side by side, and in all?"
    yield numbers == embed.weight[0].numel(), "A patch is 8 × 8 pixels in three colours."


def exercise_01_2(unpatchify: Callable[[Tensor, int], Tensor]) -> Demands:
    """Check that patches are put together again, on an image of numbers that are all different."""
    image = torch.arange(2 * 3 * 12 * 12, dtype=torch.float32).view(2, 3, 12, 12)
    patches = F.unfold(image, kernel_size=4, stride=4).mT
    hint = "Undo the steps of patchify in the opposite order, starting with the shape."
    yield close(unpatchify(patches, 4), image, hint)


def exercise_01_3(arcface: Callable[[Tensor, Tensor, float, float], Tensor]) -> Demands:
    """Check logits with an angular margin, by the addition theorem of the cosine."""
    cos = torch.tensor([[0.5, 0.1, -0.2], [0.3, 0.6, 0.0], [-0.4, 0.2, 0.7]], dtype=torch.float64)
    labels, scale, margin = torch.tensor([0, 1, 2]), 32.0, 0.5
    given = arcface(cos, labels, scale, margin)
    true = torch.eye(3, dtype=torch.bool)
    hint = "Only the true class's angle grows; arccos gives it, and s multiplies all cosines."
    others = torch.allclose(given[~true], scale * cos[~true])
    yield others, f"The other classes' logits changed. {hint}"
    c = cos[true]
    turned = c * math.cos(margin) - (1 - c**2).sqrt() * math.sin(margin)
    yield close(given[true], scale * turned, hint)


def exercise_01_4(shuffled_logits: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Demands:
    """Check that tokens may be shuffled where their positions travel along, and only then."""
    config = FaceConfig(classes=5, image_size=32, dim=24, depth=2, heads=2, mlp=48, dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = face_transformer(config).double().eval()
        assert model.pos_embed is not None
        nn.init.normal_(model.pos_embed)
        images, order = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.randperm(16)
    with torch.no_grad():
        expected, given = model(images), shuffled_logits(model, images, order)
    hint = (
        "Cut into tokens, add the positions, shuffle, put the class token first; then blocks, norm and head."
    )
    yield given.shape == expected.shape and torch.allclose(given, expected), hint
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:].flip(1)
        moved = shuffled_logits(model, images, order)
    yield not torch.allclose(moved, expected), "The result does not depend on the positions."


# --- notebook 02, lora injection ------------------------------------------------------------------


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
        ((4.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0), 0.6, 1),
        ((1.0,) * 7, 0.5, 6),
        ((2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0), 1.01, 0),  # and not 1, where rounding would decide
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


# --- notebook 03, group sparsity ------------------------------------------------------------------


def exercise_03_1(answer: int, norm: float, size: int, lr: float, alpha: float) -> Demands:
    """Check how many proximal steps take a group without gradient from ``norm`` to zero."""
    left, steps = norm, 0
    while left > 0:
        left, steps = max(0.0, left - lr * alpha * size**0.5), steps + 1
    hint = "Each step takes τ = ηα√|g| off the norm, whatever its size; and half a step is a step."
    yield close(answer, steps, hint, tolerance=0.0)


def exercise_03_2(shrink: Callable[[list[Tensor], float], list[Tensor]]) -> Demands:
    """Check the group soft-threshold (3.2) on a list of tensors."""
    stream = torch.Generator().manual_seed(32)
    parts = [torch.randn(3, 4, generator=stream), torch.randn(5, generator=stream)]
    norm = torch.cat([p.flatten() for p in parts]).norm()
    for share in (0.0, 0.3, 0.99):
        out = shrink([p.clone() for p in parts], float(share * norm))
        kept = torch.cat([p.flatten() for p in out]).norm() / norm
        hint = f"With τ at {share:.2f} of the group's norm, {float(kept):.2f} of the norm is left."
        yield abs(float(kept) - (1 - share)) < 1e-4, f"{hint} Is the norm the whole group's?"
        ratios = torch.cat([(o / p).flatten() for o, p in zip(out, parts, strict=True)])
        yield float(ratios.max() - ratios.min()) < 1e-4, "The direction changed; use one factor."
    gone = shrink([p.clone() for p in parts], float(1.01 * norm))
    yield not any(p.any() for p in gone), "Below the threshold a group is exactly zero."
    zero = torch.cat([*shrink([torch.zeros(2)], 0.1), *shrink([torch.zeros(3)], 0.0)])
    yield torch.equal(zero, torch.zeros(5)), "A group at zero stays there, without NaN."


def exercise_03_3(zero_share: Callable[[nn.Module, str], float]) -> Demands:
    """Check the share of blocks whose update is zero, on a model where some matrices are zero."""
    model = face_transformer(FaceConfig(classes=5, image_size=16, dim=16, depth=4, heads=2, mlp=24))
    lora.inject(model)
    lora.attach(model, "task1", rank=2)
    every = lora.adapters(model, "task1")
    for expected, dead in ((1.0, ()), (0.75, ("blocks.1.mlp.fc2",)), (0.0, tuple(n for n, _ in every))):
        with torch.no_grad():
            for name, adapter in every:  # B at zero at the start: all updates are zero
                adapter.B.fill_(0.1 if name in dead else 0.0)
        given = zero_share(model, "task1")
        at = f"With an update in {len(dead)} of {len(every)} layers it gave {given}"
        yield abs(given - expected) < 1e-9, f"{at}; a block is at zero if all its updates are."
    with torch.no_grad():
        for name, adapter in every:
            if name.startswith("blocks.0"):
                adapter.A.zero_()  # B is not zero here, and yet the update is
    yield abs(zero_share(model, "task1") - 0.25) < 1e-9, "A zero A makes a zero update, too."


def exercise_03_4(sparse_group: Callable[[Tensor, float, float], Tensor]) -> Demands:
    """Check the proximal map of τ₁‖θ‖₁ + τ₂‖θ‖₂, by the condition a minimum meets."""
    stream = torch.Generator().manual_seed(34)
    for each, group in ((0.3, 0.5), (0.0, 1.0), (1.0, 0.0), (0.6, 9.0)):
        start = torch.randn(12, generator=stream, dtype=torch.float64)
        out = sparse_group(start.clone(), each, group)
        at = f"For τ₁ = {each}, τ₂ = {group}"
        yield bool(out.isfinite().all()), f"{at} the result is not finite."
        if not out.any():
            folded = (start.abs() - each).clamp_min(0).norm()
            yield float(folded) <= group + 1e-9, f"{at} the group was zeroed too early."
            continue
        on = out != 0
        slope = out - start + group * out / out.norm()  # of the smooth part; |τ₁| balances it
        balanced = torch.allclose(slope[on], -each * out[on].sign(), atol=1e-6)
        hint = f"{at} the objective still falls in some direction; which of the two comes first?"
        yield balanced and bool((slope[~on].abs() <= each + 1e-6).all()), hint
