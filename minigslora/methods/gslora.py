"""GS-LoRA: bounded forgetting with group-sparse low-rank adapters (notebooks 04 and 05).

    L = CE_r + β · ReLU(BND − CE_f) + α Σ_g ‖θ_g‖₂                           (4.1)

Source: arXiv 2403.11530, section 3. Each request gets fresh adapters on every FFN; earlier requests'
adapters are frozen and stay separate, so that a request can be audited and revoked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from minigslora import lora, recipes
from minigslora.config import NonNegative, Positive, Share, from_mapping
from minigslora.errors import ConfigError, DataError
from minigslora.losses import bounded_forget_loss, retain_loss
from minigslora.methods.base import Method, ParamGroup, Terms, Training
from minigslora.methods.hold import Hold
from minigslora.problems.base import Batch, Problem, Role, Space
from minigslora.rng import Streams
from minigslora.sparsity import GroupNorm, ProximalStep, alpha_at, group_norm, penalty, zero_group_ratio
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class BoundedConfig:
    """Settings of the bounded forgetting loss, whatever is trained with it.

    Attributes:
        beta: β per task; the last value serves all further tasks.
        bound: BND; a distance above chance (4.3; 9.3 for detection) in units of the logits' spread where
            ``relative``, to which the head's margin is added where CE_f carries it (4.4); else in nats.
        relative: whether bounds and temperatures are in units of the spread of the original model's
            logits, so that one constant serves scale-64 cosine heads and linear heads.
        per_sample: whether each sample (in detection, each object) is bounded, or the batch mean.
        margin_retain, margin_forget: whether CE_r and CE_f carry the head's training margin.
        handicap: what CE_f carries in a margin's place where the head has none, in units of the
            spread; what the margin of the shipped face model is in them. Without either, an image
            whose softmax has reached 1 has no slope to leave by.
    """

    beta: tuple[NonNegative, ...] = (1.0,)
    bound: NonNegative = 2.5
    relative: bool = True
    per_sample: bool = True
    margin_retain: bool = True
    margin_forget: bool = True
    handicap: NonNegative = 2.3


@dataclass(frozen=True)
class GSLoRAConfig(BoundedConfig):
    """Settings of GS-LoRA, beside those of its loss.

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
    """

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


def of_task(values: tuple[float, ...], task: int) -> float:
    """Return the value for task number ``task`` (from 0); the last one serves all further tasks.

    Raises:
        ConfigError: where there is no value at all.
    """
    if not values:
        raise ConfigError("a weight per task is an empty list; give one number, or one for each task")
    return values[min(task, len(values) - 1)]


RELEASED_CHOICES: dict[str, Any] = {
    "relative": False,
    "per_sample": False,
    "sparsity": "penalty",
    "lora_decay": 0.05,
}
"""What all settings of the released code share, where it differs from the corrected recipe."""


def released(kind: type[Any], setting: str, choices: Mapping[str, Any]) -> tuple[Any, Training]:
    """Return the released code's configuration of a setting, and its loop."""
    own = recipes.setting(setting)
    loop = Training(**{"batch_retain": own.batch, "batch_forget": own.batch, **own.loop})
    named = {f.name for f in fields(kind)}
    of_setting = {k: v for k, v in own.choices.items() if k in named}
    return kind(**{**RELEASED_CHOICES, **choices, **of_setting, **recipes.pick(kind, own)}), loop


