"""Models, data and problems small enough that a training step takes milliseconds."""

from dataclasses import replace

import timm
import torch
from torch import nn

from minigslora import lora
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.datasets.rendered import mini_faces, mini_scenes
from minigslora.methods.base import Step, Training
from minigslora.models.detr import DetectorConfig, deformable_detr
from minigslora.models.vit import FaceConfig, face_transformer
from minigslora.problems.classification import Classification
from minigslora.problems.detection import CHOICES, Detection
from minigslora.tasks import Progress

PEOPLE = 6
COUNTS = {"train": 12, "val": 2, "test": 4}
FACE = FaceConfig(classes=PEOPLE, image_size=48, patch=16, dim=32, depth=3, heads=2, mlp=64)
QUICK = {"epochs": 2, "batch_retain": 8, "batch_forget": 4, "rank": 2}
"""Settings under which a request is served in a fraction of a second."""


def faces() -> DataSet:
    return mini_faces.load(people=PEOPLE, counts=COUNTS)


def face_model(seed: int = 0, head: str = "cosface") -> nn.Module:
    torch.manual_seed(seed)
    config = FaceConfig(**{**vars(FACE), "head": head})
    return face_transformer(config).eval()


def problem(seed: int = 0, head: str = "cosface", device: str = "cpu") -> Classification:
    return Classification(face_model(seed, head), faces(), device=device, precision="fp32")


def training(**changes) -> Training:
    return Training(**{"epochs": 2, "batch_retain": 8, "batch_forget": 4, "lr": 1e-3, **changes})


def loss_terms(method, problem, batch, progress=None) -> dict[str, torch.Tensor]:
    """Return the weighted terms of a method's loss on a batch, and their sum as the loop takes it."""
    terms = method.loss(Step(method, problem, batch, progress or Progress()))
    return {**terms, "loss": torch.stack(list(terms.values())).sum()}


def images(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def adapted(names: tuple[str, ...] = ("task1",), seed: int = 0, **arguments) -> nn.Module:
    """Return a wrapped face model whose adapters act: every B is drawn, none is zero."""
    model = face_model(seed)
    lora.inject(model, **arguments)
    for name in names:
        attach_drawn(model, name)
    return model


def attach_drawn(model: nn.Module, name: str, seed: int = 7) -> None:
    stream = torch.Generator().manual_seed(seed)
    lora.attach(model, name, rank=2, generator=stream)
    with torch.no_grad():
        for _, adapter in lora.adapters(model, name):
            adapter.B.copy_(torch.randn(adapter.B.shape, generator=stream) * 0.2)


def toy_data(per_class: tuple[int, ...] = (5, 5, 5, 5), size: int = 4) -> DataSet:
    """Return a data set of blank images, for what looks at labels only."""
    classes = tuple(f"class-{i}" for i in range(len(per_class)))
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    split = ImageSet(torch.zeros(len(labels), 3, size, size, dtype=torch.uint8), labels, classes)
    return DataSet("toy", split, split, split)


def timm_vit(name: str = "test_vit", classes: int = PEOPLE, seed: int = 0, **arguments) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=classes, **{"img_size": 48, **arguments}).eval()


SCENES = {"train": 30, "val": 3, "test": 24}
DETECTOR = DetectorConfig(
    dim=32, heads=2, mlp=32, layers=2, queries=8, points=1, stem=8, stages=(8, 8, 16, 16)
)


def detector(seed: int = 0, **changes) -> nn.Module:
    torch.manual_seed(seed)
    return deformable_detr(replace(DETECTOR, **changes)).eval()


def detection(seed: int = 0, recipe: str = "corrected", device: str = "cpu", **changes) -> Detection:
    scenes = mini_scenes.load(counts=SCENES)
    return Detection(detector(seed, **changes), scenes, device=device, choices=CHOICES[recipe])
