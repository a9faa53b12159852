"""Deep forgetting: its equations, and rows of the head that are replaced beside the old ones, per request."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_sliced import ALL, TASK, sliced_problem, whole_model
from torch import nn

from minigslora import lora, rows
from minigslora.embeddings import cohesion, mixtures, nobodys_rows, out_of_reach
from minigslora.erasure import forget
from minigslora.errors import ConfigError, ModelError
from minigslora.fingerprint import structure_hash, weights_hash
from minigslora.methods import create
from minigslora.models.head_slicing import restore_head, slice_head
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, Task, plan

QUICK = {**tiny.QUICK, "method": "gslora-deep", "watch": False, "check": False, "device": "cpu"} | {
    "precision": "fp32",
    "ratio": 0.5,
}
HEADS = ["cosface", "linear"]
RETAINED = (13, 14, 30, 44, 61)
REQUEST = Task("task1", 0, (0, 3), (2,), (1, 4, 5), retain_images=RETAINED, forget_images=(0, 1, 5, 36, 38))


# --- equations ----------------------------------------------------------------------------------------


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def cosines(a, b):
    return (unit(a) * unit(b)).sum(axis=-1)


def sums(u, labels):
    """Return (12.7), pair by pair."""
    pairs = [(i, j) for i in range(len(u)) for j in range(len(u)) if i != j]
    same = [unit(u[i]) @ unit(u[j]) for i, j in pairs if labels[i] == labels[j]]
    other = [unit(u[i]) @ unit(u[j]) for i, j in pairs if labels[i] != labels[j]]
    return max(0.0, np.mean(same) - np.mean(other))


def bias_of(problem):
    bias = problem.head.bias
    return 0.0 if bias is None else bias.detach().double().numpy()


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_its_equation(head):
    problem = tiny.problem(head=head)
    weights = {"stay": 3.0, "move": 2.0, "blur": 5.0}
    method = create("gslora-deep", **{**tiny.QUICK, **weights})
    method.begin(problem, REQUEST, Streams(0, "task1"))
    problem.model.eval()
    batch = problem.batch({"retain": torch.tensor(RETAINED[:3]), "forget": torch.tensor([0, 5, 36, 38])})
    with torch.no_grad():
        before = problem.forward(batch)
        asked = problem.batch({"retain": torch.tensor(RETAINED), "forget": torch.tensor([0, 1, 5, 36, 38])})
        mean = problem.forward(asked).embedding.double().mean(dim=0).numpy() * (head == "linear")
    for _, adapter in lora.adapters(problem.model, "task1"):
        nn.init.normal_(adapter.B, std=0.1, generator=torch.Generator().manual_seed(5))
    terms = {k: v.item() for k, v in tiny.loss_terms(method, problem, batch).items()}
    now = problem.forward(batch).embedding.detach().double().numpy() - mean
    then = before.embedding.double().numpy() - mean
    rows = problem.head.weight.detach().double().numpy()
    w = unit(rows - rows.mean(axis=0) * (head == "linear"))
    own = w[batch.targets[3:].numpy()]
    rest = then[3:] - (then[3:] * own).sum(axis=1, keepdims=True) * own
    rest = unit(rest) * np.linalg.norm(then[3:], axis=1, keepdims=True)
    z = 64 * unit(rest) @ unit(rows).T if head != "linear" else (mean + rest) @ rows.T + bias_of(problem)
    p = np.exp((z - z.max()) / (method.temperature * method.spread))
    p[:, [0, 2, 3]] = 0
    p /= p.sum(axis=1, keepdims=True)
    there = p @ w
    logits = problem.forward(batch).logits.detach().double().numpy()[3:] / (
        method.temperature * method.spread
    )
    log_q = logits - logits.max(axis=1, keepdims=True)
    log_q -= np.log(np.exp(log_q).sum(axis=1, keepdims=True))
    log_p = np.log(np.where(p > 0, p, 1))
    expected = {
        "stay": 3 * (1 - cosines(now[:3], then[:3])).mean(),
        "move": 2 * (1 - cosines(now[3:], there)).mean(),
        "blur": 5 * sums(now[3:], batch.targets[3:].tolist()),
        "redirect": method.redirect * (p * (log_p - np.where(p > 0, log_q, 0))).sum(axis=1).mean(),
    }
    assert {k: terms[k] for k in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert terms.keys() == {*expected, "forget", "keep", "loss"}


@pytest.mark.parametrize("labels", [[1, 2, 3], [4, 4, 4], [7], [1, 1, 2, 2]])
def test_without_a_pair_of_either_kind_there_is_nothing_to_blur(labels):
    e = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = cohesion(e, torch.tensor(labels))
    loss.backward()
    assert e.grad.isfinite().all()
    if labels == [1, 1, 2, 2]:
        assert loss.item() == pytest.approx(sums(e.detach().double().numpy(), labels), rel=1e-5)
    else:
        assert loss.item() == 0


def test_what_is_left_out_of_a_mixture_has_no_share_in_it():
    towards = torch.eye(3, 4)
    t = mixtures(torch.tensor([[0.0, -1e6, 1.0986123]]), towards)
    assert torch.allclose(t, torch.tensor([[0.25, 0, 0.75, 0]]))


def test_new_rows_are_their_formula_and_lie_below_the_kept_ones_on_average():
    common, length = torch.tensor([3.0, 4.0, 0.0]), torch.tensor(2.0)
    made = nobodys_rows(common, length, 2, torch.Generator().manual_seed(1)).double().numpy()
    r = unit(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).double().numpy())
    np.testing.assert_allclose(made, 2 * unit(r / 2 - np.array([0.6, 0.8, 0])), rtol=1e-6)
    kept, new = torch.tensor([[1.0, 3.0], [0.0, -2.0]]), torch.tensor([[5.0, -1.0], [0.0, 2.0]])
    bias = out_of_reach(kept, new)
    assert bias.tolist() == [min(2 - 5, -1 - 0), min(2 + 1, -1 - 2)]
    assert (new + bias <= kept.mean(dim=1, keepdim=True)).all()


# --- a request from its beginning to a file -------------------------------------------------------------


def everything(model):
    """Return all parameters by name, the head's as it reads them, and what the model says."""
    head = model.get_classifier()
    said = {"weight": head.weight, "bias": getattr(head, "bias", None), "logits": model(tiny.images())}
    values = {**{f"own/{k}": v for k, v in model.named_parameters()}, **said}
    return {k: v.detach().clone() for k, v in values.items() if v is not None}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("head", HEADS)