class GSLoRA(Method):
    """GS-LoRA (arXiv 2403.11530)."""

    name: ClassVar[str] = "gslora"
    published: ClassVar[str] = "GS-LoRA"
    Config: ClassVar[type[Any]] = GSLoRAConfig
    released_choices: ClassVar[Mapping[str, Any]] = {}
    revocable: ClassVar[bool] = True
    config: GSLoRAConfig

    def __init__(self, config: GSLoRAConfig, training: Training) -> None:
        if config.grouping == "matrix" and config.norm != "parameters":
            raise ConfigError(
                f"norm = {config.norm!r} needs whole (A, B) pairs, but grouping = 'matrix' parts them; "
                "use grouping = 'module', or norm = 'parameters'"
            )
        self.config = config
        self.training = training
        self.groups: list[lora.Group] = []
        self.proximal: ProximalStep | None = None
        self.bound = Bound(config.bound)
        self.spread = 1.0
        self.original = (torch.empty(0), torch.empty(0))
        self.hold: Hold | None = None

    @classmethod
    def presets(cls, recipe: str, setting: str) -> tuple[GSLoRAConfig, Training]:
        """Return configuration and training of a recipe and a setting."""
        if recipe == "released":
            return released(cls.Config, setting, cls.released_choices)
        return corrected(cls.Config, setting), corrected_training(setting)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Freeze what is there and attach fresh adapters for ``task``."""
        config = self.config
        layers = lora.inject(problem.model, config.targets)
        lora.attach(problem.model, task.name, config.rank, generator=streams("lora"), layers=layers)
        self.groups = lora.groups(problem.model, task.name, config.grouping)
        self.proximal = ProximalStep(self.groups, config.norm)
        if config.relative:
            self.original = original_logits(problem, task)
            self.spread = spread_over_classes(self.original[0])
        self.bound = bound_for(config, problem, self.spread)
        if config.hold:
            temperature = config.hold_temperature * self.spread
            self.hold = Hold(problem, task, temperature, config.foreign, streams)
        trained = [p for group in self.groups for p in group.parameters]
        return [{"params": trained, "weight_decay": config.lora_decay}]

    def weights(self, progress: Progress) -> dict[str, float]:
        """Return the weight of each loss term at this point of training."""
        config = self.config
        weights = {"retain": 1.0, "forget": of_task(config.beta, progress.task)}
        if config.sparsity == "penalty":
            weights["sparsity"] = self.alpha(progress)
        if config.hold:
            weights["hold"] = config.hold
        return weights

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Return the roles of a step's images; foreign ones can be held, and nothing else."""
        return ("retain", "forget", "foreign") if self.hold else ("retain", "forget")

    def alpha(self, progress: Progress) -> float:
        """Return α now: zero during the sparsity warm-up."""
        warmup = round(self.config.sparsity_warmup * progress.epochs)
        return alpha_at(progress.epoch, self.config.alpha, warmup)

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the terms of (4.1) on one batch of retained and forgotten images."""
        if self.hold:
            batch = self.hold.widened(batch)
        outputs = problem.forward(batch)
        weights = self.weights(progress)
        terms = self.terms(problem, outputs, batch)
        if self.hold:
            terms["hold"] = self.hold.term(problem, outputs, batch)
        if weights.get("sparsity"):
            terms["sparsity"] = penalty(self.groups, self.config.norm)
        terms["loss"] = torch.stack([weights[k] * v for k, v in terms.items()]).sum()
        return terms

    def terms(self, problem: Problem, outputs: Any, batch: Batch) -> Terms:
        """Return the unweighted data terms of the loss."""
        return bounded_terms(self.config, self.bound, problem, outputs, batch)

    def after_step(self, lr: float, progress: Progress) -> None:
        """Take the proximal step (3.2)."""
        if self.config.sparsity == "proximal" and self.proximal is not None:
            self.proximal(lr, self.alpha(progress))

    def end(self, problem: Problem, task: Task) -> None:
        """Freeze the task's adapters."""
        lora.freeze(problem.model, task.name)

    def describe(self, problem: Problem, task: Task) -> dict[str, float]:
        """Return the zero-group ratio, the trained share in percent, and the norms of the update.

        ``norm/NAME`` is ‖s·B·A‖ of one group; a matrix alone has no update, so where each matrix is a
        group it is that of one layer.
        """
        name, grouping = task.name, self.config.grouping
        groups = lora.groups(problem.model, name, grouping)
        updates = lora.groups(problem.model, name, "module") if grouping == "matrix" else groups
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


