"""MAS: memory aware synapses, the pull of L2 with the sensitivity of the outputs as importance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from minigslora.config import AtLeastOne, NonNegative
from minigslora.methods.base import vectors
from minigslora.methods.importances import Named, gradient_importances
from minigslora.methods.l2 import L2
from minigslora.problems.base import Batch, Problem
from minigslora.tasks import Task


@dataclass(kw_only=True)
class MAS(L2):
    """L2's loss with Ω_i = mean over retained x of |∂ ‖z(x)‖² / ∂θ_i|, z the logits.

    Source: arXiv 1711.09601, equations 2 to 4 and section 4.1. The released recipe takes the gradient of the
    mean over whole batches, in which the gradients of different images cancel.

    Attributes:
        images_per_gradient: how many images share one gradient.
    """

    name: ClassVar[str] = "mas"
    published: ClassVar[str] = "MAS"

    weight: NonNegative = 0.005
    images_per_gradient: AtLeastOne = 1

    def importances(self, problem: Problem, task: Task) -> Named:
        """Return how far each parameter moves the squared norm of the logits."""

        def size(batch: Batch) -> Tensor:
            logits = vectors(problem, problem.forward(batch), batch, "retain")
            return logits.square().sum(dim=1).mean()

        return gradient_importances(problem, task, size, 1, self.images_per_gradient)
