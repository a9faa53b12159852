"""The HTML pages: templates in the folder beside, everything that they are given escaped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from minigslora.course.plots import png
from minigslora.files import write_text


def render(template: str, path: Path, **content: Any) -> Path:
    """Write a page whole, and return its path; figures that it shows are closed."""
    write_text(path, PAGES.get_template(template).render(content))
    return path


def _table(frame: pd.DataFrame) -> Markup:
    """Return a frame as a table in a box that scrolls: its index in front, numbers with one digit."""
    shown = frame.reset_index().to_html(index=False, border=0, float_format=lambda v: f"{v:.1f}", na_rep="–")
    return Markup(f'<div class="box" tabindex="0">{shown}</div>')


def _png(picture: Figure | bytes) -> str:
    """Return a figure, or a PNG file's bytes, in base 64, for a page without outside parts."""
    return base64.b64encode(png(picture) if isinstance(picture, Figure) else picture).decode()


PAGES = Environment(
    loader=PackageLoader("minigslora.reproduction"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PAGES.filters |= {"table": _table, "png": _png}
