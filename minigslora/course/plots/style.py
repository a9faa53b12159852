"""The one style: its colours, what all figures do alike, and how a figure is shown."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

P = ParamSpec("P")

COLOURS: dict[str, str] = {
    "retain": "#0072B2",
    "forget": "#D55E00",
    "old": "#CC79A7",
    "missing": "#E69F00",
    "before": "#999999",
    "good": "#009E73",
}
DASHES = ("--", ":", "-.")
HATCHES = ("", "///", "...")
MARKERS = "osD^vPX*<>"


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
        colours: how many the picture may have; see :func:`png`.
    """
    from IPython.display import display

    display({"text/html": image(fig, alt, colours), "text/plain": alt}, raw=True)  # type: ignore[no-untyped-call]


def image(fig: Figure, alt: str, colours: int = 256, more: str = "") -> str:
    """Return a figure as an HTML element with its text, and close it; ``more`` are further attributes."""
    picture = base64.b64encode(png(fig, 100, colours)).decode()
    return f'<img alt="{html.escape(alt)}"{more} src="data:image/png;base64,{picture}">'


def png(fig: Figure, dpi: int = 110, colours: int = 0) -> bytes:
    """Return a figure as a PNG file's bytes, and close it; 256 colours make it small, 0 keeps all."""
    drawn, small = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(fig)
    if not colours:
        return drawn.getvalue()
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(colours).save(small, "PNG", optimize=True)
    return small.getvalue()


# --- what the figures have in common --------------------------------------------------------------


def figure(pad: float | None = 1.08) -> Callable[[Callable[P, Figure]], Callable[P, Figure]]:
    """Show the texts that a drawing function is given as they are, and lay out what it draws.

    Names of classes and folders are any text. To matplotlib a ``$`` begins a formula, and a broken one ends
    the drawing; a label with a ``_`` in front stays out of the legend.

    Args:
        pad: around the figure, in font sizes; None leaves the layout to the function.
    """

    def decorate(draw: Callable[P, Figure]) -> Callable[P, Figure]:
        @functools.wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
            fig = draw(*map(_escaped, args), **{key: _escaped(value) for key, value in kwargs.items()})
            if pad is not None:
                fig.tight_layout(pad=pad)
            return fig

        return drawn

    return decorate


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


def panels(
    titles: Iterable[str], width: float, height: float, extra: float = 0.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels side by side, each of the given size in inches, with its title."""
    names = list(titles)
    size = (width * len(names) + extra, height)
    fig, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, **options)
    for ax, title in zip(axes[0], names, strict=True):
        ax.set_title(title)
    return fig, list(axes[0])


def legend_beside(ax: Axes, top: float = 1.0) -> None:
    """Put the legend to the right of a panel, where nothing lies under it."""
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, top))


def swatches(colours: Mapping[str, str], faint: float = 1.0) -> dict[str, Any]:
    """Return a legend of plain colours by label; those of what was before may be fainter."""
    alpha = {"before": faint}
    boxes = [Rectangle((0, 0), 1, 1, color=COLOURS[c], alpha=alpha.get(c, 1.0)) for c in colours.values()]
    return {"handles": boxes, "labels": list(colours)}


def bar_places(groups: int, bars: int, width: float) -> list[list[float]]:
    """Return for each of some bars its place in each of some groups, the groups one apart."""
    return [[x + (i - (bars - 1) / 2) * width for x in range(groups)] for i in range(bars)]


def heat_map(ax: Axes, values: Any, columns: Sequence[str], rows: Sequence[str] | bool, **look: Any) -> None:
    """Draw a table as a heat map, its labels upright."""
    sns.heatmap(values, ax=ax, cmap="cividis", xticklabels=list(columns), yticklabels=rows, **look)
    ax.grid(visible=False)
