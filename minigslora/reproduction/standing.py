"""How methods stand in one scenario: best H first, ours beside the published, differences seed by seed.

A figure is first the mean over the requests of a run; a spread is the standard deviation over seeds.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from minigslora.course import plots
from minigslora.metrics import paired_difference
from minigslora.reproduction import published
from minigslora.reproduction.benchmark import PRE_TRAINED, cell, printed_name, with_pre_trained

HEAD_ONLY = "head-only"
"""The control that trains nothing: its gain in Acc_r is only that the forgotten columns fall silent."""

NOT_RUN = "not run"
"""What stands in the place of a published method's recipe where it has no row of ours."""

NAN = float("nan")
_BOXES = ("h50", "ap50_r", "ap50_f", "ap50_o")


def metrics(rows: pd.DataFrame) -> tuple[str, ...]:
    """Return what the tables show of these rows, what they are sorted by in front."""
    return _BOXES if "h50" in rows else tuple(m for m in (*published.METRICS, "acc_outside") if m in rows)


def conventions(rows: pd.DataFrame) -> dict[str, str]:
    """Return the endings of columns, and how figures with each are called; "" where there is no margin.

    The first is the convention that the published figures have.
    """
    return {"_margin": "with margin", "": "margin-free"} if "h_margin" in rows else {"": ""}


