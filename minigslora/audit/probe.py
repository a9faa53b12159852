"""Linear probe: what an attacker's own classifier makes of the model's features.

Threat: whoever has the file and k labelled images of every class puts a new classifier on the frozen
features, or on any block's class token. A high accuracy on the forgotten does not prove that they were
remembered: good features tell apart people whom no model ever saw. Only the comparison with oracles says
more.

Sources: ESC (CVPR 2025) and "The Illusion of Unlearning" (AISTATS 2026), which probe the features of
unlearned models, the latter block by block.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from minigslora.audit.subject import Beside, Found, Subject, draws, mean
from minigslora.rng import Streams

FEW = (1, 4)
"""Images of each class that the attacker has, beside all that are at hand."""


def linear_probe(seen: Tensor, labels: Tensor, new: Tensor, strength: float = 10.0) -> Tensor:
    """Return the classes (M,) that a linear classifier, fitted to the seen images, gives to new ones.

    Multinomial logistic regression. Features are divided by the seen ones' mean length, so that one penalty
    serves embeddings of any scale.

    Args:
        seen: (N, D), features of labelled images.
        labels: (N,), their classes.
        new: (M, D), features of the images to name.
        strength: C, the inverse of the ridge penalty.
    """
    length = seen.norm(dim=1).mean().clamp_min(1e-12)
    classifier = LogisticRegression(C=strength, max_iter=300)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")  # one image of each is no mistake
        classifier.fit((seen / length).numpy(), labels.numpy())
    return torch.from_numpy(classifier.predict((new / length).numpy()))


def mlp_probe(
    seen: Tensor, labels: Tensor, new: Tensor, streams: Streams, hidden: int = 256, steps: int = 200
) -> Tensor:
    """Return the classes (M,) that a network of one hidden layer, fitted to seen images, gives to new ones.

    AdamW on all seen images at once, rate 0.01. Arguments as in :func:`linear_probe`; ``streams`` draws the
    start.
    """
    places, inverse = labels.unique(return_inverse=True)
    length = seen.norm(dim=1).mean().clamp_min(1e-12)
    sizes, parameters = (seen.shape[1], hidden, len(places)), []
    for i, (wide, out) in enumerate(pairwise(sizes)):
        drawn = torch.randn(wide, out, generator=streams("mlp", i)) * (2 / wide) ** 0.5
        parameters += [drawn.requires_grad_(), torch.zeros(out, requires_grad=True)]
    first, shift, last, bias = parameters

    def network(x: Tensor) -> Tensor:
        scores: Tensor = (x * (x.shape[1] ** 0.5 / length) @ first + shift).relu() @ last + bias
        return scores

    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(seen), inverse).backward()
        optimizer.step()
    with torch.no_grad():
        named: Tensor = places[network(new).argmax(dim=1)]
    return named


def percent(named: Tensor, truth: Tensor, chosen: Tensor) -> float:
    """Return the accuracy in percent on some images, from classes named (M,), true ones and bool (M,)."""
    return 100 * float((named == truth)[chosen].double().mean())


def measure(subject: Subject, beside: Beside) -> Found:
    """Probe with few and with all images, linearly and not, and every block with four images a class.

    "among them" are heads of the forgotten classes only.
    """
    train, test, gone = subject.train, subject.test, subject.test_gone
    own = torch.isin(train.labels, torch.tensor(subject.case.gone))
    figures: dict[str, float] = {}

    def among(rows: Tensor) -> Tensor:
        mine = rows[own[rows]]
        return linear_probe(train.features[mine], train.labels[mine], test.features)

    def enter(what: str, named: list[Tensor]) -> None:
        for whose, chosen in (("forgotten", gone), ("retained", ~gone)):
            figures[f"{what}, {whose}"] = mean(percent(n, test.labels, chosen) for n in named)

    for k in FEW:
        tries = draws(train.labels, k, subject.streams.under("probe", k))
        few = [linear_probe(train.features[t], train.labels[t], test.features) for t in tries]
        what = f"{k} image{'s' if k > 1 else ''} a class"
        enter(what, few)
        if len(subject.case.gone) > 1:
            figures[f"{what}, among them"] = mean(percent(among(t), test.labels, gone) for t in tries)
    enter("all images", [linear_probe(train.features, train.labels, test.features)])
    if len(subject.case.gone) > 1:
        named = among(torch.arange(len(train.labels)))
        figures["all images, among them"] = percent(named, test.labels, gone)
    mlp = mlp_probe(train.features, train.labels, test.features, subject.streams.under("probe"))
    enter("all images, MLP", [mlp])
    (rows,) = draws(train.labels, FEW[-1], subject.streams.under("blocks"), tries=1)
    blocks = [
        percent(linear_probe(train.tokens[b][rows], train.labels[rows], test.tokens[b]), test.labels, gone)
        for b in train.tokens
    ]
    return Found(figures, {"by block": blocks} if blocks else {})
