"""Similarity of an edited model to the original and to oracles: of features (CKA), and of answers (KLoM).

CKA alone misleads: it can be moved without changing what a model does, and the other way round (Davari et
al., ICLR 2023). So it is shown and never judged. KLoM asks how an image's margin is distributed over edited
models of several seeds, and over oracles; of one edited model there is only how far its margin lies from
theirs.

Sources: linear CKA, Kornblith et al. (ICML 2019), equation 4; KLoM, EasyDUB (2025), after Georgiev et al.,
"Attribute-to-Delete" (2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from minigslora.audit.subject import Beside, Found, Subject, mean


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return ‖Yᵀ X‖²_F / (‖Xᵀ X‖_F ‖Yᵀ Y‖_F) of centred features (N, D) and (N, E) of the same images."""
    x, y = (v.double() - v.double().mean(dim=0) for v in (x, y))
    between = torch.linalg.matrix_norm(y.T @ x).square()
    return float(between / (torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)))


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logit of the true class less the log-sum-exp of all others', (N,), from logits (N, C)."""
    true = logits.gather(1, labels[:, None])[:, 0]
    return true - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)


def klom(edited: Tensor, oracles: Tensor) -> Tensor:
    """Return KL(edited ‖ oracles) of each image's margin over models, both taken as normal, in nats, (N,).

    Args:
        edited: (K, N), margins of K ≥ 2 edited models (seeds).
        oracles: (M, N), margins of M ≥ 2 oracles.
    """
    (mu, var), (mu_o, var_o) = ((v.mean(dim=0), v.var(dim=0).clamp_min(1e-12)) for v in (edited, oracles))
    return 0.5 * ((var_o / var).log() + (var + (mu - mu_o).square()) / var_o - 1)


def measure(subject: Subject, beside: Beside) -> Found:
    """Compare the forgotten classes' test images, block by block, and how far their margins are off."""
    gone, figures, curves = subject.test_gone, dict[str, float](), dict[str, list[float]]()
    others = {"the oracles": beside.oracles}
    if beside.original is not None:
        others["the original"] = (beside.original,)
    for name, models in others.items():
        if models:
            curves[f"CKA to {name}"] = [
                mean(linear_cka(tokens[gone], other.test.tokens[block][gone]) for other in models)
                for block, tokens in subject.test.tokens.items()
            ]
    if beside.oracles:
        labels = subject.test.labels[gone]
        ours, *theirs = (margins(s.test.logits[gone].double(), labels) for s in (subject, *beside.oracles))
        gap = (ours - torch.stack(theirs).mean(dim=0)).abs().median()
        figures["margin off the oracles', nats"] = float(gap)
    return Found(figures, {name: curve for name, curve in curves.items() if curve})
