"""What an erasure did, as one HTML file without outside parts: pictures, numbers, configuration."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from minigslora.course import plots
from minigslora.course.runs import device_name, versions
from minigslora.datasets.images import spread
from minigslora.erasure import Erasure
from minigslora.errors import ModelError
from minigslora.files import write_text, written_whole
from minigslora.text import some

PICTURES = 8
"""How many photographs a row of the gallery shows."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
p { max-width: 60rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { text-align: right; padding: .2rem .7rem; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% } figure { margin: 1rem 0 } figcaption { color: #555; font-size: .9rem }
"""

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


@dataclass
class Page:
    """An HTML page in the making; everything given as text is escaped.

    Attributes:
        title: what stands in the window and on top.
        parts: the finished pieces, in order.
    """

    title: str
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Add a heading."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def figure(self, figure: Figure, caption: str, alt: str) -> None:
        """Add a figure as a picture inside the page, and close it."""
        picture = base64.b64encode(png(figure)).decode()
        plt.close(figure)
        self.parts.append(
            f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def table(self, frame: pd.DataFrame) -> None:
        """Add a table, numbers with one digit after the point."""
        shown = frame.reset_index()
        self.parts.append(shown.to_html(index=False, border=0, float_format=lambda v: f"{v:.1f}", na_rep="–"))

    def values(self, values: Mapping[str, Any]) -> None:
        """Add names and values as a table of two columns."""
        rows = "".join(
            f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>"
            for k, v in values.items()
        )
        self.parts.append(f"<table>{rows}</table>")

    def write(self, path: Path) -> None:
        """Write the page whole."""
        title = html.escape(self.title)
        write_text(
            path,
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n" + "\n".join(self.parts) + "\n"
            "</body></html>\n",
        )


def png(figure: Figure, few_colours: bool = False) -> bytes:
    """Return a figure as the bytes of a PNG file; of 256 colours it is a third of the size."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight")
    if not few_colours:
        return drawn.getvalue()
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def forgotten(erasure: Erasure) -> list[int]:
    """Return the ids of all classes that the model forgot, in order, those of earlier calls included."""
    return [row for entry in erasure.ledger for row in entry.rows]


def before_after(erasure: Erasure, before: Tensor, after: Tensor) -> Figure:
    """Show test images of forgotten and of kept classes with what the model said before and says now.

    The images are evenly spaced over the test split, not picked by result.

    Args:
        erasure: the finished erasure.
        before: class predicted by the pre-trained model for each test image, (N,).
        after: class predicted now, (N,).
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
    """Return in three lines what became of the last request, of the kept classes, and H.

    Raises:
        ModelError: where every request was revoked.
    """
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


def write(
    erasure: Erasure,
    before: Tensor,
    out: Path,
    title: str,
    settings: Mapping[str, Any],
    further: str = "",
) -> Path:
    """Write ``report.html``, ``table.csv`` and ``before_after.png`` into ``out``.

    Args:
        erasure: the finished erasure.
        before: class predicted by the pre-trained model for each test image, (N,).
        out: the folder.
        title: the page's title.
        settings: what was asked for, as shown.
        further: a closing paragraph.

    Returns:
        The path of the page.

    Raises:
        OutputError: where the folder cannot be written.
    """
    plots.style()
    page = Page(title)
    page.text(
        f"Erased from {erasure.problem.data.name}: {len(forgotten(erasure))} of "
        f"{len(erasure.problem.data.classes)} classes, with {erasure.method.name}, in "
        f"{len(erasure.reports)} request{'s' if len(erasure.reports) > 1 else ''}."
    )
    page.parts.append(f"<pre>{html.escape(summary(erasure))}</pre>")
    for warning in warnings(erasure):
        page.text(warning)
    _add_pictures(page, erasure, before, out)
    page.heading("Numbers")
    page.table(table(erasure))
    page.text(
        "Accuracies in percent on the test split, over the whole head: Acc_f of the classes forgotten by "
        "the request, Acc_r of those kept, Acc_o of those forgotten by earlier requests. Drop is the fall "
        "of Acc_f; H is the harmonic mean of Acc_r and Drop."
    )
    page.heading("What the model has forgotten")
    page.table(ledger_table(erasure))
    page.text("The erased model's file carries this ledger in its header; minigslora doctor FILE shows it.")
    _add_configuration(page, erasure, settings)
    if further:
        page.text(further)
    with written_whole(out / "table.csv") as temporary:
        erasure.table().to_csv(temporary, errors="backslashreplace")
    page.write(out / "report.html")
    return out / "report.html"


def ledger_table(erasure: Erasure) -> pd.DataFrame:
    """Return what the model has forgotten, a line a request, those of earlier calls included."""
    lines = [{**vars(entry), "classes": ", ".join(entry.classes)} for entry in erasure.ledger]
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


def _add_pictures(page: Page, erasure: Erasure, before: Tensor, out: Path) -> None:
    after = erasure.problem.predict("test").argmax(dim=1)
    page.heading("Before and after")
    figure = before_after(erasure, before, after)
    with written_whole(out / "before_after.png") as temporary:
        temporary.write_bytes(png(figure, few_colours=True))
    page.figure(
        figure,
        "Test images, evenly spaced, with the name the model gives them: green where it is right, "
        "vermilion where it is wrong. Of a forgotten class every frame should turn vermilion; of the "
        "others none should change.",
        "Test images of forgotten and of kept classes with the model's answers before and after",
    )
    if found := norms(erasure):
        page.heading("Where the model was changed")
        page.figure(
            plots.group_norms(found),
            "Norm of each group's low-rank update s·B·A; a group at 0 has exactly the pre-trained weights.",
            "Bars of the norm of the update of each group",
        )


def _add_configuration(page: Page, erasure: Erasure, settings: Mapping[str, Any]) -> None:
    page.heading("How it was done")
    page.values(settings)
    page.values({**asdict(erasure.method.config), **asdict(erasure.method.training)})
    page.values({**versions(), "device": device_name(erasure.problem.device)})
