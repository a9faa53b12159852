"""The published baselines and the controls: each loss against sums written out, importances, relabelling."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_methods import cross_entropy
from torch import nn

from minigslora import lora, methods
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.errors import ConfigError, DataError, ModelError
from minigslora.methods.base import vectors
from minigslora.methods.fdr import function_distance
from minigslora.methods.finetuning import Relabel
from minigslora.methods.lirf import lower_half
from minigslora.methods.lwf import soft_cross_entropy, twice_log
from minigslora.problems.base import Batch
from minigslora.problems.classification import Classification, Outputs
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence
from minigslora.tasks import Plan, Progress, Setting, Task, plan

CPU = torch.device("cpu")
TASK = Task(
    "task1", 0, (0, 4), (), (1, 2, 3, 5), missing=(5,), retain_images=(13, 30, 44), forget_images=(0, 5, 50)
)
ROWS = {
    "retain": torch.tensor([13, 30, 44]),
    "forget": torch.tensor([0, 5, 50]),
    "retain2": torch.tensor([44, 14]),
}
R, F, R2 = slice(0, 3), slice(3, 6), slice(6, 8)
STREAMS = Streams(0, "task1")
RELABELLING = ("l2", "ewc", "mas", "lwf", "der", "der++", "fdr", "lirf")
PUBLISHED = {
    "retrain": "Retrain",
    "l2": "L2",
    "ewc": "EWC",
    "mas": "MAS",
    "lwf": "LwF",
    "der": "DER",
    "der++": "DER++",
    "fdr": "FDR",
    "lirf": "LIRF",
    "scrub": "SCRUB",
    "scrub-s": "SCRUB-S",
    "bad-teacher": "BAD-T",
}
CONTROLS = ("retrain-oracle", "lora", "finetune", "gradient-ascent", "head-only")
EVERY = (*PUBLISHED, *CONTROLS)
QUICK = {"epochs": 3, "batch_retain": 8, "batch_forget": 4}
CLOSE = {"rel": 1e-6, "abs": 1e-9}
"""A model in float64 against sums in float64; the spread of the logits alone is taken in float32."""


class InFloat64(Classification):
    """A problem whose model, images and outputs are float64."""

    def __init__(self):
        super().__init__(tiny.face_model().double(), tiny.faces(), device="cpu", precision="fp32")

    def normalise(self, images):
        return super().normalise(images).double()

    def outputs(self, inputs, model):
        embedding = model.forward_head(model.forward_features(inputs), pre_logits=True)
        return Outputs(embedding, model.get_classifier()(embedding))


@pytest.fixture
def problem(data):
    return InFloat64()


def original():
    return tiny.face_model().double()


def started(problem, name, recipe="corrected", **settings):
    """Return a method after ``begin``, and the model moved off its start."""
    method = methods.create(name, recipe, "ratio", **{**QUICK, **settings})
    method.begin(problem, TASK, STREAMS)
    problem.model.eval()
    shake(problem.model)
    return method


def shake(model, seed=5):
    stream = torch.Generator().manual_seed(seed)
    head = {id(p) for p in model.get_classifier().parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in head:
                parameter += 0.02 * torch.randn(parameter.shape, generator=stream, dtype=parameter.dtype)


def said(problem, model=None):
    """Return logits and embeddings of all images, in float64; by default of the live model."""
    with torch.no_grad():
        outputs = problem.forward(problem.batch(ROWS), model)
    return outputs.logits.numpy(), outputs.embedding.numpy()


def labels(problem):
    return problem.batch(ROWS).targets.numpy()


def relabelled(problem, low=False):
    return Relabel(TASK, STREAMS, CPU, low)(problem.batch(ROWS)).targets.numpy()


def stepped(problem, method, progress=None, roles=None):
    progress = progress or Progress(epochs=3)
    rows = {r: ROWS[r] for r in roles or method.wants(progress)}
    return {k: v.item() for k, v in tiny.loss_terms(method, problem, problem.batch(rows), progress).items()}


def softmax(z, temperature=1.0):
    e = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    return e / e.sum(axis=1, keepdims=True)


def kl(teacher, student, temperature=1.0):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return (p * (np.log(p + 1e-300) - np.log(q + 1e-300))).sum(axis=1)


def spread(problem, model=None):
    images = problem.batch({"retain": torch.tensor(TASK.retain_images + TASK.forget_images)})
    with torch.no_grad():
        logits = problem.forward(images, model or original()).logits.numpy()
    return logits.std(axis=1, ddof=1).mean()


MARGIN = 64 * 0.35

# --- losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l2", "ewc", "mas"])
def test_the_pull_is_a_weighted_square_distance_from_each_anchor(problem, name):
    method = started(problem, name, weight=0.7)
    method.end(problem, TASK)
    shake(problem.model, 6)
    logits, _ = said(problem)
    now = {k: p.detach().numpy() for k, p in problem.model.named_parameters() if p.requires_grad}
    assert len(method.anchors) == 2
    pull = sum(
        (anchor.importances[k].numpy() * (now[k] - anchor.weights[k].numpy()) ** 2).sum()
        for anchor in method.anchors
        for k in now
    )
    both = np.concatenate([logits[R], logits[F]])
    targets = relabelled(problem)[:6]
    expected = {"cross_entropy": cross_entropy(both, targets, MARGIN).mean(), "pull": 0.7 * pull}
    expected["loss"] = expected["cross_entropy"] + 0.7 * pull
    assert stepped(problem, method) == pytest.approx(expected, **CLOSE)
    assert (name == "l2") == all(v.ndim == 0 and v == 1 for v in method.anchors[0].importances.values())


@pytest.mark.parametrize("relative", [True, False])
def test_lwfs_loss_is_its_equation(problem, relative):
    method = started(problem, "lwf", match=0.6, replay=3.0, temperature=2.0, relative=relative)
    (logits, _), (teacher, _) = said(problem), said(problem, original())
    temperature = 2.0 * (spread(problem) if relative else 1.0)
    answer = softmax(teacher[R], temperature) * np.log(softmax(logits[R], temperature))
    expected = {
        "forget": cross_entropy(logits[F], relabelled(problem)[F], MARGIN).mean(),
        "match": 0.6 * -answer.sum(axis=1).mean(),
        "retain": 3 * cross_entropy(logits[R], labels(problem)[R], MARGIN).mean(),
    }
    expected["loss"] = sum(expected.values())
    assert stepped(problem, method) == pytest.approx(expected, **CLOSE)


def test_lwfs_distillation_has_a_gradient_and_the_released_one_is_identically_zero():
    stream = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 64.0):
        teacher = scale * torch.randn(5, 7, generator=stream)
        student = (scale * torch.randn(5, 7, generator=stream)).requires_grad_(True)
        (fault,) = torch.autograd.grad(value := twice_log(teacher / 2, student / 2), student)
        assert value == 0
        assert not fault.any()
        (gradient,) = torch.autograd.grad(soft_cross_entropy(teacher / 2, student / 2), student)
        expected = (softmax(student.detach().numpy(), 2.0) - softmax(teacher.numpy(), 2.0)) / (2 * 5)
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("space", ["logits", "embedding"])
@pytest.mark.parametrize("over", ["mean", "sum"])
@pytest.mark.parametrize("name", ["der", "der++"])
def test_ders_loss_is_its_equation(problem, name, space, over):
    method = started(problem, name, match=0.3, space=space, over=over)
    of_space = 0 if space == "logits" else 1
    now, teacher = said(problem), said(problem, original())
    unit = spread(problem) if space == "logits" else 1.0
    squares = (((now[of_space] - teacher[of_space])[R] / unit) ** 2).sum(axis=1)
    expected = {
        "forget": cross_entropy(now[0][F], relabelled(problem)[F], MARGIN).mean(),
        "match": 0.3 * (squares.sum() if over == "sum" else squares.mean()),
    }
    if name == "der++":
        expected["replay"] = method.replay * cross_entropy(now[0][R2], labels(problem)[R2], MARGIN).mean()
    expected["loss"] = sum(expected.values())
    assert stepped(problem, method) == pytest.approx(expected, **CLOSE)


def test_der_compares_logits_and_the_released_one_embeddings():
    for name in ("der", "der++"):
        found = [methods.create(name, recipe).space for recipe in methods.RECIPES]
        assert found == ["logits", "embedding"]


@pytest.mark.parametrize("each_image", [True, False])
def test_fdrs_loss_is_its_equation(problem, each_image):
    method = started(problem, "fdr", match=3.0, relative=False, each_image=each_image)
    (logits, _), (teacher, _) = said(problem), said(problem, original())
    squares = ((logits - teacher)[R] ** 2).sum(axis=1)
    expected = {
        "forget": cross_entropy(logits[F], relabelled(problem)[F], MARGIN).mean(),
        "match": 3 * (np.sqrt(squares).mean() if each_image else np.sqrt(squares.mean())),
    }
    expected["loss"] = sum(expected.values())
    assert stepped(problem, method) == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("name", ["scrub", "scrub-s"])
def test_scrubs_two_losses_are_their_equations(problem, name):
    method = started(problem, name, temperature=3.0, gamma=0.9, alpha=0.2, relative=False)
    (logits, _), (teacher, _) = said(problem), said(problem, original())
    gap = 0.0
    if name == "scrub-s":
        stepped_off = zip(method.weights, method.average, strict=True)
        gap = sum(np.linalg.norm((p - a).detach().numpy()) for p, a in stepped_off)
        assert gap > 0
    disobey = 9 * kl(teacher[F], logits[F], 3.0).mean()
    at_first = stepped(problem, method, Progress(epoch=0, epochs=3))
    assert at_first["loss"] == pytest.approx(-disobey + 0.05 * gap, **CLOSE)
    obey = 9 * kl(teacher[R], logits[R], 3.0).mean()
    retain = cross_entropy(logits[R], labels(problem)[R], MARGIN).mean()
    later = stepped(problem, method, Progress(epoch=1, epochs=3))
    assert later["loss"] == pytest.approx(0.9 * retain + 0.2 * obey + 0.05 * gap, **CLOSE)


def test_lirfs_loss_is_its_equation(problem):
    method = started(problem, "lirf", relative=False, temperature=4.0)
    shake(method.networks["deposit"], 8)
    first = original()
    (logits, _), (teacher, _) = said(problem), said(problem, first)
    deposit, _ = said(problem, method.networks["deposit"])

    def maps(model):
        middle = model.patch_embed(problem.batch(ROWS).inputs)
        middle = model.blocks[0](model.norm_pre(model._pos_embed(middle)))
        squares = (middle.detach().numpy() ** 2).mean(axis=2)
        return squares / np.linalg.norm(squares, axis=1, keepdims=True)

    keep, gone, true = list(TASK.retain), list(TASK.forget), labels(problem)
    expected = {
        "forget": cross_entropy(logits[F], relabelled(problem)[F], MARGIN).mean(),
        "away": ((maps(problem.model) - maps(first))[F] ** 2).mean(),
        "keep": 0.1 * 16 * kl(teacher[F][:, keep], logits[F][:, keep], 4.0).mean(),
        "deposit": 0.1 * 16 * kl(teacher[F][:, gone], deposit[F][:, gone], 4.0).mean()
        + 0.9 * cross_entropy(deposit[F], true[F]).mean(),
        "retain": cross_entropy(logits[R], true[R], MARGIN).mean(),
    }
    weights = {"forget": 0.9, "away": -300, "keep": 10, "deposit": 0.05, "retain": 5}
    expected = {k: weights[k] * v for k, v in expected.items()}
    expected["loss"] = sum(expected.values())
    assert stepped(problem, method) == pytest.approx(expected, **CLOSE)


def test_the_controls_losses_are_their_equations(problem):
    method = started(problem, "finetune", bound=30.0, relative=False, beta=0.3)
    logits, _ = said(problem)
    ce = cross_entropy(logits, labels(problem), MARGIN)
    expected = {"retain": ce[R].mean(), "forget": 0.3 * np.maximum(0, 30.0 - ce[F]).mean()}
    expected["loss"] = expected["retain"] + expected["forget"]
    assert stepped(problem, method) == pytest.approx(expected, **CLOSE)
    ascent = methods.create("gradient-ascent", replay=0.5, **QUICK)
    found = stepped(problem, ascent)
    assert found["loss"] == pytest.approx(0.5 * ce[R].mean() - ce[F].mean(), **CLOSE)
    alone = methods.create("gradient-ascent", **QUICK)
    assert alone.wants(Progress()) == ("forget",)
    assert stepped(problem, alone)["loss"] == pytest.approx(-ce[F].mean(), **CLOSE)


def test_retraining_takes_up_the_margin_late(problem):
    method = started(problem, "retrain", margin_after=0.5)
    logits, _ = said(problem)
    expected = {e: cross_entropy(logits[R], labels(problem)[R], m).mean() for e, m in ((0, 0), (2, MARGIN))}
    for epoch, loss in expected.items():
        found = stepped(problem, method, Progress(epoch=epoch, epochs=4))
        assert found == pytest.approx({"retain": loss, "loss": loss}, **CLOSE)


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"lora", "head-only"}))
def test_the_gradient_of_the_whole_loss_is_its_slope(problem, name):
    """Along a random direction of all trained weights, by central differences in float64."""
    method = started(problem, name)
    weights = [p for p in problem.model.parameters() if p.requires_grad]
    stream = torch.Generator().manual_seed(9)
    direction = [torch.randn(p.shape, generator=stream, dtype=p.dtype) for p in weights]
    asked = {method.wants(Progress(epoch=e, epochs=3)): Progress(epoch=e, epochs=3) for e in (0, 1)}

    def loss(progress):
        method.relabel = Relabel(TASK, STREAMS, CPU)  # the same labels each time
        roles = method.wants(progress)
        return tiny.loss_terms(method, problem, problem.batch({r: ROWS[r] for r in roles}), progress)["loss"]

    def moved(progress, step):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p += step * d
            value = loss(progress).item()
            for p, d in zip(weights, direction, strict=True):
                p -= step * d
        return value

    for progress in asked.values():
        found = torch.autograd.grad(loss(progress), weights, allow_unused=True, materialize_grads=True)
        along = sum((g * d).sum().item() for g, d in zip(found, direction, strict=True))
        slope = (moved(progress, 1e-6) - moved(progress, -1e-6)) / 2e-6
        assert abs(slope) > 1e-3
        assert along == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("each_image", [True, False])
def test_fdrs_gradient_is_zero_where_student_and_teacher_agree(each_image):
    student = torch.ones(2, 3, requires_grad=True)
    function_distance(torch.ones(2, 3), student, each_image).backward()
    assert torch.equal(student.grad, torch.zeros(2, 3))


# --- importances --------------------------------------------------------------------------------------


class LinearSoftmax(nn.Module):
    """Logits W x, W being trained and the head the identity."""

    def __init__(self, classes=4, size=48):
        super().__init__()
        stream = torch.Generator().manual_seed(2)
        self.linear = nn.Linear(size, classes, bias=False)
        self.fc = nn.Linear(classes, classes, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(classes, size, generator=stream) * 0.3)
            self.fc.weight.copy_(torch.eye(classes))

    def forward_features(self, x):
        return self.linear(x.flatten(1))

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else self.fc(x)

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def linear_problem():
    blank = tiny.toy_data()
    stream = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, blank.train.images.shape, generator=stream, dtype=torch.uint8)
    split = ImageSet(images, blank.train.labels, blank.train.classes)
    data = DataSet("toy", split, split, split)
    return Classification(LinearSoftmax(), data, device="cpu", precision="fp32")


LINEAR_TASK = Task("task1", 0, (0,), (), (1, 2, 3), retain_images=(5, 6, 7, 11, 16), forget_images=(0,))


def linear_importances(name, **settings):
    problem = linear_problem()
    method = methods.create(name, **QUICK, **settings)
    method.begin(problem, LINEAR_TASK, STREAMS)
    rows = torch.tensor(LINEAR_TASK.retain_images)
    x = problem.data.train.images[rows].double().numpy().reshape(len(rows), -1) / 255
    weight = problem.model.linear.weight.detach().double().numpy()
    (found,) = method.anchors[0].importances.values()
    return found.numpy(), x, x @ weight.T, problem.data.train.labels[rows].numpy()


def test_ewcs_fisher_is_the_exact_one_of_a_linear_softmax_model():
    found, x, z, _ = linear_importances("ewc", draws=2000)
    p = softmax(z)
    exact = np.einsum("nk,nd->kd", p * (1 - p), x**2) / len(x)
    np.testing.assert_allclose(found, exact, rtol=0.1)  # 2000 draws an image: about 2 % of noise


def test_ewcs_empirical_fisher_takes_true_labels_and_the_released_one_whole_batches():
    found, x, z, y = linear_importances("ewc", labels="true")
    errors = softmax(z) - np.eye(4)[y]
    np.testing.assert_allclose(found, np.einsum("nk,nd->kd", errors**2, x**2) / len(x), rtol=1e-4)
    found, x, *_ = linear_importances("ewc", labels="true", images_per_gradient=3)
    means = [errors[part].T @ x[part] / len(x[part]) for part in (slice(0, 3), slice(3, 5))]
    np.testing.assert_allclose(found, (3 * means[0] ** 2 + 2 * means[1] ** 2) / 2, rtol=1e-3)


def test_mass_importance_is_the_mean_size_of_the_gradient_of_the_squared_norm():
    found, x, z, _ = linear_importances("mas")
    np.testing.assert_allclose(found, np.einsum("nk,nd->kd", np.abs(2 * z), x) / len(x), rtol=1e-4)
    found, *_ = linear_importances("mas", images_per_gradient=5)
    np.testing.assert_allclose(found, 5 * np.abs(2 * z.T @ x / 5), rtol=1e-3)


# --- SCRUB's phases -----------------------------------------------------------------------------------


def phases(epochs, **settings):
    method = methods.create("scrub", epochs=epochs, **settings)
    shown = [method.wants(Progress(epoch=e, epochs=epochs)) for e in range(epochs)]
    assert all(len(roles) == 1 for roles in shown)
    return "".join("x" if roles == ("forget",) else "n" for roles in shown)


def test_scrubs_phases_alternate_and_end_in_min_epochs():
    assert phases(150, rounds=10) == ("xn" * 5 + "nnnnn") * 10
    assert phases(10) == "xnxnxnnnnn"
    assert phases(16, rounds=10) == "xnn" * 4 + "xnnn"
    assert all(phases(e, rounds=r).endswith("n") for e in range(1, 40) for r in (1, 3, 10))


def test_scrub_s_moves_its_average_once_an_epoch(problem):
    method = started(problem, "scrub-s", share=0.25)
    before = [a.clone() for a in method.average]
    method.after_step(0.1, Progress(step=0, steps=2))
    assert all(map(torch.equal, before, method.average))
    method.after_step(0.1, Progress(step=1, steps=2))
    for old, new, weight in zip(before, method.average, method.weights, strict=True):
        torch.testing.assert_close(new, old + 0.25 * (weight.detach() - old))


# --- relabelling --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), order=st.permutations(range(8)))
def test_new_labels_are_retained_ones_with_images_all_of_them_in_time(seed, order):
    forget, old, kept, missing = order[:2], order[2:3], order[3:], order[3:4]
    task = Task("t", 1, tuple(forget), tuple(old), tuple(sorted(kept)), tuple(missing))
    relabel = Relabel(task, Streams(seed), CPU)
    true = torch.tensor(forget * 60 + kept)
    batch = Batch(torch.zeros(len(true), 1), true, {"forget": 120, "retain": len(kept)})
    first, second = relabel(batch).targets, relabel(batch).targets
    assert set(first[:120].tolist()) == set(kept) - set(missing)
    assert torch.equal(first[120:], true[120:])
    assert not torch.equal(first, second)
    assert torch.equal(batch.targets, true)
    again = Relabel(task, Streams(seed), CPU)
    assert torch.equal(again(batch).targets, first)


def test_released_labels_are_low_ids_other_than_the_true_one():
    task = Task("t", 0, (0, 2, 7), (), (1, 3, 4, 5, 6))
    batch = Batch(torch.zeros(300, 1), torch.tensor([0, 2, 7] * 100), {"forget": 300})
    drawn = Relabel(task, Streams(0), CPU, low_labels=True)(batch).targets
    assert set(drawn.tolist()) == {0, 1, 2}
    assert (drawn != batch.targets).all()


@pytest.mark.parametrize("name", RELABELLING)
def test_relabelling_is_refused_where_images_have_no_single_label(problem, name):
    method = started(problem, name)
    batch = problem.batch({r: ROWS[r] for r in method.wants(Progress())})
    with pytest.raises(ConfigError, match=r"relabelling needs one label an image.*targets are lists"):
        tiny.loss_terms(method, problem, Batch(batch.inputs, [{}] * len(batch.inputs), batch.sizes))


# --- sequences ----------------------------------------------------------------------------------------


def make_plan() -> Plan:
    return plan(tiny.faces(), Setting(requests=(1, 2), ratio=0.5), 0)


def serve(name, recipe="corrected", out=None, **settings):
    problem = tiny.problem()
    method = methods.create(name, recipe, **{**QUICK, "augment": True, **settings})
    return problem, method, forget_sequence(problem, method, make_plan(), 0, out)


@pytest.mark.parametrize("recipe", methods.RECIPES)
@pytest.mark.parametrize("name", EVERY)
def test_two_requests_then_stopped_and_taken_up_gives_the_same(name, recipe, tmp_path):
    whole, method, reports = serve(name, recipe, tmp_path)
    assert [r.task for r in reports] == ["task1", "task2"]
    assert all(math.isfinite(v) for r in reports for v in [*r.metrics.values(), *r.terms.values()])
    for suffix in ("json", "safetensors"):
        (tmp_path / f"task2.{suffix}").unlink()
    taken_up, other, again = serve(name, recipe, tmp_path)
    assert [r.metrics for r in again] == [r.metrics for r in reports]
    assert [(r.terms, r.figures) for r in again] == [(r.terms, r.figures) for r in reports]
    states = method.state_dict(whole), other.state_dict(taken_up)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    weights = taken_up.model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in whole.model.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"lora", "head-only", "retrain", "retrain-oracle"}))
def test_fine_tuning_moves_the_model_and_leaves_the_head_alone(name):
    before = tiny.face_model().state_dict()
    problem, method, _ = serve(name, lr=1e-3)
    after = problem.model.state_dict()
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])
    upper = torch.equal(after["blocks.2.mlp.fc1.weight"], before["blocks.2.mlp.fc1.weight"])
    assert upper == (name == "lirf")
    for network in [v for k, v in getattr(method, "networks", {}).items() if k == "teacher"]:
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"lora"}))
def test_the_trained_share_is_reported(name):
    problem, _, reports = serve(name)
    total = sum(p.numel() for p in problem.model.parameters())
    rows = problem.model.head.weight.numel()
    lower = set(lower_half(problem.model)[1])
    half = sum(p.numel() for k, p in problem.model.named_parameters() if k in lower)
    special = {"retrain": total, "retrain-oracle": total, "head-only": 0, "lirf": half}
    expected = 100 * special.get(name, total - rows) / total
    assert reports[-1].figures == {"trained_percent": pytest.approx(expected)}


def test_lirfs_deposit_network_is_trained_and_the_released_one_is_not():
    before = tiny.face_model().state_dict()
    for recipe in methods.RECIPES:
        _, method, _ = serve("lirf", recipe)
        after = method.networks["deposit"].state_dict()
        moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
        assert bool(moved) == (recipe == "corrected")
        assert moved <= set(lower_half(tiny.face_model())[1])


@pytest.mark.parametrize("name", EVERY)
def test_a_method_used_again_keeps_nothing_of_its_last_run(name):
    _, method, reports = serve(name)
    again = forget_sequence(tiny.problem(), method, make_plan(), 0)
    assert [r.terms for r in again] == [r.terms for r in reports]


def test_the_oracle_sees_every_retained_image_and_no_forgotten_one(monkeypatch):
    seen = []
    method = methods.create("retrain-oracle", **QUICK)
    loss = method.loss
    monkeypatch.setattr(method, "loss", lambda step: seen.append(step.batch.targets) or loss(step))
    task = replace(TASK, old=(3,), retain=(1, 2, 5))
    forget_sequence(tiny.problem(), method, Plan("mini-faces", 0, (task,)), 0)
    counts = torch.bincount(torch.cat(seen), minlength=tiny.PEOPLE)
    assert set(counts.nonzero().flatten().tolist()) == {1, 2, 5}
    images = method.images(problem := tiny.problem(), task)
    assert set(problem.data.train.labels[list(images.retain_images)].tolist()) == {1, 2, 5}
    assert len(images.retain_images) == 3 * tiny.COUNTS["train"]
    assert images.forget_images == ()


def test_retraining_starts_from_other_weights_each_time(problem):
    before = {k: v.clone() for k, v in problem.model.state_dict().items()}
    method = methods.create("retrain", **QUICK)
    method.begin(problem, TASK, STREAMS)
    first = {k: v.clone() for k, v in problem.model.state_dict().items()}
    assert not torch.equal(first["head.weight"], before["head.weight"])
    assert not torch.equal(first["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])
    method.begin(problem, TASK, Streams(0, "task2"))
    assert not torch.equal(problem.model.head.weight, first["head.weight"])


@pytest.mark.parametrize("head", ["cosface", "linear"])
def test_head_only_leaves_all_but_the_forgotten_rows_alone(head):
    problem, before = tiny.problem(head=head), tiny.face_model(head=head).state_dict()
    method = methods.create("head-only")
    assert method.begin(problem, TASK, STREAMS) == []
    method.end(problem, TASK)
    kept = list(TASK.retain)
    for key, value in problem.model.state_dict().items():
        if key.startswith("head."):
            assert torch.equal(value[kept], before[key][kept])
            assert not torch.equal(value, before[key])
        else:
            assert torch.equal(value, before[key])
    answers = problem.predict("test")
    assert not set(answers.argmax(dim=1).tolist()) & set(TASK.forget)


# --- presets and refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_names_are_the_published_ones_and_every_setting_has_presets(name):
    assert methods.table()[name].published == PUBLISHED.get(name, "")
    for setting in ("single", "single-shots", "ratio", "shots", "missing"):
        corrected = methods.create(name, setting=setting)
        reference = methods.create("gslora", setting=setting).training
        if name != "retrain-oracle":
            assert replace(corrected.training, lr=reference.lr) == reference
        released = methods.create(name, "released", setting)
        if name in PUBLISHED:
            assert released.training.batch_retain == (4 if setting.endswith("shots") else 48)
        else:
            assert released == corrected
    with pytest.raises(ConfigError, match="unknown setting 'few'"):
        methods.create(name, "released", "few")


def test_the_released_weights_are_the_published_ones():
    def pair(name, key):
        return tuple(getattr(methods.create(name, "released", s), key) for s in ("single", "ratio"))

    assert pair("l2", "weight") == (0.05, 0.1)
    assert pair("ewc", "weight") == (10, 10)
    assert pair("mas", "weight") == (5, 0.005)
    assert pair("lwf", "replay") == (2, 10)
    assert pair("lwf", "match") == (0.5, 0.5)
    assert pair("der", "match") == (0.01, 0.01)
    assert pair("der++", "match") == (0.05, 0.005)
    assert pair("der++", "replay") == (0.005, 0.005)
    assert pair("fdr", "match") == (50, 50)
    assert pair("scrub", "gamma") == (0.99, 0.99)
    rates = {name: methods.create(name, "released").training.lr for name in PUBLISHED}
    fast = {"retrain": 3e-4, "der": 1e-3, "der++": 1e-3, "fdr": 1e-3}
    assert rates == {name: fast.get(name, 1e-4) for name in PUBLISHED}


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"lora"}))
def test_a_model_with_adapters_is_refused(problem, name):
    lora.inject(problem.model)
    tiny.attach_drawn(problem.model, "task0")
    with pytest.raises(ModelError, match=rf"{name.replace('+', '.')} trains .*adapters \(task0\); fold them"):
        methods.create(name).begin(problem, TASK, STREAMS)


@pytest.mark.parametrize(("name", "role"), [("l2", "retain"), ("der++", "forget"), ("retrain", "retain")])
def test_a_task_without_the_images_that_are_needed_is_refused(problem, name, role):
    task = replace(TASK, **{f"{role}_images": ()})
    with pytest.raises(DataError, match=rf"needs {role} images, but task1 has none"):
        methods.create(name).begin(problem, task, STREAMS)


def test_lirf_refuses_a_model_that_has_no_halves():
    with pytest.raises(ModelError, match="between two Transformer blocks, but this one has 0"):
        lower_half(nn.Sequential(nn.Linear(2, 2)))


def test_a_role_that_must_be_there(problem):
    batch = problem.batch({"forget": ROWS["forget"]})
    with pytest.raises(DataError, match="the batch has no retain image"):
        vectors(problem, problem.forward(batch), batch, "retain")
