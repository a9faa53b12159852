"""Everyday figures: accuracies, how near all of them are to an oracle's, and where forgotten images go.

Threat: none; it is what a user of the model sees. An accuracy of zero on the forgotten says what the model
answers, not what it knows.

Source: ToW, Zhao et al., "What makes unlearning hard" (RUM, NeurIPS 2024), equation 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from minigslora.audit.subject import Beside, Found, Reading, Subject, mean
from minigslora.models.heads import CosineHead, margin_logits


def tug_of_war(ours: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Return Π over splits of 1 − |a − a_oracle| / 100, of accuracies in percent: 1 where all are equal."""
    return math.prod(1 - abs(ours[name] - oracle[name]) / 100 for name in oracle)


def sink(logits: Tensor) -> float:
    """Return the share of images that the most frequent answer takes, from logits (N, C)."""
    return float(logits.argmax(dim=1).bincount().max()) / len(logits)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the accuracy in percent, from logits (N, C) and labels (N,)."""
    return 100 * float((logits.argmax(dim=1) == labels).double().mean())


def of_splits(subject: Subject) -> dict[str, float]:
    """Return what ToW compares: accuracies on training images of both kinds, on test images of the kept."""
    train, test, gone = subject.train, subject.test, subject.test_gone
    own = torch.isin(train.labels, torch.tensor(subject.case.gone))
    chosen: dict[str, tuple[Reading, Tensor]] = {"forget": (train, own), "retain": (train, ~own)}
    chosen["test"] = (test, ~gone)
    return {name: accuracy(r.logits[rows], r.labels[rows]) for name, (r, rows) in chosen.items()}


def measure(subject: Subject, beside: Beside) -> Found:
    """Return accuracies on the test split, ToW against the oracles' mean, and the sink."""
    test, gone = subject.test, subject.test_gone
    figures = {
        "Acc_f": accuracy(test.logits[gone], test.labels[gone]),
        "Acc_r": accuracy(test.logits[~gone], test.labels[~gone]),
    }
    if isinstance(subject.head, CosineHead):
        with_margin = margin_logits(subject.head, test.logits, test.labels)
        figures["Acc_r with margin"] = accuracy(with_margin[~gone], test.labels[~gone])
    figures["sink of the forgotten"] = 100 * sink(test.logits[gone])
    if beside.oracles:
        theirs = [of_splits(oracle) for oracle in beside.oracles]
        middle = {name: mean(t[name] for t in theirs) for name in theirs[0]}
        figures["ToW"] = 100 * tug_of_war(of_splits(subject), middle)
    return Found(figures)
