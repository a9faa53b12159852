"""Classification: images with one label each, and a model with a classifier on an embedding."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torchvision.transforms import v2

from minigslora import lora
from minigslora.datasets.images import DataSet, ImageSet, Normalising, augment
from minigslora.device import Precision, autocast, choose_attention, pick_device
from minigslora.errors import ConfigError, ModelError
from minigslora.metrics import class_accuracies, task_metrics
from minigslora.models import fresh
from minigslora.models.checkpoint import require_finite
from minigslora.models.head_slicing import FullHead, classifier, restored
from minigslora.models.heads import CosineHead, margin_logits
from minigslora.problems.base import Batch, Losses, Problem, Role, Space
from minigslora.rng import Streams
from minigslora.tasks import Task

Split = Literal["train", "val", "test"]


@dataclass
class Outputs:
    """What one forward pass gives: embedding (B, D) and margin-free logits (B, C), in float32."""

    embedding: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Outside:
    """What a sliced model knows beside the task's classes, for the outside check (8.2).

    Attributes:
        images: test images of classes outside the task; their labels are rows of the whole head.
        head: the whole head.
    """

    images: ImageSet
    head: FullHead

    @classmethod
    def of(cls, images: ImageSet, head: FullHead) -> Outside:
        """Make the check from images whose classes are known to the whole head by name."""
        places = {name: head.classes.index(name) for name in head.outside}
        if strange := [name for name in images.classes if name not in places]:
            raise ModelError(
                f"{strange[0]!r} is not among the {len(places)} classes that the whole head has outside "
                "the task; give images of those classes"
            )
        rows = torch.tensor([places[name] for name in images.classes])
        labels = rows.to(images.labels.device)[images.labels]
        return cls(ImageSet(images.images, labels, head.classes), head)


class Classification(Normalising, Problem):
    """Any model with timm's interface (``forward_features``, ``forward_head``) on a data set.

    Args:
        model: the pre-trained model; moved to the device, and edited in place by methods.
        data: the data set; its classes are in the order of the model's head.
        mean, std: per-channel normalisation of images in [0, 1].
        device: "auto", "cpu" or "cuda".
        precision: "auto" trains in bf16 where the hardware has it. Evaluation is in float32.
        outside: what the model knew beside these classes; evaluation then measures it, too.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        outside: Outside | None = None,
    ) -> None:
        self.device = pick_device(str(device))
        # A model in another precision than float32 computes in its own.
        self.precision: Precision = precision if _kind(model) == torch.float32 else "fp32"
        self.model = model.to(self.device)
        self.data = data.to(self.device)
        self.normalise_by(mean, std, self.device)
        self.num_classes = len(data.classes)
        self.outside = Outside(outside.images.to(self.device), outside.head) if outside else None
        choose_attention(model, self.device, precision)
        if (rows := len(self.head.weight)) != self.num_classes:
            raise ModelError(
                f"the model's head has {rows} classes but {data.name} has {self.num_classes}; "
                "give a model trained on these classes, in the folders' alphabetical order"
            )
        require_finite(model.state_dict(), "the model")

    @property
    def head(self) -> nn.Linear | CosineHead:
        """The classifier, whose rows are the classes."""
        return classifier(self.model)

    @property
    def margin(self) -> float:
        """The most that the head's training margin adds to a cross-entropy, in nats."""
        return self.head.scale * self.head.margin if isinstance(self.head, CosineHead) else 0.0

    @property
    def directional(self) -> bool:
        """Whether the head is one of cosines."""
        return isinstance(self.head, CosineHead)

    @property
    def whole_head(self) -> tuple[nn.Module, tuple[int, ...]]:
        """The head that the task's was cut from (8.1), and its row of each class; its own where none was."""
        if self.outside is None:
            return self.head, tuple(range(self.num_classes))
        return self.outside.head.around(self.model).requires_grad_(False), self.outside.head.rows

    def training_images(self, classes: Sequence[int]) -> tuple[int, ...]:
        """Return the indices of all training images of some classes."""
        wanted = torch.tensor(list(classes), device=self.device)
        return tuple(torch.isin(self.data.train.labels, wanted).nonzero().flatten().tolist())

    def begin(self, task: Task) -> None:
        """Nothing to prepare: each image has one label."""

    def batch(self, indices: Mapping[Role, Tensor], moves: torch.Generator | None = None) -> Batch:
        """Return training images by index, normalised, and augmented where a stream is given.

        Foreign ones are taken from the data's own, and have targets that mean nothing.
        """
        parts = []
        for role, rows in indices.items():
            if role == "foreign" and self.data.foreign is not None:
                parts.append((self.data.foreign.images[rows], torch.zeros_like(rows)))
            else:
                parts.append((self.data.train.images[rows], self.data.train.labels[rows]))
        images, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        if moves is not None:
            images = augment(images, moves, self.data.mirrored)
        sizes = {role: len(rows) for role, rows in indices.items()}
        return Batch(self.normalise(images), targets, sizes)

    def forward(self, batch: Batch, model: nn.Module | None = None) -> Outputs:
        """Return embedding and logits of ``model`` (the live one by default)."""
        return self.outputs(batch.inputs, model or self.model)

    def outputs(self, inputs: Tensor, model: nn.Module) -> Outputs:
        """Return embedding and logits of ``model`` for normalised images (B, 3, H, W)."""
        network: Any = model
        features = network.forward_features(inputs.to(_kind(model)))
        embedding = network.forward_head(features, pre_logits=True)
        logits = network.get_classifier()(embedding)
        return Outputs(embedding.float(), logits.float())

    def losses(self, outputs: Outputs, batch: Batch, margin: bool = True, handicap: float = 0.0) -> Losses:
        """Return cross-entropies on true labels as the bounded part; the plain part is zero."""
        logits = outputs.logits
        if margin:
            logits = margin_logits(self.head, logits, batch.targets)
        if handicap:
            logits = logits.scatter_add(
                1, batch.targets[:, None], logits.new_full((len(logits), 1), -handicap)
            )
        bounded = F.cross_entropy(logits, batch.targets, reduction="none")
        return Losses(bounded, torch.zeros_like(bounded))

    def mixed(self, batch: Batch) -> Batch:
        """Return images mixed in pairs by CutMix or MixUp, the targets shares of classes (B, C).

        Drawn from torch's own generator.
        """
        ways = [way(num_classes=self.num_classes) for way in (v2.CutMix, v2.MixUp)]
        inputs, targets = v2.RandomChoice(ways)(batch.inputs, batch.targets)
        return replace(batch, inputs=inputs, targets=targets)

    def supervised(self, batch: Batch, share: float = 1.0) -> Tensor:
        """Return the loss that the model is pre-trained with: cross-entropy, on mixed targets, too.

        ``share`` is of the head's training margin, which mixed images go without.
        """
        logits = self.forward(batch).logits
        if not batch.targets.is_floating_point():
            logits = margin_logits(self.head, logits, batch.targets, share)
        return F.cross_entropy(logits, batch.targets)

    def vectors(
        self, outputs: Outputs, batch: Batch, space: Space, role: Role
    ) -> tuple[Tensor, Tensor] | None:
        """Return each image's logits or embedding, and its label."""
        if not batch.sizes.get(role):
            return None
        values = outputs.logits if space == "logits" else outputs.embedding
        return batch.part(values, role), batch.part(batch.targets, role)

    @torch.no_grad()
    def class_rows(self, space: Space, model: nn.Module | None = None) -> Tensor:
        """Return what the classifier says of its own rows, (C, D).

        The row of a class stands for an image of it: in embedding space the row itself; in logit space
        the classifier's output for it.
        """
        head = classifier(model or self.model)
        rows = head.weight.detach()
        outputs: Tensor = head(rows).float()
        return rows.float() if space == "embedding" else outputs

    def fresh_model(self, streams: Streams) -> nn.Module:
        """Return a copy of the model with every parameter drawn anew."""
        model = lora.fold(self.model) if lora.wrapped(self.model) else copy.deepcopy(self.model)
        model.to("cpu").requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams("fresh").initial_seed())
            fresh.redraw(model)
        return model.to(self.device)

    def predict(self, split: Split, model: nn.Module | None = None) -> Tensor:
        """Return margin-free logits (N, C) of a whole split, in float32."""
        return self.logits_of(getattr(self.data, split), model)

    @torch.no_grad()
    def logits_of(self, data: ImageSet, model: nn.Module | None = None) -> Tensor:
        """Return margin-free logits (N, C) of some images, in float32."""
        model = model or self.model
        model.eval()
        rows = torch.arange(len(data), device=self.device)
        with autocast(self.device, "fp32"):
            parts = [
                self.outputs(self.normalise(data.images[part]), model).logits
                for part in rows.split(self.eval_batch)
            ]
        return torch.cat(parts)

    def correct(self, split: Split, model: nn.Module | None = None, margin: bool = False) -> Tensor:
        """Return which images of a split are classified correctly, bool (N,).

        ``margin`` subtracts the head's training margin from the true logit, as the released code does at
        test time.
        """
        labels = getattr(self.data, split).labels
        logits = self.predict(split, model)
        if margin:
            logits = margin_logits(self.head, logits, labels)
        correct: Tensor = logits.argmax(dim=1) == labels
        return correct

    def accuracy(self, split: Split) -> float:
        """Return the accuracy over all classes of a split, in percent."""
        return 100.0 * float(self.correct(split).float().mean())

    def _the_outside(self) -> Outside:
        if self.outside is None:
            raise ModelError("this problem has no classes outside the task; give outside=Outside.of(…)")
        return self.outside

    def outside_logits(self, model: nn.Module | None = None) -> Tensor:
        """Return the whole head's logits (N, C) of the images outside the task.

        The model, the live one by default, is left with the head that it has.
        """
        outside = self._the_outside()
        with restored(model or self.model, outside.head) as whole:
            return self.logits_of(outside.images, whole)

    def outside_correct(self, model: nn.Module | None = None) -> Tensor:
        """Return which images outside the task the whole head names rightly, bool (N,); see above."""
        return self.outside_logits(model).argmax(dim=1) == self._the_outside().images.labels

    def outside_accuracy(self, model: nn.Module | None = None) -> float:
        """Return the accuracy in percent on the classes outside the task (8.2); see above."""
        return 100.0 * float(self.outside_correct(model).float().mean())

    def evaluate(self, tasks: Sequence[Task], split: Split = "test") -> list[dict[str, float]]:
        """Return each task's metrics for the live model; see :mod:`minigslora.metrics`.

        A cosine head adds ``acc_margin`` figures, with its margin on the true logit: those the
        published tables give. Where there are classes outside the task, ``acc_outside`` is theirs.
        """
        labels = getattr(self.data, split).labels
        logits = {"": self.predict(split)}
        if isinstance(self.head, CosineHead):
            logits["_margin"] = margin_logits(self.head, logits[""], labels)
        hits = {k: class_accuracies(v, labels, self.num_classes) for k, v in logits.items()}
        names = self.data.classes
        outside = {"acc_outside": self.outside_accuracy()} if self.outside else {}
        return [
            {f"{k}{suffix}": v for suffix, h in hits.items() for k, v in task_metrics(h, task, names).items()}
            | outside
            for task in tasks
        ]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the precision context of training."""
        return autocast(self.device, self.precision)

    @contextlib.contextmanager
    def compiled(self) -> Iterator[None]:
        """Compile the live model up to its embedding, while this context lasts."""
        network: Any = self.model
        network.forward_features = torch.compile(network.forward_features)  # hides the class's own
        try:
            yield
        except BackendCompilerFailed as problem:
            raise ConfigError(
                f"torch cannot compile here ({problem.inner_exception}); install a C++ compiler, or leave "
                "compile at false"
            ) from problem
        finally:
            del network.forward_features


def _kind(model: nn.Module) -> torch.dtype:
    """Return the type of numbers that a model computes with, which its inputs take."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
