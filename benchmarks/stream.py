"""People come and go: what a model that serves a stream of requests knows, takes and costs after each.

    OMP_NUM_THREADS=1 python benchmarks/stream.py people [--seeds 3] [--events 10] [--out FILE]
    OMP_NUM_THREADS=1 python benchmarks/stream.py long [--seeds 3] [--requests 20] [--keep FOLDER]

``people`` is ten events on mini-faces: newcomers, whom the model never saw, are enrolled from five
photographs; people withdraw, which is a request to forget; a request is revoked as it was a mistake; who
withdrew enrols again, from five photographs. ``long`` is 20 requests of one to five people each, one call
after another; what the stack of adapters takes is measured beside the original model, and every fifth request
beside what ``compact`` makes of it. Both by gslora-deep through the front door, with a tenth of the images.

Each row is added to the table as it comes, and each request is kept in a folder of its own: started again,
the stream goes on after the last row. A request takes a core about a minute.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import pandas as pd
import torch
from torch import nn

import minigslora
from minigslora import ledger, lora
from minigslora.compact import compact
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.datasets.rendered import mini_faces
from minigslora.files import data_root, shipped_root, written_whole
from minigslora.metrics import class_accuracies, subset_accuracy
from minigslora.models.checkpoint import card_of, load_shipped
from minigslora.models.heads import margin_logits
from minigslora.problems.classification import Classification
from minigslora.rng import Streams

METHOD, RATIO, SHOTS = "gslora-deep", 0.1, 5
"""How requests are served; the share of the images at hand for that; photographs of who is enrolled."""

NEWCOMERS = tuple(f"newcomer-{i}" for i in range(3))
SIZES = (1, 2, 3, 4, 5) * 4
FOLDED = ((None, "compact"), (8, "compact, rank 8"))
"""What is made of a stack every fifth request: the rank that it is cut to, and what that is called."""

Event = tuple[str, Callable[[], Any], tuple[str, ...]]


# --- data -------------------------------------------------------------------------------------------------


def everybody() -> DataSet:
    """Return mini-faces with the newcomers after its own people; those are of another population."""
    known, others = registry.load("mini-faces"), mini_faces.load("tuning", len(NEWCOMERS))
    names, sets = (*known.classes, *NEWCOMERS), []
    for split in ("train", "val", "test"):
        one, two = getattr(known, split), getattr(others, split)
        labels = torch.cat([one.labels, two.labels + len(known.classes)])
        sets.append(ImageSet(torch.cat([one.images, two.images]), labels, names))
    return DataSet("mini-faces and newcomers", *sets)


def of_people(data: DataSet, names: Sequence[str]) -> DataSet:
    """Return the images of some people, in the order of a model's head."""
    places = torch.full((len(data.classes),), -1)
    places[[data.classes.index(name) for name in names]] = torch.arange(len(names))
    sets = []
    for own in (data.train, data.val, data.test):
        rows = (places[own.labels] >= 0).nonzero().flatten()
        sets.append(ImageSet(own.images[rows], places[own.labels[rows]], tuple(names)))
    return DataSet(data.name, *sets)


# --- ten events -------------------------------------------------------------------------------------------


