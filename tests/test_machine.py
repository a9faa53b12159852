"""Devices, random generators, teachers and the table of methods do what they say, in a user's own process."""

import importlib
import math
import os
import sys

import pytest
import tiny
import torch
from torch import nn

from minigslora import lora, methods
from minigslora.device import CUBLAS, pick_device, seeded
from minigslora.errors import ConfigError, TrainingDiverged
from minigslora.methods import create
from minigslora.methods.base import Step
from minigslora.methods.finetuning import FineTuning
from minigslora.methods.hold import Hold
from minigslora.pretraining import Pretraining, pretrain
from minigslora.problems.classification import Classification
from minigslora.rng import Streams
from minigslora.tasks import Setting, plan
from minigslora.training import train_task

CPU = torch.device("cpu")
SETTING = Setting(requests=(2, 1), ratio=0.5)


# --- cuBLAS is told before it begins ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "there", "told"),
    [
        ("auto", True, True),
        ("cuda", True, True),
        ("cuda:1", True, True),
        ("cpu", True, False),
        ("auto", False, False),
    ],
)
def test_cublas_is_told_whatever_the_gpu_is_called(name, there, told, monkeypatch):
    monkeypatch.setenv(CUBLAS[0], "to be restored")
    monkeypatch.delenv(CUBLAS[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(name).type == ("cuda" if told else "cpu")
    assert os.environ.get(CUBLAS[0]) == (CUBLAS[1] if told else None)


# --- the caller's random numbers -------------------------------------------------------------------


def serve_a_request(data):
    task = plan(data, SETTING, seed=0).tasks[0]
    train_task(tiny.problem(), create("gslora", **tiny.QUICK), task, Streams(0, "task1"))


def train_with_dropout(data):
    pretrain(tiny.problem(), Pretraining(epochs=1, batch=16))


def draw_weights(data):
    tiny.problem().fresh_model(Streams(0))


def fail_halfway(data):
    with pytest.raises(ZeroDivisionError), seeded(3, CPU):
        _ = torch.rand(2).tolist()[0] / 0


@pytest.mark.parametrize("work", [serve_a_request, train_with_dropout, draw_weights, fail_halfway])
def test_the_callers_generator_goes_on_as_if_nothing_had_been(work, data, monkeypatch):
    # the tiny models are drawn from the global generator, which must not be what is measured here
    model = tiny.face_model()
    monkeypatch.setattr(tiny, "face_model", lambda *_: model)
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    work(data)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_seeded_draws_what_a_seed_always_drew(seed):
    torch.manual_seed(seed)
    expected = torch.rand(4)
    torch.rand(7)
    with seeded(seed, CPU):
        assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("caller", [0, 5])
def test_results_do_not_depend_on_the_callers_generator(caller, data):
    trained = []
    for seed in (3, caller):
        problem = tiny.problem()
        torch.manual_seed(seed)
        task = plan(data, SETTING, seed=0).tasks[0]
        train_task(problem, create("finetune", epochs=1, dropout=True), task, Streams(0, "task1"))
        trained.append(problem.model.state_dict())
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())


# --- teachers do not drop anything out -------------------------------------------------------------

DROPPED = tiny.FACE.__class__(**{**vars(tiny.FACE), "dropout": 0.5})


def with_dropout(data):
    """Return a problem whose model drops half of what it sees in training."""
    from minigslora.models.vit import face_transformer

    with seeded(0, CPU):
        model = face_transformer(DROPPED)
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in model.modules())
    return Classification(model, data, device="cpu", precision="fp32")


class Watched:
    """Notes, at each forward pass of a problem's models, whether gradients are kept and dropout acts."""

    def __init__(self, problem):
        self.passes, self.problem, self.forward = [], problem, problem.forward
        problem.forward = self

    def __call__(self, batch, model=None):
        model = model or self.problem.model
        self.passes.append((torch.is_grad_enabled(), model.training))
        return self.forward(batch, model)


DISTILLING = [name for name, kind in methods.table().items() if issubclass(kind, FineTuning) and kind.taught]
HELD = {"gslora-distill": {}, "gslora++": {"hold": 1.0}, "gslora": {"hold": 1.0, "foreign": 0.5}}


@pytest.mark.parametrize(
    ("name", "changes"),
    [*HELD.items(), *((name, {}) for name in DISTILLING)],
)
def test_no_teacher_drops_anything_out(name, changes, data):
    problem = with_dropout(data)
    method = create(name, epochs=1, dropout=True, batch_retain=8, batch_forget=4, **changes)
    task = plan(data, SETTING, seed=0).tasks[0]
    watched = Watched(problem)
    train_task(problem, method, task, Streams(0, "task1"))
    taught = [training for gradients, training in watched.passes if not gradients]
    assert taught
    assert not any(taught)
    assert any(training for gradients, training in watched.passes if gradients), "the student has dropout"


