"""LwF: learning without forgetting, relabelled images beside the teacher's answers on retained ones.

    L = CE_f(relabelled) + w · L_old + λ · CE_r
    L_old = − Σ_c softmax(z_teacher / T)_c · log softmax(z / T)_c

Source: arXiv 1606.09282, equations 2 to 4. The paper has no images of what is kept; here the teacher
answers on the retained ones.

The released recipe takes the logarithm of a log-softmax, which is not a number, and sets what is not a
number to zero: its L_old is zero whatever the model says, and so is its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.config import NonNegative, Positive
from minigslora.methods.base import Terms
from minigslora.methods.finetuning import RELEASED_TAUGHT, Matching, RelabellingConfig, TaughtConfig
from minigslora.problems.base import Batch, Problem


@dataclass(frozen=True)
class LwFConfig(TaughtConfig, RelabellingConfig):
    """Settings of LwF.

    Attributes:
        match: w.
        replay: λ.
        temperature: T, in units of the logits' spread where ``relative``.
        twice_log: whether L_old takes the logarithm twice.
    """

    match: NonNegative = 1.0
    replay: NonNegative = 2.0
    temperature: Positive = 0.4
    twice_log: bool = False


class LwF(Matching):
    """Learning without forgetting (arXiv 1606.09282)."""

    name: ClassVar[str] = "lwf"
    published: ClassVar[str] = "LwF"
    lr: ClassVar[float] = 1e-3
    Config: ClassVar[type[Any]] = LwFConfig
    config: LwFConfig

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        own = {"match": 0.5, "replay": 2.0 if single else 10.0, "temperature": 2.0, "twice_log": True}
        return {**RELEASED_TAUGHT, **own}

    @property
    def unit(self) -> float:
        """The temperature of the softmax."""
        return float(self.config.temperature) * self.spread

    def terms(self, problem: Problem, outputs: Any, batch: Batch) -> Terms:
        """Add cross-entropy on retained images."""
        retain = self.cross_entropy(problem, outputs, batch, "retain")
        return {**super().terms(problem, outputs, batch), "retain": retain}

    def weights(self) -> dict[str, float]:
        """Add the weight of retained images."""
        return {**super().weights(), "retain": self.config.replay}

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return L_old from logits over T, (B, C)."""
        return (twice_log if self.config.twice_log else soft_cross_entropy)(teacher, student)


def soft_cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Return L_old, the mean over rows of logits over T, (B, C)."""
    return F.cross_entropy(student, teacher.softmax(dim=1))


def twice_log(teacher: Tensor, student: Tensor) -> Tensor:
    """Return what the released code computes in place of L_old."""
    # softmax(z)^(1/T) up to its sum, by way of its logarithm: finite gradients where it is zero.
    roots = [F.log_softmax(z, dim=1).exp() for z in (teacher, student)]
    said, now = (F.log_softmax(root, dim=1) for root in roots)
    return -(said * torch.log(now).nan_to_num()).sum(dim=1).mean()
