"""Detection: images with boxed objects, and transformers' Deformable DETR (notebook 09).

The model's matcher pairs each annotated object with one query (9.1), and its losses are transformers' own.
What an image is asked for depends on its role, since it may hold objects of both kinds:

* a *retained* image is trained on its objects of retained classes,
* a *forgotten* image is bounded on each of its objects of the classes that are being forgotten.

In a retained image, objects of the classes forgotten so far are background, as if nobody had annotated them:
that is what a model is trained on that never knew these classes, and it holds down what earlier requests
forgot. In a forgotten image, objects of other classes are neither target nor background: the queries matched
to them are left out of the loss (corrected recipe), or they are background, too (released).

For one matched query with the logit z of the true class,

    focal(z) = (1 − p)² · (−ln p),  p = 1 / (1 + e^−z)                       (9.2)

which is a cross-entropy in nats where p is small. A head of independent sigmoids has no chance level ln C;
it starts from p = π for every class and place, what it says where it knows nothing, and forgetting is bounded
at a distance above

    chance = −ln π,  π = 0.01                                                (9.3)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from minigslora.datasets.detection import DetectionData, DetectionSet
from minigslora.datasets.images import Normalising
from minigslora.device import Precision, autocast, pick_device
from minigslora.errors import ModelError
from minigslora.losses import shortfall
from minigslora.metrics import Boxes, average_precisions, detection_metrics
from minigslora.models.checkpoint import require_finite
from minigslora.models.detr import PRIOR
from minigslora.problems.base import Batch, Losses, Problem, Role, Space
from minigslora.rng import Streams
from minigslora.tasks import Task

Split = Literal["train", "val", "test"]

IGNORED = -1e4
"""A logit whose sigmoid, and so its focal loss as background and its gradient, are exactly zero."""


@dataclass(frozen=True)
class Choices:
    """What becomes of objects in an image; the defaults are the corrected recipe.

    Attributes:
        gone: objects of classes forgotten so far, in retained images: "background" drops their
            annotations, as a model that never knew the classes would have been trained; "ignore" leaves
            the queries matched to them out of the loss.
        others: objects of other classes than the request's, in forgotten images, likewise.
        bounded: what forgetting maximises: the focal loss (9.2) of each "matched" query's true
            class, or the whole weighted focal loss over "all" queries, as the released code does.
        focal: weight of the focal loss of all queries; transformers' own is 1, the released code's 2.
        boxes_of_forgotten: whether the box losses of forgotten objects are still minimised. The
            corrected recipe teaches nothing about a forgotten object, not even its place.
    """

    gone: Literal["ignore", "background"] = "background"
    others: Literal["ignore", "background"] = "ignore"
    bounded: Literal["matched", "all"] = "matched"
    focal: float = 1.0
    boxes_of_forgotten: bool = False


CHOICES: dict[str, Choices] = {
    "corrected": Choices(),
    "released": Choices(others="background", bounded="all", focal=2.0, boxes_of_forgotten=True),
}
"""The choices of each recipe."""


@dataclass
class Outputs:
    """What one forward pass gives, in float32.

    Attributes:
        logits: (B, Q, C), of every query and class.
        boxes: (B, Q, 4), centre x, centre y, width, height, relative to the image.
        embedding: (B, Q, D), what the classifier reads.
        own: the matched objects that the images' roles are about, once they were asked for.
    """

    logits: Tensor
    boxes: Tensor
    embedding: Tensor
    own: Matches | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Matches:
    """Which query was paired with which object, by image, and all n pairs one behind the other.

    Attributes:
        targets: each image's objects that its role is about.
        pairs: (queries, objects) of each image, positions among the queries and in ``targets``.
        ignored: bool, (B, Q), queries matched to objects that are neither target nor background.
    """

    targets: list[dict[str, Tensor]]
    pairs: list[tuple[Tensor, Tensor]]
    ignored: Tensor

    @cached_property
    def image(self) -> Tensor:
        """The image of each pair, (n,)."""
        return torch.cat([torch.full_like(queries, i) for i, (queries, _) in enumerate(self.pairs)])

    @cached_property
    def query(self) -> Tensor:
        """The query of each pair, (n,)."""
        return torch.cat([queries for queries, _ in self.pairs])

    def of_objects(self, key: str) -> Tensor:
        """Return what the targets say of each pair's object: its class (n,), or its box (n, 4)."""
        every = zip(self.targets, self.pairs, strict=True)
        return torch.cat([target[key][objects] for target, (_, objects) in every])

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over each image's objects of ``values`` (n,), (B,); 0 where it has none."""
        images = len(self.targets)
        total = values.new_zeros(images).index_add(0, self.image, values)
        return total / self.image.bincount(minlength=images).clamp(min=1)