def test_a_teacher_says_the_same_twice_and_leaves_the_student_in_training(data):
    problem = with_dropout(data)
    problem.model.train()
    frozen = problem.model.get_classifier().eval()
    x = tiny.images()
    with torch.no_grad():
        original = problem.model.eval()(x)
    problem.model.train()
    frozen.eval()
    lora.inject(problem.model)
    tiny.attach_drawn(problem.model, "task1")
    with lora.as_teacher(problem.model):
        first, second = problem.model(x), problem.model(x)
    with lora.as_teacher(problem.model, "task1"):
        assert torch.equal(problem.model(x), original)
    with lora.as_teacher(problem.model, "task2"):
        assert not torch.equal(problem.model(x), original)
    assert torch.equal(first, second)
    assert torch.equal(first, original)
    assert not first.requires_grad
    assert problem.model.training
    assert not frozen.training, "each module gets its own mode back"
    assert torch.is_grad_enabled()
    assert not torch.equal(problem.model(x), problem.model(x))


def test_what_is_held_is_the_models_own_answer_without_dropout(data):
    problem = with_dropout(data)
    task = plan(data, SETTING, seed=0).tasks[0]
    lora.inject(problem.model)
    lora.attach(problem.model, task.name, 2, generator=torch.Generator().manual_seed(0))
    hold = Hold(problem, task, 1.0, 0.0, Streams(0))
    batch = problem.batch({"retain": torch.arange(4)})
    problem.model.eval()
    outputs = problem.forward(batch)
    expected = hold.term(problem, outputs, batch)
    problem.model.train()
    assert torch.equal(hold.term(problem, outputs, batch), expected)


# --- one name, one method ----------------------------------------------------------------------------

TWIN = """
from minigslora.methods.{base} import {kind}


class Mine({kind}):
    {line}
"""


@pytest.fixture
def own_methods(tmp_path, monkeypatch):
    """Return a writer of a method's file beside those of the package."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield lambda file, text: (tmp_path / f"{file}.py").write_text(text)
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("base", "kind", "line", "name"),
    [
        ("gslora", "GSLoRA", 'name = "gslora"', "gslora"),
        ("gslora", "GSLoRA", "pass", "gslora"),  # the name is inherited
        ("der", "DER", 'name = "l2"', "l2"),
    ],
)
def test_two_methods_of_one_name_are_refused_and_both_files_named(own_methods, base, kind, line, name):
    own_methods("twin", TWIN.format(base=base, kind=kind, line=line))
    expected = (
        rf"two methods are called '{name}', in minigslora\.methods\.{name} and minigslora\.methods\.twin"
    )
    with pytest.raises(ConfigError, match=expected):
        create("gslora")


def test_a_method_with_a_name_of_its_own_is_found(own_methods):
    own_methods("twin", TWIN.format(base="gslora", kind="GSLoRA", line='name = "mine"'))
    assert create("mine").name == "mine"
    assert create("gslora").name == "gslora"


# --- what is blamed ----------------------------------------------------------------------------------


def with_nan(problem):
    with torch.no_grad():
        problem.model.get_classifier().weight[0, 0] = math.nan


def with_endless_weights(problem):
    with torch.no_grad():
        for parameter in problem.model.blocks[0].parameters():
            parameter.fill_(math.inf)


def with_a_std_of_zero(problem):
    problem.normalise_by((0.5, 0.5, 0.5), (0.0, 0.0, 0.0), problem.device)


@pytest.mark.parametrize("fault", [with_nan, with_endless_weights, with_a_std_of_zero])
def test_what_was_not_finite_before_any_update_is_not_blamed_on_lr(fault, data):
    problem = tiny.problem()
    fault(problem)
    task = plan(data, SETTING, seed=0).tasks[0]
    with pytest.raises(
        TrainingDiverged, match=r"before any update, so lr is not at fault.*mean and std"
    ) as said:
        train_task(problem, create("gslora", **tiny.QUICK, relative=False), task, Streams(0, "task1"))
    assert "Lower lr" not in str(said.value)


class AtStep(methods.gslora.GSLoRA):
    """GS-LoRA whose loss breaks at a given step."""

    breaks = (0, 1)

    def loss(self, step: Step):
        terms = super().loss(step)
        factor = math.nan if (step.progress.epoch, step.progress.step) == self.breaks else 1.0
        return {**terms, "retain": terms["retain"] * factor}


@pytest.mark.parametrize(
    ("breaks", "blamed"), [((0, 0), "before any update"), ((0, 1), "Lower lr"), ((1, 0), "Lower lr")]
)
def test_what_broke_in_training_is_blamed_on_lr(breaks, blamed, data, monkeypatch):
    monkeypatch.setattr(AtStep, "breaks", breaks)
    method = AtStep(training=tiny.training())
    task = plan(data, SETTING, seed=0).tasks[0]
    with pytest.raises(TrainingDiverged, match=rf"the loss term 'retain' is not finite; .*{blamed}"):
        train_task(tiny.problem(), method, task, Streams(0, "task1"))
