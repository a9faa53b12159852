"""A figure with a slider: all its states are drawn beforehand, so that it moves without a kernel, too."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TypeVar

from matplotlib.figure import Figure

from minigslora.course.plots.style import image

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
    hidden = [' style="display: none"' if k != start else "" for k in range(len(values))]
    pictures = "".join(
        image(draw(value), f"{alt} ({name})", colours, f' title="{html.escape(name)}"{style}')
        for value, name, style in zip(values, names, hidden, strict=True)
    )
    bar = (
        f'<input type="range" min="0" max="{len(values) - 1}" step="1" value="{start}" '
        f'aria-label="{html.escape(label)}" oninput="{html.escape(MOVE)}"> '
        f"<output>{html.escape(names[start])}</output>"
    )
    page = f'<figure style="margin: 0">{pictures}<figcaption>{bar}</figcaption></figure>'
    bundle = {"text/html": page, "text/plain": f"{alt} ({names[start]})"}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]
