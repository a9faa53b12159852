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

from minigslora.contracts import Batch, Problem, Progress, Space, Terms
from minigslora.methods.finetuning import (
    RELEASED_TAUGHT,
    Relabelling,
    RelabellingConfig,
    Taught,
    TaughtConfig,
    vectors,
    with_total,
)


@dataclass(frozen=True)
class DERConfig(TaughtConfig, RelabellingConfig):
    """Settings of DER; none is tuned yet.

    Attributes:
        match: λ.
        space: what is compared; the spread of the logits is the unit of logits only.
        over: whether squared distances are averaged or summed over the batch.
    """

    match: float = 0.1
    space: Space = "logits"
    over: Literal["mean", "sum"] = "mean"


class DER(Relabelling, Taught):
    """Dark experience replay (arXiv 2004.07211)."""

    name: ClassVar[str] = "der"
    published: ClassVar[str] = "DER"
    lr: ClassVar[float] = 1e-3
    Config: ClassVar[type[Any]] = DERConfig
    config: Any

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**RELEASED_TAUGHT, "match": 0.01, "space": "embedding", "over": "sum"}

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the terms of the loss on one batch."""
        outputs, relabelled = problem.forward(batch), self.relabel(batch)
        terms = self.terms(problem, outputs, relabelled)
        return with_total(terms, self.weights())

    def terms(self, problem: Problem, outputs: Any, batch: Batch) -> Terms:
        """Return the unweighted terms."""
        said = self.taught(problem, batch, "retain", self.config.space)
        now = vectors(problem, outputs, batch, "retain", self.config.space)
        unit = self.spread if self.config.space == "logits" else 1.0
        return {
            "forget": self.cross_entropy(problem, outputs, batch, "forget"),
            "match": self.distance(said / unit, now / unit),
        }

    def weights(self) -> dict[str, float]:
        """Return the terms' weights."""
        return {"match": self.config.match}

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the squared distance of vectors (B, D), averaged or summed over the batch."""
        squares = (student - teacher).square().sum(dim=1)
        return squares.sum() if self.config.over == "sum" else squares.mean()
