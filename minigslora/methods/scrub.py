"""SCRUB: disobey the teacher on forgotten images in some epochs, obey it on retained ones in others.

Rounds of alternating max and min epochs end in min epochs alone. The released recipe has ten rounds of
fifteen epochs, whose max epochs go once through the forgotten images; here all epochs have as many steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minigslora.config import AtLeastOne, NonNegative, Positive, Share
from minigslora.methods.base import ParamGroup, Step, Terms, state
from minigslora.methods.finetuning import Taught
from minigslora.problems.base import Problem, Role
from minigslora.prototypes import softened_kl
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(kw_only=True)
class SCRUB(Taught):
    """Max epochs: L = − KL(p₀ ‖ p) on forgotten images; min epochs: γ · CE_r + α · KL(p₀ ‖ p) on retained.

    p = softmax(z / T), KL times T², T the setting. Source: arXiv 2302.09880, equation 3 and algorithm 1.

    Attributes:
        gamma: γ.
        alpha: α.
        temperature: T, in units of the logits' spread where ``relative``.
        rounds: how often alternating epochs are followed by min epochs; a round has three or more.
        alternating: share of a round's epochs that alternate, max first.
    """

    name: ClassVar[str] = "scrub"
    published: ClassVar[str] = "SCRUB"
    taught: ClassVar[tuple[Role, ...]] = ("retain", "forget")

    gamma: NonNegative = 0.99
    alpha: NonNegative = 1.0
    temperature: Positive = 0.4
    rounds: AtLeastOne = 1
    alternating: Share = 2 / 3

    def loss(self, step: Step) -> Terms:
        """Return the terms of the epoch's loss."""
        role: Role = "forget" if self.maximises(step.progress) else "retain"
        temperature = self.temperature * self.spread
        gap = softened_kl(step.teacher(role), step.student(role), temperature).mean()
        distance = self.temperature**2 * gap  # the published KL is times T², T in the logits' own unit
        if role == "forget":
            return {"disobey": -1.0 * distance}
        retain = step.cross_entropy("retain", self.margin).mean()
        return {"retain": self.gamma * retain, "obey": self.alpha * distance}

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for forgotten images in max epochs, for retained ones in min epochs."""
        return ("forget",) if self.maximises(progress) else ("retain",)

    def maximises(self, progress: Progress) -> bool:
        """Whether this epoch disobeys."""
        rounds = max(1, min(self.rounds, progress.epochs // 3))
        length = progress.epochs // rounds
        place = progress.epoch - length * min(progress.epoch // length, rounds - 1)
        pairs = max(1, round(self.alternating * length / 2))
        return place < min(2 * pairs, length - 1) and place % 2 == 0  # the last one obeys


@dataclass(kw_only=True)
class SCRUBS(SCRUB):
    """L = SCRUB's + ρ · Σ_l ‖θ_l − θ̄_l‖₂ over the parameter tensors l, in max and in min epochs.

    θ̄ starts at the task's first weights and moves by a share of the way after each epoch. Source: an option
    of SCRUB's own released code, after "smoothed gradient descent-ascent"; arXiv 2501.09705 lists it as a
    baseline of its own.

    Attributes:
        smoothing: ρ.
        share: how much of the way the average goes after each epoch.
    """

    name: ClassVar[str] = "scrub-s"
    published: ClassVar[str] = "SCRUB-S"

    smoothing: NonNegative = 0.05
    share: Share = 0.1
    weights: list[nn.Parameter] = state()
    average: list[Tensor] = state()

    def loss(self, step: Step) -> Terms:
        """Add the pull to the average."""
        terms = super().loss(step)
        pairs = zip(self.weights, self.average, strict=True)
        # Vector norms, since their gradient is zero, not undefined, at the start.
        pull = torch.stack([torch.linalg.vector_norm(p - mean) for p, mean in pairs]).sum()
        return {**terms, "smoothing": self.smoothing * pull}

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Start the average at the weights as they are."""
        groups = super().begin(problem, task, streams)
        self.weights = groups[0]["params"]
        self.average = [p.detach().clone() for p in self.weights]
        return groups

    @torch.no_grad()
    def after_step(self, lr: float, progress: Progress) -> None:
        """Move the average after an epoch's last step."""
        if progress.step + 1 == progress.steps:
            for mean, weight in zip(self.average, self.weights, strict=True):
                mean.lerp_(weight, self.share)
