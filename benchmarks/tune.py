"""Settles a method's settings on a validation split, one setting after another.

    python benchmarks/tune.py l2 --grid lr=1e-4,3e-4,1e-3 --grid weight=0.01,0.1,1 \
        --data mini-faces-tuning --weights tuning.safetensors --tasks 2 --set epochs=5

Each ``--grid`` is searched in turn with the best values of those before it; the best has the highest H,
mean over the requests. Accuracies are those of the validation split: the data's test split is not loaded
into the problem at all. A line per run is printed, and appended to ``--out`` as JSON. What is found becomes
a default of the method's configuration by hand.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from torch import nn

from minigslora import methods
from minigslora.__main__ import parse_pairs
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet
from minigslora.datasets.splits import Setting, plan
from minigslora.errors import ConfigError, MiniGSLoRAError, TrainingDiverged
from minigslora.forgetting import forget_sequence
from minigslora.models import checkpoint
from minigslora.problems.classification import Classification

METRICS = ("h", "acc_r", "acc_f", "acc_o")


def measured(
    model: nn.Module,
    card: checkpoint.Card,
    data: DataSet,
    asked: Setting,
    name: str,
    settings: dict[str, Any],
) -> dict[str, float]:
    """Serve the requests with one configuration; return metrics on the validation split, and seconds.

    Each metric is the mean over the requests; where training diverged, H is 0 and there is no other.
    """
    method = methods.create(name, setting=asked.kind, **settings)
    problem = Classification(copy.deepcopy(model), data, card.mean, card.std)
    began = time.perf_counter()
    try:
        reports = forget_sequence(problem, method, plan(data, asked, 0), 0)
    except TrainingDiverged:
        return {"h": 0.0, "seconds": round(time.perf_counter() - began, 1)}
    values = {k: [r.metrics[k] for r in reports if k in r.metrics] for k in METRICS}
    means = {k: round(sum(v) / len(v), 2) for k, v in values.items() if v}
    return {**means, "seconds": round(time.perf_counter() - began, 1)}


def grids(texts: list[str]) -> dict[str, list[Any]]:
    """Return the values to try by setting, from texts such as "lr=1e-4,1e-3"."""
    found = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise ConfigError(f"{text!r} is no grid; expected KEY=VALUE,VALUE, as in lr=1e-4,1e-3")
        found[key] = [parse_pairs([f"{key}={value}"])[key] for value in values.split(",")]
    return found


def search(options: argparse.Namespace) -> Mapping[str, Any]:
    """Search the grids; return the best settings."""
    data = registry.load(options.data)
    data = DataSet(data.name, data.train, data.val, data.val)
    model, card = checkpoint.load(options.weights)
    asked = Setting(requests=(20,) * options.tasks, shots=options.shots, ratio=options.ratio)
    best: dict[str, Any] = parse_pairs(options.set)
    known: dict[str, dict[str, float]] = {}
    for key, values in grids(options.grid).items():
        highest = -math.inf
        tried, best = best, dict(best)
        for value in values:
            settings = {**tried, key: value}
            place = resolved(options.method, asked, settings)
            if place not in known:
                known[place] = measured(model, card, data, asked, options.method, settings)
                record(options, settings, known[place])
            if known[place]["h"] > highest:
                highest, best[key] = known[place]["h"], value
    return best


def resolved(name: str, asked: Setting, settings: dict[str, Any]) -> str:
    """Return all settings of a configuration, defaults included, as text."""
    method = methods.create(name, setting=asked.kind, **settings)
    return json.dumps([asdict(method.config), asdict(method.training)])


def record(options: argparse.Namespace, settings: dict[str, Any], found: dict[str, float]) -> None:
    """Print one run, and append it to the file of all runs."""
    line = json.dumps({"method": options.method, "tasks": options.tasks, "settings": settings, **found})
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
    made.add_argument("--weights", type=Path, required=True, help="its pre-trained model, safetensors")
    made.add_argument("--tasks", type=int, default=1, help="requests of 20 classes")
    made.add_argument("--ratio", type=float, default=0.1, help="share of the training images at hand")
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
