"""A notebook's parameters by profile, and its run: folder, description, ``result.json``.

The parameters cell holds literals; the next cell turns them into a :class:`Run`:

    run = configure("04_forget_once", globals(), smoke={"epochs": 2}, cpu={"epochs": 30})

A parameter that is None takes the profile's value, so that ``profile`` picks the scale and every other
parameter overrides it. Names that no profile knows are errors: papermill only warns of them.
"""

from __future__ import annotations

import difflib
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from minigslora.config import parse_value
from minigslora.course.identity import RESULT, identity_of, plain, run_folder
from minigslora.device import Precision, device_name, fast_bf16, pick_device, versions
from minigslora.errors import ConfigError
from minigslora.files import write_json

Profile = Literal["smoke", "cpu", "gpu", "paper"]
COMMON: dict[str, Any] = {"profile": str, "seed": int, "device": str, "precision": Precision}
"""Parameters that every notebook has, with their types."""

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
        self.out = Path(given) if given else run_folder(notebook, identity_of(self.values))

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
        count = torch.get_num_threads()
        return "\n".join(
            [
                ", ".join(f"{k} {v}" for k, v in versions().items() if v),
                f"{device_name(self.torch_device)}, training in {bf16}, "
                f"{count} {'thread' if count == 1 else 'threads'}",
                f"profile {self.profile}, seed {self.seed}",
                ", ".join(f"{k} = {v}" for k, v in self.values.items() if k not in COMMON),
            ]
        )

    def folder(self, name: str) -> Path:
        """Return the folder ``name`` of this run, for work that an interrupted run takes up again.

        Where the run has finished before, the folder is emptied: executing a notebook again does its
        work again.
        """
        path = self.out / name
        if (self.out / RESULT).is_file():
            shutil.rmtree(path, ignore_errors=True)
        return path

    def finish(self, metrics: Mapping[str, Any]) -> Path:
        """Write ``result.json`` whole: metrics, configuration, versions, seed, time.

        Args:
            metrics: numbers, and lists or dictionaries of them.
        """
        result = {
            "notebook": self.notebook,
            "parameters": self.values,
            "metrics": plain(metrics),
            "versions": versions(),
            "device": device_name(self.torch_device),
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - self.began, 2),
        }
        write_json(self.out / RESULT, result)
        return self.out / RESULT


def configure(notebook: str, names: Mapping[str, Any], **profiles: Mapping[str, Any]) -> Run:
    """Build a notebook's :class:`Run` from its parameters cell.

    Args:
        notebook: the notebook's name, without ending.
        names: ``globals()``, right after the parameters cell. Where they hold a :class:`Run` already, the
            cell is run once more in the same kernel, and what no profile knows is passed over.
        profiles: the value of each parameter by profile; "cpu" must list all of them, and the other
            profiles what differs. Values give the types: a whole number, a number, text, a list.

    Raises:
        ConfigError: for a name no profile knows, an unknown profile, or a value of another type.
    """
    # timm's download library asks for a progress widget on import; its warning would be kept as output
    warnings.filterwarnings("ignore", message="IProgress not found")
    known = {**COMMON, **profiles["cpu"]}
    again = any(isinstance(value, Run) for value in names.values())  # then later cells' names are there, too
    given = {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and name not in IPYTHON and isinstance(value, LITERALS)
        if name in known or not again
    }
    for name in given:
        if name not in known:
            raise unknown_parameter(name, notebook, known)
    profile = given.pop("profile", None) or os.environ.get("MINIGSLORA_PROFILE") or "cpu"
    if profile not in get_args(Profile) or profile not in profiles:
        allowed = ", ".join(p for p in get_args(Profile) if p in profiles)
        raise ConfigError(f"profile = {profile!r}; {notebook} has {allowed}")
    values = {"seed": 0, "device": "auto", "precision": "auto"}
    values |= {**profiles["cpu"], **profiles[profile], "profile": profile}
    for name, value in given.items():
        if value is not None:
            like = values[name]
            kind = COMMON.get(name) or (Any if like is None else type(like))
            values[name] = parse_value(name, value, kind)
    return Run(notebook, values)


def unknown_parameter(name: str, notebook: str, known: Mapping[str, Any]) -> ConfigError:
    """Return the error for a parameter that a notebook does not have, with the nearest that it has."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ConfigError(f"unknown parameter {name!r} for {notebook}{hint} It has {', '.join(known)}")
