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
    bold: bool = False,
) -> None:
    """Write lines around a height, in a darker shade of their colour so that they are easily read on white.

    Lines at one height have one baseline, whatever letters are in them.
    """
    lines = text.split("\n")
    look: dict[str, Any] = {"family": FONT, "fontsize": pt, "fontweight": "bold" if bold else "normal"}
    for k, words in enumerate(lines):
        up = pt * (1.3 * ((len(lines) - 1) / 2 - k) - 0.36)
        shift: dict[str, Any] = {"xytext": (0, up), "textcoords": "offset points"}
        ax.annotate(words, at, ha=ha, va="baseline", color=mixed(colour, -0.35), **shift, **look)


def stacked(ax: Axes, at: Point, lines: Sequence[str], step: float) -> None:
    """Write lines around a point, ``step`` inches apart, the first in bold, those below a little smaller."""
    x, y = at
    for k, text in enumerate(lines):
        height = y + step * ((len(lines) - 1) / 2 - k)
        label(ax, (x, height), text, pt=9 if "$" not in text else 10, bold=k == 0)


def _edge(colour: str, dashed: bool, width: float = 1.5) -> dict[str, Any]:
    shade = mixed(colour, -0.15)
    return {"edgecolor": shade, "linewidth": width, "linestyle": (0, (3, 2)) if dashed else "-"}


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
    corner = "round,pad=0,rounding_size=0.06"
    left, bottom = x - width / 2, y - height / 2
    look_of = {"facecolor": mixed(colour, fill), **_edge(colour, dashed)}
    ax.add_patch(FancyBboxPatch((left, bottom), width, height, corner, **look_of))
    if text:
        label(ax, at, text, **look)


def frame(
    ax: Axes, at: Point, size: Point, colour: str, fill: float | None = None, dashed: bool = False
) -> None:
    """Draw a rectangle around its middle: an image, or the box of an object; unfilled where fill is None."""
    (x, y), (width, height) = at, size
    inside = "none" if fill is None else mixed(colour, fill)
    look = {"facecolor": inside, **_edge(colour, dashed, 2.2)}
    ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **look))


def bar(
    ax: Axes, at: Point, size: Point, colour: str = "before", hatched: bool = False, edge: bool = True
) -> None:
    """Draw a filled rectangle around its middle: a vector, a row of a matrix, a patch."""
    (x, y), (width, height) = at, size
    look: dict[str, Any] = {"edgecolor": mixed(colour, -0.35), "linewidth": 0.9 if edge else 0}
    look |= {"hatch": "////" if hatched else "", "facecolor": mixed(colour, 0.5)}
    ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **look))


def arrow(ax: Axes, *way: Point, colour: str = "black", dashed: bool = False, width: float = 1.5) -> None:
    """Draw an arrow along some points, its head at the last."""
    line(ax, *way, colour=colour, dashed=dashed, width=width, head="-|>")


def line(
    ax: Axes,
    *way: Point,
    colour: str = "black",
    dashed: bool = False,
    width: float = 1.2,
    head: str = "-",
) -> None:
    """Draw a line along some points, with a head of matplotlib's at the last."""
    dashes = (0, (4, 2.5)) if dashed else "-"
    look: dict[str, Any] = {"color": mixed(colour, -0.15), "linewidth": width, "linestyle": dashes}
    tip = 9 + 2 * width if head != "-" else 1
    ends: dict[str, Any] = {"joinstyle": "round", "capstyle": "butt"}
    ax.add_patch(FancyArrowPatch(path=Path(list(way)), arrowstyle=head, mutation_scale=tip, **look, **ends))


def polygon(ax: Axes, corners: Sequence[Point], colour: str, fill: float = 0.8, dashed: bool = False) -> None:
    """Draw a filled polygon."""
    look = {"facecolor": mixed(colour, fill), "joinstyle": "round", **_edge(colour, dashed)}
    ax.add_patch(Polygon(corners, closed=True, **look))


def plus(ax: Axes, at: Point) -> None:
    """Draw a sum: a plus in a circle."""
    ax.add_patch(Circle(at, 0.13, facecolor="white", edgecolor="black", linewidth=1.4, zorder=3))
    for dx, dy in ((0.07, 0.0), (0.0, 0.07)):
        ax.plot([at[0] - dx, at[0] + dx], [at[1] - dy, at[1] + dy], "k-", lw=1.4, zorder=4)


def face(ax: Axes, at: Point, size: float, colour: str, wide: float = 0.56, dashed: bool = False) -> None:
    """Draw an image of a face, so wide, in a frame of a colour."""
    (x, y), s = at, size
    ink = mixed(colour, -0.5)
    frame(ax, at, (s, s), colour, 0.85, dashed)
    outline: dict[str, Any] = {"facecolor": "white", "edgecolor": ink, "linewidth": 1.3}
    ax.add_patch(Ellipse((x, y - 0.02 * s), wide * s, 0.72 * s, **outline))
    for side in (-1, 1):
        ax.add_patch(Circle((x + 0.21 * wide * s * side, y + 0.06 * s), 0.035 * s, color=ink))
    half = 0.2 * wide * s
    mouth = [(x - half, y - 0.17 * s), (x, y - 0.26 * s), (x + half, y - 0.17 * s)]
    curve = Path(mouth, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    ax.add_patch(FancyArrowPatch(path=curve, arrowstyle="-", color=ink, linewidth=1.3))
