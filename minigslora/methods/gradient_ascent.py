"""Control: gradient ascent on forgotten images.

    L = − CE_f + w · CE_r

Nothing bounds it, and with w = 0, the default, nothing keeps the rest. Sources: "NegGrad" of arXiv
1911.04933; with w, "NegGrad+" of arXiv 2302.09880, up to scale. In no table of arXiv 2501.09705.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minigslora.config import NonNegative
from minigslora.methods.base import Terms
from minigslora.methods.finetuning import FineTuning, FineTuningConfig, with_total
from minigslora.problems.base import Batch, Problem, Role
from minigslora.tasks import Progress


@dataclass(frozen=True)
class GradientAscentConfig(FineTuningConfig):
    """Settings of gradient ascent.

    Attributes:
        replay: w; with zero no retained image is looked at.
    """

    replay: NonNegative = 0.0


class GradientAscent(FineTuning):
    """Gradient ascent on forgotten images."""

    name: ClassVar[str] = "gradient-ascent"
    published: ClassVar[str] = ""
    needs: ClassVar[tuple[Role, ...]] = ("forget",)
    lr: ClassVar[float] = 1e-5
    Config: ClassVar[type[Any]] = GradientAscentConfig
    config: GradientAscentConfig

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for forgotten images, and for retained ones if they count."""
        return ("retain", "forget") if self.config.replay else ("forget",)

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the terms of the loss."""
        outputs, wanted = problem.forward(batch), self.wants(progress)
        terms: Terms = {str(role): self.cross_entropy(problem, outputs, batch, role) for role in wanted}
        return with_total(terms, {"forget": -1.0, "retain": self.config.replay})