@dataclass(frozen=True)
class Bound:
    """Where CE_f is to go, in nats.

    Attributes:
        nats: BND (4.3), raised by what is taken off the true logit (4.4).
        handicap: what is taken off it besides the head's margin.
    """

    nats: float
    handicap: float = 0.0


def bound_for(config: BoundedConfig, problem: Problem, spread: float) -> Bound:
    """Return the bound of a configuration on a problem whose logits spread so far."""
    if not config.relative:
        return Bound(config.bound)
    handicap = config.handicap * spread if config.margin_forget and not problem.margin else 0.0
    raised = problem.margin + handicap if config.margin_forget else 0.0
    return Bound(problem.chance + config.bound * spread + raised, handicap)


def bounded_terms(config: BoundedConfig, bound: Bound, problem: Problem, outputs: Any, batch: Batch) -> Terms:
    """Return CE_r and ReLU(BND − CE_f) of (4.1), of the roles that ``batch`` has."""
    terms: Terms = {}
    kept = batch.part(problem.losses(outputs, batch, config.margin_retain).total, "retain")
    if kept is not None:
        terms["retain"] = retain_loss(kept)
    losses = problem.losses(outputs, batch, config.margin_forget, bound.handicap)
    given = (losses.bounded, losses.short_of(bound.nats), losses.plain)
    bounded, short, plain = (batch.part(values, "forget") for values in given)
    if bounded is not None and short is not None and plain is not None:
        of_batch = bounded_forget_loss(bounded, bound.nats, per_sample=False)
        terms["forget"] = (short.mean() if config.per_sample else of_batch) + plain.mean()
    return terms


@torch.no_grad()
def replayed(
    problem: Problem, task: Task, space: Space, model: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a model says of all the task's images in one pass: vectors (N, D) and labels (N,).

    Args:
        problem: the benchmark.
        task: whose images are looked at.
        space: "logits" or "embedding".
        model: the live one by default.

    Raises:
        DataError: where they show nothing.
    """
    found = []
    for batch in problem.replay(task):
        outputs = problem.forward(batch, model)
        found += [problem.vectors(outputs, batch, space, role) for role in batch.sizes]
    parts = [part for part in found if part is not None]
    if not parts:
        raise DataError(
            f"{task.name} has no image with an object of its classes; give retained or forgotten ones"
        )
    vectors, labels = zip(*parts, strict=True)
    return torch.cat(vectors).float(), torch.cat(labels)


def original_logits(problem: Problem, task: Task, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Return (:func:`replayed`) the logits of the original model: the live one without its adapters."""
    with lora.bypassed(problem.model):
        return replayed(problem, task, "logits", model)


def spread_over_classes(logits: Tensor) -> float:
    """Return σ, the standard deviation over classes of logits (N, C), mean over the N."""
    return float(logits.std(dim=1).mean())


def logit_spread(problem: Problem, task: Task, model: nn.Module | None = None) -> float:
    """Return σ of the original model's logits, as the task's images show it.

    Args:
        problem: the benchmark.
        task: whose images are looked at.
        model: the original model; by default the live one without its adapters.
    """
    return spread_over_classes(original_logits(problem, task, model)[0])


def forgotten_so_far(problem: Problem, task: Task) -> Tensor:
    """Return which classes are gone once ``task`` is served, bool (C,)."""
    gone = torch.zeros(problem.num_classes, dtype=torch.bool, device=problem.device)
    gone[list(task.old + task.forget)] = True
    return gone


def corrected(kind: type[Any], setting: str) -> Any:
    """Return the corrected recipe's configuration: the defaults, and the constants of the setting."""
    named = {f.name for f in fields(kind)}
    own = recipes.corrected(setting).choices
    return from_mapping(kind, {key: value for key, value in own.items() if key in named})


def corrected_training(setting: str) -> Training:
    """Return the corrected recipe's loop, with what differs in the setting.

    Settled, with the constants of the configurations, on the population "mini-faces-tuning".
    """
    common = Training(epochs=10, lr=2e-2, weight_decay=0.0, augment=True, dropout=False)
    return replace(common, **recipes.corrected(setting).loop)
