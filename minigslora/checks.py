"""The exercises' self-checks: each says what is right, or what to look at next, and never the answer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora import lora
from minigslora.contracts import Task, Training
from minigslora.datasets.splits import Plan
from minigslora.erasure import Erasure
from minigslora.forgetting import EpochOrder
from minigslora.models.checkpoint import load_shipped, timm_model
from minigslora.models.face import FaceConfig, face_transformer
from minigslora.streams import Streams

GOOD = "✔"
"""What a passed check prints."""


class NotYet(AssertionError):
    """An exercise's answer is not right yet; the message says what to look at."""


def passed(exercise: str, right: bool, hint: str) -> None:
    """Print that ``exercise`` is solved, or raise :class:`NotYet` with a hint."""
    if not right:
        raise NotYet(f"Exercise {exercise}: not yet. {hint}")
    print(f"{GOOD} Exercise {exercise}")


def close(exercise: str, given: Any, expected: Any, hint: str, tolerance: float = 1e-5) -> None:
    """Check a number or tensor against the expected one, shapes included."""
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (_detached(given), _detached(expected)))
    if a.shape != b.shape:
        hint = f"Its shape is {tuple(a.shape)}, but {tuple(b.shape)} is expected. {hint}"
    right = a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
    passed(exercise, right, hint)


def require(exercise: str, right: bool, hint: str) -> None:
    """Raise :class:`NotYet` with a hint unless one of several demands of ``exercise`` is met."""
    if not right:
        raise NotYet(f"Exercise {exercise}: not yet. {hint}")


def _detached(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


# --- notebook 00: start here --------------------------------------------------------------------------


def exercise_00_1(h_untouched: float, h_destroyed: float) -> None:
    """Check H of a model that nobody edited and of one that always answers the same."""
    require("00.1", h_untouched == 0, "How far did the forgotten class fall in the untouched model?")
    expected = 1 / ((1 / 1.0 + 1 / 92.0) / 2)  # Acc_r 1 and Drop 92, as the mean of reciprocals
    hint = f"{h_destroyed:.3g} for the destroyed model: its Acc_r is 1, and what is its Drop?"
    passed("00.1", abs(h_destroyed - expected) < 0.02, hint)


def exercise_00_2(mean_true_probability: Callable[[Tensor, Tensor], float]) -> None:
    """Check the mean probability of the true class on scores whose probabilities are known."""
    known = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    labels = torch.tensor([0, 2])
    hint = "Take the softmax over people, pick each photograph's own person, then the mean."
    close("00.2", mean_true_probability(known.log(), labels), 0.6, hint)


def exercise_00_3(taken_for: Callable[[Tensor, Tensor, int], Mapping[int, int]]) -> None:
    """Check whom a person's photographs are taken for, on made-up scores."""
    labels = torch.tensor([1, 1, 1, 0, 1])
    logits = torch.eye(4)[[2, 2, 1, 3, 0]]
    found = {int(k): int(v) for k, v in taken_for(logits, labels, 1).items()}
    require("00.3", sum(found.values()) == 4, "Person 1 has 4 photographs here; count theirs only.")
    require("00.3", 3 not in found, "Person 3 was the answer to somebody else's photograph.")
    passed("00.3", found == {2: 2, 1: 1, 0: 1}, "The answer is the class with the highest score.")


def exercise_00_4(erasure: Erasure) -> None:
    """Check that two requests were served in order, and that revoking both gives the shipped model."""
    reports, model = erasure.reports, erasure.model
    require("00.4", len(reports) == 2, f"{len(reports)} request was served; a list holds one list for each.")
    names = [[erasure.problem.data.classes[c] for c in report.forget] for report in reports]
    require("00.4", names == [["person-007"], ["person-011"]], f"The requests were {names}, in this order.")
    attached = lora.adapter_names(model)
    hint = f"Each request has corrections of its own, but the model carries {attached or 'none'}."
    require("00.4", attached == ["task1", "task2"], hint)
    copied = copy.deepcopy(model)
    lora.remove(copied)
    shipped = load_shipped("mini-faces")[0].state_dict()
    same = all(torch.equal(v.cpu(), shipped[k]) for k, v in copied.state_dict().items())
    passed("00.4", same, "Below the corrections is another model than the shipped one; load a fresh one.")


# --- notebook 01: pre-train -------------------------------------------------------------------------


def exercise_01_1(tokens: int, numbers: int) -> None:
    """Check the tokens of the published face model and the numbers in a patch, by asking the model."""
    with torch.device("meta"):
        embed = face_transformer(FaceConfig()).patch_embed.proj
        grid = embed(torch.empty(1, 3, 112, 112))
    expected = int(grid[0, 0].numel()) + 1
    require("01.1", tokens != expected - 1, "One token is not a patch.")
    require("01.1", tokens == expected, f"Not {tokens}: how many patches fit side by side, and in all?")
    passed("01.1", numbers == embed.weight[0].numel(), "A patch is 8 × 8 pixels in three colours.")


def exercise_01_2(unpatchify: Callable[[Tensor, int], Tensor]) -> None:
    """Check that patches are put together again, on an image of numbers that are all different."""
    image = torch.arange(2 * 3 * 12 * 12, dtype=torch.float32).view(2, 3, 12, 12)
    patches = F.unfold(image, kernel_size=4, stride=4).mT
    hint = "Undo the steps of patchify in the opposite order, starting with the shape."
    close("01.2", unpatchify(patches, 4), image, hint)


def exercise_01_3(arcface: Callable[[Tensor, Tensor, float, float], Tensor]) -> None:
    """Check logits with an angular margin, by the addition theorem of the cosine."""
    cos = torch.tensor([[0.5, 0.1, -0.2], [0.3, 0.6, 0.0], [-0.4, 0.2, 0.7]], dtype=torch.float64)
    labels, scale, margin = torch.tensor([0, 1, 2]), 32.0, 0.5
    given = arcface(cos, labels, scale, margin)
    true = torch.eye(3, dtype=torch.bool)
    hint = "Only the true class's angle grows; arccos gives it, and s multiplies all cosines."
    others = torch.allclose(given[~true], scale * cos[~true])
    require("01.3", others, f"The other classes' logits changed. {hint}")
    c = cos[true]
    turned = c * math.cos(margin) - (1 - c**2).sqrt() * math.sin(margin)
    close("01.3", given[true], scale * turned, hint)


def exercise_01_4(shuffled_logits: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
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
    require("01.4", given.shape == expected.shape and torch.allclose(given, expected), hint)
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:].flip(1)
        moved = shuffled_logits(model, images, order)
    passed("01.4", not torch.allclose(moved, expected), "The result does not depend on the positions.")


# --- notebook 02: LoRA injection --------------------------------------------------------------------


def exercise_02_1(answer: int) -> None:
    """Check the number of parameters of rank-8 adapters on every FFN of a ViT-B/16."""
    with torch.device("meta"):
        model = timm_model("vit_base_patch16_224", classes=10)
    lora.inject(model, "ffn")
    lora.attach(model, "task1", rank=8)
    expected = sum(p.numel() for p in lora.trainable(model))
    hint = "Each FFN has two layers, and each adapter a matrix on either side of the bottleneck (2.4)."
    close("02.1", answer, expected, hint, tolerance=0.0)


def _stack(seed: int, ranks: tuple[int, ...] = (2, 3)) -> lora.LoRALinear:
    """Return a 9 → 14 layer with adapters that act, of different ranks and scales."""
    stream = torch.Generator().manual_seed(seed)
    layer = lora.LoRALinear(nn.Linear(9, 14))
    for number, rank in enumerate(ranks, 1):
        adapter = layer.add(f"task{number}", rank, scale=0.5 * number, generator=stream)
        nn.init.normal_(adapter.B, generator=stream)
    return layer


def exercise_02_2(fold_layer: Callable[[lora.LoRALinear], nn.Linear]) -> None:
    """Check a function that folds a wrapped layer into a plain one."""
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(22))
    for ranks in ((2, 3), (1,), ()):
        layer = _stack(22, ranks)
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        dense = fold_layer(layer)
        require("02.2", type(dense) is nn.Linear, "Return a plain nn.Linear.")
        same = all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
        require("02.2", same, "The layer that was given has changed; work on a copy of its base.")
        expected = layer.base(x) + sum((x @ _dense_delta(a).T for a in _adapters(layer)), torch.zeros(()))
        hint = f"With {len(ranks)} adapter(s) the outputs differ; do all of them act, with their scales?"
        require("02.2", torch.allclose(dense(x), expected, atol=1e-5), hint)
    passed("02.2", True, "")


