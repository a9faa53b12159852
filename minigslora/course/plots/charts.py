"""Curves, bars, histograms and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minigslora.course.plots.style import COLOURS, verbatim


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


@verbatim
def curves(panels: Sequence[Panel], xlabel: str, ticks: Sequence[str] = (), height: float = 3.2) -> Figure:
    """Draw lines over epochs or tasks, one panel beside the other.

    Args:
        panels: what to draw.
        xlabel: the common axis, counted from 1.
        ticks: labels of its positions; numbers where empty.
        height: of the figure, in inches.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(min(11.5, 4.4 * len(panels)), height), squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=True):
        for label, values in panel.lines.items():
            colour = COLOURS[panel.colours[label]] if label in panel.colours else None
            places = range(1, len(values) + 1)
            look = {"linestyle": "--"} if label in panel.dashed else {"marker": "o", "markersize": 4}
            look |= {} if panel.joined else {"linestyle": "none"}
            ax.plot(places, values, label=label, color=colour, **look)
        for i, (label, level) in enumerate(panel.levels.items()):
            ax.axhline(level, label=label, color="black", linewidth=1.2, linestyle=("--", ":", "-.")[i % 3])
        if ticks:
            ax.set_xticks(range(1, len(ticks) + 1), ticks)
        else:
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(panel.title)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(panel.ylabel)
        if panel.limits:
            ax.set_ylim(*panel.limits)
    if len({tuple(panel.lines) for panel in panels}) == 1 and len(panels[0].lines) > 4:
        axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        for ax in axes.flat:
            ax.legend(fontsize=8)
    fig.tight_layout()
    return fig


def _labelled(ax: Axes, xlabel: str, ylabel: str) -> Figure:
    """Name the axes of a figure's only panel, and give it its legend."""
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(fontsize=9)
    fig = ax.get_figure(root=True)
    assert fig is not None
    fig.tight_layout()
    return fig


@verbatim
def histograms(
    values: Mapping[str, Tensor],
    marks: Mapping[str, float],
    xlabel: str,
    ylabel: str = "images",
    colours: Sequence[str] = ("before", "forget", "retain"),
    bins: int = 40,
) -> Figure:
    """Draw one histogram over another on common bins, with vertical lines at named values.

    Args:
        values: samples by label.
        marks: named positions on the axis.
        xlabel: what the samples are, with their unit.
        ylabel: what is counted.
        colours: a key of :data:`COLOURS` for each label, in order.
        bins: how many bins.
    """
    _, ax = plt.subplots(figsize=(7, 3.2))
    largest = max(float(v.max()) for v in values.values())
    edges = [largest * i / bins for i in range(bins + 1)]
    for (label, samples), colour in zip(values.items(), colours, strict=False):
        ax.hist(
            samples.cpu().numpy(), bins=edges, label=label, color=COLOURS[colour], alpha=0.75, linewidth=0
        )
    _mark(ax, marks)
    return _labelled(ax, xlabel, ylabel)


@verbatim
def bars(
    rows: Mapping[str, Mapping[str, float]],
    ylabel: str,
    colours: Mapping[str, str],
    levels: Mapping[str, tuple[float, str]] | None = None,
) -> Figure:
    """Draw groups of bars, each with its value above it.

    Args:
        rows: for each group the height of each bar by label.
        ylabel: what is measured, with its unit.
        colours: a key of :data:`COLOURS` for each label.
        levels: dashed lines by label: a height and a key of :data:`COLOURS`.
    """
    fig, ax = plt.subplots(figsize=(min(11.0, 2.0 + 1.9 * len(rows)), 3.4))
    labels = list(next(iter(rows.values())))
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        places = [x + (i - (len(labels) - 1) / 2) * width for x in range(len(rows))]
        heights = [row[label] for row in rows.values()]
        drawn = ax.bar(places, heights, width, label=label, color=COLOURS[colours[label]])
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # lines pass behind the numbers
        ax.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2, bbox=plate)
    for label, (level, colour) in (levels or {}).items():
        ax.axhline(level, color=COLOURS[colour], linewidth=1.2, linestyle="--", label=label)
    ax.set_xticks(range(len(rows)), list(rows))
    ax.set_ylabel(ylabel)
    ax.margins(y=0.12)
    ax.grid(visible=False, axis="x")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.tight_layout()
    return fig


@verbatim
def destinations(names: Sequence[str], shares: Sequence[float], forgotten: Sequence[bool]) -> Figure:
    """Draw the share of images that each class receives, most first.

    Args:
        names: the classes.
        shares: in percent, each class's share of the images.
        forgotten: which of the classes are forgotten ones (vermilion); the others are retained (blue).
    """
    fig, ax = plt.subplots(figsize=(7.5, 3.0))
    colours = [COLOURS["forget"] if gone else COLOURS["retain"] for gone in forgotten]
    ax.bar(range(len(names)), shares, color=colours)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    ax.set_ylabel("share of images, %")
    ax.set_xlabel("predicted class")
    legend = {"a retained class": "retain", "a forgotten class": "forget"}
    ax.legend([Rectangle((0, 0), 1, 1, color=COLOURS[c]) for c in legend.values()], list(legend), fontsize=9)
    fig.tight_layout()
    return fig


