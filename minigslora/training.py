"""The one training loop, and the sequence of tasks it serves.

Any method on any problem: indices for an epoch are drawn at once and stay on the device, one forward
pass serves all roles of a batch, and losses are gathered as tensors, so that a step never waits for
the device; they are read once an epoch, where a loss that is not finite stops the run at the last
good state. A sequence is written task by task and goes on after the last finished one.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn
from tqdm import tqdm

from minigslora.config import from_mapping, parse_fields
from minigslora.device import deterministic, seeded
from minigslora.errors import (
    ConfigError,
    DataError,
    MiniGSLoRAError,
    ModelError,
    OutputError,
    TrainingDiverged,
)
from minigslora.files import alone_in, load_tensors, read_json, save_tensors, write_json, write_text
from minigslora.fingerprint import adapters_hash, library_fingerprint, structure_hash, weights_hash
from minigslora.ledger import today
from minigslora.lora import adapter_names, bypassed, remove, revoke, wrapped
from minigslora.methods.base import Method, ParamGroup, Training
from minigslora.metrics import with_h
from minigslora.problems.base import Problem, Role
from minigslora.rng import Streams
from minigslora.tasks import Plan, Progress, Task, TaskReport

EpochLog = Callable[[Task, int, Mapping[str, float]], None]
"""Called after each epoch with the task, the epoch from 0, and the mean of each loss term."""


def learning_rate(epoch: int, training: Training) -> float:
    """Return the rate of ``epoch``: linear warm-up, then a cosine by epoch to ``lr_min``."""
    if epoch < training.warmup_epochs:
        return training.lr * (epoch + 1) / (training.warmup_epochs + 1)
    if training.schedule == "constant":
        return training.lr
    span = max(1, training.epochs - training.warmup_epochs)
    done = (epoch - training.warmup_epochs) / span
    low = min(training.lr_min, training.lr)
    return low + (training.lr - low) * 0.5 * (1 + math.cos(math.pi * done))


def check_defined(problem: Problem, method: Method, tasks: Sequence[Task]) -> None:
    """Raise a :class:`ConfigError` where ``method`` or a task's foreign images are not for ``problem``."""
    if problem.kind not in method.problems:
        raise ConfigError(
            f"{method.name} is not defined for {problem.kind}, only for {' and '.join(method.problems)}; "
            "choose another method, such as gslora"
        )
    if method.training.deterministic and problem.kind == "detection" and problem.device.type == "cuda":
        raise ConfigError(
            "deterministic = true: a detector's attention has no such kernel on CUDA; use 'cpu'"
        )
    if problem.kind != "classification" and any(task.foreign_images for task in tasks):
        raise ConfigError(f"foreign images are not defined for {problem.kind}; leave foreign at 0")


class EpochOrder:
    """Which images each step of each epoch takes, by role.

    An epoch is one pass over the retained images (the foreign ones where there are none, those to forget
    where there is nothing else), or more where the least number of updates asks for it;
    every role's images are gone through in a fresh random order again and again, so that all steps have
    the same size.
    """

    def __init__(self, task: Task, training: Training, streams: Streams, device: torch.device) -> None:
        retain = torch.tensor(task.retain_images, dtype=torch.long)
        forget = torch.tensor(task.forget_images, dtype=torch.long)
        foreign = torch.tensor(task.foreign_images, dtype=torch.long)
        pools: dict[Role, Tensor] = {
            "retain": retain,
            "forget": forget,
            "retain2": retain,
            "foreign": foreign,
        }
        self.pools = {role: pool for role, pool in pools.items() if len(pool)}
        if not self.pools:
            raise DataError(f"{task.name} has no image to train on; give retained or forgotten ones")
        self.streams = {role: streams(f"order/{role}") for role in pools}
        asked: dict[Role, int] = {
            "retain": training.batch_retain,
            "forget": training.batch_forget,
            "retain2": training.batch_retain,
            "foreign": training.batch_retain,
        }
        self.sizes = {role: min(asked[role], len(pool)) for role, pool in self.pools.items()}
        leading: Role = "retain" if len(retain) else "foreign" if len(foreign) else "forget"
        once = math.ceil(len(self.pools[leading]) / self.sizes[leading])
        self.steps = max(once, math.ceil(training.updates / max(1, training.epochs)))
        self.device = device

    def epoch(self) -> dict[Role, Tensor]:
        """Return the indices of the next epoch by role, each (steps, batch), on the device."""
        return {role: self._cycle(role).to(self.device) for role in self.pools}

    def _cycle(self, role: Role) -> Tensor:
        pool, size = self.pools[role], self.sizes[role]
        rounds = math.ceil(self.steps * size / len(pool))
        orders = [torch.randperm(len(pool), generator=self.streams[role]) for _ in range(rounds)]
        return pool[torch.cat(orders)[: self.steps * size]].view(self.steps, size)