def _adapters(layer: lora.LoRALinear) -> list[lora.Adapter]:
    return [a for a in layer.adapters.values() if isinstance(a, lora.Adapter)]


def _dense_delta(adapter: lora.Adapter) -> Tensor:
    """Return s·B·A, entry by entry a sum over the rank."""
    return adapter.scale * torch.einsum("or,ri->oi", adapter.B, adapter.A)


def exercise_02_3(smallest_rank: Callable[[Tensor, float], int]) -> None:
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
        require("02.3", given == expected, f"{hint} Are squares summed, and the root compared?")
    passed("02.3", True, "")


def exercise_02_4(one_adapter: Callable[[lora.Adapter, lora.Adapter], tuple[float, Tensor, Tensor]]) -> None:
    """Check one adapter that acts as a stack of two."""
    for seed in (24, 25):
        first, second = _adapters(_stack(seed))
        scale, a, b = one_adapter(first, second)
        rank = len(first.A) + len(second.A)
        shapes = tuple(a.shape) == (rank, 9) and tuple(b.shape) == (14, rank)
        hint = f"A is {tuple(a.shape)} and B {tuple(b.shape)}; ranks {len(first.A)} and {len(second.A)} add."
        require("02.4", shapes, hint)
        update, wanted = scale * (b @ a), _dense_delta(first) + _dense_delta(second)
        hint = "The update is not the sum of the two; where do the two scales go?"
        require("02.4", torch.allclose(update, wanted, atol=1e-5), hint)
    passed("02.4", True, "")


# --- notebook 03: group sparsity --------------------------------------------------------------------


