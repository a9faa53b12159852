"""Class prototypes and their losses, against NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigslora.prototypes import class_means, prototype_distance, pull_loss, push_loss, without


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_prototypes_are_class_means_and_zero_without_samples():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(20, 3)), rng.integers(0, 4, size=20)
    means, counts = class_means(torch.from_numpy(outputs), torch.from_numpy(labels), 6)
    for c in range(4):
        np.testing.assert_allclose(means[c].numpy(), outputs[labels == c].mean(axis=0), rtol=1e-12)
    assert counts.tolist() == [*np.bincount(labels, minlength=4).tolist(), 0, 0]
    assert torch.equal(means[4:], torch.zeros(2, 3, dtype=torch.float64))


@given(seed=st.integers(0, 999), temperature=st.floats(0.25, 20), scale=st.floats(0, 20))
def test_distance_is_kl_of_the_softmaxes(seed, temperature, scale):
    rng = np.random.default_rng(seed)
    p, z = scale * rng.normal(size=(2, 5, 7))
    given_ = prototype_distance(torch.from_numpy(p), torch.from_numpy(z), "kl", temperature).numpy()
    a, b = softmax(p / temperature), softmax(z / temperature)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(a > 0, a * (np.log(a) - np.log(b)), 0.0).sum(axis=1)
    np.testing.assert_allclose(given_, expected, rtol=1e-8, atol=1e-10)
    assert (given_ >= -1e-12).all()


def test_distance_vanishes_at_the_prototype_and_l2_is_euclidean():
    p, z = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert prototype_distance(p, p).abs().max() < 1e-15
    expected = np.sqrt(((p - z).numpy() ** 2).sum(axis=1))
    np.testing.assert_allclose(prototype_distance(p, z, "l2").numpy(), expected, rtol=1e-12)


def test_push_is_bounded_per_sample_or_per_batch_and_pull_is_the_mean():
    distances = torch.tensor([0.5, 3.0, 9.0], dtype=torch.float64)
    assert push_loss(distances, 4.0).item() == pytest.approx((3.5 + 1.0 + 0.0) / 3)
    assert push_loss(distances, 4.0, per_sample=False).item() == 0.0
    assert push_loss(distances, 5.0, per_sample=False).item() == pytest.approx(5 - 12.5 / 3)
    assert pull_loss(distances).item() == pytest.approx(12.5 / 3)


@given(seed=st.integers(0, 999), temperature=st.floats(0.25, 20))
def test_columns_left_out_have_no_probability_and_the_others_are_renormalised(seed, temperature):
    rng = np.random.default_rng(seed)
    p, z = 5 * rng.normal(size=(2, 4, 6))
    gone = torch.tensor([False, True, False, False, True, False])
    masked = without(torch.from_numpy(p), gone)
    assert not (masked / temperature).softmax(dim=1)[:, gone].any()
    kept = ~gone.numpy()
    a, b = softmax(p[:, kept] / temperature), softmax(z / temperature)[:, kept]
    expected = (a * (np.log(a) - np.log(b))).sum(axis=1)
    found = prototype_distance(masked, torch.from_numpy(z), "kl", temperature).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
