"""Four erasure requests of 20 classes: GS-LoRA and GS-LoRA++, both recipes, as a table.

    python benchmarks/four_tasks.py                                  # mini-faces, 3 seeds, 45 runs
    python benchmarks/four_tasks.py --data casia-face100 --weights casia48.safetensors --seeds 0

Every run keeps its finished tasks below ``runs/four_tasks`` and is taken up again from there. The
table gives mean ± standard deviation over seeds of each metric, averaged over the four tasks where
there is one per task, and the worst task's Acc_f and Acc_o.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from minigslora.contracts import TaskReport
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet
from minigslora.datasets.splits import Setting, plan
from minigslora.forgetting import forget_sequence
from minigslora.methods import create
from minigslora.models import checkpoint
from minigslora.problems.classification import Classification
from minigslora.runs import runs_root, versions

SETTINGS: dict[str, dict[str, Any]] = {
    "ratio": {},
    "shots": {"shots": 4},
    "missing": {"missing": 5},
}

EPOCHS: dict[str, dict[str, int]] = {
    "corrected": {},  # its presets
    "released": {"ratio": 10, "shots": 10, "missing": 10},
}
"""The cpu profile: the released recipe's 100 epochs are cut to about the corrected one's updates."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="mini-faces")
    parser.add_argument("--weights", help="checkpoint; the shipped one by default")
    parser.add_argument("--methods", nargs="*", default=["gslora", "gslora++", "gslora-distill"])
    parser.add_argument("--recipes", nargs="*", default=["corrected", "released"])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--requests", nargs="*", type=int, default=[20, 20, 20, 20])
    parser.add_argument("--epochs", type=int, help="of both recipes; see EPOCHS for the default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--split", choices=["test", "val"], default="test")
    parser.add_argument("--set", nargs="*", default=[], help="key=value for the method or the loop")
    parser.add_argument("--csv", type=Path, help="write the rows here")
    return parser.parse_args()


def one_run(
    args: argparse.Namespace, data: DataSet, name: str, recipe: str, setting: str, seed: int
) -> list[dict[str, Any]]:
    """Serve one plan with one method and return a row per task."""
    model, card = checkpoint.load(Path(args.weights)) if args.weights else checkpoint.load_shipped(args.data)
    if args.split == "val":
        data = replace(data, test=data.val)
    problem = Classification(model, data, card.mean, card.std, args.device)
    wanted = Setting(requests=tuple(args.requests), **SETTINGS[setting])
    overrides = {k: yaml.safe_load(v) for k, v in (pair.split("=") for pair in args.set)}
    if epochs := args.epochs or EPOCHS[recipe].get(setting):
        overrides.setdefault("epochs", epochs)
    method = create(name, recipe, setting, **overrides)
    out = None
    if not args.set and args.split == "test":
        stem = f"{args.data}-e{args.epochs or 'cpu'}-t{len(args.requests)}"
        out = runs_root() / "four_tasks" / stem / f"{name}-{recipe}-{setting}-seed{seed}"
    began = time.perf_counter()
    reports = forget_sequence(problem, method, plan(data, wanted, seed), seed, out)
    seconds = time.perf_counter() - began
    keys = {"method": name, "recipe": recipe, "setting": setting, "seed": seed}
    return [{**keys, **without_norms(r), "run_seconds": seconds} for r in reports]


def without_norms(report: TaskReport) -> dict[str, Any]:
    """Return a report's row without the norm of each group."""
    return {k: v for k, v in report.row().items() if not k.startswith("norm/")}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds, of each run's mean (or worst) over tasks."""
    keys = ["method", "recipe", "setting"]
    rows = rows.assign(
        fall_r=rows["acc_r_before"] - rows["acc_r"],
        fall_m=rows.get("acc_m_before", float("nan")) - rows.get("acc_m", float("nan")),
    )
    columns = {
        "Acc_r": ("acc_r", "mean"),
        "Acc_r fall": ("fall_r", "mean"),
        "worst fall": ("fall_r", "max"),
        "Acc_f": ("acc_f", "mean"),
        "worst Acc_f": ("acc_f", "max"),
        "Acc_o": ("acc_o", "mean"),
        "worst Acc_o": ("acc_o", "max"),
        "H": ("h", "mean"),
        "Acc_m fall": ("fall_m", "mean"),
        "zero groups": ("zero_group_ratio", "mean"),
        "seconds": ("seconds", "sum"),
    }
    found = {k: v for k, v in columns.items() if v[0] in rows and rows[v[0]].notna().any()}
    runs = rows.groupby([*keys, "seed"]).agg(**found).reset_index()
    grouped = runs.groupby(keys)
    cells = {
        name: grouped[name].mean().map("{:.2f}".format) + grouped[name].std().map(" ± {:.2f}".format)
        if runs["seed"].nunique() > 1
        else grouped[name].mean().map("{:.2f}".format)
        for name in found
    }
    return pd.DataFrame(cells).reset_index()


def main() -> None:
    """Run the grid and print the table."""
    args = arguments()
    data = registry.load(args.data, image_size(args), watch=True)
    rows: list[dict[str, Any]] = []
    grid = itertools.product(args.settings, args.methods, args.recipes, args.seeds)
    for setting, name, recipe, seed in grid:
        if name == "gslora-distill" and recipe == "released":
            continue  # the released code has no such method
        rows += copy.deepcopy(one_run(args, data, name, recipe, setting, seed))
        last = rows[-1]
        shown = {
            k: round(v, 2) for k, v in last.items() if k in ("acc_r", "acc_f", "acc_o", "h", "run_seconds")
        }
        print(f"{setting} {name} {recipe} seed {seed}: {json.dumps(shown)}", flush=True)
    table = pd.DataFrame(rows)
    if args.csv:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        table.round(4).to_csv(args.csv, index=False)
    print(f"\n{args.data}, {torch.get_num_threads()} threads, {versions()}\n")
    print(summary(table).to_string(index=False))


def image_size(args: argparse.Namespace) -> int | None:
    """Return the input size of the checkpoint's model; None for rendered data."""
    if args.data in registry.RENDERED or not args.weights:
        return None
    return checkpoint.load(Path(args.weights))[1].image_size


if __name__ == "__main__":
    main()
