"""What came of a grid, as tables in CSV and as one HTML page.

``rows.csv`` has a line per run and task, ``comparison.csv`` ours beside the published numbers (mean and
standard deviation over seeds), ``report.html`` both to be read, with figures, times, what failed and what is
open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from minigslora.course import plots
from minigslora.errors import ConfigError
from minigslora.files import read_json, written_whole
from minigslora.reproduction import published, standing
from minigslora.reproduction.benchmark import beside, printed_name, summary, wide
from minigslora.reproduction.grid import read_grid
from minigslora.reproduction.rendering import render


@dataclass(frozen=True)
class Collected:
    """The runs of a grid of a published table.

    Attributes:
        table: which one.
        rows: a line per finished run and task.
        runs: a line per finished run: its label, parameters, versions, device, seconds.
        failed: the error of each failed run by label.
        missing: labels of runs that have not been carried out.
        data: what all were run on: a data set's name, or a folder.
    """

    table: str
    rows: pd.DataFrame
    runs: pd.DataFrame
    failed: Mapping[str, str]
    missing: Sequence[str]
    data: str

    @property
    def model(self) -> str:
        """What the runs began with, in words."""
        weights = self.runs["parameters"].iloc[0].get("weights")
        return Path(weights).name if weights else "the model that ships with it"


def collect(folder: Path) -> Collected:
    """Return what the runs of the grid noted in ``folder`` have left.

    Raises:
        ConfigError: where there is no grid, or not one finished run.
    """
    noted = read_grid(folder)
    rows, runs, missing = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    failed = {run["label"]: run.get("error", "") for run in noted["runs"] if run["status"] == "failed"}
    for run in noted["runs"]:
        result = Path(run["folder"]) / "result.json"
        if not result.is_file():
            if run["label"] not in failed:
                missing.append(run["label"])
            continue
        try:
            found = read_json(result)
            kept = {key: found[key] for key in ("seconds", "device", "threads", "parameters", "versions")}
            rows += found["metrics"]["rows"]
        except (OSError, ValueError, KeyError, TypeError):
            failed[run["label"]] = f"{result} is damaged; remove it and run the grid again"
            continue
        runs.append({"run": run["label"], **kept, "folder": run["folder"]})
    if not rows:
        reason = next(iter(failed.values()), "none has been carried out")
        raise ConfigError(f"no run of the grid in {folder} has finished: {reason}")
    data = runs[0]["parameters"].get("data_set") or noted.get("data") or "the profile's data"
    return Collected(noted["table"], pd.DataFrame(rows), pd.DataFrame(runs), failed, missing, data)


MOST_LINES = 8
"""How many lines a panel may have and still be read; more are drawn as a table."""


def progress(rows: pd.DataFrame, scenario: str, table: str) -> Figure | None:
    """Draw H and Acc_o over the requests of a scenario, ours and the published; None for a single one.

    A few methods are lines; many are the rows of a heat map. Where ours have a figure with the head's margin,
    the published ones, which carry it, stand beside that one and never beside the margin-free.
    """
    part = rows[rows["scenario"] == scenario]
    tasks = sorted(part["task"].unique())
    if len(tasks) < 2:
        return None
    printed = published.read(table)
    by_method = dict(list(printed[printed["scenario"] == scenario].set_index("task").groupby("method")))
    there = [name for name in map(printed_name, part["method"].unique()) if name in by_method]
    theirs, panels = next(iter(standing.conventions(part))), []
    for metric, ending, title in standing.views(part):
        lines = {
            f"{method}, {recipe}": own.groupby("task")[metric + ending].mean().reindex(tasks).tolist()
            for (method, recipe), own in part.groupby(["method", "recipe"], sort=False)
        }
        for name in there:
            known = by_method[name].reindex(tasks).get(metric if ending == theirs else "")
            lines[f"{name}, published"] = [standing.NAN] * len(tasks) if known is None else known.tolist()
        panels.append(plots.Panel(title, "percent", lines, dashed=[f"{name}, published" for name in there]))
    columns = [str(t) for t in tasks]
    if len(panels[0].lines) <= MOST_LINES:
        return plots.curves(panels, "request", columns)
    return plots.tables({panel.title: panel.lines for panel in panels}, columns, "request")


def write(folder: Path) -> Path:
    """Collect a grid; write ``rows.csv``, ``comparison.csv`` and ``report.html``, whose path is returned.

    Raises:
        ConfigError: where there is no grid, or not one finished run.
    """
    found = collect(folder)
    comparison = beside(found.rows, found.table, found.data)
    for name, frame in (("rows.csv", found.rows), ("comparison.csv", comparison)):
        with written_whole(folder / name) as temporary:
            frame.round(4).to_csv(temporary, index=False)
    return show(found, folder / "report.html")


def show(found: Collected, path: Path) -> Path:
    """Write the page of a grid's runs; return its path."""
    plots.style()
    table, present = published.table(found.table), set(found.rows["scenario"])
    parameters = list(found.runs["parameters"])
    common = {k: v for k, v in parameters[0].items() if all(other.get(k) == v for other in parameters)}
    runs = found.runs[["run", "seconds", "device", "threads", "folder"]].set_index("run")
    return render(
        "grid.html",
        path,
        title=f"{table.label} on {Path(found.data).name} with {found.model}",
        found=found,
        table=table,
        margin="h_margin" in found.rows,
        metrics=list(map(standing.heading, standing.metrics(found.rows))),
        control=standing.HEAD_ONLY in set(found.rows["method"]),
        scenarios=[_scenario(found, s.name) for s in table.scenarios if s.name in present],
        absent=[s.name for s in table.scenarios if s.name not in present],
        summary=summary(standing.ranked(found.rows)),
        common={**common, "versions": found.runs["versions"].iloc[0]},
        runs=runs.assign(
            parameters=[", ".join(f"{k} = {v}" for k, v in p.items() if k not in common) for p in parameters]
        ),
    )


def _scenario(found: Collected, name: str) -> dict[str, Any]:
    """Return what the page shows of one scenario."""
    rows = found.rows[found.rows["scenario"] == name]
    requests = wide(beside(standing.ranked(rows), found.table, found.data), name)
    free = requests.columns.get_level_values(1) == "ours"
    apart = (requests.loc[:, ~free], requests.loc[:, free]) if "h_margin" in rows else (requests,)
    return {
        "name": name,
        "figure": standing.drawn(rows, name, found.table),
        "standing": {
            heading: standing.standing(rows, name, found.table, ending, found.data)
            for ending, heading in standing.conventions(rows).items()
        },
        "paired": standing.paired(rows, name),
        "requests": apart,
    }
