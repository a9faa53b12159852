"""A grid of runs: scenarios × methods × seeds of one published table.

Each run is kept in the folder that its parameters name; a grid only says which runs belong together. So a
grid that was stopped, or killed, is started again with the same command: what has finished is not run
again, and grids that overlap share their runs.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from minigslora.course.executing import Notebook, read_identity
from minigslora.course.profiles import Profile
from minigslora.datasets import registry
from minigslora.errors import ConfigError
from minigslora.files import read_json, runs_root, sha256, write_json
from minigslora.fingerprint import fingerprint_of
from minigslora.reproduction import published
from minigslora.reproduction.benchmark import Contender
from minigslora.reproduction.engines import Engine, Job, Outcome

NOTED = "grid.json"
"""The file of a grid's folder that says which runs it has, and what became of them."""


@dataclass(frozen=True)
class Grid:
    """What is run.

    Attributes:
        table: a name of :data:`published.TABLES`.
        profile: smoke, cpu, gpu or paper.
        contenders: methods with recipes.
        seeds: how many, from 0.
        data: the data set; "" for the profile's.
        weights: the pre-trained model; "" for the one that ships with the data.
        scenarios: some of the table's; all if empty.
        settings: changes of the methods' settings or training: for all under "", for one under its
            contender's text.
    """

    table: str
    profile: str = "cpu"
    contenders: tuple[Contender, ...] = (Contender("gslora"), Contender("gslora++"))
    seeds: int = 1
    data: str = ""
    weights: str = ""
    scenarios: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def jobs(self) -> list[Job]:
        """Return the runs, seed by seed, so that a grid that is stopped has whole seeds.

        Raises:
            ConfigError: for an unknown table, scenario or profile, no method, or no seed.
        """
        table = published.table(self.table)
        chosen = [table.scenario(name) for name in self.scenarios] or list(table.scenarios)
        if self.profile not in get_args(Profile):
            raise ConfigError(f"profile = {self.profile!r}; expected one of {', '.join(get_args(Profile))}")
        if self.seeds < 1 or not self.contenders:
            raise ConfigError(f"{len(self.contenders)} methods and {self.seeds} seeds make no run")
        self._check_settings()
        common: dict[str, Any] = {"profile": self.profile, "table": self.table, **table.parameters}
        if self.data:
            common["data_set"] = self._data_set()
        if self.weights:
            path = Path(self.weights).expanduser().resolve()
            if not path.is_file():
                raise ConfigError(f"no weight file at {path}; check --weights")
            common |= {"weights": str(path), "weights_sha256": sha256(path)}
        jobs, source = [], Notebook(table.notebook)
        for seed, scenario, who in itertools.product(range(self.seeds), chosen, self.contenders):
            own: dict[str, Any] = {"scenario": scenario.name, "contenders": [str(who)], "seed": seed}
            if changes := {**self.settings.get("", {}), **self.settings.get(str(who), {})}:
                own["settings"] = changes
            label = f"{scenario.name} {who} seed {seed}"
            jobs.append(Job(label, table.notebook, {**common, **own}, source))
            jobs[-1].run  # refuses an unknown parameter before any run  # noqa: B018
        return jobs

    def _data_set(self) -> str:
        """Return the data's name, or their folder with its whole path."""
        known = [*registry.names(), *registry.detection_names()]
        if self.data in known:
            return self.data
        folder = Path(self.data).expanduser().resolve()
        if not folder.is_dir():
            named = ", ".join(known)
            raise ConfigError(f"no data {self.data!r}: neither a folder ({folder}) nor one of {named}")
        return str(folder)

    def _check_settings(self) -> None:
        named = list(map(str, self.contenders))
        if strange := sorted(set(self.settings) - {"", *named}):
            raise ConfigError(
                f"settings for {strange[0]!r}, which is not run; the methods are {', '.join(named)}"
            )

    @property
    def folder(self) -> Path:
        """Where the grid's tables and page are written: one place for all that may be compared.

        Grids that differ in methods, seeds or scenarios only share it, and add to one another.
        """
        data = self._data_set() if self.data else "default"
        if os.path.isabs(data):  # a folder by its name, and apart from others of that name
            data = f"{Path(data).name}-{fingerprint_of(data)[:8]}"
        parts = [self.table, data, self.profile]
        if self.weights or self.settings:
            digest = sha256(Path(self.weights).expanduser()) if self.weights else ""
            parts.append(
                fingerprint_of(json.dumps([digest, self.settings], sort_keys=True, default=dict))[:8]
            )
        return runs_root() / "reproduce" / "-".join(parts)


