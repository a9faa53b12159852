"""Where the runs of a grid are carried out: on this machine, or on a Ray cluster.

An engine is given jobs and yields outcomes as they come; a run that fails is an outcome like any other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from minigslora.course.executing import Notebook, Planned, run_notebook
from minigslora.course.identity import PARAMETERS, RESULT
from minigslora.errors import ConfigError, MiniGSLoRAError
from minigslora.files import written_whole

FILES = (PARAMETERS, "executed.ipynb", RESULT)
"""What a run leaves that is brought back from another machine; the last one marks it finished."""

CHANGED = "notebook, library, weights or data were changed while the grid ran; start it again"


@dataclass(frozen=True)
class Job:
    """One run, by a label: a notebook, by number, name or path, and its parameters.

    ``source`` is the notebook, where it has been read for other jobs, too.
    """

    label: str
    notebook: str
    parameters: Mapping[str, Any] = field(hash=False)
    source: Notebook | None = field(default=None, repr=False, compare=False)

    @cached_property
    def run(self) -> Planned:
        """The run as it is now: the notebook, weights and data as they are."""
        return (self.source or Notebook(self.notebook)).planned(self.parameters)

    @property
    def folder(self) -> Path:
        """Where the run is kept on this machine."""
        return self.run.folder

    @property
    def finished(self) -> bool:
        """Whether it has been run before."""
        return self.run.finished


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its error, or "" where it has finished."""

    job: Job
    error: str = ""


class Engine(Protocol):
    """Carries out jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Carry out ``jobs`` and yield what became of each as soon as it is known."""
        ...


class Local:
    """Processes on this machine: so many at a time, each with its share of cores, or a GPU of its own.

    Without ``workers`` there is one per GPU, or one; ``gpus`` are all there are unless given.
    """

    def __init__(self, workers: int | None = None, gpus: int | None = None) -> None:
        self.gpus = torch.cuda.device_count() if gpus is None else gpus
        self.workers = max(1, self.gpus) if workers is None else workers
        if self.workers < 1:
            raise ConfigError(f"jobs = {workers}; expected 1 or more")

    def slots(self) -> list[dict[str, str]]:
        """Return the environment of each worker: its cores, and its GPU where there are any."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // self.workers))}
        if not self.gpus:
            return [threads for _ in range(self.workers)]
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = given.split(",") if given else [str(k) for k in range(self.gpus)]
        return [{**threads, "CUDA_VISIBLE_DEVICES": names[k % self.gpus]} for k in range(self.workers)]

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Carry out ``jobs``, each in a process of its own.

        Threads wait for the processes; stopped by the user, what runs ends by itself and nothing new is
        begun. (joblib would kill a single worker's run, and warn of what it leaves out.)
        """
        own, slots = threading.local(), iter(self.slots())

        def take_slot() -> None:
            own.slot = next(slots)

        def serve(job: Job) -> Outcome:
            try:
                folder = run_notebook(job.notebook, job.parameters, environment=own.slot)
            except MiniGSLoRAError as problem:
                return Outcome(job, str(problem))
            return Outcome(job, "" if folder == job.folder else CHANGED)

        with ThreadPoolExecutor(self.workers, initializer=take_slot) as pool:
            started = [pool.submit(serve, job) for job in jobs]
            try:
                for future in as_completed(started):
                    yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


class Ray:
    """A Ray cluster, or a Ray started here; an optional extra (``pip install minigslora[ray]``).

    Its machines need minigslora with its notebooks, the data, and weights under the same path. Results
    are brought back to this machine.

    Args:
        address: of a running cluster, as Ray understands it; None starts one on this machine.
        workers: how many runs at a time on a machine without GPUs.
        gpus: GPUs a run takes; one where the cluster has any, if None.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, gpus: float | None = None
    ) -> None:
        # Ray would otherwise pack this checkout and install it anew for each worker under `uv run`.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise ConfigError("--engine ray needs Ray: pip install 'minigslora[ray]'") from None
        self.ray: Any = ray
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, ValueError, RuntimeError) as problem:
                raise ConfigError(
                    f"no Ray cluster answers at {address or 'this machine'}: {problem}. Start one with "
                    "'ray start --head', or leave --address out"
                ) from problem
        there = self.ray.cluster_resources()
        self.gpus = min(1.0, there.get("GPU", 0.0)) if gpus is None else gpus
        self.cpus = max(1, int(there.get("CPU", 1)) // (workers or 1)) if not self.gpus else 1

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Carry out ``jobs`` as Ray tasks."""
        task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=1)(on_worker)
        pending = {task.remote(job.notebook, dict(job.parameters), self.cpus): job for job in jobs}
        while pending:
            for reference in self.ray.wait(list(pending))[0]:
                job = pending.pop(reference)
                try:
                    error, files = self.ray.get(reference)
                except self.ray.exceptions.RayError as problem:
                    error, files = f"the worker was lost: {problem}", {}
                if files and not job.finished:
                    job.run.claim()
                    bring_back(job.folder, files)
                yield Outcome(job, error)


def on_worker(notebook: str, parameters: dict[str, Any], cpus: int) -> tuple[str, dict[str, bytes]]:
    """Run a notebook where this is called; return its error, or "", and its files."""
    try:
        folder = run_notebook(notebook, parameters, environment={"OMP_NUM_THREADS": str(cpus)})
    except MiniGSLoRAError as problem:
        return str(problem), {}
    return "", {name: (folder / name).read_bytes() for name in FILES}


def bring_back(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a finished run's files, the one that marks it finished last."""
    for name in FILES:
        if name in files:
            with written_whole(folder / name) as temporary:
                temporary.write_bytes(files[name])


def make(name: str, workers: int | None = None, address: str | None = None) -> Engine:
    """Return an engine by name, "local" or "ray", or raise a :class:`ConfigError`."""
    if name == "local":
        if address:
            raise ConfigError(f"--address {address} goes with --engine ray")
        return Local(workers)
    if name == "ray":
        return Ray(address, workers)
    raise ConfigError(f"unknown engine {name!r}; expected local or ray")
