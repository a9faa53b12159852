"""``minigslora export``: a file, or the folder of a run, handed over in another format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from minigslora import export
from minigslora.errors import ConfigError, ModelError
from minigslora.files import require_new
from minigslora.finished_run import finalised_model, live_model, revoked
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
        weights: those that the run began with, where they were moved; the live model is made of them.
        live: whether the live model is needed; it is taken, too, where a request was revoked since.
    """
    dates = revoked(folder)
    if not (live or weights or dates):
        return finalised_model(folder)
    model = live_model(folder, weights, dates)
    if not dates:
        try:
            export.require_alike(model.eval(), finalised_model(folder).eval(), "the run's file")
        except ModelError as problem:
            raise ModelError(
                f"the adapters in {folder / 'tasks'} and the file that the run finalised are not of one "
                f"model ({problem}); serve the requests again in a new folder"
            ) from None
    return model
