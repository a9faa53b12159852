"""Which classes are forgotten when, and which images are at hand: one index file for all methods.

A plan is fixed by (data set, setting, seed), so that every method sees the same requests and the same
images. Source: arXiv 2501.09705, section 5.1; the published class order is Python's ``random`` seeded
1337, and requests take classes from the end of it.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minigslora.datasets.images import Split, Splits
from minigslora.errors import ConfigError, DataError, FewImages
from minigslora.files import read_json, write_json
from minigslora.rng import Streams
from minigslora.text import some

PUBLISHED_ORDER = 1337


@dataclass(frozen=True)
class Task:
    """One erasure request and the images at hand for it.

    Attributes:
        name: "task1", "task2", …
        index: its place in the sequence, from 0.
        forget: class ids to forget now.
        old: class ids forgotten by earlier tasks.
        retain: class ids to keep, those without images included.
        missing: retained class ids without a single image.
        retain_images: indices of retained training images, for replay.
        forget_images: indices of training images of the classes to forget.
        foreign_images: indices of foreign images, which show no class at all.
    """

    name: str
    index: int
    forget: tuple[int, ...]
    old: tuple[int, ...]
    retain: tuple[int, ...]
    missing: tuple[int, ...] = ()
    retain_images: tuple[int, ...] = ()
    forget_images: tuple[int, ...] = ()
    foreign_images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where training is. ``step`` counts within the epoch, ``epoch`` within the task, from 0."""

    task: int = 0
    epoch: int = 0
    epochs: int = 1
    step: int = 0
    steps: int = 1


@dataclass(frozen=True)
class Setting:
    """What is asked and how much data there are.

    Attributes:
        requests: how many classes each request forgets.
        ratio: share of each class's training images at hand, drawn anew for each task.
        shots: images of each class at hand instead; 0 for ``ratio``.
        missing: how many retained classes have no image at all.
        order: seed of the published class order, or None for one drawn from the run's seed.
        replay: whether there are images of retained classes at all.
        foreign: how many images that show no class are at hand.
        shuffle: whose generator that seed is for: Python's, or NumPy's as the released COCO code.
        preset: of another benchmark than faces, as "imagenet100/ratio"; "" for that of its kind.
    """

    requests: tuple[int, ...] = (20, 20, 20, 20)
    ratio: float = 0.1
    shots: int = 0
    missing: int = 0
    order: int | None = None
    replay: bool = True
    foreign: int = 0
    shuffle: Literal["python", "numpy"] = "python"
    preset: str = ""

    def __post_init__(self) -> None:
        if not self.requests or min(self.requests) < 1:
            raise ConfigError(f"requests = {self.requests}; each request forgets at least one class")
        if not 0 < self.ratio <= 1:
            raise ConfigError(
                f"ratio = {self.ratio}; expected a share above 0 and at most 1, as 0.1 for a tenth"
            )
        for key in ("shots", "missing", "foreign"):
            if (value := getattr(self, key)) < 0:
                raise ConfigError(f"{key} = {value}; expected 0 for none, or more")

    @property
    def kind(self) -> str:
        """The preset it takes, a name that :func:`minigslora.recipes.setting` knows."""
        if self.preset:
            return self.preset
        if len(self.requests) == 1 and not self.missing:
            return "single-shots" if self.shots else "single"
        few, absent = "shots" if self.shots else "", "missing" if self.missing else ""
        return "-".join(filter(None, (absent, few))) or "ratio"


