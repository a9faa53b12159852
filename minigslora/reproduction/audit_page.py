"""What the audits found of a model, as one HTML file without outside parts: verdicts, figures, limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from minigslora.audit.prototype import SHOTS
from minigslora.audit.table import AUDITS
from minigslora.audit.verdict import Band
from minigslora.course import plots
from minigslora.device import versions
from minigslora.reproduction.rendering import render

if TYPE_CHECKING:
    from minigslora.audit.report import Report

ENDS = {"original": "before", "head-only": "old", "model": "forget"}
"""The models that are drawn beside the oracles' band, with their colours."""


def curves(report: Report, audit: str) -> Figure | None:
    """Draw an audit's curves, a panel each, with the band of the oracles; None where it has none."""
    panels = []
    for name, lines in report.curves.get(audit, {}).items():
        theirs = [values for who, values in lines.items() if who.startswith("oracle ")]
        points = list(zip(*theirs, strict=True))
        bands = [Band.of(values) for values in points] if len(theirs) > 1 else []
        middle = [sum(values) / len(values) for values in points]
        panels.append(
            plots.Banded(
                title=name,
                lines={who: lines[who] for who in ENDS if who in lines},
                middle=middle,
                reach=[band.reach for band in bands],
                ticks=_ticks(report, audit, len(lines["model"])),
            )
        )
    label = "CKA" if audit == "similarity" else "accuracy on the forgotten, %"
    return plots.banded(panels, AUDITS[audit].over, label, ENDS) if panels else None


def _ticks(report: Report, audit: str, count: int) -> list[str]:
    if audit == "relearning":
        every = report.asked["relearning"]["every"]
        return [str(i * every) for i in range(count)]
    return [str(k) for k in SHOTS] if audit == "prototype" else [str(i) for i in range(1, count + 1)]


def judged(report: Report, audit: str) -> Figure | None:
    """Draw an audit's judged figures as points beside the oracles' band; None where none is judged."""
    rows = {
        line.figure: plots.Compared(
            {"original": line.original, "head-only": line.head_only, "model": line.value},
            line.oracles,
            (line.band.mean, line.band.reach) if line.band else None,
        )
        for line in report.of(audit)
        if line.verdict
    }
    return plots.beside_band(rows, ENDS) if rows else None


def write(report: Report, path: Path) -> Path:
    """Write the page; return its path."""
    from minigslora.audit.report import LIMITS, PLAIN

    plots.style()
    done = [AUDITS[name] for name in dict.fromkeys(line.audit for line in report.lines)]
    return render(
        "audit.html",
        path,
        title=f"Is it forgotten? {report.asked['model']} on {report.asked['data']}",
        report=report,
        plain=PLAIN,
        said={audit.name: report.figures_of(audit.name) for audit in done},
        done=done,
        curves={audit.name: curves(report, audit.name) for audit in done},
        judged={audit.name: judged(report, audit.name) for audit in done},
        tables={audit.name: report.table(audit.name).droplevel("audit") for audit in done},
        checks=report.checks() if report.asked["oracles"] > 1 else None,
        limits=LIMITS,
        versions=versions(),
    )
