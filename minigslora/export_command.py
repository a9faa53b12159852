"""``minigslora export``: a file, or the folder of a run, handed over in another format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from minigslora import export, ledger, lora
from minigslora.errors import ConfigError, MiniGSLoRAError, ModelError
from minigslora.files import load_tensors, read_json, require_new
from minigslora.fingerprint import weights_hash
from minigslora.models import checkpoint

FORMATS: dict[str, Callable[[nn.Module, Path], export.Exported]] = {
    "timm": export.to_timm,
    "peft": export.to_peft,
    "onnx": export.to_onnx,
    "hf": export.to_hf,
}
"""What ``--to`` takes."""


def export_file(source: Path, to: str, out: Path, weights: Path | None = None) -> export.Exported:
    """Export the model of a file, or of the folder of a ``minigslora forget`` run.

    Args:
        source: the file, or the folder.
        to: a name of :data:`FORMATS`.
        out: the file or folder to write, which must not be there yet.
        weights: those that the run began with, from which its live model is made again.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: there is no such format; expected {', '.join(FORMATS)}")
    require_new(out)
    if source.is_dir():
        return FORMATS[to](model_of_run(source, weights, to == "peft"), out)
    if weights is not None:
        raise ConfigError(f"--weights goes with the folder of a run; {source} is a file, or is not there")
    return FORMATS[to](checkpoint.load(source)[0], out)


def model_of_run(folder: Path, weights: Path | None, live: bool) -> nn.Module:
    """Return the model that a run left: the file that it finalised, or the live one.

    Args:
        folder: the run's, as ``minigslora forget --out`` names it.
        weights: those that the run began with; the live model is made of them and the run's adapters.
        live: whether the live model is needed.
    """
    file = _finalised(folder)
    model, card = checkpoint.load(file)
    if weights is None:
        if live:
            raise ConfigError(
                f"adapters go beside the weights that the run in {folder} began with; name them with "
                "--weights FILE"
            )
        return model
    tensors, notes = load_tensors(weights)
    if "card" in notes:
        original, _ = checkpoint.load(weights)
    else:
        original = checkpoint.with_weights(card, tensors, str(weights), notes)
    _put_on(original, folder / "tasks", weights)
    ledger.put(original, ledger.of(model))
    try:
        export.require_alike(original.eval(), model.eval(), str(file))
    except ModelError as problem:
        raise ModelError(
            f"the adapters in {folder / 'tasks'} and {file} are not of one model ({problem}); serve the "
            "requests again in a new folder"
        ) from None
    return original


def _finalised(folder: Path) -> Path:
    """Return the file that a run finalised."""
    if not (folder / "finalized.json").is_file():
        hint = f"; {folder.parent} is one" if (folder.parent / "finalized.json").is_file() else ""
        raise ConfigError(
            f"{folder} is no folder of a 'minigslora forget' run: it has no finalized.json{hint}. Give the "
            "run's --out, or a file with a card"
        )
    named = [Path(text) for text in _read(folder / "finalized.json", list)]
    for file in named:
        for place in (file, folder / file.name):  # a folder may have been moved
            if place.is_file():
                return place
    raise ConfigError(
        f"the run in {folder} has written no erased model yet: {', '.join(map(str, named))} is not there. "
        "Start the same 'minigslora forget' again, which goes on where it was stopped"
    )


def _put_on(model: nn.Module, tasks: Path, weights: Path) -> None:
    """Put the adapters of a run's last finished request on the model that it began with."""
    identity = _read(tasks / "run.json", dict)
    if weights_hash(model) != identity.get("weights"):
        raise ConfigError(
            f"{weights} holds other weights than the run in {tasks.parent} began with; give that file"
        )
    finished = [file for file in tasks.glob("task*.safetensors") if file.with_suffix(".json").is_file()]
    if not finished:
        raise ConfigError(f"{tasks} holds no finished request; start the same 'minigslora forget' again")
    last = max(finished, key=lambda file: (len(file.stem), file.stem))
    state, _ = load_tensors(last)
    if not all(".adapters." in key for key in state):
        raise ConfigError(
            f"{identity.get('method')} changes the weights themselves and has no adapters; leave --weights "
            "out, and write another format (--to timm, onnx or hf)"
        )
    lora.load_adapters(model, state)


def _read(file: Path, kind: type[Any]) -> Any:
    """Return what a file of a run says, of the kind that is expected there."""
    try:
        value = read_json(file)
    except (OSError, ValueError, MiniGSLoRAError) as problem:
        raise ConfigError(f"{file} cannot be read ({problem}); give the folder of a run") from None
    if not isinstance(value, kind):
        raise ConfigError(f"{file} is damaged: {str(value)[:40]!r}; give the folder of a run")
    return value
