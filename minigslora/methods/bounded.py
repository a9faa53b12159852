"""The bounded forgetting loss (4.1), whatever is trained with it: adapters or the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass

from minigslora.config import NonNegative
from minigslora.losses import bounded_forget_loss, retain_loss
from minigslora.methods.base import Method, Step, Terms, of_task, state
from minigslora.problems.base import Problem


@dataclass(kw_only=True)
class Bounded(Method):
    """L = CE_r + β · ReLU(BND − CE_f).   arXiv 2403.11530, equations 4 and 5.

    In detection, box losses are added to both terms (:class:`~minigslora.problems.base.Losses`).

    Attributes:
        beta: β per task; the last value serves all further tasks.
        bound: BND; a distance above chance (4.3; 9.3 for detection) in units of the logits' spread where
            ``relative``, to which the head's margin is added where CE_f carries it (4.4); else in nats.
        relative: whether bounds and temperatures are in units of the spread of the original model's
            logits, so that one constant serves scale-64 cosine heads and linear heads.
        per_sample: whether each sample (in detection, each object) is bounded, or the batch mean.
        margin_retain, margin_forget: whether CE_r and CE_f carry the head's training margin.
        handicap: what CE_f carries in a margin's place where the head has none, in units of the
            spread, where ``relative`` and ``margin_forget``; what the margin of the shipped face model
            is in them. Without either, an image whose softmax has reached 1 has no slope to leave by.
        nats: BND in nats, raised by what is taken off the true logit (4.4).
        taken_off: what is taken off it besides the head's margin, in nats.
    """

    beta: tuple[NonNegative, ...] = (1.0,)
    bound: NonNegative = 2.5
    relative: bool = True
    per_sample: bool = True
    margin_retain: bool = True
    margin_forget: bool = True
    handicap: NonNegative = 2.3
    nats: float = state()
    taken_off: float = state()

    def loss(self, step: Step) -> Terms:
        """Return CE_r and β · ReLU(BND − CE_f), of the roles that the batch has."""
        terms: Terms = {}
        if step.has("retain"):
            terms["retain"] = retain_loss(step.cross_entropy("retain", self.margin_retain))
        if step.has("forget"):
            losses, of = step.losses(self.margin_forget, self.taken_off), step.batch.part
            if self.per_sample:
                short = of(losses.short_of(self.nats), "forget").mean()
            else:
                short = bounded_forget_loss(of(losses.bounded, "forget"), self.nats, per_sample=False)
            forget = short + of(losses.plain, "forget").mean()
            terms["forget"] = of_task(self.beta, step.progress.task) * forget
        return terms

    def set_bound(self, problem: Problem, spread: float) -> None:
        """Take the bound of a problem whose logits spread so far."""
        self.nats, self.taken_off = float(self.bound), 0.0
        if self.relative:
            if self.margin_forget and not problem.margin:
                self.taken_off = self.handicap * spread
            raised = problem.margin + self.taken_off if self.margin_forget else 0.0
            self.nats = problem.chance + self.bound * spread + raised
