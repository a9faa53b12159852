"""Named random streams."""

import pytest
import torch

from minigslora.rng import Streams, stream_seed


def test_a_stream_is_fixed_by_seed_and_name():
    one, same = (torch.rand(5, generator=Streams(3)("order", "task1")) for _ in range(2))
    assert torch.equal(one, same)
    for other in (Streams(4)("order", "task1"), Streams(3)("order", "task2"), Streams(3)("augment", "task1")):
        assert not torch.equal(one, torch.rand(5, generator=other))


def test_prefixes_and_keys_are_one_path():
    a = torch.rand(3, generator=Streams(0, "task1")("lora"))
    b = torch.rand(3, generator=Streams(0).under("task1")("lora"))
    assert torch.equal(a, b)


def test_using_one_stream_does_not_shift_another_nor_the_global_one():
    torch.manual_seed(0)
    expected = torch.rand(3)
    streams = Streams(0)
    before = torch.rand(3, generator=streams("b"))
    torch.manual_seed(0)
    torch.rand(100, generator=streams("a"))
    streams.python("a").random()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.rand(3, generator=streams("b")), before)


def test_pythons_stream_is_fixed_too():
    assert Streams(1).python("x").sample(range(100), 5) == Streams(1).python("x").sample(range(100), 5)
    assert Streams(1).python("x").random() != Streams(1).python("y").random()


@pytest.mark.parametrize("seed", [0, -1, 2**70])
def test_any_whole_number_is_a_seed(seed):
    assert 0 <= stream_seed(seed, "x") < 2**63
    Streams(seed)("x")
