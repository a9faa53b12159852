"""Groups of adapters, and what is left of them (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from minigslora.course.plots.style import COLOURS, verbatim


@verbatim
def group_norms(norms: Mapping[str, Mapping[str, float]]) -> Figure:
    """Show each group's norm of the update s·B·A per request as bars; a group at zero is marked "0".

    Args:
        norms: for each request, the norm of each group by name.
    """
    names = list(next(iter(norms.values())))
    fig, ax = plt.subplots(figsize=(max(5.0, 0.9 * len(names)), 2.8))
    width = 0.8 / len(norms)
    for i, (request, values) in enumerate(norms.items()):
        places = [x + (i - (len(norms) - 1) / 2) * width for x in range(len(names))]
        ax.bar(places, [values[name] for name in names], width, label=request)
        for x, name in zip(places, names, strict=True):
            if values[name] == 0:
                ax.text(x, 0, "0", ha="center", va="bottom", fontsize=9)
    ax.set_xticks(range(len(names)), names, rotation=30 if len(names) > 8 else 0)
    ax.set_ylabel("norm of the update s·B·A")
    ax.set_xlabel("group")
    if len(norms) > 1:
        ax.legend()
    fig.tight_layout()
    return fig


@verbatim
def penalty_contours(axis: Tensor, surfaces: Mapping[str, Tensor], paths: Mapping[str, Tensor]) -> Figure:
    """Draw penalties over two weights as contours, with the path of the minimum as α grows.

    Args:
        axis: (n,) values of either weight.
        surfaces: (n, n) values of each penalty by title.
        paths: (k, 2) minima by title, from α = 0 on.
    """
    fig, axes = plt.subplots(1, len(surfaces), figsize=(3.4 * len(surfaces), 3.6), sharey=True, squeeze=False)
    for ax, (title, values) in zip(axes.flat, surfaces.items(), strict=True):
        grid, path = axis.cpu().numpy(), paths[title].cpu()
        levels = [0.35 * k for k in range(1, 8)]
        ax.contour(grid, grid, values.cpu().numpy(), levels=levels, cmap="cividis", linewidths=1)
        ax.plot(path[:, 0], path[:, 1], lw=2.5, color=COLOURS["forget"], label="minimum as α grows")
        ax.plot(path[0, 0], path[0, 1], "kx", ms=9, mew=2, label="what the loss wants")
        ax.axhline(0, color="black", lw=0.8)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_aspect("equal")
        ax.grid(visible=False)
        ax.set_title(title)
        ax.set_xlabel("weight a")
    axes[0, 0].set_ylabel("weight b")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    fig.tight_layout()
    return fig


@verbatim
def norm_paths(
    walks: Mapping[str, Tensor], matters: Sequence[bool], labels: Sequence[str] = (), xlabel: str = "step"
) -> Figure:
    """Draw norms of groups over steps on a log axis; exact zeros stand on the bottom line.

    Args:
        walks: (steps, groups) norms by title, one panel each.
        matters: which groups are drawn blue; the others are vermilion. With ``labels`` each group has
            a colour of its own.
        labels: names of the groups.
        xlabel: what is counted, from 1.
    """
    fig, axes = plt.subplots(1, len(walks), figsize=(4.6 * len(walks), 3.4), sharey=True, squeeze=False)
    smallest = min(float(w[w > 0].min()) for w in walks.values())
    bottom = smallest / 5
    own = sns.color_palette("cividis", len(matters))
    for ax, (title, norms) in zip(axes.flat, walks.items(), strict=True):
        places = range(1, len(norms) + 1)
        for g, on in enumerate(matters):
            colour = own[g] if labels else COLOURS["retain" if on else "forget"]
            heights = norms[:, g].double().clamp_min(bottom).tolist()
            ax.semilogy(places, heights, lw=1.3, color=colour, label=labels[g] if labels else None)
        if bool((norms == 0).any()):
            ax.axhline(bottom, color="black", lw=1, linestyle=":")
            ax.text(1, bottom * 1.15, "exactly 0", fontsize=9, va="bottom")
        ax.set_title(title)
        ax.set_xlabel(xlabel)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("norm of the group")
    if labels:
        axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif not all(matters):
        lines = [Line2D([], [], color=COLOURS[c]) for c in ("retain", "forget")]
        axes[0, 0].legend(lines, ["groups that matter", "groups that do not"], fontsize=8)
    fig.tight_layout()
    return fig


def _heat(
    ax: Axes, table: Mapping[str, Mapping[str, float]], largest: float, bar: Axes | None = None
) -> None:
    """Draw a heat map of norms, column by column, its scale in ``bar``; exact zeros are white with a 0."""
    rows = list(next(iter(table.values())))
    values = [[column[row] for column in table.values()] for row in rows]
    shown = [["0" if v == 0 else "<0.01" if v < 0.005 else f"{v:.2f}" for v in line] for line in values]
    sns.heatmap(
        np.array(values),
        ax=ax,
        mask=np.array(values) == 0,
        annot=np.array(shown),
        fmt="",
        annot_kws={"fontsize": 8},
        vmin=0,
        vmax=largest,
        cmap="cividis",
        linewidths=0.5,
        xticklabels=list(table),
        yticklabels=rows,
        cbar=bar is not None,
        cbar_ax=bar,
        cbar_kws={"label": "norm of the update s·B·A"},
    )
    ax.grid(visible=False)
    ax.set_facecolor("white")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value == 0:
                ax.text(x + 0.5, y + 0.5, "0", ha="center", va="center", fontsize=9, color="black")
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=0)


@verbatim
def norm_maps(tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Draw heat maps of norms side by side on one colour scale.

    Args:
        tables: by title, for each column the norm of each row; exact zeros are white with a 0.
    """
    shares = (*(20.0 for _ in tables), 0.8)
    fig, axes = plt.subplots(1, len(shares), figsize=(3.3 * len(tables) + 0.6, 3.4), width_ratios=shares)
    largest = max(v for t in tables.values() for column in t.values() for v in column.values()) or 1.0
    for ax, (title, table) in zip(axes, tables.items(), strict=False):
        _heat(ax, table, largest, axes[-1])
        ax.set_title(title)
    fig.tight_layout()
    return fig