@dataclass
class ObjectLosses(Losses):
    """Losses of images whose objects are bounded one by one.

    Bounded by their mean, an object far above the bound would hide another that is still recognised.

    Attributes:
        own: what was matched in the images.
        focal: (n,), the focal loss (9.2) of each object; forgotten images' ``bounded`` is its mean.
    """

    own: Matches
    focal: Tensor

    def short_of(self, bound: float) -> Tensor:
        """Return the mean over each image's objects of ReLU(BND − focal), (B,)."""
        return self.own.mean(shortfall(self.focal, bound))


class Detection(Normalising, Problem):
    """transformers' Deformable DETR on detection data.

    Args:
        model: a ``DeformableDetrForObjectDetection``; moved to the device, edited in place by methods.
        data: the data set; its classes are in the order of the model's head.
        mean, std: per-channel normalisation of images in [0, 1].
        device: "auto", "cpu" or "cuda".
        precision: "auto" trains in float32: the places that attention reads from are coarse in bf16,
            and it is hardly faster for a small detector. Evaluation is in float32.
        choices: what becomes of objects in an image; :data:`CHOICES` has those of each recipe.
    """

    kind: ClassVar[str] = "detection"
    eval_batch: ClassVar[int] = 50

    def __init__(
        self,
        model: nn.Module,
        data: DetectionData,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        choices: Choices = CHOICES["corrected"],
    ) -> None:
        from transformers.loss import loss_deformable_detr as detr

        from minigslora.models.deformable_attention import read_quickly

        config = _checked(model, data)
        self.device = pick_device(str(device))
        self.precision: Precision = "fp32" if precision == "auto" else precision
        self.model = model.to(self.device)
        read_quickly(self.model)
        self.data = data.to(self.device)
        self.normalise_by(mean, std, self.device)
        self.num_classes = len(data.classes)
        self.choices = choices
        matcher = detr.DeformableDetrHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
        self.criterion = detr.DeformableDetrImageLoss(
            matcher, self.num_classes, config.focal_alpha, ["labels", "boxes"]
        )
        self.box_weights = {
            "loss_bbox": config.bbox_loss_coefficient,
            "loss_giou": config.giou_loss_coefficient,
        }
        self.asked: dict[Role, Tensor] = {}

    @property
    def head(self) -> nn.Module:
        """The classifier that reads the last decoder layer, whose rows are the classes."""
        return _head(self.model)

    @property
    def margin(self) -> float:
        """A sigmoid head has no training margin."""
        return 0.0

    @property
    def chance(self) -> float:
        """The bounded loss where the head knows nothing (9.3), in nats."""
        return -math.log(PRIOR)

    def identity(self) -> dict[str, Any]:
        """Return what determines a run's numbers beside model and method, as plain values."""
        return {**super().identity(), "choices": asdict(self.choices)}

    def training_images(self, classes: Sequence[int]) -> tuple[int, ...]:
        """Return the indices of all training images with an object of some classes."""
        return tuple(self.data.train.of_classes(classes).tolist())

    def begin(self, task: Task) -> None:
        """Learn which classes each role is about."""
        kept = torch.zeros(self.num_classes, dtype=torch.bool, device=self.device)
        gone = kept.clone()
        kept[list(task.retain)] = True
        gone[list(task.forget)] = True
        self.asked = {"retain": kept, "retain2": kept, "forget": gone}

    def batch(self, indices: Mapping[Role, Tensor], moves: torch.Generator | None = None) -> Batch:
        """Return training images by index, normalised; flipped and relit where a stream is given."""
        rows = torch.cat(list(indices.values()))
        images = self.data.train.images[rows]
        annotated = [self.data.train.objects[i].targets() for i in rows.tolist()]
        targets = [{key: value.to(self.device) for key, value in t.items()} for t in annotated]
        if moves is not None:
            images, targets = augment(images, targets, moves)
        sizes = {role: len(part) for role, part in indices.items()}
        return Batch(self.normalise(images), targets, sizes)

    def forward(self, batch: Batch, model: nn.Module | None = None) -> Outputs:
        """Return logits, boxes and embeddings of ``model`` (the live one by default)."""
        return self.outputs(batch.inputs, model or self.model)

    def outputs(self, inputs: Tensor, model: nn.Module) -> Outputs:
        """Return what ``model`` says of normalised images (B, 3, S, S)."""
        said = model(pixel_values=inputs, pixel_mask=_whole(inputs))
        embedding = said.intermediate_hidden_states[:, -1]
        return Outputs(said.logits.float(), said.pred_boxes.float(), embedding.float())

    # --- losses ---------------------------------------------------------------------------------------

    def matches(self, outputs: Outputs, batch: Batch) -> Matches:
        """Pair queries with objects by transformers' matcher, and say which objects are the role's."""
        if outputs.own is None:
            outputs.own = self._match(outputs, batch)
        return outputs.own

    @torch.no_grad()
    def _match(self, outputs: Outputs, batch: Batch) -> Matches:
        roles = _roles(batch)
        wanted = [self.asked[r][t["class_labels"]] for r, t in zip(roles, batch.targets, strict=True)]
        own = [{k: v[w] for k, v in t.items()} for t, w in zip(batch.targets, wanted, strict=True)]
        ignored = torch.zeros(outputs.logits.shape[:2], dtype=torch.bool, device=outputs.logits.device)
        dropped = [self._rest(role) == "background" for role in roles]
        seen = [o if drop else t for o, t, drop in zip(own, batch.targets, dropped, strict=True)]
        matched = self.criterion.matcher({"logits": outputs.logits, "pred_boxes": outputs.boxes}, seen)
        matched = [(q.to(ignored.device), o.to(ignored.device)) for q, o in matched]
        pairs = []
        for image, ((queries, objects), mine) in enumerate(zip(matched, wanted, strict=True)):
            if dropped[image]:
                pairs.append((queries, objects))
                continue
            ours, place = mine[objects], mine.cumsum(0) - 1  # an object's position among the role's own
            ignored[image, queries[~ours]] = True
            pairs.append((queries[ours], place[objects[ours]]))
        return Matches(own, pairs, ignored)

    def _rest(self, role: Role) -> Literal["ignore", "background"]:
        """Return what the objects are that an image's role is not about."""
        return self.choices.others if role == "forget" else self.choices.gone

    def losses(self, outputs: Outputs, batch: Batch, margin: bool = True, handicap: float = 0.0) -> Losses:
        """Return per-image losses: focal as the bounded part, weighted box losses as the plain one.

        The mean over a role's images is transformers' loss on that part of the batch, its focal part
        weighted as :class:`Choices` says: sums over queries are divided by the mean number of objects an
        image. Of forgotten images the bounded part is as :class:`Choices` says; ``handicap`` nats are
        taken off the true logit of their matched queries.
        """
        own, logits = self.matches(outputs, batch), outputs.logits
        counts = torch.tensor([len(t["class_labels"]) for t in own.targets], device=self.device).float()
        parts = counts.split(list(batch.sizes.values()))
        per_image = torch.cat([part.mean().clamp(min=1).expand(len(part)) for part in parts])
        forgotten = torch.tensor([role == "forget" for role in _roles(batch)]).to(self.device)
        true = own.image, own.query, own.of_objects("class_labels")
        wanted = torch.zeros_like(logits)
        wanted[true] = 1
        heard = logits.masked_fill(own.ignored[..., None], IGNORED)
        focal = self.choices.focal * _focal(heard, wanted, self.criterion.focal_alpha) / per_image
        boxes = self._boxes(outputs.boxes, own) / per_image
        taught = boxes if self.choices.boxes_of_forgotten else torch.zeros_like(boxes)
        plain = torch.where(forgotten, taught, boxes)
        if self.choices.bounded == "all":
            return Losses(focal, plain)
        z = logits[true][:, None, None] - handicap
        of_objects = _focal(z, torch.ones_like(z), alpha=-1)  # (9.2)
        return ObjectLosses(torch.where(forgotten, own.mean(of_objects), focal), plain, own, of_objects)

    def _boxes(self, boxes: Tensor, own: Matches) -> Tensor:
        """Return the weighted L1 and GIoU losses of matched boxes, summed over each image, (B,)."""
        from torchvision.ops import box_convert, generalized_box_iou_loss

        predicted, wanted = boxes[own.image, own.query], own.of_objects("boxes")
        corners = (box_convert(x, "cxcywh", "xyxy") for x in (predicted, wanted))
        weighted = self.box_weights["loss_bbox"] * (predicted - wanted).abs().sum(1)
        weighted = weighted + self.box_weights["loss_giou"] * generalized_box_iou_loss(*corners)
        return boxes.new_zeros(len(boxes)).index_add(0, own.image, weighted)

    def supervised(self, batch: Batch, share: float = 1.0) -> Tensor:
        """Return the loss that the model is pre-trained with: transformers' own, auxiliary ones included.

        There is no training margin to take a ``share`` of.
        """
        inputs = batch.inputs
        said = self.model(pixel_values=inputs, pixel_mask=_whole(inputs), labels=batch.targets)
        loss: Tensor = said.loss
        return loss

    # --- prototypes -----------------------------------------------------------------------------------

    def vectors(
        self, outputs: Outputs, batch: Batch, space: Space, role: Role
    ) -> tuple[Tensor, Tensor] | None:
        """Return the logits or embeddings of the queries matched to the role's objects, and labels."""
        if not batch.sizes.get(role):
            return None
        values = outputs.logits if space == "logits" else outputs.embedding
        own = self.matches(outputs, batch)
        rows, labels = list[Tensor](), list[Tensor]()
        for i in (i for i, other in enumerate(_roles(batch)) if other == role):
            queries, objects = own.pairs[i]
            order = objects.argsort()  # the objects', so that two models' rows stand beside each other
            rows.append(values[i, queries[order]])
            labels.append(own.targets[i]["class_labels"][objects[order]])
        every = torch.cat(rows), torch.cat(labels)
        return every if len(every[1]) else None

    @torch.no_grad()
    def class_rows(self, space: Space, model: nn.Module | None = None) -> Tensor:
        """Return the classifier's rows, (C, D), or what it says of them, (C, C).

        The row of a class stands for a query matched to an object of it.
        """
        head = _head(model or self.model)
        rows: Tensor = head.weight.detach().float()
        outputs: Tensor = head(rows).float()
        return rows if space == "embedding" else outputs

    def fresh_model(self, streams: Streams) -> nn.Module:
        """Return the same architecture with random weights."""
        live: Any = self.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams("fresh").initial_seed())
            model: nn.Module = type(live)(live.config)
        return model.requires_grad_(True).to(self.device)

    # --- evaluation -----------------------------------------------------------------------------------

    @torch.no_grad()
    def detect(self, split: Split, model: nn.Module | None = None) -> list[Boxes]:
        """Return the 100 best-scored boxes of each image of a split, in pixels of the original image."""
        model = model or self.model
        model.eval()
        data: DetectionSet = getattr(self.data, split)
        boxes: list[Boxes] = []
        for part in torch.arange(len(data)).split(self.eval_batch):
            with autocast(self.device, "fp32"):
                outputs = self.outputs(self.normalise(data.images[part.to(self.device)]), model)
            boxes += best_boxes(outputs, [data.objects[i].size for i in part.tolist()])
        return boxes

    def precisions(self, split: Split, model: nn.Module | None = None) -> dict[str, Tensor]:
        """Return AP and AP50 of each class on a split, (C,), in percent; NaN for a class without objects."""
        data: DetectionSet = getattr(self.data, split)
        return average_precisions(self.detect(split, model), list(data.objects), self.num_classes)

    def accuracy(self, split: Split) -> float:
        """Return AP50, the mean over classes, in percent: what pre-training watches."""
        return float(self.precisions(split)["ap50"].nanmean())

    def evaluate(self, tasks: Sequence[Task], split: Split = "test") -> list[dict[str, float]]:
        """Return each task's AP and AP50 for the live model; see :mod:`minigslora.metrics`."""
        precisions = self.precisions(split)
        return [detection_metrics(precisions, task, self.data.classes) for task in tasks]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the precision context of training."""
        return autocast(self.device, self.precision)


def _checked(model: Any, data: DetectionData) -> Any:
    """Return a detector's configuration; where the two do not go together, that is a ModelError."""
    from transformers import DeformableDetrForObjectDetection

    if not isinstance(model, DeformableDetrForObjectDetection):
        raise ModelError(
            f"{type(model).__name__} is no detector that is known here; give transformers' "
            "DeformableDetrForObjectDetection"
        )
    config: Any = model.config
    if config.num_labels != len(data.classes):
        raise ModelError(
            f"the model's head has {config.num_labels} classes but {data.name} has {len(data.classes)}; "
            "take the rows of its categories with minigslora.models.detr.keep_classes, or train it "
            "on them"
        )
    require_finite(model.state_dict(), "the model")
    return config


