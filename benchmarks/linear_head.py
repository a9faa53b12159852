"""What the front door costs the kept classes of someone else's model: a small ViT with a linear head.

    python benchmarks/linear_head.py train linear.pth            # two minutes of one core
    python benchmarks/linear_head.py forget linear.pth gslora gslora++ gslora-distill gslora-deep
    python benchmarks/linear_head.py train scratch.pth --scratch --epochs 40 --lr 1e-3
    python benchmarks/linear_head.py forget scratch.pth gslora++ --scratch    # and --size 224

``train`` is a plain script as a user would write it: a vision transformer of 6 blocks at 48×48, pre-trained
on other people and fine-tuned on 40 people with 7 images each; linear head, AdamW, no augmentation.
``forget`` erases one person from a copy of it, for three people, and prints what became of the others. Aim:
they lose 2 points at most. With ``--scratch`` the model has random weights at first, and all heads are
upright, central and seen from the front: such a model knows its own 280 pictures by heart and few of them
once they are turned or shifted, as the corrected recipe's augmentation does. ``--size`` is that of its input,
a multiple of 16; the pictures, 48×48, are enlarged to it.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import minigslora
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.datasets.rendered import mini_faces
from minigslora.models import checkpoint
from minigslora.models.checkpoint import normalisation
from minigslora.text import parse_pairs

PEOPLE, IMAGES = 40, 7
POSE = {"yaw", "pitch", "roll", "zoom", "shift_x", "shift_y"}


@cache
def data(scratch: bool = False, size: int = 48) -> DataSet:
    """Return 40 people with 7 training images each, and 25 test images; none of them is in mini-faces.

    Args:
        scratch: whether all heads are upright, central and seen from the front.
        size: height and width of the images in pixels; other than 48 with ``scratch`` only.
    """
    counts = {"train": IMAGES, "val": 10, "test": 25}
    if not scratch:
        return mini_faces.load("tuning", PEOPLE, counts)
    names = tuple(f"person-{i:03d}" for i in range(PEOPLE))
    splits = []
    for split, count in counts.items():
        drawn = [
            mini_faces.render("tuning", person, split, count, lambda key: key not in POSE)
            for person in range(PEOPLE)
        ]
        labels = torch.arange(PEOPLE).repeat_interleave(count)
        images = torch.from_numpy(np.concatenate(drawn))
        if size != images.shape[-1]:
            images = F.interpolate(images, (size, size), mode="bilinear")
        splits.append(ImageSet(images, labels, names))
    return DataSet("portraits", *splits)


def vit(scratch: bool = False, size: int = 48) -> nn.Module:
    """Return the model with a fresh linear head, on the blocks of the shipped face model or on fresh ones."""
    sizes = {"img_size": size, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "mlp_ratio": 2}
    sizes |= {"patch_size": size // 4} if scratch else {"qkv_bias": False}
    model = VisionTransformer(num_classes=PEOPLE, **sizes)  # type: ignore[arg-type]
    if not scratch:
        blocks = checkpoint.load_shipped("mini-faces")[0].state_dict()
        del blocks["head.weight"]
        model.load_state_dict(blocks, strict=False)
    mean, std = (0.5, 0.5) if scratch else (0.0, 1.0)
    cfg = {"mean": (mean,) * 3, "std": (std,) * 3, "input_size": (3, size, size)}
    model.pretrained_cfg = cfg  # type: ignore[assignment]
    return model


def train(path: Path, epochs: int, lr: float, seed: int, scratch: bool, size: int) -> None:
    """Train the model by itself, without this library's loop."""
    torch.manual_seed(seed)
    split, model = data(scratch, size).train, vit(scratch, size)
    images, labels = normalised(model, split), split.labels
    steps = epochs * len(labels) // 40
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(labels), (40,))
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 60 == 0:
            said = f"loss {loss.item():.3f}, test {accuracy(model, data(scratch, size).test):.1f} %"
            print(f"step {step + 1}/{steps}: {said}", flush=True)
            model.train()
    torch.save(model.state_dict(), path)


def normalised(model: nn.Module, split: ImageSet) -> torch.Tensor:
    """Return a split's images as the model reads them."""
    assert isinstance(split.images, torch.Tensor)
    mean, std = normalisation(model)
    return (split.images.float() / 255 - mean[0]) / std[0]


@torch.no_grad()
def accuracy(model: nn.Module, split: ImageSet) -> float:
    """Return the accuracy on a split, in percent."""
    hits = model.eval()(normalised(model, split)).argmax(1) == split.labels
    return 100 * float(hits.float().mean())


def forget(
    path: Path,
    methods: list[str],
    people: list[int],
    ratio: float,
    seed: int,
    given: list[str],
    scratch: bool,
    size: int,
) -> None:
    """Print what each method costs the others, for each person alone."""
    asked = data(scratch, size)
    print("method         person  Acc_f before → after   Acc_r before → after   lost")
    for method in methods:
        for person in people:
            model = vit(scratch, size)
            model.load_state_dict(torch.load(path, weights_only=True))
            erasure = minigslora.forget(
                model,
                asked,
                [person],
                method=method,
                ratio=ratio,
                seed=seed,
                watch=False,
                **parse_pairs(given),
            )
            m = erasure.reports[0].metrics
            lost = m["acc_r_before"] - m["acc_r"]
            forgot, kept = (f"{m[f'{k}_before']:>6.1f} → {m[k]:<6.1f}" for k in ("acc_f", "acc_r"))
            print(f"{method:<14} {person:>6}  {forgot}        {kept}        {lost:>5.1f}", flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("what", choices=("train", "forget"))
    made.add_argument("path", type=Path, help="the model's weights")
    made.add_argument("methods", nargs="*")
    made.add_argument("--scratch", action="store_true", help="the model with random weights at first")
    made.add_argument("--size", type=int, default=48, help="of the input in pixels, with --scratch")
    made.add_argument("--people", type=int, nargs="*", default=[3, 17, 31])
    made.add_argument("--ratio", type=float, default=1.0, help="share of the 7 images at hand")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--epochs", type=int, default=20)
    made.add_argument("--lr", type=float, default=3e-4)
    made.add_argument("--set", action="append", default=[], help="KEY=VALUE of the method; repeatable")
    return made


if __name__ == "__main__":
    o = parser().parse_args()
    if o.what == "train":
        train(o.path, o.epochs, o.lr, o.seed, o.scratch, o.size)
    else:
        forget(o.path, o.methods, o.people, o.ratio, o.seed, o.set, o.scratch, o.size)
