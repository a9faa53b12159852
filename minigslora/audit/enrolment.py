"""Enrolment: can a forgotten person still be verified by the model's embedding, as face recognition does it?

Threat: whoever has the file compares pairs of photographs, or looks a photograph up in a gallery of one
image a person; the classifier plays no part. Those who stay are measured, too: for them it must not fall.
Oracles verify people whom they never saw, for that is what an embedding of faces is for.

Source: the field's verification protocol, TAR at a fixed FAR, and rank-1 identification.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.audit.subject import Beside, Found, Subject, draws, mean
from minigslora.datasets.images import spread

MOST = 2000
"""Images of the retained that are compared in pairs."""


def pairs(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of all pairs of images of one class, and of all pairs of two.

    Args:
        features: (N, D), embeddings.
        labels: (N,), who it is.
    """
    unit = F.normalize(features, dim=1)
    rows, columns = torch.triu_indices(len(labels), len(labels), offset=1)
    cosines, same = (unit @ unit.T)[rows, columns], labels[rows] == labels[columns]
    return cosines[same], cosines[~same]


def true_acceptance(same: Tensor, different: Tensor, false_rate: float = 0.01) -> float:
    """Return TAR at a FAR: the share of pairs of one person above the threshold that so many of two exceed.

    NaN where there are too few pairs for that rate.

    Args:
        same: (P,), cosines of pairs of one person.
        different: (Q,), of two.
        false_rate: FAR, the share of pairs of two people that may be accepted.
    """
    allowed = int(false_rate * len(different))
    if not len(same) or allowed < 1:
        return float("nan")
    threshold = different.topk(allowed + 1).values[-1]
    return float((same > threshold).double().mean())


def rank_one(gallery: Tensor, names: Tensor, features: Tensor, labels: Tensor) -> float:
    """Return the share of images whose nearest image in the gallery is of their own person.

    Args:
        gallery: (G, D), one embedding a person.
        names: (G,), who it is.
        features: (N, D), the images looked up.
        labels: (N,), who they are.
    """
    nearest = (F.normalize(features, dim=1) @ F.normalize(gallery, dim=1).T).argmax(dim=1)
    return float((names[nearest] == labels).double().mean())


def measure(subject: Subject, beside: Beside) -> Found:
    """Verify among the forgotten and among the retained, and look both up in a gallery of everybody."""
    train, test, gone = subject.train, subject.test, subject.test_gone
    figures: dict[str, float] = {}
    tries = draws(train.labels, 1, subject.streams.under("gallery"))
    for whose, chosen in (("forgotten", gone), ("retained", ~gone)):
        rows = spread(chosen.nonzero().flatten(), MOST)
        features, labels = test.features[rows], test.labels[rows]
        same, different = pairs(features, labels)
        if not len(different):  # one class alone: beside those of everybody else
            others = test.features[spread((~chosen).nonzero().flatten(), MOST)]
            different = (F.normalize(features, dim=1) @ F.normalize(others, dim=1).T).flatten()
        for rate, name in ((0.01, "1 %"), (0.001, "0.1 %")):
            figures[f"TAR at FAR {name}, {whose}"] = 100 * true_acceptance(same, different, rate)
        found = (rank_one(train.features[g], train.labels[g], features, labels) for g in tries)
        figures[f"rank-1, {whose}"] = 100 * mean(found)
    return Found(figures)
