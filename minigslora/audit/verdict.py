"""Oracles and verdicts: an edited model passes where it lies among oracles, or beyond on the safe side.

An *oracle* is a model of the same architecture, trained from scratch by the same recipe on all images of
the classes that stay. Oracles differ among themselves, so one more of them is expected in a band around
their mean,

    mean ± t · s · √(1 + 1/n),                                               (12.2)

s the standard deviation of n oracles and t Student's quantile with n − 1 degrees of freedom: the t interval
for one more observation. One oracle has no spread, and so makes no band; that of
two is wide, as t is 12.7 for two and 2.8 for five.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passes", "remembers", "cannot tell here", "no band", "no oracle"]
"""What comes of one figure. "cannot tell here": a model that surely remembers lies in the band, too."""

Side = Literal["high", "low", "either"]
"""Where a model lies that remembers: above the oracles, below them, or off them on whichever side."""

LEAST = 1.0
"""Percentage points: a model is nearer to oracles than this is among them, even where they all agree.

Accuracies of a few hundred images are not finer.
"""

UNMEASURED: tuple[Verdict, ...] = ("no band", "no oracle")


@dataclass(frozen=True)
class Band:
    """Where one more oracle is expected (12.2).

    Attributes:
        mean: of the oracles.
        reach: how far the band goes to either side.
    """

    mean: float
    reach: float

    @classmethod
    def of(cls, oracles: Sequence[float], level: float = 0.95) -> Band:
        """Return the band of at least two oracles' figures; ``level`` of all oracles are expected in it."""
        from scipy.stats import t

        n = len(oracles)
        quantile = float(t.ppf((1 + level) / 2, n - 1))
        return cls(statistics.fmean(oracles), quantile * statistics.stdev(oracles) * (1 + 1 / n) ** 0.5)

    def left(self, value: float, side: Side) -> bool:
        """Whether a value lies off the band on the side where models lie that remember."""
        over = value - self.mean
        far = {"high": over, "low": -over, "either": abs(over)}[side]
        return far > max(self.reach, LEAST)


def judge(value: float, oracles: Sequence[float], side: Side, control: float | None = None) -> Verdict:
    """Return what a figure says.

    Args:
        value: of the model under audit.
        oracles: the same figure of each.
        side: where a model lies that remembers.
        control: the figure of a model that surely remembers; where that lies in the band, too, nothing can be
            told. None where there is no such model.
    """
    if len(oracles) < 2:
        return "no band" if oracles else "no oracle"
    band = Band.of(oracles)
    if control is not None and not band.left(control, side):
        return "cannot tell here"
    return "remembers" if band.left(value, side) else "passes"


def false_alarms(oracles: Sequence[float], side: Side) -> tuple[int, int]:
    """Return how many oracles the others' band leaves out, each held out once, and of how many."""
    if len(oracles) < 3:
        return 0, 0
    held_out = [(value, [*oracles[:i], *oracles[i + 1 :]]) for i, value in enumerate(oracles)]
    return sum(Band.of(others).left(value, side) for value, others in held_out), len(oracles)


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return one verdict of several figures: one that remembers decides, then one that passes."""
    order: tuple[Verdict, ...] = ("remembers", "passes", "cannot tell here", *UNMEASURED)
    return min(verdicts, key=order.index)
