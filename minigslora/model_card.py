"""The README.md that goes with a folder that is handed over: what was forgotten, limits, how to load it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from minigslora import __version__, ledger

MOST = 20
"""Classes that are listed by name."""

LIMITS = """\
- It was made to forget, not trained again without the data: it is neither the same as a model that never \
saw the classes, nor a legal certificate. Accuracy measures what it *answers* about the forgotten, \
`minigslora audit` what it still *knows*; a pass is no proof.
- The list of classes, and the ledger in the header of the weights, name what was forgotten. Where the names \
themselves must not be handed over, they have to be replaced.
- Accuracy on the classes that stay was measured where it was made; measure it on your own images.
"""

READ = """\
Images are RGB: the shorter side is resized to {size} pixels (bicubic), the centre cropped; values in [0, 1] \
less the mean {mean}, divided by the standard deviation {std}.
"""

SQUEEZED = """\
Images are RGB, both sides resized to {size} pixels (bilinear); values in [0, 1] less the mean {mean}, \
divided by the standard deviation {std}.
"""


def model_card(
    title: str,
    entries: Sequence[ledger.Entry],
    classes: Sequence[str],
    loading: str,
    reading: str = "",
    limits: str = LIMITS,
    **front: Any,
) -> str:
    """Return a model card in Markdown, with the front matter that Hugging Face reads.

    Args:
        title: the heading.
        entries: the ledger.
        classes: all names, in the order of the head; () where nobody says them.
        loading: how to load it, in Markdown.
        reading: how images are read.
        limits: what it does not do.
        front: the front matter.
    """
    matter = yaml.safe_dump({**front, "tags": [*front.get("tags", ()), "machine-unlearning", "minigslora"]})
    gone = [name for entry in entries for name in entry.classes]
    forgot = _table(entries) if entries else "Nothing that its ledger says.\n"
    kept = [name for name in classes if name not in gone]
    named = f"{len(classes)} classes: {_listed(kept)} stay" if classes else "The classes are not named"
    return "\n".join(
        (
            f"---\n{matter}---\n\n# {_cell(title)}\n",
            f"Made with minigslora {__version__}. {named}.\n",
            f"## What it forgot\n\n{forgot}",
            f"## What it is for\n\n{_purpose(gone)}",
            f"## Limits\n\n{limits}",
            f"## How to load it\n\n{loading}\n{reading}",
        )
    )


def _purpose(gone: Sequence[str]) -> str:
    if not gone:
        return "It names its classes.\n"
    return (
        "It names the classes that stay, as before. An image of a forgotten class is given the name of some "
        "other one, which means nothing.\n"
    )


def _table(entries: Sequence[ledger.Entry]) -> str:
    lines = ["| request | forgotten | date | method | recipe | from weights |", "|---|---|---|---|---|---|"]
    for e in entries:
        cells = (e.request, _listed(e.classes), e.date, e.method, e.recipe, e.weights[:12])
        lines.append(f"| {' | '.join(cell or '–' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(_cell(name) for name in names[:MOST])
    return shown + (f", … ({len(names)} in all)" if len(names) > MOST else "")


def _cell(text: str) -> str:
    """Return text that is a name in Markdown, and no mark of it."""
    plain = "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|~&$" else c for c in text)
    return " ".join(plain.split())
