"""Group sparsity: against formulas in float64, exact zeros that stay, norms that never grow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minigslora.lora import Group
from minigslora.sparsity import (
    ProximalStep,
    alpha_at,
    group_norm,
    penalty,
    root_size,
    zero_group_ratio,
    zero_groups,
)

NORMS = ("parameters", "B", "product")


def make_group(seed=0, layers=2, rank=2, inputs=4, outputs=5, scale=1.0, name="block", dtype=torch.float64):
    stream = torch.Generator().manual_seed(seed)

    def matrix(*shape):
        return nn.Parameter(scale * torch.randn(*shape, generator=stream, dtype=torch.float64).to(dtype))

    pairs = tuple((matrix(rank, inputs), matrix(outputs, rank)) for _ in range(layers))
    return Group(name, pairs, 0.5)


def by_hand(group, norm):
    """Return ‖θ_g‖ in NumPy, written from the definition."""
    arrays = [(a.detach().numpy(), b.detach().numpy()) for a, b in group.pairs]
    if norm == "parameters":
        squares = [(a**2).sum() + (b**2).sum() for a, b in arrays]
    elif norm == "B":
        squares = [(b**2).sum() for _, b in arrays]
    else:
        squares = [((group.scale * (b @ a)) ** 2).sum() for a, b in arrays]
    return math.sqrt(sum(squares))


@pytest.mark.parametrize("norm", NORMS)
def test_norm_and_penalty_equal_the_formula(norm):
    groups = [make_group(seed) for seed in range(3)]
    expected = [by_hand(g, norm) for g in groups]
    assert [group_norm(g, norm).item() for g in groups] == pytest.approx(expected, rel=1e-12)
    assert penalty(groups, norm).item() == pytest.approx(sum(expected), rel=1e-12)


def test_the_penaltys_gradient_is_the_unit_vector_and_zero_at_zero():
    group, zero = make_group(), make_group(scale=0.0)
    penalty([group, zero]).backward()
    for p in group.parameters:
        torch.testing.assert_close(p.grad, p.detach() / by_hand(group, "parameters"))
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in zero.parameters)


@pytest.mark.parametrize("norm", NORMS)
def test_the_proximal_step_equals_the_formula(norm):
    group, lr, alpha = make_group(seed=3), 0.01, 0.7
    a, b = (p.detach().numpy().copy() for p in group.pairs[1])
    size = sum(m.numel() for m in ([b for _, b in group.pairs] if norm == "B" else group.parameters))
    factor = max(0.0, 1 - lr * alpha * math.sqrt(size) / by_hand(group, norm))
    assert 0 < factor < 1
    ProximalStep([group], norm)(lr, alpha)
    expected = {
        "parameters": (factor * a, factor * b),
        "B": (a, factor * b),
        "product": (math.sqrt(factor) * a, math.sqrt(factor) * b),
    }[norm]
    for given_, wanted in zip(group.pairs[1], expected, strict=True):
        np.testing.assert_allclose(given_.detach().numpy(), wanted, rtol=1e-12)


@given(
    seed=st.integers(0, 99),
    scale=st.floats(0, 10),
    lr=st.floats(0, 1),
    alpha=st.floats(0, 10),
    norm=st.sampled_from(NORMS),
    layers=st.integers(1, 3),
)
def test_the_proximal_step_never_grows_a_norm(seed, scale, lr, alpha, norm, layers):
    groups = [make_group(seed, layers, scale=scale), make_group(seed + 1, layers)]
    before = [[by_hand(g, n) for n in NORMS] for g in groups]
    ProximalStep(groups, norm)(lr, alpha)
    after = [[by_hand(g, n) for n in NORMS] for g in groups]
    assert all(
        a <= b * (1 + 1e-12) for x, y in zip(after, before, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert all(p.isfinite().all() for g in groups for p in g.parameters)


def test_no_alpha_changes_nothing():
    group = make_group()
    before = [p.detach().clone() for p in group.parameters]
    ProximalStep([group])(0.1, 0.0)
    assert all(torch.equal(p, q) for p, q in zip(group.parameters, before, strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_zero_is_absorbing_under_adamw_with_stale_momentum(norm):
    kept, doomed = make_group(0, scale=10.0, dtype=torch.float32), make_group(1, dtype=torch.float32)
    optimizer = torch.optim.AdamW([*kept.parameters, *doomed.parameters], lr=0.05, weight_decay=0.0)
    proximal = ProximalStep([kept, doomed], norm)

    def step(alpha):
        """Take an optimiser step on a loss whose gradient vanishes at zero, as an adapter's does."""
        loss = sum((b @ a - 1).square().sum() for g in (kept, doomed) for a, b in g.pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved = any(bool(p.any()) for p in doomed.parameters)
        proximal(0.05, alpha)
        return moved

    for _ in range(20):
        step(0.0)
    for p in doomed.parameters:
        p.data.mul_(1e-6)
    step(2.0)  # a step of AdamW moves a group by up to η√|g|, and α = 1 takes as much away
    assert zero_groups([kept, doomed]) == [doomed.name]
    revived = [step(1e-4) for _ in range(20)]
    assert any(revived), "stale momentum was meant to push the group off zero"
    assert not any(bool(p.any()) for p in doomed.parameters)
    assert proximal.alive.tolist() == [1.0, 0.0]
    assert any(bool(p.any()) for p in kept.parameters)


def test_alpha_waits_for_the_warm_up():
    assert [alpha_at(e, 0.3, warmup=2) for e in range(4)] == [0.0, 0.0, 0.3, 0.3]


def test_root_size_counts_what_is_measured():
    group = make_group(layers=2, rank=2, inputs=4, outputs=5)
    assert root_size(group) == root_size(group, "product") == math.sqrt(2 * (8 + 10))
    assert root_size(group, "B") == math.sqrt(2 * 10)


def test_zero_groups_are_those_whose_update_is_exactly_zero():
    groups = [make_group(i, name=f"block{i}") for i in range(4)]
    with torch.no_grad():
        for p in groups[1].parameters:
            p.zero_()
        for _, b in groups[2].pairs:  # B = 0 is enough
            b.zero_()
        groups[3].pairs[0][1].zero_()  # one of two layers is not
    assert zero_groups(groups) == ["block1", "block2"]
    assert zero_group_ratio(groups) == 0.5


def test_groups_of_one_matrix():
    a, b = make_group().pairs[0]
    groups = [Group("A", ((a, None),), 1.0), Group("B", ((None, b),), 1.0)]
    assert group_norm(groups[0]).item() == pytest.approx(a.detach().norm().item())
    ProximalStep(groups)(1.0, 100.0)
    assert zero_group_ratio(groups) == 1.0
