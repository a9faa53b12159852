"""A detector under audit: annotated objects stand for images, and are seen by the queries matched to them.

The model's own matcher, which knows class and box, pairs each object with one query. What the classifier
reads there is the object's features, and the accuracy of some classes is

    the share of their objects whose matched query's highest logit is their own class's,     (12.3)

which is neither AP nor what a user sees: boxes play no part, nor do queries that are matched to nothing. A
classifier that was attacked is asked about the pairs that were found before. AP50 is given beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigslora import lora
from minigslora.audit.subject import Reading, Subject
from minigslora.datasets import registry
from minigslora.datasets.detection import DetectionData, DetectionSet
from minigslora.device import autocast
from minigslora.errors import DataError
from minigslora.models.checkpoint import card_of, normalisation
from minigslora.models.head_slicing import Head
from minigslora.problems.base import Batch
from minigslora.problems.detection import Detection
from minigslora.tasks import Task

UNIT = (
    "one annotated object: an accuracy is the share of objects whose matched query's highest logit is their "
    "own class's, and no average precision"
)
"""What the figures of a detector count."""


def is_detector(model: nn.Module) -> bool:
    """Whether a model looks like transformers' Deformable DETR; :class:`Detection` checks it."""
    return isinstance(getattr(model, "class_embed", None), nn.ModuleList)


def scenes_for(model: nn.Module, data: Any, watch: bool) -> DetectionData:
    """Return detection data at the model's input size.

    Raises:
        DataError: for labelled images, or what is no detection data.
    """
    if isinstance(data, DetectionData):
        return data
    if isinstance(data, str | Path):
        card = card_of(model)
        size = card.image_size if card and str(data) not in registry.SCENES else None
        return registry.load_detection(data, size, watch)
    raise DataError(
        f"{type(model).__name__} is a detector, but {data.name} holds images with one label each; give "
        f"detection data: {', '.join(registry.detection_names())}, or a folder in COCO's or Pascal VOC's "
        "layout"
    )


def detector(model: nn.Module, data: DetectionData, device: str) -> Detection:
    """Return the problem that the data pose to a plain copy of a detector, all its classes asked for.

    A model of more categories, as COCO's are, keeps the rows of the data's.
    """
    plain, card = lora.fold(model).float(), card_of(model)
    if card and card.classes and card.classes != data.classes:
        from minigslora.models.detr import keep_named

        keep_named(plain, card.classes, data.classes)
    problem = Detection(plain, data, *normalisation(model), device=device, precision="fp32")
    problem.begin(Task("audit", 0, (), (), tuple(range(len(data.classes)))))
    return problem


@dataclass(eq=False)
class Objects(Subject):
    """A detector, and what the attacks read of it: see the module; crowds are left out."""

    problem: Detection  # type: ignore[assignment]  # what asks for images is overridden

    def accuracy(self, model: nn.Module, classes: Sequence[int]) -> float:
        """Return the share of the test images' objects of some classes that are named (12.3), in percent."""
        chosen = torch.isin(self.test.labels, torch.tensor(list(classes)))
        named = self.test.logits.argmax(dim=1) == self.test.labels
        return 100 * float(named[chosen].double().mean())

    def average_precisions(self, head: Head | None = None) -> dict[str, float]:
        """Return AP50 of the forgotten ("f") and the kept ("r"), in percent, where another head is put on.

        It is the mean over classes, from all queries and their boxes, as a user of the detector has it.
        """
        model: Any = self.model
        if head is not None:
            model = copy.deepcopy(model)
            model.class_embed[-1].load_state_dict(head.state_dict())
        ap50 = self.problem.precisions("test", model)["ap50"]
        return {k: float(ap50[list(c)].nanmean()) for k, c in (("f", self.case.gone), ("r", self.case.kept))}

    @torch.no_grad()
    def _of(self, split: DetectionSet, rows: Tensor) -> Reading:
        """Read the objects ``rows`` (n,), counted through all images; those without a query stay out."""
        problem, device = self.problem, self.problem.device
        counts = torch.tensor([int((~o.crowd).sum()) for o in split.objects])
        images = torch.arange(len(split)).repeat_interleave(counts)[rows].unique()
        first = counts.cumsum(0) - counts
        parts = list[tuple[Tensor, ...]]()
        for part in images.split(problem.eval_batch):
            targets = [split.objects[i].targets() for i in part.tolist()]
            there = [{key: value.to(device) for key, value in t.items()} for t in targets]
            batch = Batch(problem.normalise(split.images[part.to(device)]), there, {"retain": len(part)})
            with autocast(device, "fp32"):
                outputs = problem.outputs(batch.inputs, self.model.eval())
            own = problem.matches(outputs, batch)
            objects = torch.cat([objects for _, objects in own.pairs]).cpu() + first[part][own.image.cpu()]
            said = (v[own.image, own.query].cpu() for v in (outputs.embedding, outputs.logits))
            parts.append((objects, *said, own.of_objects("class_labels").cpu()))
        objects, features, logits, labels = (torch.cat(values) for values in zip(*parts, strict=True))
        order = objects.argsort()
        order = order[torch.isin(objects[order], rows)]
        return Reading(features[order], logits[order], labels[order])