@verbatim
def selection(
    norms: Mapping[str, Mapping[str, float]],
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
    size = (2.6 + 0.75 * len(norms), 3.4 + 0.4 * groups)
    fig, axes = plt.subplots(2, 2, figsize=size, height_ratios=(2.2, 0.4 * groups), width_ratios=(20, 0.6))
    top, below = axes[:, 0]
    axes[0, 1].set_axis_off()
    places = [x + 0.5 for x in range(len(norms))]
    for label, (values, colour) in lines.items():
        style = "--" if colour == "before" else "-"
        top.plot(places, list(values), style, marker="o", color=COLOURS[colour], label=label)
    for label, (level, colour) in levels.items():
        top.axhline(level, color=COLOURS[colour], lw=1, linestyle=":", label=label)
    top.set_ylabel("percent")
    top.set_ylim(-4, 104)
    top.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    largest = max(v for column in norms.values() for v in column.values()) or 1.0
    _heat(below, norms, largest, axes[1, 1])
    top.set_xlim(below.get_xlim())
    top.set_xticks(places, [])
    below.set_xlabel(xlabel)
    below.set_ylabel("group", labelpad=12)
    fig.tight_layout()
    return fig


@verbatim
def sparsity_cost(
    lines: Mapping[str, Sequence[tuple[float, float, float, str]]], levels: Mapping[str, float]
) -> Figure:
    """Draw accuracies over the share of groups at zero, one line a way of measuring groups.

    Args:
        lines: by label, points of (groups at zero in %, acc_r, acc_f, text beside the point).
        levels: acc_r and acc_f without sparsity.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.5))
    for ax, k, name, title in (
        (axes[0], 1, "acc_r", "retained: high is good"),
        (axes[1], 2, "acc_f", "forgotten: low is good"),
    ):
        for i, ((label, points), marker) in enumerate(zip(lines.items(), "os^DvP", strict=False)):
            ordered = sorted(points)
            size, side = 10 - 2 * i, ((5, 4), (5, -10), (-16, 4))[i % 3]  # so that equal points all show
            (line,) = ax.plot(
                [p[0] for p in ordered],
                [p[k] for p in ordered],
                marker=marker,
                markersize=max(size, 4),
                label=label,
                alpha=0.8,
            )
            for x, *heights, text in ordered:
                ax.annotate(
                    text,
                    (x, heights[k - 1]),
                    fontsize=7,
                    xytext=side,
                    textcoords="offset points",
                    color=line.get_color(),
                )
        ax.axhline(levels[name], color="black", linestyle="--", lw=1, label="without sparsity")
        ax.set_title(title)
        ax.set_xlabel("groups at zero, %")
        ax.set_ylabel(f"{name}, %")
        ax.set_xlim(-4, 104)
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.tight_layout()
    return fig
