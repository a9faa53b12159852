"""What the audits found of one model: a table, a verdict an audit, and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigslora.audit.table import AUDITS
from minigslora.audit.verdict import Band, Side, Verdict, false_alarms, judge, overall
from minigslora.errors import DataError
from minigslora.files import write_json

if TYPE_CHECKING:
    import pandas as pd

IMAGES, QUESTION = "images of a class that the attacker has", "fingerprint of images and attacker"
"""Keys of what was asked, without which an audit cannot be run again."""

LIMITS = (
    "A pass is no proof of erasure: an attack that is not here, or one of these with more images or other "
    "constants, may find what they do not.",
    "Every verdict is relative to the reference models given, and to this run's seed, images and classes.",
    "A model as good as an oracle still tells forgotten people apart, as it does all people: that is what "
    "features of faces are for.",
    "Of many true oracles an audit would flag about one in twenty, by the width of the band.",
)
"""What no report of audits proves."""

PLAIN: dict[str, str] = {
    "passes": "the model lies among those that never saw the forgotten classes, or beyond them",
    "remembers": "the model lies off the band of those that never saw the forgotten classes",
    "cannot tell here": "a model that surely remembers lies in these oracles' band, too",
    "no band": "one reference model has no spread; its figure stands beside, and at least two make a band",
    "no oracle": "without a model that never saw the forgotten classes, a figure says nothing by itself",
}
"""The verdicts in plain words."""


@dataclass(frozen=True)
class Line:
    """One figure of one audit.

    Attributes:
        audit: its name.
        figure: what is measured; in percent where the name says nothing else.
        value: of the model under audit; NaN where it could not be measured.
        original: the same of the original model; NaN without one.
        head_only: of the original with its forgotten rows erased; NaN without one.
        oracles: of each reference model.
        unseen: what the model under audit and the original give of classes that no model ever saw, in the
            place of the forgotten; NaN where that was not measured.
    """

    audit: str
    figure: str
    value: float
    original: float
    head_only: float
    oracles: tuple[float, ...]
    unseen: tuple[float, float] = (math.nan, math.nan)

    @property
    def side(self) -> Side | None:
        """Where a model lies that remembers; None for a figure that is shown only."""
        return AUDITS[self.audit].judged.get(self.figure)

    @property
    def band(self) -> Band | None:
        """Where one more oracle is expected; None of fewer than two."""
        return Band.of(self.oracles) if len(self.oracles) > 1 else None

    @property
    def verdict(self) -> Verdict | None:
        """What the figure says; None for one that is shown only, or was not measured."""
        if self.side is None or math.isnan(self.value):
            return None
        control = self.original if AUDITS[self.audit].control == "original" else self.head_only
        return judge(self.value, self.oracles, self.side, None if math.isnan(control) else control)

    def finds(self, value: float) -> bool | None:
        """Whether another model of this figure is found to remember; None where that cannot be said."""
        if self.side is None or self.band is None or math.isnan(value):
            return None
        return self.band.left(value, self.side)


@dataclass(frozen=True)
class Report:
    """What all audits found of one model.

    Attributes:
        asked: what was asked: the model, the classes, the seed, the references.
        lines: a figure each.
        curves: by audit and curve, the values by model.
        skipped: why an audit did not run, by its name.
    """

    asked: dict[str, Any]
    lines: tuple[Line, ...]
    curves: dict[str, dict[str, dict[str, list[float]]]]
    skipped: dict[str, str]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of each audit that judges: one figure that remembers decides."""
        found: dict[str, list[Verdict]] = {}
        for line in self.lines:
            if verdict := line.verdict:
                found.setdefault(line.audit, []).append(verdict)
        return {name: overall(verdicts) for name, verdicts in found.items()}

    def of(self, audit: str) -> tuple[Line, ...]:
        """Return the lines of one audit."""
        return tuple(line for line in self.lines if line.audit == audit)

    def table(self, *audits: str) -> pd.DataFrame:
        """Return a row a figure, of all audits or of some: the models', the oracles' band, the verdict."""
        import pandas as pd

        rows = []
        for line in self.lines:
            if audits and line.audit not in audits:
                continue
            middle = sum(line.oracles) / len(line.oracles) if line.oracles else float("nan")
            reach = line.band.reach if line.band else float("nan")
            models = {"model": line.value, "original": line.original, "head-only": line.head_only}
            band = {"oracles": middle, "band ±": reach, "verdict": line.verdict or ""}
            rows.append({"audit": line.audit, "figure": line.figure, **models, **band})
        return pd.DataFrame(rows).set_index(["audit", "figure"]).dropna(axis="columns", how="all")

    def checks(self) -> pd.DataFrame:
        """Return the audit of the audits, a row a judged figure.

        Whether the original and head-only are found to remember, and how many oracles are, each held out of
        the band once. An audit that finds neither of the first two tells nothing on these data; one that
        finds many oracles cries wolf. "never seen" is the figure of strangers' classes in the place of the
        forgotten, on the model under audit and on the original: what is had without any memory.
        """
        import pandas as pd

        words = {True: "found", False: "not found", None: ""}
        rows = []
        for line in self.lines:
            if line.side is not None:
                flagged, total = false_alarms(line.oracles, line.side)
                row = {"audit": line.audit, "figure": line.figure}
                found = {
                    "original": words[line.finds(line.original)],
                    "head-only": words[line.finds(line.head_only)],
                }
                ours, before = ("" if math.isnan(v) else f"{v:.1f}" for v in line.unseen)
                never = {"never seen": ours, "never seen, original": before}
                alarms = f"{flagged} of {total}" if total else ""
                rows.append({**row, **found, "oracles, held out": alarms, **never})
        return pd.DataFrame(rows).set_index(["audit", "figure"])

    def summary(self) -> str:
        """Return a line an audit: its verdict, and the figures that make it."""
        width = max(map(len, AUDITS))
        lines = []
        for name in AUDITS:
            if name in self.skipped:
                lines.append(f"{name:{width}}  not run: {self.skipped[name]}")
            elif name in self.verdicts:
                lines.append(f"{name:{width}}  {self.verdicts[name]:16}  {self.figures_of(name)}")
        return "\n".join(lines)

    def figures_of(self, audit: str) -> str:
        """Say the judged figures of an audit."""
        return "; ".join(self.said(line) for line in self.of(audit) if line.verdict)

    @staticmethod
    def said(line: Line) -> str:
        """Say one figure beside the oracles', or the original's where there are none."""
        text = f"{line.figure} {line.value:.1f}"
        if line.band:
            return f"{text} (oracles {line.band.mean:.1f} ± {line.band.reach:.1f})"
        if line.oracles:
            return f"{text} (oracle {line.oracles[0]:.1f})"
        return text if math.isnan(line.original) else f"{text} (original {line.original:.1f})"

    def values(self) -> dict[str, Any]:
        """Return all of it as plain values; what was not measured is None."""
        lines = [
            {
                "audit": line.audit,
                "figure": line.figure,
                "model": _number(line.value),
                "original": _number(line.original),
                "head-only": _number(line.head_only),
                "oracles": [_number(v) for v in line.oracles],
                "never seen": [_number(v) for v in line.unseen],
                "band": [line.band.mean, line.band.reach] if line.band else None,
                "verdict": line.verdict,
            }
            for line in self.lines
        ]
        return {
            "asked": self.asked,
            "verdicts": self.verdicts,
            "figures": lines,
            "curves": self.curves,
            "skipped": self.skipped,
            "unproven": [*LIMITS, *(f"{a.name}: {a.unproven}" for a in AUDITS.values())],
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> Report:
        """Return the report of an ``audit.json``'s values; verdicts are taken anew from the figures.

        Raises:
            DataError: for values that are damaged, of audits that are not known, or whose verdicts are not
                those of their figures.
        """
        try:
            lines = tuple(_line(entry) for entry in values["figures"])
            if unknown := {line.audit for line in lines} - set(AUDITS):
                raise ValueError(f"it names the audit {unknown.pop()!r}, which this version does not have")
            report = cls(dict(values["asked"]), lines, dict(values["curves"]), dict(values["skipped"]))
            if (found := report.verdicts) != values["verdicts"]:
                raise ValueError(f"its figures say {found}, it says {values['verdicts']}")
        except KeyError as problem:
            raise DataError(f"{where} is no report of minigslora audit: it lacks {problem}") from None
        except (TypeError, ValueError, AttributeError) as problem:
            raise DataError(
                f"{where} is damaged, or no report of minigslora audit ({problem}); make it anew"
            ) from None
        return report

    def write(self, folder: str | Path) -> Path:
        """Write ``audit.json`` and ``audit.html`` into a folder; return the page's path."""
        from minigslora.reproduction import audit_page  # draws, and so loads matplotlib

        target = Path(folder)
        write_json(target / "audit.json", self.values())
        return audit_page.write(self, target / "audit.html")


def _number(value: float) -> float | str | None:
    """Return a number as JSON has it: NaN is none, infinity text."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"


def _line(entry: Mapping[str, Any]) -> Line:
    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    ours, theirs = entry["never seen"]
    return Line(
        audit=entry["audit"],
        figure=entry["figure"],
        value=number(entry["model"]),
        original=number(entry["original"]),
        head_only=number(entry["head-only"]),
        oracles=tuple(number(value) for value in entry["oracles"]),
        unseen=(number(ours), number(theirs)),
    )


def measured(values: Sequence[float]) -> tuple[float, ...]:
    """Return those that are numbers."""
    return tuple(v for v in values if not math.isnan(v))
