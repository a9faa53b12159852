"""The one style, its colours, and how a figure is shown."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec, TypeVar

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

COLOURS: dict[str, str] = {
    "retain": "#0072B2",
    "forget": "#D55E00",
    "old": "#CC79A7",
    "missing": "#E69F00",
    "before": "#999999",
    "good": "#009E73",
}


def style() -> None:
    """Set the one style; called by every notebook's set-up and by reports."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=list(COLOURS.values()),
        rc={"figure.dpi": 100, "figure.figsize": (7, 3.5), "axes.titlesize": 11, "axes.titleweight": "bold"},
    )


def show(fig: Figure, alt: str, colours: int = 256) -> None:
    """Display a figure below a notebook's cell with a text for who cannot see it, and close it.

    Args:
        fig: the figure.
        alt: what there is to see in it, in a sentence.
        colours: reduce the picture to so many colours, which makes it three times smaller; 0 keeps all.
    """
    from IPython.display import display
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(fig)
    if colours:
        drawn = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB").quantize(colours)
        buffer = io.BytesIO()
        drawn.save(buffer, format="png", optimize=True)
    picture = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
    display({"text/html": image, "text/plain": alt}, raw=True)  # type: ignore[no-untyped-call]


def verbatim(draw: Callable[P, T]) -> Callable[P, T]:
    """Let a function that draws show the texts it is given as they are.

    Names of classes and folders are any text. To matplotlib a ``$`` begins a formula, and a broken one ends
    the drawing; a label with a ``_`` in front stays out of the legend.
    """

    @functools.wraps(draw)
    def shown(*args: P.args, **kwargs: P.kwargs) -> T:
        return draw(*map(_escaped, args), **{key: _escaped(value) for key, value in kwargs.items()})

    return shown


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        unseen = "\u200b" if value.startswith("_") else ""
        drawable = value.encode(errors="replace").decode()  # file names may hold bytes that are no character
        return unseen + drawable.replace("$", r"\$")
    if isinstance(value, Mapping):
        return {_escaped(key): _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_escaped, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _escaped(getattr(value, f.name)) for f in fields(value)})
    return value
