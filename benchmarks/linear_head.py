"""What the front door costs the kept classes of someone else's model: a small ViT with a linear head.

    python benchmarks/linear_head.py train linear.pth            # two minutes of one core
    python benchmarks/linear_head.py forget linear.pth gslora gslora++ gslora-distill gslora-deep

``train`` is a plain script as a user would write it: a vision transformer of 6 blocks at 48×48, pre-trained
on other people and fine-tuned on 40 people with 7 images each; linear head, AdamW, no augmentation.
``forget`` erases one person from a copy of it, for three people, and prints what became of the others. Aim:
they lose 2 points at most.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import minigslora
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.datasets.rendered import mini_faces
from minigslora.models import checkpoint
from minigslora.text import parse_pairs

PEOPLE, IMAGES = 40, 7


def data() -> DataSet:
    """Return 40 people with 7 training images each, and 25 test images; none of them is in mini-faces."""
    return mini_faces.load("tuning", PEOPLE, {"train": IMAGES, "val": 10, "test": 25})


def vit() -> nn.Module:
    """Return the model with a fresh linear head on the blocks of the shipped face model."""
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "mlp_ratio": 2}
    model = VisionTransformer(num_classes=PEOPLE, qkv_bias=False, **sizes)  # type: ignore[arg-type]
    blocks = checkpoint.load_shipped("mini-faces")[0].state_dict()
    del blocks["head.weight"]
    model.load_state_dict(blocks, strict=False)
    model.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "input_size": (3, 48, 48)}  # type: ignore[assignment]
    return model


def train(path: Path, epochs: int, lr: float, seed: int) -> None:
    """Train the model by itself, without this library's loop."""
    torch.manual_seed(seed)
    split, model = data().train, vit()
    images, labels = normalised(split), split.labels
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
            print(
                f"step {step + 1}/{steps}: loss {loss.item():.3f}, test {accuracy(model):.1f} %", flush=True
            )
            model.train()
    torch.save(model.state_dict(), path)


def normalised(split: ImageSet) -> torch.Tensor:
    """Return a split's images as the model reads them."""
    assert isinstance(split.images, torch.Tensor)
    return split.images.float() / 255


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the accuracy on the test images, in percent."""
    split = data().test
    hits = model.eval()(normalised(split)).argmax(1) == split.labels
    return 100 * float(hits.float().mean())


def forget(
    path: Path, methods: list[str], people: list[int], ratio: float, seed: int, given: list[str]
) -> None:
    """Print what each method costs the others, for each person alone."""
    asked = data()
    print("method         person  Acc_f before → after   Acc_r before → after   lost")
    for method in methods:
        for person in people:
            model = vit()
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
        train(o.path, o.epochs, o.lr, o.seed)
    else:
        forget(o.path, o.methods, o.people, o.ratio, o.seed, o.set)
