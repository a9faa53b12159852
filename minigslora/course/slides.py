"""Notebooks as slides for reveal.js: one HTML file each, with all that it needs in it, so without network.

On the slides are the cells whose metadata say where they go (``slideshow``: slide, subslide, fragment, or
"-" for the same slide), with the outputs that the notebook holds; nothing is executed. reveal.js and MathJax
come out of the packages that ship them, those of the extra ``slides``.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigslora.course.executing import notebook_path, notebooks
from minigslora.course.links import absolute_links
from minigslora.errors import ConfigError, OutputError
from minigslora.files import write_text

TEMPLATE = Path(__file__).with_name("slides.html.j2")
MARK = 'content="minigslora slides"'
FOR_READERS = re.compile(r"^\*\*(Study time|Further reading)\b.*", re.DOTALL | re.MULTILINE)
"""What stands at the end of a notebook's first and last text, for who reads it, and not on its slide."""

SHOWN = 20
"""Lines of code and of what it prints that a slide shows; of more, and of a picture, the code is folded."""

PARTS = {
    "reveal_css": ("sphinx-revealjs", "revealjs/dist/reveal.css"),
    "reveal_js": ("sphinx-revealjs", "revealjs/dist/reveal.js"),
    "mathjax_js": ("sphinx-mathjax-offline", "mathjax/tex-svg.js"),
}
"""What the page is made with: the package that ships it, and the end of its path there."""


def write_slides(names: Sequence[str], out: Path) -> list[Path]:
    """Write one HTML file a notebook, ``NN_name.html``, into a folder.

    Args:
        names: numbers, names or paths of notebooks; all of the course if there are none.
        out: the folder; slides that are there already are written anew.

    Raises:
        ConfigError: for an unknown notebook, one without marked cells, or a package that is missing.
        OutputError: where a file of that name is there that is no slides of this command.
    """
    parts = {name: shipped(*place) for name, place in PARTS.items()}
    chosen = [notebook_path(name) for name in names or notebooks()]
    pages = {out / f"{path.stem}.html": page(path, parts) for path in chosen}
    for target in pages:
        if target.exists() and MARK not in target.read_text(encoding="utf-8", errors="replace"):
            raise OutputError(
                f"{target} is there already and was not written by 'minigslora slides'; nothing was written. "
                "Choose another folder with --out, or move that file away"
            )
    for target, text in pages.items():
        write_text(target, text)
    return list(pages)


def page(notebook: Path, parts: dict[str, str]) -> str:
    """Return the HTML page of a notebook's marked cells."""
    import nbformat
    from nbconvert import SlidesExporter

    book = nbformat.read(notebook, as_version=4)
    book.cells = [cell for cell in book.cells if _is_shown(cell)]
    if not book.cells:
        raise ConfigError(
            f"{notebook.name} has no cell for the slides; in JupyterLab, say with 'Slide Type' (property "
            "inspector, top right) which cells go on them"
        )
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = absolute_links(FOR_READERS.sub("", cell.source))
        else:
            cell.metadata["folded"] = _is_folded(cell)
    template = TEMPLATE.read_text(encoding="utf-8")
    exporter = SlidesExporter(raw_template=template, exclude_input_prompt=True, exclude_output_prompt=True)
    made: str = exporter.from_notebook_node(book, {"parts": parts, "mark": MARK, "title": notebook.stem})[0]
    return made


def _is_shown(cell: Any) -> bool:
    return cell.metadata.get("slideshow", {}).get("slide_type", "skip") not in ("skip", "notes", "")


def _is_folded(cell: Any) -> bool:
    outputs = cell.get("outputs", [])
    lines = sum(len(text.splitlines()) for text in (cell.source, *(o.get("text", "") for o in outputs)))
    return lines > SHOWN or any("text/html" in output.get("data", {}) for output in outputs)


def shipped(package: str, end: str) -> str:
    """Return the text of a file that an installed package ships, without importing the package.

    Raises:
        ConfigError: where the package or the file is missing.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [file for file in files if file.as_posix().endswith(end)]
    if not found:
        raise ConfigError(
            f"slides need {end}, which the package {package} ships; install it, or this package with its "
            "extra: pip install 'minigslora[slides]'"
        )
    text = Path(str(found[0].locate())).read_text(encoding="utf-8")
    return re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE).replace(
        "</script", "<\\/script"
    )
