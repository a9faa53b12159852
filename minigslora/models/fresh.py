"""The same architecture from nothing: every parameter of a model drawn anew.

Where a model was built by timm, it is built again. Elsewhere each module's own way of starting is used,
and it is checked that no parameter was left as it was.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from minigslora.errors import ModelError


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    """Draw every parameter anew, in place, from torch's own generator; constants start as they did.

    Raises:
        ModelError: naming a parameter that nothing says how to draw.
    """
    if type(model) is not VisionTransformer and (again := _built_again(model)) is not None:
        model.load_state_dict(again.state_dict())
        return
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.fill_(torch.nan)  # so that what is not drawn is seen
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    if isinstance(model, VisionTransformer):
        model.init_weights()
    left = {name: p for name, p in model.named_parameters() if p.isnan().any()}
    for name, parameter in left.items():
        if parameter.dim() < 2:  # a scale, whose start is a choice of its architecture
            raise ModelError(
                f"{name!r} of this {type(model).__name__} cannot be drawn anew: no module says how. Give "
                "its module a method reset_parameters(), or build the model with timm.create_model"
            )
        nn.init.trunc_normal_(parameter, std=0.02)  # positions and tokens, as vision transformers start


def _built_again(model: Any) -> nn.Module | None:
    """Return a new model of what timm built; None where it did not, or the model was changed since."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", "")
    if not timm.is_model(name):
        return None
    arguments = {**getattr(model, "_model_args", {}), "num_classes": model.num_classes}
    try:
        again: nn.Module = timm.create_model(name, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError):
        return None
    shapes = {k: v.shape for k, v in again.state_dict().items()}
    return again if shapes == {k: v.shape for k, v in model.state_dict().items()} else None
