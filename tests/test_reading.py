"""Deformable attention by a matrix beside transformers' own reading step, exact and under training."""

import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from minigslora.models import deformable_attention as reading
from minigslora.models.deformable_attention import FEW, MatrixReading, read_by_matrix, read_quickly

own = MultiScaleDeformableAttention()


def read_by_points(value, shapes, places, weights):
    return own(value, torch.tensor(shapes), shapes, torch.empty(0), places, weights, 64)


def given_to_read(shapes, queries, points, seed, dtype=torch.float64, reach=0.3):
    """Return values, places (some outside the image) and weights."""
    stream = torch.Generator().manual_seed(seed)
    size = sum(a * b for a, b in shapes)
    value = torch.randn(2, size, 3, 4, generator=stream, dtype=dtype)
    places = torch.rand(2, queries, 3, len(shapes), points, 2, generator=stream, dtype=dtype)
    places = places * (1 + 2 * reach) - reach
    weights = torch.rand(2, queries, 3, len(shapes), points, generator=stream, dtype=dtype)
    return value, places, weights


sizes = st.integers(1, 5)


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3),
    queries=sizes,
    points=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_it_reads_what_transformers_reads(shapes, queries, points, seed):
    value, places, weights = given_to_read(shapes, queries, points, seed)
    inputs = [x.requires_grad_() for x in (value, places, weights)]
    expected = read_by_points(value, shapes, places, weights)
    found = read_by_matrix(value, shapes, places, weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    way = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=found.dtype)
    wanted = torch.autograd.grad(expected, inputs, way)
    for ours, theirs in zip(torch.autograd.grad(found, inputs, way), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_a_place_is_read_whole_at_its_centre_and_nothing_outside():
    value = torch.arange(6.0).view(1, 6, 1, 1)  # one map of 2 by 3
    places = torch.tensor([[0.5, 0.75], [0.5, 7.0], [-3.0, 0.25]]).view(1, 3, 1, 1, 1, 2)
    found = read_by_matrix(value, [(2, 3)], places, torch.ones(1, 3, 1, 1, 1))
    assert found.flatten().tolist() == [4.0, 0.0, 0.0]


def test_places_in_bf16_find_every_column():
    value = torch.arange(350.0).view(1, 350, 1, 1)
    places = torch.tensor([0.5, 0.755]).bfloat16().view(1, 1, 1, 1, 1, 2)
    found = read_by_matrix(value, [(350, 1)], places, torch.ones(1, 1, 1, 1, 1))
    assert abs(float(found) - (float(places.flatten()[1]) * 350 - 0.5)) < 1e-3


def test_what_is_not_a_number_is_no_crash():
    value, places, weights = given_to_read([(2, 2)], 3, 1, 0, torch.float32)
    found = read_by_matrix(value, [(2, 2)], torch.full_like(places, torch.nan), weights)
    assert found.shape == (2, 3, 12)
    found = read_by_matrix(torch.full_like(value, torch.nan), [(2, 2)], places, weights)
    assert not found.isfinite().any()


def test_many_places_are_read_by_points(monkeypatch):
    used = []
    matrix = reading.read_by_matrix
    monkeypatch.setattr(reading, "read_by_matrix", lambda *given: used.append(1) or matrix(*given))
    quick = MatrixReading()
    for shapes, times in (([(2, FEW // 2)], 1), ([(1, FEW + 1)], 0)):
        value, places, weights = given_to_read(shapes, 2, 1, 0)
        used.clear()
        found = quick(value, torch.tensor(shapes), shapes, torch.empty(0), places, weights, 64)
        torch.testing.assert_close(found, read_by_points(value, shapes, places, weights))
        assert len(used) == times


def test_a_detector_reads_quickly_and_says_the_same():
    problem = tiny.detection()
    quick = [m for m in problem.model.modules() if isinstance(m, MatrixReading)]
    layers = problem.model.config.encoder_layers + problem.model.config.decoder_layers
    assert len(quick) == layers
    problem.model.eval()
    batch = problem.batch({"retain": torch.arange(4)})
    with torch.no_grad():
        found = problem.forward(batch)
        for module in problem.model.modules():
            if isinstance(getattr(module, "attn", None), MatrixReading):
                module.attn = MultiScaleDeformableAttention()
        expected = problem.forward(batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-4)
    keys = set(problem.model.state_dict())
    read_quickly(problem.model)
    assert set(problem.model.state_dict()) == keys
