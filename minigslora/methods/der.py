"""DER: dark experience replay, relabelled images beside the teacher's logits on retained ones.

    L = CE_f(relabelled) + λ · mean over retained x of ‖z_teacher(x) − z(x)‖²

Source: arXiv 2004.07211, equation 5. The buffer is the retained images at hand; the logits stored
with them are the pre-trained model's.

The released recipe compares embeddings in place of logits, and sums over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from minigslora.config import NonNegative
from minigslora.methods.finetuning import RELEASED_TAUGHT, Matching, RelabellingConfig, TaughtConfig
from minigslora.problems.base import Space


@dataclass(frozen=True)
class DERConfig(TaughtConfig, RelabellingConfig):
    """Settings of DER.

    Attributes:
        match: λ.
        space: what is compared; the spread of the logits is the unit of logits only.
        over: whether squared distances are averaged or summed over the batch.
    """

    match: NonNegative = 0.5
    space: Space = "logits"
    over: Literal["mean", "sum"] = "mean"


class DER(Matching):
    """Dark experience replay (arXiv 2004.07211)."""

    name: ClassVar[str] = "der"
    published: ClassVar[str] = "DER"
    lr: ClassVar[float] = 1e-3
    released_lr: ClassVar[float] = 1e-3
    Config: ClassVar[type[Any]] = DERConfig
    config: Any

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**RELEASED_TAUGHT, "match": 0.01, "space": "embedding", "over": "sum"}

    @property
    def space(self) -> Space:
        """What is matched."""
        chosen: Space = self.config.space
        return chosen

    @property
    def unit(self) -> float:
        """The logits' spread, or 1 for embeddings."""
        return self.spread if self.space == "logits" else 1.0

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the squared distance of vectors (B, D), averaged or summed over the batch."""
        squares = (student - teacher).square().sum(dim=1)
        return squares.sum() if self.config.over == "sum" else squares.mean()