class People:
    """A model, and what becomes of it."""

    def __init__(self, seed: int, keep: Path) -> None:
        self.seed, self.keep, self.world = seed, keep / f"people-{seed}", everybody()
        self.model, _ = load_shipped("mini-faces")
        self.calls = 0
        known = registry.load("mini-faces").classes
        self.a, self.b, self.c, self.d = Streams(seed, "stream").python("people").sample(known, 4)

    def withdraw(self, *names: str) -> float:
        """Forget people; return the seconds of training."""
        self.calls += 1
        own: Any = card_of(self.model)
        done = minigslora.forget(
            self.model,
            of_people(self.world, own.classes),
            list(names),
            method=METHOD,
            ratio=RATIO,
            seed=self.seed,
            device="cpu",
            out=self.keep / f"request-{self.calls}",
            watch=False,
            check=False,
        )
        return done.reports[0].seconds

    def enrol(self, name: str) -> None:
        """Enrol somebody from a few photographs, which nobody has used yet where that is again."""
        person = self.world.classes.index(name)
        rows = self.world.train.of_classes([person])
        minigslora.enrol(self.model, name, self.world.train.images[rows[-SHOTS:]])

    def revoke(self, task: str) -> None:
        """Take a request back."""
        minigslora.revoke(self.model, task)

    def events(self) -> list[Event]:
        """Return the events: what each is called, what is done, and whom it is about."""
        a, b, c, d = self.a, self.b, self.c, self.d
        first, second, _ = NEWCOMERS
        return [
            ("enrol", lambda: self.enrol(first), (first,)),
            ("withdraw", lambda: self.withdraw(a), (a,)),
            ("enrol", lambda: self.enrol(second), (second,)),
            ("withdraw", lambda: self.withdraw(b, c), (b, c)),
            ("revoke", lambda: self.revoke("task1"), (a,)),
            ("withdraw", lambda: self.withdraw(first), (first,)),
            ("enrol again", lambda: self.enrol(b), (b,)),
            ("withdraw", lambda: self.withdraw(d), (d,)),
            ("revoke", lambda: self.revoke("task3"), (first,)),
            ("enrol again", lambda: self.enrol(d), (d,)),
        ]

    def measured(self, concerned: Sequence[str]) -> dict[str, float]:
        """Return accuracies on current classes, the enrolled of them, withdrawn ones, and those concerned."""
        card: Any = card_of(self.model)
        data = of_people(self.world, card.classes)
        gone = [row for entry in ledger.of(self.model) for row in entry.rows]
        came = {e.rows[0] for e in ledger.events(self.model) if e.event == "enrol"} - {*gone}
        groups = {
            "acc_r": [row for row in range(len(card.classes)) if row not in gone],
            "acc_o": gone,
            "acc_enrolled": sorted(came),
            "acc_concerned": [card.classes.index(name) for name in concerned],
        }
        return {
            "people": len(groups["acc_r"]),
            "withdrawn": len(gone),
            **accuracies(self.model, data, groups),
        }


def accuracies(model: nn.Module, data: DataSet, groups: dict[str, list[int]]) -> dict[str, float]:
    """Return the accuracy on the test images of groups of classes, margin-free and with the head's margin."""
    problem = Classification(model, data, device="cpu", precision="fp32")
    labels, logits = data.test.labels, problem.predict("test")
    said = {"": logits, "_margin": margin_logits(problem.head, logits, labels)}
    hits = {k: class_accuracies(v, labels, len(data.classes)) for k, v in said.items()}
    return {
        f"{key}{suffix}": round(subset_accuracy(hits[suffix], classes, key, data.classes), 3)
        for suffix in said
        for key, classes in groups.items()
        if classes
    }


def people(seed: int, events: int, table: Table, keep: Path) -> None:
    """Serve the events, one row each; those that have one already are done again from what was kept."""
    stream = People(seed, keep)
    for number, (event, act, whom) in enumerate(stream.events()[:events], 1):
        began = time.process_time()
        seconds = act()
        took = time.process_time() - began if seconds is None else seconds
        if table.lacks(key := table.key("people", seed, number)):
            figures = {"event": event, **stream.measured(whom), **size(stream.model)}
            table.add({**key, **figures, "seconds": round(took, 2)})


# --- a long stream ----------------------------------------------------------------------------------------


