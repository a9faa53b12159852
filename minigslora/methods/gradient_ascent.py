"""Control: gradient ascent on forgotten images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minigslora.config import NonNegative
from minigslora.methods.base import Step, Terms
from minigslora.methods.finetuning import FineTuning
from minigslora.problems.base import Role
from minigslora.tasks import Progress


@dataclass(kw_only=True)
class GradientAscent(FineTuning):
    """L = − CE_f + w · CE_r.

    Nothing bounds it, and with w = 0, the default, nothing keeps the rest. Sources: "NegGrad" of arXiv
    1911.04933; with w, "NegGrad+" of arXiv 2302.09880, up to scale. In no table of arXiv 2501.09705.

    Attributes:
        replay: w; with zero no retained image is looked at.
    """

    name: ClassVar[str] = "gradient-ascent"
    needs: ClassVar[tuple[Role, ...]] = ("forget",)

    replay: NonNegative = 0.0

    def loss(self, step: Step) -> Terms:
        """Return the terms on one batch."""
        weights = {"retain": self.replay, "forget": -1.0}
        return {
            role: weights[role] * step.cross_entropy(role, self.margin).mean()
            for role in self.wants(step.progress)
        }

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for forgotten images, and for retained ones if they count."""
        return ("retain", "forget") if self.replay else ("forget",)