def test_requests_taken_back_leave_the_model_before_bit_for_bit(head, tmp_path):
    model = tiny.face_model(head=head)
    original = everything(model)
    rest = {k: v for k, v in original.items() if not k.startswith("own/")}
    first = forget(model, tiny.faces(), ["person-001"], **QUICK)
    after = everything(model)
    second = forget(model, tiny.faces(), [2, "person-003"], **QUICK)
    changed = [i for i in range(6) if not torch.equal(model.head.weight[i], original["weight"][i])]
    assert changed == [1, 2, 3]
    assert [e.rows for e in second.ledger] == [(1,), (2, 3)]
    with lora.bypassed(model), torch.no_grad():
        assert same({k: v for k, v in everything(model).items() if not k.startswith("own/")}, rest)
    with lora.as_teacher(model):
        assert torch.equal(model(tiny.images()), original["logits"])
    with lora.bypassed(model, "task2"):
        assert torch.equal(model.get_classifier().weight, after["weight"])
    second.revoke()
    assert same(everything(model), after)
    third = forget(model, tiny.faces(), ["person-004"], **QUICK)
    third.revoke("task1")  # from the middle of the stack
    assert lora.adapter_names(model) == ["task3"]  # the name of a revoked request is not given again
    changed = [i for i in range(6) if not torch.equal(model.head.weight[i], original["weight"][i])]
    assert changed == [4]
    third.revoke("task3")
    assert first.ledger == ()
    lora.remove(model)
    assert type(model.head) is type(tiny.face_model(head=head).head)
    assert same(everything(model), original)


