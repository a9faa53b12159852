"""Groups of adapters, and what is left of them (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from minigslora.course.plots.style import (
    COLOURS,
    MARKERS,
    bar_places,
    figure,
    heat_map,
    legend_beside,
    panels,
)

Norms = Mapping[str, Mapping[str, float]]
"""For each column of a table, such as a request, the norm of each group by name."""


@figure()
def group_norms(norms: Norms) -> Figure:
    """Show each group's norm of the update s·B·A per request as bars; a group at zero is marked "0"."""
    names = list(next(iter(norms.values())))
    fig, ax = plt.subplots(figsize=(max(5.0, 0.9 * len(names)), 2.8))
    width = 0.8 / len(norms)
    every = bar_places(len(names), len(norms), width)
    for (request, values), places in zip(norms.items(), every, strict=True):
        ax.bar(places, [values[name] for name in names], width, label=request)
        for x, name in zip(places, names, strict=True):
            if values[name] == 0:
                ax.text(x, 0, "0", ha="center", va="bottom", fontsize=9)
    ax.set_xticks(range(len(names)), names, rotation=30 if len(names) > 8 else 0)
    ax.set(xlabel="group", ylabel="norm of the update s·B·A")
    if len(norms) > 1:
        ax.legend()
    return fig


@figure()
def norm_paths(
    walks: Mapping[str, Tensor], matters: Sequence[bool], labels: Sequence[str] = (), xlabel: str = "step"
) -> Figure:
    """Draw norms of groups over steps on a log axis; exact zeros stand on a dotted line at the bottom.

    Args:
        walks: (steps, groups) norms by title, one panel each.
        matters: which groups are drawn blue; the others are vermilion and dashed. With ``labels`` each
            group has a colour and a marker of its own.
        labels: names of the groups.
        xlabel: what is counted, from 1.
    """
    fig, axes = panels(walks, 4.6, 3.4, sharey=True)
    bottom = min(float(w[w > 0].min()) for w in walks.values()) / 5
    own = sns.color_palette("viridis", len(matters))
    for ax, norms in zip(axes, walks.values(), strict=True):
        for g, on in enumerate(matters):
            heights = norms[:, g].double().clamp_min(bottom).tolist()
            look: dict[str, Any] = {"color": COLOURS["retain" if on else "forget"], "ls": "-" if on else "--"}
            if labels:
                look = {"color": own[g], "marker": MARKERS[g % 10], "ms": 6, "label": labels[g]}
            ax.semilogy(range(1, len(norms) + 1), heights, lw=1.3, **look)
        if bool((norms == 0).any()):
            ax.axhline(bottom, color="black", lw=1, linestyle=":")
            ax.text(1, bottom * 1.15, "exactly 0", fontsize=9, va="bottom")
        ax.set_xlabel(xlabel)
        ax.locator_params(axis="x", integer=True)
    axes[0].set_ylabel("norm of the group")
    if labels:
        legend_beside(axes[-1])
    elif not all(matters):
        lines = [Line2D([], [], color=COLOURS[c], ls=dash) for c, dash in (("retain", "-"), ("forget", "--"))]
        axes[0].legend(lines, ["groups that matter", "groups that do not"], fontsize=9)
    return fig


@figure()
def norm_maps(tables: Mapping[str, Norms]) -> Figure:
    """Draw heat maps of norms by title side by side on one colour scale; exact zeros are white with a 0."""
    shares = (*(20.0 for _ in tables), 0.8)
    fig, axes = plt.subplots(1, len(shares), figsize=(3.3 * len(tables) + 0.6, 3.4), width_ratios=shares)
    largest = max(v for t in tables.values() for column in t.values() for v in column.values())
    for ax, (title, table) in zip(axes, tables.items(), strict=False):
        _norm_map(ax, table, largest or 1.0, axes[-1], named=ax is axes[0])
        ax.set_title(title)
    return fig


