"""The methods: their losses against sums written out, their presets, their proximal step."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigslora import lora, methods
from minigslora.errors import ConfigError, DataError
from minigslora.methods.base import Method, Step, of_task
from minigslora.methods.gslora import GSLoRA
from minigslora.methods.original import class_prototypes, logit_spread
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task

TASK = Task(
    "task1", 0, (0,), (), (1, 2, 3, 4, 5), missing=(5,), retain_images=(13, 30, 44), forget_images=(0, 5)
)
ROWS = {"retain": torch.tensor([13, 30, 44]), "forget": torch.tensor([0, 5])}
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
"""float32 logits of scale 64 against sums in float64."""


def started(problem, name="gslora", recipe="corrected", **settings):
    method = methods.create(name, recipe, "ratio", **{**tiny.QUICK, **settings})
    groups = method.begin(problem, TASK, Streams(0, "task1"))
    problem.model.eval()
    return method, groups


def shake(model):
    """Move the adapters off their start, so that the model's outputs differ from the original's."""
    stream = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, adapter in lora.adapters(model, "task1"):
            adapter.B.copy_(torch.randn(adapter.B.shape, generator=stream) * 0.05)


def cross_entropy(logits, labels, margin=0.0):
    z = logits.copy()
    z[np.arange(len(z)), labels] -= margin
    top = z.max(axis=1)
    return np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(z)), labels]


def kl(p, z):
    def log_softmax(v):
        v = v - v.max(axis=1, keepdims=True)
        return v - np.log(np.exp(v).sum(axis=1, keepdims=True))

    a, b = log_softmax(p), log_softmax(z)
    return (np.exp(a) * (a - b)).sum(axis=1)


def live(problem):
    batch = problem.batch(ROWS)
    outputs = problem.forward(batch)
    arrays = (outputs.logits, outputs.embedding)
    return batch, *(v.detach().double().numpy() for v in arrays), batch.targets.numpy()


@pytest.mark.parametrize("margins", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("sparsity", ["proximal", "penalty"])
def test_gsloras_loss_is_its_equation(problem, margins, per_sample, sparsity):
    choices = {"margin_retain": margins[0], "margin_forget": margins[1], "per_sample": per_sample}
    constants = {"alpha": 0.02, "sparsity_warmup": 0.0, "bound": 40.0, "beta": 0.3}
    method, _ = started(problem, sparsity=sparsity, relative=False, **choices, **constants)
    shake(problem.model)
    batch, logits, _, labels = live(problem)
    terms = tiny.loss_terms(method, problem, batch, Progress(epochs=2))
    m = [64 * 0.35 * with_margin for with_margin in margins]
    losses = cross_entropy(logits[3:], labels[3:], m[1])
    gap = 40.0 - losses if per_sample else 40.0 - losses.mean()
    expected = {
        "retain": cross_entropy(logits[:3], labels[:3], m[0]).mean(),
        "forget": 0.3 * np.maximum(0, gap).mean(),
    }
    expected["loss"] = expected["retain"] + expected["forget"]
    if sparsity == "penalty":
        expected["sparsity"] = 0.02 * sum(
            np.sqrt(sum(float(p.detach().double().square().sum()) for p in group.parameters))
            for group in lora.groups(problem.model, "task1")
        )
        expected["loss"] += expected["sparsity"]
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["gslora", "gslora++", "gslora-distill"])
def test_relative_constants_are_in_units_of_the_original_logits_spread(problem, name):
    with torch.no_grad():
        logits = tiny.face_model()(problem.batch(ROWS).inputs).double().numpy()
    method, _ = started(problem, name, bound=3.0)
    spread = logits.std(axis=1, ddof=1).mean()
    assert method.nats == pytest.approx(np.log(6) + 64 * 0.35 + 3.0 * spread, rel=1e-4)
    bare, _ = started(tiny.problem(), name, bound=3.0, margin_forget=False)
    assert bare.nats == pytest.approx(np.log(6) + 3.0 * spread, rel=1e-4)
    assert method.spread == pytest.approx(spread, rel=1e-4)


def test_a_head_without_margin_gets_a_handicap_and_the_bound_is_raised_by_it():
    problem = tiny.problem(head="linear")
    assert problem.margin == 0.0
    method, _ = started(problem)
    handicap = method.handicap * method.spread
    assert method.taken_off == pytest.approx(handicap)
    assert method.nats == pytest.approx(np.log(6) + 2.5 * method.spread + handicap)
    batch, logits, _, labels = live(problem)
    terms = tiny.loss_terms(method, problem, batch)
    expected = np.maximum(0, method.nats - cross_entropy(logits[3:], labels[3:], handicap)).mean()
    assert terms["forget"].item() == pytest.approx(expected, rel=1e-4)
    bare, _ = started(tiny.problem(head="linear"), margin_forget=False)
    assert bare.taken_off == 0.0
    assert started(tiny.problem())[0].taken_off == 0.0


def test_certainty_leaves_a_slope_to_forget_by():
    """With a softmax at 1 the cross-entropy's slope is exactly 0 in float32; with a handicap it is not."""
    problem = tiny.problem(head="linear")
    batch = problem.batch({"forget": ROWS["forget"]})
    outputs = problem.forward(batch)
    logits = torch.zeros_like(outputs.logits).scatter_(1, batch.targets[:, None], 40.0)
    for handicap, moves in ((0.0, False), (35.0, True)):
        z = logits.clone().requires_grad_()
        losses = problem.losses(replace(outputs, logits=z), batch, True, handicap)
        (slope,) = torch.autograd.grad(losses.bounded.sum(), z)
        assert bool(slope.gather(1, batch.targets[:, None]).all()) == moves


