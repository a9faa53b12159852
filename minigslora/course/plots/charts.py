"""Curves, bars, histograms and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from torch import Tensor

from minigslora.course.plots.style import (
    COLOURS,
    DASHES,
    HATCHES,
    MARKERS,
    bar_places,
    figure,
    heat_map,
    legend_beside,
    swatches,
)


@dataclass(frozen=True)
class Panel:
    """One panel of lines over a common axis.

    Attributes:
        title: what the panel shows.
        ylabel: what is measured, with its unit.
        lines: values by label; a NaN leaves a gap.
        colours: a key of :data:`COLOURS` by label; other lines take the style's order.
        levels: values by label to draw as dashed horizontal lines.
        dashed: labels of the lines to draw dashed and without marks.
        limits: lower and upper end of the y axis; as the values need if None.
        joined: whether points are joined; a line means nothing where the axis is one of categories.
    """

    title: str
    ylabel: str
    lines: Mapping[str, Sequence[float]]
    colours: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    dashed: Sequence[str] = ()
    limits: tuple[float, float] | None = None
    joined: bool = True


@figure()
def curves(
    panels: Sequence[Panel], xlabel: str, ticks: Sequence[str] = (), height: float = 3.2, below: bool = False
) -> Figure:
    """Draw lines over epochs or requests, one panel beside the other.

    The common axis counts from 1; ``ticks`` are labels of its positions, which are numbers otherwise. Each
    panel has its legend where there is room or, with ``below``, below the axis, where nothing lies under it.
    """
    size = (min(11.5, 4.4 * len(panels)), height + 0.7 * below)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=True):
        for i, (label, values) in enumerate(panel.lines.items()):
            colour = COLOURS[panel.colours[label]] if label in panel.colours else None
            look: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "markersize": 5}
            look = {"linestyle": "--"} if label in panel.dashed else look
            look |= {} if panel.joined else {"linestyle": "none"}
            ax.plot(range(1, len(values) + 1), values, label=label, color=colour, **look)
        for i, (label, level) in enumerate(panel.levels.items()):
            ax.axhline(level, label=label, color="black", linewidth=1.2, linestyle=DASHES[i % 3])
        if ticks:
            ax.set_xticks(range(1, len(ticks) + 1), ticks)
        else:
            ax.locator_params(axis="x", integer=True)
        ax.set(title=panel.title, xlabel=xlabel, ylabel=panel.ylabel)
        if panel.limits:
            ax.set_ylim(*panel.limits)
    if len({tuple(panel.lines) for panel in panels}) == 1 and len(panels[0].lines) > 3:
        legend_beside(axes[0, -1])
    else:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3), "ncols": 2} if below else {}
        for ax in axes.flat:
            ax.legend(fontsize=9, **place)
    return fig


@figure()
def histograms(
    values: Mapping[str, Tensor],
    marks: Mapping[str, float],
    xlabel: str,
    ylabel: str = "images",
    colours: Sequence[str] = ("before", "forget", "retain"),
    bins: int = 40,
) -> Figure:
    """Draw histograms of samples by label over one another, on common bins from 0.

    ``marks`` are vertical lines at named values; colours are keys of :data:`COLOURS`, one for each label.
    """
    drawn = {k: (v, colour, None) for (k, v), colour in zip(values.items(), colours, strict=False)}
    largest = max(float(v.max()) for v in values.values())
    look = {"alpha": 0.75, "linewidth": 0}
    return _histograms(drawn, (0.0, largest), bins, marks, (xlabel, ylabel), look)


@figure()
def overlaid(
    values: Mapping[str, tuple[Tensor, str]],
    xlabel: str,
    ylabel: str,
    bins: int = 40,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Draw histograms of several samples over one another, as shares of each sample.

    A value is a sample and a key of :data:`COLOURS`; ``marks`` are vertical lines at named values.
    """
    drawn = {k: (v, colour, [100.0 / len(v)] * len(v)) for k, (v, colour) in values.items()}
    low = min(float(v.min()) for v, _ in values.values())
    high = max(float(v.max()) for v, _ in values.values())
    return _histograms(drawn, (low, high), bins, marks or {}, (xlabel, ylabel), {"alpha": 0.6})


