"""Weight files of others: what they are by their content, and where in them the weights are.

Endings are often wrong, and downloads often something else. A pickle is refused code.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import torch
from torch import Tensor

from minigslora.errors import ModelError, first_line

_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (0, b"GGUF", "a GGUF file, as llama.cpp reads it"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x1f\x8b", "packed by gzip; unpack it first"),
    (0, b"BZh", "packed by bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "packed by xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (0, b"Rar!", "a RAR archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"%PDF", "a PDF document"),
)
_LARGEST_HEADER = 100_000_000
"""Bytes that safetensors allows a header."""


def weight_format(path: Path) -> Literal["safetensors", "torch"]:
    """Return how a file holds its tensors, from its first bytes; its ending is not looked at.

    Raises:
        ModelError: where there is no such file, or it is something else: it says what, and what to do.
    """
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*") if p.suffix in (".safetensors", ".pth", ".pt", ".bin"))
        hint = f"give a file in it: {', '.join(inside[:5])}" if inside else "give the weight file"
        raise ModelError(f"{path} is a folder; {hint}")
    if not path.is_file():
        raise ModelError(f"no weight file at {path}; check the path")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    if head.startswith(b"PK\x03\x04"):
        return _in_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):  # a pickle and its protocol
        return "torch"
    raise ModelError(f"{path} {_described(path, head)}")


def cut_short(path: Path, why: str = "") -> ModelError:
    """Return the error for a file whose end is missing."""
    size = path.stat().st_size
    return ModelError(
        f"{path} is cut short{why or f' after {size:,} bytes'}: its download or copy did not come to its "
        "end; get it again"
    )


def _pickle_problem(path: Path, problem: Exception) -> ModelError:
    """Return the error for a file that begins like a pickle and was not read as one of plain tensors."""
    said, never = str(problem), "a pickle can carry code, which is never run here"
    code = re.search(r"GLOBAL ([\w.]+)", said)
    ended = isinstance(problem, EOFError | IndexError) or "truncated" in said or "unexpected EOF" in said
    if ended and code is None:
        return cut_short(path)
    if isinstance(problem, pickle.UnpicklingError):
        what = f"it holds {code[1]}" if code else "it is not a plain file of tensors"
        told = f"{what} ({never}). Save the state dict with safetensors and give that file"
    else:
        what = f"it is damaged, or not a plain file of tensors ({first_line(problem)})"
        told = f"{what}; {never}. Get it again, or save the state dict with safetensors"
    return ModelError(f"{path} was refused: {told}")


def safetensors_problem(path: Path, reason: str) -> ModelError:
    """Return the error for a file that begins like safetensors and cannot be read."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 8 + length <= size else None
        if header is None:
            return cut_short(path)
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        if size < (whole := 8 + length + max(ends, default=0)):
            return cut_short(path, f" ({size:,} of {whole:,} bytes)")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        pass  # damaged in another way
    return ModelError(f"{path} is not a readable safetensors file: {reason}. Get or write it again")


def _in_zip(path: Path) -> Literal["torch"]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise cut_short(path) from None  # the table of contents is a zip file's end
    if any(re.search(r"(^|/)code/.*\.py$", name) for name in names):
        raise ModelError(
            f"{path} was refused: it is a TorchScript program, whose code, which is never run here, comes "
            "with its weights. Save the state dict with safetensors and give that file"
        )
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        what = "is a NumPy archive, as the JAX vision transformers come in; load it in timm and save the "
        raise ModelError(f"{path} {what}model's state dict with safetensors")
    raise ModelError(
        f"{path} is a zip archive without torch's weights ({', '.join(names[:3]) or 'it is empty'}); unpack "
        "it and give the weight file"
    )


def _described(path: Path, head: bytes) -> str:
    """Say what a file is that holds no tensors in a way known here."""
    expected = "expected is safetensors, or a state dict saved by torch.save"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "is empty (0 bytes): its download or copy did not begin; get it again"
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", head)
        real = f" of {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer, not the file{real} it stands for; get that with: git lfs pull"
    if text[:15].lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")):
        return "is a web page, perhaps of an error or a login, not the weights; download the file itself"
    if text.startswith((b"{", b"[")):
        if b"weight_map" in path.read_bytes()[:10_000_000]:
            return "is the index of weights that lie in several files; join them into one safetensors file"
        return f"is JSON text, not weights; {expected}"
    for at, magic, what in _OTHERS:
        if head[at:].startswith(magic):
            return f"is {what}; {expected}"
    return f"is no weight file of a kind that is known here; {expected}"


_HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,  # the training script's own arguments
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
)
"""Types beside tensors that a pickle may hold: making one does nothing, whatever it is made from."""


def load_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a pickle of plain tensors, never of code; see :func:`minigslora.files.load_tensors`."""
    try:
        # An open file, since torch goes by the ending of a path.
        with path.open("rb") as file, torch.serialization.safe_globals(list(_HARMLESS)):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # bytes that are no pickle fail in many ways
        raise _pickle_problem(path, problem) from problem
    state, taken = unwrapped(loaded)
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state dict; expected tensors by parameter name")
    average = any(place in _AVERAGES for place in taken.split("."))
    notes = {"taken": f"the moving average, {taken!r},"} if average else {}
    return {str(k): v for k, v in state.items()}, with_classes(notes, loaded, path)


# --- how training scripts keep a model --------------------------------------------------------------

_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model")
_WRAPPERS = (*_AVERAGES, "state_dict", "model_state_dict", "model_state", "model", "net", "weights")
"""Where a training script's file has the weights; the moving average, which timm evaluates, first."""

_PREFIX = re.compile(r"^(?:module|_orig_mod|model|backbone|net|network)\.")
"""What wrappers put before a parameter's name: data parallelism, torch.compile, a class around the model."""


def unwrapped(value: Any) -> tuple[Mapping[str, Any], str]:
    """Return the state dict inside what a training script saves, and where in it that was ("" for whole)."""
    places: list[str] = []
    while isinstance(value, Mapping):
        inner = next((k for k in _WRAPPERS if isinstance(value.get(k), Mapping) and value[k]), None)
        if inner is None:
            return value, ".".join(places)
        value = value[inner]
        places.append(inner)
    return {}, ""


def plain_names(state: Mapping[str, Any], wanted: Iterable[str] = ()) -> Mapping[str, Any]:
    """Return a state dict without the prefixes of wrappers, as far as the names ``wanted`` ask for.

    Without ``wanted``, all prefixes are taken off. Where two names would become one, none is changed.
    """
    names, plain = set(wanted), state
    while not (names and names <= plain.keys()):
        shorter = {_PREFIX.sub("", k, count=1): v for k, v in plain.items()}
        if shorter.keys() == plain.keys() or len(shorter) < len(plain):
            break
        plain = shorter
    if names and len(names & plain.keys()) <= len(names & state.keys()):
        return state
    return {k: v for k, v in plain.items() if k != "n_averaged" or k in names}  # torch's AveragedModel counts


def with_classes(notes: dict[str, Any], beside: Any, path: Path) -> dict[str, Any]:
    """Return notes with the classes that a file names, in the head's order, as ``classes``."""
    others = {k: v for k, v in notes.items() if k != "classes"}
    places = [beside] if isinstance(beside, Mapping) else []
    places += [vars(v) if isinstance(v, argparse.Namespace) else v for p in places for v in p.values()]
    for place in (p for p in places if isinstance(p, Mapping)):
        for key in ("class_to_idx", "idx_to_class", "classes", "class_names", "label_names"):
            if names := _class_names(place.get(key), f"{key} in {path}"):
                return {**others, "classes": names}
    return others


def _class_names(value: Any, what: str) -> tuple[str, ...]:
    """Return classes from a list of names, or from names numbered 0, 1, …; () where it is neither."""
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        names = list(value)
    elif isinstance(value, Mapping) and value:
        pairs = list(value.items())
        if all(isinstance(k, str) and type(v) is int for k, v in pairs):
            pairs = [(v, k) for k, v in pairs]
        elif not all(str(k).isdecimal() and isinstance(v, str) for k, v in pairs):
            return ()
        numbered = {int(k): v for k, v in pairs}
        if sorted(numbered) != list(range(len(pairs))):
            raise ModelError(
                f"{what} does not number its {len(pairs)} classes 0 to {len(pairs) - 1}, each once"
            )
        names = [numbered[row] for row in range(len(pairs))]
    else:
        return ()
    if len(set(names)) < len(names):
        raise ModelError(f"{what} names a class twice; name each row of the head once")
    return tuple(names)
