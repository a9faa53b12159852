"""What the baselines share: all but the head is trained, forgotten images are relabelled, a teacher is kept.

Source of the protocol: arXiv 2501.09705, section 5.1. The published baselines turn forgetting into
continual learning: a forgotten image gets another label each time it is drawn, and each method keeps
the rest in its own way. Two recipes run on the same loop. ``released`` is the released code's variant,
its faults included where they change a loss; ``corrected`` has the formula of the method's own paper, in
as many updates on the same images as GS-LoRA's corrected recipe. Rates and weights were settled on the
validation split of the population "mini-faces-tuning"; data/results/README.md says how, and which were not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minigslora import lora, recipes
from minigslora.errors import ConfigError, DataError, ModelError
from minigslora.methods.base import Method, ParamGroup, Terms, Training
from minigslora.methods.gslora import corrected_training, logit_spread
from minigslora.problems.base import Batch, Problem, Role, Space
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task


@dataclass(frozen=True)
class FineTuningConfig:
    """Settings that all fine-tuning has.

    Attributes:
        margin: whether cross-entropies carry the head's training margin.
    """

    margin: bool = True


@dataclass(frozen=True)
class RelabellingConfig(FineTuningConfig):
    """Settings of methods that relabel.

    Attributes:
        low_labels: draw new labels from class ids 0 to n − 1, n the number of classes to forget, whatever
            these are, as the released code does.
    """

    low_labels: bool = False


@dataclass(frozen=True)
class TaughtConfig(FineTuningConfig):
    """Settings of methods with a teacher.

    Attributes:
        relative: whether temperatures and distances of logits are in units of the spread of the
            teacher's logits, so that one constant serves scale-64 cosine heads and linear heads.
    """

    relative: bool = True


RELEASED: Mapping[str, Any] = {"low_labels": True}
RELEASED_TAUGHT: Mapping[str, Any] = {**RELEASED, "relative": False}
"""The released code's choices, where they differ from the defaults above."""


class FineTuning(Method):
    """A method that trains everything but the head.

    Attributes:
        needs: roles without images of which it cannot work.
        lr: the corrected recipe's learning rate.
        released_lr: the released code's.
        networks: further networks that a run taken up needs, by name.
    """

    needs: ClassVar[tuple[Role, ...]] = ("retain", "forget")
    lr: ClassVar[float] = 1e-4
    released_lr: ClassVar[float] = 1e-4
    Config: ClassVar[type[Any]] = FineTuningConfig
    config: Any

    def __init__(self, config: Any, training: Training) -> None:
        self.config = config
        self.training = training
        self.networks: dict[str, nn.Module] = {}

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration.

        Args:
            single: whether one request is asked, or a sequence.
            batch: images of each role in a step.
        """
        return {}

    @classmethod
    def released_training(cls, batch: int) -> Training:
        """Return the released code's loop."""
        return Training(batch_retain=batch, batch_forget=batch, lr=cls.released_lr)

    @classmethod
    def presets(cls, recipe: str, setting: str) -> tuple[Any, Training]:
        """Return configuration and training of a recipe and a setting.

        A method that the released code does not have has one recipe.
        """
        if recipe == "released" and cls.published:
            own = recipes.setting(setting)
            choices = cls.released(setting.startswith("single"), own.batch)
            return cls.Config(**choices), cls.released_training(own.batch)
        return cls.Config(), replace(corrected_training(setting), lr=cls.lr)

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Check that the method can work, and open all but the head.

        Raises:
            DataError: where the task lacks images that it needs.
            ModelError: for a model that carries adapters.
        """
        self.check(problem, task)
        if task.index == 0:
            self.start_anew()
        problem.model.requires_grad_(True)
        problem.head.requires_grad_(False)
        return [{"params": list(trained(problem).values())}]

    def start_anew(self) -> None:
        """Drop what was kept of another sequence."""
        self.networks.clear()

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

    def cross_entropy(self, problem: Problem, outputs: Any, batch: Batch, role: Role) -> Tensor:
        """Return the mean cross-entropy of a role's images on the labels that ``batch`` has."""
        losses = batch.part(problem.losses(outputs, batch, self.config.margin).total, role)
        return present(losses, role).mean()

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


