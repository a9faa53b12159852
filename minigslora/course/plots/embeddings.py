"""Embeddings, margins and prototypes (notebooks 01 and 06)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from minigslora.course.plots.style import COLOURS, verbatim


@verbatim
def margin_circle(angle: float, margin: float) -> Figure:
    """Draw where two classes' directions on the circle win, without and with a cosine margin.

    Args:
        angle: between the two class directions, in radians.
        margin: m; the true class 1 must win by cos θ₁ − m > cos θ₂.
    """
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 4.0))
    theta = np.linspace(-np.pi, np.pi, 2001)
    first, second = np.cos(theta + angle / 2), np.cos(theta - angle / 2)
    for ax, m, title in zip(
        axes, (0.0, margin), ("m = 0: in use", f"m = {margin:g}: in training"), strict=True
    ):
        ax.plot(np.cos(theta), np.sin(theta), color=COLOURS["before"], linewidth=1)
        zones = {"1": (first - m > second, "retain"), "2": (second - m > first, "forget")}
        for sign, (name, (zone, colour)) in zip((-1, 1), zones.items(), strict=True):
            x, y = np.where(zone, np.cos(theta), np.nan), np.where(zone, np.sin(theta), np.nan)
            ax.plot(x, y, color=COLOURS[colour], linewidth=6, label=f"satisfies class {name}")
            tip = (np.cos(sign * angle / 2), np.sin(sign * angle / 2))
            ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": COLOURS[colour], "lw": 2})
            ax.text(0.62 * tip[0], 0.62 * tip[1] + sign * 0.2, f"$w_{name}$", color=COLOURS[colour])
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.set_title(title)
    axes[0].legend(fontsize=8, loc="center left", bbox_to_anchor=(0.12, 0.5))
    fig.tight_layout()
    return fig


@verbatim
def maps(panels: Mapping[str, Tensor], labels: Tensor, names: Sequence[str]) -> Figure:
    """Draw points in two dimensions, one panel for each way of placing them, by class.

    Args:
        panels: (N, 2) positions by the panel's title; the axes of such maps have no unit.
        labels: (N,) positions in ``names``, at most 16 classes.
        names: the classes.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels) + 1.2, 4.2), squeeze=False)
    colours = ("retain", "forget", "good", "missing", "old", "before")
    for ax, (title, points) in zip(axes.flat, panels.items(), strict=True):
        for c, name in enumerate(names):
            x, y = points[labels == c].T.tolist()
            colour, marker = COLOURS[colours[c % 6]], "osD^vPX*"[c % 8]
            ax.scatter(x, y, color=colour, marker=marker, s=34, label=name, linewidths=0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel("first axis of the map")
        ax.set_ylabel("second axis of the map")
        ax.set_title(title)
    axes.flat[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    fig.tight_layout()
    return fig


@verbatim
def softened(
    prototype: Tensor, temperatures: Sequence[float], names: Sequence[str], most: int = 10
) -> Figure:
    """Draw softmax(p / T) of one prototype at several temperatures, its largest classes first.

    Args:
        prototype: (C,), in logit space.
        temperatures: the T of each panel.
        names: of the C classes.
        most: how many classes are drawn.
    """
    order = prototype.argsort(descending=True)[:most].cpu()
    fig, axes = plt.subplots(1, len(temperatures), figsize=(2.6 * len(temperatures), 3.2), sharey=True)
    for ax, temperature in zip(axes.flat, temperatures, strict=True):
        p = (prototype.cpu() / temperature).softmax(dim=0)
        ax.bar(range(len(order)), p[order].numpy(), color=COLOURS["retain"])
        entropy = float(-(p * p.clamp_min(1e-38).log()).sum())
        ax.set_title(f"T = {temperature:g}\nentropy {entropy:.2f} nats")
        ax.set_xticks(range(len(order)), [names[int(c)] for c in order], rotation=90, fontsize=7)
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-4, 1.5)
    axes[0].set_ylabel("probability (log scale)")
    fig.supxlabel(f"the {len(order)} classes with the largest logits", fontsize=10)
    fig.tight_layout()
    return fig


@verbatim
def distance_map(table: Tensor, names: Sequence[str], label: str, rows: str, columns: str) -> Figure:
    """Draw a square table of distances between classes as a heat map, dark for near.

    Args:
        table: (K, K).
        names: of the K classes.
        label: what is measured, with its unit.
        rows: what a row is.
        columns: what a column is.
    """
    fig, ax = plt.subplots(figsize=(6.4, 5.2))
    short = list(names)
    sns.heatmap(
        table.cpu().numpy(),
        ax=ax,
        cmap="cividis",
        square=True,
        xticklabels=short,
        yticklabels=short,
        cbar_kws={"label": label},
    )
    ax.tick_params(labelsize=7)
    ax.set_ylabel(rows)
    ax.set_xlabel(columns)
    fig.tight_layout()
    return fig


@verbatim
def flat_map(
    panels: Mapping[str, Tensor], labels: Tensor, prototypes: Tensor, kinds: Mapping[int, str], axes_name: str
) -> Figure:
    """Draw images of some classes in two dimensions, before and after, with the classes' prototypes.

    Args:
        panels: for each state of the model, (N, 2) places of the same images.
        labels: (N,) classes of the images.
        prototypes: (K, 2), in the order of ``kinds``.
        kinds: "retain" or "forget" for each of the K classes drawn.
        axes_name: what the two axes are.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.2), sharex=True, sharey=True)
    markers = {"retain": iter("ovDPs"), "forget": iter("ovDPs")}
    names = {"retain": "retained", "forget": "forgotten"}
    own = {c: next(markers[kind]) for c, kind in kinds.items()}
    for ax, (title, places) in zip(axes.flat, panels.items(), strict=True):
        for (c, kind), star in zip(kinds.items(), prototypes.cpu(), strict=True):
            x, y = places[labels == c].cpu().T.numpy()
            ax.scatter(x, y, s=20, marker=own[c], color=COLOURS[kind], alpha=0.6, linewidths=0)
            ax.scatter(*star.numpy(), s=190, marker="*", color=COLOURS[kind], edgecolors="black", zorder=3)
        ax.set_title(title)
        ax.set_xlabel(f"{axes_name} 1")
    axes[0].set_ylabel(f"{axes_name} 2")
    shown = [(f"{names[k]} classes' images", COLOURS[k], "o", 6) for k in names]
    shown += [(f"{names[k]} classes' prototypes", COLOURS[k], "*", 13) for k in names]
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=size, linestyle="", label=text)
        for text, colour, marker, size in shown
    ]
    fig.legend(handles=handles, loc="lower center", ncols=4, fontsize=8)
    fig.tight_layout(rect=(0, 0.07, 1, 1))
    return fig
