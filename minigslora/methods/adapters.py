"""What methods with adapters share: one request, one adapter beside the frozen weights.

Earlier requests' adapters are frozen and stay separate, so that a request can be audited and revoked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from minigslora import lora
from minigslora.config import NonNegative
from minigslora.methods.base import Method, ParamGroup, state
from minigslora.problems.base import Batch, Problem
from minigslora.rng import Streams
from minigslora.sparsity import group_norm, zero_group_ratio
from minigslora.tasks import Task


@dataclass(kw_only=True)
class Adapters(Method):
    """A method that trains adapters; its teacher is the live model without them.

    Attributes:
        rank: r of every adapter.
        targets: which linear layers are adapted.
        grouping: what is one group of adapters.
        lora_decay: their weight decay.
        groups: the request's.
    """

    revocable: ClassVar[bool] = True

    rank: int = 8
    targets: Literal["ffn", "attention", "ffn+attention"] | tuple[str, ...] = "ffn"
    grouping: lora.Grouping = "block"
    lora_decay: NonNegative = 0.0
    groups: list[lora.Group] = state()

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Freeze what is there and attach fresh adapters for ``task``."""
        layers = lora.inject(problem.model, self.targets)
        lora.attach(problem.model, task.name, self.rank, generator=streams("lora"), layers=layers)
        self.groups = lora.groups(problem.model, task.name, self.grouping)
        trained = [p for group in self.groups for p in group.parameters]
        return [{"params": trained, "weight_decay": self.lora_decay}]

    def answered(self, problem: Problem, batch: Batch) -> Any:
        """Return the original model's outputs."""
        with lora.as_teacher(problem.model):
            return problem.forward(batch)

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
