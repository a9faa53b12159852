"""Metrics of continual forgetting, in percent on the test split (notebooks 04, 05 and 07).

    Drop = Acc_f(pre-trained) − Acc_f(now)                                   (5.1)
    H = 2 · Acc_r · Drop / (Acc_r + Drop)                                    (5.2)

Source: arXiv 2501.09705, section 5.1. Accuracy is the argmax over the whole head, forgotten columns
included. The published tables take the *pre-trained* model's Acc_f in (5.1).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minigslora.errors import DataError
from minigslora.tasks import Task

if TYPE_CHECKING:
    from minigslora.datasets.detection import Objects


def class_accuracies(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return (correct, count) per class, each (C,), from logits (N, C) and labels (N,)."""
    correct = (logits.argmax(dim=1) == labels).double()
    hits = torch.zeros(num_classes, dtype=torch.float64, device=labels.device)
    hits.index_add_(0, labels, correct)
    return hits.cpu(), torch.bincount(labels, minlength=num_classes).cpu()


def subset_accuracy(
    per_class: tuple[Tensor, Tensor], classes: Sequence[int], what: str, names: Sequence[str] = ()
) -> float:
    """Return the accuracy in percent over the images of some classes.

    Args:
        per_class: correct and count per class; see :func:`class_accuracies`.
        classes: whose images.
        what: the classes' role, for the message.
        names: of all classes, for the message.

    Raises:
        DataError: where those classes have no image in the split.
    """
    chosen = torch.tensor(list(classes), dtype=torch.long)
    hits, counts = per_class[0][chosen].sum(), per_class[1][chosen].sum()
    if counts == 0:
        raise _undefined(classes, what, names, "image", "accuracy is")
    return 100.0 * float(hits / counts)


def _undefined(classes: Sequence[int], what: str, names: Sequence[str], thing: str, figure: str) -> DataError:
    shown = ", ".join(repr(names[c]) if names else str(c) for c in list(classes)[:5])
    return DataError(
        f"the split has no {thing} of the {len(classes)} {what} classes "
        f"({shown}{', …' if len(classes) > 5 else ''}), so their {figure} undefined; add images of "
        "them to it, or evaluate on a split that has them"
    )


def task_metrics(
    per_class: tuple[Tensor, Tensor], task: Task, classes: Sequence[str] = ()
) -> dict[str, float]:
    """Return acc_r, acc_f, and where they exist acc_o (old) and acc_m (missing), in percent."""
    return {
        f"acc_{key}": subset_accuracy(per_class, chosen, what, classes)
        for key, (what, chosen) in subsets(task).items()
    }


def subsets(task: Task) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return what each subset of a task's classes is called, and the classes, of those it has."""
    found = {
        "r": ("retained", task.retain),
        "f": ("forgotten", task.forget),
        "o": ("old", task.old),
        "m": ("missing", task.missing),
    }
    return {key: (what, classes) for key, (what, classes) in found.items() if classes}


def drop(acc_f_before: float, acc_f_now: float) -> float:
    """Return Acc_f(pre-trained) − Acc_f(now) (equation 5.1)."""
    return acc_f_before - acc_f_now


def h_mean(acc_r: float, drop: float) -> float:
    """Return the harmonic mean of Acc_r and Drop (equation 5.2); 0 where both are not positive."""
    if acc_r <= 0 or drop <= 0:
        return 0.0
    return 2 * acc_r * drop / (acc_r + drop)


FIGURES: tuple[tuple[str, str, str], ...] = (
    ("acc", "", ""),
    ("acc", "_margin", "_margin"),
    ("ap", "", ""),
    ("ap50", "", "50"),
)
"""What is measured on subsets of classes: how its keys begin and end, and what its Drop and H end in."""


def with_h(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Return ``now`` with drop and h, given the pre-trained model's metrics on the same classes.

    A detector's ``h`` is of AP, and its ``h50`` of AP50.
    """
    result = dict(now)
    for stem, suffix, ending in FIGURES:
        if (kept := f"{stem}_r{suffix}") in now and (gone := f"{stem}_f{suffix}") in now:
            fall = drop(before[gone], now[gone])
            result[f"drop{ending}"] = fall
            result[f"h{ending}"] = h_mean(now[kept], fall)
            result[f"{stem}_r_before{suffix}"] = before[kept]
            result[f"{stem}_f_before{suffix}"] = before[gone]
        if not suffix and f"{stem}_m" in before:
            result[f"{stem}_m_before"] = before[f"{stem}_m"]
    if "acc_outside" in before:
        result["acc_outside_before"] = before["acc_outside"]
    return result


# --- two methods over seeds ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and how far its t interval reaches to either side.

    Attributes:
        mean: of the differences.
        reach: half the width of the interval; a mean nearer to zero than this may be chance.
    """

    mean: float
    reach: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.reach:.2f}"


