"""What works on this machine, in one screen."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from minigslora import ledger
from minigslora.datasets import registry
from minigslora.device import device_name, fast_bf16, pick_device, versions
from minigslora.errors import MiniGSLoRAError
from minigslora.files import data_root, load_tensors, read_json, runs_root, sha256, shipped_root, unwritable
from minigslora.models.checkpoint import SHIPPED

FREE_GB = 2.0
"""Disk space below which the doctor warns, in GB."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is well (None: nothing to judge), what was found."""

    what: str
    well: bool | None
    found: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "!!", None: "  "}[self.well]
        return f"{mark} {self.what:18} {self.found}"


def examine() -> Iterator[Finding]:
    """Look at versions, device, data, disk, JupyterLab and the shipped files, one after another."""
    for look in (_versions, _device, _data, _disk, _jupyter):
        yield from look()
    for name, file in SHIPPED.items():
        yield check_shipped(f"model {name}", shipped_root() / file)


def examine_file(path: Path) -> Iterator[Finding]:
    """Look at a weight file: its hash, its tensors, its architecture, and the ledger of what it forgot.

    Raises:
        ModelError: where it is no weight file.
    """
    tensors, notes = load_tensors(path)
    yield Finding("file", None, f"{path}, sha256 {sha256(path)}")
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    count = sum(tensor.numel() for tensor in tensors.values())
    said = f"{len(tensors)} tensors of {count / 1e6:.1f} M numbers"
    yield Finding("weights", not broken, said + (f"; NaN or infinite in {broken[0]}" if broken else ""))
    card = notes.get("card")
    architecture = card.get("architecture") if isinstance(card, dict) else None
    yield Finding("architecture", None, json.dumps(architecture) if architecture else "not said in the file")
    entries = ledger.read(notes, str(path))
    for entry in entries:
        what = {"forget": "forgotten", "enrol": "enrolled", "revoke": "revoked"}[entry.event]
        yield Finding(what, None, f"{entry}, from weights {entry.weights[:12]}…")
    if not entries:
        yield Finding("forgotten", None, "nothing that the file says")


def _versions() -> Iterator[Finding]:
    found = versions()
    python = found.pop("python")
    yield Finding("python", None, f"{python}, {platform.platform(terse=True)}, {platform.machine()}")
    missing = [name for name, version in found.items() if not version and name != "minigslora"]
    shown = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("packages", not missing, shown + "".join(f", {name} MISSING" for name in missing))


def _device() -> Iterator[Finding]:
    device = pick_device("auto")
    yield Finding("device", None, device_name(device))
    fast = fast_bf16(device)
    yield Finding("bf16", None, "fast here, training uses it" if fast else "not fast here, training is fp32")
    yield Finding("threads", None, f"{torch.get_num_threads()} of torch")


def _data() -> Iterator[Finding]:
    root = data_root()
    yield Finding("data looked for in", None, f"{root} (set MINIGSLORA_DATA to change it)")
    for name in (*registry.names(), *registry.detection_names()):
        try:
            if name in registry.RENDERED or name in registry.SCENES:
                found = "rendered on first use"
            elif name in registry.DOWNLOADED:
                found = "downloaded on first use"
            else:
                found = str((registry.find if name in registry.FOLDERS else registry.find_detection)(name))
            yield Finding(name, True, found)
        except MiniGSLoRAError:
            yield Finding(name, None, "not here (data/README.md says how to get it)")


def _disk() -> Iterator[Finding]:
    places = {"data": (data_root(), "MINIGSLORA_DATA"), "runs": (runs_root(), "MINIGSLORA_RUNS")}
    for what, (folder, variable) in places.items():
        if reason := unwritable(folder):
            found = f"nothing can be written at {folder} ({reason}): "
            found += f"set {variable} to a folder that can be written"
            yield Finding(f"disk for {what}", False, found)
            continue
        existing = next(f for f in (folder, *folder.parents) if f.is_dir())
        free = shutil.disk_usage(existing).free / 1e9
        yield Finding(f"disk for {what}", free > FREE_GB, f"{free:.1f} GB free at {folder}")


def _jupyter() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        from jupyter_client.kernelspec import KernelSpecManager

        kernels: dict[str, str] = KernelSpecManager().find_kernel_specs()
        lab = version("jupyterlab")
    except (ImportError, PackageNotFoundError) as problem:
        yield Finding("JupyterLab", False, f"{problem}; install the package's dependencies")
        return
    found = f"{lab}, but no kernel python3: run python -m ipykernel install --sys-prefix"
    if "python3" in kernels:
        found = f"{lab}, kernel python3 at {kernels['python3']}"
    yield Finding("JupyterLab", "python3" in kernels, found)


def check_shipped(what: str, path: Path) -> Finding:
    """Compare a shipped checkpoint with the hash in the record beside it."""
    record = path.with_suffix(".json")
    if not path.is_file():
        return Finding(what, False, f"missing at {path}; clone the repository again")
    if not record.is_file():
        return Finding(what, False, f"{path} has no record {record.name} beside it to check it against")
    try:
        expected, got = read_json(record)["sha256"], sha256(path)
    except (ValueError, KeyError, TypeError):
        return Finding(what, False, f"{record} is damaged; clone the repository again")
    if got != expected:
        return Finding(what, False, f"{path} is damaged: sha256 {got[:12]}…, expected {str(expected)[:12]}…")
    return Finding(what, True, f"{path}, sha256 {got[:12]}…")
