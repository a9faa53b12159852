"""One scenario of a published table, served by one method with one seed; and ours beside the published.

What papers call Acc_r on faces carries the head's training margin at test time (notebook 07). Rows hold
both: ``acc_r`` is margin-free, what a user of the model gets; ``acc_r_margin`` stands beside the tables.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from minigslora import methods
from minigslora.datasets import registry
from minigslora.datasets.detection import DetectionData
from minigslora.datasets.images import DataSet
from minigslora.device import Precision
from minigslora.errors import ConfigError, ModelError
from minigslora.files import sha256
from minigslora.models import checkpoint
from minigslora.models.detr import keep_named
from minigslora.models.head_slicing import slice_head
from minigslora.problems.classification import Classification, Outside
from minigslora.problems.detection import CHOICES, Detection
from minigslora.reproduction import published
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, TaskReport, plan

PRE_TRAINED = "pre-trained"
"""The row of the model that nothing was erased from; the published tables call it Pre-train."""


@dataclass(frozen=True)
class Contender:
    """A method with one of its recipes, written "gslora++" or "gslora++:released"."""

    method: str
    recipe: str = "corrected"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Read a contender.

        Raises:
            ConfigError: for an unknown method or recipe.
        """
        name, _, recipe = text.partition(":")
        contender = cls(name, recipe or "corrected")
        methods.create(contender.method, contender.recipe)
        return contender

    def __str__(self) -> str:
        return self.method if self.recipe == "corrected" else f"{self.method}:{self.recipe}"


def contenders(
    names: Sequence[str] = ("gslora", "gslora++"), recipes: Sequence[str] = methods.RECIPES
) -> tuple[Contender, ...]:
    """Return methods with recipes; "all" stands for every method there is.

    Methods named without a recipe get each of ``recipes``, but for those that the published code does not
    have: they have no released recipe and run once.

    Raises:
        ConfigError: for an unknown method or recipe.
    """
    found: list[Contender] = []
    every = sorted(methods.table())
    for name in [n for given in names for n in (every if given == "all" else [given])]:
        if ":" in name:
            found.append(Contender.parse(name))
            continue
        known = methods.table().get(name)
        own = [r for r in recipes if r == "corrected" or known is None or known.published]
        found += [Contender.parse(f"{name}:{recipe}") for recipe in own]
    return tuple(dict.fromkeys(found))


def load_model(data: str, weights: str = "", digest: str = "") -> tuple[nn.Module, checkpoint.Card]:
    """Return the pre-trained model of a benchmark run: of a file, or the one that ships with the data.

    Raises:
        ModelError: where there is no checkpoint, or its SHA-256 is another than ``digest`` asks for.
    """
    if not weights:
        return checkpoint.load_shipped(data)
    path = Path(weights).expanduser()
    model, card = checkpoint.load(path)
    if digest and sha256(path) != digest:
        raise ModelError(
            f"{path} is not the file this run was started with (its SHA-256 is another); give the "
            "file under a new name, so that runs with it are runs of their own"
        )
    return model, card


def cut_to_task(
    model: nn.Module, card: checkpoint.Card, data: DataSet, watch: bool = False
) -> Outside | None:
    """Leave a model, in place, the rows of its head that the data's classes have (8.1).

    Returns:
        What the model knew beside them, for the outside check; None where it knew nothing more, or
        where there are no images of it.

    Raises:
        ModelError: where a class of the data has no row.
    """
    if not card.classes or card.classes == data.classes:
        return None
    head = slice_head(model, card.classes, data.classes)
    images = registry.outside(data.name, data.classes, data.image_size, watch)
    return Outside.of(images, head) if images is not None else None


def problem_of(
    model: nn.Module,
    card: checkpoint.Card,
    data: DataSet | DetectionData,
    recipe: str = "corrected",
    device: str = "auto",
    precision: Precision = "auto",
    outside: Outside | None = None,
) -> Classification | Detection:
    """Return the problem that a data set poses to ``model``, which is edited in place.

    In detection a recipe also says what becomes of objects that a request is not about, and a model of
    more categories, as COCO's are with a row for each id up to 90, keeps the rows of the data's.
    """
    if isinstance(data, DetectionData):
        if card.classes != data.classes:
            keep_named(model, card.classes, data.classes)
            checkpoint.name_classes(model, data.classes)
        return Detection(model, data, card.mean, card.std, device, precision, CHOICES[recipe])
    return Classification(model, data, card.mean, card.std, device, precision, outside)


