"""GS-LoRA: LoRA on the FFNs, a bounded forgetting loss and group sparsity; and its control without sparsity.

The corrected recipe is the default: the head's margin in both cross-entropies, the bound from the spread of
the model's own logits, every sample bounded by itself, exact zeros from a proximal step. The released recipe
reproduces the published code's loss instead. One request, one adapter: earlier requests' adapters are frozen
and stay separate, so that a request can be audited and revoked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from minigslora import lora
from minigslora.config import NonNegative, Positive, Share
from minigslora.errors import ConfigError
from minigslora.methods.base import ParamGroup, Step, Terms, state
from minigslora.methods.bounded import Bounded
from minigslora.methods.hold import Hold
from minigslora.methods.original import original_logits, spread_over_classes
from minigslora.problems.base import Batch, Problem, Role
from minigslora.rng import Streams
from minigslora.sparsity import GroupNorm, ProximalStep, alpha_at, group_norm, penalty, zero_group_ratio
from minigslora.tasks import Progress, Task


@dataclass(kw_only=True)
class GSLoRA(Bounded):
    """L = CE_r + β · ReLU(BND − CE_f) + α Σ_g ‖θ_g‖₂.   arXiv 2403.11530; (4.1), the last term as (3.2).

    Attributes:
        rank: r of every adapter.
        targets: which linear layers are adapted.
        grouping: what is one group of the sparsity term.
        sparsity: "proximal" (exact zeros, 3.2), "penalty" (in the loss, 3.1) or "none".
        norm: what the group norm measures.
        alpha: α; of order 1 for the proximal step, the published values for the penalty.
        sparsity_warmup: share of the epochs before α acts (K / epochs).
        lora_decay: weight decay of the adapters.
        hold: weight of (8.3), which holds the whole head's logits on every image.
        hold_temperature: its T, in units of the logits' spread where ``relative``.
        foreign: images of nothing in particular that are held, too, as a share of those in a step.
        spread: σ of the original model's logits where ``relative``; else 1.
        original: its logits (N, C) and labels (N,) on the task's images where ``relative``.
    """

    name: ClassVar[str] = "gslora"
    published: ClassVar[str] = "GS-LoRA"
    revocable: ClassVar[bool] = True

    rank: int = 8
    targets: Literal["ffn", "attention", "ffn+attention"] | tuple[str, ...] = "ffn"
    grouping: lora.Grouping = "block"
    sparsity: Literal["proximal", "penalty", "none"] = "proximal"
    norm: GroupNorm = "parameters"
    alpha: NonNegative = 0.1
    sparsity_warmup: Share = 0.2
    lora_decay: NonNegative = 0.0
    hold: NonNegative = 0.0
    hold_temperature: Positive = 0.4
    foreign: NonNegative = 0.0
    groups: list[lora.Group] = state()
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
        return {**self.data_terms(step), **self.adapter_terms(step)}

    def data_terms(self, step: Step) -> Terms:
        """Return the terms that tell what to keep and what to forget."""
        return super().loss(step)

    def adapter_terms(self, step: Step) -> Terms:
        """Return the terms that hold the model in place and keep the adapters sparse."""
        terms: Terms = {}
        if self._hold:
            terms["hold"] = self.hold * self._hold.term(step.problem, step.outputs, step.batch)
        if self.sparsity == "penalty" and (alpha := self.alpha_now(step.progress)):
            terms["sparsity"] = alpha * penalty(self.groups, self.norm)
        return terms

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Freeze what is there and attach fresh adapters for ``task``."""
        layers = lora.inject(problem.model, self.targets)
        lora.attach(problem.model, task.name, self.rank, generator=streams("lora"), layers=layers)
        self.groups = lora.groups(problem.model, task.name, self.grouping)
        self._proximal = ProximalStep(self.groups, self.norm)
        self.spread = 1.0
        if self.relative:
            self.original = original_logits(problem, task)
            self.spread = spread_over_classes(self.original[0])
        self.set_bound(problem, self.spread)
        temperature = self.hold_temperature * self.spread
        self._hold = Hold(problem, task, temperature, self.foreign, streams) if self.hold else None
        trained = [p for group in self.groups for p in group.parameters]
        return [{"params": trained, "weight_decay": self.lora_decay}]

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Return the roles of a step's images; foreign ones can be held, and nothing else."""
        return ("retain", "forget", "foreign") if self._hold else ("retain", "forget")

    def widened(self, batch: Batch) -> Batch:
        """Return the batch with the foreign images that are made of it."""
        return self._hold.widened(batch) if self._hold else batch

    def answered(self, problem: Problem, batch: Batch) -> Any:
        """Return the original model's outputs: the live one's without its adapters."""
        with lora.as_teacher(problem.model):
            return problem.forward(batch)

    def alpha_now(self, progress: Progress) -> float:
        """Return α: zero during the sparsity warm-up."""
        return alpha_at(progress.epoch, self.alpha, round(self.sparsity_warmup * progress.epochs))

    def after_step(self, lr: float, progress: Progress) -> None:
        """Take the proximal step (3.2)."""
        if self.sparsity == "proximal":
            self._proximal(lr, self.alpha_now(progress))

    def end(self, problem: Problem, task: Task) -> None:
        """Freeze the task's adapters."""
        lora.freeze(problem.model, task.name)

    def describe(self, problem: Problem, task: Task) -> dict[str, float]:
        """Return the zero-group ratio, the trained share in percent, and the norms of the update.

        ``norm/NAME`` is ‖s·B·A‖ of one group; a matrix alone has no update, so where each matrix is a
        group it is that of one layer.
        """
        groups = lora.groups(problem.model, task.name, self.grouping)
        whole = self.grouping != "matrix"
        updates = groups if whole else lora.groups(problem.model, task.name, "module")
        total = sum(p.numel() for p in problem.model.parameters())
        return {
            "zero_group_ratio": zero_group_ratio(groups),
            "trained_percent": 100.0 * sum(group.size for group in groups) / total,
            **{f"norm/{g.name}": float(group_norm(g, "product").detach()) for g in updates},
        }

    def state_dict(self, problem: Problem) -> dict[str, Tensor]:
        """Return the adapters."""
        return lora.adapter_state(problem.model)

    def load_state_dict(self, problem: Problem, state: Mapping[str, Tensor]) -> None:
        """Attach saved adapters, frozen."""
        lora.load_adapters(problem.model, state)


@dataclass(kw_only=True)
class PlainLoRA(GSLoRA):
    """L = CE_r + β · ReLU(BND − CE_f), adapters only: a control, in no published table.

    What it lacks against GS-LoRA is what the group sparsity gives.
    """

    name: ClassVar[str] = "lora"
    published: ClassVar[str] = ""

    sparsity: Literal["proximal", "penalty", "none"] = "none"