def views(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return what figures show: H and what was forgotten earlier, each a metric, an ending and a title."""
    lead, *rest = metrics(rows)
    return [
        (metric, ending, f"{heading(metric)} {convention}".strip())
        for metric in (lead, *(m for m in rest if m.endswith("_o")))
        for ending, convention in conventions(rows).items()
    ]


def heading(metric: str) -> str:
    """Return what tables call a metric."""
    return published.HEADINGS.get(metric, metric.removeprefix("acc_"))


def by_run(rows: pd.DataFrame, scenario: str) -> pd.DataFrame:
    """Return the means over the requests of each run, a line per method, recipe and seed."""
    part = rows[rows["scenario"] == scenario]
    return part.groupby(["method", "recipe", "seed"], sort=False).mean(numeric_only=True)


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the methods of each scenario in the order of their mean H."""
    lead = metrics(rows)[0] + next(iter(conventions(rows)))
    mean = rows.groupby(["scenario", "method", "recipe"])[lead].transform("mean")
    return rows.assign(_mean=-mean).sort_values("_mean", kind="stable").drop(columns="_mean")


def standing(rows: pd.DataFrame, scenario: str, table: str, ending: str = "", data: str = "") -> pd.DataFrame:
    """Return the methods of a scenario, a line each, cells "mean ± sd", best H first.

    Columns are "seeds" and (metric, "ours" | "head-only" | "published" | "difference"), as far as there is
    anything: head-only's Acc_r is that of the same seeds; the published figures are the means over the same
    requests, and stand only beside the convention that they have; a difference needs the paper's ``data``.
    Published methods that have not been run come last.

    Args:
        rows: of a grid (:func:`~minigslora.reproduction.benchmark.rows_of`).
        scenario: which of the table's.
        table: the published table.
        ending: of the columns, one of :func:`conventions`.
        data: that the rows are of.
    """
    runs = by_run(with_pre_trained(rows), scenario)
    lead, *_ = names = metrics(rows)
    printed = _printed(rows, scenario, table) if ending == next(iter(conventions(rows))) else {}
    theirs = data != "" and data == published.table(table).data
    lines: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for key, own in _methods(runs, lead + ending, first=PRE_TRAINED):
        line = lines[key] = {("seeds", ""): str(len(own))}
        there = printed.get(printed_name(key[0]), {})
        for metric in (m for m in names if m + ending in own):
            values, name = own[metric + ending], heading(metric)
            line[name, "ours"] = cell(values.mean(), values.std())
            if metric.endswith("_r"):
                line[name, HEAD_ONLY] = cell(_head_only(runs[metric + ending], own.index))
            line[name, "published"] = cell(there.get(metric, NAN))
            if theirs:
                line[name, "difference"] = cell(values.mean() - there.get(metric, NAN))
    run = {printed_name(method) for method, _ in lines}
    for method, there in printed.items():
        if method not in run:
            lines[method, NOT_RUN] = {(heading(m), "published"): cell(there.get(m, NAN)) for m in names}
    return _framed(lines)


def _methods(runs: pd.DataFrame, by: str, first: str = "") -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Return each method's runs, by seed, under its name and recipe: the highest mean of a column first."""
    parts: list[tuple[Any, pd.DataFrame]] = list(runs.groupby(["method", "recipe"], sort=False))
    parts.sort(key=lambda part: (part[0][0] != first, -part[1][by].mean()))
    return [(key, own.droplevel(["method", "recipe"])) for key, own in parts]


def _printed(rows: pd.DataFrame, scenario: str, table: str) -> dict[str, dict[str, float]]:
    """Return the published means over the requests that the rows have, by method and metric, best H first."""
    frame = published.read(table)
    frame = frame[(frame["scenario"] == scenario) & frame["task"].isin(rows["task"])]
    mean = frame.groupby("method")[[*published.METRICS]].mean().sort_values("h", ascending=False)
    found: Any = mean.to_dict("index")
    return dict(found)


def _head_only(values: pd.Series[float], seeds: pd.Index[int]) -> float:
    """Return head-only's mean over some seeds; NaN where it has not run with all of them."""
    if HEAD_ONLY not in values.index:
        return NAN
    own: Any = values.loc[HEAD_ONLY]
    return float(own.droplevel("recipe").reindex(seeds).mean(skipna=False))


def _framed(lines: dict[tuple[str, str], dict[tuple[str, str], str]]) -> pd.DataFrame:
    """Return lines as a table, columns of one metric side by side, and none of nothing."""
    frame = pd.DataFrame.from_dict(lines, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["method", "recipe"])
    frame = frame.fillna("").loc[:, (frame.fillna("") != "").any()]
    headings = dict.fromkeys(name for line in lines.values() for name, _ in line)
    sides = ["", "ours", HEAD_ONLY, "published", "difference"]
    kept = [(name, side) for name in headings for side in sides if (name, side) in frame]
    return frame.reindex(columns=pd.MultiIndex.from_tuples(kept)).fillna("")


def paired(rows: pd.DataFrame, scenario: str) -> pd.DataFrame | None:
    """Return the differences in H to the first method that trains, seed by seed, with 95 % t intervals (7.3).

    A line per method and recipe, a column per convention; a difference needs two seeds that both have.
    None where no two methods share two seeds.
    """
    runs, lead = by_run(rows, scenario), metrics(rows)[0]
    found: dict[str, dict[tuple[str, str], str]] = {}
    for ending, convention in conventions(rows).items():
        values = {key: own[lead + ending].dropna() for key, own in _methods(runs, lead + ending)}
        leading = [key for key, own in values.items() if key[0] != HEAD_ONLY and len(own) > 1]
        if not leading:
            return None
        first, name = leading[0], f"{heading(lead)} {convention}".strip()
        column = found[f"{name}, less {label(*first)}"] = {}
        for key, own in values.items():
            seeds = own.index.intersection(values[first].index)
            ours, theirs = own[seeds].tolist(), values[first][seeds].tolist()
            column[key] = str(paired_difference(ours, theirs)) if len(seeds) > 1 else ""
        column[first] = "the first"
    frame = pd.DataFrame(found)
    frame.index = frame.index.set_names(["method", "recipe"])
    return frame if ((frame != "").sum() > 1).any() else None


def label(method: str, recipe: str) -> str:
    """Return how a figure calls a method: with its recipe where it is not the corrected one."""
    return method if recipe == "corrected" else f"{method}, {recipe}"


def drawn(rows: pd.DataFrame, scenario: str, table: str) -> Figure:
    """Draw H and the accuracy on what was forgotten earlier: points with their spread over seeds.

    A row a method, best H first, a panel a metric and convention; published figures are marked in the panels
    of the convention that they have.
    """
    printed, theirs = _printed(rows, scenario, table), next(iter(conventions(rows)))
    methods, panels = _methods(by_run(rows, scenario), metrics(rows)[0] + theirs), []
    for metric, ending, title in views(rows):
        values = {label(*key): own[metric + ending] for key, own in methods}
        marks = {label(*key): printed.get(printed_name(key[0]), {}).get(metric, NAN) for key, _ in methods}
        spreads = {name: (own.mean(), own.std()) for name, own in values.items()}
        panels.append(plots.Points(title, spreads, marks if ending == theirs else {}))
    return plots.points(panels, "percent", "published")
