"""The published tables, and the scenarios that their rows belong to.

Source: arXiv 2501.09705, tables 2 to 5, and arXiv 2601.13578 for rows that it adds to them
(``published/README.md`` says how they are to be read).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from minigslora.errors import ConfigError
from minigslora.tasks import Setting

FOLDER = Path(__file__).with_name("published")
LATER = FOLDER / "fgoriu.csv"
"""Rows that a later paper adds to the tables."""

METRICS = ("h", "acc_r", "acc_f", "acc_o", "acc_m")
"""The columns of a published table, as far as it has them."""

DETECTION_METRICS = ("h50", *(f"{stem}_{subset}" for stem in ("ap", "ap50") for subset in "rfom"))
"""What is reported of a detector beside H; no paper prints it."""

HEADINGS = {
    metric: metric.capitalize() if metric.startswith("acc") else metric.replace("ap", "AP").replace("h", "H")
    for metric in (*METRICS, *DETECTION_METRICS)
}
"""What a metric is called in tables."""


@dataclass(frozen=True)
class Scenario:
    """What is asked of a method in some rows of a published table.

    Attributes:
        name: "100-5/full", "four/4-shot", …: the requests and the images at hand.
        setting: the same as a :class:`~minigslora.tasks.Setting` for 100 classes.
        rows: values of the CSV's columns that mark its rows.
    """

    name: str
    setting: Setting
    rows: tuple[tuple[str, str], ...] = ()

    def at(self, order: int | None = None) -> Setting:
        """Return the setting, with a pinned class order (``tasks.PUBLISHED_ORDER``)."""
        return Setting(**{**vars(self.setting), "order": order})


@dataclass(frozen=True)
class Table:
    """One published table.

    Attributes:
        name: what it is called in commands.
        title: what is asked.
        notebook: the notebook that runs its scenarios.
        scenarios: its parts, in print order.
        parameters: what a run of a grid asks of the notebook besides: to leave out what is for its
            reader only.
        data: the paper's own, as commands call them; "" where nothing was printed.
    """

    name: str
    title: str
    notebook: str
    scenarios: tuple[Scenario, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""

    @property
    def label(self) -> str:
        """What it is called in text: "Table 3"; "Strangers" of a setting that no paper has."""
        return self.name.replace("table", "table ").capitalize()

    @property
    def csv(self) -> Path | None:
        """The file of what was printed; None where nothing was, so that ours stand alone."""
        return next(FOLDER.glob(f"{self.name}_*.csv"), None)

    def scenario(self, name: str) -> Scenario:
        """Return a scenario by name, or raise a :class:`ConfigError` that names those there are."""
        named = {scenario.name: scenario for scenario in self.scenarios}
        if name not in named:
            raise ConfigError(f"{self.name} has no scenario {name!r}; it has {', '.join(named)}")
        return named[name]


SHOTS = {"full": 0, "4-shot": 4}
"""The images at hand: 10 % of each class's, or so many."""

_SINGLE = tuple(
    Scenario(
        f"100-{classes}/{images}",
        Setting(requests=(classes,), shots=shots),
        (("data", images), ("scenario", f"100-{classes}")),
    )
    for images, shots in SHOTS.items()
    for classes in (5, 10, 50, 90)
)
_FOUR = tuple(
    Scenario(f"four/{images}", Setting(shots=shots), (("data", images),)) for images, shots in SHOTS.items()
)
_IMAGENET = Scenario("four/full", Setting(ratio=0.05, preset="imagenet100/ratio"))
_MISSING = Scenario("four/missing", Setting(missing=5))
_STRANGERS = Scenario("four/strangers", Setting(replay=False, foreign=800))
_COCO = Setting(requests=(10,) * 7, shots=32, order=123, shuffle="numpy", preset="coco/sequence")

FACES, IMAGES, BOXES = "07_face_benchmark", "08_image_classification", "09_object_detection"
FOUR = "four requests of 20 of 100"
WITHOUT = "5 retained ones without images"
CASIA = "casia-face100"
_TABLES = (
    Table("table2", "one request of 5, 10, 50 or 90 of 100 identities", FACES, _SINGLE, data=CASIA),
    Table("table3", f"{FOUR} identities", FACES, _FOUR, data=CASIA),
    Table("table4", f"{FOUR} classes", IMAGES, (_IMAGENET,), {"images_missing": []}, "imagenet100"),
    Table("table5", f"{FOUR} identities, {WITHOUT}", FACES, (_MISSING,), data=CASIA),
    Table("strangers", f"{FOUR} identities, strangers' images in place of the rest's", FACES, (_STRANGERS,)),
    Table(
        "coco",
        "object detection, seven requests of 10 of 80 categories (fewer at a smaller scale)",
        BOXES,
        (Scenario("sequence", _COCO),),
    ),
)
TABLES = {described.name: described for described in _TABLES}


def table(name: str) -> Table:
    """Return a published table's description, or raise a :class:`ConfigError` for a name that is none."""
    if name not in TABLES:
        raise ConfigError(f"unknown table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]


@cache
def read(name: str) -> pd.DataFrame:
    """Return a published table in one shape for all.

    Columns are scenario (a :class:`Scenario`'s name), task (from 1), method (as printed) and
    :data:`METRICS`, NaN where nothing was printed.
    """
    described, columns = table(name), ["scenario", "method", "task", *METRICS]
    if described.csv is None:
        return pd.DataFrame(columns=columns).astype(dict.fromkeys(METRICS, float))
    later = pd.read_csv(LATER)
    printed = pd.concat([pd.read_csv(described.csv), later[later["table"] == name]], ignore_index=True)
    printed = printed.rename(columns=str.lower)
    parts = []
    for scenario in described.scenarios:
        chosen = printed
        for column, value in scenario.rows:
            # The pre-trained model is the same whatever images are at hand; it is printed once.
            everywhere = (chosen["method"] == "Pre-train") & (column == "data")
            chosen = chosen[(chosen[column] == value) | everywhere]
        parts.append(chosen.assign(scenario=scenario.name))
    whole = pd.concat(parts, ignore_index=True).fillna({"task": 1}).astype({"task": int})
    return whole.reindex(columns=columns)
