"""Self-checks of notebook 03, group sparsity."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.course.checks.common import Demands, close
from minigslora.models.vit import FaceConfig, face_transformer


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
