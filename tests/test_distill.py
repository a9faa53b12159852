"""Masked-teacher distillation."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from minigslora import lora
from minigslora.contracts import Progress
from minigslora.datasets import mini_faces
from minigslora.datasets.splits import Setting, plan
from minigslora.methods import create
from minigslora.models.face import FaceConfig, face_transformer
from minigslora.problems.classification import Classification
from minigslora.streams import Streams


def problem_and_task():
    data = mini_faces.load(people=6, counts={"train": 6, "val": 2, "test": 2})
    torch.manual_seed(0)
    model = face_transformer(FaceConfig(classes=6, image_size=48, patch=16, dim=32, depth=2, heads=2, mlp=64))
    problem = Classification(model, data, device="cpu", precision="fp32")
    return problem, plan(data, Setting(requests=(2, 1), ratio=1.0), seed=0).tasks


def test_terms_equal_the_formula_and_forgotten_columns_carry_no_teacher_mass():
    problem, (_, task) = problem_and_task()
    original = copy.deepcopy(problem.model).eval()
    method = create("gslora-distill", temperature=3.0, relative=False)
    method.begin(problem, task, Streams(0))
    with torch.no_grad():
        for _, adapter in lora.adapters(problem.model, task.name):
            adapter.B.normal_(std=0.3)
    problem.model.eval()
    rows = {"retain": torch.tensor(task.retain_images[:4]), "forget": torch.tensor(task.forget_images[:3])}
    batch = problem.batch(rows)
    terms = method.step(problem, batch, Progress())
    gone = [*task.old, *task.forget]
    kept = [c for c in range(6) if c not in gone]
    with torch.no_grad():
        teacher = problem.forward(batch, original).logits.double() / 3.0
        student = F.log_softmax(problem.forward(batch).logits.double() / 3.0, dim=1)
    target = F.log_softmax(teacher[:, kept], dim=1)
    divergence = (target.exp() * (target - student[:, kept])).sum(dim=1)
    torch.testing.assert_close(terms["keep"].double(), divergence[:4].mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["redirect"].double(), divergence[4:].mean(), rtol=1e-4, atol=1e-5)


def test_a_fresh_adapter_is_not_pulled_on_retained_images_where_nothing_is_masked():
    """The gradient of distillation is zero at the pre-trained model: it holds, it does not train."""
    problem, (task, _) = problem_and_task()
    method = create("gslora-distill", keep=1.0, redirect=0.0, beta=0.0)
    method.begin(problem, task, Streams(0))
    method.gone[:] = False
    problem.model.eval()
    batch = problem.batch({"retain": torch.tensor(task.retain_images[:4])})
    method.step(problem, batch, Progress())["loss"].backward()
    largest = max(float(a.B.grad.abs().max()) for _, a in lora.adapters(problem.model, task.name))
    assert largest < 1e-5
