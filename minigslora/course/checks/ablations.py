"""Self-checks of notebook 11, ablations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from minigslora import lora
from minigslora.course.checks.common import Demands
from minigslora.methods.base import Training
from minigslora.models.vit import FaceConfig, face_transformer
from minigslora.rng import Streams
from minigslora.tasks import Task
from minigslora.training import EpochOrder


def exercise_11_1(trained: Callable[[int, int, int, int], int]) -> Demands:
    """Check the number of weights in the adapters of all FFNs, against models that have them."""
    for depth, dim, mlp, rank in ((2, 16, 48, 3), (3, 32, 64, 8)):
        model = face_transformer(
            FaceConfig(classes=4, image_size=16, patch=8, dim=dim, depth=depth, heads=2, mlp=mlp)
        )
        lora.inject(model)
        lora.attach(model, "task1", rank)
        there = sum(group.size for group in lora.groups(model, "task1"))
        given = trained(depth, dim, mlp, rank)
        hint = f"{depth} blocks, {dim} wide, MLP {mlp}, rank {rank}: there are {there}, and yours is {given}."
        yield given == there, hint


def exercise_11_2(epochs: Callable[[int, int, int], int]) -> Demands:
    """Check the smallest number of passes with at least so many updates, against the loop's own order."""
    for updates, images, batch in ((100, 1200, 48), (100, 250, 48), (7, 30, 48), (50, 96, 48), (51, 96, 48)):
        task = Task("t", 0, (0,), (), (1,), (), tuple(range(images)), (0,))
        training = Training(batch_retain=batch)
        steps = EpochOrder(task, training, Streams(0), torch.device("cpu")).steps
        given = epochs(updates, images, batch)
        hint = (
            f"{images} images in batches of {batch} make {steps} steps a pass; {updates} updates are wanted."
        )
        yield (given - 1) * steps < updates <= given * steps, hint


def exercise_11_3(ratios: Callable[[Mapping[str, tuple[Tensor, Tensor]]], tuple[float, ...]]) -> Demands:
    """Check zero-group ratios by block, by module and by matrix, of the same adapters."""
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    given = {
        "blocks.0.mlp.fc1": (zero, zero),
        "blocks.0.mlp.fc2": (zero, zero),
        "blocks.1.mlp.fc1": (zero, zero),
        "blocks.1.mlp.fc2": (one, zero),
    }
    found = ratios(given)
    yield len(found) == 3, "Three ratios are expected: by block, by module, by matrix."
    for name, value, expected in zip(("block", "module", "matrix"), found, (0.5, 0.75, 0.875), strict=True):
        hint = f"By {name} it is {value}; a group is at zero if every matrix in it is."
        yield math.isclose(value, expected), hint


def exercise_11_4(inflation: Callable[[int, float], float]) -> Demands:
    """Check how much the best of several equally good settings looks better than it is."""
    yield abs(inflation(1, 2.0)) < 0.05, "Of one setting nothing is chosen, so nothing is gained."
    for settings, sd, expected in ((2, 1.0, 1 / math.pi**0.5), (3, 2.0, 3 / math.pi**0.5)):
        value = inflation(settings, sd)
        hint = f"For {settings} settings with a deviation of {sd} it is {value:.3f}: the mean of the largest?"
        yield math.isclose(value, expected, rel_tol=0.03), hint
    yield inflation(20, 1.0) > inflation(5, 1.0) > 1, "More settings, more to choose from."
