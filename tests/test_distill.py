"""Masked-teacher distillation."""

from __future__ import annotations

import torch

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


def test_a_fresh_adapter_is_not_pulled_on_retained_images_where_nothing_is_masked():
    """But for masked columns its gradient is zero at the pre-trained model: it holds, it does not train."""
    problem, (task, _) = problem_and_task()
    method = create("gslora-distill", keep=1.0, redirect=0.0, beta=0.0)
    method.begin(problem, task, Streams(0))
    method.gone[:] = False
    problem.model.eval()
    batch = problem.batch({"retain": torch.tensor(task.retain_images[:4])})
    method.step(problem, batch, Progress())["loss"].backward()
    largest = max(float(a.B.grad.abs().max()) for _, a in lora.adapters(problem.model, task.name))
    assert largest < 1e-5
