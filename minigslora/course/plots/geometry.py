"""Penalties and prototypes as geometry (notebooks 03 and 06)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from scipy.optimize import brentq

from minigslora.course.plots.drawing import Point, arrow, box, canvas, label, line, mixed, stacked
from minigslora.course.plots.style import COLOURS, figure, panels

Array = NDArray[np.floating[Any]]
CIRCLE: Array = np.stack([np.cos(turn := np.linspace(0, 2 * np.pi, 201)), np.sin(turn)])

# --- one weight -------------------------------------------------------------------------------------

TAU = 0.5


@figure()
def prox_1d() -> Figure:
    """Draw why |t| reaches zero and t² does not, in three panels.

    First both penalties over t. Then their slopes: near zero the slope of t² fades, that of |t| stays at 1 or
    −1. Last the objective ½(t − v)² + τ|t| for τ = 0.5, whose lowest point is at v − τ = 0.7 where v is 1.2,
    and exactly at 0 where v is 0.3, less than τ.
    """
    titles = "the penalty", "its slope", r"$\mathbf{½(t - v)^2 + τ|t|,\ \ τ = 0.5}$"
    fig, (left, middle, right) = panels(titles, 2.93, 3.2)
    t = np.linspace(-1, 1, 402)  # without 0, where |t| has no slope
    for ax, lasso, ridge in ((left, np.abs(t), t**2), (middle, np.sign(t), 2 * t)):
        ax.plot(t, np.where(np.abs(t) < 0.003, np.nan, lasso), color=COLOURS["retain"], lw=2.2)
        ax.plot(t, ridge, "--", color=COLOURS["forget"], lw=2.2)
    label(left, (-0.52, 0.75), "|t|", "retain", 11)
    label(left, (0.47, 0.1), "t²", "forget", 11)
    label(middle, (-0.96, 1.5), "|t|: stays\nat 1 or −1", "retain", 9, ha="left")
    label(middle, (0.1, -1.2), "t²: fades to\n0 towards t = 0", "forget", 9, ha="left")
    middle.set_ylim(-2.2, 2.2)
    t = np.linspace(-1.1, 2.0, 621)
    for v, look, colour, text, place in (
        (1.2, "-", "retain", "v = 1.2:\nlowest at\nv − τ = 0.7", 1.3),
        (0.3, "--", "forget", "v = 0.3 < τ:\nlowest\nexactly at 0", -0.7),
    ):
        value = 0.5 * (t - v) ** 2 + TAU * np.abs(t)
        least = int(value.argmin())
        right.plot(t, value, look, color=COLOURS[colour], lw=2.2)
        right.plot([t[least]] * 2, [-0.16, value[least]], ":", color=COLOURS[colour], lw=1.5)
        right.plot(t[least], value[least], "o", ms=8, color=COLOURS[colour])
        label(right, (place, -0.55), text, colour, 9)
    right.set(xlim=(-1.4, 2.1), ylim=(-0.95, 1.8))
    for ax in (left, middle, right):
        ax.grid(visible=False)
        ax.axvline(0, color="black", lw=0.8)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xlabel("t", fontsize=10)
        ax.tick_params(labelsize=9)
        ax.locator_params(nbins=4)
        ax.title.set_fontsize(11)
    return fig


# --- balls of penalties -----------------------------------------------------------------------------

LOSS: Array = np.array([[1.0, -0.35, 0.0], [-0.35, 0.8, 0.0], [0.0, 0.0, 0.8]])
"""The loss is ½ (θ − θ*)ᵀ LOSS (θ − θ*)."""

TILT = np.radians(18.0)
VIEW: Array = np.array(
    [
        [np.cos(0.5), np.sin(0.5), 0.0],
        [-np.sin(0.5) * np.sin(TILT), np.cos(0.5) * np.sin(TILT), np.cos(TILT)],
    ]
)
"""Where a point of three weights stands in the plane, seen a little from above."""


@figure()
def penalty_balls() -> Figure:
    """Draw where the contours of a loss first meet the ball of a penalty, in three panels.

    The ridge's ball is round, and where they meet neither weight is zero. The lasso's is a diamond, and they
    meet at a corner, where the weight a is zero. The group lasso's ball, of a group (a, b) and a single
    weight c, is a double cone, and they meet at its tip, where a and b are zero together.
    """
    titles = "ridge: a² + b² ≤ 1", "lasso: |a| + |b| ≤ 1", "group lasso: ‖(a, b)‖ + |c| ≤ 1"
    fig, (ridge, lasso, group) = panels(titles, 2.93, 3.4)
    corner, flat = np.array([0.0, 1.0]), LOSS[:2, :2]
    wanted = corner + np.linalg.solve(flat, [0.66, 0.76])  # within the corner's cone of normals
    met = _on_circle(wanted)
    ridge.fill(*CIRCLE, facecolor=mixed("retain", 0.75), edgecolor=COLOURS["retain"], lw=2)
    square = np.array([[1, 0, -1, 0], [0, 1, 0, -1]])
    lasso.fill(*square, facecolor=mixed("retain", 0.75), edgecolor=COLOURS["retain"], lw=2)
    tip = np.array([0.0, 0.0, 1.0])
    seen = np.cross(VIEW[1], VIEW[0])  # towards the eye: what is at right angles to it is the outline
    normal = np.array([0.35, 0.35, 1.0])
    normal -= (normal @ seen) * seen
    normal *= 0.8
    far = tip + np.linalg.solve(LOSS, normal)
    _double_cone(group)
    for ax, centre, spread, point, text in (
        (ridge, wanted, np.linalg.inv(flat), met, "neither is 0"),
        (lasso, wanted, np.linalg.inv(flat), corner, "a = 0"),
        (group, VIEW @ far, VIEW @ np.linalg.inv(LOSS) @ VIEW.T, VIEW @ tip, "a = b = 0, a whole group"),
    ):
        _contours(ax, centre, spread, point)
        label(ax, (0.75, -1.5), f"they meet where\n{text}")
        ax.set(aspect="equal", xlim=(-1.3, 2.8), ylim=(-1.75, 3.2))
        ax.set_axis_off()
        ax.title.set_fontsize(11)
    label(ridge, (1.95, -0.6), "×  lowest loss\n- -  equal loss", "forget", 9)
    for ax in (ridge, lasso):
        _axes_of(ax, {"a": np.array([2.6, 0.0]), "b": np.array([0.0, 1.9])})
    return fig


def _on_circle(wanted: Array) -> Array:
    """Return the point of the unit circle where the loss of two weights is least."""
    flat = LOSS[:2, :2]

    def at(weight: float) -> Array:
        point: Array = np.linalg.solve(flat + weight * np.eye(2), flat @ wanted)
        return point

    return at(brentq(lambda weight: np.linalg.norm(at(weight)) - 1, 0, 100))


def _contours(ax: Axes, centre: Array, spread: Array, point: Array) -> None:
    """Draw ellipses around a centre, the outermost through a point, and mark both."""
    off = point - centre
    radius = np.sqrt(off @ np.linalg.solve(spread, off))
    for share in (0.4, 0.7, 1.0):
        ellipse = centre[:, None] + share * radius * np.linalg.cholesky(spread) @ CIRCLE
        ax.plot(*ellipse, "--", color=COLOURS["forget"], lw=1.5)
    ax.plot(*centre, "x", color=COLOURS["forget"], ms=8, mew=2.2)
    ax.plot(*point, "ko", ms=8, zorder=4)


def _axes_of(ax: Axes, ends: dict[str, Array]) -> None:
    """Draw an axis for each weight, from the origin, with its name at the end."""
    for name, end in ends.items():
        arrow(ax, (0.0, 0.0), (float(end[0]), float(end[1])), width=1.0)
        away = end * (1 + 0.17 / np.linalg.norm(end))
        label(ax, (float(away[0]), float(away[1])), name)


def _double_cone(ax: Axes) -> None:
    """Draw the group lasso's ball as it is seen from :data:`VIEW`: a rim, two tips, and the lines between."""
    low, high = np.sin(TILT), np.cos(TILT)
    touch = np.arcsin(low / high)
    x, y = np.cos(touch), low * np.sin(touch)
    rim, edge = CIRCLE * [[1], [low]], COLOURS["retain"]
    ax.fill(*rim, color=mixed("retain", 0.75), lw=0)
    for up in (1, -1):
        corners = np.array([(-x, up * y), (0, up * high), (x, up * y)]).T
        ax.fill(*corners, color=mixed("retain", 0.75), lw=0)
        ax.plot(*corners, color=edge, lw=2)
    ax.plot(*np.where(rim[1] <= y, rim, np.nan), color=edge, lw=2)
    ax.plot(*np.where(rim[1] >= y, rim, np.nan), ":", color=edge, lw=1.5)
    _axes_of(ax, {name: VIEW @ end for name, end in zip("abc", np.eye(3) * [2.2, 2.2, 2.1], strict=True)})


