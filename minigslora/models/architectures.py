"""What a file or a command line may say of an architecture: known names, checked values, nothing else.

A checkpoint's header is written by whoever made the file. Of what stands there, only what is listed here
reaches timm: sizes, switches and rates, and no path, address or name of a class.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import timm

from minigslora.config import Range, Share, parse_value
from minigslora.errors import ConfigError, ModelError

Size = Annotated[int, Range(1, 65536)]
Pixels = Annotated[int, Range(1, 4096)]
Depth = Annotated[int, Range(1, 256)]
Classes = Annotated[int, Range(1, 1_000_000)]
_Count = Annotated[int, Range(0, 1024)]
_Ratio = Annotated[float, Range(above=0, most=64)]
_Start = Annotated[float, Range(0, 100)]

_LONGEST = 64
"""Entries of a list; timm's have one a stage."""

_KINDS: tuple[tuple[Any, str], ...] = (
    (Pixels | tuple[Pixels, ...], "img_size patch_size window_size"),
    (Depth | tuple[Depth, ...], "depth depths depth_token_only num_blocks stages serial_depths"),
    (
        Size | tuple[Size, ...],
        "embed_dim embed_dims dims num_heads heads head_dim key_dim kernel_sizes base_dims stem_hidden_dim "
        "head_hidden_size num_kv_heads",
    ),
    (_Count | tuple[_Count, ...], "reg_tokens num_reg_tokens window_ratio sr_ratios wss rel_pos_dim"),
    (_Ratio | tuple[_Ratio, ...], "mlp_ratio mlp_ratios mlp_ratio_token_only attn_ratio"),
    (Share, "drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate"),
    (_Start, "init_values ls_init_value layer_scale layerscale_value head_init_scale norm_eps"),
    (
        bool,
        "qkv_bias qkv_fused qk_norm proj_bias class_token no_embed_class pre_norm final_norm fc_norm "
        "use_fc_norm scale_attn_norm scale_mlp_norm scale_attn_inner scale_mlp swiglu_mlp fix_init "
        "use_abs_pos_emb use_rel_pos_bias use_shared_rel_pos_bias shared_rel_pos use_rot_pos_emb "
        "use_pos_embed use_post_norm use_pre_transformer_norm use_post_transformer_norm dynamic_img_size "
        "dynamic_img_pad strict_img_size always_partition pool_include_prefix conv_mlp conv_bias use_grn "
        "head_norm_first distilled linear use_conv tokens_norm",
    ),
    (Literal[3], "in_chans"),
    (Literal["", "none", "learn"], "pos_embed"),
    (Literal["", "avg", "avgmax", "max", "token", "map", "prr", "fast", "catavgmax"], "global_pool"),
    (Literal["layernorm", "layernorm2d", "rmsnorm", "batchnorm"], "norm_layer"),
    (
        Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu6", "silu", "swish", "hard_swish"],
        "act_layer",
    ),
)
TIMM: dict[str, Any] = {name: kind for kind, names in _KINDS for name in names.split()}
"""The arguments of timm's models that may be given, and their types; which of them one takes, timm knows."""


def checked(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the timm model ``name`` with their values checked.

    Raises:
        ModelError: for a key that is not in :data:`TIMM`, or a value that is not of its type.
    """
    known = {}
    for key, value in arguments.items():
        if key not in TIMM:
            near = difflib.get_close_matches(str(key), TIMM, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ModelError(
                f"{key!r} is no argument of {name} that is known here; {hint}Known are {', '.join(TIMM)}"
            )
        if value is None:  # timm's default
            continue
        try:
            if isinstance(value, list | tuple) and len(value) > _LONGEST:
                raise ConfigError(f"{key} has {len(value)} entries; expected at most {_LONGEST}")
            known[key] = parse_value(key, value, TIMM[key])
        except (ConfigError, TypeError, OverflowError) as problem:
            raise ModelError(f"{name}: {problem}") from None
    return known


def check_timm_name(name: str) -> None:
    """Raise a :class:`ModelError` for a name timm does not have; it names the nearest ones."""
    if isinstance(name, str) and name and timm.is_model(name):
        return
    plain = str(name).partition(".")[0]  # without the tag of weights
    near = difflib.get_close_matches(plain, timm.list_models(), n=3, cutoff=0.75)
    hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models('vit*') lists those it has"
    raise ModelError(f"timm has no model {name!r}; {hint}")