@dataclass(frozen=True)
class Plan:
    """A sequence of tasks with their images; what an index file holds."""

    data: str
    seed: int
    tasks: tuple[Task, ...]

    def save(self, path: Path) -> None:
        """Write the index file."""
        write_json(path, {"data": self.data, "seed": self.seed, "tasks": list(map(asdict, self.tasks))})

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read an index file."""
        value = read_json(path)
        return cls(value["data"], value["seed"], tuple(map(_task, value["tasks"])))


def _task(value: dict[str, Any]) -> Task:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    return Task(**fields)


def class_order(
    classes: int, seed: int, published: int | None = None, shuffle: Literal["python", "numpy"] = "python"
) -> list[int]:
    """Return the order of classes whose end is forgotten first."""
    if published is not None and shuffle == "numpy":
        drawn: list[int] = np.random.RandomState(published).permutation(classes).tolist()
        return drawn
    order = list(range(classes))
    stream = random.Random(published) if published is not None else Streams(seed).python("classes")
    stream.shuffle(order)
    return order


def plan(data: Splits[Any], setting: Setting, seed: int) -> Plan:
    """Return the published protocol's plan: requests of fixed sizes from the end of a class order.

    Raises:
        ConfigError: where the requests leave no class to retain.
        DataError: where a class has too few images.
    """
    total, asked = len(data.classes), sum(setting.requests)
    if asked + setting.missing >= total:
        raise ConfigError(
            f"{asked} classes to forget and {setting.missing} without images leave none of "
            f"{total} to retain; ask for fewer"
        )
    order = class_order(total, seed, setting.order, setting.shuffle)
    requests, end = [], total
    for size in setting.requests:
        requests.append(order[end - size : end])
        end -= size
    return plan_requests(data, requests, setting, seed, missing=order[: setting.missing])


def plan_requests(
    data: Splits[Any],
    requests: Sequence[Sequence[int]],
    setting: Setting,
    seed: int,
    missing: Sequence[int] = (),
    old: Sequence[int] = (),
    start: int = 0,
) -> Plan:
    """Return a plan for explicit requests, given as class ids.

    Args:
        data: the data set.
        requests: the classes of each request.
        setting: which share of the images is at hand.
        seed: of the images drawn.
        missing: retained classes without images.
        old: classes that the model's earlier requests forgot.
        start: the first request's place in the sequence, from 0.

    Raises:
        DataError: for an empty request, a class requested twice or already forgotten, all classes
            requested, an empty split, or fewer images than shots.
    """
    check_requests(data, requests, old)
    streams, tasks, before = Streams(seed, "plan"), list[Task](), tuple(old)
    for index, request in enumerate(requests, start):
        name, gone = f"task{index + 1}", {*before, *request}
        kept = tuple(c for c in range(len(data.classes)) if c not in gone)
        seen = [c for c in kept if c not in missing] if setting.replay else []
        stream = streams.under(name)
        images = {
            "missing": tuple(missing) if setting.replay else kept,
            "retain_images": draw(data.train, seen, setting, stream.under("retain")),
            "forget_images": draw(data.train, request, setting, stream.under("forget")),
            "foreign_images": draw_foreign(data, setting, stream),
        }
        tasks.append(Task(name, index, tuple(request), before, kept, **images))
        before += tuple(request)
    return Plan(data.name, seed, tuple(tasks))


def without(plan: Plan, name: str, back: Collection[int]) -> Plan:
    """Return a plan as it is after the request ``name`` was taken back: its classes ``back`` are kept."""
    left = [task for task in plan.tasks if task.name != name]
    after = [
        replace(
            task,
            old=tuple(c for c in task.old if c not in back),
            retain=tuple(sorted({*task.retain, *(set(back) & set(task.old))})),
        )
        for task in left
    ]
    return replace(plan, tasks=tuple(after))


def check_requests(data: Splits[Any], requests: Sequence[Sequence[int]], old: Sequence[int] = ()) -> None:
    """Raise a :class:`DataError` for requests that cannot be served after ``old`` was forgotten."""
    if not requests:
        raise DataError("no request was given; name at least one class to forget")
    seen: dict[int, int] = {}
    for number, request in enumerate(requests, 1):
        if not request:
            raise DataError(f"request {number} names no class; name at least one")
        for c in request:
            if not 0 <= c < len(data.classes):
                raise DataError(
                    f"request {number} names class {c}, but {data.name} has classes 0 to "
                    f"{len(data.classes) - 1}"
                )
            name = data.classes[c]
            if c in old:
                raise DataError(
                    f"request {number} names {name!r}, which the model already forgot; leave it out"
                )
            if seen.get(c) == number:
                raise DataError(f"request {number} names {name!r} twice; name it once")
            if c in seen:
                raise DataError(
                    f"request {number} names {name!r}, which request {seen[c]} already forgot; leave it out"
                )
            seen[c] = number
    if len(gone := seen.keys() | set(old)) == len(data.classes):
        raise DataError(f"the requests name all {len(gone)} classes of {data.name}; at least one must stay")


def draw(split: Split, classes: Sequence[int], setting: Setting, streams: Streams) -> tuple[int, ...]:
    """Return indices of the images at hand: a share of each class's, or a few per class.

    An image with objects of several classes may be drawn for each, and is at hand once.
    """
    if len(split) == 0:
        raise DataError("the training split is empty; put images in its class folders")
    chosen: list[int] = []
    for c in classes:
        rows = split.of_classes([c]).tolist()
        count = setting.shots or share(setting.ratio, len(rows))
        if len(rows) < count:
            raise DataError(
                f"class {split.classes[c]!r} has {len(rows)} training images, but {count} are "
                "asked for; lower shots, or add images"
            )
        chosen += sorted(streams.python(split.classes[c]).sample(rows, count))
    return tuple(dict.fromkeys(chosen))


def share(ratio: float, images: int) -> int:
    """Return how many of a class's images a ratio takes: one at least."""
    return max(1, round(ratio * images))


def warn_of_single_images(split: Split, old: Collection[int], setting: Setting) -> None:
    """Warn (:class:`FewImages`) where the ratio takes one image of a class that has more.

    One picture says little of what is to be kept of a class. Who asks for one shot knows.

    Args:
        split: the training images.
        old: classes that earlier requests forgot.
        setting: what is asked.
    """
    if setting.shots:
        return
    counts = {c: len(split.of_classes([c])) for c in range(len(split.classes)) if c not in old}
    single = [split.classes[c] for c, n in counts.items() if n > 1 and share(setting.ratio, n) == 1]
    if single:
        few = min(4, min(counts.values()))
        shots = f", or shots ({few} of each class)" if few > 1 else ""
        warnings.warn(
            f"ratio = {setting.ratio:g} takes a single training image of {len(single)} of {len(counts)} "
            f"classes ({some(single)}), and the model may unlearn what is to be kept; give a larger ratio "
            f"(1 takes all images){shots}",
            FewImages,
            stacklevel=3,
        )


def draw_foreign(data: Splits[Any], setting: Setting, streams: Streams) -> tuple[int, ...]:
    """Return indices of the foreign images at hand."""
    there = len(data.foreign) if data.foreign is not None else 0
    if setting.foreign > there:
        raise DataError(
            f"{setting.foreign} foreign images are asked for, but {data.name} has {there}; lower foreign, "
            "or give the data set more of them (dataclasses.replace(data, foreign=images))"
        )
    return tuple(sorted(streams.python("foreign").sample(range(there), setting.foreign)))


def describe(setting: Setting) -> dict[str, Any]:
    """Return the setting as plain values."""
    return asdict(setting)


@dataclass
class TaskReport:
    """What one task gave: its classes, its metrics in percent, its figures, its time and its date."""

    task: str
    forget: tuple[int, ...]
    metrics: dict[str, float]
    figures: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    date: str = ""

    def row(self) -> dict[str, Any]:
        """Return a flat row for a table."""
        times = {"seconds": round(self.seconds, 2)}
        return {"task": self.task, **self.metrics, **self.figures, **times}
