"""What the baselines share: all but the head is trained, forgotten images are relabelled, a teacher is kept.

Source of the protocol: arXiv 2501.09705, section 5.1. The published baselines turn forgetting into
continual learning: a forgotten image gets another label each time it is drawn, and each method keeps
the rest in its own way. The corrected recipe has the formula of the method's own paper; the released one is
the released code's variant, its faults included where they change a loss (``data/recipes``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.errors import ConfigError, DataError, ModelError
from minigslora.methods.base import Method, ParamGroup, state, trained
from minigslora.methods.original import logit_spread
from minigslora.problems.base import Batch, Problem, Role
from minigslora.rng import Streams
from minigslora.tasks import Task


@dataclass(kw_only=True)
class FineTuning(Method):
    """A method that trains everything but the head.

    Attributes:
        needs: roles without images of which it cannot work.
        margin: whether cross-entropies carry the head's training margin.
        networks: frozen networks that a resumed run needs, by name: the "teacher", LIRF's "deposit".
    """

    needs: ClassVar[tuple[Role, ...]] = ("retain", "forget")

    margin: bool = True
    networks: dict[str, nn.Module] = field(init=False, repr=False, compare=False, default_factory=dict)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Check that the method can work, and open all but the head.

        Raises:
            DataError: where the task lacks images that it needs.
            ModelError: for a model that carries adapters.
        """
        self.check(problem, task)
        if task.index == 0:
            self.networks.clear()  # of another sequence
        problem.model.requires_grad_(True)
        problem.head.requires_grad_(False)
        return [{"params": list(trained(problem).values())}]

    def check(self, problem: Problem, task: Task) -> None:
        """Raise an error where the model or the task's images do not serve."""
        if lora.wrapped(problem.model):
            raise ModelError(
                f"{self.name} trains the weights themselves, but the model carries adapters "
                f"({', '.join(lora.adapter_names(problem.model)) or 'none yet'}); fold them in first: "
                "model = minigslora.lora.fold(model)"
            )
        images = {"retain": task.retain_images, "forget": task.forget_images}
        for role in self.needs:
            if not images.get(role, task.retain_images):
                raise DataError(f"{self.name} needs {role} images, but {task.name} has none; give some")

    def describe(self, problem: Problem, task: Task) -> dict[str, float]:
        """Return the trained share of the model in percent."""
        total = sum(p.numel() for p in problem.model.parameters())
        return {"trained_percent": 100.0 * sum(p.numel() for p in trained(problem).values()) / total}

    def state_dict(self, problem: Problem) -> dict[str, Tensor]:
        """Return the model's weights, and those of the networks kept beside it."""
        networks = {"model": problem.model, **self.networks}
        return {
            f"{name}.{key}": value.detach().clone()
            for name, network in networks.items()
            for key, value in network.state_dict().items()
        }

    def load_state_dict(self, problem: Problem, state: Mapping[str, Tensor]) -> None:
        """Put model and networks into the state of :meth:`state_dict`."""
        parts = by_prefix(state)
        problem.model.load_state_dict(parts.pop("model"))
        for name, part in parts.items():
            self.networks[name] = frozen_copy(problem.model)
            self.networks[name].load_state_dict(part)


@dataclass(kw_only=True)
class Taught(FineTuning):
    """Fine-tuning beside a frozen copy of the model as it was before the first request.

    Attributes:
        relative: whether the teacher's logits are in units of their spread, so that one constant serves
            scale-64 cosine heads and linear heads.
        spread: that unit, the logits' standard deviation over classes; 1 where not ``relative``.
    """

    relative: bool = True
    spread: float = state()

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Keep the teacher, if this is the first request, and measure its logits."""
        groups = super().begin(problem, task, streams)
        if "teacher" not in self.networks:
            self.networks["teacher"] = frozen_copy(problem.model)
        self.spread = logit_spread(problem, task, self.networks["teacher"]) if self.relative else 1.0
        return groups

    def answered(self, problem: Problem, batch: Batch) -> Any:
        """Return the teacher's outputs."""
        return problem.forward(batch, self.networks["teacher"])


@dataclass(kw_only=True)
class Relabelling(FineTuning):
    """Fine-tuning that gives forgotten images other labels; an image of several objects has no one label.

    Attributes:
        low_labels: draw them as the released code does; see :class:`Relabel`.
    """

    problems: ClassVar[tuple[str, ...]] = ("classification",)

    low_labels: bool = False
    _relabel: Relabel = state()

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Open all but the head, and the stream of labels."""
        self._relabel = Relabel(task, streams, problem.device, self.low_labels)
        return super().begin(problem, task, streams)

    def relabel(self, batch: Batch) -> Batch:
        """Return ``batch`` with other labels on its forgotten images."""
        return self._relabel(batch)


class Relabel:
    """Gives forgotten images other labels, anew each time, without waiting for the device.

    Args:
        task: whose retained classes with images are drawn from, all alike.
        streams: the task's; labels come from the stream "relabel".
        device: where labels live.
        low_labels: draw from class ids 0 to n − 1, n the number of classes to forget, whatever these are, as
            the released code does.
    """

    def __init__(self, task: Task, streams: Streams, device: torch.device, low_labels: bool = False) -> None:
        kept = [c for c in task.retain if c not in task.missing] or list(task.retain)
        self.pool = torch.tensor(kept, device=device)
        self.low = len(task.forget) if low_labels else 0
        self.stream = streams("relabel", device=device)

    def __call__(self, batch: Batch) -> Batch:
        """Return ``batch`` with other labels on its forgotten images.

        Raises:
            ConfigError: where an image has no single label, as in detection.
        """
        if not isinstance(batch.targets, Tensor):
            raise ConfigError(
                "relabelling needs one label an image, but this problem's targets are "
                f"{type(batch.targets).__name__}s; choose a method that does not relabel, such as gslora"
            )
        targets = batch.targets.clone()
        if batch.sizes.get("forget"):
            part = batch.part(targets, "forget")
            part.copy_(self.as_released(part) if self.low else self.retained(len(part)))
        return Batch(batch.inputs, targets, batch.sizes)

    def retained(self, count: int) -> Tensor:
        """Draw retained labels (count,)."""
        drawn = torch.randint(len(self.pool), (count,), generator=self.stream, device=self.pool.device)
        return self.pool[drawn]

    def as_released(self, labels: Tensor) -> Tensor:
        """Draw labels below n: the true one moved on by 1 to 100 places, and by one if it came back."""
        places = torch.randint(1, 101, labels.shape, generator=self.stream, device=labels.device)
        moved = (labels + places) % self.low
        return torch.where(moved == labels, (labels + 1) % self.low, moved)


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy that is not trained, in evaluation mode."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def by_prefix(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each prefix, their names without it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        prefix, _, rest = key.partition(".")
        parts.setdefault(prefix, {})[rest] = value
    return parts
