"""A small vision transformer of timm with a linear head, for mini data and for small real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
