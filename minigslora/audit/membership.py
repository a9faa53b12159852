"""Membership: were these very images used in training, not only others of their class?

Threat: whoever has outputs, and models that never saw the images (the oracles). It answers another question
than the other audits, and is read as such: removing a class is about the class, not about its training
images ("unlearning or untraining", arXiv 2604.07962).

Sources: loss thresholds, Yeom et al. (2018); offline RMIA, Zarifzadeh et al. (ICML 2024), equations 9 to
11; reading it beside retrained models, U-LiRA (SaTML 2025).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minigslora.audit.strangers import auc
from minigslora.audit.subject import Beside, Found, Reading, Subject


def loss_auc(members: Tensor, labels: Tensor, others: Tensor, truth: Tensor) -> float:
    """Return the AUC of telling training images from test images of the same classes by their smaller loss.

    Args:
        members: (N, C), logits of training images of the forgotten classes.
        labels: (N,), their classes.
        others: (M, C), logits of test images of the same classes.
        truth: (M,), their classes.
    """
    trained, tested = (
        -F.cross_entropy(logits.double(), true, reduction="none")
        for logits, true in ((members, labels), (others, truth))
    )
    return auc(trained, tested)


def relative_likelihood(probability: Tensor, references: Tensor, a: float = 0.3) -> Tensor:
    """Return Pr(x | θ) / Pr(x), with Pr(x) from models that never saw x, (N,).

    Args:
        probability: (N,), of the true class by the model under test.
        references: (K, N), of the true class by each reference model.
        a: how much likelier an image is to a model that saw it: Pr(x) = ½ ((1 + a) Pr_out(x) + 1 − a).
    """
    return probability / (0.5 * ((1 + a) * references.mean(dim=0) + 1 - a))


def rmia(images: Tensor, population: Tensor) -> Tensor:
    """Return the share of the population's images z that each image x is level with or above, (N,).

    Args:
        images: (N,), relative likelihoods of the images asked about.
        population: (M,), those of images that no model was trained on.
    """
    ranked = population.sort().values
    return torch.searchsorted(ranked, images, right=True).double() / len(population)


def found_at(members: Tensor, others: Tensor, false_rate: float = 0.01) -> float:
    """Return TPR at a FPR: the share of members that score above all but that share of the others."""
    ranked = others.sort(descending=True).values
    return float((members > ranked[int(false_rate * len(ranked))]).double().mean())


def likelihoods(reading: Reading, chosen: Tensor) -> Tensor:
    """Return the probability of the true class of some images, in float64."""
    logits, labels = reading.logits[chosen].double(), reading.labels[chosen]
    return logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]


def measure(subject: Subject, beside: Beside) -> Found:
    """Tell the forgotten classes' training images from their test images, also with the oracles' help."""
    train, test, gone = subject.train, subject.test, subject.test_gone
    own = torch.isin(train.labels, torch.tensor(subject.case.gone))
    alone = loss_auc(train.logits[own], train.labels[own], test.logits[gone], test.labels[gone])
    figures = {"loss AUC": 100 * alone}
    if beside.oracles:
        scores = []
        for name, chosen in (("train", own), ("test", gone), ("test", ~gone)):
            theirs = torch.stack([likelihoods(getattr(o, name), chosen) for o in beside.oracles])
            scores.append(relative_likelihood(likelihoods(getattr(subject, name), chosen), theirs))
        members, others = (rmia(images, scores[2]) for images in scores[:2])
        figures["RMIA AUC"] = 100 * auc(members, others)
        figures["RMIA, TPR at FPR 1 %"] = 100 * found_at(members, others)
    return Found(figures)
