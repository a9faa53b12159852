"""Self-checks of notebook 10, the baselines."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.course.checks.common import Demands, close


def exercise_10_1(relabel: Callable[[Tensor, list[int], torch.Generator], Tensor]) -> Demands:
    """Check new labels for forgotten images: retained ones, all of them in time, others at each call."""
    stream = torch.Generator().manual_seed(101)
    labels, retained = torch.tensor([3, 7] * 100), [0, 2, 5, 8]
    kept = labels.clone()
    first, second = (relabel(labels, retained, stream) for _ in range(2))
    yield first.shape == labels.shape, f"200 labels went in and {tuple(first.shape)} came out."
    strange = set(first.tolist()) - set(retained)
    yield not strange, f"{sorted(strange)} is not retained."
    yield set(first.tolist()) == set(retained), "Some retained class is never drawn in 200."
    yield torch.equal(labels, kept), "The labels that came in were changed; the loop needs them."
    yield not torch.equal(first, second), "The second call drew the very same labels."


def exercise_10_2(fisher: Callable[[Tensor, Tensor], Tensor]) -> Demands:
    """Check the diagonal Fisher information of z = W x, against its sum over all labels."""
    stream = torch.Generator().manual_seed(102)
    weight = torch.randn(4, 3, generator=stream, dtype=torch.float64, requires_grad=True)
    images = torch.randn(6, 3, generator=stream, dtype=torch.float64)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for x in images:
        log_p = (weight @ x).log_softmax(dim=0)
        for c in range(4):
            (slope,) = torch.autograd.grad(log_p[c], weight, retain_graph=True)
            expected += log_p[c].detach().exp() * slope.square() / len(images)
    found = fisher(weight.detach(), images)
    hint = "Square before you average over labels and images; the label comes from the model, not the data."
    yield close(found, expected, hint)


def exercise_10_3(distance: Callable[[Tensor, Tensor], Tensor]) -> Demands:
    """Check the distance of two functions, by its value and where they agree."""
    stream = torch.Generator().manual_seed(103)
    teacher, student = torch.randn(2, 5, 8, generator=stream, dtype=torch.float64)
    expected = (sum(float((s - t) @ (s - t)) for s, t in zip(student, teacher, strict=True)) / 5) ** 0.5
    found = float(distance(teacher, student))
    hint = f"It is {found:.4f}; where do the mean and the root go?"
    yield math.isclose(found, expected, rel_tol=1e-6), hint
    same = teacher.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(distance(teacher, same), same)
    hint = "Where student and teacher agree the slope is not a number: the root of a sum has none at 0."
    yield bool(slope.isfinite().all()), hint


def exercise_10_4(probe: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Demands:
    """Check a nearest-mean probe, on embeddings whose lengths say nothing."""
    stream = torch.Generator().manual_seed(104)
    centres = F.normalize(torch.randn(5, 16, generator=stream), dim=1)
    labels = torch.arange(5).repeat(20)
    seen, new = (centres[labels] + 0.12 * torch.randn(100, 16, generator=stream) for _ in range(2))
    seen, new = (v * (0.2 + 5 * torch.rand(100, 1, generator=stream)) for v in (seen, new))
    names = torch.tensor([4, 11, 23, 42, 57])  # classes as they are numbered in the model
    found = probe(seen, names[labels], new)
    yield found.shape == (100,), f"100 labels are expected, not {tuple(found.shape)}."
    yield set(found.tolist()) <= set(names.tolist()), "It names classes that no image was given of."
    right = 100 * float((found == names[labels]).float().mean())
    hint = f"{right:.0f} % are right; 99 % can be. Does the length of an embedding count with you?"
    yield right >= 98, hint
