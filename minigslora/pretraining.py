"""Pre-training of a classifier from random weights: what the rest of the library edits.

One ordinary supervised loop (notebook 01): AdamW, linear warm-up and cosine rate, small random affine
augmentation, gradient clipping, and, for a cosine head, a margin that grows over the first part of
training (a full margin from random weights does not get off the ground).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minigslora.contracts import Batch
from minigslora.datasets import registry
from minigslora.device import Precision, autocast, pick_device
from minigslora.erasure import normalisation
from minigslora.errors import ConfigError, TrainingDiverged
from minigslora.files import require_writable, sha256, write_json
from minigslora.models import checkpoint
from minigslora.models.face import MINI_FACE, FaceConfig
from minigslora.models.heads import CosineHead, margin_logits
from minigslora.models.small import MINI_GLYPH, VitConfig
from minigslora.problems.classification import Classification
from minigslora.runs import device_name, versions
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
        TrainingDiverged: where an epoch's loss, or a weight after it, is not finite; the model is
            then that of the last good epoch.
    """
    streams, data = Streams(config.seed, "pretrain"), problem.data.train
    order, moves = streams("order"), streams("augment", device=problem.device)
    parameters = [p for p in problem.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    steps, began, history = max(1, len(data) // config.batch), time.perf_counter(), []
    good = {key: value.clone() for key, value in problem.model.state_dict().items()}
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
        _keep_or_put_back(problem.model, good, loss, epoch, config)
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


def _keep_or_put_back(
    model: nn.Module, good: dict[str, Tensor], loss: float, epoch: int, config: Pretraining
) -> None:
    """Keep an epoch's weights in ``good`` if they are finite, else put the last good ones back."""
    state = model.state_dict()
    finite = torch.stack([value.isfinite().all() for value in state.values()]).all()
    if math.isfinite(loss) and finite:
        for key, value in state.items():
            good[key].copy_(value)
        return
    model.load_state_dict(good)
    what = "a weight is not finite" if math.isfinite(loss) else f"the loss is {loss}"
    raise TrainingDiverged(
        f"pre-training, epoch {epoch + 1}: {what}; the model was put back to the state before this "
        f"epoch. Lower lr (now {config.lr})"
    )


# --- recipes by name, and the checkpoints they make -------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What is pre-trained on a data set, and how.

    Attributes:
        model: the architecture.
        training: the loop.
        start: whose weights, all but the head's, it starts from: a shipped checkpoint's name or a
            file; "" for random ones.
        data: the data set it is trained on, where that is not the one it is named after.
    """

    model: FaceConfig | VitConfig
    training: Pretraining
    start: str = ""
    data: str = ""


MINI_RECIPE = Recipe(MINI_FACE, Pretraining(epochs=45))
RECIPES: dict[str, dict[str, Recipe]] = {
    "mini-faces": {"cpu": MINI_RECIPE, "cuda": MINI_RECIPE},
    "mini-faces-tuning": {"cpu": MINI_RECIPE, "cuda": MINI_RECIPE},
    "casia-face100": {
        # Some thousand small photographs are too few for a transformer's random weights.
        "cpu": Recipe(replace(MINI_FACE, dropout=0.0), Pretraining(epochs=60), start="mini-faces"),
        "cuda": Recipe(FaceConfig(), Pretraining(epochs=60, batch=128)),
    },
    # The model knows more than the task: the head's other half is for the outside check.
    "mini-glyphs": {
        "cpu": Recipe(MINI_GLYPH, Pretraining(epochs=34, batch=64, warmup_epochs=2), data="mini-glyphs-all"),
    },
    # Some ten thousand small photographs are too few for random weights; edges are edges.
    "tiny-imagenet": {
        "cpu": Recipe(
            VitConfig(classes=100), Pretraining(epochs=40, batch=64, warmup_epochs=2), start="mini-glyphs"
        ),
    },
}
"""Recipes by data set and kind of device: a CPU takes real faces at a reduced resolution."""


def recipe_for(
    name: str,
    device: str = "auto",
    *,
    epochs: int | None = None,
    image_size: int | None = None,
    dim: int | None = None,
    depth: int | None = None,
    start: str | None = None,
    seed: int = 0,
) -> Recipe:
    """Return the recipe of a data set on a device, with what was asked for in its place.

    A changed width keeps the size of an attention head and the ratio of MLP to width. A model of
    another size than the recipe's starts from random weights, unless ``start`` is given.

    Raises:
        ConfigError: for a data set without recipe, or sizes that do not fit together.
    """
    if name not in RECIPES:
        raise ConfigError(f"no pre-training recipe for {name!r}; there are {', '.join(RECIPES)}")
    kind = pick_device(device).type
    recipe = RECIPES[name].get(kind, RECIPES[name]["cpu"])
    model, training = recipe.model, replace(recipe.training, seed=seed)
    each, ratio = model.dim // model.heads, model.mlp // model.dim
    if epochs is not None:
        training = replace(training, epochs=_at_least_one("epochs", epochs))
    if dim is not None:
        if dim < each or dim % each:
            raise ConfigError(f"width = {dim}; expected a multiple of {each}, the size of an attention head")
        model = replace(model, dim=dim, heads=dim // each, mlp=ratio * dim)
    if depth is not None:
        model = replace(model, depth=_at_least_one("depth", depth))
    if image_size is not None:
        if image_size < model.patch or image_size % model.patch:
            raise ConfigError(f"image_size = {image_size}; expected a multiple of the patch, {model.patch}")
        model = replace(model, image_size=image_size)
    if start is None:
        start = recipe.start if model == recipe.model else ""
    return replace(recipe, model=model, training=training, start=start)


def start_from(model: nn.Module, start: str) -> None:
    """Give ``model`` the weights of another checkpoint, all but the head's, in place.

    Args:
        model: a vision transformer.
        start: the name of a shipped checkpoint, or a file.

    Raises:
        ModelError: where there is no such checkpoint, or its body is of another size.
    """
    shipped = start in checkpoint.SHIPPED
    other, _ = checkpoint.load_shipped(start) if shipped else checkpoint.load(Path(start))
    tensors = {k: v for k, v in other.state_dict().items() if not k.startswith("head.")}
    own = {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    checkpoint.load_weights(model, {**tensors, **own}, start)


def _at_least_one(key: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"{key} = {value}; expected 1 or more")
    return value


def make_checkpoint(
    name: str, recipe: Recipe, out: Path, device: str = "auto", command: str = "", watch: bool = False
) -> dict[str, Any]:
    """Pre-train on a data set and write the checkpoint, with its record as JSON beside it.

    Args:
        name: a data set's name.
        recipe: model and training.
        out: the safetensors file.
        device: "auto", "cpu" or "cuda".
        command: what was typed, for the record.
        watch: whether to show progress.

    Returns:
        The record: file, sha256, command, seed, architecture, training, metrics, versions, device.

    Raises:
        ConfigError: where ``out`` is no safetensors file.
        OutputError: where it cannot be written; this is found before training.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} should end in .safetensors, the format it is written in")
    require_writable(out.parent)
    data = registry.load(recipe.data or name, recipe.model.image_size, watch)
    architecture = described(replace(recipe.model, classes=len(data.classes)))
    torch.manual_seed(recipe.training.seed)  # the model's first weights
    model = checkpoint.build(architecture)
    if recipe.start:
        start_from(model, recipe.start)
    mean, std = normalisation(model)
    problem = Classification(model, data, mean, std, device=device)
    record: dict[str, Any] = {
        "file": out.name,
        "command": command,
        "seed": recipe.training.seed,
        "data": data.name,
        "architecture": architecture,
        "start": recipe.start,
        "training": asdict(recipe.training),
        "versions": versions(),
        "device": device_name(problem.device),
        "threads": torch.get_num_threads(),
    }
    history = pretrain(problem, recipe.training, watch)
    record["metrics"] = {
        "acc_val": round(problem.accuracy("val"), 2),
        "acc_test": round(problem.accuracy("test"), 2),
        **_with_margin(problem),
        "epochs": recipe.training.epochs,
        "seconds": round(history[-1].seconds, 1),
    }
    card = checkpoint.Card(
        architecture=architecture,
        classes=data.classes,
        mean=mean,
        std=std,
        image_size=recipe.model.image_size,
        notes={k: record[k] for k in ("data", "command", "seed", "start", "training", "metrics", "versions")},
    )
    checkpoint.save(out, problem.model, card)
    record["sha256"] = sha256(out)
    write_json(out.with_suffix(".json"), record)
    return record


def described(model: FaceConfig | VitConfig) -> dict[str, Any]:
    """Return an architecture as :func:`minigslora.models.checkpoint.build` takes it."""
    if isinstance(model, VitConfig):
        return model.architecture()
    return {"kind": "face", **asdict(model)}


def _with_margin(problem: Classification) -> dict[str, float]:
    """Return the accuracy with the head's training margin, as published face accuracies are measured."""
    if not isinstance(problem.head, CosineHead):
        return {}
    return {"acc_test_margin": round(100.0 * float(problem.correct("test", margin=True).float().mean()), 2)}