def serve(
    model: nn.Module,
    card: checkpoint.Card,
    data: DataSet | DetectionData,
    setting: Setting,
    contender: Contender,
    seed: int,
    out: Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    watch: bool = False,
    overrides: Mapping[str, Any] | None = None,
    outside: Outside | None = None,
) -> list[TaskReport]:
    """Serve a setting's requests with one method, a report each; ``model`` itself is left as it is.

    Where ``outside`` is given, each report has the accuracy on classes outside the task, too.
    """
    method = methods.create(contender.method, contender.recipe, setting.kind, **(overrides or {}))
    problem = problem_of(copy.deepcopy(model), card, data, contender.recipe, device, precision, outside)
    return forget_sequence(problem, method, plan(data, setting, seed), seed, out, watch)


def rows_of(
    reports: Sequence[TaskReport], scenario: str, contender: Contender, seed: int
) -> list[dict[str, Any]]:
    """Return one row per task: what was run, its metrics in percent, its seconds."""
    rows = []
    for number, report in enumerate(reports, 1):
        figures = {k: v for k, v in report.figures.items() if not k.startswith("norm/")}
        row: dict[str, Any] = {"scenario": scenario, "method": contender.method}
        row |= {"recipe": contender.recipe, "seed": seed, "task": number}
        rows.append({**row, **report.metrics, **figures, "seconds": report.seconds})
    return rows


