"""What diagrams are made of: a canvas measured in inches, boxes, arrows, labels and small faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from matplotlib.path import Path

from minigslora.course.plots.style import COLOURS

Point = tuple[float, float]
Across = Literal["left", "center", "right"]
Up = Literal["bottom", "center", "top"]

FONT = "DejaVu Sans"
"""The font that comes with matplotlib, so that a diagram's texts are equally wide everywhere."""


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a white figure and its one panel without axes, on which a unit is an inch."""
    fig = plt.figure(figsize=(width, height), facecolor="white")
    ax = fig.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    return fig, ax


def mixed(colour: str, share: float) -> tuple[float, float, float]:
    """Return one of :data:`COLOURS`, or black, mixed with a share of white, or of black where negative."""
    target = 1.0 if share > 0 else 0.0
    r, g, b = (c + abs(share) * (target - c) for c in to_rgb(COLOURS.get(colour, colour)))
    return r, g, b


def label(
    ax: Axes,
    at: Point,
    text: str,
    colour: str = "black",
    pt: float = 10,
    ha: Across = "center",
    va: Up = "center",
    bold: bool = False,
) -> None:
    """Write a text, in a darker shade of its colour so that it is easily read on white."""
    weight = "bold" if bold else "normal"
    look: dict[str, Any] = {"family": FONT, "fontsize": pt, "fontweight": weight, "linespacing": 1.25}
    ax.text(*at, text, ha=ha, va=va, color=mixed(colour, -0.35), **look)


def box(
    ax: Axes,
    at: Point,
    size: Point,
    text: str = "",
    colour: str = "before",
    fill: float = 0.8,
    dashed: bool = False,
    **look: Any,
) -> None:
    """Draw a rounded box around its middle with a text in it.

    Args:
        ax: the panel.
        at: its middle.
        size: its width and height.
        text: what is written in it, in black.
        colour: one of :data:`COLOURS`, of its edge.
        fill: share of white in its filling; 1 for none of the colour.
        dashed: whether its edge is.
        look: of the text, as :func:`label` has it.
    """
    (x, y), (width, height) = at, size
    edge = {"edgecolor": mixed(colour, -0.15), "linewidth": 1.5, "linestyle": (0, (3, 2)) if dashed else "-"}
    corner = "round,pad=0,rounding_size=0.06"
    left, bottom = x - width / 2, y - height / 2
    filling = mixed(colour, fill)
    ax.add_patch(FancyBboxPatch((left, bottom), width, height, corner, facecolor=filling, **edge))
    if text:
        label(ax, at, text, **look)


def arrow(
    ax: Axes,
    *way: Point,
    colour: str = "black",
    dashed: bool = False,
    width: float = 1.5,
    head: str = "-|>",
) -> None:
    """Draw an arrow along some points, its head at the last; ``head="-"`` draws a line."""
    look = {"color": mixed(colour, -0.15), "linewidth": width, "linestyle": (0, (4, 2.5)) if dashed else "-"}
    path = Path(list(way))
    tip = 9 + 2 * width if head != "-" else 1
    ax.add_patch(
        FancyArrowPatch(
            path=path, arrowstyle=head, mutation_scale=tip, joinstyle="round", capstyle="butt", **look
        )
    )


def polygon(ax: Axes, corners: Sequence[Point], colour: str, fill: float = 0.8, dashed: bool = False) -> None:
    """Draw a filled polygon."""
    edge = {"edgecolor": mixed(colour, -0.15), "linewidth": 1.5, "linestyle": (0, (3, 2)) if dashed else "-"}
    ax.add_patch(Polygon(corners, closed=True, facecolor=mixed(colour, fill), joinstyle="round", **edge))


def plus(ax: Axes, at: Point) -> None:
    """Draw a sum: a plus in a circle."""
    ax.add_patch(Circle(at, 0.13, facecolor="white", edgecolor="black", linewidth=1.4, zorder=3))
    for dx, dy in ((0.07, 0.0), (0.0, 0.07)):
        ax.plot([at[0] - dx, at[0] + dx], [at[1] - dy, at[1] + dy], "k-", lw=1.4, zorder=4)


def face(ax: Axes, at: Point, size: float, colour: str, dashed: bool = False, smile: float = 1.0) -> None:
    """Draw an image of a face in a frame of a colour; ``smile`` below 0 turns the mouth."""
    (x, y), s = at, size
    frame = {
        "edgecolor": mixed(colour, -0.15),
        "linewidth": 2.2,
        "linestyle": (0, (3, 1.5)) if dashed else "-",
    }
    corner = (x - s / 2, y - s / 2)
    ax.add_patch(Rectangle(corner, s, s, facecolor=mixed(colour, 0.85), **frame))
    ink = mixed(colour, -0.5)
    outline = {"facecolor": "white", "edgecolor": ink, "linewidth": 1.3}
    ax.add_patch(Ellipse((x, y - 0.02 * s), 0.56 * s, 0.72 * s, **outline))
    for side in (-1, 1):
        ax.add_patch(Circle((x + 0.12 * s * side, y + 0.06 * s), 0.035 * s, color=ink))
    mouth = [(x - 0.12 * s, y - 0.17 * s), (x, y - (0.17 + 0.1 * smile) * s), (x + 0.12 * s, y - 0.17 * s)]
    curve = Path(mouth, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    ax.add_patch(FancyArrowPatch(path=curve, arrowstyle="-", color=ink, linewidth=1.3))