def exercise_03_1(answer: int, norm: float, size: int, lr: float, alpha: float) -> None:
    """Check how many proximal steps take a group without gradient from ``norm`` to zero."""
    left, steps = norm, 0
    while left > 0:
        left, steps = max(0.0, left - lr * alpha * size**0.5), steps + 1
    hint = "Each step takes τ = ηα√|g| off the norm, whatever its size; and half a step is a step."
    close("03.1", answer, steps, hint, tolerance=0.0)


def exercise_03_2(shrink: Callable[[list[Tensor], float], list[Tensor]]) -> None:
    """Check the group soft-threshold (3.2) on a list of tensors."""
    stream = torch.Generator().manual_seed(32)
    parts = [torch.randn(3, 4, generator=stream), torch.randn(5, generator=stream)]
    norm = torch.cat([p.flatten() for p in parts]).norm()
    for share in (0.0, 0.3, 0.99):
        out = shrink([p.clone() for p in parts], float(share * norm))
        kept = torch.cat([p.flatten() for p in out]).norm() / norm
        hint = f"With τ at {share:.2f} of the group's norm, {float(kept):.2f} of the norm is left."
        require("03.2", abs(float(kept) - (1 - share)) < 1e-4, f"{hint} Is the norm the whole group's?")
        ratios = torch.cat([(o / p).flatten() for o, p in zip(out, parts, strict=True)])
        require("03.2", float(ratios.max() - ratios.min()) < 1e-4, "The direction changed; use one factor.")
    gone = shrink([p.clone() for p in parts], float(1.01 * norm))
    require("03.2", not any(p.any() for p in gone), "Below the threshold a group is exactly zero.")
    zero = torch.cat([*shrink([torch.zeros(2)], 0.1), *shrink([torch.zeros(3)], 0.0)])
    passed("03.2", torch.equal(zero, torch.zeros(5)), "A group at zero stays there, without NaN.")


def exercise_03_3(zero_share: Callable[[nn.Module, str], float]) -> None:
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
        require("03.3", abs(given - expected) < 1e-9, f"{at}; a block is at zero if all its updates are.")
    with torch.no_grad():
        for name, adapter in every:
            if name.startswith("blocks.0"):
                adapter.A.zero_()  # B is not zero here, and yet the update is
    passed("03.3", abs(zero_share(model, "task1") - 0.25) < 1e-9, "A zero A makes a zero update, too.")


def exercise_03_4(sparse_group: Callable[[Tensor, float, float], Tensor]) -> None:
    """Check the proximal map of τ₁‖θ‖₁ + τ₂‖θ‖₂, by the condition a minimum meets."""
    stream = torch.Generator().manual_seed(34)
    for each, group in ((0.3, 0.5), (0.0, 1.0), (1.0, 0.0), (0.6, 9.0)):
        start = torch.randn(12, generator=stream, dtype=torch.float64)
        out = sparse_group(start.clone(), each, group)
        at = f"For τ₁ = {each}, τ₂ = {group}"
        require("03.4", bool(out.isfinite().all()), f"{at} the result is not finite.")
        if not out.any():
            folded = (start.abs() - each).clamp_min(0).norm()
            require("03.4", float(folded) <= group + 1e-9, f"{at} the group was zeroed too early.")
            continue
        on = out != 0
        slope = out - start + group * out / out.norm()  # of the smooth part; |τ₁| balances it
        balanced = torch.allclose(slope[on], -each * out[on].sign(), atol=1e-6)
        hint = f"{at} the objective still falls in some direction; which of the two comes first?"
        require("03.4", balanced and bool((slope[~on].abs() <= each + 1e-6).all()), hint)
    passed("03.4", True, "")


# --- notebook 04: forget once -----------------------------------------------------------------------


def exercise_04_1(forget_term: Callable[[Tensor, float], Tensor]) -> None:
    """Check a bounded forgetting term per sample (equation 4.2), by its values and its gradient."""
    stream = torch.Generator().manual_seed(41)
    losses = (torch.rand(64, generator=stream) * 40).requires_grad_()
    term = forget_term(losses, 25.0)
    expected = sum(max(0.0, 25.0 - value) for value in losses.tolist()) / 64
    hint = f"The first sample has a loss of {losses[0].item():.2f} nats; what does it lack to 25?"
    require("04.1", abs(float(term.detach()) - expected) < 1e-4, hint)
    (slope,) = torch.autograd.grad(term, losses)
    wanted = torch.where(losses < 25.0, -1 / 64, 0.0)
    close("04.1", slope, wanted, "Look at the gradient: which samples should still be pushed?")


def exercise_04_2(right: Tensor, wrong: Tensor) -> None:
    """Check two logit vectors for class 0 of ten, at the two ends of what cross-entropy leaves open."""
    shapes = all(v.shape == (10,) and bool(v.isfinite().all()) for v in (right, wrong))
    require("04.2", shapes, "Give two vectors of ten finite logits; class 0 is the true one.")
    first, second = bool((right[0] > right[1:]).all()), bool((wrong[0] < wrong[1:].max()).item())
    require("04.2", first, "In the first, class 0 must be strictly above all others.")
    require("04.2", second, "In the second, another class must be strictly above class 0.")
    ce = [float(-torch.log_softmax(v.double(), 0)[0]) for v in (right, wrong)]
    hint = f"The right one has a cross-entropy of {ce[0]:.3f} nats; how far can it still rise?"
    require("04.2", ce[0] > math.log(10) - 0.01, hint)
    hint = f"The wrong one has a cross-entropy of {ce[1]:.3f} nats; how many rivals does a mistake need?"
    passed("04.2", ce[1] < math.log(2) + 0.01, hint)


