"""A figure with a slider: all its states are drawn beforehand, so that it moves without a kernel, too."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import TypeVar

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from minigslora.course.plots.style import png

V = TypeVar("V", int, float, str)

MOVE = (
    "const f = this.closest('figure'), on = this.value; "
    "f.querySelectorAll('img').forEach((m, i) => {"
    "m.style.display = i == on ? '' : 'none'; if (i == on) f.querySelector('output').value = m.title})"
)
"""What the browser does when the slider moves: it shows one picture and hides the others."""


def slider(
    draw: Callable[[V], Figure],
    values: Sequence[V],
    label: str,
    alt: str,
    start: int = 0,
    colours: int = 64,
) -> None:
    """Display a figure that changes with one value, below a notebook's cell, and close what was drawn.

    The output is plain HTML: it moves in Jupyter and on a web page. Where nothing may run, as in a notebook
    that is not trusted, or on paper, the picture of ``start`` is seen. Each value costs 10 to 20 kB, so five
    to nine of them are a good number.

    Args:
        draw: makes the figure of one value; all should be equally large.
        values: what the slider can be set to, from left to right.
        label: what the value is, such as "α".
        alt: what there is to see, in a sentence, for who cannot see it; label and value are added.
        start: the place in ``values`` where the slider stands at first.
        colours: how many each picture may have; see :func:`minigslora.course.plots.png`.

    Raises:
        ValueError: if there are no values, or none at ``start``.
    """
    from IPython.display import display

    if not 0 <= start < len(values):
        raise ValueError(
            f"start = {start} is no place among {len(values)} values; give at least one, and count from 0"
        )
    names = [f"{label} = {value:g}" if isinstance(value, float) else f"{label} = {value}" for value in values]
    pictures = "".join(
        _picture(draw(value), f"{alt} ({name})", name, k == start, colours)
        for k, (value, name) in enumerate(zip(values, names, strict=True))
    )
    bar = (
        f'<input type="range" min="0" max="{len(values) - 1}" step="1" value="{start}" '
        f'aria-label="{html.escape(label)}" oninput="{html.escape(MOVE)}"> '
        f"<output>{html.escape(names[start])}</output>"
    )
    page = f'<figure style="margin: 0">{pictures}<figcaption>{bar}</figcaption></figure>'
    bundle = {"text/html": page, "text/plain": f"{alt} ({names[start]})"}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def _picture(fig: Figure, alt: str, name: str, seen: bool, colours: int) -> str:
    """Return a figure as HTML, and close it."""
    picture = base64.b64encode(png(fig, 100, colours)).decode()
    plt.close(fig)
    look = f'alt="{html.escape(alt)}" title="{html.escape(name)}"' + (
        "" if seen else ' style="display: none"'
    )
    return f'<img {look} src="data:image/png;base64,{picture}">'
