"""Time to quality: processor time that each recipe takes to forget, and how well it then forgets and keeps.

    OMP_NUM_THREADS=1 python benchmarks/quality.py [--method gslora++] [--requests 20,20] [--out FILE]

The released recipe with its full schedule, 100 passes, and the corrected one with its ten, after one another
on the same images of mini-faces in one process. Eleven minutes of processor time for one request of 20.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import pandas as pd

from minigslora import methods
from minigslora.datasets import registry
from minigslora.models.checkpoint import load_shipped
from minigslora.problems.classification import Classification
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, plan

KEYS = ("h", "h_margin", "acc_r", "acc_f")


def served(recipe: str, name: str, asked: Setting, seed: int, device: str) -> dict[str, Any]:
    """Serve the requests with one recipe; return its updates, seconds, and figures after the last request."""
    model, card = load_shipped("mini-faces")
    data = registry.load("mini-faces")
    problem = Classification(copy.deepcopy(model), data, card.mean, card.std, device)
    method, requests = methods.create(name, recipe, asked.kind), plan(data, asked, seed)
    steps, taken = 0, method.after_step

    def count(*given: Any) -> None:
        nonlocal steps
        steps += 1
        taken(*given)

    method.after_step = count  # type: ignore[assignment]
    wall, processor = time.perf_counter(), time.process_time()
    reports = forget_sequence(problem, method, requests, seed)
    spent = {"processor_seconds": time.process_time() - processor, "seconds": time.perf_counter() - wall}
    means = {k: sum(r.metrics[k] for r in reports) / len(reports) for k in KEYS}
    return {
        "method": name,
        "recipe": recipe,
        "seed": seed,
        "epochs": method.training.epochs,
        "updates": steps,
        **{k: round(v, 2) for k, v in {**spent, **means}.items()},
    }


def main() -> None:
    """Print a row a recipe, and the ratio of what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="gslora++")
    parser.add_argument("--requests", default="20", help="people of each request")
    parser.add_argument("--ratio", type=float, default=0.1, help="share of the images at hand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the rows here as well, as CSV")
    asked = parser.parse_args()
    requests = Setting(tuple(map(int, asked.requests.split(","))), ratio=asked.ratio)
    rows = []
    for recipe in ("corrected", "released"):
        rows.append(served(recipe, asked.method, requests, asked.seed, asked.device))
        print(json.dumps(rows[-1]), flush=True)
    ours, theirs = rows
    for key in ("processor_seconds", "seconds", "updates"):
        print(f"{key}, released / corrected: {theirs[key] / ours[key]:.1f}")
    if asked.out:
        pd.DataFrame(rows).to_csv(asked.out, index=False)


if __name__ == "__main__":
    main()