@figure()
def selection(
    norms: Norms,
    lines: Mapping[str, tuple[Sequence[float], str]],
    levels: Mapping[str, tuple[float, str]],
    xlabel: str,
) -> Figure:
    """Draw percentages over a setting and, below it, the heat map of each group's norm.

    Args:
        norms: for each value of the setting the norm of each group; exact zeros are white with a 0.
        lines: percentages over the setting and a key of :data:`COLOURS`, by label.
        levels: dashed lines: a height and a key of :data:`COLOURS`, by label.
        xlabel: the setting.
    """
    groups = len(next(iter(norms.values())))
    size = (2.6 + 0.85 * len(norms), 3.6 + 0.4 * groups)
    fig, axes = plt.subplots(2, 2, figsize=size, height_ratios=(2.2, 0.4 * groups), width_ratios=(20, 0.8))
    top, below = axes[:, 0]
    axes[0, 1].set_axis_off()
    places = [x + 0.5 for x in range(len(norms))]
    for (label, (values, colour)), marker in zip(lines.items(), MARKERS, strict=False):
        dash = "--" if colour == "before" else "-"
        top.plot(places, list(values), dash, marker=marker, color=COLOURS[colour], label=label)
    for i, (label, (level, colour)) in enumerate(levels.items()):
        top.axhline(level, color=COLOURS[colour], lw=1.3, linestyle=(":", "-.")[i % 2], label=label)
    top.set(ylabel="percent", ylim=(-4, 104))
    top.legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    largest = max(v for column in norms.values() for v in column.values())
    _norm_map(below, norms, largest or 1.0, axes[1, 1])
    top.set_xlim(below.get_xlim())
    top.set_xticks(places, [])
    below.set_xlabel(xlabel)
    below.set_ylabel("group", labelpad=12)
    return fig


def _norm_map(ax: Axes, table: Norms, largest: float, bar: Axes, named: bool = True) -> None:
    """Draw a heat map of norms, column by column, its scale in ``bar``; exact zeros are white with a 0.

    The rows have their names beside them where ``named``.
    """
    rows = list(next(iter(table.values())))
    values = np.array([[column[row] for column in table.values()] for row in rows])
    shown = [["0" if v == 0 else "<0.01" if v < 0.005 else f"{v:.2f}" for v in line] for line in values]
    text = {"annot": np.array(shown), "fmt": "", "annot_kws": {"fontsize": 9}}
    scale = {"vmin": 0, "vmax": largest, "cbar_ax": bar, "cbar_kws": {"label": "norm of the update s·B·A"}}
    names: list[str] | bool = rows if named else False
    heat_map(ax, values, list(table), names, mask=values == 0, linewidths=0.5, **text, **scale)
    ax.set_facecolor("white")
    for y, x in np.argwhere(values == 0):
        ax.text(x + 0.5, y + 0.5, "0", ha="center", va="center", fontsize=9, color="black")
    ax.tick_params(rotation=0)


@figure()
def sparsity_cost(
    lines: Mapping[str, Sequence[tuple[float, float, float]]], levels: Mapping[str, float]
) -> Figure:
    """Draw accuracies over the share of groups at zero, one line a way of measuring groups.

    Args:
        lines: by label, points of (groups at zero in %, acc_r, acc_f).
        levels: acc_r and acc_f without sparsity.
    """
    fig, axes = panels(("retained: high is good", "forgotten: low is good"), 4.6, 3.6)
    for k, (ax, name) in enumerate(zip(axes, ("acc_r", "acc_f"), strict=True), 1):
        for i, ((label, points), marker) in enumerate(zip(lines.items(), "os^DvP", strict=False)):
            places = [(p[0], p[k]) for p in sorted(points)]
            size = max(11 - 2 * i, 4)  # equal points all show
            ax.plot(*zip(*places, strict=True), marker=marker, markersize=size, label=label, alpha=0.8)
        ax.axhline(levels[name], color="black", linestyle="--", lw=1, label="without sparsity")
        ax.set(xlabel="groups at zero, %", ylabel=f"{name}, %", xlim=(-4, 104))
        low, high = ax.get_ylim()
        span = max(high - low, 10.0)  # one photograph is little
        ax.set_ylim((high - span, high) if name == "acc_r" else (low, low + span))
    legend_beside(axes[1])
    return fig
