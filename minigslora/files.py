"""Files are written whole or not at all; weights are safetensors, and pickles are refused code."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minigslora.errors import DataError, ModelError, OutputError


def data_root() -> Path:
    """Return where data are cached and looked for: ``MINIGSLORA_DATA``, or the user's cache."""
    import platformdirs

    return Path(os.environ.get("MINIGSLORA_DATA") or platformdirs.user_cache_path("minigslora"))


def shipped_root() -> Path:
    """Return the folder of the small files that ship: the repository's ``data``, or the wheel's."""
    package = Path(__file__).resolve().parent
    inside = package / "_shipped"
    return inside if inside.is_dir() else package.parent / "data"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` only if all went well.

    Raises:
        OutputError: where the folder cannot be made or written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as problem:
        raise _cannot_write(path, problem) from problem
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Make ``folder`` and raise an :class:`OutputError` if nothing can be written there.

    Called before long work whose results go there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise _cannot_write(folder, problem) from problem


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of ``folder``, which is made where it is missing.

    The lock goes with the process that holds it, however that ends.

    Args:
        folder: whose files are written.
        wait: whether to wait for who is there; otherwise that is an error.

    Raises:
        OutputError: where another process is there, naming it; or where nothing can be written.
    """
    require_writable(folder)
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"  # a locked file can't be read on Windows
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        held = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise OutputError(
            f"{folder} is in use by {held}; wait until that has ended, or choose another folder with --out"
        ) from None
    try:
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        write_text(holder, f"process {os.getpid()} on {platform.node()}, since {since}")
        yield
    finally:
        lock.release()


def _cannot_write(path: Path, problem: Exception) -> OutputError:
    reason = getattr(problem, "strerror", None) or str(problem)
    return OutputError(
        f"cannot write {path}: {reason}. Nothing already there was changed; free some space or "
        "choose another folder with --out"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without surrounding blanks; empty ones are left out.

    Raises:
        DataError: where there is no such file, it is no text, or nothing is in it.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} cannot be read as a list of names ({problem}); write one name a line"
        ) from None
    if not (lines := [line.strip() for line in text.splitlines() if line.strip()]):
        raise DataError(f"{path} is empty; write one name a line")
    return lines


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, with ``notes`` in the header: text as it is, the rest as JSON."""
    plain: dict[str, Tensor] = {}
    places = set[int]()
    for name, t in tensors.items():
        own = t.detach().cpu().contiguous()
        # The format refuses tied weights; each name gets a copy, as a strict load asks for all names.
        plain[name] = own.clone() if (place := own.untyped_storage().data_ptr()) in places else own
        places.add(place)
    header = {key: _header_text(value) for key, value in notes.items()}
    with written_whole(path) as temporary:
        save_file(plain, temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights: safetensors, or a pickle of plain tensors (never of code).

    Returns:
        The tensors by name, and the notes stored beside them (empty for a pickle).

    Raises:
        ModelError: where the file is missing, is no weight file, or carries code.
    """
    if not path.is_file():
        raise ModelError(f"no weight file at {path}; check the path")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                notes = {k: _json_or_text(v) for k, v in (file.metadata() or {}).items()}
                return {k: file.get_tensor(k) for k in file.keys()}, notes  # noqa: SIM118
        except SafetensorError as problem:
            raise ModelError(f"{path} is not a readable safetensors file: {problem}") from problem
    return _load_pickle(path), {}


def _header_text(value: Any) -> str:
    # Other libraries look for the plain text "pt"; text that reads as JSON would come back as another value.
    plain = isinstance(value, str) and _json_or_text(value) == value
    return value if plain else json.dumps(value)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # bytes that are no pickle fail in many ways
        raise ModelError(
            f"{path} was refused: it is not a plain file of tensors (a pickle can carry code, which "
            "is never run here). Save the state dict with safetensors and give that file"
        ) from problem
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(f"{path} holds no state dict; expected tensors by parameter name")
    return dict(loaded)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