@given(seed=st.integers(0, 999), scale=st.floats(0.1, 64))
def test_a_cross_entropy_with_margin_at_its_bound_certifies_a_wrong_answer(seed, scale):
    """(4.4): the margin adds at most s·m, so that the higher bound keeps the same distance."""
    rng = np.random.default_rng(seed)
    logits, labels = scale * rng.normal(size=(50, 8)), rng.integers(0, 8, size=50)
    bare, handicapped = cross_entropy(logits, labels), cross_entropy(logits, labels, 22.4)
    assert (handicapped <= bare + 22.4 + 1e-9).all()
    certified = handicapped > np.log(8) + 22.4
    assert not (certified & (logits.argmax(axis=1) == labels)).any()


@pytest.mark.parametrize(("space", "masked"), [("logits", True), ("logits", False), ("embedding", True)])
def test_gslora_pps_loss_adds_the_prototypes(problem, space, masked):
    settings = {"space": space, "temperature": 4.0, "push_bound": 3.0, "push": 0.2, "pull": 0.7}
    settings |= {"relative": False, "masked": masked}
    method, _ = started(problem, "gslora++", **settings)
    with torch.no_grad():
        original = problem.outputs(problem.batch(ROWS).inputs, tiny.face_model())
    shake(problem.model)
    batch, logits, embedding, labels = live(problem)
    terms = {k: v.item() for k, v in tiny.loss_terms(method, problem, batch, Progress(epochs=2)).items()}
    outputs = logits if space == "logits" else embedding
    before = (original.logits if space == "logits" else original.embedding).double().numpy()
    means = np.stack([before[labels == c].mean(axis=0) for c in labels])
    distance = kl(means / 4, outputs / 4)
    if space == "logits" and masked:
        means[:, list(TASK.forget + TASK.old)] = -1e9
    push, pull = np.maximum(0, 3.0 - distance[3:]).mean(), kl(means / 4, outputs / 4)[:3].mean()
    np.testing.assert_allclose([terms["push"], terms["pull"]], [0.2 * push, 0.7 * pull], **ROUNDING)
    rest = sum(v.item() for v in GSLoRA.data_terms(method, Step(method, problem, batch, Progress())).values())
    assert terms["loss"] == pytest.approx(rest + 0.2 * push + 0.7 * pull, rel=1e-4)


def test_masked_distillation_hears_a_teacher_that_never_knew_the_forgotten(problem):
    settings = {"temperature": 4.0, "keep": 3.0, "redirect": 2.0, "relative": False}
    method = methods.create("gslora-distill", **tiny.QUICK, **settings)
    method.begin(problem, replace(TASK, forget=(0,), old=(3,)), Streams(0, "task1"))
    problem.model.eval()
    with torch.no_grad():
        teacher = tiny.face_model()(problem.batch(ROWS).inputs).double().numpy()
    shake(problem.model)
    batch, logits, _, _ = live(problem)
    terms = {k: v.item() for k, v in tiny.loss_terms(method, problem, batch, Progress(epochs=2)).items()}
    stays = [1, 2, 4, 5]
    now = logits / 4 - np.log(np.exp(logits / 4).sum(axis=1, keepdims=True))
    said = teacher[:, stays] / 4 - np.log(np.exp(teacher[:, stays] / 4).sum(axis=1, keepdims=True))
    distance = (np.exp(said) * (said - now[:, stays])).sum(axis=1)
    np.testing.assert_allclose(
        [terms["keep"], terms["redirect"]], [3 * distance[:3].mean(), 2 * distance[3:].mean()], **ROUNDING
    )
    ce = cross_entropy(logits[3:], problem.batch(ROWS).targets.numpy()[3:], 64 * 0.35)
    short = of_task(method.beta, 0) * np.maximum(0, method.nats - ce).mean()
    assert terms.keys() == {"keep", "redirect", "forget", "loss"}
    assert terms["forget"] == pytest.approx(short, rel=1e-4)
    assert terms["loss"] == pytest.approx(terms["keep"] + terms["redirect"] + short, rel=1e-4)


