"""FDR: function distance regularisation, relabelled images near the teacher's outputs on retained ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minigslora.config import NonNegative
from minigslora.methods.base import Step, Terms
from minigslora.methods.finetuning import Relabelling, Taught
from minigslora.problems.base import Role


@dataclass(kw_only=True)
class FDR(Relabelling, Taught):
    """L = CE_f(relabelled) + λ · (mean over retained x of ‖(z₀(x) − z(x)) / σ‖²)^½.

    Source: arXiv 1805.08289, equations 1 and 2, with σ = 1; here the spread of the teacher's logits where
    ``relative``. The distance of two functions is estimated by the root of the mean square over samples. The
    released recipe takes the mean over the batch of each image's distance.

    Attributes:
        match: λ.
        each_image: take the mean of the images' distances, not the root of their mean square.
    """

    name: ClassVar[str] = "fdr"
    published: ClassVar[str] = "FDR"
    taught: ClassVar[tuple[Role, ...]] = ("retain",)

    match: NonNegative = 5.0
    each_image: bool = False

    def loss(self, step: Step) -> Terms:
        """Return the terms on one batch."""
        forget = step.relabelled("forget", self.margin).mean()
        teacher, student = step.teacher("retain") / self.spread, step.student("retain") / self.spread
        match = function_distance(teacher, student, self.each_image)
        return {"forget": forget, "match": self.match * match}


def function_distance(teacher: Tensor, student: Tensor, each_image: bool = False) -> Tensor:
    """Return the distance of two functions from their values (B, C) on a batch.

    Vector norms, since their gradient is zero, not undefined, where student and teacher agree.
    """
    gap = student - teacher
    if each_image:
        each: Tensor = torch.linalg.vector_norm(gap, dim=1)
        return each.mean()
    whole: Tensor = torch.linalg.vector_norm(gap)
    return whole / math.sqrt(len(gap))
