"""A dossier as one HTML file without outside parts, for who was asked to forget and who checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from minigslora.audit.report import LIMITS, PLAIN, Report
from minigslora.audit.table import AUDITS
from minigslora.course import plots
from minigslora.dossier import TOLERANCE, counted, named_in
from minigslora.reproduction import audit_page
from minigslora.reproduction.rendering import PAGES, render

FIGURES: dict[str, str] = {
    "acc_f_before": "forgotten, before",
    "acc_f": "forgotten, after",
    "acc_r_before": "kept, before",
    "acc_r": "kept, after",
    "acc_o": "forgotten earlier",
    "acc_m": "kept without images",
}
"""The accuracies of a request that a page shows, and their headings."""

UNMEASURED = "not measured"


def plain(value: Any) -> str:
    """Say a value of a JSON file without brackets and quotation marks."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return "–" if value is None else str(value)


def served(run: Mapping[str, Any]) -> pd.DataFrame:
    """Return the accuracies of a run's requests, a row each, in percent."""
    rows = {
        request["task"]: {heading: request["metrics"].get(key) for key, heading in FIGURES.items()}
        for request in run["requests"]
    }
    return pd.DataFrame.from_dict(rows, "index").dropna(axis="columns", how="all").rename_axis("request")


def accuracies(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what was measured of forgotten and kept classes, a line each, in words."""

    def said(value: float | None) -> str:
        return UNMEASURED if value is None else f"{value:.1f} %"

    return [
        {
            "classes": key,
            "images": str(of["images"]),
            "before": said(of["before"]),
            "after": said(of["after"]),
        }
        for key, of in measured["accuracy"].items()
    ]


def in_short(values: Mapping[str, Any], report: Report | None, others: Sequence[str]) -> dict[str, str]:
    """Return the dossier's answers in a few lines: what was asked, what the model answers and knows.

    ``others`` are classes that only the ledger or only the audits name.
    """
    entries = values["ledger"]
    names = named_in(entries)
    dates = sorted({entry["date"] for entry in entries if entry.get("date")})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "no date is given"
    asked = f"{counted(entries)} in the ledger, {len(names)} classes named, {when}"
    answers = f"accuracy on the forgotten and on the kept classes: {UNMEASURED}"
    if values["measured"]:
        answers = "; ".join(
            f"{of['classes']} classes: {of['before']} before, {of['after']} after"
            for of in accuracies(values["measured"])
        )
    elif values["run"]:
        last = values["run"]["requests"][-1]["metrics"]
        answers = "; ".join(
            f"{word} classes: {last[f'acc_{k}_before']:.1f} % before, {last[f'acc_{k}']:.1f} % after"
            for k, word in (("f", "forgotten"), ("r", "kept"))
        )
        answers += f" (of the last request, {values['run']['requests'][-1]['task']})"
    knows = f"audits: {UNMEASURED}"
    if report:
        by = {v: [name for name, found in report.verdicts.items() if found == v] for v in PLAIN}
        knows = "; ".join(f"{verdict}: {', '.join(by[verdict])}" for verdict in PLAIN if by[verdict])
        knows += " (not asked about exactly the classes of the ledger)" if others else ""
    return {"requests": asked, "what the model answers": answers, "what attacks still find": knows}


PAGES.filters["plain"] = plain


def write(values: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a dossier, as :func:`minigslora.dossier.make` gives it; return its path."""
    plots.style()
    report = Report.from_values(values["audit"], "the dossier") if values["audit"] else None
    found = list(report.verdicts) if report else []
    ledger = [dict(entry) for entry in values["ledger"]]
    others = sorted({*report.asked["forgotten"]} ^ {*named_in(values["ledger"])}) if report else []
    return render(
        "dossier.html",
        path,
        title=f"What was forgotten: {values['file']['name']}",
        values_of=values,
        record=path.with_suffix(".json").name,
        short=in_short(values, report, others),
        ledger=ledger,
        served=served(values["run"]) if values["run"] else None,
        accuracies=accuracies(values["measured"]) if values["measured"] else [],
        report=report,
        others=others,
        said={name: report.figures_of(name) for name in found} if report else {},
        judged={name: audit_page.judged(report, name) for name in found} if report else {},
        audits=AUDITS,
        meaning=PLAIN,
        plainly=lambda pairs: {key: plain(value) for key, value in pairs.items()},
        limits=LIMITS,
        tolerance=TOLERANCE,
        unmeasured=UNMEASURED,
    )
