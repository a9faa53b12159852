"""Where and in what precision to compute."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from minigslora import __version__
from minigslora.errors import ConfigError

Precision = Literal["auto", "bf16", "fp32"]
CPU_INFO = Path("/proc/cpuinfo")
CUBLAS = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""What cuBLAS needs to be told before its first product, if it is ever to be deterministic."""


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}; expected 'auto', 'cpu' or 'cuda'")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("device 'cuda' was asked for, but torch sees no CUDA GPU; use 'cpu'")
        if (device.index or 0) >= (count := torch.cuda.device_count()):
            raise ConfigError(f"device {name!r} was asked for, but there are {count} GPUs")
        os.environ.setdefault(*CUBLAS)
    return device


@contextlib.contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within the context torch uses only kernels that give the same numbers again, where ``wanted``."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the context torch's global generators start from ``seed``; after it they are as they were."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices faster than fp32 ones.

    With AMX every CPU does. AVX512-BF16 alone is not enough on Intel's: measured there, a product takes
    1.4 times as long as in fp32.
    """
    intel = CPU_INFO.is_file() and "GenuineIntel" in CPU_INFO.read_text()  # where Linux says so
    return _has("amx_tile") or (_has("avx512_bf16") and not intel)


def _has(feature: str) -> bool:
    check = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return check is not None and bool(check())


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast on ``device``."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bf16()


def in_bf16(device: torch.device, precision: Precision = "auto") -> bool:
    """Whether training is in bf16: where it is fast, or as asked."""
    return precision == "bf16" or (precision == "auto" and fast_bf16(device))


def autocast(device: torch.device, precision: Precision = "auto") -> contextlib.AbstractContextManager[Any]:
    """Return an autocast context: bf16 where it is fast, or as asked."""
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bf16(device, precision))


def choose_attention(model: nn.Module, device: torch.device, precision: Precision = "auto") -> None:
    """Use plain attention where bf16 runs on a CPU, timm's fused attention elsewhere.

    Measured: torch's fused kernel spends most of a small ViT's bf16 backward there on a CPU.
    """
    fused = not (device.type == "cpu" and in_bf16(device, precision))
    for module in model.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):
            module.fused_attn = fused  # type: ignore[assignment]


PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors")
"""What results depend on beside Python and this library."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of what results depend on; "" for what is not installed."""
    found = {"python": platform.python_version(), "minigslora": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} ({sys.platform}, {platform.machine()})"
