"""Is it really forgotten? One attack a file, with who attacks, what is measured, what it does not prove.

Nothing is compared with zero. Everything is compared with *oracles*: models of the same architecture,
trained from scratch by the same recipe on all images of the retained classes
(:mod:`minigslora.audit.verdict`).

The package is its function, too: ``minigslora.audit(…)`` is :func:`minigslora.audit.run.audit`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from minigslora.audit.klom import klom_of
from minigslora.audit.report import Report
from minigslora.audit.run import audit

__all__ = ["Report", "audit", "klom_of"]


class _Callable(ModuleType):
    """A package that is called as its function: importing it would hide a function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Report:
        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
