"""Self-checks of notebook 01, pre-train a vision transformer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora.course.checks.common import Demands, close
from minigslora.models.vit import FaceConfig, face_transformer


def exercise_01_1(tokens: int, numbers: int) -> Demands:
    """Check the tokens of the published face model and the numbers in a patch, by asking the model."""
    with torch.device("meta"):
        embed = face_transformer(FaceConfig()).patch_embed.proj
        grid = embed(torch.empty(1, 3, 112, 112))
    expected = int(grid[0, 0].numel()) + 1
    yield tokens != expected - 1, "One token is not a patch."
    yield tokens == expected, f"Not {tokens}: how many patches fit side by side, and in all?"
    yield numbers == embed.weight[0].numel(), "A patch is 8 × 8 pixels in three colours."


def exercise_01_2(unpatchify: Callable[[Tensor, int], Tensor]) -> Demands:
    """Check that patches are put together again, on an image of numbers that are all different."""
    image = torch.arange(2 * 3 * 12 * 12, dtype=torch.float32).view(2, 3, 12, 12)
    patches = F.unfold(image, kernel_size=4, stride=4).mT
    hint = "Undo the steps of patchify in the opposite order, starting with the shape."
    yield close(unpatchify(patches, 4), image, hint)


def exercise_01_3(arcface: Callable[[Tensor, Tensor, float, float], Tensor]) -> Demands:
    """Check logits with an angular margin, by the addition theorem of the cosine."""
    cos = torch.tensor([[0.5, 0.1, -0.2], [0.3, 0.6, 0.0], [-0.4, 0.2, 0.7]], dtype=torch.float64)
    labels, scale, margin = torch.tensor([0, 1, 2]), 32.0, 0.5
    given = arcface(cos, labels, scale, margin)
    true = torch.eye(3, dtype=torch.bool)
    hint = "Only the true class's angle grows; arccos gives it, and s multiplies all cosines."
    others = torch.allclose(given[~true], scale * cos[~true])
    yield others, f"The other classes' logits changed. {hint}"
    c = cos[true]
    turned = c * math.cos(margin) - (1 - c**2).sqrt() * math.sin(margin)
    yield close(given[true], scale * turned, hint)


def exercise_01_4(shuffled_logits: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Demands:
    """Check that tokens may be shuffled where their positions travel along, and only then."""
    config = FaceConfig(classes=5, image_size=32, dim=24, depth=2, heads=2, mlp=48, dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = face_transformer(config).double().eval()
        assert model.pos_embed is not None
        nn.init.normal_(model.pos_embed)
        images, order = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.randperm(16)
    with torch.no_grad():
        expected, given = model(images), shuffled_logits(model, images, order)
    hint = (
        "Cut into tokens, add the positions, shuffle, put the class token first; then blocks, norm and head."
    )
    yield given.shape == expected.shape and torch.allclose(given, expected), hint
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:].flip(1)
        moved = shuffled_logits(model, images, order)
    yield not torch.allclose(moved, expected), "The result does not depend on the positions."
