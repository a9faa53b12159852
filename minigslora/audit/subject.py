"""The model under audit, read once for all attacks: features, logits and every block's class token.

An attacker holds training images of the data set, a few of each class, and everything is measured on test
images. Which images, and every other draw, comes from named streams of one seed: all models are asked the
same.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minigslora.blocks import class_token, find_blocks, outputs_of
from minigslora.datasets.detection import DetectionData, DetectionSet
from minigslora.datasets.images import DataSet, Images, ImageSet
from minigslora.device import autocast
from minigslora.fingerprint import fingerprint_of, weights_hash
from minigslora.models.head_slicing import Head
from minigslora.problems.classification import Classification
from minigslora.rng import Streams

if TYPE_CHECKING:
    from minigslora.audit.relearning import Attack, Start


def mean(values: Iterable[float]) -> float:
    """Return the mean of some numbers; NaN of none."""
    known = list(values)
    return statistics.fmean(known) if known else float("nan")


def draws(labels: Tensor, count: int, streams: Streams, tries: int = 3) -> list[Tensor]:
    """Return places of at most ``count`` images of each class, drawn ``tries`` times; of all for 0."""
    found = []
    for i in range(tries):
        chosen = []
        for c in labels.unique().tolist():
            rows = (labels == c).nonzero().flatten()
            order = torch.randperm(len(rows), generator=streams("few", i, c))
            chosen.append(rows[order[: count or len(rows)]])
        found.append(torch.cat(chosen))
    return found


def labels_of(split: ImageSet | DetectionSet) -> Tensor:
    """Return what is told apart: the class of each image, or of each object that is no crowd, (N,)."""
    if isinstance(split, DetectionSet):
        return torch.cat([o.labels[~o.crowd] for o in split.objects])
    return split.labels.cpu()


@dataclass(frozen=True)
class Reading:
    """What a model says of some images, or of some objects in images, on the CPU in float32.

    Attributes:
        features: (N, D), what the classifier reads.
        logits: (N, C), margin-free.
        labels: (N,).
        tokens: by block, its class token (N, D), or the mean of its tokens where it has none.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    tokens: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What one audit finds of one model.

    Attributes:
        figures: by name; in percent where the name says nothing else.
        curves: by name; over blocks, steps or images.
    """

    figures: dict[str, float]
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Case:
    """What is asked of every model.

    Attributes:
        data: the images; classes in the order of the models' heads.
        gone: the forgotten classes.
        relearning: how an attacker trains.
        seed: of all draws.
        images: training images of each class that the attacker has; annotated objects for a detector.
        strangers: uint8 images (N, 3, H, W) of classes that no model saw, if there are any.
        stranger_labels: which class each of them shows, (N,), where it is known.
    """

    data: DataSet | DetectionData
    gone: tuple[int, ...]
    relearning: Attack
    seed: int = 0
    images: int = 20
    strangers: Images | None = None
    stranger_labels: Tensor | None = None

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """The other classes."""
        return tuple(c for c in range(len(self.data.classes)) if c not in set(self.gone))

    @cached_property
    def fingerprint(self) -> str:
        """What tells this question from any other: the images, the classes, the attacker, the seed."""
        asked = [sorted(self.gone), asdict(self.relearning), self.seed, self.images]
        if self.strangers is not None:
            labels = (
                self.stranger_labels if self.stranger_labels is not None else torch.zeros(len(self.strangers))
            )
            asked.append(ImageSet(self.strangers, labels.cpu(), ()).fingerprint())
        return fingerprint_of(f"{self.data.fingerprint()} {asked}")

    @cached_property
    def at_hand(self) -> Tensor:
        """The attacker's training images, or objects, by index."""
        (rows,) = draws(labels_of(self.data.train), self.images, Streams(self.seed, "audit", "at hand"), 1)
        return rows


@dataclass(frozen=True)
class Beside:
    """The models that a subject is read beside; it is none of them itself.

    Attributes:
        oracles: models that never saw the forgotten.
        original: the model before it was edited.
    """

    oracles: tuple[Subject, ...] = ()
    original: Subject | None = None


