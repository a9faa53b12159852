"""The two losses on true labels, against sums written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigslora.losses import bound_above_chance, bounded_forget_loss, retain_loss

VALUES = st.lists(st.floats(0, 50), min_size=1, max_size=8)


@given(VALUES, st.floats(0, 60))
def test_losses_equal_the_formula(values, bound):
    losses = torch.tensor(values, dtype=torch.float64)
    mean = sum(values) / len(values)
    each = sum(max(0.0, bound - v) for v in values) / len(values)
    assert retain_loss(losses).item() == pytest.approx(mean, rel=1e-12)
    assert bounded_forget_loss(losses, bound).item() == pytest.approx(each, rel=1e-12, abs=1e-12)
    assert bounded_forget_loss(losses, bound, per_sample=False).item() == pytest.approx(
        max(0.0, bound - mean), rel=1e-12, abs=1e-9
    )


def test_the_bound_stops_the_gradient_of_each_sample():
    losses = torch.tensor([1.0, 9.0, 3.0], requires_grad=True)
    bounded_forget_loss(losses, 5.0).backward()
    torch.testing.assert_close(losses.grad, torch.tensor([-1 / 3, 0.0, -1 / 3]))


def test_a_batch_bound_lets_one_wrong_sample_hide_the_others():
    losses = torch.tensor([0.0, 100.0])
    assert bounded_forget_loss(losses, 10.0, per_sample=False) == 0
    assert bounded_forget_loss(losses, 10.0) == 5.0


def test_above_the_chance_bound_no_sample_is_classified_correctly():
    torch.manual_seed(0)
    logits, labels = torch.randn(500, 10), torch.randint(10, (500,))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    beyond = losses > bound_above_chance(10, 0.0)
    assert 0 < beyond.sum() < 500
    assert not (logits.argmax(1) == labels)[beyond].any()
    assert bound_above_chance(100, 3.0) == math.log(100) + 3
