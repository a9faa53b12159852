"""Control: GS-LoRA without its sparsity.

    L = CE_r + β · ReLU(BND − CE_f), adapters only

What it lacks against GS-LoRA is what the group sparsity gives. In no published table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from minigslora.methods.base import Training
from minigslora.methods.gslora import GSLoRA, GSLoRAConfig, corrected, corrected_training


@dataclass(frozen=True)
class PlainLoRAConfig(GSLoRAConfig):
    """Settings of GS-LoRA, with no sparsity by default."""

    sparsity: Literal["proximal", "penalty", "none"] = "none"


class PlainLoRA(GSLoRA):
    """Bounded forgetting with low-rank adapters alone."""

    name: ClassVar[str] = "lora"
    published: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = PlainLoRAConfig
    config: PlainLoRAConfig

    @classmethod
    def presets(cls, recipe: str, setting: str) -> tuple[PlainLoRAConfig, Training]:
        """Return the one configuration there is; the released code has no such method."""
        return corrected(cls.Config, setting), corrected_training(setting)