@dataclass(eq=False)
class Subject:
    """A model, and what every attack reads of it, each read once.

    Attributes:
        name: what to call it.
        problem: the data, and the plain model in evaluation mode.
        case: what is asked.
        curves: of relearning, by start, as far as known.
        twin: a subject with the same features, of which only the classifier is another one.
    """

    name: str
    problem: Classification
    case: Case
    curves: dict[str, list[float]] = field(default_factory=dict)
    twin: Subject | None = None

    @property
    def model(self) -> nn.Module:
        """The plain model."""
        return self.problem.model

    @cached_property
    def hash(self) -> str:
        """What tells the model from any other."""
        return weights_hash(self.model)

    @property
    def streams(self) -> Streams:
        """The streams of all draws: the same for all models."""
        return Streams(self.case.seed, "audit")

    @cached_property
    def head(self) -> Head:
        """A copy of the classifier, on the CPU."""
        return copy.deepcopy(self.problem.head).cpu().float().requires_grad_(False)

    @cached_property
    def train(self) -> Reading:
        """What the model says of the attacker's training images."""
        if self.twin:
            return self._from(self.twin.train)
        return self._of(self.problem.data.train, self.case.at_hand)

    @cached_property
    def test(self) -> Reading:
        """What the model says of the test images."""
        if self.twin:
            return self._from(self.twin.test)
        split = self.problem.data.test
        return self._of(split, torch.arange(len(labels_of(split))))

    @cached_property
    def strangers(self) -> Reading:
        """What the model says of the strangers' images, whose labels are −1."""
        if self.twin:
            return self._from(self.twin.strangers)
        images: Any = self.case.strangers
        return self._read(lambda part: images[part], torch.full((len(images),), -1))

    @cached_property
    def test_gone(self) -> Tensor:
        """Which test images are of forgotten classes, bool (N,)."""
        return torch.isin(self.test.labels, torch.tensor(self.case.gone))

    def pool(self, classes: Sequence[int], count: int, streams: Streams) -> Tensor:
        """Return indices of at most ``count`` of the attacker's images of each class, in random order."""
        rows = self.case.at_hand
        labels = labels_of(self.problem.data.train)[rows]
        own = rows[torch.isin(labels, torch.tensor(list(classes)))]
        (chosen,) = draws(labels_of(self.problem.data.train)[own], count, streams.under("pool"), tries=1)
        mixed = torch.randperm(len(chosen), generator=streams("mixed", len(classes)))
        return own[chosen[mixed]]

    @torch.no_grad()
    def accuracy(self, model: nn.Module, classes: Sequence[int]) -> float:
        """Return a model's accuracy on the test images of some classes, in percent."""
        test = self.problem.data.test
        rows = test.of_classes(classes)
        parts = (self.problem.normalise(test.images[part]) for part in rows.split(self.problem.eval_batch))
        named = torch.cat([self.problem.outputs(part, model.eval()).logits.argmax(dim=1) for part in parts])
        return 100 * float((named == test.labels[rows]).double().mean())

    def curve(self, start: Start) -> list[float]:
        """Return Acc_f while the model is trained on a few images; see :mod:`minigslora.audit.relearning`."""
        from minigslora.audit.relearning import relearnt

        if start not in self.curves:
            self.curves[start] = relearnt(self, start)
        return self.curves[start]

    def average_precisions(self, head: Head | None = None) -> dict[str, float]:
        """Return a detector's AP50 by whose it is, see :mod:`minigslora.audit.detection`; of images none."""
        return {}

    def _of(self, split: Any, rows: Tensor) -> Reading:
        """Read the images ``rows`` (n,) of a split."""
        device = self.problem.device
        return self._read(lambda part: split.images[rows[part].to(device)], labels_of(split)[rows])

    def _from(self, reading: Reading) -> Reading:
        return replace(reading, logits=self.head(reading.features))

    @torch.no_grad()
    def _read(self, images: Callable[[Tensor], Tensor], labels: Tensor) -> Reading:
        model, device = self.model.eval(), self.problem.device
        features, logits, tokens = list[Tensor](), list[Tensor](), dict[str, list[Tensor]]()
        with outputs_of(model, dict.fromkeys(find_blocks(model).values())) as seen, autocast(device, "fp32"):
            for part in torch.arange(len(labels)).split(self.problem.eval_batch):
                outputs = self.problem.outputs(self.problem.normalise(images(part).to(device)), model)
                features.append(outputs.embedding.cpu())
                logits.append(outputs.logits.cpu())
                for block, output in seen.items():
                    tokens.setdefault(block, []).append(class_token(model, output).cpu())
        blocks = {name: torch.cat(parts) for name, parts in tokens.items()}
        return Reading(torch.cat(features), torch.cat(logits), labels, blocks)
