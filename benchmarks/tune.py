"""Settles a method's settings on a validation split, one setting after another.

    python benchmarks/tune.py l2 --grid lr=1e-4,3e-4,1e-3 --grid weight=0.01,0.1,1 \
        --data mini-faces-tuning --weights tuning.safetensors --tasks 2 --set epochs=5

    python benchmarks/tune.py gslora++ --grid beta=[0.03],[0.1] --data mini-scenes --classes 3 --seed 100

Each ``--grid`` is searched in turn with the best values of those before it; the best has the highest H
(of AP50 in detection), mean over the requests. Figures are those of the validation split: the data's test
split is not loaded into the problem at all. A line per run is printed, and appended to ``--out`` as JSON.
What is found becomes a default of the method's settings by hand.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from torch import nn

from minigslora import methods
from minigslora.cli import parse_pairs
from minigslora.datasets import registry
from minigslora.datasets.detection import DetectionData
from minigslora.datasets.images import DataSet
from minigslora.errors import ConfigError, MiniGSLoRAError, TrainingDiverged
from minigslora.models import checkpoint
from minigslora.problems.detection import CHOICES, Detection
from minigslora.reproduction import benchmark
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, plan

METRICS = ("h", "acc_r", "acc_f", "acc_o", "acc_m")
OF_BOXES = ("h50", "ap50_r_before", "ap50_r", "ap50_f", "ap50_o")


def measured(
    model: nn.Module,
    card: checkpoint.Card,
    data: DataSet | DetectionData,
    asked: Setting,
    options: argparse.Namespace,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Serve the requests with one configuration; return metrics on the validation split, and seconds.

    Each metric is the mean over the requests, and in detection the list of them, too; where training
    diverged, H is 0 and there is no other.
    """
    method = methods.create(options.method, setting=asked.kind, **settings)
    problem = benchmark.problem_of(copy.deepcopy(model), card, data)
    boxes = isinstance(problem, Detection)
    if isinstance(problem, Detection):
        problem.choices = replace(CHOICES["corrected"], **parse_pairs(options.choices))
    began = time.perf_counter()
    try:
        reports = forget_sequence(problem, method, plan(data, asked, options.seed), options.seed)
    except TrainingDiverged:
        return {"h50" if boxes else "h": 0.0, "seconds": round(time.perf_counter() - began, 1)}
    names = OF_BOXES if boxes else METRICS
    values = {k: [r.metrics[k] for r in reports if k in r.metrics] for k in names}
    means: dict[str, Any] = {k: round(sum(v) / len(v), 2) for k, v in values.items() if v}
    if boxes:
        means["each"] = {k: [round(x, 1) for x in v] for k, v in values.items()}
        means["terms"] = {k: round(v, 4) for k, v in reports[-1].terms.items()}
    return {**means, "seconds": round(time.perf_counter() - began, 1)}


def grids(texts: list[str]) -> dict[str, list[Any]]:
    """Return the values to try by setting, from texts such as "lr=1e-4,1e-3"."""
    found = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise ConfigError(f"{text!r} is no grid; expected KEY=VALUE,VALUE, as in lr=1e-4,1e-3")
        found[key] = [parse_pairs([f"{key}={value}"])[key] for value in re.split(r",(?![^[]*\])", values)]
    return found


def load(name: str, image_size: int) -> DataSet | DetectionData:
    """Return a data set of images or of scenes."""
    return (registry.load_detection if name in registry.detection_names() else registry.load)(
        name, image_size
    )


def search(options: argparse.Namespace) -> Mapping[str, Any]:
    """Search the grids; return the best settings."""
    model, card = benchmark.load_model(options.data, options.weights)
    data = load(options.data, card.image_size)
    boxes = isinstance(data, DetectionData)
    data = replace(data, test=data.val)  # type: ignore[arg-type]
    asked = Setting(
        requests=(options.classes,) * options.tasks,
        shots=options.shots or (32 if boxes else 0),
        ratio=options.ratio,
        missing=options.missing,
        preset="coco/sequence" if boxes else "",
    )
    best: dict[str, Any] = parse_pairs(options.set)
    known: dict[str, dict[str, float]] = {}
    for key, values in grids(options.grid).items():
        highest = -math.inf
        tried, best = best, dict(best)
        for value in values:
            settings = {**tried, key: value}
            place = resolved(options.method, asked, settings)
            if place not in known:
                known[place] = measured(model, card, data, asked, options, settings)
                record(options, settings, known[place])
            if (h := known[place]["h50" if boxes else "h"]) > highest:
                highest, best[key] = h, value
    return best


def resolved(name: str, asked: Setting, settings: dict[str, Any]) -> str:
    """Return all settings of a configuration, defaults included, as text."""
    method = methods.create(name, setting=asked.kind, **settings)
    return json.dumps([method.settings, asdict(method.training)])


def record(options: argparse.Namespace, settings: dict[str, Any], found: dict[str, float]) -> None:
    """Print one run, and append it to the file of all runs."""
    asked = {"method": options.method, "tasks": options.tasks, "choices": options.choices}
    line = json.dumps({**asked, "settings": settings, **found})
    print(line, flush=True)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("method", help="a name of the table of methods")
    made.add_argument("--grid", action="append", required=True, help="KEY=VALUE,VALUE; searched in order")
    made.add_argument("--set", action="append", default=[], help="KEY=VALUE for all runs; repeatable")
    made.add_argument("--data", default="mini-faces-tuning", help="a data set's name or folder")
    made.add_argument("--weights", default="", help="its pre-trained model, if not the shipped one")
    made.add_argument("--tasks", type=int, default=1, help="requests")
    made.add_argument("--classes", type=int, default=20, help="classes of a request")
    made.add_argument("--seed", type=int, default=0, help="of the classes, the images and the training")
    made.add_argument("--choices", action="append", default=[], help="KEY=VALUE of detection's Choices")
    made.add_argument("--ratio", type=float, default=0.1, help="share of the training images at hand")
    made.add_argument("--missing", type=int, default=0, help="retained classes without any image")
    made.add_argument("--shots", type=int, default=0, help="images of each class instead, if not 0")
    made.add_argument("--out", type=Path, help="file of lines that runs are appended to")
    return made


if __name__ == "__main__":
    chosen = parser().parse_args()
    try:
        settled = search(chosen)
    except MiniGSLoRAError as problem:
        sys.exit(f"error: {problem}")
    print(f"best: {json.dumps(settled)}")