def test_prototypes_are_the_original_models_or_the_edited_ones(problem):
    first = class_prototypes(problem, TASK, "logits")
    lora.inject(problem.model)
    tiny.attach_drawn(problem.model, "task0")
    original = methods.create("gslora++", prototypes="original", space="logits", **tiny.QUICK)
    original.begin(problem, TASK, Streams(0))
    assert torch.equal(original.centres, first)
    assert original.spread == logit_spread(problem, TASK)
    lora.revoke(problem.model, "task1")
    edited = methods.create("gslora++", prototypes="edited", space="logits", **tiny.QUICK)
    edited.begin(problem, TASK, Streams(0))
    assert not torch.equal(edited.centres[0], first[0])


def test_a_task_that_shows_nothing_has_no_prototypes(problem):
    nothing = replace(TASK, retain_images=(), forget_images=())
    with pytest.raises(DataError, match=r"task\d has no image with an object of its classes; give"):
        methods.create("gslora++").begin(problem, nothing, Streams(0))


@pytest.mark.parametrize("space", ["logits", "embedding"])
def test_a_class_without_images_has_the_classifiers_row_as_prototype(problem, space):
    prototypes = class_prototypes(problem, TASK, space)
    rows = problem.class_rows(space)
    assert prototypes.shape == rows.shape
    assert torch.equal(prototypes[4], rows[4])
    assert torch.equal(prototypes[5], rows[5])
    assert not torch.allclose(prototypes[0], rows[0])


def test_a_batch_without_a_role_has_no_term_of_it(problem):
    method, _ = started(problem, "gslora++")
    forget_only = problem.batch({"forget": ROWS["forget"]})
    assert set(tiny.loss_terms(method, problem, forget_only)) == {"forget", "push", "loss"}
    retain_only = problem.batch({"retain": ROWS["retain"]})
    assert set(tiny.loss_terms(method, problem, retain_only)) == {"retain", "pull", "loss"}


def test_what_is_trained_is_the_new_requests_adapters_only(problem):
    base = {k: v.clone() for k, v in problem.model.state_dict().items()}
    method, groups = started(problem)
    trained = [p for g in groups for p in g["params"]]
    assert {id(p) for p in trained} == {id(p) for p in lora.trainable(problem.model)}
    assert all(g["weight_decay"] == 0.0 for g in groups)
    method.end(problem, TASK)
    assert lora.trainable(problem.model) == []
    assert all(torch.equal(v, base[k]) for k, v in lora.fold(problem.model).state_dict().items())


@pytest.mark.parametrize("grouping", ["block", "module", "matrix"])
def test_a_large_alpha_takes_every_group_out_and_none_leaves_them(problem, grouping):
    method, _ = started(problem, grouping=grouping, alpha=1e6, sparsity_warmup=0.5)
    shake(problem.model)
    method.after_step(0.01, Progress(epoch=0, epochs=2))
    waiting = method.describe(problem, TASK)
    assert waiting["zero_group_ratio"] == 0.0
    assert all(v > 0 for k, v in waiting.items() if k.startswith("norm/"))
    method.after_step(0.01, Progress(epoch=1, epochs=2))
    figures = method.describe(problem, TASK)
    assert figures["zero_group_ratio"] == 1.0
    assert all(v == 0 for k, v in figures.items() if k.startswith("norm/"))
    assert sum(k.startswith("norm/") for k in figures) == {"block": 3, "module": 6, "matrix": 6}[grouping]
    trained = sum(p.numel() for p in lora.trainable(problem.model))
    total = sum(p.numel() for p in problem.model.parameters())
    assert figures["trained_percent"] == pytest.approx(100 * trained / total)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("grouping", ["block", "module", "matrix"])
