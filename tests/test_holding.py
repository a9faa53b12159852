"""Holding the whole head's answers, the classes outside a task included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from test_sliced import ALL, TASK, sliced_problem

from minigslora import lora
from minigslora.datasets.images import medley
from minigslora.errors import ConfigError
from minigslora.methods import create
from minigslora.methods.base import Step
from minigslora.methods.hold import Hold
from minigslora.rng import Streams
from minigslora.tasks import Progress, Setting, plan
from minigslora.training import train_task

SETTING = Setting(requests=(2, 1), ratio=0.5)


def stirred(data):
    """Return a problem whose first request is served, and its second task with adapters that act."""
    problem, tasks = sliced_problem(data), plan(data, SETTING, 0).tasks
    method = create("gslora++", **tiny.QUICK, hold=1.0, foreign=0.5)
    train_task(problem, method, tasks[0], Streams(0, "task1"))
    problem.model.eval()
    return problem, tasks


def attach(problem, task):
    """Attach adapters that act for a task."""
    lora.attach(problem.model, task.name, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _, adapter in lora.adapters(problem.model, task.name):
            adapter.B.normal_(generator=torch.Generator().manual_seed(2))


def test_one_requests_adapters_can_be_silenced_alone(data):
    problem, tasks = stirred(data)
    x = tiny.images()
    with torch.no_grad():
        before = problem.model(x)
        attach(problem, tasks[1])
        assert not torch.equal(problem.model(x), before)
        with lora.bypassed(problem.model, tasks[1].name):
            assert torch.equal(problem.model(x), before)
        with lora.bypassed(problem.model):
            assert not torch.equal(problem.model(x), before)
        assert not torch.equal(problem.model(x), before)


def test_the_whole_head_is_the_one_the_tasks_was_cut_from(data):
    problem = sliced_problem(data)
    head, rows = problem.whole_head
    assert torch.equal(head.weight, problem.outside.head.head.weight)
    assert [ALL[row] for row in rows] == list(TASK)
    assert not head.weight.requires_grad
    own = tiny.problem()
    assert own.whole_head == (own.head, tuple(range(own.num_classes)))


def test_the_term_is_the_divergence_from_the_model_as_the_request_found_it(data):
    problem, tasks = stirred(data)
    task = tasks[1]
    batch = problem.batch(
        {"retain": torch.tensor(task.retain_images[:3]), "forget": torch.tensor(task.forget_images[:2])}
    )
    hold = Hold(problem, task, 1.5, 1.0, Streams(0))
    wide = hold.widened(batch)
    assert wide.sizes == {"retain": 3, "forget": 2, "foreign": 5}
    assert torch.equal(wide.inputs[:5], batch.inputs)
    head, rows = problem.whole_head
    with torch.no_grad():
        said = head(problem.outputs(wide.inputs, problem.model).embedding)
        attach(problem, task)
        now = head(problem.outputs(wide.inputs, problem.model).embedding)
        found = hold.term(problem, problem.forward(wide), wide)
    kept = [row for row in range(len(ALL)) if row not in {rows[c] for c in task.old + task.forget}]
    p = F.softmax(said[:, kept] / 1.5, dim=1)
    expected = (p * (p.log() - F.log_softmax(now / 1.5, dim=1)[:, kept])).sum(dim=1).mean()
    torch.testing.assert_close(found, expected)


def test_the_steps_loss_has_the_term_with_its_weight(data):
    problem, task = sliced_problem(data), plan(data, SETTING, 0).tasks[0]
    method = create("gslora", **tiny.QUICK, hold=7.0, foreign=0.5)
    method.begin(problem, task, Streams(0))
    batch = problem.batch({"retain": torch.tensor(task.retain_images[:2])})
    terms = tiny.loss_terms(method, problem, batch)
    step = Step(method, problem, batch, Progress())
    again = Hold(problem, task, method.hold_temperature * method.spread, 0.5, Streams(0)).widened(batch)
    assert step.batch.sizes == again.sizes == {"retain": 2, "foreign": 1}
    term = Hold(problem, task, method.hold_temperature * method.spread, 0.5, Streams(0))
    wide = term.widened(batch)
    assert torch.equal(wide.inputs, again.inputs)
    expected = 7.0 * term.term(problem, problem.forward(wide), wide)
    torch.testing.assert_close(terms["hold"], expected)
    torch.testing.assert_close(terms["loss"], terms["retain"] + expected)


def test_only_sliced_models_and_missing_classes_are_held():
    assert create("gslora++", "corrected", "imagenet100/ratio").hold > 0
    assert create("gslora", "corrected", "missing").hold > 0
    assert create("gslora-distill", "corrected", "missing").hold == 0  # its own term is the same
    for recipe, setting in (
        ("released", "imagenet100/ratio"),
        ("released", "missing"),
        ("corrected", "ratio"),
        ("corrected", "shots"),
    ):
        assert create("gslora++", recipe, setting).hold == 0


# --- foreign images ---------------------------------------------------------------------------------


def test_foreign_images_are_cut_or_turned_from_others():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = medley(images, 10, torch.Generator().manual_seed(1))
    assert made.shape == (10, 3, 8, 8)
    assert torch.equal(made, medley(images, 10, torch.Generator().manual_seed(1)))
    turns = [image.rot90(k, (1, 2)) for image in images for k in range(4)]
    turns += [image.flip(2) for image in turns]
    for picture in made[1::2]:
        assert any(torch.equal(picture, turn) for turn in turns)
    for picture in made[::2]:  # each pixel is that of one of the images in its place
        assert bool((picture == images).all(dim=1).any(dim=0).all())


@pytest.mark.parametrize("count", [0, 3])
def test_as_many_foreign_images_as_asked_for(count):
    assert len(medley(torch.rand(2, 3, 6, 6), count, torch.Generator().manual_seed(0))) == count


def test_a_detector_has_no_answers_to_hold():
    problem = tiny.detection()
    method = create("gslora++", setting="coco/sequence", hold=1.0)
    task = plan(problem.data, Setting(requests=(1,), shots=2, preset="coco/sequence"), 0).tasks[0]
    problem.begin(task)
    with pytest.raises(ConfigError, match=r"hold asks for one set of logits an image.*leave hold at 0"):
        method.begin(problem, task, Streams(0, "task1"))


def test_a_detector_has_no_foreign_images():
    problem = tiny.detection()
    setting = Setting(requests=(1,), shots=2, preset="coco/sequence")
    task = replace(plan(problem.data, setting, 0).tasks[0], foreign_images=(0,))
    with pytest.raises(ConfigError, match="foreign images are not defined for detection; leave foreign at 0"):
        train_task(problem, create("gslora"), task, Streams(0, "task1"))
