"""Template leak: the forgotten rows of the classifier, where they stay in a file, are the people's templates.

Threat: whoever has nothing but the file takes the row of a forgotten class and asks which images lie near
it, under the file's own features or the original model's. No image of the person is needed. Rows drawn anew
say nothing of a person, and prove nothing of the features.

Source: ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.audit.strangers import auc
from minigslora.audit.subject import Beside, Found, Subject, mean


def nearest_row(rows: Tensor, features: Tensor, labels: Tensor) -> float:
    """Return the share of images whose nearest row, by cosine, is their own class's.

    Args:
        rows: (K, D), the rows of the forgotten classes in the file.
        features: (N, D), embeddings of their images.
        labels: (N,), places among the rows.
    """
    nearest = (F.normalize(features, dim=1) @ F.normalize(rows, dim=1).T).argmax(dim=1)
    return float((nearest == labels).double().mean())


def template_auc(rows: Tensor, features: Tensor, labels: Tensor) -> float:
    """Return the mean over rows of the AUC of cos(row, e(x)) between its class's images and the others.

    ½ for rows that say nothing, rows of zeros among them. Arguments as in :func:`nearest_row`; a label of
    −1 is none of the rows.
    """
    cosines = F.normalize(features, dim=1) @ F.normalize(rows, dim=1).T
    present = [k for k in range(len(rows)) if 0 < int((labels == k).sum()) < len(labels)]
    return mean(auc(cosines[labels == k, k], cosines[labels != k, k]) for k in present)


def measure(subject: Subject, beside: Beside) -> Found:
    """Compare the forgotten rows with the forgotten classes' images; one row alone with everybody's."""
    test, gone = subject.test, subject.case.gone
    chosen = subject.test_gone if len(gone) > 1 else torch.ones_like(subject.test_gone)
    places = {c: k for k, c in enumerate(gone)}
    labels = torch.tensor([places.get(c, -1) for c in test.labels[chosen].tolist()])
    rows = subject.head.weight.detach()[list(gone)]
    spaces = {"own features": subject}
    if beside.original is not None:
        spaces["the original's features"] = beside.original
    figures: dict[str, float] = {}
    for name, whose in spaces.items():
        features = whose.test.features[chosen]
        figures[f"AUC, {name}"] = 100 * template_auc(rows, features, labels)
        if len(gone) > 1:
            figures[f"nearest row, {name}"] = 100 * nearest_row(rows, features, labels)
    return Found(figures)
