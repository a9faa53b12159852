"""Who is asked for what, and who attacks with what (notebooks 09 and 12)."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from minigslora.course.plots.drawing import (
    Point,
    arrow,
    bar,
    box,
    canvas,
    face,
    frame,
    label,
    line,
    mixed,
    polygon,
)

# --- an image in two roles --------------------------------------------------------------------------

STAR, HEART = (0.24, 0.22), (-0.24, -0.2)
"""Places of the two objects in a scene, in its widths from its middle."""


def two_roles() -> Figure:
    """Draw one image with a star, which stays, and a heart, which is to be forgotten, in two roles.

    As a retained image, the query matched to the star is taught its category and its box, and all other
    queries, that at the heart, too, are taught to say background. As an image to forget, only the query
    matched to the heart has a loss, the bounded focal loss of its category; the one matched to the star and
    those matched to nothing are left out.
    """
    fig, ax = canvas(8.8, 4.5)
    label(ax, (1.1, 3.42), "one image", bold=True)
    _scene(ax, (1.1, 2.3), 1.9)
    label(ax, (1.1, 1.08), "the star stays,\nthe heart is to be forgotten", pt=9)
    taught = "matched to the star: category and box", "at the heart: background", "elsewhere: background"
    bounded = (
        "matched to the star: left out",
        "matched to the heart: ReLU(BND − focal)",
        "elsewhere: left out",
    )
    for y, title, colour, star, heart, texts in (
        (3.3, "as a retained image", "retain", True, False, taught),
        (1.1, "as an image to forget", "forget", False, True, bounded),
    ):
        arrow(ax, (2.12, 2.3), (2.4, 2.3), (2.4, y), (2.74, y))
        label(ax, (2.82, y + 0.98), title, colour, bold=True, ha="left")
        label(ax, (5.3, y + 0.98), "queries, and what enters the loss", pt=9, ha="left")
        _scene(ax, (3.62, y), 1.6, "retain" if star else "", "forget" if heart else "")
        for k, text in enumerate(texts):
            _query(ax, (5.45, y + 0.45 - 0.45 * k), text)
        ends = (
            (3.62 + 1.6 * (STAR[0] + (0.21 if star else 0.16)), y + 0.45),
            (3.62 + 1.6 * (HEART[0] + 0.21), y + 1.6 * HEART[1]),
        )
        line(ax, ends[0], (5.28, y + 0.45), colour="retain" if star else "before", dashed=not star, width=1.6)
        if heart:
            line(ax, ends[1], (4.6, ends[1][1]), (5.28, y), colour="forget", width=1.6)
    return fig


def _scene(ax: Axes, at: Point, side: float, star: str = "", heart: str = "") -> None:
    """Draw an image with a star and a heart, each in a box of a colour where one is given."""
    frame(ax, at, (side, side), "before", fill=0.9)
    for place, shape, fill, colour in ((STAR, _star(), "retain", star), (HEART, _heart(), "forget", heart)):
        x, y = at[0] + place[0] * side, at[1] + place[1] * side
        polygon(ax, [(x + 0.16 * side * dx, y + 0.16 * side * dy) for dx, dy in shape], fill, fill=0.6)
        if colour:
            frame(ax, (x, y), (0.42 * side, 0.42 * side), colour, dashed=colour == "forget")


def _star() -> list[Point]:
    """Return the corners of a star of radius 1."""
    turns = [math.pi / 2 + k * math.pi / 5 for k in range(10)]
    return [(r * math.cos(t), r * math.sin(t)) for t, r in zip(turns, (1.0, 0.42) * 5, strict=True)]


def _heart() -> list[Point]:
    """Return the outline of a heart of about radius 1."""
    turns = [2 * math.pi * k / 60 for k in range(60)]
    return [
        (
            math.sin(t) ** 3,
            (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 + 0.1,
        )
        for t in turns
    ]


def _query(ax: Axes, at: Point, text: str) -> None:
    """Draw a query and what of it enters the loss; dotted and grey where nothing does."""
    out = "left out" in text
    look = {"facecolor": "white", "edgecolor": mixed("before", -0.3) if out else "black"}
    ax.add_patch(Circle(at, 0.16, lw=1.4, linestyle=":" if out else "-", **look))
    label(ax, at, "q", pt=9)
    label(ax, (at[0] + 0.28, at[1]), text, pt=9, ha="left")


# --- who attacks ------------------------------------------------------------------------------------

TRIED: dict[str, dict[str, str]] = {
    "only answers": {
        "everyday": "whom does it\nname?",
        "strangers": "do they look like\nunknown people?",
        "membership": "were these images\ntrained on?",
    },
    "the file": {"template": "do its rows find\ntheir images?"},
    "the file and the\noriginal model": {"template": "by the original's\nfeatures?"},
    "the file and images\nof the forgotten": {
        "enrolment": "are two images\none person's?",
        "prototype": "row moved to a\nmean, no training",
        "relearning": "all of it trained,\na few steps",
        "probe": "new classifier on\nall classes' images",
    },
}
"""For what an attacker has, the audits that try it, by name and what they do."""


def attacker() -> Figure:
    """Draw what attackers have, and the audits that try what can be done with it.

    With only answers: everyday, strangers and membership. With the file: template, whether its rows find
    their people's images; with the original model, too, by that model's features. With the file and a few
    images of the forgotten: enrolment, prototype, relearning and probe, which needs images of all classes.
    Every figure is compared with oracles, models that never saw the forgotten.
    """
    fig, ax = canvas(8.8, 4.7)
    label(ax, (1.2, 4.48), "the attacker has", bold=True)
    label(ax, (5.6, 4.48), "the audits that try it", bold=True)
    for (held, audits), y in zip(TRIED.items(), (3.8, 2.77, 1.74, 0.71), strict=True):
        _held(ax, y, held)
        arrow(ax, (2.52, y), (2.82, y))
        for k, (name, text) in enumerate(audits.items()):
            x = 3.58 + 1.49 * k
            box(ax, (x, y), (1.42, 0.84), colour="retain", fill=0.85)
            label(ax, (x, y + 0.26), name, bold=True)
            label(ax, (x, y - 0.12), text, pt=9)
    box(ax, (6.56, 2.26), (4.1, 0.9), colour="before", dashed=True, fill=0.9)
    label(ax, (6.56, 2.26), "Every figure is compared with oracles:\nmodels that never saw the forgotten.")
    return fig


def _held(ax: Axes, y: float, text: str) -> None:
    """Draw what an attacker has at a height: answers, a file, the original model, images."""
    label(ax, (1.06, y), text, pt=9, ha="left")
    if "answers" in text:
        for k, high in enumerate((0.2, 0.5, 0.12, 0.3)):
            bar(ax, (0.2 + 0.13 * k, y - 0.25 + high / 2), (0.1, high), "retain")
    if "file" in text:
        _file(ax, (0.3, y), "before")
    if "original" in text:
        _file(ax, (0.7, y), "retain")
    if "images" in text:
        face(ax, (0.74, y), 0.4, "forget", dashed=True)


def _file(ax: Axes, at: Point, colour: str) -> None:
    """Draw a page with a corner folded."""
    (x, y), fold = at, 0.1
    corners = [(x - 0.16, y - 0.22), (x + 0.16, y - 0.22), (x + 0.16, y + 0.22 - fold)]
    polygon(ax, [*corners, (x + 0.16 - fold, y + 0.22), (x - 0.16, y + 0.22)], colour)
    for k in range(3):
        line(ax, (x - 0.1, y + 0.06 - 0.09 * k), (x + 0.1, y + 0.06 - 0.09 * k), colour=colour, width=1)
