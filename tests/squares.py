"""Noisy squares of a colour a class, and a timm ViT that knows them: someone else's model and images."""

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

SIZE = 32
COLOURS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 190, 30), (190, 30, 200), (20, 200, 210))
QUICK = {"epochs": 40, "lr": 2e-2, "rank": 4, "ratio": 0.5, "device": "cpu", "watch": False}
"""With these :func:`minigslora.forget` forgets a colour in a second or two."""


def pictures(root: Path, names: tuple[str, ...], splits: dict[str, int], seed: int = 0) -> Path:
    """Write ``SPLIT/NAME/0.png``, …; the colour of a class is that of its place in ``names``."""
    random = np.random.default_rng(seed)
    for split, count in splits.items():
        for colour, name in zip(COLOURS, names, strict=False):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noisy = np.array(colour) + random.normal(0, 25, (SIZE, SIZE, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


def inputs(root: Path, names: tuple[str, ...], split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the images as a script that knows nothing of minigslora would, labels by place in ``names``."""
    files = [f for name in names for f in sorted((root / split / name).glob("*.png"))]
    pixels = np.stack([np.asarray(Image.open(f), dtype=np.float32) for f in files])
    labels = torch.tensor([names.index(f.parent.name) for f in files])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, labels


def untrained(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=classes, img_size=SIZE)


def trained(root: Path, names: tuple[str, ...]) -> nn.Module:
    """Return a model trained by an ordinary loop whose head counts the classes as ``names`` does."""
    model, (images, labels) = untrained(len(names)), inputs(root, names, "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def accuracies(model: nn.Module, root: Path, names: tuple[str, ...]) -> dict[str, float]:
    """Return the test accuracy of each class in percent, by name, found by a loop of one's own."""
    images, labels = inputs(root, names, "test")
    with torch.no_grad():
        right = (model.eval()(images).argmax(dim=1) == labels).double()
    return {name: 100 * float(right[labels == i].mean()) for i, name in enumerate(names)}