def make_optimizer(groups: list[ParamGroup], training: Training) -> torch.optim.Optimizer:
    """Return the optimiser of a task, fused where the device has it."""
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=training.lr, weight_decay=training.weight_decay, fused=True)


class Average:
    """The mean of trained parameters over updates; what a run of noisy steps was moving around.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992. A place that
    the last update left at zero stays at zero, so that pruned groups stay pruned.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.means: list[Tensor] = []
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Take in the parameters as they are now."""
        now = [p.detach() for p in self.parameters]
        if self.count:
            get_swa_multi_avg_fn()(self.means, now, self.count)
        else:
            self.means = [p.clone() for p in now]
        self.count += 1

    @torch.no_grad()
    def put(self) -> None:
        """Write the mean into the parameters, where there is one."""
        if self.count:
            for parameter, mean in zip(self.parameters, self.means, strict=True):
                parameter.copy_(torch.where(parameter == 0, parameter, mean))


def train_task(
    problem: Problem,
    method: Method,
    task: Task,
    streams: Streams,
    watch: bool = False,
    on_epoch: EpochLog = lambda task, epoch, terms: None,
) -> dict[str, float]:
    """Serve one request with ``method``; the model is edited in place.

    Args:
        problem: the benchmark and its live model.
        method: how to forget.
        task: the request and its images.
        streams: the task's random streams.
        watch: whether to show progress.
        on_epoch: called after each epoch.

    Returns:
        The mean of each loss term over the last epoch, of the parameters as they went, not of an average.

    Raises:
        ConfigError: for a number of the method's training that cannot be.
        TrainingDiverged: where a term is not finite; the trained parameters are then those of the
            last good epoch.
    """
    parse_fields(method.training)
    check_defined(problem, method, [task])
    terms: dict[str, float] = {}
    dropout = seeded(streams("global").initial_seed(), problem.device)
    with dropout, deterministic(method.training.deterministic):
        problem.begin(task)
        groups = method.begin(problem, task, streams)
        if groups:
            seen = method.images(problem, task)
            with problem.compiled() if method.training.compile else contextlib.nullcontext():
                terms = _train(problem, method, seen, groups, streams, watch, on_epoch)
        method.end(problem, task)
    return terms


