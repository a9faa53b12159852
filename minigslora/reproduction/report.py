"""What an erasure did, as one HTML file without outside parts: pictures, numbers, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from minigslora import ledger
from minigslora.course import plots
from minigslora.datasets.images import spread
from minigslora.device import device_name, versions
from minigslora.erasure import Erasure
from minigslora.errors import ModelError
from minigslora.files import written_whole
from minigslora.reproduction.rendering import render
from minigslora.text import some

PICTURES = 8
"""How many photographs a row of the gallery shows."""

COLUMNS: dict[str, str] = {
    "forgot": "forgot",
    "acc_f_before": "Acc_f before",
    "acc_f": "Acc_f",
    "acc_r_before": "Acc_r before",
    "acc_r": "Acc_r",
    "acc_o": "Acc_o",
    "drop": "Drop",
    "h": "H",
    "zero_group_ratio": "zero-group ratio",
    "trained_percent": "trained, % of weights",
    "seconds": "seconds",
}
"""Columns of an erasure's table that a report shows, and their headings."""


SPLIT_BY_US = (
    "These images have no test split of their own. It was drawn from the class folders, so that the model "
    "may have been trained on these very images, and accuracies may be higher than on new ones."
)


def forgotten(erasure: Erasure) -> list[int]:
    """Return the ids of all classes that the model forgot, in order, those of earlier calls included."""
    return [row for entry in erasure.ledger for row in entry.rows]


def before_after(erasure: Erasure, before: Tensor, after: Tensor) -> Figure:
    """Show test images of forgotten and of kept classes with what the model said before and says now.

    The images are evenly spaced over the test split, not picked by result; ``before`` and ``after`` are the
    classes predicted for each test image, (N,).
    """
    test, gone = erasure.problem.data.test, forgotten(erasure)
    kept = [c for c in range(len(test.classes)) if c not in gone]
    rows = []
    for what, classes in (("forgotten", gone), ("kept", kept)):
        chosen = spread(test.of_classes(classes), PICTURES)
        images = test.images[chosen]
        for when, predicted in (("before", before), ("after", after)):
            said = predicted[chosen].tolist()
            titles = [_short(test.classes[c]) for c in said]
            good = [c == label for c, label in zip(said, test.labels[chosen].tolist(), strict=True)]
            rows.append(plots.PictureRow(f"{what},\n{when}", images, titles, good))
    return plots.comparison(rows)


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def table(erasure: Erasure) -> pd.DataFrame:
    """Return the erasure's table with the columns that a report shows."""
    full = erasure.table()
    names = {name: heading for name, heading in COLUMNS.items() if name in full}
    return full[list(names)].rename(columns=names)


def summary(erasure: Erasure) -> str:
    """Return in three lines what became of the last request, of the kept classes, and H."""
    if not erasure.reports:
        raise ModelError("every request was revoked; there is nothing to report on")
    report = erasure.reports[-1]
    m, names = report.metrics, [erasure.problem.data.classes[c] for c in report.forget]
    named = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    gone, unmeasured = forgotten(erasure), erasure.unmeasured
    kept = sum(
        c not in gone and name not in unmeasured for c, name in enumerate(erasure.problem.data.classes)
    )
    width = max(len(named) + len("forgotten: "), len(f"kept: {kept} others"))
    lines = [
        f"{'forgotten: ' + named:{width}}  {m['acc_f_before']:5.1f} % → {m['acc_f']:5.1f} %",
        f"{f'kept: {kept} others':{width}}  {m['acc_r_before']:5.1f} % → {m['acc_r']:5.1f} %",
        f"{'H-mean of kept accuracy and drop':{width}}  {m['h']:5.1f}",
    ]
    if "acc_o" in m:
        lines.insert(1, f"{'forgotten earlier':{width}}            {m['acc_o']:5.1f} %")
    if unmeasured:
        lines.append(f"not measured, since the test split has no image of them: {some(unmeasured)}")
    return "\n".join(lines)


def norms(erasure: Erasure) -> dict[str, dict[str, float]]:
    """Return each request's norm by group; empty for a method without groups."""
    found = {
        r.task: {k.removeprefix("norm/"): v for k, v in r.figures.items() if k.startswith("norm/")}
        for r in erasure.reports
    }
    return {task: values for task, values in found.items() if values}


def ledger_table(erasure: Erasure) -> pd.DataFrame:
    """Return what became of the model, a line a request or other event, those of earlier calls included."""
    events = ledger.events(erasure.model)
    lines = [{**vars(entry), "classes": ", ".join(entry.classes)} for entry in events]
    return pd.DataFrame(lines).drop(columns="rows").set_index("request")


def warnings(erasure: Erasure) -> list[str]:
    """Return what a reader of the numbers must know: what they do not say, and what came to nothing."""
    found = []
    if erasure.problem.data.split_by_us:
        found.append(SPLIT_BY_US)
    found += [
        f"Request {report.task} shows no effect: Acc_f was {report.metrics['acc_f_before']:.1f} % before and "
        f"is {report.metrics['acc_f']:.1f} % now."
        for report in erasure.without_effect
    ]
    return found


def write(
    erasure: Erasure,
    before: Tensor,
    out: Path,
    title: str,
    settings: Mapping[str, Any],
    further: str = "",
) -> Path:
    """Write ``before_after.png``, ``table.csv`` and ``report.html`` into ``out``; return the page's path.

    ``before`` is the class that the pre-trained model predicted for each test image, (N,), ``settings`` what
    was asked for, and ``further`` a closing paragraph.

    Raises:
        ModelError: where every request was revoked.
    """
    plots.style()
    said, problem = summary(erasure), erasure.problem
    after = problem.predict("test").argmax(dim=1)
    picture = plots.png(before_after(erasure, before, after), colours=256)
    with written_whole(out / "before_after.png") as temporary:
        temporary.write_bytes(picture)
    with written_whole(out / "table.csv") as temporary:
        erasure.table().to_csv(temporary, errors="backslashreplace")
    changed = norms(erasure)
    return render(
        "erasure.html",
        out / "report.html",
        title=title,
        data=problem.data,
        forgotten=forgotten(erasure),
        method=erasure.method.name,
        requests=len(erasure.reports),
        summary=said,
        warnings=warnings(erasure),
        before_after=picture,
        norms=plots.group_norms(changed) if changed else None,
        numbers=table(erasure),
        ledger=ledger_table(erasure),
        configuration=(
            settings,
            {**erasure.method.settings, **asdict(erasure.method.training)},
            {**versions(), "device": device_name(problem.device)},
        ),
        further=further,
    )