class Relabelling(FineTuning):
    """Fine-tuning that gives forgotten images other labels."""

    problems: ClassVar[tuple[str, ...]] = ("classification",)  # an image of several objects has no one label
    Config: ClassVar[type[Any]] = RelabellingConfig
    relabel: Relabel

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Open all but the head, and the stream of labels."""
        groups = super().begin(problem, task, streams)
        self.relabel = Relabel(task, streams, problem.device, self.config.low_labels)
        return groups


class Taught(FineTuning):
    """Fine-tuning beside a frozen copy of the model as it was before the first request."""

    Config: ClassVar[type[Any]] = TaughtConfig

    def __init__(self, config: Any, training: Training) -> None:
        super().__init__(config, training)
        self.spread = 1.0

    @property
    def teacher(self) -> nn.Module:
        """The pre-trained model, frozen."""
        return self.networks["teacher"]

    def begin(self, problem: Problem, task: Task, streams: Streams) -> list[ParamGroup]:
        """Keep the teacher, if this is the first request, and measure its logits."""
        groups = super().begin(problem, task, streams)
        if "teacher" not in self.networks:
            self.networks["teacher"] = frozen_copy(problem.model)
        if self.config.relative:
            self.spread = logit_spread(problem, task, self.teacher)
        return groups

    @torch.no_grad()
    def taught(self, problem: Problem, batch: Batch, role: Role, space: Space = "logits") -> Tensor:
        """Return the teacher's vectors (M, D) of a role's objects, in the order of the student's."""
        part = only(batch, role)
        return vectors(problem, problem.forward(part, self.teacher), part, role, space)


class Matching(Relabelling, Taught):
    """Relabelled images, and the teacher's vectors matched on retained ones.

        L = CE_f(relabelled) + λ · d(teacher, student)

    What d is distinguishes LwF, DER and FDR; each may add terms.
    """

    def step(self, problem: Problem, batch: Batch, progress: Progress) -> Terms:
        """Return the terms of the loss on one batch of retained and forgotten images."""
        terms = self.terms(problem, problem.forward(batch), self.relabel(batch))
        return with_total(terms, self.weights())

    def terms(self, problem: Problem, outputs: Any, batch: Batch) -> Terms:
        """Return the unweighted terms, from a batch that is relabelled."""
        said = self.taught(problem, batch, "retain", self.space)
        now = vectors(problem, outputs, batch, "retain", self.space)
        return {
            "forget": self.cross_entropy(problem, outputs, batch, "forget"),
            "match": self.distance(said / self.unit, now / self.unit),
        }

    def weights(self) -> dict[str, float]:
        """Return the terms' weights."""
        return {"match": self.config.match}

    @property
    def space(self) -> Space:
        """What is matched."""
        return "logits"

    @property
    def unit(self) -> float:
        """What vectors are divided by before they are compared."""
        return self.spread

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return d from vectors (B, D) of the same images."""
        raise NotImplementedError


class Relabel:
    """Gives forgotten images other labels, anew each time, without waiting for the device.

    Args:
        task: whose retained classes with images are drawn from, all alike.
        streams: the task's; labels come from the stream "relabel".
        device: where labels live.
        low_labels: see :class:`RelabellingConfig`.
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
        if (part := batch.part(targets, "forget")) is not None:
            part.copy_(self.low_labels(part) if self.low else self.retained(len(part)))
        return Batch(batch.inputs, targets, batch.sizes)

    def retained(self, count: int) -> Tensor:
        """Draw retained labels (count,)."""
        drawn = torch.randint(len(self.pool), (count,), generator=self.stream, device=self.pool.device)
        return self.pool[drawn]

    def low_labels(self, labels: Tensor) -> Tensor:
        """Draw labels below n: the true one moved on by 1 to 100 places, and by one if it came back."""
        places = torch.randint(1, 101, labels.shape, generator=self.stream, device=labels.device)
        moved = (labels + places) % self.low
        return torch.where(moved == labels, (labels + 1) % self.low, moved)


# --- parts ----------------------------------------------------------------------------------------------


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy that is not trained, in evaluation mode."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def trained(problem: Problem) -> dict[str, nn.Parameter]:
    """Return the parameters that are open, by name."""
    return {name: p for name, p in problem.model.named_parameters() if p.requires_grad}


def by_prefix(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each prefix, their names without it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        prefix, _, rest = key.partition(".")
        parts.setdefault(prefix, {})[rest] = value
    return parts


def present(part: Tensor | None, role: Role) -> Tensor:
    """Return a role's part of a batch that must have it."""
    if part is None:
        raise DataError(f"the batch has no {role} image")
    return part


def only(batch: Batch, role: Role) -> Batch:
    """Return the images of one role as a batch of their own."""
    inputs = present(batch.part(batch.inputs, role), role)
    return Batch(inputs, batch.part(batch.targets, role), {role: len(inputs)})


def vectors(problem: Problem, outputs: Any, batch: Batch, role: Role, space: Space = "logits") -> Tensor:
    """Return the vectors (M, D) of a role's objects."""
    objects = problem.vectors(outputs, batch, space, role)
    return present(None if objects is None else objects[0], role)


def retained_images(problem: Problem, task: Task) -> Iterator[Batch]:
    """Give the task's retained images once, unaugmented, in evaluation mode."""
    return (batch for batch in problem.replay(task) if "retain" in batch.sizes)


def with_total(terms: Terms, weights: Mapping[str, float]) -> Terms:
    """Add "loss", the weighted sum of ``terms``; a term without a weight counts once."""
    total = torch.stack([weights.get(name, 1.0) * value for name, value in terms.items()]).sum()
    return {**terms, "loss": total}
