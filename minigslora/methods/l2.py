"""L2: fine-tuning on relabelled and retained images, near the weights of before.

    L = CE(relabelled forgotten ∪ retained) + λ Σ_k Σ_i Ω_ki (θ_i − θ*_ki)²

with one term k for the pre-trained model and one for each finished request, θ* the weights and Ω how
much each matters. Here Ω = 1; EWC and MAS have their own Ω.

Source: arXiv 2501.09705, section 5.1; the same pull is the baseline "L2" of arXiv 1612.00796. The
released recipe differs in its relabelling and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minigslora.config import NonNegative
from minigslora.methods.base import ParamGroup, Terms, Training
from minigslora.methods.finetuning import (
    RELEASED,
    Relabelling,
    RelabellingConfig,
    by_prefix,
    retained_images,
    trained,
    with_total,
)
from minigslora.problems.base import Batch, Problem
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task

Named = dict[str, Tensor]
"""A tensor for each trained parameter, by the parameter's name."""


@dataclass(frozen=True)
class L2Config(RelabellingConfig):
    """Settings of L2.

    Attributes:
        weight: λ.
    """

    weight: NonNegative = 0.1


@dataclass(frozen=True)
class Anchor:
    """What one term pulls to: weights θ* and importances Ω."""

    weights: Named
    importances: Named

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return Σ Ω (θ − θ*)²."""
        pulls = [
            (self.importances[name] * (parameter - self.weights[name]).square()).sum()
            for name, parameter in parameters.items()
        ]
        return torch.stack(pulls).sum()


class L2(Relabelling):
    """Fine-tuning near the weights of before."""

    name: ClassVar[str] = "l2"
    published: ClassVar[str] = "L2"
    lr: ClassVar[float] = 1e-3
    Config: ClassVar[type[Any]] = L2Config
    config: Any

    def __init__(self, config: Any, training: Training) -> None:
        super().__init__(config, training)
        self.anchors: list[Anchor] = []
        self.streams = Streams(0)

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**RELEASED, "weight": 0.05 if single else 0.1}

    def start_anew(self) -> None:
        """Drop the anchors of another sequence."""
        self.anchors.clear()

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Anchor the pre-trained model, if this is the first request."""
        groups = super().begin(problem, task, streams)
        self.streams = streams
        if not self.anchors:
            self.anchor(problem, task)
        return groups

    def anchor(self, problem: Problem, task: Task) -> None:
        """Add a term for the model as it is."""
        weights = {name: p.detach().clone() for name, p in trained(problem).items()}
        self.anchors.append(Anchor(weights, self.importances(problem, task)))

    def importances(self, problem: Problem, task: Task) -> Named:
        """Return Ω = 1 for every parameter, as scalars."""
        return {name: torch.ones((), device=p.device) for name, p in trained(problem).items()}

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return cross-entropy over all images and the pull to the anchors."""
        relabelled = self.relabel(batch)
        losses = problem.losses(problem.forward(batch), relabelled, self.config.margin).total
        parameters = trained(problem)
        pulls = [anchor.penalty(parameters) for anchor in self.anchors]
        terms = {"cross_entropy": losses.mean(), "pull": torch.stack(pulls).sum()}
        return with_total(terms, {"pull": self.config.weight})

    def end(self, problem: Problem, task: Task) -> None:
        """Anchor the edited model."""
        self.anchor(problem, task)

    def state_dict(self, problem: Problem) -> dict[str, Tensor]:
        """Return the model's weights and all anchors."""
        state = super().state_dict(problem)
        for number, anchor in enumerate(self.anchors):
            for name, value in anchor.weights.items():
                state[f"anchor{number}.weights.{name}"] = value.clone()
                state[f"anchor{number}.importances.{name}"] = anchor.importances[name].clone()
        return state

    def load_state_dict(self, problem: Problem, state: Mapping[str, Tensor]) -> None:
        """Put model and anchors into the state of :meth:`state_dict`."""
        parts = by_prefix(state)
        problem.model.load_state_dict(parts.pop("model"))
        self.anchors = []
        for number in range(len(parts)):
            part = {
                kind: {name: value.to(problem.device) for name, value in named.items()}
                for kind, named in by_prefix(parts[f"anchor{number}"]).items()
            }
            self.anchors.append(Anchor(**part))


def gradient_importances(
    problem: Problem,
    task: Task,
    objective: Callable[[Batch], Tensor],
    power: int,
    images: int = 1,
    draws: int = 1,
) -> Named:
    """Return the mean over retained images of |∂ objective / ∂θ| to a power.

    Args:
        problem: the benchmark and its live model.
        task: whose retained images are looked at.
        objective: a scalar for a batch.
        power: 2 for the Fisher information, 1 for MAS.
        images: how many images share one gradient; one for the papers' definitions. The released code
            takes whole batches, and the sum of |gradient|^power · images over the number of batches.
        draws: how often each image is looked at, where the objective is random.
    """
    parameters = trained(problem)
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    batches = 0
    for _ in range(draws):
        for whole in retained_images(problem, task):
            for part in pieces(whole, images):
                found = torch.autograd.grad(
                    objective(part), list(parameters.values()), allow_unused=True, materialize_grads=True
                )
                batches += 1
                for total, gradient in zip(sums.values(), found, strict=True):
                    total += gradient.abs().pow(power) * len(part.inputs)
    return {name: total / batches for name, total in sums.items()}


def pieces(batch: Batch, images: int) -> list[Batch]:
    """Cut a batch of retained images into batches of at most ``images``."""
    found = []
    for start in range(0, len(batch.inputs), images):
        cut = slice(start, start + images)
        inputs = batch.inputs[cut]
        found.append(Batch(inputs, batch.targets[cut], {"retain": len(inputs)}))
    return found
