"""SCRUB: disobey the teacher on forgotten images in some epochs, obey it on retained ones in others.

    max epochs:  L = − KL(p_teacher ‖ p) on forgotten images
    min epochs:  L = γ · CE_r + α · KL(p_teacher ‖ p) on retained images

with p = softmax(z / T) and KL times T². Rounds of alternating max and min epochs end in min epochs alone.
Source: arXiv 2302.09880, equation 3 and algorithm 1.

The released recipe has ten rounds of fifteen epochs. Its max epochs go once through the forgotten
images; here all epochs have as many steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minigslora.config import AtLeastOne, NonNegative, Positive, Share
from minigslora.methods.base import Terms, Training
from minigslora.methods.finetuning import Taught, TaughtConfig, vectors, with_total
from minigslora.problems.base import Batch, Problem, Role
from minigslora.prototypes import prototype_distance
from minigslora.tasks import Progress


@dataclass(frozen=True)
class SCRUBConfig(TaughtConfig):
    """Settings of SCRUB.

    Attributes:
        gamma: γ.
        alpha: α.
        temperature: T, in units of the logits' spread where ``relative``.
        rounds: how often alternating epochs are followed by min epochs; a round has three or more.
        alternating: share of a round's epochs that alternate, max first.
    """

    gamma: NonNegative = 0.99
    alpha: NonNegative = 1.0
    temperature: Positive = 0.4
    rounds: AtLeastOne = 1
    alternating: Share = 2 / 3


class SCRUB(Taught):
    """Scalable remembering and unlearning unbound (arXiv 2302.09880)."""

    name: ClassVar[str] = "scrub"
    published: ClassVar[str] = "SCRUB"
    Config: ClassVar[type[Any]] = SCRUBConfig
    config: Any

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {"relative": False, "temperature": 2.0, "alpha": 0.001, "rounds": 10}

    @classmethod
    def released_training(cls, batch: int) -> Training:
        """Return ten rounds of fifteen epochs of Adam at a constant rate."""
        return Training(
            epochs=150,
            batch_retain=batch,
            batch_forget=batch,
            lr=cls.released_lr,
            schedule="constant",
            optimizer="adam",
            weight_decay=0.0,
        )

    def maximises(self, progress: Progress) -> bool:
        """Whether this epoch disobeys."""
        rounds = max(1, min(self.config.rounds, progress.epochs // 3))
        length = progress.epochs // rounds
        place = progress.epoch - length * min(progress.epoch // length, rounds - 1)
        pairs = max(1, round(self.config.alternating * length / 2))
        alternates: bool = place < 2 * pairs
        return alternates and place % 2 == 0

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for forgotten images in max epochs, for retained ones in min epochs."""
        return ("forget",) if self.maximises(progress) else ("retain",)

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the terms of the epoch's loss."""
        terms, weights = self.terms(problem, batch, progress)
        return with_total(terms, weights)

    def terms(self, problem: Problem, batch: Batch, progress: Progress) -> tuple[Terms, dict[str, float]]:
        """Return the unweighted terms, and their weights."""
        outputs, config = problem.forward(batch), self.config
        role: Role = "forget" if self.maximises(progress) else "retain"
        temperature = config.temperature * self.spread
        said, now = self.taught(problem, batch, role), vectors(problem, outputs, batch, role)
        # The published KL is of logits over T and is multiplied by T², T in the logits' own unit.
        distance = config.temperature**2 * prototype_distance(said, now, "kl", temperature).mean()
        if role == "forget":
            return {"disobey": distance}, {"disobey": -1.0}
        retain = self.cross_entropy(problem, outputs, batch, "retain")
        return {"retain": retain, "obey": distance}, {"retain": config.gamma, "obey": config.alpha}
