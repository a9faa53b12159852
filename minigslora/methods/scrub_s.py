"""SCRUB-S: SCRUB with a pull to the average of the weights so far.

    L += ρ · Σ_l ‖θ_l − θ̄_l‖₂

over the parameter tensors l, in max and in min epochs. θ̄ starts at the task's first weights and moves by a
share of the way after each epoch.

Source: an option of SCRUB's own released code, after "smoothed gradient descent-ascent"; arXiv 2501.09705
lists it as a baseline of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minigslora.config import NonNegative, Share
from minigslora.methods.base import ParamGroup, Terms, Training
from minigslora.methods.scrub import SCRUB, SCRUBConfig
from minigslora.problems.base import Batch, Problem
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class SCRUBSConfig(SCRUBConfig):
    """Settings of SCRUB-S.

    Attributes:
        smoothing: ρ.
        share: how much of the way the average goes after each epoch.
    """

    smoothing: NonNegative = 0.05
    share: Share = 0.1


class SCRUBS(SCRUB):
    """SCRUB with smoothing."""

    name: ClassVar[str] = "scrub-s"
    published: ClassVar[str] = "SCRUB-S"
    Config: ClassVar[type[Any]] = SCRUBSConfig
    config: SCRUBSConfig

    def __init__(self, config: SCRUBSConfig, training: Training) -> None:
        super().__init__(config, training)
        self.weights: list[nn.Parameter] = []
        self.average: list[Tensor] = []

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**super().released(single, batch), "smoothing": 0.1 if single else 0.05}

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Start the average at the weights as they are."""
        groups = super().begin(problem, task, streams)
        self.weights = groups[0]["params"]
        self.average = [p.detach().clone() for p in self.weights]
        return groups

    def terms(self, problem: Problem, batch: Batch, progress: Progress) -> tuple[Terms, dict[str, float]]:
        """Add the pull to the average."""
        terms, weights = super().terms(problem, batch, progress)
        pairs = zip(self.weights, self.average, strict=True)
        # Vector norms, since their gradient is zero, not undefined, at the start.
        pull = torch.stack([torch.linalg.vector_norm(p - mean) for p, mean in pairs]).sum()
        return {**terms, "smoothing": pull}, {**weights, "smoothing": self.config.smoothing}

    @torch.no_grad()
    def after_step(self, lr: float, progress: Progress) -> None:
        """Move the average after an epoch's last step."""
        if progress.step + 1 == progress.steps:
            for mean, weight in zip(self.average, self.weights, strict=True):
                mean.lerp_(weight, self.config.share)
