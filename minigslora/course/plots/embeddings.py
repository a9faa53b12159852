"""Embeddings, margins and prototypes (notebooks 01 and 06)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from minigslora.course.plots.style import COLOURS, MARKERS, figure, heat_map, panels


@figure()
def margin_circle(angle: float, margin: float) -> Figure:
    """Draw where two classes' directions on the circle win, without and with a cosine margin.

    The directions are ``angle`` radians apart; the true class 1 must win by cos θ₁ − m > cos θ₂.
    """
    fig, axes = panels(("m = 0: in use", f"m = {margin:g}: in training"), 4.1, 4.0)
    theta = np.linspace(-np.pi, np.pi, 2001)
    first, second = np.cos(theta + angle / 2), np.cos(theta - angle / 2)
    for ax, m in zip(axes, (0.0, margin), strict=True):
        ax.plot(np.cos(theta), np.sin(theta), color=COLOURS["before"], linewidth=1)
        zones = {"1": (first - m > second, "retain"), "2": (second - m > first, "forget")}
        for sign, (name, (zone, colour)) in zip((-1, 1), zones.items(), strict=True):
            x, y = np.where(zone, np.cos(theta), np.nan), np.where(zone, np.sin(theta), np.nan)
            ax.plot(x, y, color=COLOURS[colour], linewidth=6)
            ax.text(
                -0.2, sign * 0.74, f"right for class {name}", color=COLOURS[colour], ha="center", fontsize=10
            )
            tip = (np.cos(sign * angle / 2), np.sin(sign * angle / 2))
            ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": COLOURS[colour], "lw": 2})
            ax.text(0.62 * tip[0], 0.62 * tip[1] + sign * 0.2, f"$w_{name}$", color=COLOURS[colour])
        ax.set_aspect("equal")
        ax.set_axis_off()
    axes[1].text(-0.93, 0, "right for\nneither", va="center", fontsize=10)
    return fig


@figure()
def maps(places: Mapping[str, Tensor], labels: Tensor, names: Sequence[str]) -> Figure:
    """Draw points in two dimensions by class, one panel for each way of placing them.

    ``places`` are (N, 2) by title, on axes without unit; ``labels`` (N,) are positions in at most 16 names.
    """
    fig, axes = panels(places, 4.6, 4.2, 1.2)
    colours = ("retain", "forget", "good", "missing", "old", "before")
    for ax, points in zip(axes, places.values(), strict=True):
        for c, name in enumerate(names):
            x, y = points[labels == c].T.tolist()
            colour, marker = COLOURS[colours[c % 6]], MARKERS[c % 8]
            ax.scatter(x, y, color=colour, marker=marker, s=34, label=name, linewidths=0)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel("a map: only nearness counts, axes have no unit", fontsize=10)
    axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


@figure()
def softened(
    prototype: Tensor, temperatures: Sequence[float], names: Sequence[str], most: int = 10
) -> Figure:
    """Draw softmax(p / T) of one prototype (C,), in logit space, at several temperatures.

    Of its classes the ``most`` largest are drawn, the largest first.
    """
    order = prototype.argsort(descending=True)[:most].cpu()
    fig, axes = panels([f"T = {temperature:g}" for temperature in temperatures], 2.6, 3.2, sharey=True)
    for ax, temperature in zip(axes, temperatures, strict=True):
        p = (prototype.cpu() / temperature).softmax(dim=0)
        ax.bar(range(len(order)), p[order].numpy(), color=COLOURS["retain"])
        entropy = float(-(p * p.clamp_min(1e-38).log()).sum())
        ax.set_title(f"T = {temperature:g}\nentropy {entropy:.2f} nats")
        ax.set_xticks(range(len(order)), [names[int(c)] for c in order], rotation=90, fontsize=9)
    axes[0].set(yscale="log", ylim=(1e-4, 1.5), ylabel="probability (log scale)")
    fig.supxlabel(f"the {len(order)} classes with the largest logits", fontsize=10)
    return fig


@figure()
def distance_map(table: Tensor, names: Sequence[str], label: str, rows: str, columns: str) -> Figure:
    """Draw a square table (K, K) of distances between K classes as a heat map, dark for near."""
    fig, ax = plt.subplots(figsize=(6.4, 5.2))
    heat_map(ax, table.cpu().numpy(), names, list(names), square=True, cbar_kws={"label": label})
    ax.tick_params(labelsize=9)
    ax.set(xlabel=columns, ylabel=rows)
    return fig


@figure(pad=None)
def flat_map(
    places: Mapping[str, Tensor], labels: Tensor, prototypes: Tensor, kinds: Mapping[int, str], axes_name: str
) -> Figure:
    """Draw images of some classes in two dimensions, before and after, with the classes' prototypes.

    Images of retained classes are filled marks, those of forgotten ones hollow; a class has its own mark.

    Args:
        places: for each state of the model, (N, 2) places of the same images.
        labels: (N,) classes of the images.
        prototypes: (K, 2), in the order of ``kinds``.
        kinds: "retain" or "forget" for each of the K classes drawn.
        axes_name: what the two axes are.
    """
    fig, axes = panels(places, 4.6, 4.2, sharex=True, sharey=True)
    markers = {"retain": iter("ovDPs"), "forget": iter("ovDPs")}
    inside = {"retain": COLOURS["retain"], "forget": "none"}
    own = {c: next(markers[kind]) for c, kind in kinds.items()}
    for ax, points in zip(axes, places.values(), strict=True):
        for (c, kind), star in zip(kinds.items(), prototypes.cpu(), strict=True):
            x, y = points[labels == c].cpu().T.numpy()
            look: dict[str, Any] = {"facecolors": inside[kind], "edgecolors": COLOURS[kind]}
            ax.scatter(x, y, s=24, marker=own[c], alpha=0.8, linewidths=1, **look)
            x, y = star.numpy()
            ax.scatter(x, y, s=190, marker="*", color=COLOURS[kind], edgecolors="black", zorder=3)
        ax.set_xlabel(f"{axes_name} 1")
    axes[0].set_ylabel(f"{axes_name} 2")
    handles = [
        Line2D([], [], color=COLOURS[kind], marker=marker, mfc=face, ms=size, linestyle="", label=text)
        for what, marker, size in (("images", "o", 6), ("prototypes", "*", 13))
        for kind, text, face in (
            ("retain", f"retained classes' {what}", COLOURS["retain"]),
            ("forget", f"forgotten classes' {what}", "none" if what == "images" else COLOURS["forget"]),
        )
    ]
    fig.legend(handles=handles, loc="lower center", ncols=4, fontsize=9)
    fig.tight_layout(rect=(0, 0.07, 1, 1))
    return fig