def _histograms(
    values: Mapping[str, tuple[Tensor, str, list[float] | None]],
    ends: tuple[float, float],
    bins: int,
    marks: Mapping[str, float],
    labels: tuple[str, str],
    look: Mapping[str, Any],
) -> Figure:
    """Draw samples, by label with their colour and weights, on common bins between two ends."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    low, high = ends
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    for hatch, (label, (sample, colour, weights)) in zip(cycle(HATCHES), values.items(), strict=False):
        own: dict[str, Any] = {"label": label, "color": COLOURS[colour], "weights": weights, **look}
        own |= {"hatch": hatch, "edgecolor": "white"}
        ax.hist(sample.cpu().numpy(), bins=edges, **own)
    for i, (label, place) in enumerate(marks.items()):
        ax.axvline(place, color="black", linewidth=1.5, linestyle=DASHES[i % 3], label=label)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.legend(fontsize=9)
    return fig


@figure()
def bars(
    rows: Mapping[str, Mapping[str, float]],
    ylabel: str,
    colours: Mapping[str, str],
    levels: Mapping[str, tuple[float, str]] | None = None,
) -> Figure:
    """Draw groups of bars, each with its value at its top, from each group's heights by label.

    Labels have a key of :data:`COLOURS`; ``levels`` are dashed lines by label: a height and a key.
    """
    fig, ax = plt.subplots(figsize=(min(11.0, 2.0 + 1.9 * len(rows)), 3.4))
    labels = list(next(iter(rows.values())))
    width = 0.8 / len(labels)
    highest = max(max(row.values()) for row in rows.values())
    for label, places in zip(labels, bar_places(len(rows), len(labels), width), strict=True):
        heights = [row[label] for row in rows.values()]
        drawn = ax.bar(places, heights, width, label=label, color=COLOURS[colours[label]])
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        texts = ax.bar_label(drawn, fmt="%.1f", fontsize=9, padding=2, bbox=plate)
        for text, height in zip(texts, heights, strict=True):
            if levels and height > 0.25 * highest:  # in the bar, so that no line strikes it through
                text.set(position=(0, -4), va="top")
    for label, (level, colour) in (levels or {}).items():
        ax.axhline(level, color=COLOURS[colour], linewidth=1.2, linestyle="--", label=label)
    ax.set_xticks(range(len(rows)), list(rows))
    ax.set_ylabel(ylabel)
    ax.margins(y=0.12)
    ax.grid(visible=False, axis="x")
    if len(labels) > 1 or levels:
        legend_beside(ax)
    return fig


@figure()
def per_class(
    rows: Mapping[str, Sequence[float]], names: Sequence[str], colours: Sequence[str], ylabel: str
) -> Figure:
    """Draw bars of each class: a light one for its value in the first row, what was before, others in colour.

    Rows have a label and a value for each class; classes have a name and a key of :data:`COLOURS`.
    """
    fig, ax = plt.subplots(figsize=(min(11.0, 2.0 + 0.5 * len(names)), 3.2))
    width = 0.85 / len(rows)
    every = bar_places(len(names), len(rows), width)
    for i, ((label, values), places) in enumerate(zip(rows.items(), every, strict=True)):
        shown = [COLOURS[c if i else "before"] for c in colours]
        ax.bar(places, values, width, color=shown, alpha=1.0 if i else 0.55, label=label)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=9)
    ax.set_ylabel(ylabel)
    ax.grid(visible=False, axis="x")
    kinds = {"before": "before", "retained, after": "retain", "forgotten, after": "forget"}
    ax.legend(**swatches(kinds, 0.55), fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


@figure()
def destinations(names: Sequence[str], shares: Sequence[float], forgotten: Sequence[bool]) -> Figure:
    """Draw the share of images, in percent, that each class receives; forgotten classes hatched."""
    fig, ax = plt.subplots(figsize=(7.5, 3.0))
    for kind, colour, hatch in (("retained", "retain", ""), ("forgotten", "forget", "///")):
        places = [k for k, gone in enumerate(forgotten) if gone == (kind == "forgotten")]
        look: dict[str, Any] = {"color": COLOURS[colour], "hatch": hatch, "edgecolor": "white"}
        ax.bar(places, [shares[k] for k in places], label=f"a {kind} class", **look)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=9)
    ax.set(xlabel="predicted class", ylabel="share of images, %")
    ax.grid(visible=False, axis="x")
    ax.legend(fontsize=9)
    return fig


@figure()
def class_map(table: Tensor, columns: Sequence[str], requests: Mapping[str, int]) -> Figure:
    """Draw accuracies per class as a heat map, classes in the order in which they were requested.

    ``table`` is (classes, columns), in percent; ``requests`` says how many rows belong to each, in order.
    """
    fig, ax = plt.subplots(figsize=(1.9 + 1.05 * len(columns), 5.2))
    bar = {"label": "accuracy of the class, %"}
    heat_map(ax, table.cpu().numpy(), columns, False, vmin=0, vmax=100, cbar_kws=bar)
    edge, middles = 0, []
    for size in requests.values():
        middles.append(edge + size / 2)
        edge += size
        ax.axhline(edge, color="white", linewidth=2)
    ax.set_yticks(middles, list(requests), rotation=0)
    ax.tick_params(axis="x", rotation=0)
    ax.set(xlabel="after", ylabel="classes, by request")
    return fig


@figure()
def tables(
    panels: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[str], xlabel: str
) -> Figure:
    """Draw tables of percentages side by side as heat maps, each number in its cell.

    Panels have by title the values of each row, one per column; a NaN leaves a gap.
    """
    rows = list(next(iter(panels.values())))
    size = (1.6 + (0.4 + 0.62 * len(columns)) * len(panels), 1.0 + 0.27 * len(rows))
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    look = {"annot": True, "fmt": ".1f", "annot_kws": {"fontsize": 9}, "linewidths": 0.5, "cbar": False}
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=True):
        numbers = np.array([list(values[row]) for row in rows], dtype=float)
        heat_map(ax, numbers, columns, rows, vmin=0, vmax=100, **look)
        ax.set_facecolor("white")
        ax.tick_params(axis="y", rotation=0, labelsize=9)
        ax.set(title=title, xlabel=xlabel)
    return fig


@figure()
def scattered(
    points: Mapping[str, tuple[float, float, str]], xlabel: str, ylabel: str, families: Mapping[str, str]
) -> Figure:
    """Draw one point for each label, with the label beside it: its place and a key of :data:`COLOURS`.

    Colour and marker are those of its family; ``families`` are the legend's words by key.
    """
    fig, ax = plt.subplots(figsize=(8.5, 4.8))
    for (key, family), marker in zip(families.items(), MARKERS, strict=False):
        if members := [(x, y) for x, y, colour in points.values() if colour == key]:
            x, y = zip(*members, strict=True)
            ax.scatter(x, y, s=60, marker=marker, color=COLOURS[key], label=family, linewidths=0, zorder=3)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.margins(0.1)
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    fig.tight_layout()
    _name_points(ax, {label: (x, y) for label, (x, y, _) in points.items()})
    return fig


def _name_points(ax: Axes, places: Mapping[str, tuple[float, float]]) -> None:
    """Write each label at the first free place near its point, with a line to it if that is not beside it."""
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in ax.transData.transform([*places.values()])]
    tries = list(product((8, 16, 26, 38, 52, 70, 90), range(0, 360, 30)))
    for label, place in places.items():
        for reach, angle in tries:
            dx, dy = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            look: dict[str, Any] = {"textcoords": "offset points", "in_layout": False, "fontsize": 9}
            look |= {"ha": "left" if dx > 0.1 else "right" if dx < -0.1 else "center"}
            look |= {"va": "bottom" if dy > 0.6 else "top" if dy < -0.6 else "center"}
            text = ax.annotate(label, place, (reach * dx, reach * dy), **look)
            box = text.get_window_extent()
            inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
            if (inside and not any(box.overlaps(b) for b in taken)) or (reach, angle) == tries[-1]:
                break
            text.remove()
        if reach > 8:
            line = {"arrowstyle": "-", "color": "0.5", "lw": 0.8, "shrinkA": 0, "shrinkB": 4}
            ax.annotate("", place, text.xyann, textcoords="offset points", in_layout=False, arrowprops=line)
        taken.append(box.padded(5, 1))


@dataclass(frozen=True)
class Points:
    """One panel of figures of several methods.

    Attributes:
        title: what the panel shows.
        values: mean and spread by row; without a spread (NaN) a point has no bar.
        marks: figures of somebody else beside them, by row; NaN for none.
    """

    title: str
    values: Mapping[str, tuple[float, float]]
    marks: Mapping[str, float] = field(default_factory=dict)


@figure()
def points(panels: Sequence[Points], xlabel: str, marked: str) -> Figure:
    """Draw points with their spreads, a row a method, panels side by side; ``marked`` names the marks."""
    rows = list(panels[0].values)
    size = (2.2 + 2.3 * len(panels), 1.2 + 0.27 * len(rows))
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=True):
        middle, spread = np.array([panel.values[row] for row in rows], dtype=float).T
        places = range(len(rows))
        look = {"fmt": "o", "markersize": 5, "capsize": 3, "color": COLOURS["retain"]}
        ax.errorbar(middle, places, xerr=spread, label="ours", **look)
        theirs = [panel.marks.get(row, np.nan) for row in rows]
        if not np.isnan(theirs).all():
            ax.plot(theirs, places, "D", mfc="none", color=COLOURS["forget"], markersize=5, label=marked)
            named = ax.get_legend_handles_labels()
            axes[0, -1].legend(*named, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        ax.set_title(panel.title)
        ax.set(xlabel=xlabel, yticks=places, yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
        ax.margins(x=0.08)
        ax.locator_params(axis="x", nbins=4)
        ax.tick_params(labelsize=9)
    return fig
