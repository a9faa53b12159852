"""A sequence of requests, and its files: written request by request, resumed after the last finished one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from minigslora.config import from_mapping
from minigslora.errors import MiniGSLoRAError, OutputError
from minigslora.files import alone_in, load_tensors, read_json, save_tensors, write_json, write_text
from minigslora.fingerprint import adapters_hash, library_fingerprint, structure_hash, weights_hash
from minigslora.ledger import today
from minigslora.lora import adapter_names, bypassed, remove, revoke, wrapped
from minigslora.methods.base import Method
from minigslora.metrics import with_h
from minigslora.problems.base import Problem
from minigslora.rng import Streams
from minigslora.tasks import Plan, Task, TaskReport
from minigslora.training import EpochLog, check_defined, train_task

FINALIZED = "finalized.json"
"""The file in a run's folder that names the files to which it wrote its model, with their SHA-256."""

BEGUN = frozenset({"run.json", "before.json", FINALIZED, ".lock", ".holder"})
"""Files of a run that has come to nothing yet."""

REVOKED = "revoked.json"
"""In a run's folder: its requests that were revoked since, and when."""


def written(folder: Path) -> dict[str, str]:
    """Return the files that a run wrote its model to, with their SHA-256; "" of one not finished yet."""
    file = folder / FINALIZED
    known: list[str] | dict[str, str] = read_json(file) if file.is_file() else {}
    return known if isinstance(known, dict) else dict.fromkeys(known, "")  # a list before hashes were noted


class RunFolder:
    """The files of one sequence: configuration, index file, one checkpoint and report per task.

    Args:
        path: the folder; made if missing.
        identity: all that determines the run's numbers. It must be equal for a started run to be resumed;
            the folder of another run that has come to anything is refused, never overwritten.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        started = path / "run.json"
        if started.is_file():
            found = self._read(started)
            if found == self.identity:
                return
            if not self._only_begun():  # refused settings can be corrected in the same folder
                other = [k for k in self.identity if found.get(k) != self.identity[k]]
                raise OutputError(
                    f"{path} holds another run (its {', '.join(other) or 'keys'} differ); choose "
                    "another folder, or remove it"
                )
            (path / "before.json").unlink(missing_ok=True)
        elif there := sorted(f.name for f in (*path.glob("task*.*"), path / "before.json") if f.is_file()):
            raise OutputError(
                f"{path} holds {there[0]}, but no run.json that says of which run it is; choose another "
                "folder, or remove this one"
            )
        write_json(started, self.identity)

    def _only_begun(self) -> bool:
        return all(
            file.name in BEGUN or file.name.startswith("traceback-") or file.is_dir()
            for file in self.path.rglob("*")
        )

    def before(self, measure: Callable[[], list[dict[str, float]]]) -> list[dict[str, float]]:
        """Return the metrics of the model that the run began with, measured once.

        A method that trains the weights has no such model any more when its run is resumed.
        """
        if not (file := self.path / "before.json").is_file():
            write_json(file, {"tasks": measure()})
        found: list[dict[str, float]] = self._read(file).get("tasks", [])
        return found

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        try:
            value = read_json(file)
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
        except (OSError, ValueError) as problem:
            raise OutputError(
                f"{file} is damaged ({problem}); choose another folder, or remove it"
            ) from problem
        return value

    def finished(self, tasks: Sequence[Task]) -> list[TaskReport]:
        """Return the reports of the first of ``tasks`` that are finished, in order.

        Raises:
            OutputError: for damaged reports or those of other requests, and where one was revoked since.
        """
        reports: list[TaskReport] = []
        revoked = self._read(file) if (file := self.path / REVOKED).is_file() else {}
        if back := [f"{task.name} (on {revoked[task.name]})" for task in tasks if task.name in revoked]:
            raise OutputError(
                f"{self.path} holds a run of which {', '.join(back)} was revoked, and going on would bring "
                "that back; to forget it again, choose another folder"
            )
        for task in tasks:
            if not (file := self.path / f"{task.name}.json").is_file():
                break
            try:
                report = from_mapping(TaskReport, self._read(file))
            except (MiniGSLoRAError, TypeError) as problem:
                raise OutputError(
                    f"{file} is damaged ({problem}); remove it to serve {task.name} anew"
                ) from None
            if report.forget != task.forget:
                raise OutputError(
                    f"{file} is of another request; choose another folder, or remove {self.path}"
                )
            reports.append(report)
        return reports

    def keep(self, report: TaskReport, state: Mapping[str, Tensor]) -> None:
        """Write a finished task: its state first, then the report that marks it finished."""
        save_tensors(self.path / f"{report.task}.safetensors", state, {"task": report.task})
        write_json(self.path / f"{report.task}.json", asdict(report))

    def state(self, task: str) -> dict[str, Tensor]:
        """Return the saved state of a task."""
        return load_tensors(self.path / f"{task}.safetensors")[0]

    def keep_log(self, finished: Sequence[str]) -> None:
        """Keep the log's lines of finished tasks only: one that was stopped begins anew."""
        log = self.path / "metrics.jsonl"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if line.startswith(tuple(f'{{"task": "{t}",' for t in finished))]
        if kept != lines:
            write_text(log, "".join(kept))

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as problem:
            raise OutputError(
                f"cannot write {self.path / 'metrics.jsonl'}: {problem.strerror}. The finished "
                "tasks are kept; free some space and start the same run again"
            ) from problem


