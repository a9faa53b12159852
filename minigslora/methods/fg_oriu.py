"""FG-OrIU: the features of forgotten images leave their subspace, those of retained ones stay in theirs.

The released recipe reshapes the gradient of B, (D, r), to (r, D) where it has to transpose it, and projects
A of an FFN's second layer, (r, 4 D), reshaped as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora import lora
from minigslora.blocks import class_token, find_blocks, outputs_of
from minigslora.config import NonNegative, Share
from minigslora.device import autocast
from minigslora.errors import DataError, ModelError
from minigslora.methods.adapters import Adapters
from minigslora.methods.base import ParamGroup, Step, Terms, state
from minigslora.problems.base import Problem
from minigslora.rng import Streams
from minigslora.subspaces import basis_of, nuclear_norm, outside
from minigslora.tasks import Task


@dataclass(kw_only=True)
class FGOrIU(Adapters):
    """L = CE_r + leave · Σ_l ‖F_f P_f‖_* + stay · Σ_l ‖F_r (I − P_r P_rᵀ)‖_F.   arXiv 2601.13578.

    F are the class tokens (B, D) after block l, of norm 1; P_f and P_r are bases of the pre-trained model's,
    as they are, on the task's forgotten and retained images. Of adapter matrices with a side of width D,
    gradients are projected, g ← g (I − P_r P_rᵀ), once they are clipped.

    Attributes:
        leave, stay: weights of the terms.
        energy: share of the squared singular values that a basis holds.
        last_only: whether only the last block counts.
        projection: of gradients; "reshaped" as in the released code, or "none".
        margin: whether CE_r carries the head's training margin.
        bases: P_f and P_r of each block.
        projected: matrices whose gradients are projected, whether they are B, and P_r.
    """

    name: ClassVar[str] = "fg-oriu"
    published: ClassVar[str] = "FG-OrIU"
    problems: ClassVar[tuple[str, ...]] = ("classification",)

    leave: NonNegative = 0.1
    stay: NonNegative = 0.01
    energy: Share = 0.99
    last_only: bool = False
    projection: Literal["transposed", "reshaped", "none"] = "transposed"
    margin: bool = True
    bases: dict[str, tuple[Tensor, Tensor]] = state()
    projected: list[tuple[nn.Parameter, bool, Tensor]] = state()

    def loss(self, step: Step) -> Terms:
        """Return the terms on one batch."""
        model, leave, stay = step.problem.model, [], []
        with outputs_of(model, self.bases) as seen:
            retain = step.cross_entropy("retain", self.margin).mean()
        with autocast(step.problem.device, "fp32"):
            for block, (gone, kept) in self.bases.items():
                tokens = F.normalize(class_token(model, seen[block]), dim=1)
                leave.append(nuclear_norm(step.batch.part(tokens, "forget") @ gone))
                stay.append(torch.linalg.vector_norm(outside(step.batch.part(tokens, "retain"), kept)))
        terms = {"leave": self.leave * torch.stack(leave).sum(), "stay": self.stay * torch.stack(stay).sum()}
        return {"retain": retain, **terms}

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Take the bases, and attach fresh adapters."""
        tokens = list(original_tokens(problem, task).items())[-1 if self.last_only else 0 :]
        self.bases = {b: (basis_of(f, self.energy), basis_of(r, self.energy)) for b, (f, r) in tokens}
        trained = super().begin(problem, task, streams)
        homes = find_blocks(problem.model)
        self.projected = [
            (matrix, is_b, self.bases[homes[layer]][1])
            for layer, adapter in lora.adapters(problem.model, task.name)
            if self.projection != "none" and homes.get(layer) in self.bases
            for matrix, is_b in ((adapter.A, False), (adapter.B, True))
        ]
        return trained

    def before_update(self) -> None:
        """Project the gradients."""
        for matrix, is_b, kept in self.projected:
            if matrix.grad is not None:
                matrix.grad = free_of(kept, matrix.grad, is_b, self.projection == "reshaped")


def free_of(kept: Tensor, gradient: Tensor, is_b: bool, reshaped: bool = False) -> Tensor:
    """Return the gradient of A (r, D_in) or B (D_out, r) without what lies in the span of ``kept`` (D, k).

    One without a side of width D stays as it is. ``reshaped`` is the released code's way.
    """
    width = len(kept)
    if not is_b and gradient.shape[1] == width:
        return outside(gradient, kept)
    if is_b and len(gradient) == width:
        if reshaped:
            return outside(gradient.reshape(-1, width), kept).view_as(gradient)
        return outside(gradient.T, kept).T
    if reshaped and not is_b and gradient.shape[1] == 4 * width:
        return outside(gradient.reshape(width, -1).T, kept).reshape(gradient.shape)
    return gradient


@torch.no_grad()
def original_tokens(problem: Problem, task: Task) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the pre-trained model's class tokens on forgotten and on retained images, (N, D), by block.

    Raises:
        DataError: where the task lacks one or the other.
        ModelError: for a model without Transformer blocks.
    """
    for kind, images in (("retained", task.retain_images), ("forgotten", task.forget_images)):
        if not images:
            raise DataError(f"fg-oriu needs {kind} images, but {task.name} has none; give some")
    model, found = problem.model, dict[str, list[Tensor]]()
    blocks = dict.fromkeys(find_blocks(model).values())
    with lora.bypassed(model):
        for batch in problem.replay(task):
            with outputs_of(model, blocks) as seen:
                problem.forward(batch)
            for block, features in seen.items():
                found.setdefault(block, []).append(class_token(model, features))
    if not found:
        raise ModelError(
            f"fg-oriu reads what Transformer blocks give, but this {type(model).__name__} has none that is "
            "known; choose another method, such as gslora"
        )
    kept = len(task.retain_images)
    return {block: ((rows := torch.cat(parts))[kept:], rows[:kept]) for block, parts in found.items()}