@pytest.mark.parametrize("head", HEADS)
def test_a_finalised_file_has_new_rows_only_and_never_answers_what_it_forgot(head, tmp_path):
    model = tiny.face_model(head=head)
    old = model.get_classifier().weight.detach().clone()
    erasure = forget(model, tiny.faces(), [["person-001"], [2, 3]], **QUICK)
    assert erasure.table()["acc_f"].tolist() == [0, 0]
    state = load_file(erasure.finalize(tmp_path / "erased.safetensors"))
    assert state.keys() == tiny.face_model(head=head).state_dict().keys()
    plain = tiny.face_model(head=head)
    plain.load_state_dict(state)
    assert torch.equal(state["head.weight"][[0, 4, 5]], old[[0, 4, 5]])
    data = tiny.faces().train
    with torch.no_grad():
        said = plain(data.images / 255)
        whole = tiny.face_model(head=head)
        e = whole.forward_head(whole.forward_features(data.images / 255), pre_logits=True)
    assert not torch.isin(said.argmax(dim=1), torch.tensor([1, 2, 3])).any()
    for c in (1, 2, 3):
        templates = torch.stack([old[c], e[data.labels == c].mean(dim=0)])
        new = state["head.weight"][[1, 2, 3]]
        close = torch.cosine_similarity(templates[:, None], new[None], dim=2)
        assert (close < (0.3 if head == "cosface" else 0.4)).all()  # by chance, in 32 dimensions
    assert torch.allclose(new.norm(dim=1), old.norm(dim=1).mean(), rtol=0.2)
    again = forget(plain, tiny.faces(), ["person-004"], **QUICK)
    assert (again.table().index.tolist(), type(again.model)) == (["task1"], type(model))


@pytest.mark.parametrize("head", HEADS)
def test_a_stopped_run_goes_on_bit_for_bit(head, tmp_path):
    def serve():
        model = tiny.face_model(head=head)
        forget(model, tiny.faces(), ["person-001"], **QUICK)
        return forget(model, tiny.faces(), [["person-002"], ["person-003"]], out=tmp_path / "b", **QUICK)

    whole = serve()
    for name in ("task3.json", "task3.safetensors"):
        (tmp_path / "b" / name).unlink()
    resumed = serve()
    assert same(lora.adapter_state(resumed.model), lora.adapter_state(whole.model))
    assert {k for k in lora.adapter_state(whole.model) if k.startswith("head.adapters.task3")}
    assert same(everything(resumed.model), everything(whole.model))
    one, two = ([{**asdict(r), "seconds": 0} for r in e.reports] for e in (resumed, whole))
    assert one == two


def test_a_sliced_head_is_served_and_the_whole_one_takes_the_new_rows_along():
    data = tiny.faces()
    problem = sliced_problem(data)
    original, whole = everything(problem.model), problem.outside.head.head.weight.clone()
    method = create("gslora-deep", **tiny.QUICK, hold=2.0, foreign=0.5)
    asked = plan(data, Setting(requests=(2, 1), ratio=0.5), 0)
    reports = forget_sequence(problem, method, asked, seed=0)
    start = reports[0].metrics["acc_outside_before"]
    assert [r.metrics["acc_outside_before"] for r in reports] == [start, start]
    acting = problem.head.weight.detach().clone()
    places = [ALL.index(name) for name in TASK]
    restored = copy.deepcopy(problem.model)
    restore_head(restored, problem.outside.head)
    assert torch.equal(restored.head.weight[places], acting)
    for name in ("task2", "task1"):
        lora.revoke(restored, name)
        lora.revoke(problem.model, name)
    assert torch.equal(restored.head.weight, whole)
    lora.remove(problem.model)
    assert same(everything(problem.model), original)


def test_foreign_images_stand_in_for_retained_ones():
    data = tiny.faces()
    asked = plan(data, Setting(requests=(2,), ratio=0.5, replay=False), 0)
    report = forget_sequence(tiny.problem(), create("gslora-deep", **tiny.QUICK), asked, seed=0)[0]
    assert "stay" not in report.terms
    strangers = replace(data, foreign=data.val)
    problem = tiny.problem()
    problem.data = strangers
    asked = plan(strangers, Setting(requests=(2,), ratio=0.5, replay=False, foreign=4), 0)
    report = forget_sequence(problem, create("gslora-deep", **tiny.QUICK), asked, seed=0)[0]
    assert {"stay", "foreign", "move"} <= report.terms.keys()