def train_step(
    problem: Problem,
    method: Method,
    optimizer: torch.optim.Optimizer,
    wanted: Mapping[Role, Tensor],
    progress: Progress,
    moves: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Take one step: gather the batch, forward, backward, update; nothing in it waits for the device.

    Args:
        problem: the benchmark and its live model.
        method: how to forget.
        optimizer: of the method's parameter groups.
        wanted: indices of training images by role, on the device.
        progress: where training is.
        moves: stream of the augmentation; None for none.

    Returns:
        The loss terms, detached, on the device.
    """
    batch = problem.batch(wanted, moves)
    with problem.autocast():
        found = method.step(problem, batch, progress)
    optimizer.zero_grad(set_to_none=True)
    found["loss"].backward()
    if method.training.clip:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, method.training.clip)
    optimizer.step()
    method.after_step(optimizer.param_groups[0]["lr"], progress)
    return {name: value.detach() for name, value in found.items()}


def _train(
    problem: Problem,
    method: Method,
    task: Task,
    groups: list[ParamGroup],
    streams: Streams,
    watch: bool,
    on_epoch: EpochLog,
) -> dict[str, float]:
    training = method.training
    order = EpochOrder(task, training, streams, problem.device)
    optimizer = make_optimizer(groups, training)
    moves = streams("augment", device=problem.device) if training.augment else None
    trained = [p for group in groups for p in group["params"]]
    _require_precise(trained)
    good, average = [p.detach().clone() for p in trained], Average(trained)
    terms: dict[str, float] = {}
    bar = tqdm(range(training.epochs), desc=task.name, disable=None if watch else True, leave=False)
    for epoch in bar:
        problem.model.train(training.dropout)
        lr = learning_rate(epoch, training)
        for group in optimizer.param_groups:
            group["lr"] = lr
        taken: list[dict[str, Tensor]] = []
        rows = order.epoch()
        for step in range(order.steps):
            progress = Progress(task.index, epoch, training.epochs, step, order.steps)
            wanted = {r: rows[r][step] for r in method.wants(progress) if r in rows}
            taken.append(train_step(problem, method, optimizer, wanted, progress, moves))
            if epoch >= training.epochs - training.averaged_epochs:
                average.add()
        terms = _read(taken, trained, good, task, epoch)
        bar.set_postfix({k: f"{v:.3g}" for k, v in terms.items()})
        on_epoch(task, epoch, terms)
    average.put()
    return terms


def _require_precise(trained: Sequence[nn.Parameter]) -> None:
    """Raise a :class:`ModelError` for weights in half precision, in which small steps vanish."""
    if low := {p.dtype for p in trained} & {torch.bfloat16, torch.float16}:
        raise ModelError(
            f"the method trains weights in {low.pop()}, where most of its steps would be rounded away; give "
            "the model in float32 (model.float()), or choose a method with adapters, which are float32"
        )


def _read(
    taken: list[dict[str, Tensor]],
    trained: list[nn.Parameter],
    good: list[Tensor],
    task: Task,
    epoch: int,
) -> dict[str, float]:
    """Read an epoch's loss terms; keep its parameters if finite, else put the last good ones back."""
    finite = torch.stack([p.detach().isfinite().all() for p in trained]).all()
    gathered = [value.float() for terms in taken for value in terms.values()]
    values = torch.stack([*gathered, finite.float()]).tolist()  # the epoch's only wait for the device
    names = [name for terms in taken for name in terms]
    broken = [name for name, value in zip(names, values, strict=False) if not math.isfinite(value)]
    if broken or not values[-1]:
        with torch.no_grad():
            for parameter, last in zip(trained, good, strict=True):
                parameter.copy_(last)
        # The first is the cause: once a step is taken on it, every term is broken.
        what = f"the loss term {broken[0]!r}" if broken else "a trained parameter"
        advice = "the model was put back to its last good state. Lower lr, or that term's weight"
        if epoch == 0 and not all(map(math.isfinite, values[: len(taken[0])])):
            advice = (
                "this was so before any update, so lr is not at fault; check the weights given (NaN "
                "or huge numbers?), and the mean and std that the images are normalised by"
            )
        raise TrainingDiverged(f"{task.name}, epoch {epoch + 1}: {what} is not finite; {advice}")
    with torch.no_grad():
        for last, parameter in zip(good, trained, strict=True):
            last.copy_(parameter)
    totals: dict[str, float] = {}
    for name, value in zip(names, values, strict=False):
        totals[name] = totals.get(name, 0.0) + value / len(taken)
    return totals


# --- a sequence of tasks, and its files -------------------------------------------------------------


BEGUN = frozenset({"run.json", "before.json", "finalized.json", ".lock", ".holder"})
"""Files of a run that has come to nothing yet."""


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
        """Return the reports of the first of ``tasks`` that are finished, in order."""
        reports: list[TaskReport] = []
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
        identity = {
            "method": method.name,
            "config": asdict(method.config),
            "training": asdict(method.training),
            "seed": seed,
            "plan": [asdict(task) for task in plan.tasks],
            **(origin or origin_of(problem.model)),
            "model": structure_hash(problem.model),
            "library": library_fingerprint(),
            **problem.identity(),
        }
        folder = RunFolder(out, identity)
        return _serve_all(problem, method, plan, seed, folder, watch, on_epoch, on_task)


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
