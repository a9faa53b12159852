"""What the folder of a ``minigslora forget`` run holds once it has finished: its file, and its live model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from minigslora import ledger, lora
from minigslora.erasure import revoke
from minigslora.errors import ConfigError, MiniGSLoRAError
from minigslora.files import load_tensors, read_json, sha256, write_json
from minigslora.methods import create
from minigslora.models import checkpoint
from minigslora.sequence import FINALIZED, REVOKED, written

LIVE = "live.json"
"""Of a run's folder: what its live model is made of, beside the adapters in ``tasks``."""


def keep_live(folder: Path, weights: Path, model: nn.Module) -> None:
    """Note what a finished run's live model is made of, so that it can be made again."""
    card: Any = checkpoint.card_of(model)
    made = {"weights": str(weights.resolve()), "sha256": sha256(weights), "card": vars(card)}
    write_json(folder / LIVE, {**made, ledger.KEY: ledger.plain(ledger.events(model))})


def requests_of(folder: Path) -> list[str]:
    """Return the requests of a finished run by a revocable method; refuse any other folder.

    Raises:
        ConfigError: for a folder of no finished run, a damaged one, or a method that is not revocable.
    """
    there = folder / "tasks" / "run.json"
    if not there.is_file():
        hint = f"; {folder.parent} is one" if (folder.parent / "tasks" / "run.json").is_file() else ""
        raise ConfigError(
            f"{folder} is no folder of 'minigslora forget': it has no tasks/run.json{hint}. Give the run's "
            "--out"
        )
    try:
        run = read_json(there)
        method, tasks = create(run["method"]), [t["name"] for t in run["plan"]]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(f"{folder} is damaged ({problem!r}); nothing was changed") from None
    if not method.revocable:
        raise ConfigError(
            f"{method.name} changes the weights themselves: the run in {folder} has no adapters, and none of "
            "its requests can be revoked; go back to the file that it began with"
        )
    if not (folder / LIVE).is_file() or not all((folder / "tasks" / f"{t}.json").is_file() for t in tasks):
        raise ConfigError(
            f"the run in {folder} has not finished; give the same 'minigslora forget' again, which goes on "
            "where it stopped"
        )
    return tasks


def revoked(folder: Path) -> dict[str, str]:
    """Return the requests of a run that were revoked since, and when."""
    marked = folder / "tasks" / REVOKED
    dates: dict[str, str] = read_json(marked) if marked.is_file() else {}
    return dates


def live_model(folder: Path, weights: Path | None, dates: Mapping[str, str]) -> nn.Module:
    """Return a run's live model after its requests were revoked, in the order in which they were.

    Args:
        folder: of a finished run.
        weights: the file of the weights that it began with, where that was moved.
        dates: of the revoked requests.

    Raises:
        ConfigError: where these weights are not at hand, or :func:`requests_of` refuses the folder.
    """
    newest = requests_of(folder)[-1]
    try:
        live = read_json(folder / LIVE)
        file, expected = weights or Path(live["weights"]), str(live["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(f"{folder / LIVE} is damaged ({problem!r}); nothing was changed") from None
    if not file.is_file():
        raise ConfigError(
            f"the weights that the run began with are not at {file}; say where they are (--weights FILE, "
            f"sha256 {expected[:12]}…)"
        )
    if (found := sha256(file)) != expected:
        raise ConfigError(
            f"{file} is not the file that the run began with: its sha256 is {found[:12]}…, expected "
            f"{expected[:12]}…; give that file (--weights FILE)"
        )
    tensors, notes = load_tensors(file)
    model = checkpoint.with_weights(checkpoint.card_from(live["card"], str(file)), tensors, str(file), notes)
    lora.load_adapters(model, load_tensors(folder / "tasks" / f"{newest}.safetensors")[0])
    ledger.put(model, ledger.read(live, str(folder / LIVE)))
    for name, date in dates.items():
        revoke(model, name, date)
    return model


def finalised_model(folder: Path) -> nn.Module:
    """Return the model of the file that a run finalised.

    Raises:
        ConfigError: for a folder of no run, or of one that has written no model yet.
    """
    try:
        named = [Path(text) for text in written(folder)]
    except (OSError, ValueError, TypeError, MiniGSLoRAError) as problem:
        raise ConfigError(
            f"{folder / FINALIZED} cannot be read ({problem}); give the folder of a run"
        ) from None
    if not named:
        hint = f"; {folder.parent} is one" if (folder.parent / FINALIZED).is_file() else ""
        raise ConfigError(
            f"{folder} is no folder of a 'minigslora forget' run: it has no {FINALIZED}{hint}. Give the "
            "run's --out, or a file with a card"
        )
    for file in named:
        for place in (file, folder / file.name):  # a folder may have been moved
            if place.is_file():
                return checkpoint.load(place)[0]
    raise ConfigError(
        f"the run in {folder} has written no erased model yet: {', '.join(map(str, named))} is not there. "
        "Start the same 'minigslora forget' again, which goes on where it was stopped"
    )
