"""LIRF: the lower half of the model gives knowledge away, and a deposit network takes it.

    L = (1 − α) · CE_f(relabelled) + w_keep · KP + w_deposit · (PT + RE) + w_replay · CE_r − w_away · AT

with, on forgotten images and at temperature T,

    KP = α T² KL(teacher ‖ student), the classes to forget left out
    PT = α T² KL(teacher ‖ deposit), only the classes to forget
    RE = (1 − α) CE of the deposit network on true labels
    AT = mean square gap of teacher's and student's normalised attention maps in the middle

Upper half and head are the teacher's. Attention transfer away from the teacher is bounded, since the maps
have norm 1. A map is the mean square over channels, one value per token (arXiv 1612.03928, equation 1).

Source: arXiv 2207.05521, section 4. The released recipe takes columns 0 to n − 1 for the n classes to
forget whatever these are, teaches the deposit network the new labels and never optimises it, and takes
the mean square over tokens, with small values cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora.config import NonNegative, Positive, Share
from minigslora.errors import ModelError
from minigslora.lora import find_blocks
from minigslora.methods.base import ParamGroup, Terms
from minigslora.methods.finetuning import (
    RELEASED_TAUGHT,
    Relabelling,
    RelabellingConfig,
    Taught,
    TaughtConfig,
    frozen_copy,
    only,
    vectors,
    with_total,
)
from minigslora.problems.base import Batch, Problem
from minigslora.prototypes import prototype_distance
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class LIRFConfig(TaughtConfig, RelabellingConfig):
    """Settings of LIRF.

    Attributes:
        alpha: α, the teacher's share against labels.
        temperature: T, in units of the logits' spread where ``relative``.
        away, keep, deposit, replay: weights of the terms.
        faults: the released code's columns, deposit network and attention maps.
    """

    alpha: Share = 0.1
    temperature: Positive = 2.0
    away: NonNegative = 300.0
    keep: NonNegative = 10.0
    deposit: NonNegative = 0.05
    replay: NonNegative = 5.0
    faults: bool = False


class LIRF(Relabelling, Taught):
    """Learning with recoverable forgetting (arXiv 2207.05521)."""

    name: ClassVar[str] = "lirf"
    published: ClassVar[str] = "LIRF"
    lr: ClassVar[float] = 1e-3
    Config: ClassVar[type[Any]] = LIRFConfig
    config: LIRFConfig
    block: str
    kept: Tensor
    gone: Tensor

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**RELEASED_TAUGHT, "temperature": 10.0, "faults": True}

    @property
    def deposit(self) -> nn.Module:
        """The network that what is removed goes to."""
        return self.networks["deposit"]

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Open the lower halves of the model and of its deposit network."""
        super().begin(problem, task, streams)
        if "deposit" not in self.networks:
            self.networks["deposit"] = frozen_copy(problem.model)
        self.block, names = lower_half(problem.model)
        kept, gone = list(task.retain), list(task.forget)
        if self.config.faults:
            gone, kept = list(range(len(gone))), list(range(len(gone), problem.num_classes))
        self.kept = torch.tensor(kept, device=problem.device)
        self.gone = torch.tensor(gone, device=problem.device)
        opened = opened_only(problem.model, names)
        return [{"params": opened + opened_only(self.deposit, [] if self.config.faults else names)}]

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the terms of the loss on one batch of retained and forgotten images."""
        config, relabelled = self.config, self.relabel(batch)
        outputs, middle = with_middle(problem, batch, problem.model, self.block)
        shown, other = only(batch, "forget"), only(relabelled, "forget")
        with torch.no_grad():
            taught, original = with_middle(problem, shown, self.teacher, self.block)
        said = vectors(problem, taught, shown, "forget")
        now = vectors(problem, outputs, batch, "forget")
        student_middle = only(Batch(middle, batch.targets, batch.sizes), "forget").inputs
        terms = {
            "forget": self.cross_entropy(problem, outputs, relabelled, "forget"),
            "away": attention_gap(original, student_middle, config.faults),
            "keep": self.divergence(said, now, self.kept),
            "deposit": self.recovery(problem, other if config.faults else shown, said),
            "retain": self.cross_entropy(problem, outputs, batch, "retain"),
        }
        weights = {"keep": config.keep, "deposit": config.deposit, "retain": config.replay}
        return with_total(terms, {**weights, "forget": 1 - config.alpha, "away": -config.away})

    def divergence(self, teacher: Tensor, student: Tensor, columns: Tensor) -> Tensor:
        """Return α T² KL(teacher ‖ student) over some classes, from logits (B, C)."""
        temperature = self.config.temperature * self.spread
        distance = prototype_distance(teacher[:, columns], student[:, columns], "kl", temperature)
        return self.config.alpha * self.config.temperature**2 * distance.mean()

    def recovery(self, problem: Problem, shown: Batch, said: Tensor) -> Tensor:
        """Return PT + RE of the deposit network on forgotten images."""
        self.deposit.train(problem.model.training)
        outputs = problem.forward(shown, self.deposit)
        logits = vectors(problem, outputs, shown, "forget")
        labels = problem.losses(outputs, shown, margin=False).total.mean()
        return self.divergence(said, logits, self.gone) + (1 - self.config.alpha) * labels


def lower_half(model: nn.Module) -> tuple[str, list[str]]:
    """Return the last block of the lower half, and the names of the parameters up to there.

    Raises:
        ModelError: for a model of fewer than two Transformer blocks.
    """
    blocks = list(dict.fromkeys(find_blocks(model).values()))
    if len(blocks) < 2:
        raise ModelError(f"lirf parts a model between two Transformer blocks, but this one has {len(blocks)}")
    middle = len(blocks) // 2
    names = [name for name, _ in model.named_parameters()]
    first = next(i for i, name in enumerate(names) if name.startswith(f"{blocks[middle]}."))
    return blocks[middle - 1], names[:first]


def opened_only(model: nn.Module, names: list[str]) -> list[nn.Parameter]:
    """Freeze a model but for some parameters, and return these."""
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return [p for p in model.parameters() if p.requires_grad]


def with_middle(problem: Problem, batch: Batch, model: nn.Module, block: str) -> tuple[Any, Tensor]:
    """Return a model's outputs, and what ``block`` gave on the way, (B, N, D) or (B, H, W, D)."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output)

    handle = model.get_submodule(block).register_forward_hook(keep)
    try:
        outputs = problem.forward(batch, model)
    finally:
        handle.remove()
    return outputs, seen[0]


def attention_gap(teacher: Tensor, student: Tensor, over_tokens: bool = False) -> Tensor:
    """Return AT, the mean square gap of two normalised attention maps, from features (B, N, D)."""
    one, two = (attention_map(features, over_tokens) for features in (teacher, student))
    return (one - two).square().mean()


def attention_map(features: Tensor, over_tokens: bool = False) -> Tensor:
    """Return maps of norm 1, (B, N), or (B, D) over tokens with values below 0.005 cut off."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))  # bf16 is too coarse
    if over_tokens:
        cut = F.normalize(features.square().mean(dim=1).flatten(1), dim=1)
        return cut.where(cut >= 0.005, 0.0)
    return F.normalize(features.square().mean(dim=-1).flatten(1), dim=1)
