"""Metrics of continual forgetting, in percent on the test split (notebooks 04 and 05).

    Drop = Acc_f(pre-trained) − Acc_f(now)                                   (5.1)
    H = 2 · Acc_r · Drop / (Acc_r + Drop)                                    (5.2)

Source: arXiv 2501.09705, section 5.1. Accuracy is the argmax over the whole head, forgotten columns
included. The published tables take the *pre-trained* model's Acc_f in (5.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minigslora.contracts import Task
from minigslora.errors import DataError


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
        shown = ", ".join(repr(names[c]) if names else str(c) for c in list(classes)[:5])
        raise DataError(
            f"the split has no image of the {len(classes)} {what} classes "
            f"({shown}{', …' if len(classes) > 5 else ''}), so their accuracy is undefined; add images of "
            "them to it, or evaluate on a split that has them"
        )
    return 100.0 * float(hits / counts)


def task_metrics(
    per_class: tuple[Tensor, Tensor], task: Task, classes: Sequence[str] = ()
) -> dict[str, float]:
    """Return acc_r, acc_f, and where they exist acc_o (old) and acc_m (missing), in percent."""
    subsets = {"acc_r": task.retain, "acc_f": task.forget, "acc_o": task.old, "acc_m": task.missing}
    names = {"acc_r": "retained", "acc_f": "forgotten", "acc_o": "old", "acc_m": "missing"}
    return {
        key: subset_accuracy(per_class, chosen, names[key], classes)
        for key, chosen in subsets.items()
        if chosen
    }


def drop(acc_f_before: float, acc_f_now: float) -> float:
    """Return Acc_f(pre-trained) − Acc_f(now) (equation 5.1)."""
    return acc_f_before - acc_f_now


def h_mean(acc_r: float, drop: float) -> float:
    """Return the harmonic mean of Acc_r and Drop (equation 5.2); 0 where both are not positive."""
    if acc_r <= 0 or drop <= 0:
        return 0.0
    return 2 * acc_r * drop / (acc_r + drop)


def with_h(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Return ``now`` with drop and h, given the pre-trained model's metrics on the same classes."""
    result = dict(now)
    for suffix in ("", "_margin"):
        if f"acc_f{suffix}" in now:
            fall = drop(before[f"acc_f{suffix}"], now[f"acc_f{suffix}"])
            result[f"drop{suffix}"] = fall
            result[f"h{suffix}"] = h_mean(now[f"acc_r{suffix}"], fall)
            result[f"acc_r_before{suffix}"] = before[f"acc_r{suffix}"]
            result[f"acc_f_before{suffix}"] = before[f"acc_f{suffix}"]
    for key in ("acc_m", "acc_outside"):
        if key in before:
            result[f"{key}_before"] = before[key]
    return result