def with_pre_trained(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``rows`` with those of the pre-trained model above them, one per scenario, seed and task."""
    keys = ["scenario", "seed", "task"]
    before = rows.drop_duplicates(keys)[keys].assign(method=PRE_TRAINED, recipe="")
    source = rows.drop_duplicates(keys)
    for column in source:
        stem, found, suffix = str(column).partition("_before")
        if found:
            before[stem + suffix] = source[column]
    return pd.concat([before, rows], ignore_index=True)


def beside(rows: pd.DataFrame, table: str, data: str = "") -> pd.DataFrame:
    """Return ours beside a table's published numbers, a line per scenario, method, recipe, task and metric.

    Columns are seeds; ours and sd, margin-free; margin and margin_sd, with the head's margin, NaN for a head
    without; and published. Where ``data`` are the table's own there is a difference = margin − published, in
    points (ours − published for a head without margin); of other data it would mean nothing. A standard
    deviation needs two seeds; it is NaN otherwise.
    """
    described = published.table(table)
    known = {s.name for s in described.scenarios}
    if strange := sorted(set(rows["scenario"]) - known):
        raise ConfigError(f"{table} has no scenario {strange[0]!r}; it has {', '.join(sorted(known))}")
    keys = ["scenario", "method", "recipe", "task"]
    whole = with_pre_trained(rows)
    order = {tuple(key): place for place, key in enumerate(whole[keys].itertuples(index=False))}
    grouped = whole.groupby(keys, sort=False)
    mean, sd, sizes = grouped.mean(numeric_only=True), grouped.std(numeric_only=True), grouped.size()
    printed = published.read(table).set_index(["scenario", "method", "task"])
    lines = []
    for key in sorted(mean.index, key=lambda k: order[k]):
        ours, spread = mean.loc[key], sd.loc[key]
        place = (key[0], printed_name(key[1]), key[3])
        for metric in (m for m in published.HEADINGS if not pd.isna(ours.get(m))):
            known_there = place in printed.index and metric in printed
            lines.append(
                dict(zip(keys, key, strict=True))
                | {"metric": metric, "seeds": int(sizes[key]), "ours": ours[metric], "sd": spread[metric]}
                | {f"margin{end}": of.get(f"{metric}_margin") for end, of in (("", ours), ("_sd", spread))}
                | {"published": printed.loc[place, metric] if known_there else None}
            )
    found = pd.DataFrame(lines)
    numbers = ["ours", "sd", "margin", "margin_sd", "published"]
    found[numbers] = found[numbers].astype(float)
    if data and data == described.data:
        found["difference"] = found["margin"].fillna(found["ours"]) - found["published"]
    return found


def printed_name(method: str) -> str:
    """Return what the published tables call a method; "" for one that they do not have."""
    if method == PRE_TRAINED:
        return "Pre-train"
    return methods.table()[method].published


_WITH_MARGIN = {"Acc_r": "acc_r", "Acc_f": "acc_f", "Acc_o": "acc_o", "H": "h"}
AT_A_GLANCE: dict[str, tuple[str, str]] = {
    "Acc_r": ("acc_r", "mean"),
    "fall of Acc_r": ("fall_r", "mean"),
    "worst fall": ("fall_r", "max"),
    "Acc_f": ("acc_f", "mean"),
    "worst Acc_f": ("acc_f", "max"),
    "Acc_o": ("acc_o", "mean"),
    "worst Acc_o": ("acc_o", "max"),
    "fall of Acc_m": ("fall_m", "mean"),
    "outside": ("acc_outside", "mean"),
    "fall outside": ("fall_outside", "mean"),
    "worst fall outside": ("fall_outside", "max"),
    "H": ("h", "mean"),
    **{f"{name} with margin": (f"{metric}_margin", "mean") for name, metric in _WITH_MARGIN.items()},
    "zero groups": ("zero_group_ratio", "mean"),
    **{
        column.format(label): (metric.format(stem), how)
        for stem, label in (("ap50", "AP50"), ("ap", "AP"))
        for column, metric, how in (
            ("{}_r", "{}_r", "mean"),
            ("fall of {}_r", "fall_{}_r", "mean"),
            ("worst fall of {}_r", "fall_{}_r", "max"),
            ("worst {}_f", "{}_f", "max"),
            ("worst {}_o", "{}_o", "max"),
        )
    },
    "H50": ("h50", "mean"),
    "seconds a task": ("seconds", "mean"),
    "seconds a run": ("seconds", "sum"),
}
"""Columns of :func:`summary`: a column of the rows, and what is taken over the tasks of a run."""


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per scenario, method and recipe: mean ± standard deviation over seeds.

    Figures are margin-free, but for those "with margin", which faces have. Each is first the mean, or the
    worst, over the tasks of a run. A fall is the pre-trained model's accuracy less the edited one's.
    """
    keys = ["scenario", "method", "recipe"]
    with_falls = rows.copy()
    for metric in map(str, rows):
        if f"{metric}_before" in rows:
            with_falls[f"fall_{metric.removeprefix('acc_')}"] = rows[f"{metric}_before"] - rows[metric]
    named = {name: how for name, how in AT_A_GLANCE.items() if how[0] in with_falls}
    runs = with_falls.groupby([*keys, "seed"], sort=False).agg(**named)
    grouped = runs.groupby(keys, sort=False)
    mean, sd = grouped.mean(), grouped.std()
    shown = {
        name: [cell(m, s, 2) for m, s in zip(mean[name], sd[name], strict=True)]
        for name in named
        if mean[name].notna().any()
    }
    return pd.DataFrame({"seeds": grouped.size(), **{k: pd.Series(v, mean.index) for k, v in shown.items()}})


SIDES = {
    "ours": ("ours", "sd"),
    "with margin": ("margin", "margin_sd"),
    "published": ("published", ""),
    "difference": ("difference", ""),
}
"""What :func:`wide` calls a column of :func:`beside`, and that column's deviation."""


def wide(comparison: pd.DataFrame, scenario: str) -> pd.DataFrame:
    """Return one scenario of :func:`beside` to be read: a line per task, cells "mean ± sd".

    Columns are (metric, "ours" | "with margin" | "published" | "difference"), as far as there is anything.
    """
    part = comparison[comparison["scenario"] == scenario]
    cells: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    for line in part.to_dict("records"):
        key = (line["method"], line["recipe"], str(line["task"]))
        cells.setdefault(key, {}).update(
            {
                (published.HEADINGS[line["metric"]], side): cell(line[column], line.get(spread, float("nan")))
                for side, (column, spread) in SIDES.items()
                if column in line
            }
        )
    frame = pd.DataFrame.from_dict(cells, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["method", "recipe", "task"])
    frame = frame.loc[:, (frame.fillna("") != "").any()]  # no column of nothing
    columns = [(h, side) for h in published.HEADINGS.values() for side in SIDES if (h, side) in frame]
    return frame.reindex(columns=pd.MultiIndex.from_tuples(columns)).fillna("")


def cell(value: float, sd: float = float("nan"), digits: int = 1) -> str:
    """Return "mean ± sd"; the mean alone without a deviation, and nothing for NaN."""
    if math.isnan(value):
        return ""
    shown = f"{value:.{digits}f}"
    return shown if math.isnan(sd) else f"{shown} ± {sd:.{digits}f}"
