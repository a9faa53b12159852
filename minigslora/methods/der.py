"""DER and DER++: dark experience replay, relabelled images beside the teacher's logits on retained ones.

The buffer is the retained images at hand; the logits stored with them are the pre-trained model's. The
released recipe compares embeddings in place of logits, and sums over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from minigslora.config import NonNegative
from minigslora.methods.base import Step, Terms
from minigslora.methods.finetuning import Relabelling, Taught
from minigslora.problems.base import Role, Space
from minigslora.tasks import Progress


@dataclass(kw_only=True)
class DER(Relabelling, Taught):
    """L = CE_f(relabelled) + λ · mean over retained x of ‖(z₀(x) − z(x)) / σ‖².   arXiv 2004.07211, (5).

    σ is the spread of the teacher's logits where ``relative``; else, and for embeddings, 1, as in the paper.

    Attributes:
        match: λ.
        space: what is compared.
        over: whether squared distances are averaged or summed over the batch.
    """

    name: ClassVar[str] = "der"
    published: ClassVar[str] = "DER"
    taught: ClassVar[tuple[Role, ...]] = ("retain",)

    match: NonNegative = 0.5
    space: Space = "logits"
    over: Literal["mean", "sum"] = "mean"

    def loss(self, step: Step) -> Terms:
        """Return the terms on one batch."""
        forget = step.relabelled("forget", self.margin).mean()
        unit = self.spread if self.space == "logits" else 1.0
        teacher = step.teacher("retain", self.space) / unit
        student = step.student("retain", self.space) / unit
        distances = (student - teacher).square().sum(dim=1)  # (B,)
        match = distances.sum() if self.over == "sum" else distances.mean()
        return {"forget": forget, "match": self.match * match}


@dataclass(kw_only=True)
class DERPlusPlus(DER):
    """L = DER's + λ' · CE on a second draw of retained images.   arXiv 2004.07211, equation 6.

    Attributes:
        replay: λ'.
    """

    name: ClassVar[str] = "der++"
    published: ClassVar[str] = "DER++"

    replay: NonNegative = 1.0

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for two draws of retained images."""
        return ("retain", "forget", "retain2")

    def loss(self, step: Step) -> Terms:
        """Add cross-entropy on the second draw."""
        terms = super().loss(step)
        return {**terms, "replay": self.replay * step.cross_entropy("retain2", self.margin).mean()}
