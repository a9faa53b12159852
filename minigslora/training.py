"""The one training loop: any method on any problem.

Indices for an epoch are drawn at once and stay on the device, one forward pass serves all roles of a batch,
and losses are gathered as tensors, so that a step never waits for the device. They are read once an epoch,
where a loss that is not finite stops the run at the last good state.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn

from minigslora.config import parse_fields
from minigslora.device import deterministic, seeded
from minigslora.errors import ConfigError, DataError, ModelError, TrainingDiverged
from minigslora.methods.base import Method, ParamGroup, Step, Training
from minigslora.problems.base import Problem, Role
from minigslora.progress import bar
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task

EpochLog = Callable[[Task, int, Mapping[str, float]], None]
"""Called after each epoch with the task, the epoch from 0, and the mean of each term and of "loss"."""


def learning_rate(training: Training, progress: Progress) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to ``lr_min``, or a constant.

    By epoch, all steps of an epoch have one rate, and the warm-up comes before the cosine. By step, the
    warm-up is a factor on the cosine, which falls to a two-thousandth of the peak.
    """
    if training.schedule == "cosine by step":
        step = progress.epoch * progress.steps + progress.step
        warm = min(1.0, (step + 1) / max(1, training.warmup_epochs * progress.steps))
        done = step / (training.epochs * progress.steps)
        return training.lr * warm * (0.0005 + 0.9995 * 0.5 * (1 + math.cos(math.pi * done)))
    if progress.epoch < training.warmup_epochs:
        return training.lr * (progress.epoch + 1) / (training.warmup_epochs + 1)
    if training.schedule == "constant":
        return training.lr
    span = max(1, training.epochs - training.warmup_epochs)
    done, low = (progress.epoch - training.warmup_epochs) / span, min(training.lr_min, training.lr)
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
        images: dict[Role, tuple[int, ...]] = {
            "retain": task.retain_images,
            "forget": task.forget_images,
            "retain2": task.retain_images,
            "foreign": task.foreign_images,
        }
        self.pools = {role: torch.tensor(i, dtype=torch.long) for role, i in images.items() if i}
        if not self.pools:
            raise DataError(f"{task.name} has no image to train on; give retained or forgotten ones")
        self.streams = {role: streams(f"order/{role}") for role in self.pools}
        asked = dict.fromkeys(images, training.batch_retain) | {"forget": training.batch_forget}
        self.sizes = {role: min(asked[role], len(pool)) for role, pool in self.pools.items()}
        leading: Role = next(r for r in ("retain", "foreign", "forget") if r in self.pools)
        once = len(self.pools[leading]) / self.sizes[leading]
        once = math.floor(once) if training.whole_batches else math.ceil(once)
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
        The mean of each weighted loss term over the last epoch, taken during it, before any averaging.

    Raises:
        ConfigError: for a number of the method's training that cannot be.
        TrainingDiverged: where a term is not finite; the trained parameters are then those of the
            last good epoch.
    """
    method.training = parse_fields(method.training)
    check_defined(problem, method, [task])
    terms: dict[str, float] = {}
    seed = streams("global").initial_seed()  # of dropout
    with seeded(seed, problem.device), deterministic(method.training.deterministic):
        problem.begin(task)
        groups = method.begin(problem, task, streams)
        if groups:
            seen = method.images(problem, task)
            with problem.compiled() if method.training.compile else contextlib.nullcontext():
                terms = train(problem, method, seen, groups, streams, watch, on_epoch)
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
        The weighted loss terms and their sum, "loss", detached, on the device.
    """
    batch = problem.batch(wanted, moves)
    with problem.autocast():
        terms = method.loss(Step(method, problem, batch, progress))
        loss = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if method.training.clip:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, method.training.clip)
    method.before_update()
    optimizer.step()
    method.after_step(optimizer.param_groups[0]["lr"], progress)
    return {name: value.detach() for name, value in {**terms, "loss": loss}.items()}


def train(
    problem: Problem,
    method: Method,
    task: Task,
    groups: list[ParamGroup],
    streams: Streams,
    watch: bool = False,
    on_epoch: EpochLog = lambda task, epoch, terms: None,
) -> dict[str, float]:
    """Run the epochs of one request, or of pre-training, on what is opened; see :func:`train_task`."""
    training = method.training
    order = EpochOrder(task, training, streams, problem.device)
    optimizer = make_optimizer(groups, training)
    moves = streams("augment", device=problem.device) if training.augment else None
    trained = [p for group in groups for p in group["params"]]
    _require_precise(trained)
    good, average = LastGood(problem.model, trained), Average(trained)
    terms: dict[str, float] = {}
    passes = bar(range(training.epochs), task.name, watch, leave=False)
    for epoch in passes:
        problem.model.train(training.dropout)
        taken: list[dict[str, Tensor]] = []
        rows = order.epoch()
        for step in range(order.steps):
            progress = Progress(task.index, epoch, training.epochs, step, order.steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, progress)
            wanted = {r: rows[r][step] for r in method.wants(progress) if r in rows}
            if step + 1 < order.steps:
                problem.ahead({r: rows[r][step + 1] for r in wanted})
            taken.append(train_step(problem, method, optimizer, wanted, progress, moves))
            if epoch >= training.epochs - training.averaged_epochs:
                average.add()
        terms = good.keep_or_put_back(taken, f"{task.name}, epoch {epoch + 1}", first=epoch == 0)
        passes.set_postfix({k: f"{v:.3g}" for k, v in terms.items()})
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


class LastGood:
    """The last good state of what is trained, and of the model's buffers, to go back to."""

    def __init__(self, model: nn.Module, trained: Sequence[nn.Parameter]) -> None:
        self.live = [*(p.detach() for p in trained), *model.buffers()]
        self.good = [value.clone() for value in self.live]

    @torch.no_grad()
    def keep_or_put_back(self, taken: list[dict[str, Tensor]], where: str, first: bool) -> dict[str, float]:
        """Read an epoch's loss terms; keep its state if all is finite, else put the last good one back.

        Returns:
            The mean of each term over the steps.

        Raises:
            TrainingDiverged: where anything is not finite.
        """
        finite = torch.stack([value.isfinite().all() for value in self.live]).all()
        gathered = [value.float() for terms in taken for value in terms.values()]
        values = torch.stack([*gathered, finite.float()]).tolist()  # the epoch's only wait for the device
        names = [name for terms in taken for name in terms]
        broken = [name for name, value in zip(names, values, strict=False) if not math.isfinite(value)]
        if broken or not values[-1]:
            for live, good in zip(self.live, self.good, strict=True):
                live.copy_(good)
            # The first is the cause: once a step is taken on it, every term is broken.
            what = f"the loss term {broken[0]!r}" if broken else "a trained parameter"
            advice = "the model was put back to its last good state. Lower lr, or that term's weight"
            if first and not all(map(math.isfinite, values[: len(taken[0])])):
                advice = (
                    "this was so before any update, so lr is not at fault; check the weights given (NaN "
                    "or huge numbers?), and the mean and std that the images are normalised by"
                )
            raise TrainingDiverged(f"{where}: {what} is not finite; {advice}")
        for live, good in zip(self.live, self.good, strict=True):
            good.copy_(live)
        totals: dict[str, float] = {}
        for name, value in zip(names, values, strict=False):
            totals[name] = totals.get(name, 0.0) + value / len(taken)
        return totals
