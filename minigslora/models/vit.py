"""Our two vision transformers, both timm's: the Face Transformer, and a small one with a linear head.

Source: arXiv 2103.14803, in the form edited by arXiv 2403.11530: 112×112 input, patch 8, dim 512,
depth 6 (also 12 and 18), 8 heads of 64, MLP 2048, no qkv bias; the class token after the final
LayerNorm is the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import VisionTransformer

from minigslora.config import Positive, Share
from minigslora.models.architectures import Classes, Depth, Pixels, Size
from minigslora.models.heads import HEADS


@dataclass(frozen=True)
class FaceConfig:
    """Architecture of a Face Transformer; the defaults are the published one.

    Attributes:
        norm_eps: ε of every LayerNorm; timm's 1e-6, where the released code has torch's 1e-5.
    """

    classes: Classes = 100
    image_size: Pixels = 112
    patch: Pixels = 8
    dim: Size = 512
    depth: Depth = 6
    heads: Size = 8
    mlp: Size = 2048
    dropout: Share = 0.1
    head: Literal["cosface", "arcface", "linear"] = "cosface"
    norm_eps: Positive = 1e-6


MINI_FACE = FaceConfig(image_size=48, patch=8, dim=128, heads=4, mlp=256)
"""The shipped mini model, 0.8 M parameters."""


def face_transformer(config: FaceConfig) -> VisionTransformer:
    """Build a Face Transformer with random weights.

    ``model.forward_head(model.forward_features(x), pre_logits=True)`` is the embedding (B, dim) and
    ``model(x)`` the margin-free logits (B, classes).
    """
    model = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch,
        num_classes=config.classes,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp / config.dim,
        qkv_bias=False,
        proj_drop_rate=config.dropout,
        norm_layer=partial(LayerNorm, eps=config.norm_eps),
    )
    if head := HEADS.get(config.head):
        model.head = head(config.dim, config.classes)  # type: ignore[assignment]
    return model


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a small vision transformer; the defaults are those of the shipped one.

    Attributes:
        name: timm's model whose other choices and normalisation it takes.
    """

    classes: int = 200
    image_size: int = 32
    patch: int = 8
    dim: int = 128
    depth: int = 6
    heads: int = 4
    mlp: int = 256
    dropout: float = 0.0
    name: str = "vit_tiny_patch16_224"

    def architecture(self) -> dict[str, Any]:
        """Return the description of :func:`minigslora.models.checkpoint.build`."""
        return {
            "kind": "timm",
            "name": self.name,
            "classes": self.classes,
            "img_size": self.image_size,
            "patch_size": self.patch,
            "embed_dim": self.dim,
            "depth": self.depth,
            "num_heads": self.heads,
            "mlp_ratio": self.mlp / self.dim,
            "proj_drop_rate": self.dropout,
        }


MINI_GLYPH = VitConfig()
"""The shipped model of mini-glyphs, 0.8 M parameters, all 200 characters in its head."""
