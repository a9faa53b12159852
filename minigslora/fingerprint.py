"""Fingerprints of what determines a run's numbers: files, folders of data, models, the library itself.

A run may stand for another only where all of them are equal. Each is a short text, to be written down.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from minigslora import __version__
from minigslora.errors import DataError
from minigslora.files import sha256, sha256_of, shipped_root
from minigslora.lora import Adapter, LoRALinear, adapter_names, adapter_state, unwrapped_state
from minigslora.rows import Rows

LENGTH = 16
"""Hexadecimal digits of a fingerprint."""


def fingerprint_of(text: str) -> str:
    """Return the fingerprint of a text."""
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:LENGTH]


def fingerprint_of_file(path: Path) -> str:
    """Return the fingerprint of a file's bytes.

    Raises:
        DataError: where it cannot be read.
    """
    try:
        return sha256(path)[:LENGTH]
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}; check the path") from problem


def fingerprint_of_folder(folder: Path) -> str:
    """Return the fingerprint of a folder's files: their relative names, sizes and times of change.

    The files are not read, as data may be large. Hidden ones, which no loader reads, are left out; links
    are followed.

    Raises:
        DataError: where the folder cannot be read.
    """
    try:
        lines = sorted(f"{name}\t{size}\t{time}" for name, size, time in _files(folder, (folder.resolve(),)))
    except OSError as problem:
        raise DataError(f"{problem.filename or folder} cannot be read: {problem.strerror}") from problem
    return fingerprint_of("\n".join(lines))


def _files(folder: Path, above: tuple[Path, ...], prefix: str = "") -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                inside = Path(entry.path).resolve()
                if inside not in above:  # a link to a folder around it has no end
                    yield from _files(Path(entry.path), (*above, inside), f"{prefix}{entry.name}/")
            elif entry.is_file():
                facts = entry.stat()
                yield f"{prefix}{entry.name}", facts.st_size, facts.st_mtime_ns


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's own weights: names, types, shapes, bytes; adapters left out."""
    return sha256_of(unwrapped_state(model))


def adapters_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's adapters, oldest first; "" where it has none."""
    return sha256_of(adapter_state(model)) if adapter_names(model) else ""


def structure_hash(model: nn.Module) -> str:
    """Return a hash of what a model computes besides its weights: its modules' types and their numbers.

    Equal weights under another activation, or split over more heads, are another model.
    """
    said = ("num_heads", "eps", "scale", "margin", "p", "stride", "padding", "window_size", "shift_size")
    lines = [
        f"{name.replace('.base', '')} {type(module).__name__} "
        f"{[(key, repr(vars(module)[key])) for key in said if key in vars(module)]}"
        for name, module in model.named_modules()
        if not isinstance(module, LoRALinear | Adapter | Rows | nn.ModuleDict)
    ]
    return fingerprint_of("\n".join(lines))


def library_fingerprint() -> str:
    """Return the library's version with the fingerprint of its code, recipes and shipped models."""
    package, shipped = Path(__file__).resolve().parent, shipped_root()
    parts = ((package, "**/*.py"), (shipped, "recipes/**/*.yaml"), (shipped, "*.safetensors"))
    digest = hashlib.sha256()
    for root, pattern in parts:
        files = {path.relative_to(root).as_posix(): path for path in root.glob(pattern)}
        for name, path in sorted(files.items()):
            digest.update(f"{name}\0{sha256(path)}\n".encode(errors="backslashreplace"))
    return f"{__version__}-{digest.hexdigest()[:LENGTH]}"
