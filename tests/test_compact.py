"""Many requests' adapters as one: the same sum, as small as it can be, and no longer apart."""

import copy

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from minigslora import forget, ledger, lora, revoke, rows
from minigslora.compact import compact
from minigslora.erasure import finalize
from minigslora.errors import ModelError
from minigslora.models import checkpoint

QUICK = {**tiny.QUICK, "ratio": 0.5, "device": "cpu", "precision": "fp32", "watch": False, "check": False}
HEADS = ["cosface", "linear"]
THREE = [["person-001"], ["person-002", "person-003"], ["person-004"]]


def stack(count, rank=2, inputs=6, outputs=9, scale=0.7):
    """A layer with adapters that act."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
    lora.inject(model, ["0"])
    for t in range(1, count + 1):
        lora.attach(model, f"task{t}", rank, scale)
        (_, adapter), *_ = lora.adapters(model, f"task{t}")
        adapter.B.data.copy_(torch.randn(outputs, rank))
        lora.freeze(model, f"task{t}")
    return model


def sum_of(model):
    return sum(a.delta().detach().double() for a in model[0].adapters.values()).numpy()


def one(model):
    (adapter,) = model[0].adapters.values()
    return adapter


@pytest.mark.parametrize(("count", "expected"), [(2, 4), (3, 6), (5, 6)])
def test_the_sum_stays_at_the_rank_that_it_needs(count, expected):
    model = stack(count)
    before, x = sum_of(model), torch.randn(4, 6)
    y = model(x)
    state = torch.get_rng_state()
    assert compact(model) == "__".join(f"task{t}" for t in range(1, count + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one(model).A.shape == (expected, 6)  # min(count · 2, in, out)
    assert not one(model).A.requires_grad
    np.testing.assert_allclose(sum_of(model), before, rtol=0, atol=1e-6 * np.abs(before).max() * 4)
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)  # float32, summed in another order


def test_what_two_requests_have_in_common_is_counted_once():
    model = stack(2)
    first, second = model[0].adapters.values()
    second.A.data.copy_(first.A)
    before = sum_of(model)
    compact(model)
    assert len(one(model).A) == 2
    np.testing.assert_allclose(sum_of(model), before, atol=1e-5)


def test_a_given_rank_is_the_best_of_that_rank():
    model = stack(4)
    U, S, Vh = np.linalg.svd(sum_of(model), full_matrices=False)
    compact(model, rank=3)
    assert len(one(model).A) == 3
    np.testing.assert_allclose(sum_of(model), (U[:, :3] * S[:3]) @ Vh[:3], atol=1e-5)
    compact(model, rank=1)  # one adapter may be cut once more
    assert len(one(model).A) == 1


def test_adapters_that_do_nothing_leave_one_that_does_nothing():
    model = stack(2)
    for adapter in model[0].adapters.values():
        adapter.B.data.zero_()
    compact(model)
    assert (len(one(model).A), float(one(model).delta().abs().max())) == (1, 0)


def test_half_precision_layers_keep_adapters_in_float32():
    model = stack(2).to(torch.bfloat16)
    for adapter in model[0].adapters.values():
        adapter.float()
    x = torch.randn(2, 6).bfloat16()
    y = model(x)
    compact(model)
    assert one(model).A.dtype == torch.float32
    torch.testing.assert_close(model(x), y, rtol=2e-2, atol=2e-2)  # bfloat16 rounds at 2⁻⁸


@pytest.mark.parametrize("head", HEADS)
def test_a_model_answers_as_before_and_goes_on(head, tmp_path):
    model = tiny.face_model(head=head)
    forget(model, tiny.faces(), THREE, **QUICK)
    whole, acting = copy.deepcopy(model.eval()), model.head.weight.detach().clone()
    assert compact(model, "task2") == "task1__task2"
    assert lora.adapter_names(model) == ["task1__task2", "task3"]
    assert torch.equal(model.head.weight, acting)
    with torch.no_grad():
        now, then = model.eval()(tiny.images()), whole(tiny.images())
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-5 * float(then.abs().max()))
    assert ledger.of(model) == ledger.of(whole)
    with lora.bypassed(model), lora.bypassed(whole), torch.no_grad():
        assert torch.equal(model(tiny.images()), whole(tiny.images()))
    # saved and attached again
    again = tiny.face_model(head=head)
    lora.load_adapters(again, lora.adapter_state(model))
    with torch.no_grad():
        assert torch.equal(again(tiny.images()), model(tiny.images()))
    # finalised
    finalize(model, tmp_path / "e.safetensors")
    plain = tiny.face_model(head=head)
    checkpoint.load_weights(plain, checkpoint.load_tensors(tmp_path / "e.safetensors")[0], "e")
    with torch.no_grad():
        torch.testing.assert_close(plain(tiny.images()), now, rtol=1e-4, atol=1e-4)
    # the next request
    fourth = forget(model, tiny.faces(), ["person-005"], **QUICK)
    assert fourth.plan.tasks[0].old == (1, 2, 3, 4)
    assert [e.request for e in fourth.ledger] == ["task1", "task2", "task3", "task4"]


def test_requests_in_one_adapter_are_revoked_together_or_not_at_all():
    model = tiny.face_model()
    done = forget(model, tiny.faces(), THREE, **QUICK)
    without = copy.deepcopy(model)
    lora.revoke(without, "task1")
    lora.revoke(without, "task2")
    compact(model, "task2")
    for attempt in (done.revoke, lambda name: revoke(model, name), lambda name: lora.revoke(model, name)):
        with pytest.raises(ModelError, match=r"'task1' was folded into one adapter .*; 'task1__task2' names"):
            attempt("task1")
    assert [e.request for e in ledger.events(model)] == ["task1", "task2", "task3"]
    done.revoke("task1__task2")
    with torch.no_grad():
        assert torch.equal(model.eval()(tiny.images()), without.eval()(tiny.images()))
    assert [e.request for e in done.ledger] == ["task3"]
    assert [r.task for r in done.reports] == ["task3"]
    assert done.plan.tasks[0].old == ()
    assert [(e.request, e.event) for e in ledger.events(model)][3:] == [
        ("task1", "revoke"),
        ("task2", "revoke"),
    ]
    done.revoke()
    lora.remove(model)
    plain = tiny.face_model()
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in model.state_dict().items())


def test_of_rows_for_one_place_the_newer_stays():
    model = tiny.adapted(("task1", "task2", "task3"))
    for t in (1, 2, 3):
        lora.freeze(model, f"task{t}")
        rows.replace(model.head, f"task{t}", [0, t], torch.full((2, 32), float(t)))
    acting = model.head.weight.detach().clone()
    compact(model, "task2")
    assert torch.equal(model.head.weight, acting)
    lora.revoke(model, "task3")
    assert torch.equal(model.head.weight[0], torch.full((32,), 2.0))
    assert sorted(model.head.adapters["task1__task2"].index.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upto": "task9"}, r"no adapter is called 'task9'; attached: \['task1', 'task2'\]"),
        ({"upto": "task1"}, r"there are fewer than two adapters to fold \(task1\)"),
        ({"rank": 0}, "rank = 0; expected 1 or more, or None"),
    ],
)
def test_what_cannot_be_folded_is_named(arguments, message):
    model = stack(2)
    with pytest.raises(ModelError, match=message):
        compact(model, **arguments)
    assert lora.adapter_names(model) == ["task1", "task2"]


def test_other_mistakes_are_named():
    with pytest.raises(ModelError, match=r"fewer than two adapters to fold \(none\)"):
        compact(tiny.face_model())
    with pytest.raises(ModelError, match="the adapter 'task1' is in training"):
        compact(tiny.adapted(("task1", "task2")))
