"""Stranger test: do forgotten people's images stand out from those of people whom no model ever saw?

Threat: whoever sees outputs only. A forgotten person should look like a stranger; that they look *more*
unknown than a stranger gives them away, too (the "Streisand effect" of the unlearning literature). An AUC
of ½ says that this score cannot tell, not that no score could; and strangers of another kind than the
data's are told from anybody, by oracles, too.

Source: ours; the effect is named in Chundawat et al., arXiv 2205.08096.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from minigslora.audit.subject import Beside, Found, Subject

FOLDS = 5


def confidence(logits: Tensor) -> Tensor:
    """Return the largest probability of each image, (N,), from logits (N, C)."""
    return logits.softmax(dim=1).amax(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each image's answer in nats, (N,), from logits (N, C)."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def auc(scores: Tensor, others: Tensor) -> float:
    """Return the probability that a score (N,) exceeds one of the others (M,); ties count half."""
    truth = np.concatenate([np.ones(len(scores)), np.zeros(len(others))])
    return float(roc_auc_score(truth, torch.cat([scores, others]).double().numpy()))


def classifier_auc(logits: Tensor, others: Tensor, seed: int) -> float:
    """Return the AUC of a logistic regression on sorted logits, each image judged by one fitted without it.

    Sorted, they say how sure the model is and of how many, but not of whom.

    Args:
        logits: (N, C), of images of the first kind; at least five.
        others: (M, C), of the second.
        seed: of the five folds.
    """
    both = torch.cat([logits, others]).sort(dim=1, descending=True).values.double().numpy()
    truth = np.concatenate([np.ones(len(logits)), np.zeros(len(others))])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, both, truth, cv=folds, method="decision_function")
    return float(roc_auc_score(truth, scores))


def measure(subject: Subject, beside: Beside) -> Found:
    """Tell the forgotten classes' test images from the strangers'."""
    ours, theirs = subject.test.logits[subject.test_gone], subject.strangers.logits
    figures = {
        "AUC, confidence": 100 * auc(confidence(ours), confidence(theirs)),
        "AUC, entropy": 100 * auc(-entropy(ours), -entropy(theirs)),
    }
    if min(len(ours), len(theirs)) >= 2 * FOLDS:
        figures["AUC, sorted logits"] = 100 * classifier_auc(ours, theirs, subject.case.seed % 2**31)
    return Found(figures)
