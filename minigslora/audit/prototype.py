"""Prototype attack: a forgotten class is put back into the classifier from a few images, without training.

Threat: whoever has the file and k images of each forgotten class writes

    ŵ_c ← normalise(½ normalise(mean of e(x)) + ½ ŵ_c),    ŵ = w / ‖w‖       (12.1)

at the row's own length. That it works does not prove memory where it works on oracles, too. Of a detector,
annotated objects are the images (:mod:`minigslora.audit.detection`); its independent sigmoids have biases.

Source: "Prototypical Relearning Attack" (ICML 2026).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.audit.subject import Beside, Found, Subject, draws, mean
from minigslora.models.head_slicing import Head

SHOTS, JUDGED = (1, 2, 5, 10), 5
"""Images of each forgotten class that the attacker has, and those that the verdict goes by."""


def revived_rows(rows: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Return a classifier's rows (C, D), those of the classes in ``labels`` replaced by (12.1).

    A row of zeros, which has no direction, takes the mean length of the others.

    Args:
        rows: (C, D), as in the file.
        features: (N, D), embeddings of the attacker's images.
        labels: (N,), their classes.
    """
    revived, lengths = rows.clone(), rows.norm(dim=1)
    usual = lengths[lengths > 0].mean()
    for c in labels.unique().tolist():
        prototype = F.normalize(features[labels == c].mean(dim=0), dim=0)
        direction = F.normalize(0.5 * prototype + 0.5 * F.normalize(rows[c], dim=0), dim=0)
        revived[c] = direction * (lengths[c] if lengths[c] > 0 else usual)
    return revived


@torch.no_grad()
def revived(head: Head, features: Tensor, labels: Tensor, kept: Sequence[int]) -> Head:
    """Return a copy of a classifier with (12.1) applied; a revived class's bias is the kept ones' mean."""
    attacked = copy.deepcopy(head)
    attacked.weight.copy_(revived_rows(head.weight, features, labels))
    bias = getattr(attacked, "bias", None)
    if isinstance(bias, Tensor):
        bias[labels.unique()] = bias[list(kept)].mean()
    return attacked


@torch.no_grad()
def measure(subject: Subject, beside: Beside) -> Found:
    """Revive all forgotten classes at once, from each number of images, and measure all classes."""
    train, test, gone = subject.train, subject.test, subject.test_gone
    own = torch.isin(train.labels, torch.tensor(subject.case.gone)).nonzero().flatten()
    forgotten, kept, attacked = list[float](), list[float](), dict[str, float]()
    for k in SHOTS:
        hits = []
        for rows in draws(train.labels[own], k, subject.streams.under("prototype", k)):
            few = own[rows]
            head = revived(subject.head, train.features[few], train.labels[few], subject.case.kept)
            hits.append(head(test.features).argmax(dim=1) == test.labels)
            if k == JUDGED and len(hits) == 1:
                attacked = subject.average_precisions(head)
        forgotten.append(mean(100 * float(hit[gone].double().mean()) for hit in hits))
        kept.append(mean(100 * float(hit[~gone].double().mean()) for hit in hits))
    names = [f"{k} image{'s' if k > 1 else ''}" for k in SHOTS]
    figures = {f"Acc_f, {name}": value for name, value in zip(names, forgotten, strict=True)}
    figures |= {f"Acc_r, {name}": value for name, value in zip(names, kept, strict=True)}
    if attacked:  # a detector, whose everyday figures stand nowhere else
        figures["Acc_f, as in the file"] = subject.accuracy(subject.model, subject.case.gone)
        figures |= {f"AP50_{k}, as in the file": v for k, v in subject.average_precisions().items()}
        figures |= {f"AP50_{k}, {JUDGED} images": v for k, v in attacked.items()}
    return Found(figures, {"Acc_f": forgotten})