def _head(model: Any) -> nn.Linear:
    head: nn.Linear = model.class_embed[-1]
    return head


def _whole(images: Tensor) -> Tensor:
    """Return the mask by which a detector looks at all of each image."""
    return torch.ones(len(images), *images.shape[-2:], dtype=torch.long, device=images.device)


def _roles(batch: Batch) -> list[Role]:
    """Return each image's role."""
    return [role for role, size in batch.sizes.items() for _ in range(size)]


def _focal(logits: Tensor, wanted: Tensor, alpha: float) -> Tensor:
    """Return transformers' focal loss of (B, Q, C), summed over queries and classes, (B,)."""
    from transformers.loss.loss_for_object_detection import sigmoid_focal_loss

    mean = torch.vmap(lambda z, y: sigmoid_focal_loss(z[None], y[None], 1, alpha=alpha, gamma=2))
    summed: Tensor = mean(logits, wanted) * logits.shape[1]  # theirs is a mean over queries
    return summed


def best_boxes(outputs: Outputs, sizes: Sequence[tuple[int, int]], most: int = 100) -> list[Boxes]:
    """Return the best-scored (query, class) pairs of each image, by transformers' post-processing.

    Args:
        outputs: of B images.
        sizes: height and width of each original image, in pixels.
        most: how many boxes an image is given at most.
    """
    from transformers import DeformableDetrImageProcessor
    from transformers.models.deformable_detr import modeling_deformable_detr as detr

    said = detr.DeformableDetrObjectDetectionOutput(logits=outputs.logits, pred_boxes=outputs.boxes)
    kept = DeformableDetrImageProcessor().post_process_object_detection(said, 0.0, list(sizes), most)
    boxes = [torch.cat([k["boxes"][:, :2], k["boxes"][:, 2:] - k["boxes"][:, :2]], dim=1) for k in kept]
    return [
        Boxes(box.cpu(), k["labels"].cpu(), k["scores"].cpu()) for box, k in zip(boxes, kept, strict=True)
    ]


def augment(
    images: Tensor, targets: list[dict[str, Tensor]], generator: torch.Generator
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return float images in [0, 1] and their targets under random flips, contrast and brightness.

    Flips are left to right with probability 1/2; contrast and brightness change by up to 15 %.
    """
    x = images.float() / 255
    u = torch.rand(len(x), 3, generator=generator, device=generator.device).to(x.device) * 2 - 1
    flip = u[:, 0] > 0
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = 1 + 0.15 * u[:, 1], 0.15 * u[:, 2]
    x = mean + (x - mean) * contrast[:, None, None, None] + brightness[:, None, None, None] * mean
    moved = []
    for turned, target in zip(flip, targets, strict=True):
        boxes = target["boxes"]
        mirrored = torch.cat([1 - boxes[:, :1], boxes[:, 1:]], dim=1)
        moved.append({**target, "boxes": torch.where(turned, mirrored, boxes)})
    return x.clamp(0, 1), moved