def test_the_norms_reported_are_those_of_what_is_added_to_the_weights(problem, grouping, rank):
    before = {k: v.double().numpy() for k, v in problem.model.state_dict().items()}
    method, _ = started(problem, grouping=grouping, rank=rank)
    shake(problem.model)
    expected = {}
    for layer, adapter in lora.adapters(problem.model, "task1"):
        a, b = (p.detach().double().numpy() for p in (adapter.A, adapter.B))
        name = layer.split(".mlp.")[0] if grouping == "block" else layer
        expected[name] = expected.get(name, 0.0) + ((b @ a / rank) ** 2).sum()  # s = 1 / rank
    expected = {f"norm/{name}": square**0.5 for name, square in expected.items()}
    reported = {k: v for k, v in method.describe(problem, TASK).items() if k.startswith("norm/")}
    assert reported == pytest.approx(expected, rel=1e-5)  # float32
    after = lora.fold(problem.model).state_dict()
    moved = sum(((after[k].double().numpy() - v) ** 2).sum() for k, v in before.items()) ** 0.5
    assert np.hypot.reduce(list(reported.values())) == pytest.approx(moved, rel=1e-4)  # rounding of W + sBA


def test_state_round_trip(problem):
    method, _ = started(problem)
    shake(problem.model)
    other = tiny.problem()
    method.load_state_dict(other, method.state_dict(problem))
    assert torch.equal(other.predict("test"), problem.predict("test"))


# --- the table and its presets ------------------------------------------------------------------------


def test_the_table_finds_every_method():
    found = methods.table()
    assert {"gslora", "gslora++"} <= set(found)
    for name, kind in found.items():
        assert Method in kind.__mro__
        assert kind.name == name


@pytest.mark.parametrize("name", ["gslora", "gslora++"])
@pytest.mark.parametrize("recipe", methods.RECIPES)
@pytest.mark.parametrize("setting", ["ratio", "shots", "missing"])
def test_every_recipe_has_every_setting(name, recipe, setting):
    method = methods.create(name, recipe, setting)
    assert method.name == name
    assert (method.sparsity == "penalty") == (recipe == "released")
    assert (method.training.lr, method.training.epochs) == (1e-2, 100) or recipe == "corrected"


def test_the_released_constants_are_the_published_ones():
    ratio, shots = (methods.create("gslora++", "released", s) for s in ("ratio", "shots"))
    assert (ratio.beta, ratio.bound, ratio.alpha) == ((0.2, 0.25, 0.25, 0.2), 105.0, 1e-4)
    assert (ratio.push, ratio.push_bound, ratio.pull) == ((0.01,), 18.0, 0.0)
    assert (shots.training.batch_retain, shots.push_bound) == (4, 50.0)
    assert [of_task(shots.push, t) for t in (0, 3, 7)] == [0.015, 0.012, 0.012]


def test_a_weight_per_task_needs_a_value():
    with pytest.raises(ConfigError, match="a weight per task is an empty list; give one number"):
        of_task((), 0)


def test_overrides_reach_configuration_and_training_and_are_parsed():
    method = methods.create("gslora", epochs="7", alpha="1e-3", beta=0.5, grouping="module")
    assert (method.training.epochs, method.alpha, method.beta) == (7, 1e-3, (0.5,))
    assert type(method)(**{**method.settings, "alpha": 0.1, "beta": (0.2,)}).grouping == "module"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gslora+"}, r"unknown method 'gslora\+'; known: .*gslora"),
        (
            {"name": "gslora", "recipe": "fixed"},
            r"unknown recipe 'fixed'; expected one of corrected, released",
        ),
        (
            {"name": "gslora", "setting": "few"},
            r"unknown setting 'few'; expected one of single, .*, ratio, shots, missing",
        ),
        ({"name": "gslora", "epoch": 3}, r"gslora has no setting 'epoch'; its settings are .*epochs"),
        ({"name": "gslora", "push": 3}, r"gslora has no setting 'push'"),
        ({"name": "gslora", "epochs": "many"}, r"epochs = 'many'; expected a whole number"),
        (
            {"name": "gslora", "sparsity": "some"},
            r"sparsity = 'some'; allowed: 'proximal', 'penalty', 'none'",
        ),
        ({"name": "gslora", "grouping": "matrix", "norm": "B"}, r"norm = 'B' needs whole \(A, B\) pairs"),
    ],
)
def test_what_no_method_has_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        methods.create(**arguments)


def test_no_sparsity_leaves_the_adapters_alone(problem):
    method = GSLoRA(rank=2, sparsity="none", alpha=1e6, training=tiny.training())
    method.begin(problem, TASK, Streams(0))
    before = lora.adapter_state(problem.model)
    method.after_step(0.1, Progress(epoch=1, epochs=2))
    assert all(torch.equal(v, before[k]) for k, v in lora.adapter_state(problem.model).items())
    assert "sparsity" not in tiny.loss_terms(method, problem, problem.batch(ROWS))
