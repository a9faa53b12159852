"""Files are written whole or not at all; weights are safetensors, with notes in the header."""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import platform
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minigslora.errors import ConfigError, DataError, OutputError
from minigslora.formats import load_pickle, safetensors_problem, weight_format, with_classes


def data_root() -> Path:
    """Return where data are cached and looked for: ``MINIGSLORA_DATA``, or the user's cache."""
    import platformdirs

    return Path(os.environ.get("MINIGSLORA_DATA") or platformdirs.user_cache_path("minigslora"))


def shipped_root() -> Path:
    """Return the folder of the small files that ship: the repository's ``data``, or the wheel's."""
    package = Path(__file__).resolve().parent
    inside = package / "_shipped"
    return inside if inside.is_dir() else package.parent / "data"


def runs_root() -> Path:
    """Return where runs are kept: ``MINIGSLORA_RUNS``, the checkout's ``runs``, or the data root's."""
    checkout = shipped_root().parent
    beside = checkout / "runs" if (checkout / "pyproject.toml").is_file() else data_root() / "runs"
    return Path(os.environ.get("MINIGSLORA_RUNS") or beside)


UNFINISHED = ".part"
"""How the hidden files end that are being written; one that stays behind is of a killed process."""


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` only if all went well.

    What cannot be written is an :class:`OutputError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}{UNFINISHED}")
        temporary.open("xb").close()
        mode = temporary.stat().st_mode  # what the umask allows; safetensors makes another file of 0600
    except OSError as problem:
        raise _cannot_write(path, problem) from problem
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)
    except (OSError, SafetensorError) as problem:
        raise _cannot_write(path, problem) from problem
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a hidden folder beside ``path``, for a file or a folder that is new.

    What was written there becomes ``path`` only if all went well; a ``path`` that is there already is a
    :class:`ConfigError`, what cannot be written an :class:`OutputError`.
    """
    require_new(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".minigslora-") as folder:
            yield (made := Path(folder) / path.name)
            require_new(path)  # somebody else may have been quicker
            made.rename(path)
    except OSError as problem:
        raise _cannot_write(path, problem) from problem


def require_writable(folder: Path) -> None:
    """Make ``folder``, before long work; an :class:`OutputError` if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise _cannot_write(folder, problem) from problem


def require_new(target: Path) -> None:
    """Raise a :class:`ConfigError` where what is written would replace a file."""
    if target.exists():
        raise ConfigError(f"{target} is there already and is kept; write to another file, or remove it first")


def unwritable(folder: Path) -> str:
    """Return why nothing could be written below ``folder``, which is not made; "" where it could."""
    existing = next(f for f in (folder, *folder.parents) if f.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as problem:
        return problem.strerror or str(problem)


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of ``folder``, which is made where it is missing.

    The lock goes with the process that holds it, however that ends; what it left half written is removed.
    Where another process is there, ``wait`` for it; otherwise it is named by an :class:`OutputError`.
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
        for left in folder.glob(f".*{UNFINISHED}"):
            left.unlink(missing_ok=True)
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        write_text(holder, f"process {os.getpid()} on {platform.node()}, since {since}")
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that somebody reads
            holder.unlink(missing_ok=True)
        lock.release()


def _cannot_write(path: Path, problem: Exception) -> OutputError:
    reason, code = getattr(problem, "strerror", None) or str(problem), getattr(problem, "errno", None)
    refused = code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
    elsewhere = "choose another folder with --out"
    if path.is_relative_to(data_root()):
        elsewhere = "set MINIGSLORA_DATA to a folder that can be written"
    return OutputError(
        f"cannot write {path}: {reason}. Nothing already there was changed; "
        f"{'' if refused else 'free some space or '}{elsewhere}"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file whole; bytes of a file name that are no character stand as their codes."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without surrounding blanks; empty ones are left out."""
    if (path := path.expanduser()).exists() and not path.is_file():  # a device may never end
        raise DataError(f"{path} is no file; write one name a line into one")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} cannot be read as a list of names ({problem}); write one name a line"
        ) from None
    if not (lines := [line.strip() for line in text.splitlines() if line.strip()]):
        raise DataError(f"{path} is empty; write one name a line")
    return lines


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, with ``notes`` in the header: text as it is, the rest as JSON.

    The same tensors and notes give the same bytes.
    """
    plain: dict[str, Tensor] = {}
    places = set[int]()
    for name, t in tensors.items():
        values = t.detach().cpu().contiguous()
        # The format refuses tied weights; each name gets a copy, as a strict load asks for all names.
        plain[name] = values.clone() if (place := values.untyped_storage().data_ptr()) in places else values
        places.add(place)
    header = {key: _header_text(value) for key, value in notes.items()}
    with written_whole(path) as temporary:
        save_file(plain, temporary, metadata=header)
        _sort_notes(temporary)


def _sort_notes(path: Path) -> None:
    """Put the notes of a header in order; safetensors writes them in another one each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if notes := header.get("__metadata__"):
            header["__metadata__"] = dict(sorted(notes.items()))
            text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
            file.seek(8)
            file.write(text.ljust(length))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights: safetensors, or a pickle of plain tensors (never of code), whatever the file's ending.

    Of a training script's file the model is taken, or its moving average where there is one.

    Returns:
        The tensors by name, and the notes beside them: those of a safetensors header; ``taken``, the
        place of a moving average where that was taken; ``classes``, a tuple in the head's order, where a
        file names them.

    Raises:
        ModelError: where the file is missing, is no weight file, or carries code.
    """
    if weight_format(path) == "torch":
        return load_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            notes = {k: _json_or_text(v) for k, v in (file.metadata() or {}).items()}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as problem:
        raise safetensors_problem(path, str(problem)) from problem
    return tensors, with_classes(notes, notes, path)


def _header_text(value: Any) -> str:
    # Other libraries look for the plain text "pt"; text that reads as JSON would come back as another value.
    plain = isinstance(value, str) and _json_or_text(value) == value
    return value if plain else json.dumps(value)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors, in hex: their names, types, shapes and bytes, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
