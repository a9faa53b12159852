"""LwF: learning without forgetting, relabelled images beside the teacher's answers on retained ones.

The paper has no images of what is kept; here the teacher answers on the retained ones. The released recipe
takes the logarithm of a log-softmax, which is not a number, and sets what is not a number to zero: its
L_old is zero whatever the model says, and so is its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.config import NonNegative, Positive
from minigslora.methods.base import Step, Terms
from minigslora.methods.finetuning import Relabelling, Taught
from minigslora.problems.base import Role


@dataclass(kw_only=True)
class LwF(Relabelling, Taught):
    """L = CE_f(relabelled) + w · L_old + λ · CE_r.   arXiv 1606.09282, equations 2 to 4.

    L_old = − Σ_c softmax(z₀ / T)_c · log softmax(z / T)_c, mean over retained images

    Attributes:
        match: w.
        replay: λ.
        temperature: T, in units of the logits' spread where ``relative``.
        twice_log: whether L_old takes the logarithm twice.
    """

    name: ClassVar[str] = "lwf"
    published: ClassVar[str] = "LwF"
    taught: ClassVar[tuple[Role, ...]] = ("retain",)

    match: NonNegative = 1.0
    replay: NonNegative = 2.0
    temperature: Positive = 0.4
    twice_log: bool = False

    def loss(self, step: Step) -> Terms:
        """Return the terms on one batch."""
        old = twice_log if self.twice_log else soft_cross_entropy
        unit = self.temperature * self.spread
        forget = step.relabelled("forget", self.margin).mean()
        match = self.match * old(step.teacher("retain") / unit, step.student("retain") / unit)
        retain = self.replay * step.cross_entropy("retain", self.margin).mean()
        return {"forget": forget, "match": match, "retain": retain}


def soft_cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Return L_old, the mean over rows of logits over T, (B, C)."""
    return F.cross_entropy(student, teacher.softmax(dim=1))


def twice_log(teacher: Tensor, student: Tensor) -> Tensor:
    """Return what the released code computes in place of L_old."""
    # softmax(z)^(1/T) up to its sum, by way of its logarithm: finite gradients where it is zero.
    roots = [F.log_softmax(z, dim=1).exp() for z in (teacher, student)]
    said, now = (F.log_softmax(root, dim=1) for root in roots)
    return -(said * torch.log(now).nan_to_num()).sum(dim=1).mean()