# --- prototypes -------------------------------------------------------------------------------------

MIDDLE, RADIUS = np.array([2.35, 2.2]), 2.0
"""Of the sphere on its canvas, in inches."""


def prototype_sphere() -> Figure:
    """Draw prototypes on the unit sphere of directions, one that pulls and one that pushes.

    Retained images are pulled along the sphere, each to the prototype of its class. An image to forget is
    pushed away from the prototype of its class, until it has left a circle around it, the bound. Two
    directions are near if the angle θ between them is small.
    """
    fig, ax = canvas(8.8, 4.4)
    _sphere(ax)
    here, image = _direction(-42, 36), _direction(-38, -12)
    there, second = _direction(22, 60), _direction(-8, 48)
    gone = _direction(30, 4)
    sides = _around(gone)
    leaving, far = (np.cos(angle) * gone + np.sin(angle) * sides[22] for angle in (0.17, 0.72))
    for end in (here, image):
        line(ax, (MIDDLE[0], MIDDLE[1]), *_seen(end), dashed=True, width=1.0)
    line(ax, *_arc(0.3 * here, 0.3 * image), width=1.0)
    label(ax, (1.84, 2.23), "θ", pt=12)
    arrow(ax, *_arc(image, here)[4:-5], colour="retain", width=2.2)
    arrow(ax, *_arc(second, there)[7:-8], colour="retain", width=2.2)
    arrow(ax, *_arc(leaving, far)[6:], colour="forget", width=2.2)
    line(ax, *_seen(*(np.cos(0.44) * gone + np.sin(0.44) * sides)), colour="forget", dashed=True, width=1.6)
    _marks(ax, _seen(here, there), "retain", "*")
    _marks(ax, _seen(image, second), "retain", "o")
    _marks(ax, _seen(gone), "forget", "*")
    _marks(ax, _seen(leaving), "forget", "D")
    label(ax, (0.87, 2.05), "pull", "retain", 11, bold=True)
    label(ax, (2.16, 1.0), "push", "forget", 11, bold=True)
    _legend(ax)
    return fig


