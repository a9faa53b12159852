"""A notebook's run: its checked parameters, its folder, its ``result.json``.

The parameters cell holds literals; the next cell turns them into a :class:`Run`:

    run = configure("04_forget_once", globals(), smoke={"epochs": 2}, cpu={"epochs": 30})

A parameter that is None takes the profile's value, so that ``profile`` picks the scale and every other
parameter overrides it. Names that no profile knows are errors: papermill only warns of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from minigslora.config import parse_value
from minigslora.device import Precision, fast_bf16, pick_device
from minigslora.errors import ConfigError
from minigslora.files import data_root, shipped_root, write_json

Profile = Literal["smoke", "cpu", "gpu", "paper"]
COMMON: dict[str, Any] = {"profile": str, "seed": int, "device": str, "precision": Precision}
"""Parameters that every notebook has, with their types."""

PACKAGES = ("minigslora", "torch", "torchvision", "timm", "numpy", "safetensors")
LITERALS = (bool, int, float, str, list, tuple, dict, type(None))
IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


class Run:
    """One run of a notebook; its parameters are attributes (``run.epochs``).

    Attributes:
        notebook: the notebook's name, without ending.
        values: all parameters after the profile was applied.
        out: the run's own folder, made on demand by what writes into it.
    """

    def __init__(self, notebook: str, values: Mapping[str, Any]) -> None:
        self.notebook = notebook
        self.values = dict(values)
        self.torch_device = pick_device(values["device"])
        self.began = time.perf_counter()
        given = os.environ.get("MINIGSLORA_RUN_DIR")
        self.out = Path(given) if given else run_folder(notebook, self.values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"this run has no parameter {name!r}") from None

    @property
    def watch(self) -> bool:
        """Whether someone watches: progress bars are drawn in JupyterLab, not in smoke runs."""
        return bool(self.values["profile"] != "smoke")

    def describe(self) -> str:
        """Return versions, device, seed and profile in four lines."""
        bf16 = "bf16" if fast_bf16(self.torch_device) and self.precision != "fp32" else "fp32"
        shown = ", ".join(f"{k} {v}" for k, v in versions().items() if v)
        own = {k: v for k, v in self.values.items() if k not in COMMON}
        return (
            f"{shown}\n{device_name(self.torch_device)}, training in {bf16}, "
            f"{torch.get_num_threads()} threads\nprofile {self.profile}, seed {self.seed}\n"
            + ", ".join(f"{k} = {v}" for k, v in own.items())
        )

    def finish(self, metrics: Mapping[str, Any]) -> Path:
        """Write ``result.json`` whole: metrics, configuration, versions, seed, time.

        Args:
            metrics: numbers, and lists or dictionaries of them.
        """
        path = self.out / "result.json"
        write_json(
            path,
            {
                "notebook": self.notebook,
                "parameters": self.values,
                "metrics": _plain(metrics),
                "versions": versions(),
                "device": device_name(self.torch_device),
                "threads": torch.get_num_threads(),
                "seconds": round(time.perf_counter() - self.began, 2),
            },
        )
        return path


def configure(notebook: str, names: Mapping[str, Any], **profiles: Mapping[str, Any]) -> Run:
    """Build a notebook's :class:`Run` from its parameters cell.

    Args:
        notebook: the notebook's name, without ending.
        names: ``globals()``, right after the parameters cell.
        profiles: the value of each parameter by profile; "cpu" must list all of them, and the other
            profiles what differs. Values give the types: a whole number, a number, text, a list.

    Raises:
        ConfigError: for a name no profile knows, an unknown profile, or a value of another type.
    """
    given = {
        k: v
        for k, v in names.items()
        if not k.startswith("_") and k not in IPYTHON and isinstance(v, LITERALS)
    }
    known = {**COMMON, **{k: type(v) for k, v in profiles["cpu"].items()}}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"unknown parameter {name!r} for {notebook}; its parameters are {', '.join(known)}"
            )
    profile = given.get("profile") or os.environ.get("MINIGSLORA_PROFILE") or "cpu"
    if profile not in get_args(Profile) or (profile not in profiles):
        allowed = ", ".join(p for p in get_args(Profile) if p in profiles)
        raise ConfigError(f"profile = {profile!r}; {notebook} has {allowed}")
    values = {"seed": 0, "device": "auto", "precision": "auto"}
    values |= {**profiles["cpu"], **profiles[profile], "profile": profile}
    for name, value in given.items():
        if name != "profile" and value is not None:
            like = values[name]
            kind = COMMON.get(name) or (Any if like is None else type(like))
            values[name] = parse_value(name, value, kind)
    return Run(notebook, values)


def run_folder(notebook: str, values: Mapping[str, Any]) -> Path:
    """Return the folder of a run: its id comes from its parameters."""
    text = json.dumps(dict(values), sort_keys=True)
    run_id = f"seed{values['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return runs_root() / notebook / str(values["profile"]) / run_id


def runs_root() -> Path:
    """Return where runs are kept: ``MINIGSLORA_RUNS``, the checkout's ``runs``, or the data root's."""
    checkout = shipped_root().parent
    beside = checkout / "runs" if (checkout / "pyproject.toml").is_file() else data_root() / "runs"
    return Path(os.environ.get("MINIGSLORA_RUNS") or beside)


def versions() -> dict[str, str]:
    """Return the versions of Python and of what results depend on."""
    found = {"python": platform.python_version()}
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


def _plain(value: Any) -> Any:
    """Return ``value`` with tensors and NumPy numbers as Python's own."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value