def exercise_04_3(distance: Callable[[int, float, int], float]) -> None:
    """Check how far above ln C a bound on the batch mean must be to certify every sample of it."""
    for size, largest, classes in ((48, 132.6, 100), (4, 20.0, 10), (1, 50.0, 7)):
        worst = torch.full((size,), largest, dtype=torch.float64)
        worst[0] = math.log(classes)  # as wrong as a right sample can be, among very wrong ones
        reached = math.log(classes) + distance(size, largest, classes)
        hint = (
            f"A batch of {size} with one sample at ln {classes} and the others at {largest} has a mean of "
            f"{float(worst.mean()):.2f} nats; the bound must be exactly there."
        )
        require("04.3", abs(reached - float(worst.mean())) < 1e-6, hint)
    passed("04.3", True, "")


def exercise_04_4(uniform_term: Callable[[Tensor], Tensor]) -> None:
    """Check a forgetting term that asks for an even answer: zero there, positive elsewhere."""
    flat = float(uniform_term(torch.full((3, 7), 2.5)))
    hint = f"Where all classes are equally likely nothing is left to do, but the term is {flat:.4f}."
    require("04.4", abs(flat) < 1e-5, hint)
    stream = torch.Generator().manual_seed(44)
    logits = torch.randn(5, 7, generator=stream, dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = ((1 / 7) * (1 / (7 * p)).log()).sum(dim=1).mean()
    close("04.4", uniform_term(logits), expected, "Which of the two distributions is the expectation over?")


# --- notebook 05: forget again ----------------------------------------------------------------------


def exercise_05_1(h: Callable[[float, float, float], float]) -> None:
    """Check H from Acc_r, the pre-trained Acc_f and today's Acc_f (equations 5.1 and 5.2)."""
    for acc_r, before, now in ((74.0, 73.0, 1.0), (50.0, 80.0, 30.0), (33.3, 90.0, 0.0)):
        expected = 1 / ((1 / acc_r + 1 / (before - now)) / 2)
        hint = f"Acc_r {acc_r}, Acc_f {before} before and {now} now gave {h(acc_r, before, now)}."
        require("05.1", abs(h(acc_r, before, now) - expected) < 1e-6, hint)
    edges = h(0.0, 80.0, 80.0) == 0 and h(50.0, 80.0, 85.0) == 0
    passed("05.1", edges, "Where nothing was forgotten, or all was lost, H is 0.")


def exercise_05_2(roles: Callable[[Plan, int], tuple[set[int], set[int], set[int]]], plan: Plan) -> None:
    """Check which classes are retained, forgotten now and forgotten before, at each task of a plan."""
    everyone = set(plan.tasks[0].retain) | set(plan.tasks[0].forget)
    earlier: set[int] = set()
    for t, task in enumerate(plan.tasks):
        retain, now, before = map(set, roles(plan, t))
        at = f"At task {t + 1}"
        require("05.2", retain | now | before == everyone, f"{at} some class is in none of the three sets.")
        count = len(retain) + len(now) + len(before)
        require("05.2", count == len(everyone), f"{at} some class is in two sets.")
        require("05.2", now == set(task.forget), f"{at} look again at what is asked now.")
        require("05.2", before == earlier, f"{at}, what had the tasks before it forgotten?")
        earlier |= now
    passed("05.2", True, "")


def exercise_05_3(steps: Callable[[Task, Training], int], plan: Plan) -> None:
    """Check the number of optimiser steps of a task against the loop's own data order."""
    for training in (Training(epochs=3), Training(epochs=7, batch_retain=5, batch_forget=9)):
        for task in plan.tasks:
            order = EpochOrder(task, training, Streams(0), torch.device("cpu"))
            hint = (
                f"{task.name} has {len(task.retain_images)} retained images, in batches of at most "
                f"{training.batch_retain}, for {training.epochs} epochs."
            )
            require("05.3", steps(task, training) == order.steps * training.epochs, hint)
    passed("05.3", True, "")


def exercise_05_4(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that a model carries the adapters of a saved state and no others, bit for bit."""
    found = lora.adapter_state(model)
    names = lora.adapter_names(model)
    hint = f"The model carries the requests {', '.join(names) or 'none'}."
    require("05.4", found.keys() == state.keys(), hint)
    same = all(torch.equal(found[key].cpu(), state[key].cpu()) for key in state)
    passed("05.4", same, "The requests are the right ones, but their weights are not those of the run.")


# --- notebook 06: prototypes --------------------------------------------------------------------------


def exercise_06_1(update: Callable[[Tensor, int, Tensor], Tensor]) -> None:
    """Check a prototype that is kept up to date image by image, against the mean of all of them."""
    stream = torch.Generator().manual_seed(61)
    outputs = torch.randn(7, 5, generator=stream, dtype=torch.float64) + 3
    mean = outputs[0]
    for seen in range(1, len(outputs)):
        mean = update(mean, seen, outputs[seen])
        hint = f"After {seen + 1} images it begins with {float(mean[0]):.4f}; how much weight has the last?"
        require("06.1", torch.allclose(mean, outputs[: seen + 1].mean(dim=0)), hint)
    passed("06.1", True, "")


def exercise_06_2(temperature: Callable[[Tensor, float], float]) -> None:
    """Check a temperature at which a prototype has the entropy that is asked for."""
    stream = torch.Generator().manual_seed(62)
    for spread, wanted in ((4.0, 1.0), (20.0, 2.5), (8.0, 0.2)):
        prototype = spread * torch.randn(30, generator=stream, dtype=torch.float64)
        found = temperature(prototype, wanted)
        require("06.2", math.isfinite(found) and found > 0, "A temperature is a positive number.")
        p = (prototype / found).softmax(dim=0)
        entropy = float(-(p * p.clamp_min(1e-300).log()).sum())
        hint = f"At your T = {found:.3f} the entropy is {entropy:.3f} nats, not {wanted}."
        require("06.2", abs(entropy - wanted) < 1e-3, hint)
    passed("06.2", True, "")


def exercise_06_3(gradient: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Check the gradient of (6.2) with respect to the model's logits, by central differences."""
    stream = torch.Generator().manual_seed(63)
    for t in (1.0, 3.0):
        p, z = (4 * torch.randn(6, generator=stream, dtype=torch.float64) for _ in range(2))
        step = 1e-5 * torch.eye(6, dtype=torch.float64)
        target = (p / t).softmax(dim=0)
        high, low = (((z + sign * step) / t).log_softmax(dim=1) @ target for sign in (1, -1))
        slope = gradient(p, z, t)
        hint = f"At T = {t:g} the signs, the size or the order differ from the slope of K."
        right = slope.shape == z.shape and torch.allclose(slope, (low - high) / 2e-5, atol=1e-6)
        require("06.3", right, hint)
    passed("06.3", True, "")


def exercise_06_4(masked: Callable[[Tensor, Tensor, list[int], float], Tensor]) -> None:
    """Check a distance that says nothing of forgotten columns, and the plain one on the others."""
    stream = torch.Generator().manual_seed(64)
    p, z = (3 * torch.randn(4, 9, generator=stream, dtype=torch.float64) for _ in range(2))
    gone = [2, 7]
    found = masked(p, z, gone, 2.0)
    moved = z.clone()
    moved[:, gone] += 50
    require("06.4", found.shape == (4,), f"One distance per row is expected; yours is {tuple(found.shape)}.")
    require("06.4", bool(found.isfinite().all()), "0 · (−∞) is not a number; leave the columns out instead.")
    deaf = torch.allclose(masked(p, moved, gone, 2.0), found)
    require("06.4", deaf, "Moving the forgotten columns of the output still changes it.")
    kept = [c for c in range(9) if c not in gone]
    log_p, log_q = (v[:, kept].div(2.0).log_softmax(dim=1) for v in (p, z))
    expected = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    close("06.4", found, expected, "Are the remaining probabilities of each side still 1 in sum?")


# --- notebook 07: the face benchmark --------------------------------------------------------------------


def exercise_07_1(accuracy: Callable[[Tensor, Tensor, float], float]) -> None:
    """Check an accuracy with margin, and that the cosines are left as they were."""
    stream = torch.Generator().manual_seed(71)
    cosines = 0.3 * torch.randn(40, 6, generator=stream, dtype=torch.float64)
    labels = torch.randint(6, (40,), generator=stream)
    cosines[torch.arange(40), labels] += 0.4
    lead = cosines.gather(1, labels[:, None]) - cosines.scatter(1, labels[:, None], -9.0).amax(1, True)
    kept = cosines.clone()
    for m in (0.0, 0.35):
        hint = "Only the true class's cosine is lowered by m; is yours in percent?"
        expected = 100 * float((lead > m).double().mean())
        require("07.1", math.isclose(accuracy(cosines, labels, m), expected, rel_tol=1e-5), hint)
        untouched = torch.equal(cosines, kept)
        require("07.1", untouched, "Your function changes the cosines it is given; work on a copy.")
    passed("07.1", True, "")


def exercise_07_2(left_over: Callable[[float, float, float], float]) -> None:
    """Check what is left of the forgotten classes, found from Acc_r and H."""
    for acc_r, acc_f_before, acc_f in ((70.0, 75.0, 5.0), (85.0, 60.0, 0.0), (40.0, 80.0, 50.0)):
        drop = acc_f_before - acc_f
        h = 1 / ((1 / acc_r + 1 / drop) / 2)
        hint = "Solve H = 2 · Acc_r · Drop / (Acc_r + Drop) for Drop; Acc_f is the rest."
        require("07.2", math.isclose(left_over(acc_r, h, acc_f_before), acc_f, abs_tol=1e-6), hint)
    passed("07.2", True, "")


def exercise_07_3(compare: Callable[[list[float], list[float]], tuple[float, float]]) -> None:
    """Check a paired mean difference and its standard error."""
    a, b = [71.0, 74.5, 69.0, 73.0], [70.0, 73.9, 67.5, 72.5]
    mean, error = compare(a, b)
    require("07.3", math.isclose(mean, 0.9, rel_tol=1e-6), "Average the differences, seed by seed.")
    expected = (sum((d - 0.9) ** 2 for d in (1.0, 0.6, 1.5, 0.5)) / 3 / 4) ** 0.5
    hint = "The standard deviation of the differences, over the root of their number."
    passed("07.3", math.isclose(error, expected, rel_tol=1e-6), hint)


def exercise_07_4(worst: Callable[[Tensor, Tensor], tuple[float, float]]) -> None:
    """Check the margin at which an edit looks worst, against a fine sweep of margins."""
    stream = torch.Generator().manual_seed(74)
    before = 0.4 + 0.2 * torch.randn(50, generator=stream, dtype=torch.float64)
    after = before - 0.1 * torch.rand(50, generator=stream, dtype=torch.float64)

    def fall(m: float) -> float:
        return 100 * float((before > m).double().mean() - (after > m).double().mean())

    m, found = worst(before, after)
    require("07.4", m >= 0, f"Your margin is {m:.3f}; it cannot be negative.")
    right = math.isclose(found, fall(m), abs_tol=1e-5)
    require("07.4", right, f"At your margin {m:.3f} the fall is another.")
    largest = max(fall(k / 20000) for k in range(20000))
    hint = f"The fall at your margin is {found:.1f} points; there is one with {largest:.1f}."
    passed("07.4", found >= largest - 1e-9, hint)


# --- notebook 08: image classification ----------------------------------------------------------------


def exercise_08_1(
    slice_rows: Callable[[Tensor, Tensor, list[str], list[str]], tuple[Tensor, Tensor]],
) -> None:
    """Check that a sliced head gives the whole head's logits of the wanted classes, in their order."""
    stream = torch.Generator().manual_seed(81)
    weight, bias = torch.randn(7, 5, generator=stream), torch.randn(7, generator=stream)
    embedding, classes, wanted = torch.randn(3, 5, generator=stream), list("abcdefg"), ["f", "a", "d"]
    rows, values = slice_rows(weight, bias, classes, wanted)
    require(
        "08.1", tuple(rows.shape) == (3, 5), f"The weight is {tuple(rows.shape)}; one row a wanted class."
    )
    require(
        "08.1", tuple(values.shape) == (3,), f"The bias is {tuple(values.shape)}; one value a wanted class."
    )
    whole = embedding @ weight.T + bias
    expected = torch.stack([whole[:, classes.index(name)] for name in wanted], dim=1)
    hint = "The logits are not those of the whole head; are the rows in the order of the wanted names?"
    close("08.1", embedding @ rows.T + values, expected, hint)


def exercise_08_2(change_of: Callable[[Tensor, Tensor], tuple[float, float]]) -> None:
    """Check the change of an accuracy and its standard error, picture by picture."""
    before = torch.tensor([True] * 70 + [False] * 30)
    after = torch.tensor([True] * 61 + [False] * 9 + [True] * 4 + [False] * 26)
    kept = before.clone()
    change, error = change_of(before, after)
    require("08.2", torch.equal(before, kept), "Your function changes the tensors it is given.")
    require("08.2", math.isclose(change, -5.0, rel_tol=1e-6), "9 pictures were lost and 4 won, of 100.")
    steps = 100 * (after.double() - before.double())
    expected = float(steps.std(correction=0)) / len(steps) ** 0.5
    hint = "It is the spread of each picture's own change (−100, 0 or +100), over √n."
    passed("08.2", math.isclose(error, expected, rel_tol=1e-6), hint)


def exercise_08_3(leaving: Callable[[Tensor, tuple[int, ...]], float]) -> None:
    """Check the share of answers outside the task, on made-up logits."""
    logits = torch.eye(6)[[0, 5, 2, 3, 3, 1, 4, 4]]
    for rows, expected in (((0, 2, 4), 50.0), ((5,), 87.5), (tuple(range(6)), 0.0)):
        given = leaving(logits, rows)
        hint = (
            f"With the task's rows {rows} it gave {given}; count answers that are none of them, in percent."
        )
        require("08.3", math.isclose(given, expected, abs_tol=1e-4), hint)
    passed("08.3", True, "")


def exercise_08_4(prototypes: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check prototypes of classes with and without images."""
    stream = torch.Generator().manual_seed(84)
    weight, bias = torch.randn(4, 6, generator=stream), torch.randn(4, generator=stream)
    outputs, labels = torch.randn(5, 4, generator=stream), torch.tensor([2, 0, 2, 2, 0])
    given = prototypes(outputs, labels, weight, bias)
    require(
        "08.4", tuple(given.shape) == (4, 4), f"The shape is {tuple(given.shape)}; a row a class, in logits."
    )
    means = torch.stack([outputs[[1, 4]].mean(0), outputs[[0, 2, 3]].mean(0)])
    hint = "A class with images has the mean of their outputs."
    require("08.4", torch.allclose(given[[0, 2]], means, atol=1e-5), hint)
    head = nn.Linear(6, 4)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        expected = head(weight)[[1, 3]]
    close("08.4", given[[1, 3]], expected, "For a class without images, feed its own row to the head.", 1e-4)


# --- notebook 10: the baselines -------------------------------------------------------------------------


def exercise_10_1(relabel: Callable[[Tensor, list[int], torch.Generator], Tensor]) -> None:
    """Check new labels for forgotten images: retained ones, all of them in time, others at each call."""
    stream = torch.Generator().manual_seed(101)
    labels, retained = torch.tensor([3, 7] * 100), [0, 2, 5, 8]
    kept = labels.clone()
    first, second = (relabel(labels, retained, stream) for _ in range(2))
    require("10.1", first.shape == labels.shape, f"200 labels went in and {tuple(first.shape)} came out.")
    strange = set(first.tolist()) - set(retained)
    require("10.1", not strange, f"{sorted(strange)} is not retained.")
    require("10.1", set(first.tolist()) == set(retained), "Some retained class is never drawn in 200.")
    require("10.1", torch.equal(labels, kept), "The labels that came in were changed; the loop needs them.")
    passed("10.1", not torch.equal(first, second), "The second call drew the very same labels.")


def exercise_10_2(fisher: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check the diagonal Fisher information of z = W x, against its sum over all labels."""
    stream = torch.Generator().manual_seed(102)
    weight = torch.randn(4, 3, generator=stream, dtype=torch.float64, requires_grad=True)
    images = torch.randn(6, 3, generator=stream, dtype=torch.float64)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for x in images:
        log_p = (weight @ x).log_softmax(dim=0)
        for c in range(4):
            (slope,) = torch.autograd.grad(log_p[c], weight, retain_graph=True)
            expected += log_p[c].detach().exp() * slope.square() / len(images)
    found = fisher(weight.detach(), images)
    hint = "Square before you average over labels and images; the label comes from the model, not the data."
    close("10.2", found, expected, hint)


def exercise_10_3(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check the distance of two functions, by its value and where they agree."""
    stream = torch.Generator().manual_seed(103)
    teacher, student = torch.randn(2, 5, 8, generator=stream, dtype=torch.float64)
    expected = (sum(float((s - t) @ (s - t)) for s, t in zip(student, teacher, strict=True)) / 5) ** 0.5
    found = float(distance(teacher, student))
    hint = f"It is {found:.4f}; where do the mean and the root go?"
    require("10.3", math.isclose(found, expected, rel_tol=1e-6), hint)
    same = teacher.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(distance(teacher, same), same)
    hint = "Where student and teacher agree the slope is not a number: the root of a sum has none at 0."
    passed("10.3", bool(slope.isfinite().all()), hint)


def exercise_10_4(probe: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check a nearest-mean probe, on embeddings whose lengths say nothing."""
    stream = torch.Generator().manual_seed(104)
    centres = F.normalize(torch.randn(5, 16, generator=stream), dim=1)
    labels = torch.arange(5).repeat(20)
    seen, new = (centres[labels] + 0.12 * torch.randn(100, 16, generator=stream) for _ in range(2))
    seen, new = (v * (0.2 + 5 * torch.rand(100, 1, generator=stream)) for v in (seen, new))
    names = torch.tensor([4, 11, 23, 42, 57])  # classes as they are numbered in the model
    found = probe(seen, names[labels], new)
    require("10.4", found.shape == (100,), f"100 labels are expected, not {tuple(found.shape)}.")
    inside = set(found.tolist()) <= set(names.tolist())
    require("10.4", inside, "It names classes that no image was given of.")
    right = 100 * float((found == names[labels]).float().mean())
    hint = f"{right:.0f} % are right; 99 % can be. Does the length of an embedding count with you?"
    passed("10.4", right >= 98, hint)


# --- notebook 11: ablations -----------------------------------------------------------------------------


def exercise_11_1(trained: Callable[[int, int, int, int], int]) -> None:
    """Check the number of weights in the adapters of all FFNs, against models that have them."""
    for depth, dim, mlp, rank in ((2, 16, 48, 3), (3, 32, 64, 8)):
        model = face_transformer(
            FaceConfig(classes=4, image_size=16, patch=8, dim=dim, depth=depth, heads=2, mlp=mlp)
        )
        lora.inject(model)
        lora.attach(model, "task1", rank)
        there = sum(group.size for group in lora.groups(model, "task1"))
        given = trained(depth, dim, mlp, rank)
        hint = f"{depth} blocks, {dim} wide, MLP {mlp}, rank {rank}: there are {there}, and yours is {given}."
        require("11.1", given == there, hint)
    passed("11.1", True, "")


def exercise_11_2(epochs: Callable[[int, int, int], int]) -> None:
    """Check the smallest number of passes with at least so many updates, against the loop's own order."""
    for updates, images, batch in ((100, 1200, 48), (100, 250, 48), (7, 30, 48), (50, 96, 48), (51, 96, 48)):
        task = Task("t", 0, (0,), (), (1,), (), tuple(range(images)), (0,))
        training = Training(batch_retain=batch)
        steps = EpochOrder(task, training, Streams(0), torch.device("cpu")).steps
        given = epochs(updates, images, batch)
        hint = (
            f"{images} images in batches of {batch} make {steps} steps a pass; {updates} updates are wanted."
        )
        require("11.2", (given - 1) * steps < updates <= given * steps, hint)
    passed("11.2", True, "")


def exercise_11_3(ratios: Callable[[Mapping[str, tuple[Tensor, Tensor]]], tuple[float, ...]]) -> None:
    """Check zero-group ratios by block, by module and by matrix, of the same adapters."""
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    given = {
        "blocks.0.mlp.fc1": (zero, zero),
        "blocks.0.mlp.fc2": (zero, zero),
        "blocks.1.mlp.fc1": (zero, zero),
        "blocks.1.mlp.fc2": (one, zero),
    }
    found = ratios(given)
    require("11.3", len(found) == 3, "Three ratios are expected: by block, by module, by matrix.")
    for name, value, expected in zip(("block", "module", "matrix"), found, (0.5, 0.75, 0.875), strict=True):
        hint = f"By {name} it is {value}; a group is at zero if every matrix in it is."
        require("11.3", math.isclose(value, expected), hint)
    passed("11.3", True, "")


def exercise_11_4(inflation: Callable[[int, float], float]) -> None:
    """Check how much the best of several equally good settings looks better than it is."""
    hint = "Of one setting nothing is chosen, so nothing is gained."
    require("11.4", abs(inflation(1, 2.0)) < 0.05, hint)
    for settings, sd, expected in ((2, 1.0, 1 / math.pi**0.5), (3, 2.0, 3 / math.pi**0.5)):
        value = inflation(settings, sd)
        hint = f"For {settings} settings with a deviation of {sd} it is {value:.3f}: the mean of the largest?"
        require("11.4", math.isclose(value, expected, rel_tol=0.03), hint)
    passed("11.4", inflation(20, 1.0) > inflation(5, 1.0) > 1, "More settings, more to choose from.")


# --- notebook 09: object detection ----------------------------------------------------------------------


def exercise_09_1(iou: Callable[[list[float], list[float]], float]) -> None:
    """Check an intersection over union against one counted on a fine grid of points."""
    cases = (
        ([2.0, 2.0, 6.0, 4.0], [4.0, 3.0, 8.0, 6.0]),
        ([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0]),
        ([0.0, 0.0, 3.0, 3.0], [5.0, 1.0, 2.0, 2.0]),
    )
    axis = torch.arange(0, 14, 0.05, dtype=torch.float64) + 0.025
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    for a, b in cases:
        one, other = ((x > u[0]) & (x < u[0] + u[2]) & (y > u[1]) & (y < u[1] + u[3]) for u in (a, b))
        counted = float((one & other).sum() / (one | other).sum())
        hint = f"For {a} and {b} it should be {counted:.3f}; is the overlap of boxes that do not meet 0?"
        require("09.1", math.isclose(iou(a, b), counted, abs_tol=2e-3), hint)
    passed("09.1", True, "")


def exercise_09_2(average_precision: Callable[[Tensor, Tensor, int], float]) -> None:
    """Check an average precision against COCO's evaluation."""
    from minigslora.datasets.detection import Objects
    from minigslora.metrics import Boxes, average_precisions

    stream = torch.Generator().manual_seed(92)
    for count in (3, 8, 20):
        hits = torch.rand(count, generator=stream) < 0.6
        scores = torch.rand(count, generator=stream)
        objects = int(hits.sum()) + 2
        places = torch.arange(count + 2, dtype=torch.float32) * 20
        truth = torch.stack([places, places, places * 0 + 10, places * 0 + 10], dim=1)
        there = torch.cat([truth[:count][hits], truth[count:]])
        zeros = torch.zeros(len(there), dtype=torch.long)
        image = Objects(there, zeros, zeros.bool(), (900, 900))
        found = Boxes(truth[:count], torch.zeros(count, dtype=torch.long), scores)
        expected = float(average_precisions([found], [image], 1)["ap50"][0])
        given = average_precision(scores, hits, objects)
        hint = (
            f"Of {count} boxes it should be {expected:.2f} %, yours is {given:.2f}; 101 recalls, in percent."
        )
        require("09.2", math.isclose(given, expected, abs_tol=0.02), hint)
    passed("09.2", True, "")


def exercise_09_3(match: Callable[[Tensor], list[int]]) -> None:
    """Check an assignment of least total cost against scipy's."""
    from scipy.optimize import linear_sum_assignment

    stream = torch.Generator().manual_seed(93)
    for queries, objects in ((4, 2), (5, 3), (6, 1)):
        cost = torch.randn(queries, objects, generator=stream, dtype=torch.float64)
        rows, columns = linear_sum_assignment(cost.numpy())
        best = float(cost[rows, columns].sum())
        found = match(cost)
        whole = len(found) == objects and len(set(found)) == objects
        require("09.3", whole, "Each object takes a query of its own; return its query for each object.")
        total = float(cost[torch.tensor(found), torch.arange(objects)].sum())
        hint = f"Your pairs cost {total:.3f}; there are some that cost {best:.3f}."
        require("09.3", math.isclose(total, best, abs_tol=1e-9), hint)
    passed("09.3", True, "")


def exercise_09_4(logit_at: Callable[[float], float]) -> None:
    """Check the logit at which the focal loss reaches a bound."""
    for bound in (0.1, 2.0, 9.0):
        z = torch.tensor(logit_at(bound), dtype=torch.float64)
        reached = float((1 - z.sigmoid()) ** 2 * -F.logsigmoid(z))
        hint = f"At your logit {float(z):.4f} the loss is {reached:.4f}, not {bound}."
        require("09.4", math.isclose(reached, bound, rel_tol=1e-4), hint)
    passed("09.4", True, "")
