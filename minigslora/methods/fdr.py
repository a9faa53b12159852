"""FDR: function distance regularisation, relabelled images near the teacher's outputs on retained ones.

    L = CE_f(relabelled) + λ · (mean over retained x of ‖z_teacher(x) − z(x)‖²)^½

Source: arXiv 1805.08289, equations 1 and 2: the distance of two functions is estimated by the root of
the mean square over samples.

The released recipe takes the mean over the batch of each image's distance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minigslora.config import NonNegative
from minigslora.methods.finetuning import RELEASED_TAUGHT, Matching, RelabellingConfig, TaughtConfig


@dataclass(frozen=True)
class FDRConfig(TaughtConfig, RelabellingConfig):
    """Settings of FDR.

    Attributes:
        match: λ.
        each_image: take the mean of the images' distances, not the root of their mean square.
    """

    match: NonNegative = 5.0
    each_image: bool = False


class FDR(Matching):
    """Function distance regularisation (arXiv 1805.08289)."""

    name: ClassVar[str] = "fdr"
    published: ClassVar[str] = "FDR"
    lr: ClassVar[float] = 1e-3
    released_lr: ClassVar[float] = 1e-3
    Config: ClassVar[type[Any]] = FDRConfig
    config: FDRConfig

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**RELEASED_TAUGHT, "match": 50.0, "each_image": True}

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the distance of two functions from their values (B, C) on a batch.

        Vector norms, since their gradient is zero, not undefined, where student and teacher agree.
        """
        gap = student - teacher
        if self.config.each_image:
            each: Tensor = torch.linalg.vector_norm(gap, dim=1)
            return each.mean()
        whole: Tensor = torch.linalg.vector_norm(gap)
        return whole / math.sqrt(len(gap))
