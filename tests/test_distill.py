"""Masked-teacher distillation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from minigslora import lora
from minigslora.datasets.rendered import mini_faces
from minigslora.errors import ConfigError, DataError
from minigslora.methods import create
from minigslora.models.vit import FaceConfig, face_transformer
from minigslora.problems.classification import Classification
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence
from minigslora.tasks import Plan, Progress, Setting, plan
from minigslora.training import EpochOrder


def problem_and_task():
    data = mini_faces.load(people=6, counts={"train": 6, "val": 2, "test": 2})
    torch.manual_seed(0)
    model = face_transformer(FaceConfig(classes=6, image_size=48, patch=16, dim=32, depth=2, heads=2, mlp=64))
    problem = Classification(model, data, device="cpu", precision="fp32")
    return problem, plan(data, Setting(requests=(2, 1), ratio=1.0), seed=0).tasks


def test_a_fresh_adapter_is_not_pulled_on_retained_images_where_nothing_is_masked():
    """But for masked columns its gradient is zero at the pre-trained model: it holds, it does not train."""
    problem, (task, _) = problem_and_task()
    method = create("gslora-distill", keep=1.0, redirect=0.0, beta=0.0)
    method.begin(problem, task, Streams(0))
    method.gone[:] = False
    problem.model.eval()
    batch = problem.batch({"retain": torch.tensor(task.retain_images[:4])})
    tiny.loss_terms(method, problem, batch)["loss"].backward()
    largest = max(float(a.B.grad.abs().max()) for _, a in lora.adapters(problem.model, task.name))
    assert largest < 1e-5


def strangers_problem():
    """Two requests without a retained image; the other rendered people stand in."""
    problem, _ = problem_and_task()
    strangers = mini_faces.load("tuning", people=6, counts={"train": 4, "val": 1, "test": 1}).train
    problem.data = replace(problem.data, foreign=strangers)
    setting = Setting(requests=(2, 1), ratio=1.0, replay=False, foreign=10)
    return problem, plan(problem.data, setting, seed=0)


def test_foreign_images_are_held_by_the_masked_teacher():
    problem, asked = strangers_problem()
    task = asked.tasks[0]
    assert len(set(task.foreign_images)) == 10
    assert not task.retain_images
    method = create("gslora-distill", keep=3.0)
    method.begin(problem, task, Streams(0))
    assert "foreign" in method.wants(Progress())
    batch = problem.batch({"forget": torch.tensor(task.forget_images[:4]), "foreign": torch.arange(5)})
    expected = problem.normalise(problem.data.foreign.images[:5])
    assert torch.equal(batch.inputs[4:], expected)
    terms = tiny.loss_terms(method, problem, batch)
    with torch.no_grad():
        z = problem.outputs(expected, problem.model).logits.double() / (method.temperature * method.spread)
    said = z.clone()
    said[:, list(task.forget)] = -torch.inf
    p = said.softmax(1)
    kl = torch.where(p > 0, p * (p.clamp_min(1e-300).log() - z.log_softmax(1)), 0.0).sum(1).mean()
    torch.testing.assert_close(terms["foreign"].double(), 3.0 * kl, rtol=1e-4, atol=1e-5)
    assert terms.keys() == {"forget", "redirect", "foreign", "loss"}


def test_an_epoch_is_one_pass_over_foreign_images_where_none_are_retained():
    problem, asked = strangers_problem()
    training = create("gslora-distill", batch_retain=4, batch_forget=3).training
    order = EpochOrder(asked.tasks[0], training, Streams(0), problem.device).epoch()
    assert {role: tuple(rows.shape) for role, rows in order.items()} == {"forget": (3, 3), "foreign": (3, 4)}
    assert set(order["foreign"].flatten().tolist()) <= set(asked.tasks[0].foreign_images)


def test_requests_are_served_with_foreign_images_alone_and_by_methods_that_ignore_them(tmp_path):
    for name in ("gslora-distill", "gslora", "gradient-ascent"):
        problem, asked = strangers_problem()
        method = create(name, epochs=1, batch_retain=5, batch_forget=5)
        reports = forget_sequence(problem, method, asked, seed=0)
        assert len(reports) == 2
    asked.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == asked


def test_more_foreign_images_than_there_are_is_an_error():
    problem, _ = strangers_problem()
    with pytest.raises(
        DataError, match=r"25 foreign images are asked for, but mini-faces has 24; lower foreign"
    ):
        plan(problem.data, Setting(requests=(2,), foreign=25), 0)
    with pytest.raises(DataError, match="has 0; lower foreign, or give the data set more"):
        plan(replace(problem.data, foreign=None), Setting(requests=(2,), foreign=1), 0)
    with pytest.raises(ConfigError, match=r"foreign = -1; expected 0 for none, or more"):
        Setting(foreign=-1)
