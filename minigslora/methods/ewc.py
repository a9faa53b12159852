"""EWC: elastic weight consolidation, the pull of L2 with the Fisher information as importance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.config import AtLeastOne, NonNegative
from minigslora.methods.base import vectors
from minigslora.methods.importances import Named, gradient_importances
from minigslora.methods.l2 import L2
from minigslora.problems.base import Batch, Problem
from minigslora.tasks import Task


@dataclass(kw_only=True)
class EWC(L2):
    """L2's loss with Ω_i = E_x E_{y ~ p(·|x)} (∂ log p(y|x) / ∂θ_i)² over the retained images.

    y is drawn from the model's own (margin-free) distribution. Source: arXiv 1612.00796, equation 3, whose
    λ/2 is λ here; on why y is not the true label, arXiv 1412.1193. The released recipe squares the gradient
    of the mean loss of whole batches on true labels, margin included: a squared mean where the Fisher
    information is a mean of squares.

    Attributes:
        labels: "sampled" from the model, or the "true" ones.
        images_per_gradient: how many images share one gradient.
        draws: how many labels are drawn for each image.
    """

    name: ClassVar[str] = "ewc"
    published: ClassVar[str] = "EWC"

    weight: NonNegative = 10.0
    labels: Literal["sampled", "true"] = "sampled"
    images_per_gradient: AtLeastOne = 1
    draws: AtLeastOne = 1

    def importances(self, problem: Problem, task: Task) -> Named:
        """Return the diagonal of the Fisher information."""
        stream = self.streams("fisher", device=problem.device)

        def surprise(batch: Batch) -> Tensor:
            outputs = problem.forward(batch)
            if self.labels == "true":
                return problem.losses(outputs, batch, self.margin).total.mean()
            logits = vectors(problem, outputs, batch, "retain")
            drawn = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=stream)
            return F.cross_entropy(logits, drawn.flatten())

        return gradient_importances(problem, task, surprise, 2, self.images_per_gradient, self.draws)
