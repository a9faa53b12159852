"""LIRF: the lower half of the model gives knowledge away, and a deposit network takes it.

Upper half and head are the teacher's. Attention transfer away from the teacher is bounded, since the maps
have norm 1. The released recipe takes columns 0 to n − 1 for the n classes to forget whatever these are,
teaches the deposit network the new labels and never optimises it, and takes the mean square over tokens,
with small values cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora.blocks import find_blocks, outputs_of
from minigslora.config import NonNegative, Positive, Share
from minigslora.errors import ModelError
from minigslora.methods.base import ParamGroup, Step, Terms, state, vectors
from minigslora.methods.finetuning import Relabelling, Taught, frozen_copy
from minigslora.problems.base import Batch, Problem, Role
from minigslora.prototypes import softened_kl
from minigslora.rng import Streams
from minigslora.tasks import Task


@dataclass(kw_only=True)
class LIRF(Relabelling, Taught):
    """L = (1 − α) · CE_f(relabelled) + w_keep · KP + w_deposit · (PT + RE) + w_replay · CE_r − w_away · AT.

    On forgotten images and at temperature T,

        KP = α T² KL(teacher ‖ student), the classes to forget left out
        PT = α T² KL(teacher ‖ deposit), only the classes to forget
        RE = (1 − α) CE of the deposit network on true labels
        AT = mean square gap of teacher's and student's normalised attention maps in the middle

    Source: arXiv 2207.05521, section 4; the maps, arXiv 1612.03928, equation 1.

    Attributes:
        alpha: α, the teacher's share against labels.
        temperature: T, in units of the logits' spread where ``relative``.
        away, keep, deposit, replay: weights of the terms.
        faults: the released code's columns, deposit network and attention maps.
    """

    name: ClassVar[str] = "lirf"
    published: ClassVar[str] = "LIRF"
    taught: ClassVar[tuple[Role, ...]] = ("forget",)

    alpha: Share = 0.1
    temperature: Positive = 2.0
    away: NonNegative = 300.0
    keep: NonNegative = 10.0
    deposit: NonNegative = 0.05
    replay: NonNegative = 5.0
    faults: bool = False
    block: str = state()
    kept: Tensor = state()
    gone: Tensor = state()

    def loss(self, step: Step) -> Terms:
        """Return the terms on one batch of retained and forgotten images."""
        problem, shown = step.problem, step.batch.only("forget")
        with outputs_of(problem.model, [self.block]) as now:
            student = step.student("forget")
        with outputs_of(self.networks["teacher"], [self.block]) as before:
            teacher = step.teacher("forget")
        gap = attention_gap(before[self.block], step.batch.part(now[self.block], "forget"), self.faults)
        other = step.relabelled_batch.only("forget") if self.faults else shown
        return {
            "forget": (1 - self.alpha) * step.relabelled("forget", self.margin).mean(),
            "away": -self.away * gap,
            "keep": self.keep * self.divergence(teacher, student, self.kept),
            "deposit": self.deposit * self.recovery(problem, other, teacher),
            "retain": self.replay * step.cross_entropy("retain", self.margin).mean(),
        }

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Open the lower halves of the model and of its deposit network."""
        super().begin(problem, task, streams)
        if "deposit" not in self.networks:
            self.networks["deposit"] = frozen_copy(problem.model)
        self.block, names = lower_half(problem.model)
        kept, gone = list(task.retain), list(task.forget)
        if self.faults:
            gone, kept = list(range(len(gone))), list(range(len(gone), problem.num_classes))
        self.kept = torch.tensor(kept, device=problem.device)
        self.gone = torch.tensor(gone, device=problem.device)
        opened = opened_only(problem.model, names)
        return [{"params": opened + opened_only(self.networks["deposit"], [] if self.faults else names)}]

    def divergence(self, teacher: Tensor, student: Tensor, columns: Tensor) -> Tensor:
        """Return α T² KL(teacher ‖ student) over some classes, from logits (B, C)."""
        temperature = self.temperature * self.spread
        distance = softened_kl(teacher[:, columns], student[:, columns], temperature)
        return self.alpha * self.temperature**2 * distance.mean()

    def recovery(self, problem: Problem, shown: Batch, teacher: Tensor) -> Tensor:
        """Return PT + RE of the deposit network on forgotten images."""
        network = self.networks["deposit"].train(problem.model.training)
        outputs = problem.forward(shown, network)
        logits = vectors(problem, outputs, shown, "forget")
        labels = problem.losses(outputs, shown, margin=False).total.mean()
        return self.divergence(teacher, logits, self.gone) + (1 - self.alpha) * labels


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
