"""EWC: elastic weight consolidation, the pull of L2 with the Fisher information as importance.

    F_i = E_x E_{y ~ p(·|x)} (∂ log p(y|x) / ∂θ_i)²

over the retained images, y drawn from the model's own (margin-free) distribution. Source: arXiv
1612.00796, equation 3, whose λ/2 is λ here; on why y is not the true label,
arXiv 1412.1193.

The released recipe squares the gradient of the mean loss of whole batches on true labels, margin
included: a squared mean where the Fisher information is a mean of squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.config import AtLeastOne, NonNegative
from minigslora.methods.finetuning import RELEASED, vectors
from minigslora.methods.l2 import L2, L2Config, Named, gradient_importances
from minigslora.problems.base import Batch, Problem
from minigslora.tasks import Task


@dataclass(frozen=True)
class EWCConfig(L2Config):
    """Settings of EWC.

    Attributes:
        weight: λ.
        labels: "sampled" from the model, or the "true" ones.
        images: how many images share one gradient.
        draws: how many labels are drawn for each image.
    """

    weight: NonNegative = 10.0
    labels: Literal["sampled", "true"] = "sampled"
    images: AtLeastOne = 1
    draws: AtLeastOne = 1


class EWC(L2):
    """Elastic weight consolidation (arXiv 1612.00796)."""

    name: ClassVar[str] = "ewc"
    published: ClassVar[str] = "EWC"
    Config: ClassVar[type[Any]] = EWCConfig
    config: EWCConfig

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**RELEASED, "weight": 10.0, "labels": "true", "images": batch}

    def importances(self, problem: Problem, task: Task) -> Named:
        """Return the diagonal of the Fisher information."""
        stream = self.streams("fisher", device=problem.device)

        def surprise(batch: Batch) -> Tensor:
            outputs = problem.forward(batch)
            if self.config.labels == "true":
                return problem.losses(outputs, batch, self.config.margin).total.mean()
            logits = vectors(problem, outputs, batch, "retain")
            drawn = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=stream)
            return F.cross_entropy(logits, drawn.flatten())

        return gradient_importances(problem, task, surprise, 2, self.config.images, self.config.draws)
