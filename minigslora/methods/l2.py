"""L2: fine-tuning on relabelled and retained images, near the weights of before each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from minigslora.config import NonNegative
from minigslora.methods.base import ParamGroup, Step, Terms, state, trained
from minigslora.methods.finetuning import Relabelling, by_prefix
from minigslora.methods.importances import Named
from minigslora.problems.base import Problem
from minigslora.rng import Streams
from minigslora.tasks import Task


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


@dataclass(kw_only=True)
class L2(Relabelling):
    """L = CE(relabelled forgotten ∪ retained) + λ Σ_k Σ_i Ω_ki (θ_i − θ*_ki)².

    One term k for the pre-trained model and one for each finished request, θ* the weights and Ω how much
    each matters: 1 here; EWC and MAS have their own. Source: arXiv 2501.09705, section 5.1; the same pull is
    the baseline "L2" of arXiv 1612.00796.

    Attributes:
        weight: λ.
        anchors: the terms k.
        streams: the request's.
    """

    name: ClassVar[str] = "l2"
    published: ClassVar[str] = "L2"

    weight: NonNegative = 0.1
    anchors: list[Anchor] = field(init=False, repr=False, compare=False, default_factory=list)
    streams: Streams = state()

    def loss(self, step: Step) -> Terms:
        """Return cross-entropy over all images and the pull to the anchors."""
        cross_entropy = step.relabelled(margin=self.margin).mean()
        pulls = torch.stack([anchor.penalty(step.parameters) for anchor in self.anchors])
        return {"cross_entropy": cross_entropy, "pull": self.weight * pulls.sum()}

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Anchor the pre-trained model, if this is the first request."""
        if task.index == 0:
            self.anchors.clear()  # of another sequence
        groups = super().begin(problem, task, streams)
        self.streams = streams
        if not self.anchors:
            self.end(problem, task)
        return groups

    def end(self, problem: Problem, task: Task) -> None:
        """Add a term for the model as it is."""
        weights = {name: p.detach().clone() for name, p in trained(problem).items()}
        self.anchors.append(Anchor(weights, self.importances(problem, task)))

    def importances(self, problem: Problem, task: Task) -> Named:
        """Return Ω = 1 for every parameter, as scalars."""
        return {name: torch.ones((), device=p.device) for name, p in trained(problem).items()}

    def state_dict(self, problem: Problem) -> dict[str, Tensor]:
        """Return the model's weights and all anchors."""
        saved = super().state_dict(problem)
        for number, anchor in enumerate(self.anchors):
            for name, value in anchor.weights.items():
                saved[f"anchor{number}.weights.{name}"] = value.clone()
                saved[f"anchor{number}.importances.{name}"] = anchor.importances[name].clone()
        return saved

    def load_state_dict(self, problem: Problem, state: Mapping[str, Tensor]) -> None:
        """Put model and anchors into the state of :meth:`state_dict`."""
        parts = by_prefix({k: v.to(problem.device) for k, v in state.items()})
        problem.model.load_state_dict(parts.pop("model"))
        self.anchors = [Anchor(**by_prefix(parts[f"anchor{number}"])) for number in range(len(parts))]
