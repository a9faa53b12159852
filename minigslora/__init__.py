"""minigslora: continual forgetting for pre-trained vision models (GS-LoRA and GS-LoRA++)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minigslora.errors import MiniGSLoRAError

if TYPE_CHECKING:
    from minigslora.audit import audit
    from minigslora.enrolment import enrol
    from minigslora.erasure import Erasure, forget, revoke

__version__ = "0.1.0"

__all__ = ["Erasure", "MiniGSLoRAError", "__version__", "audit", "enrol", "forget", "revoke"]


def __getattr__(name: str) -> Any:
    """Import torch and timm only when something needs them: ``minigslora --help`` does not."""
    if name in ("Erasure", "forget", "revoke"):
        from minigslora import erasure

        return getattr(erasure, name)
    if name == "enrol":
        from minigslora import enrolment

        return enrolment.enrol
    if name == "audit":
        return importlib.import_module("minigslora.audit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
