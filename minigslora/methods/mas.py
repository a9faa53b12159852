"""MAS: memory aware synapses, the pull of L2 with the sensitivity of the outputs as importance.

    Ω_i = mean over x of |∂ ‖z(x)‖² / ∂θ_i|

over the retained images, z the logits. Source: arXiv 1711.09601, equations 2 to 4 and section 4.1.

The released recipe takes the gradient of the mean over whole batches, in which the gradients of
different images cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from minigslora.config import AtLeastOne, NonNegative
from minigslora.methods.finetuning import RELEASED, vectors
from minigslora.methods.l2 import L2, L2Config, Named, gradient_importances
from minigslora.problems.base import Batch, Problem
from minigslora.tasks import Task


@dataclass(frozen=True)
class MASConfig(L2Config):
    """Settings of MAS.

    Attributes:
        weight: λ.
        images: how many images share one gradient.
    """

    weight: NonNegative = 0.005
    images: AtLeastOne = 1


class MAS(L2):
    """Memory aware synapses (arXiv 1711.09601)."""

    name: ClassVar[str] = "mas"
    published: ClassVar[str] = "MAS"
    Config: ClassVar[type[Any]] = MASConfig
    config: MASConfig

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**RELEASED, "weight": 5.0 if single else 0.005, "images": batch}

    def importances(self, problem: Problem, task: Task) -> Named:
        """Return how far each parameter moves the squared norm of the logits."""

        def size(batch: Batch) -> Tensor:
            logits = vectors(problem, problem.forward(batch), batch, "retain")
            return logits.square().sum(dim=1).mean()

        return gradient_importances(problem, task, size, 1, self.config.images)
