"""Every method through every audit, on twenty people of mini-faces whom the oracles never saw.

    python benchmarks/audits.py [--methods gslora++,der] [--seeds 3] [--out FILE.csv] [--keep FOLDER]
    python benchmarks/audits.py --data casia-face100 --original FILE --oracles FILE … --people FILE --out FILE

Each method forgets the people of ``data/oracles/request.txt`` in one request, with a tenth of the images and
its corrected recipe. The edited model is kept, and audited beside the original and the first five oracles of
that request, which notebook 12 takes its bands from, too. Rows are added to the table as they come; what is
in it with as many oracles is not run again. The second form does the same with other images and models.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import pandas as pd
from torch import nn

import minigslora
from minigslora import erasure, methods
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet
from minigslora.files import data_root, read_json, shipped_root, write_json
from minigslora.models.checkpoint import load
from minigslora.problems.classification import Classification
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, plan_requests

ORACLES = sorted((shipped_root() / "oracles").glob("mini-faces-request-*.safetensors"))[:5]


def edited(
    name: str, seed: int, data: DataSet, asked: argparse.Namespace
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a method's model and what its report says; made once, and then read from its file."""
    file, notes = asked.keep / f"{name}-{seed}.safetensors", asked.keep / f"{name}-{seed}.json"
    if not notes.is_file():
        original, card = load(asked.original)
        setting = Setting((len(asked.people),), ratio=0.1)
        plan = plan_requests(data, [data.class_ids(asked.people)], setting, seed)
        problem = Classification(copy.deepcopy(original), data, card.mean, card.std, "cpu")
        method = methods.create(name, "corrected", setting.kind)
        (report,) = forget_sequence(problem, method, plan, seed)
        erasure.finalize(problem.model, file)
        write_json(notes, {"seconds": report.seconds, **report.metrics})
    return load(file)[0].float(), read_json(notes)


def rows_of(name: str, seed: int, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each figure of one method's model."""
    original, card = load(asked.original)
    data = registry.load(asked.data, card.image_size)
    model, measured = edited(name, seed, data, asked)
    oracles = [load(path)[0].float() for path in asked.oracles]
    report = minigslora.audit(
        model, data, asked.people, original=original.float(), oracles=oracles, device="cpu", watch=False
    )
    known = {"method": name, "seed": seed, "references": len(oracles)}
    known |= {key: measured[key] for key in ("seconds", "h", "h_margin")}
    return [{**known, **row} for row in report.table().reset_index().to_dict("records")]


def options() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=",".join(sorted(set(methods.table()) - {"retrain-oracle"})))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="mini-faces")
    parser.add_argument("--original", type=Path, default=shipped_root() / "mini-faces.safetensors")
    parser.add_argument("--oracles", type=Path, nargs="+", default=ORACLES)
    parser.add_argument("--people", type=Path, default=shipped_root() / "oracles" / "request.txt")
    parser.add_argument("--out", type=Path, default=shipped_root() / "results" / "mini_faces_audits.csv")
    parser.add_argument("--keep", type=Path, default=data_root() / "audited")
    asked = parser.parse_args()
    asked.people = asked.people.read_text(encoding="utf-8").split()
    return asked


def main() -> None:
    """Run what is not in the table yet."""
    asked = options()
    asked.keep.mkdir(parents=True, exist_ok=True)
    done = (
        pd.read_csv(asked.out)
        if asked.out.is_file()
        else pd.DataFrame(columns=["method", "seed", "references"])
    )
    done = done[done["references"] == len(asked.oracles)]
    for seed in range(asked.seeds):
        for name in asked.methods.split(","):
            if ((done["method"] == name) & (done["seed"] == seed)).any():
                continue
            done = pd.concat([done, pd.DataFrame(rows_of(name, seed, asked))], ignore_index=True)
            done.round(4).to_csv(asked.out, index=False)
            print(f"{name}, seed {seed}", flush=True)


if __name__ == "__main__":
    main()
