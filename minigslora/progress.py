"""Progress bars where somebody can see them: in a terminal, and in JupyterLab."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Iterable[T], what: str, watch: bool, leave: bool = True) -> tqdm[T]:
    """Return ``items`` with a progress bar, drawn only if ``watch`` and if somebody can see it.

    A terminal has it on its error stream. JupyterLab shows that stream in red, so there it stands on the
    output stream. Nothing is drawn where a notebook runs with nobody before it, as under nbclient or
    papermill, so that no bar gets into saved outputs.

    Args:
        items: what to go through.
        what: the text in front of the bar.
        watch: whether to show progress at all.
        leave: whether the bar stays when all is done.
    """
    jupyter = _before_a_person()
    stream = sys.stdout if jupyter else sys.stderr
    unseen = None if watch and not jupyter else not watch  # None: unless the stream is a terminal
    return tqdm(items, desc=what, leave=leave, file=stream, disable=unseen)


def _before_a_person() -> bool:
    """Whether this runs in a notebook's kernel whose front end can ask its user for input."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return bool(getattr(getattr(shell, "kernel", None), "_allow_stdin", False))
