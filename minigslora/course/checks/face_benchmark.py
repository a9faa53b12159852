"""Self-checks of notebook 07, the face benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minigslora.course.checks.common import Demands


def exercise_07_1(accuracy: Callable[[Tensor, Tensor, float], float]) -> Demands:
    """Check an accuracy with margin, and that the cosines are left as they were."""
    stream = torch.Generator().manual_seed(71)
    cosines = 0.3 * torch.randn(40, 6, generator=stream, dtype=torch.float64)
    labels = torch.randint(6, (40,), generator=stream)
    cosines[torch.arange(40), labels] += 0.4
    lead = cosines.gather(1, labels[:, None]) - cosines.scatter(1, labels[:, None], -9.0).amax(1, True)
    kept = cosines.clone()
    for m in (0.0, 0.35):
        hint = "Only the true class's cosine is lowered by m; is yours in percent?"
        expected = 100 * float((lead > m).double().mean())
        yield math.isclose(accuracy(cosines, labels, m), expected, rel_tol=1e-5), hint
        yield torch.equal(cosines, kept), "Your function changes the cosines it is given; work on a copy."


def exercise_07_2(left_over: Callable[[float, float, float], float]) -> Demands:
    """Check what is left of the forgotten classes, found from Acc_r and H."""
    for acc_r, acc_f_before, acc_f in ((70.0, 75.0, 5.0), (85.0, 60.0, 0.0), (40.0, 80.0, 50.0)):
        drop = acc_f_before - acc_f
        h = 1 / ((1 / acc_r + 1 / drop) / 2)
        hint = "Solve H = 2 · Acc_r · Drop / (Acc_r + Drop) for Drop; Acc_f is the rest."
        yield math.isclose(left_over(acc_r, h, acc_f_before), acc_f, abs_tol=1e-6), hint


def exercise_07_3(compare: Callable[[list[float], list[float]], tuple[float, float]]) -> Demands:
    """Check a paired mean difference and its standard error."""
    a, b = [71.0, 74.5, 69.0, 73.0], [70.0, 73.9, 67.5, 72.5]
    mean, error = compare(a, b)
    yield math.isclose(mean, 0.9, rel_tol=1e-6), "Average the differences, seed by seed."
    expected = (sum((d - 0.9) ** 2 for d in (1.0, 0.6, 1.5, 0.5)) / 3 / 4) ** 0.5
    hint = "The standard deviation of the differences, over the root of their number."
    yield math.isclose(error, expected, rel_tol=1e-6), hint


def exercise_07_4(worst: Callable[[Tensor, Tensor], tuple[float, float]]) -> Demands:
    """Check the margin at which an edit looks worst, against a fine sweep of margins."""
    stream = torch.Generator().manual_seed(74)
    before = 0.4 + 0.2 * torch.randn(50, generator=stream, dtype=torch.float64)
    after = before - 0.1 * torch.rand(50, generator=stream, dtype=torch.float64)

    def fall(m: float) -> float:
        return 100 * float((before > m).double().mean() - (after > m).double().mean())

    m, found = worst(before, after)
    yield m >= 0, f"Your margin is {m:.3f}; it cannot be negative."
    yield math.isclose(found, fall(m), abs_tol=1e-5), f"At your margin {m:.3f} the fall is another."
    largest = max(fall(k / 20000) for k in range(20000))
    hint = f"The fall at your margin is {found:.1f} points; there is one with {largest:.1f}."
    yield found >= largest - 1e-9, hint
