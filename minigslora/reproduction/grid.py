"""A grid of runs: scenarios × methods × seeds of one published table.

Each run is kept in the folder that its parameters name; a grid only says which runs belong together. So a
grid that was stopped, or killed, is started again with the same command: what has finished is not run
again, and grids that overlap share their runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from minigslora.errors import ConfigError
from minigslora.files import read_json, sha256, write_json
from minigslora.reproduction import published
from minigslora.reproduction.benchmark import Contender
from minigslora.reproduction.engines import Engine, Job, Outcome
from minigslora.runs import Profile, run_values, runs_root


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
            common["data_set"] = self.data
        if self.weights:
            path = Path(self.weights).expanduser().resolve()
            if not path.is_file():
                raise ConfigError(f"no weight file at {path}; check --weights")
            common |= {"weights": str(path), "weights_sha256": sha256(path)}
        jobs = []
        for seed, scenario, who in itertools.product(range(self.seeds), chosen, self.contenders):
            own: dict[str, Any] = {"scenario": scenario.name, "contenders": [str(who)], "seed": seed}
            if changes := {**self.settings.get("", {}), **self.settings.get(str(who), {})}:
                own["settings"] = changes
            jobs.append(Job(f"{scenario.name} {who} seed {seed}", table.notebook, {**common, **own}))
        for job in jobs:
            run_values(job.notebook, job.parameters)  # refuses an unknown parameter before any run
        return jobs

    def _check_settings(self) -> None:
        known = {"", *map(str, self.contenders)}
        if strange := sorted(set(self.settings) - known):
            named = ", ".join(map(str, self.contenders))
            raise ConfigError(f"settings for {strange[0]!r}, which is not run; the methods are {named}")

    @property
    def folder(self) -> Path:
        """Where the grid's tables and page are written: one place for all that may be compared.

        Grids that differ in methods, seeds or scenarios only share it, and add to one another.
        """
        parts = [self.table, self.data or "default", self.profile]
        if self.weights or self.settings:
            digest = sha256(Path(self.weights).expanduser()) if self.weights else ""
            text = json.dumps([digest, self.settings], sort_keys=True, default=dict)
            parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
        return runs_root() / "reproduce" / "-".join(parts)


def run_grid(grid: Grid, engine: Engine, watch: bool = False) -> list[Outcome]:
    """Carry out what is not finished yet; write after each run which have finished and which failed.

    Args:
        grid: what to run.
        engine: where.
        watch: whether to show progress over the whole grid.

    Returns:
        An outcome for every run of the grid, those that were finished before included.
    """
    jobs, folder = grid.jobs(), grid.folder
    outcomes = {job.label: Outcome(job) for job in jobs if job.finished}
    open_jobs = [job for job in jobs if job.label not in outcomes]
    bar = tqdm(total=len(jobs), initial=len(outcomes), desc=grid.table, disable=None if watch else True)
    earlier = _earlier(folder, jobs)
    _note(folder, grid, jobs, outcomes, earlier)
    with bar:
        for outcome in engine.run(open_jobs):
            outcomes[outcome.job.label] = outcome
            _note(folder, grid, jobs, outcomes, earlier)
            bar.update()
            if outcome.error:
                bar.write(f"failed: {outcome.job.label}: {outcome.error}")
    return [outcomes[job.label] for job in jobs]


def _earlier(folder: Path, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return the finished runs of earlier grids of this folder that are not among ``jobs``."""
    if not (folder / "grid.json").is_file():
        return []
    labels = {job.label for job in jobs}
    return [r for r in read_grid(folder)["runs"] if r["status"] == "finished" and r["label"] not in labels]


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

    write_json(
        folder / "grid.json",
        {
            "table": grid.table,
            "profile": grid.profile,
            "data": grid.data,
            "runs": [*earlier, *map(state, jobs)],
        },
    )


def read_grid(folder: Path) -> dict[str, Any]:
    """Return what :func:`run_grid` noted in ``folder``.

    Raises:
        ConfigError: where there is no grid.
    """
    path = folder / "grid.json"
    if not path.is_file():
        raise ConfigError(f"no grid in {folder}: {path.name} is missing; run 'minigslora reproduce' first")
    found: dict[str, Any] = read_json(path)
    return found
