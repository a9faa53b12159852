"""A model beside the band of its oracles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minigslora.course.plots.style import COLOURS, MARKERS, figure

GREY = "#cccccc"


@dataclass(frozen=True)
class Banded:
    """One panel of curves beside the oracles'.

    Attributes:
        title: what the panel shows.
        lines: values by model.
        middle: the oracles' mean at each place; empty without any.
        reach: how far the band goes to either side; empty of fewer than two oracles.
        ticks: a label a place.
    """

    title: str
    lines: Mapping[str, Sequence[float]]
    middle: Sequence[float]
    reach: Sequence[float]
    ticks: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """One figure of several models.

    Attributes:
        models: the figure by model; NaN where there is none.
        oracles: the same of each oracle.
        band: middle and reach of the oracles' band; None of fewer than two.
    """

    models: Mapping[str, float]
    oracles: Sequence[float]
    band: tuple[float, float] | None


@figure()
def banded(panels: Sequence[Banded], xlabel: str, ylabel: str, colours: Mapping[str, str]) -> Figure:
    """Draw curves of models with the oracles' band, one panel beside the other.

    ``colours`` has a key of the style's colours for each model.
    """
    size = (min(11.5, 4.8 * len(panels)), 3.2)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    for ax, panel in zip(axes.flat, panels, strict=True):
        places = range(len(panel.ticks))
        if panel.reach:
            low, high = np.subtract(panel.middle, panel.reach), np.add(panel.middle, panel.reach)
            ax.fill_between(places, low, high, color=GREY, alpha=0.5, linewidth=0)
        if panel.middle:
            ax.plot(places, panel.middle, "--", color="black", label="oracles")
        for (who, values), mark in zip(panel.lines.items(), MARKERS, strict=False):
            ax.plot(places, values, marker=mark, markersize=4, label=who, color=COLOURS[colours[who]])
        ax.set_xticks(places, panel.ticks)
        ax.set(title=panel.title, xlabel=xlabel)
        ax.legend(fontsize=9)
    axes[0, 0].set_ylabel(ylabel)
    return fig


@figure()
def beside_band(rows: Mapping[str, Compared], colours: Mapping[str, str]) -> Figure:
    """Draw figures of models as points, a row each, on the oracles' band."""
    fig, ax = plt.subplots(figsize=(7, 0.9 + 0.5 * len(rows)))
    for place, row in enumerate(rows.values()):
        if row.band:
            middle, reach = row.band
            ax.barh(place, 2 * reach, left=middle - reach, height=0.5, color=GREY, alpha=0.6)
        name = "oracles, their band in grey" if place == 0 and row.oracles else None
        ax.plot(row.oracles, [place] * len(row.oracles), "o", mfc="none", color="black", ms=5, label=name)
        for (who, value), mark in zip(row.models.items(), MARKERS[1:], strict=False):
            ax.plot(value, place, mark, color=COLOURS[colours[who]], label=who if place == 0 else None)
    ax.use_sticky_edges = False  # or points at 0 and 100 would be cut in half
    ax.margins(x=0.04)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlabel="percent", ylim=(len(rows) - 0.5, -0.5))
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


@figure()
def verdicts(found: Mapping[str, Mapping[str, Sequence[str]]]) -> Figure:
    """Draw verdicts as a map, a row a model and a column an audit: how often each remembers.

    Args:
        found: by model and audit, a verdict a seed; those of an audit that cannot tell are left grey.
    """
    audits = list(dict.fromkeys(audit for row in found.values() for audit in row))
    fig, ax = plt.subplots(figsize=(1.6 + 0.95 * len(audits), 0.9 + 0.27 * len(found)))
    for y, row in enumerate(found.values()):
        for x, audit in enumerate(audits):
            told = [v for v in row.get(audit, ()) if v in {"passes", "remembers"}]
            caught = sum(v == "remembers" for v in told)
            colour = COLOURS["forget" if caught else "good"] if told else GREY
            strength = 0.35 + 0.55 * caught / len(told) if caught else 0.55
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colour, alpha=strength, linewidth=0))
            ax.text(x, y, f"{caught} of {len(told)}" if told else "–", ha="center", va="center", fontsize=9)
    ax.set_xticks(range(len(audits)), audits)
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlim=(-0.5, len(audits) - 0.5), ylim=(len(found) - 0.5, -0.5), title="seeds that remember")
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=9)
    ax.grid(visible=False)
    return fig
