"""``minigslora revoke``: a request of a finished run is taken back, and the model written without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minigslora import ledger
from minigslora.erasure import finalize, finalized_file
from minigslora.errors import ConfigError
from minigslora.files import (
    alone_in,
    require_new,
    require_writable,
    write_json,
)
from minigslora.finished_run import live_model, requests_of, revoked
from minigslora.sequence import REVOKED


def revoke_in(folder: Path, task: str | None, target: Path | None, weights: Path | None) -> tuple[str, Path]:
    """Take back a request of a run that ``minigslora forget`` wrote, and write the model without it.

    First it is noted in the folder, so that the run does not bring it back, then the file is written: a
    command that was stopped in between is given again. The files of the run stay as they are.

    Args:
        folder: the run's.
        task: the request; the newest one that stands by default.
        target: the model's file; one in the folder, named by what was revoked, by default.
        weights: the file of the weights that the run began with, where it was moved.

    Returns:
        What was done, in words, and the file.

    Raises:
        ConfigError: for a folder of no finished run, a method that is not revocable, a request that is not
            one of the run's, other weights than the run's, or a file that is there already.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; give the one that 'minigslora forget' wrote (--out)")
    with alone_in(folder):
        tasks, before = requests_of(folder), revoked(folder)
        name = _asked(task, tasks, before, folder)
        dates = {**before, name: before.get(name, ledger.today())}
        default = folder / f"erased-without-{'-'.join(sorted(dates, key=tasks.index))}.safetensors"
        path = finalized_file(target or default)
        require_new(path)
        require_writable(path.parent)
        model = live_model(folder, weights, dates)
        write_json(folder / "tasks" / REVOKED, dates)
        finalize(model, path)
    said = f"{name} was revoked on {dates[name]}" if name in before else f"revoked {name}"
    return said, path


def _asked(task: str | None, tasks: list[str], gone: Mapping[str, str], folder: Path) -> str:
    """Return which request is meant; one that the run does not have is refused."""
    standing = [name for name in tasks if name not in gone]
    if task is None and not standing:
        raise ConfigError(f"every request of {folder} is revoked: {', '.join(tasks)}")
    if (name := task or standing[-1]) not in tasks:
        raise ConfigError(
            f"{name!r} is no request of {folder}, which has {', '.join(tasks)}. What an earlier run forgot "
            "is in the weights that this one began with; revoke it in that run's folder"
        )
    return name
