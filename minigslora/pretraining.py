"""Pre-training of a classifier or a detector: what the rest of the library edits.

The one loop with an ordinary supervised loss (notebook 01): AdamW, linear warm-up and cosine rate, small
random affine augmentation, gradient clipping, and, for a cosine head, a margin that grows over the first part
of training (a full margin from random weights does not get off the ground). A classifier without a margin
can learn from images mixed in pairs, which makes more of few photographs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from minigslora.config import AtLeastOne, Count, NonNegative, Seed, Share, parse_fields, parse_value
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.device import Precision, device_name, pick_device, seeded, versions
from minigslora.errors import ConfigError, DataError
from minigslora.files import require_writable, sha256, write_json
from minigslora.methods.base import Method, Step, Terms, Training
from minigslora.models import checkpoint
from minigslora.models.detr import MINI_SCENES, DetectorConfig, frozen_norms, trainable_norms
from minigslora.models.heads import CosineHead
from minigslora.models.vit import MINI_FACE, MINI_GLYPH, FaceConfig, VitConfig
from minigslora.problems.base import Role
from minigslora.problems.classification import Classification
from minigslora.problems.detection import Detection
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task
from minigslora.training import train


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
        mix: share of the steps whose images are mixed in pairs, with the labels (CutMix or MixUp).
        precision: "auto" is bf16 where it is fast.
        seed: of initialisation, order and augmentation.
    """

    epochs: AtLeastOne = 40
    batch: AtLeastOne = 96
    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.05
    warmup_epochs: Count = 3
    margin_ramp: Share = 0.3
    clip: NonNegative = 1.0
    augment: bool = True
    mix: Share = 0.0
    precision: Precision = "auto"
    seed: Seed = 0


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its number from 1, mean loss, accuracy (or AP50) on validation, seconds so far."""

    epoch: int
    loss: float
    acc_val: float
    seconds: float


@dataclass(kw_only=True)
class Supervised(Method):
    """Ordinary supervised training of all that is open, as a method of the one loop.

    Attributes:
        margin_ramp, mix: see :class:`Pretraining`.
        margin: whether a head with a training margin is trained with it.
    """

    margin_ramp: Share = 0.3
    mix: Share = 0.0
    margin: bool = True

    def loss(self, step: Step) -> Terms:
        """Return the problem's own loss."""
        problem, progress, batch = step.problem, step.progress, step.batch
        ramp = min(1.0, progress.epoch / max(1e-9, self.margin_ramp * progress.epochs))
        if isinstance(problem, Classification) and self.mix and torch.rand(()) < self.mix:
            batch = problem.mixed(batch)
        return {"supervised": problem.supervised(batch, ramp if self.margin else 0.0)}

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for the images of the training split."""
        return ("retain",)


class _Streams(Streams):
    """The streams of pre-training; the order of the shipped models' images was drawn under this name."""

    def __call__(self, *key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        return super().__call__(*("order" if part == "order/retain" else part for part in key), device=device)


def _loop(config: Pretraining) -> Training:
    return Training(
        epochs=config.epochs,
        batch_retain=config.batch,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule="cosine by step",
        warmup_epochs=config.warmup_epochs,
        clip=config.clip,
        augment=config.augment,
        whole_batches=True,
    )


def pretrain(
    problem: Classification | Detection,
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
        ConfigError: for a number that cannot be, or where images are to be mixed for a detector, or for a
            head with a margin.
        TrainingDiverged: where an epoch's loss, or a weight after it, is not finite; the model is
            then that of the last good epoch.
    """
    config = parse_fields(config)
    if config.mix and (isinstance(problem, Detection) or problem.margin):
        raise ConfigError(f"mix = {config.mix}: only a classifier without a margin learns from mixed images")
    learn = Supervised(
        margin_ramp=config.margin_ramp, mix=config.mix, margin=objective == "margin", training=_loop(config)
    )
    history, began = list[Epoch](), time.perf_counter()

    def evaluate(task: Task, epoch: int, terms: Mapping[str, float]) -> None:
        if (epoch + 1) % evaluate_every == 0 or epoch + 1 == config.epochs:
            accuracy = problem.accuracy("val")
            history.append(Epoch(epoch + 1, terms["loss"], accuracy, time.perf_counter() - began))
            on_epoch(history[-1])

    images = tuple(range(len(problem.data.train)))
    everything = Task("pre-training", 0, (), (), tuple(range(problem.num_classes)), retain_images=images)
    opened = [{"params": [p for p in problem.model.parameters() if p.requires_grad]}]
    own, problem.precision = problem.precision, config.precision
    try:
        with seeded(config.seed, problem.device):  # dropout, and what is mixed
            train(problem, learn, everything, opened, _Streams(config.seed, "pretrain"), watch, evaluate)
    finally:
        problem.precision = own
    return history


# --- recipes by name, and the checkpoints they make -------------------------------------------------


Architecture = FaceConfig | VitConfig | DetectorConfig


@dataclass(frozen=True)
class Recipe:
    """What is pre-trained on a data set, and how.

    Attributes:
        model: the architecture.
        training: the loop.
        start: whose weights, all but the head's, it starts from: a shipped checkpoint's name or a
            file; "" for random ones.
        data: the data set it is trained on, where that is not the one it is named after.
        without: names of classes whose images are left out of every split, for a model that never knew
            them; their rows stay in the head.
    """

    model: Architecture
    training: Pretraining
    start: str = ""
    data: str = ""
    without: tuple[str, ...] = ()


MINI_RECIPE = Recipe(MINI_FACE, Pretraining(epochs=45))
# In float32: places that attention reads from are too coarse in bf16, and it is hardly faster here.
DETECTION = Pretraining(epochs=10, batch=16, lr=5e-4, weight_decay=1e-4, warmup_epochs=1, precision="fp32")
RECIPES: dict[str, dict[str, Recipe]] = {
    "mini-faces": {"cpu": MINI_RECIPE, "cuda": MINI_RECIPE},
    "mini-faces-tuning": {"cpu": MINI_RECIPE, "cuda": MINI_RECIPE},
    "casia-face100": {
        # Some thousand photographs are too few for a transformer's random weights: of the published
        # size (FaceConfig), trained on 14,000, it is right on 27 % of the test photographs; the small
        # one that starts from rendered faces, on 72 %.
        "cpu": Recipe(replace(MINI_FACE, dropout=0.0), Pretraining(epochs=60), start="mini-faces"),
        "cuda": Recipe(
            replace(MINI_FACE, image_size=112, dropout=0.0),
            Pretraining(epochs=60, batch=128),
            start="mini-faces",
        ),
    },
    "olivetti": {
        "cpu": Recipe(
            replace(MINI_FACE, classes=40, dropout=0.0), Pretraining(epochs=100, batch=48), start="mini-faces"
        ),
    },
    # The model knows more than the task: the head's other half is for the outside check.
    "mini-glyphs": {
        "cpu": Recipe(MINI_GLYPH, Pretraining(epochs=34, batch=64, warmup_epochs=2), data="mini-glyphs-all"),
    },
    # Some ten thousand small photographs are too few for random weights: edges are edges, and mixing
    # makes more photographs of them.
    "tiny-imagenet": {
        "cpu": Recipe(
            VitConfig(classes=100), Pretraining(epochs=160, batch=64, mix=0.5), start="mini-glyphs"
        ),
    },
    "mini-scenes": {"cpu": Recipe(MINI_SCENES, DETECTION)},
    "voc": {
        # The shipped detector knows what an object is; a few thousand photographs teach it which.
        "cpu": Recipe(MINI_SCENES, replace(DETECTION, epochs=20), start="mini-scenes")
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
    without: Sequence[str] = (),
) -> Recipe:
    """Return the recipe of a data set on a device, with what was asked for in its place.

    A changed width keeps the size of an attention head and the ratio of MLP to width. A changed input
    size keeps the weights that the recipe starts from; with another width or depth it starts from
    random ones, unless ``start`` is given.

    Raises:
        ConfigError: for a data set without recipe, a seed out of range, or sizes that do not fit together.
    """
    if name not in RECIPES:
        raise ConfigError(f"no pre-training recipe for {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name].get(pick_device(device).type, RECIPES[name]["cpu"])
    given = {"epochs": epochs, "image_size": image_size, "dim": dim, "depth": depth}
    asked = {key: parse_value(key, value, AtLeastOne) for key, value in given.items() if value is not None}
    loop = {"seed": parse_value("seed", seed, Seed), "epochs": asked.pop("epochs", recipe.training.epochs)}
    if isinstance(recipe.model, DetectorConfig):
        if without:
            raise ConfigError(f"without is for classifiers; {name} trains a detector")
        sizes: dict[str, Any] = {"layers" if k == "depth" else k: v for k, v in asked.items()}
        model: Architecture = replace(recipe.model, **sizes)
    else:
        model = replace(recipe.model, **_sizes(recipe.model, asked))
    if start is None:  # a model of another body than the recipe's has no weights to start from
        start = recipe.start if replace(model, image_size=recipe.model.image_size) == recipe.model else ""
    training = replace(recipe.training, **loop)
    return replace(recipe, model=model, training=training, start=start, without=tuple(without))


def _sizes(model: FaceConfig | VitConfig, asked: dict[str, int]) -> dict[str, Any]:
    """Return the fields of a transformer that give it the sizes that were asked for."""
    each, ratio = model.dim // model.heads, model.mlp // model.dim
    if (dim := asked.get("dim")) is not None:
        if dim % each:
            raise ConfigError(f"width = {dim}; expected a multiple of {each}, the size of an attention head")
        asked = {**asked, "heads": dim // each, "mlp": ratio * dim}
    if (size := asked.get("image_size", model.patch)) % model.patch:
        raise ConfigError(f"image_size = {size}; expected a multiple of the patch, {model.patch}")
    return asked


HEADS = ("head.", "class_embed.")
"""How the keys of a model's classifier begin."""


def start_from(model: nn.Module, start: str) -> None:
    """Give ``model`` the weights of another checkpoint, all but the head's, in place.

    Where the input size differs, a vision transformer's position embeddings are interpolated.

    Args:
        model: a vision transformer, or a detector.
        start: the name of a shipped checkpoint, or a file.

    Raises:
        ModelError: where there is no such checkpoint, or its body is of another size.
    """
    shipped = start in checkpoint.SHIPPED
    other, _ = checkpoint.load_shipped(start) if shipped else checkpoint.load(Path(start))
    tensors = {k: v for k, v in other.state_dict().items() if not k.startswith(HEADS)}
    own = {k: v for k, v in model.state_dict().items() if k.startswith(HEADS)}
    if isinstance(model, VisionTransformer) and "pos_embed" in tensors:
        grid = list(model.patch_embed.grid_size)
        tensors["pos_embed"] = resample_abs_pos_embed(
            tensors["pos_embed"], grid, num_prefix_tokens=model.num_prefix_tokens
        )
    checkpoint.load_weights(model, {**tensors, **own}, start)


def make_checkpoint(
    name: str,
    recipe: Recipe,
    out: Path,
    device: str = "auto",
    command: str = "",
    watch: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> dict[str, Any]:
    """Pre-train on the data set called ``name`` and write the checkpoint ``out``, a safetensors file.

    Args:
        name: the data set's.
        recipe: model and training.
        out: the file.
        device: "auto", "cpu" or "cuda".
        command: what was typed, for the record.
        watch: whether to show progress.
        on_epoch: told of every evaluated epoch.

    Returns:
        The record, which is written beside it as JSON: command, training, metrics, versions, hash, …

    Raises:
        ConfigError: where ``out`` is no safetensors file.
        OutputError: where it cannot be written; this is found before training.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} should end in .safetensors, the format it is written in")
    require_writable(out.parent)
    with seeded(recipe.training.seed, pick_device(device)):  # the model's first weights
        problem, architecture = _untrained(name, recipe, device, watch)
    seconds = _pretrained(problem, recipe.training, watch, on_epoch)
    if half := isinstance(problem, Detection) or bool(recipe.without):
        checkpoint.halve(problem.model)
    notes = _notes(name, recipe, command, _measured(problem) | {"seconds": round(seconds, 1)})
    mean, std, size = _plain(problem.mean), _plain(problem.std), recipe.model.image_size
    card = checkpoint.Card(
        architecture, problem.data.classes, mean=mean, std=std, image_size=size, notes=notes
    )
    checkpoint.save(out, problem.model, card, half=half)
    machine = {"device": device_name(problem.device), "threads": torch.get_num_threads()}
    record = {"file": out.name, "architecture": architecture, **notes, **machine, "sha256": sha256(out)}
    write_json(out.with_suffix(".json"), record)
    return record


def _notes(name: str, recipe: Recipe, command: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return how the weights came about."""
    return {
        "command": command,
        "seed": recipe.training.seed,
        "data": recipe.data or name,
        "start": recipe.start,
        "without": list(recipe.without),
        "training": asdict(recipe.training),
        "versions": versions(),
        "metrics": {**metrics, "epochs": recipe.training.epochs},
    }


def _pretrained(
    problem: Classification | Detection,
    training: Pretraining,
    watch: bool,
    on_epoch: Callable[[Epoch], None],
) -> float:
    """Pre-train, and return the seconds it took; a detector's norms are frozen again afterwards."""
    if not isinstance(problem, Detection):
        return pretrain(problem, training, watch, on_epoch)[-1].seconds
    trainable_norms(problem.model)
    history = pretrain(problem, training, watch, on_epoch, evaluate_every=1)
    frozen_norms(problem.model)
    return history[-1].seconds


def _plain(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values.flatten().tolist())


def described(model: FaceConfig | VitConfig) -> dict[str, Any]:
    """Return an architecture as :func:`minigslora.models.checkpoint.build` takes it."""
    if isinstance(model, VitConfig):
        return model.architecture()
    return {"kind": "face", **asdict(model)}


def _untrained(
    name: str, recipe: Recipe, device: str, watch: bool
) -> tuple[Classification | Detection, dict[str, Any]]:
    """Return a data set with a model to train on it, and the model's description."""
    size = recipe.model.image_size
    if isinstance(recipe.model, DetectorConfig):
        scenes = registry.load_detection(name, size, watch)
        own = {"kind": "deformable-detr", **asdict(recipe.model), "classes": len(scenes.classes)}
        model = checkpoint.build(own)
        if recipe.start:
            start_from(model, recipe.start)
        return Detection(model, scenes, device=device), own
    data = _without(registry.load(recipe.data or name, size, watch), recipe.without)
    own = described(replace(recipe.model, classes=len(data.classes)))
    model = checkpoint.build(own)
    if recipe.start:
        start_from(model, recipe.start)
    mean, std = checkpoint.normalisation(model)
    return Classification(model, data, mean, std, device=device), own


def _without(data: DataSet, names: Sequence[str]) -> DataSet:
    """Return a data set without the images of some classes; the head keeps their rows.

    Raises:
        DataError: for a name that is no class, or where no image is left.
    """
    if not names:
        return data
    left_out = data.class_ids(names)
    kept = [c for c in range(len(data.classes)) if c not in left_out]
    if not kept:
        raise DataError(f"without names all {len(left_out)} classes of {data.name}; at least one must stay")
    splits: dict[str, Any] = {}
    for name in ("train", "val", "test"):
        split: ImageSet = getattr(data, name)
        rows = split.of_classes(kept)
        splits[name] = replace(split, images=split.images[rows], labels=split.labels[rows])
    return replace(data, **splits)


def _measured(problem: Classification | Detection) -> dict[str, float]:
    """Return what a pre-trained model's record says of it, in percent."""
    if isinstance(problem, Detection):
        found = {split: problem.precisions(split) for split in ("val", "test")}
        return {
            f"{stem}_{split}": round(float(values.nanmean()), 2)
            for split, precisions in found.items()
            for stem, values in precisions.items()
        }
    measured = {"acc_val": problem.accuracy("val"), "acc_test": problem.accuracy("test")}
    if isinstance(problem.head, CosineHead):  # with its margin, as published face accuracies are measured
        hits = problem.correct("test", margin=True)
        measured["acc_test_margin"] = 100.0 * float(hits.float().mean())
    return {key: round(value, 2) for key, value in measured.items()}
