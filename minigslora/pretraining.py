"""Pre-training of a classifier from random weights: what the rest of the library edits.

One ordinary supervised loop (notebook 01): AdamW, linear warm-up and cosine rate, small random affine
augmentation, gradient clipping, and, for a cosine head, a margin that grows over the first part of
training (a full margin from random weights does not get off the ground).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from minigslora.contracts import Batch
from minigslora.device import Precision, autocast
from minigslora.errors import TrainingDiverged
from minigslora.models.heads import margin_logits
from minigslora.problems.classification import Classification
from minigslora.streams import Streams


@dataclass(frozen=True)
class Pretraining:
    """How a model is pre-trained.

    Attributes:
        epochs: passes over the training split.
        batch: images a step.
        lr: peak learning rate.
        weight_decay: AdamW's.
        warmup_epochs: linear warm-up of the rate.
        margin_ramp: share of the epochs over which the head's margin grows to its full size.
        clip: largest gradient norm.
        augment: whether images are augmented.
        precision: "auto" is bf16 where it is fast.
        seed: of initialisation, order and augmentation.
    """

    epochs: int = 40
    batch: int = 96
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: int = 3
    margin_ramp: float = 0.3
    clip: float = 1.0
    augment: bool = True
    precision: Precision = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its number from 1, mean loss, accuracy on validation, seconds so far."""

    epoch: int
    loss: float
    acc_val: float
    seconds: float


def rate(step: int, steps_per_epoch: int, config: Pretraining) -> float:
    """Return the learning rate at ``step``: linear warm-up times a cosine to a thousandth."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_epochs * steps_per_epoch))
    done = step / (config.epochs * steps_per_epoch)
    return config.lr * warm * (0.0005 + 0.9995 * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(
    problem: Classification,
    config: Pretraining,
    watch: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    evaluate_every: int = 5,
    objective: Literal["margin", "plain"] = "margin",
) -> list[Epoch]:
    """Train ``problem.model`` in place on the training split; the test split is not looked at.

    Returns:
        One :class:`Epoch` for every ``evaluate_every`` epochs and the last.

    Raises:
        TrainingDiverged: where an epoch's loss is not finite.
    """
    streams, data = Streams(config.seed, "pretrain"), problem.data.train
    order, moves = streams("order"), streams("augment", device=problem.device)
    parameters = [p for p in problem.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    steps, began, history = max(1, len(data) // config.batch), time.perf_counter(), []
    torch.manual_seed(config.seed)  # dropout
    bar = tqdm(range(config.epochs), desc="pre-training", disable=None if watch else True)
    for epoch in bar:
        problem.model.train()
        share = min(1.0, epoch / max(1e-9, config.margin_ramp * config.epochs))
        share = share if objective == "margin" else 0.0
        permutation = torch.randperm(len(data), generator=order).to(problem.device)
        total = torch.zeros((), device=problem.device)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch * steps + step, steps, config)
            rows = permutation[step * config.batch : (step + 1) * config.batch]
            batch = problem.batch({"retain": rows}, moves if config.augment else None)
            total += _step(problem, batch, share, optimizer, parameters, config)
        loss = float(total) / steps
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"pre-training's loss is {loss} in epoch {epoch + 1}; lower lr (now {config.lr})"
            )
        if (epoch + 1) % evaluate_every == 0 or epoch + 1 == config.epochs:
            accuracy = problem.accuracy("val")
            history.append(Epoch(epoch + 1, loss, accuracy, time.perf_counter() - began))
            bar.set_postfix(loss=f"{loss:.2f}", val=f"{accuracy:.1f} %")
            on_epoch(history[-1])
    return history


def _step(
    problem: Classification,
    batch: Batch,
    share: float,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    config: Pretraining,
) -> Tensor:
    with autocast(problem.device, config.precision):
        logits = problem.forward(batch).logits
    logits = margin_logits(problem.head, logits.float(), batch.targets, share)
    loss = F.cross_entropy(logits, batch.targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, config.clip)
    optimizer.step()
    return loss.detach()