def _legend(ax: Axes) -> None:
    """Say in words and formulas what is on the sphere."""
    push = "push", "$w_f\\,$ReLU$($BND$_{pro} - K_f)$", "images to forget, until beyond the dashed circle"
    for y, colour, texts in (
        (3.72, "retain", ("pull", "$w_r\\,K_r$", "retained images, each to its own prototype")),
        (2.58, "forget", push),
    ):
        box(ax, (6.75, y), (3.75, 0.98), colour=colour, dashed=colour == "forget")
        stacked(ax, (6.75, y), texts, 0.28)
    for y, mark, text in (
        (1.62, "*", "prototype: the original model's mean output (6.1)"),
        (1.25, "o", "image: the output of the model in training"),
    ):
        _marks(ax, [(4.95, y)], "retain", mark)
        _marks(ax, [(5.2, y)], "forget", "D" if mark == "o" else mark)
        label(ax, (5.42, y), text, pt=9, ha="left")
    label(ax, (5.42, 0.88), "filled: retained classes; open: classes to forget", pt=9, ha="left")
    label(ax, (5.08, 0.51), "θ", pt=12)
    label(ax, (5.42, 0.51), "angle: small is near; the loss measures K (6.2)", pt=9, ha="left")


def _marks(ax: Axes, places: list[Point], colour: str, mark: str) -> None:
    """Draw stars, circles or diamonds, open ones of what is to be forgotten."""
    size = {"*": 16, "o": 9, "D": 8}[mark]
    face, edge = (("white", COLOURS[colour]), (COLOURS[colour], "black"))[colour == "retain"]
    ax.plot(*zip(*places, strict=True), mark, ms=size, color=face, mec=edge, mew=1.6, zorder=5)


def _sphere(ax: Axes) -> None:
    """Draw a sphere, and on it circles of equal height and half circles from pole to pole."""
    x, y = MIDDLE
    ax.add_patch(Circle((x, y), RADIUS, facecolor=mixed("before", 0.9), edgecolor="black", lw=1.5))
    turn = range(-180, 181, 3)
    for k in range(-60, 61, 30):
        for way in ([_direction(t, k) for t in turn], [_direction(k, t / 2) for t in turn]):
            front = [direction for direction in way if direction[2] > 0]
            line(ax, *_seen(*front), colour="before", width=0.5)


def _direction(across: float, up: float, tilt: float = 15.0) -> Array:
    """Return the unit vector so many degrees to the right and up, on a sphere tilted to the eye."""
    x, y, z = np.radians([across, up, tilt])
    flat = np.array([np.cos(y) * np.sin(x), np.sin(y), np.cos(y) * np.cos(x)])
    turn = np.array([[1, 0, 0], [0, np.cos(z), -np.sin(z)], [0, np.sin(z), np.cos(z)]])
    turned: Array = turn @ flat
    return turned


def _around(direction: Array) -> Array:
    """Return unit vectors at right angles to a direction, all around it, (201, 3)."""
    first = np.cross(direction, [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first)
    around: Array = np.stack([first, np.cross(direction, first)], axis=1) @ CIRCLE
    return around.T


def _arc(start: Array, end: Array) -> list[Point]:
    """Return 30 places on the shortest way along the sphere."""
    angle = np.arccos(start @ end / np.linalg.norm(start) / np.linalg.norm(end))
    share = np.linspace(0, 1, 30)[:, None]
    return _seen(*(np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle))


def _seen(*directions: Array) -> list[Point]:
    """Return where directions stand on the canvas."""
    return [(float(x), float(y)) for x, y in MIDDLE + RADIUS * np.stack(directions)[:, :2]]