def paired_difference(ours: Sequence[float], theirs: Sequence[float], level: float = 0.95) -> Difference:
    """Compare two methods over the same seeds, or over whatever else both have in common.

        mean(d) ± t · sd(d) / √n,    d = ours − theirs                           (7.3)

    with t from Student's distribution of n − 1 degrees of freedom: 4.3 for three seeds, 2.8 for five.

    Args:
        ours: a figure for each seed.
        theirs: the other method's, in the same order.
        level: how often such an interval holds the true difference.

    Raises:
        DataError: where the figures are no pairs, or fewer than two.
    """
    from scipy.stats import t

    n = len(ours)
    if n != len(theirs) or n < 2:
        raise DataError(
            f"{n} figures beside {len(theirs)} make no interval of paired differences; give both methods' "
            "figures over the same seeds, at least two"
        )
    d = torch.tensor(list(ours), dtype=torch.float64) - torch.tensor(list(theirs), dtype=torch.float64)
    quantile = float(t.ppf((1 + level) / 2, n - 1))
    return Difference(float(d.mean()), quantile * float(d.std()) / n**0.5)


# --- detection: average precision ---------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """What a detector found in one image.

    Attributes:
        boxes: (n, 4), [left, top, width, height] in pixels of the original image.
        labels: (n,), class ids.
        scores: (n,), from 0 to 1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def coco_truth(objects: Sequence[Objects], num_classes: int) -> dict[str, Any]:
    """Return annotated images as COCO's dictionary; image and category ids count from 1."""
    boxed = [
        (image, *one)
        for image, own in enumerate(objects, 1)
        for one in zip(own.boxes.tolist(), own.labels.tolist(), own.crowd.tolist(), strict=True)
    ]
    annotations = [
        {"id": i, "image_id": image, "category_id": label + 1, "bbox": box, "iscrowd": int(crowd)}
        | {"area": box[2] * box[3]}
        for i, (image, box, label, crowd) in enumerate(boxed, 1)
    ]
    images = [{"id": i, "height": o.size[0], "width": o.size[1]} for i, o in enumerate(objects, 1)]
    categories = [{"id": c + 1, "name": str(c)} for c in range(num_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_results(found: Sequence[Boxes]) -> list[dict[str, Any]]:
    """Return detections as COCO's list of results, ids as in :func:`coco_truth`."""
    return [
        {"image_id": image, "category_id": label + 1, "bbox": box, "score": score}
        for image, own in enumerate(found, 1)
        for box, label, score in zip(
            own.boxes.tolist(), own.labels.tolist(), own.scores.tolist(), strict=True
        )
    ]


def average_precisions(
    found: Sequence[Boxes], objects: Sequence[Objects], num_classes: int
) -> dict[str, Tensor]:
    """Return AP (mean over IoU .50 to .95) and AP50 (9.5) of each class, (C,), in percent.

    COCO's evaluation by faster-coco-eval, from one pass for all classes.

    Args:
        found: the detections in each image.
        objects: what is there.
        num_classes: C.

    Returns:
        "ap" and "ap50"; NaN for a class without an object that is not a crowd.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(coco_truth(objects, num_classes))
        results = truth.loadRes(coco_results(found))
        judged = COCOeval_faster(truth, results, "bbox", print_function=lambda *text: None)
        judged.evaluate()
        judged.accumulate()
    # (IoU thresholds, recalls, classes, areas, detections an image); all areas, 100 detections
    precision = torch.from_numpy(judged.eval["precision"][:, :, :, 0, -1]).double()
    precision = precision.masked_fill(precision < 0, torch.nan) * 100
    return {"ap": precision.mean(dim=(0, 1)), "ap50": precision[0].mean(dim=0)}


def detection_metrics(
    precisions: Mapping[str, Tensor], task: Task, classes: Sequence[str] = ()
) -> dict[str, float]:
    """Return ap_r, ap50_r, ap_f, …, and where they exist those of old and missing classes, in percent.

    Each is the mean over the classes of its subset that have objects in the split.

    Raises:
        DataError: where a subset has no object at all.
    """
    metrics = {}
    for stem, values in precisions.items():
        for key, (what, chosen) in subsets(task).items():
            own = values[list(chosen)]
            if own.isnan().all():
                raise _undefined(chosen, what, classes, "object", "average precision is")
            metrics[f"{stem}_{key}"] = float(own.nanmean())
    return metrics