def test_a_detector_is_refused_by_name():
    method, asked = create("gslora-deep"), plan(tiny.mini_scenes.load(counts=tiny.SCENES), Setting((1,)), 0)
    with pytest.raises(ConfigError, match="gslora-deep is not defined for detection, only for classific"):
        forget_sequence(tiny.detection(), method, asked)


# --- rows by themselves ---------------------------------------------------------------------------------


def test_rows_are_replaced_by_name_and_the_newer_acts():
    layer = nn.Linear(3, 4)
    own, x = copy.deepcopy(layer), torch.randn(5, 3)
    rows.replace(layer, "a", [1, 3], torch.ones(2, 3), torch.zeros(2))
    rows.replace(layer, "b", torch.tensor([3]), torch.zeros(1, 3), torch.ones(1))
    assert isinstance(layer, nn.Linear)
    expected = own(x)
    expected[:, 1], expected[:, 3] = x.sum(dim=1), 1
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert torch.equal(dict(layer.named_parameters())["weight"], own.weight)
    layer.silent = frozenset(["b"])
    assert torch.equal(layer.weight[3], torch.ones(3))
    layer.silent = frozenset()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        rows.put_back(twin)
        assert type(twin) is nn.Linear
        assert torch.equal(twin(x), own(x))
    assert torch.allclose(layer(x), expected, atol=1e-6)
    rows.make_own(layer)
    assert type(layer) is nn.Linear
    assert layer.state_dict().keys() == own.state_dict().keys()
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_a_model_is_the_same_to_its_fingerprints():
    model = tiny.adapted()
    before = weights_hash(model), structure_hash(model), lora.find_linears(model, "ffn")
    rows.replace(model.head, "task1", [0], torch.zeros(1, 32))
    assert (weights_hash(model), structure_hash(model), lora.find_linears(model, "ffn")) == before


def test_in_half_precision_rows_take_the_layers_type():
    layer = nn.Linear(3, 4).bfloat16()
    rows.replace(layer, "a", [0], torch.ones(1, 3), torch.zeros(1))
    assert layer(torch.ones(2, 3).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([4], torch.ones(1, 3), torch.ones(1)), r"rows \[4\] were given for a layer of 4 rows; .* 0 to 3"),
        (([1, 1], torch.ones(2, 3), torch.ones(2)), r"rows \[1, 1\] were given"),
        (([1], torch.ones(1, 2), torch.ones(1)), r"the weight of 1 rows has shape \(1, 2\).*has \(1, 3\)"),
        (([1], torch.ones(1, 3), None), r"the bias of 1 rows has shape None; the layer's has \(1,\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_leave_the_layer(given, message):
    layer = nn.Linear(3, 4)
    with pytest.raises(ModelError, match=message):
        rows.replace(layer, "a", *given)
    assert type(layer) is nn.Linear


def test_other_mistakes_are_named():
    layer = nn.Linear(3, 4, bias=False)
    rows.replace(layer, "a", [0], torch.ones(1, 3))
    assert layer.bias is None
    with pytest.raises(ModelError, match="rows named 'a' are already replaced; choose another name"):
        rows.replace(layer, "a", [1], torch.ones(1, 3))
    with pytest.raises(ModelError, match="ReLU has no weight of its own"):
        rows.replace(nn.ReLU(), "a", [1], torch.ones(1, 3))
    state = {"nose.adapters.a.index": torch.tensor([0]), "nose.adapters.a.weight": torch.ones(1, 3)}
    with pytest.raises(ModelError, match="no layer 'nose'; the file belongs to another architecture"):
        lora.load_adapters(tiny.face_model(), state)
    with pytest.raises(ModelError, match="the rows 'a' of 'head' lack their weight; the file is incomplete"):
        lora.load_adapters(tiny.face_model(), {"head.adapters.a.index": torch.tensor([0])})
    model = whole_model()
    rows.replace(model.head, "a", [0], torch.zeros(1, model.head.in_features), torch.zeros(1))
    with pytest.raises(ModelError, match="slice the head first and edit then"):
        slice_head(model, ALL, TASK)
