"""Self-checks of notebook 09, object detection."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.course.checks.common import Demands


def exercise_09_1(iou: Callable[[list[float], list[float]], float]) -> Demands:
    """Check an intersection over union against one counted on a fine grid of points."""
    cases = (
        ([2.0, 2.0, 6.0, 4.0], [4.0, 3.0, 8.0, 6.0]),
        ([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0]),
        ([0.0, 0.0, 3.0, 3.0], [5.0, 1.0, 2.0, 2.0]),
    )
    axis = torch.arange(0, 14, 0.05, dtype=torch.float64) + 0.025
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    for a, b in cases:
        one, other = ((x > u[0]) & (x < u[0] + u[2]) & (y > u[1]) & (y < u[1] + u[3]) for u in (a, b))
        counted = float((one & other).sum() / (one | other).sum())
        hint = f"For {a} and {b} it should be {counted:.3f}; is the overlap of boxes that do not meet 0?"
        yield math.isclose(iou(a, b), counted, abs_tol=2e-3), hint


def exercise_09_2(average_precision: Callable[[Tensor, Tensor, int], float]) -> Demands:
    """Check an average precision against COCO's evaluation."""
    from minigslora.datasets.detection import Objects
    from minigslora.metrics import Boxes, average_precisions

    stream = torch.Generator().manual_seed(92)
    for count in (3, 8, 20):
        hits = torch.rand(count, generator=stream) < 0.6
        scores = torch.rand(count, generator=stream)
        objects = int(hits.sum()) + 2
        places = torch.arange(count + 2, dtype=torch.float32) * 20
        truth = torch.stack([places, places, places * 0 + 10, places * 0 + 10], dim=1)
        there = torch.cat([truth[:count][hits], truth[count:]])
        zeros = torch.zeros(len(there), dtype=torch.long)
        image = Objects(there, zeros, zeros.bool(), (900, 900))
        found = Boxes(truth[:count], torch.zeros(count, dtype=torch.long), scores)
        expected = float(average_precisions([found], [image], 1)["ap50"][0])
        given = average_precision(scores, hits, objects)
        hint = (
            f"Of {count} boxes it should be {expected:.2f} %, yours is {given:.2f}; 101 recalls, in percent."
        )
        yield math.isclose(given, expected, abs_tol=0.02), hint


def exercise_09_3(match: Callable[[Tensor], list[int]]) -> Demands:
    """Check an assignment of least total cost against scipy's."""
    from scipy.optimize import linear_sum_assignment

    stream = torch.Generator().manual_seed(93)
    for queries, objects in ((4, 2), (5, 3), (6, 1)):
        cost = torch.randn(queries, objects, generator=stream, dtype=torch.float64)
        rows, columns = linear_sum_assignment(cost.numpy())
        best = float(cost[rows, columns].sum())
        found = match(cost)
        whole = len(found) == objects and len(set(found)) == objects
        yield whole, "Each object takes a query of its own; return its query for each object."
        total = float(cost[torch.tensor(found), torch.arange(objects)].sum())
        hint = f"Your pairs cost {total:.3f}; there are some that cost {best:.3f}."
        yield math.isclose(total, best, abs_tol=1e-9), hint


def exercise_09_4(logit_at: Callable[[float], float]) -> Demands:
    """Check the logit at which the focal loss reaches a bound."""
    for bound in (0.1, 2.0, 9.0):
        z = torch.tensor(logit_at(bound), dtype=torch.float64)
        reached = float((1 - z.sigmoid()) ** 2 * -F.logsigmoid(z))
        hint = f"At your logit {float(z):.4f} the loss is {reached:.4f}, not {bound}."
        yield math.isclose(reached, bound, rel_tol=1e-4), hint
