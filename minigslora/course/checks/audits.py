"""Self-checks of notebook 12's exercises: attacks, oracles, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.audit.probe import linear_probe
from minigslora.audit.template import nearest_row
from minigslora.audit.verdict import false_alarms, judge
from minigslora.course.checks.common import Demands, close


def _faces(seed: int, classes: int = 6, images: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows (C, 32) at their classes' centres, features (N, 32) around them, and labels (N,)."""
    stream = torch.Generator().manual_seed(seed)
    rows = 3 * F.normalize(torch.randn(classes, 32, generator=stream), dim=1)
    labels = torch.arange(classes).repeat(images)
    return rows, rows[labels] + 0.2 * torch.randn(len(labels), 32, generator=stream), labels


def exercise_12_1(revive: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Demands:
    """Check the prototype attack with any share of the prototype in the new row."""
    rows, features, labels = _faces(121)
    own = labels == 4
    for share in (0.0, 0.5, 0.9, 1.0):
        found = revive(rows.clone(), features[own], labels[own], share)
        yield found.shape == rows.shape, f"All {len(rows)} rows are expected, not {tuple(found.shape)}."
        others = torch.arange(len(rows)) != 4
        yield torch.equal(found[others], rows[others]), "Only the row of the attacked class may change."
        prototype = F.normalize(features[own].mean(dim=0), dim=0)
        mixed = share * prototype + (1 - share) * F.normalize(rows[4], dim=0)
        hint = f"For share {share} the row is another; its length stays what it was."
        yield close(found[4], rows[4].norm() * F.normalize(mixed, dim=0), hint)


def exercise_12_2(alarms: Callable[[Sequence[float]], int]) -> Demands:
    """Check how many oracles the band of the others leaves out above."""
    for values in ([84.0, 85.0, 84.5, 86.0, 85.5], [50.0, 51.0, 49.0, 50.5, 70.0], [10.0, 10.0, 30.0]):
        expected, _ = false_alarms(values, "high")
        found = alarms(values)
        hint = f"For oracles at {values} it is {expected}, not {found}; is the one held out left out?"
        yield found == expected, hint


def exercise_12_3(fool: Callable[[Tensor, list[int], torch.Generator], Tensor]) -> Demands:
    """Check an edit of the forgotten rows that leaks no template, while the features stay as they were."""
    rows, features, labels = _faces(123)
    gone = [1, 3, 4]
    edited = fool(rows.clone(), gone, torch.Generator().manual_seed(0))
    kept = [c for c in range(len(rows)) if c not in gone]
    yield edited.shape == rows.shape, f"All {len(rows)} rows are expected, not {tuple(edited.shape)}."
    yield torch.equal(edited[kept], rows[kept]), "The rows of those who stay must not change."
    answers = (F.normalize(features, dim=1) @ F.normalize(edited, dim=1).T).argmax(dim=1)
    chosen = torch.isin(labels, torch.tensor(gone))
    still = 100 * float((answers == labels)[chosen].double().mean())
    yield still <= 5, f"The edited head still names {still:.0f} % of the forgotten."
    place = torch.tensor([gone.index(c) if c in gone else -1 for c in labels.tolist()])[chosen]
    leak = 100 * nearest_row(edited[gone], features[chosen], place)
    yield leak <= 60, f"The forgotten rows still find {leak:.0f} % of their own images; chance is 33 %."
    half = len(labels) // 2
    probe = linear_probe(features[:half], labels[:half], features[half:])
    right = 100 * float((probe == labels[half:])[chosen[half:]].double().mean())
    print(f"  the template audit finds nothing, and a probe still names {right:.0f} % of the forgotten")


def exercise_12_4(verdict: Callable[[float, Sequence[float], float], str]) -> Demands:
    """Check a verdict that says when nothing can be said."""
    asked = [
        (84.0, [84.0, 85.0, 86.0], 96.0),
        (95.0, [84.0, 85.0, 86.0], 96.0),
        (84.5, [84.0, 90.0, 86.0], 91.0),
        (70.0, [84.0, 85.0, 86.0], 96.0),
        (0.0, [], 96.0),
    ]
    for value, oracles, control in asked:
        expected, found = judge(value, oracles, "high", control), verdict(value, oracles, control)
        hint = f"{value} beside oracles at {oracles} and a control at {control}: {expected!r}, not {found!r}."
        yield found == expected, hint
