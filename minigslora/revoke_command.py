"""``minigslora revoke``: a request of a finished run is taken back, and the model written without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from minigslora import ledger, lora
from minigslora.erasure import finalize, finalized_file, revoke
from minigslora.errors import ConfigError, OutputError
from minigslora.files import (
    alone_in,
    load_tensors,
    read_json,
    require_new,
    require_writable,
    sha256,
    write_json,
)
from minigslora.forget_command import LIVE
from minigslora.methods import create
from minigslora.models import checkpoint
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
        live, run = _described(folder)
        tasks = [t["name"] for t in run["plan"]]
        marked = folder / "tasks" / REVOKED
        revoked: dict[str, str] = read_json(marked) if marked.is_file() else {}
        name = _asked(task, tasks, revoked, folder)
        dates = {**revoked, name: revoked.get(name, ledger.today())}
        default = folder / f"erased-without-{'-'.join(sorted(dates, key=tasks.index))}.safetensors"
        path = finalized_file(target or default)
        require_new(path)
        require_writable(path.parent)
        model = _without(live, folder / "tasks" / f"{tasks[-1]}.safetensors", dates, weights)
        write_json(marked, dates)
        finalize(model, path)
    said = f"{name} was revoked on {dates[name]}" if name in revoked else f"revoked {name}"
    return said, path


def _described(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a finished run's model is made of, and what was asked of it; refuse any other folder."""
    there = folder / "tasks" / "run.json"
    if not there.is_file():
        raise ConfigError(f"{folder} is no folder of 'minigslora forget': it has no tasks/run.json")
    try:
        run = read_json(there)
        method, tasks = create(run["method"]), [t["name"] for t in run["plan"]]
        live = read_json(folder / LIVE) if (folder / LIVE).is_file() else None
    except (ValueError, KeyError, TypeError) as problem:
        raise OutputError(f"{folder} is damaged ({problem!r}); nothing was changed") from None
    if not method.revocable:
        raise ConfigError(
            f"{method.name} changes the weights themselves, so that none of its requests can be revoked; go "
            "back to the file that the run began with"
        )
    if live is None or not all((folder / "tasks" / f"{t}.json").is_file() for t in tasks):
        raise ConfigError(
            f"the run in {folder} has not finished; give the same 'minigslora forget' again, which goes on "
            "where it stopped, and revoke then"
        )
    return live, run


def _asked(task: str | None, tasks: list[str], revoked: Mapping[str, str], folder: Path) -> str:
    """Return which request is meant; one that the run does not have is refused."""
    standing = [name for name in tasks if name not in revoked]
    if task is None and not standing:
        raise ConfigError(f"every request of {folder} is revoked: {', '.join(tasks)}")
    if (name := task or standing[-1]) not in tasks:
        raise ConfigError(
            f"{name!r} is no request of {folder}, which has {', '.join(tasks)}. What an earlier run forgot "
            "is in the weights that this one began with; revoke it in that run's folder"
        )
    return name


def _without(
    live: Mapping[str, Any], state: Path, dates: Mapping[str, str], weights: Path | None
) -> nn.Module:
    """Return a run's live model after its requests were revoked, in the order in which they were."""
    file = weights or Path(live["weights"])
    if not file.is_file():
        raise ConfigError(
            f"the weights that the run began with are not at {file} any more; say where they are (--weights "
            f"FILE, sha256 {live['sha256'][:12]}…)"
        )
    if (found := sha256(file)) != live["sha256"]:
        raise ConfigError(
            f"{file} is not the file that the run began with: its sha256 is {found[:12]}…, expected "
            f"{live['sha256'][:12]}…; give that file (--weights FILE)"
        )
    tensors, notes = load_tensors(file)
    model = checkpoint.with_weights(checkpoint.card_from(live["card"], str(file)), tensors, str(file), notes)
    lora.load_adapters(model, load_tensors(state)[0])
    ledger.put(model, ledger.read(live, str(state.parent.parent / LIVE)))
    for name, date in dates.items():
        revoke(model, name, date)
    return model
