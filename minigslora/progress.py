"""Progress bars where somebody can see them: in a terminal, and in JupyterLab."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Iterable[T], what: str, watch: bool, leave: bool = True) -> tqdm[T]:
    """Return ``items`` with a progress bar after ``what``, drawn only if ``watch`` and somebody can see it.

    A terminal has it on its error stream. JupyterLab shows that stream in red, so there it stands on the
    output stream. Nothing is drawn where a notebook runs with nobody before it, as under nbclient or
    papermill, so that no bar gets into saved outputs. With ``leave`` it stays when all is done.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    jupyter = bool(getattr(kernel, "_allow_stdin", False))  # its front end can ask its user for input
    unseen = None if watch and not jupyter else not watch  # None: unless the stream is a terminal
    return tqdm(items, desc=what, leave=leave, file=sys.stdout if jupyter else sys.stderr, disable=unseen)
