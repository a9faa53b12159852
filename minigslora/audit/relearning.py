"""Relearning: how soon a forgotten class comes back when the file is trained on a few of its images.

Threat: whoever has the file and a few images of each forgotten class, and of others, trains all of it. The
start matters: a row of the classifier that stayed in the file is most of the way. So it is asked twice,
with the forgotten rows as they are and drawn anew, and always beside oracles from the same start. A bias
that says "never" is opened in either case: whoever can train can write a number.

Source: AIN, "Zero-Shot Machine Unlearning" (Chundawat et al., arXiv 2201.05629), which counts the steps to
come near the original's accuracy; here to half of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora.audit.subject import Beside, Found, Subject, mean
from minigslora.device import seeded
from minigslora.models.head_slicing import classifier
from minigslora.rng import Streams, stream_seed

Start = Literal["as in the file", "drawn anew"]
STARTS: tuple[Start, ...] = ("as in the file", "drawn anew")
"""What the forgotten rows are when the attacker begins."""


@dataclass(frozen=True)
class Attack:
    """How the attacker trains.

    Attributes:
        shots: images of each forgotten class; as many of the others, all together.
        steps: updates in all.
        every: updates between two measurements.
        batch: forgotten images in a step, and retained ones.
        lr: AdamW's rate.
    """

    shots: int = 4
    steps: int = 60
    every: int = 10
    batch: int = 40
    lr: float = 1e-3


@torch.no_grad()
def started(model: nn.Module, gone: Sequence[int], start: Start, streams: Streams) -> nn.Module:
    """Return a copy of a plain model, its rows ``gone`` as they are, or random at the others' mean length."""
    fresh = copy.deepcopy(model)
    head = classifier(fresh)
    kept = [c for c in range(len(head.weight)) if c not in set(gone)]
    if start == "drawn anew":
        drawn = torch.randn(len(gone), head.weight.shape[1], generator=streams("rows")).to(head.weight)
        head.weight[list(gone)] = F.normalize(drawn, dim=1) * head.weight[kept].norm(dim=1).mean()
    bias = getattr(head, "bias", None)
    if isinstance(bias, Tensor):
        bias[list(gone)] = bias[kept].mean()
    return fresh


def relearnt(subject: Subject, start: Start) -> list[float]:
    """Return Acc_f in percent before any step and after every few, of a copy of the subject's model.

    The images, their order and the rows drawn are the same for all models.
    """
    how, problem, streams = subject.case.relearning, subject.problem, subject.streams.under("relearning")
    model = started(subject.model, subject.case.gone, start, streams).to(problem.device)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr)
    pools = {"forget": subject.pool(subject.case.gone, how.shots, streams)}
    pools["retain"] = subject.pool(subject.case.kept, 0, streams)[: len(pools["forget"])]
    orders = {role: streams("order", role) for role in pools}
    curve = [subject.accuracy(model, subject.case.gone)]
    with seeded(stream_seed(subject.case.seed, "audit", "dropout"), problem.device):
        for step in range(1, how.steps + 1):
            picked: dict[Any, Tensor] = {
                role: rows[torch.randint(len(rows), (how.batch,), generator=orders[role])]
                for role, rows in pools.items()
            }
            batch = problem.batch({role: rows.to(problem.device) for role, rows in picked.items()})
            model.train()
            with problem.autocast():
                loss = F.cross_entropy(problem.forward(batch, model).logits, batch.targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step % how.every == 0:
                curve.append(subject.accuracy(model, subject.case.gone))
    return curve


def area(curve: Sequence[float]) -> float:
    """Return the area under a curve of equal steps as its mean height (trapezium rule)."""
    return mean((a + b) / 2 for a, b in pairwise(curve))


def steps_to(curve: Sequence[float], level: float, every: int) -> float:
    """Return how many steps a curve takes to reach a level, by straight lines; infinity where it never does.

    Args:
        curve: measured every so many steps, from step 0.
        level: to be reached.
        every: steps between two measurements.
    """
    if curve[0] >= level:
        return 0.0
    for i, (a, b) in enumerate(pairwise(curve)):
        if b >= level:
            return (i + (level - a) / (b - a)) * every
    return float("inf")


def anamnesis_index(
    edited: Sequence[float], oracle: Sequence[float], original: float, every: int, share: float = 0.5
) -> float:
    """Return AIN: the edited model's steps to a share of the original accuracy over the oracle's.

    Near 0 the model remembers, at 1 it relearns as the oracle does. NaN where neither gets there, or the
    oracle is there at once.
    """
    ours, theirs = (steps_to(curve, share * original, every) for curve in (edited, oracle))
    if theirs == 0 or ours == theirs == float("inf"):
        return float("nan")
    return ours / theirs


def measure(subject: Subject, beside: Beside) -> Found:
    """Relearn from both starts; AIN is against the mean curve of the oracles."""
    figures, curves = dict[str, float](), dict[str, list[float]]()
    for start in STARTS:
        curve = curves[f"rows {start}"] = subject.curve(start)
        figures[f"area, rows {start}"] = area(curve)
        theirs = [oracle.curve(start) for oracle in beside.oracles]
        if theirs and beside.original is not None:
            middle = [mean(heights) for heights in zip(*theirs, strict=True)]
            before = beside.original.accuracy(beside.original.model, subject.case.gone)
            ain = anamnesis_index(curve, middle, before, subject.case.relearning.every)
            figures[f"AIN, rows {start}"] = ain
    return Found(figures, curves)