def long(seed: int, requests: int, table: Table, keep: Path) -> None:
    """Serve the requests, one row each, and every fifth one more for each way to fold the stack."""
    data, (model, _) = registry.load("mini-faces"), load_shipped("mini-faces")
    original, stream = copy.deepcopy(model), Streams(seed, "long").python("people")
    order, sizes = stream.sample(data.classes, len(data.classes)), stream.sample(SIZES, len(SIZES))
    old: list[str] = []
    for number, count in enumerate(sizes[:requests], 1):
        asked, order = order[:count], order[count:]
        done = minigslora.forget(
            model,
            data,
            asked,
            method=METHOD,
            ratio=RATIO,
            seed=seed,
            device="cpu",
            out=keep / f"long-{seed}" / f"request-{number}",
            watch=False,
            check=False,
        )
        groups = dict(zip(("acc_r", "acc_f", "acc_o"), map(data.class_ids, (order, asked, old)), strict=True))
        old += asked
        report = done.reports[0]
        folded = [*FOLDED] if number % 5 == 0 else []
        for rank, variant in [(None, "stack"), *folded]:
            if table.lacks(key := table.key("long", seed, number, variant)):
                figures = stacked(model, original, data, groups, variant, rank)
                table.add({**key, "withdrawn": count, **figures, "seconds": round(report.seconds, 2)})


def stacked(
    model: nn.Module,
    original: nn.Module,
    data: DataSet,
    groups: dict[str, list[int]],
    variant: str,
    rank: int | None,
) -> dict[str, Any]:
    """Return what a stack, or what is made of it, names rightly, takes, and costs beside the original."""
    live = model if variant == "stack" else copy.deepcopy(model)
    if live is not model:
        compact(live, rank=rank)
    return {**accuracies(live, data, groups), **size(live), "forward": slower(live, original, data)}


def size(model: nn.Module) -> dict[str, int]:
    """Return the bytes of a model's adapters and replaced rows, and the most rows of A in a layer."""
    state = lora.adapter_state(model) if lora.adapter_names(model) else {}
    ranks = [sum(len(a.A) for a in layer.adapters.values()) for layer in lora.wrapped(model).values()]
    return {"bytes": sum(t.numel() * t.element_size() for t in state.values()), "rank": max(ranks, default=0)}


@torch.no_grad()
def slower(model: nn.Module, original: nn.Module, data: DataSet, rounds: int = 15) -> float:
    """Return a forward pass's processor time over the original model's: the median of rounds, in turn."""
    images = data.test.images[:64].float() / 255
    taken: dict[str, list[float]] = {"live": [], "original": []}
    for _ in range(rounds):
        for name, network in (("live", model.eval()), ("original", original.eval())):
            began = time.process_time()
            network(images)
            taken[name].append(time.process_time() - began)
    return round(statistics.median(a / b for a, b in zip(*taken.values(), strict=True)), 3)


# --- rows ---------------------------------------------------------------------------------------------------


class Table:
    """Rows in a file, added one by one; a row that is there is not made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = pd.read_csv(path).to_dict("records") if path.is_file() else []

    @staticmethod
    def key(scenario: str, seed: int, task: int, variant: str = "stack") -> dict[str, Any]:
        """Return what a row is known by."""
        run = {"scenario": scenario, "method": METHOD, "recipe": "corrected", "seed": seed}
        return {**run, "task": task, "variant": variant}

    def lacks(self, key: dict[str, Any]) -> bool:
        """Whether no row is known by ``key``."""
        return not any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, and write the file."""
        self.rows.append(row)
        with written_whole(self.path) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False)
        print(" ".join(f"{k}={v}" for k, v in self.rows[-1].items()), flush=True)


def main() -> None:
    """Run what is not in the table yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenario", choices=("people", "long"))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--requests", type=int, default=len(SIZES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, default=data_root() / "streams")
    asked = parser.parse_args()
    table = Table(asked.out or shipped_root() / "results" / f"mini_faces_stream_{asked.scenario}.csv")
    for seed in range(asked.seeds):
        if asked.scenario == "people":
            people(seed, asked.events, table, asked.keep)
        else:
            long(seed, asked.requests, table, asked.keep)


if __name__ == "__main__":
    main()
