"""GS-LoRA: LoRA on the FFNs, a bounded forgetting loss and group sparsity; and its control without sparsity.

The corrected recipe is the default: the head's margin in both cross-entropies, the bound from the spread of
the model's own logits, every sample bounded by itself, exact zeros from a proximal step. The released recipe
reproduces the published code's loss instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from minigslora.config import NonNegative, Positive, Share
from minigslora.errors import ConfigError
from minigslora.methods.adapters import Adapters
from minigslora.methods.base import ParamGroup, Step, Terms, state
from minigslora.methods.bounded import Bounded
from minigslora.methods.hold import Hold
from minigslora.methods.original import original_logits, spread_over_classes
from minigslora.problems.base import Batch, Problem, Role
from minigslora.rng import Streams
from minigslora.sparsity import GroupNorm, ProximalStep, alpha_at, penalty
from minigslora.tasks import Progress, Task


@dataclass(kw_only=True)
class GSLoRA(Bounded, Adapters):
    """L = CE_r + β · ReLU(BND − CE_f) + hold · M + sparsity.   arXiv 2403.11530; (4.1), M is (8.3).

    Sparsity is α Σ_g ‖θ_g‖₂ in the loss (3.1), or, by default, the proximal step (3.2) of α Σ_g √|g| ‖θ_g‖₂
    after each update.

    Attributes:
        sparsity: "proximal" (exact zeros, 3.2), "penalty" (in the loss, 3.1) or "none".
        norm: what the group norm measures.
        alpha: α; of order 1 for the proximal step, the published values for the penalty.
        sparsity_warmup: share of the epochs before α acts (K / epochs).
        hold: weight of (8.3), which holds the whole head's logits on every image.
        hold_temperature: its T, in units of the logits' spread where ``relative``.
        foreign: images of nothing in particular that are held, too, as a share of those in a step.
        spread: σ of the original model's logits where ``relative``; else 1.
        original: its logits (N, C) and labels (N,) on the task's images where ``relative``.
    """

    name: ClassVar[str] = "gslora"
    published: ClassVar[str] = "GS-LoRA"

    sparsity: Literal["proximal", "penalty", "none"] = "proximal"
    norm: GroupNorm = "parameters"
    alpha: NonNegative = 0.1
    sparsity_warmup: Share = 0.2
    hold: NonNegative = 0.0
    hold_temperature: Positive = 0.4
    foreign: NonNegative = 0.0
    spread: float = state()
    original: tuple[Tensor, Tensor] = state()
    _proximal: ProximalStep = state()
    _hold: Hold | None = state()

    def __post_init__(self) -> None:
        self._hold = None
        if self.grouping == "matrix" and self.norm != "parameters":
            raise ConfigError(
                f"norm = {self.norm!r} needs whole (A, B) pairs, but grouping = 'matrix' parts them; "
                "use grouping = 'module', or norm = 'parameters'"
            )

    def loss(self, step: Step) -> Terms:
        """Return the terms of (4.1) on one batch of retained and forgotten images."""
        terms = self.data_terms(step)
        if self._hold:
            terms["hold"] = self.hold * self._hold.term(step.problem, step.outputs, step.batch)
        if self.sparsity == "penalty" and (alpha := self.alpha_now(step.progress)):
            terms["sparsity"] = alpha * penalty(self.groups, self.norm)
        return terms

    def data_terms(self, step: Step) -> Terms:
        """Return the terms that tell what to keep and what to forget."""
        return super().loss(step)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Attach fresh adapters, and take the bound from the original model's logits."""
        trained = super().begin(problem, task, streams)
        self._proximal = ProximalStep(self.groups, self.norm)
        self.spread = 1.0
        if self.relative:
            self.original = original_logits(problem, task)
            self.spread = spread_over_classes(self.original[0])
        self.set_bound(problem, self.spread)
        temperature = self.hold_temperature * self.spread
        self._hold = Hold(problem, task, temperature, self.foreign, streams) if self.hold else None
        return trained

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Return the roles of a step's images; foreign ones can be held, and nothing else."""
        return ("retain", "forget", "foreign") if self._hold else ("retain", "forget")

    def widened(self, batch: Batch) -> Batch:
        """Return the batch with the foreign images that are made of it."""
        return self._hold.widened(batch) if self._hold else batch

    def alpha_now(self, progress: Progress) -> float:
        """Return α: zero during the sparsity warm-up."""
        return alpha_at(progress.epoch, self.alpha, round(self.sparsity_warmup * progress.epochs))

    def after_step(self, lr: float, progress: Progress) -> None:
        """Take the proximal step (3.2)."""
        if self.sparsity == "proximal":
            self._proximal(lr, self.alpha_now(progress))


@dataclass(kw_only=True)
class PlainLoRA(GSLoRA):
    """L = CE_r + β · ReLU(BND − CE_f), adapters only: a control, in no published table.

    What it lacks against GS-LoRA is what the group sparsity gives.
    """

    name: ClassVar[str] = "lora"
    published: ClassVar[str] = ""

    sparsity: Literal["proximal", "penalty", "none"] = "none"