@verbatim
def class_map(table: Tensor, columns: Sequence[str], requests: Mapping[str, int]) -> Figure:
    """Draw accuracies per class as a heat map, classes in the order in which they were requested.

    Args:
        table: (classes, columns), in percent.
        columns: what each column is, such as "task 1".
        requests: how many rows belong to each request, by name, in order.
    """
    fig, ax = plt.subplots(figsize=(1.9 + 0.9 * len(columns), 5.2))
    sns.heatmap(
        table.cpu().numpy(),
        ax=ax,
        vmin=0,
        vmax=100,
        cmap="cividis",
        xticklabels=list(columns),
        yticklabels=False,
        cbar_kws={"label": "accuracy of the class, %"},
    )
    edge, middles = 0, []
    for size in requests.values():
        middles.append(edge + size / 2)
        edge += size
        ax.axhline(edge, color="white", linewidth=2)
    ax.set_yticks(middles, list(requests), rotation=0)
    ax.tick_params(axis="x", rotation=0)
    ax.set_ylabel("classes, by request")
    ax.set_xlabel("after")
    fig.tight_layout()
    return fig


def _mark(ax: Axes, marks: Mapping[str, float]) -> None:
    """Draw vertical lines by label, each in a style of its own."""
    for i, (label, place) in enumerate(marks.items()):
        ax.axvline(place, color="black", linewidth=1.5, linestyle=("--", ":", "-.")[i % 3], label=label)


@verbatim
def overlaid(
    values: Mapping[str, tuple[Tensor, str]],
    xlabel: str,
    ylabel: str,
    bins: int = 40,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Draw histograms of several samples over one another, as shares of each sample.

    Args:
        values: by label, a sample and a key of :data:`COLOURS`.
        xlabel: what the samples are, with their unit.
        ylabel: what is counted.
        bins: how many bins, the same for all.
        marks: vertical lines by label.
    """
    _, ax = plt.subplots(figsize=(7, 3.2))
    low = min(float(v.min()) for v, _ in values.values())
    high = max(float(v.max()) for v, _ in values.values())
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    for label, (sample, colour) in values.items():
        weights = [100.0 / len(sample)] * len(sample)
        ax.hist(
            sample.cpu().numpy(), bins=edges, weights=weights, label=label, color=COLOURS[colour], alpha=0.6
        )
    _mark(ax, marks or {})
    return _labelled(ax, xlabel, ylabel)


@verbatim
def scattered(
    points: Mapping[str, tuple[float, float, str]], xlabel: str, ylabel: str, logarithmic: bool = False
) -> Figure:
    """Draw one point for each label.

    Args:
        points: by label, the place and a key of :data:`COLOURS`; points of one colour differ by marker.
        xlabel: what is to the right, with its unit.
        ylabel: what is above, with its unit.
        logarithmic: whether the x axis is.
    """
    fig, ax = plt.subplots(figsize=(7.5, 4.2))
    used: dict[str, int] = {}
    for label, (x, y, colour) in points.items():
        marker = "osD^vPX*<>"[used.get(colour, 0) % 10]
        used[colour] = used.get(colour, 0) + 1
        ax.scatter(x, y, s=60, marker=marker, color=COLOURS[colour], label=label, alpha=0.85, linewidths=0)
    if logarithmic:
        ax.set_xscale("log")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    fig.tight_layout()
    return fig


@verbatim
def tables(
    panels: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[str], xlabel: str
) -> Figure:
    """Draw tables of percentages side by side as heat maps, each number in its cell.

    Args:
        panels: by title, the values of each row, one per column; a NaN leaves a gap.
        columns: labels of the columns.
        xlabel: what they are.
    """
    rows = list(next(iter(panels.values())))
    size = (1.6 + (0.4 + 0.62 * len(columns)) * len(panels), 1.0 + 0.27 * len(rows))
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=True):
        sns.heatmap(
            np.array([list(values[row]) for row in rows], dtype=float),
            ax=ax,
            annot=True,
            fmt=".1f",
            annot_kws={"fontsize": 8},
            vmin=0,
            vmax=100,
            cmap="cividis",
            linewidths=0.5,
            cbar=False,
            xticklabels=list(columns),
            yticklabels=rows,
        )
        ax.set_facecolor("white")
        ax.grid(visible=False)
        ax.tick_params(axis="y", rotation=0, labelsize=9)
        ax.set_title(title)
        ax.set_xlabel(xlabel)
    fig.tight_layout()
    return fig


@verbatim
def per_class(
    rows: Mapping[str, Sequence[float]], names: Sequence[str], colours: Sequence[str], ylabel: str
) -> Figure:
    """Draw bars of each class: one light bar for each value of the first row, the others in colour.

    Args:
        rows: a value for each class by label; the first row is what was before.
        names: the classes.
        colours: a key of :data:`COLOURS` for each class.
        ylabel: what is measured, with its unit.
    """
    fig, ax = plt.subplots(figsize=(min(11.0, 2.0 + 0.5 * len(names)), 3.2))
    width = 0.85 / len(rows)
    for i, (label, values) in enumerate(rows.items()):
        places = [x + (i - (len(rows) - 1) / 2) * width for x in range(len(names))]
        shown = [COLOURS["before"] if i == 0 else COLOURS[c] for c in colours]
        ax.bar(places, values, width, color=shown, alpha=0.55 if i == 0 else 1.0, label=label)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    ax.set_ylabel(ylabel)
    ax.grid(visible=False, axis="x")
    kinds = {"before": "before", "kept, after": "retain", "forgotten, after": "forget"}
    handles = [
        Rectangle((0, 0), 1, 1, color=COLOURS[c], alpha=0.55 if c == "before" else 1.0)
        for c in kinds.values()
    ]
    ax.legend(handles, list(kinds), fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.tight_layout()
    return fig