def run_grid(grid: Grid, engine: Engine, watch: bool = False) -> list[Outcome]:
    """Carry out what is not finished yet; write after each run which have finished and which failed.

    Returns an outcome for every run of the grid, those that were finished before included; ``watch`` shows
    progress over the whole grid.
    """
    jobs, folder = grid.jobs(), grid.folder
    outcomes = {job.label: Outcome(job) for job in jobs if job.finished}
    open_jobs = [job for job in jobs if job.label not in outcomes]
    bar = tqdm(total=len(jobs), initial=len(outcomes), desc=grid.table, disable=None if watch else True)
    earlier, aside = _earlier(folder, jobs)
    _note(folder, grid, jobs, outcomes, earlier)
    with bar:
        if watch and outcomes:
            taken = f"{len(outcomes)} of {len(jobs)}, named in {folder / NOTED}"
            bar.write(f"taken from earlier runs: {taken}", file=sys.stderr)
        if watch and aside:
            what = "earlier runs of another notebook, library or data; their folders stay"
            bar.write(f"left out: {aside} {what}", file=sys.stderr)
        for outcome in engine.run(open_jobs):
            outcomes[outcome.job.label] = outcome
            _note(folder, grid, jobs, outcomes, earlier)
            bar.update()
            if outcome.error:
                bar.write(f"failed: {outcome.job.label}: {outcome.error}")
    return [outcomes[job.label] for job in jobs]


def _earlier(folder: Path, jobs: Sequence[Job]) -> tuple[list[dict[str, Any]], int]:
    """Return the finished runs of earlier grids of this folder that are not among ``jobs``.

    Only those that may be compared with them; and how many may not, as notebook, library or data were others.
    """
    if not (folder / NOTED).is_file():
        return [], 0
    labels = {job.label for job in jobs}
    runs = [r for r in read_grid(folder)["runs"] if r["status"] == "finished" and r["label"] not in labels]
    now = _origin(jobs[0].run.identity)
    kept = [run for run in runs if _origin(read_identity(Path(run["folder"]))) == now]
    return kept, len(runs) - len(kept)


def _origin(identity: Mapping[str, Any]) -> list[Any]:
    """Return what must be equal for runs to stand in one table: all but their parameters."""
    return [identity.get(key) for key in ("notebook", "library", "inputs", "device")]


def _note(
    folder: Path,
    grid: Grid,
    jobs: Sequence[Job],
    outcomes: Mapping[str, Outcome],
    earlier: Sequence[dict[str, Any]],
) -> None:
    """Write which runs the grid has, where they are, and what became of them."""

    def state(job: Job) -> dict[str, Any]:
        found = outcomes.get(job.label)
        status = "open" if found is None else "failed" if found.error else "finished"
        run = {"label": job.label, "folder": str(job.folder), "status": status}
        return {**run, "error": found.error} if found and found.error else run

    noted = {"table": grid.table, "profile": grid.profile, "data": grid.data}
    write_json(folder / NOTED, {**noted, "runs": [*earlier, *map(state, jobs)]})


def read_grid(folder: Path) -> dict[str, Any]:
    """Return what :func:`run_grid` noted in ``folder``, or raise a :class:`ConfigError`."""
    path = folder / NOTED
    if not path.is_file():
        raise ConfigError(f"no grid in {folder}: {path.name} is missing; run 'minigslora reproduce' first")
    try:
        found: dict[str, Any] = read_json(path)
        found["table"], [(run["label"], run["folder"], run["status"]) for run in found["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is damaged; run 'minigslora reproduce' again") from None
    return found