def forget_sequence(
    problem: Problem,
    method: Method,
    plan: Plan,
    seed: int = 0,
    out: Path | None = None,
    watch: bool = False,
    on_epoch: EpochLog = lambda task, epoch, terms: None,
    on_task: Callable[[TaskReport], None] = lambda report: None,
    origin: Mapping[str, str] | None = None,
) -> list[TaskReport]:
    """Serve a plan's requests one after another; the model is edited in place.

    Each task draws from streams of its own, keyed by (seed, task): a run stopped and resumed from ``out``
    gives the numbers of one that was not stopped. Where a request fails or is interrupted, the model is put
    back to what it was before that request.

    Args:
        problem: the benchmark; its model must be as it was when a started run began. Adapters of
            earlier requests stay; "before" is the model without any.
        method: how to forget.
        plan: the requests and their images.
        seed: of initialisation, data order and augmentation.
        out: folder for checkpoints and reports; finished tasks found there are not run again. No other
            process may be at work in it.
        watch: whether to show progress.
        on_epoch: called after each epoch.
        on_task: called after each task, resumed ones included, once the model has forgotten it.
        origin: :func:`origin_of` the model that the run began with, where it has moved on since.

    Returns:
        One report per task.

    Raises:
        OutputError: where ``out`` holds another run, or another process is at work there.
    """
    check_defined(problem, method, plan.tasks)
    if out is None:
        return _serve_all(problem, method, plan, seed, None, watch, on_epoch, on_task)
    with alone_in(out):
        folder = RunFolder(out, identity_of(problem, method, plan, seed, origin or origin_of(problem.model)))
        return _serve_all(problem, method, plan, seed, folder, watch, on_epoch, on_task)


def identity_of(
    problem: Problem, method: Method, plan: Plan, seed: int, origin: Mapping[str, str]
) -> dict[str, Any]:
    """Return all that a run's numbers depend on."""
    return {
        "method": method.name,
        "config": method.settings,
        "training": asdict(method.training),
        "seed": seed,
        "plan": [asdict(task) for task in plan.tasks],
        **origin,
        "model": structure_hash(problem.model),
        "library": library_fingerprint(),
        **problem.identity(),
    }


def origin_of(model: nn.Module) -> dict[str, str]:
    """Return hashes of the weights and of the adapters that a run begins with."""
    return {"weights": weights_hash(model), "adapters": adapters_hash(model)}


def _serve_all(
    problem: Problem,
    method: Method,
    plan: Plan,
    seed: int,
    folder: RunFolder | None,
    watch: bool,
    on_epoch: EpochLog,
    on_task: Callable[[TaskReport], None],
) -> list[TaskReport]:
    def measure() -> list[dict[str, float]]:
        with bypassed(problem.model):
            return problem.evaluate(plan.tasks)

    before = folder.before(measure) if folder else measure()
    reports = folder.finished(plan.tasks) if folder else []
    if folder:
        folder.keep_log([report.task for report in reports])
    if folder and reports:
        _resume(problem, method, folder, reports, watch)
    for report in reports:
        on_task(report)
    for task, then in list(zip(plan.tasks, before, strict=True))[len(reports) :]:
        with _put_back(problem, method, task):
            reports.append(_serve(problem, method, task, seed, then, folder, watch, on_epoch))
        on_task(reports[-1])
    return reports


def _resume(
    problem: Problem, method: Method, folder: RunFolder, reports: Sequence[TaskReport], watch: bool
) -> None:
    """Put the state of a stopped run in place; it holds the adapters of earlier requests, too."""
    state = folder.state(reports[-1].task)
    if method.revocable:
        for name in adapter_names(problem.model):
            revoke(problem.model, name)
    method.load_state_dict(problem, state)
    if watch:
        tqdm.write(f"taken from an earlier run in {folder.path}: {', '.join(r.task for r in reports)}")


@contextlib.contextmanager
def _put_back(problem: Problem, method: Method, task: Task) -> Iterator[None]:
    """Put the model back to what it was before ``task``, should it fail or be interrupted."""
    model, names, plain = problem.model, adapter_names(problem.model), not wrapped(problem.model)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    state = None if method.revocable else {k: v.detach().clone() for k, v in model.state_dict().items()}
    try:
        yield
    except BaseException:
        if state is not None:
            model.load_state_dict(state)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(flags.get(name, parameter.requires_grad))
        elif task.name in adapter_names(model) and task.name not in names:
            revoke(model, task.name)
        if plain:
            remove(model)
        raise


def _serve(
    problem: Problem,
    method: Method,
    task: Task,
    seed: int,
    before: Mapping[str, float],
    folder: RunFolder | None,
    watch: bool,
    on_epoch: EpochLog,
) -> TaskReport:
    def log(task: Task, epoch: int, terms: Mapping[str, float]) -> None:
        if folder:
            folder.log({"task": task.name, "epoch": epoch, **terms})
        on_epoch(task, epoch, terms)

    began = time.perf_counter()
    terms = train_task(problem, method, task, Streams(seed, task.name), watch, log)
    seconds = time.perf_counter() - began
    report = TaskReport(
        task=task.name,
        forget=task.forget,
        metrics=with_h(before, problem.evaluate([task])[0]),
        figures=method.describe(problem, task),
        terms=terms,
        seconds=seconds,
        date=today(),
    )
    if folder:  # the log first: a kept request is finished, and is not logged again
        folder.log({"task": task.name, **report.metrics, **report.figures})
        folder.keep(report, method.state_dict(problem))
    return report
