"""The published tables, and the scenarios that their rows belong to.

Source: arXiv 2501.09705, tables 2 to 5 (``published/README.md`` says how they are to be read).
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
METRICS = ("h", "acc_r", "acc_f", "acc_o", "acc_m")
"""The columns of a published table, as far as it has them."""

DETECTION_METRICS = ("h50", *(f"{stem}_{subset}" for stem in ("ap", "ap50") for subset in "rfom"))
"""What is reported of a detector beside H; no paper prints it."""


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
    rows: tuple[tuple[str, str], ...]

    def at(self, order: int | None = None) -> Setting:
        """Return the setting, with a pinned class order (``splits.PUBLISHED_ORDER``)."""
        return Setting(**{**vars(self.setting), "order": order})


@dataclass(frozen=True)
class Table:
    """One published table.

    Attributes:
        name: what it is called in commands.
        title: what it shows.
        csv: its file below ``published``; "" where nothing was printed, so that ours stand alone.
        notebook: the notebook that runs its scenarios.
        scenarios: its parts, in print order.
        parameters: what a run of a grid asks of the notebook besides: to leave out what is for its
            reader only.
    """

    name: str
    title: str
    csv: str
    notebook: str
    scenarios: tuple[Scenario, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def scenario(self, name: str) -> Scenario:
        """Return the scenario called ``name``.

        Raises:
            ConfigError: where the table has none of that name.
        """
        for scenario in self.scenarios:
            if scenario.name == name:
                return scenario
        names = ", ".join(s.name for s in self.scenarios)
        raise ConfigError(f"{self.name} has no scenario {name!r}; it has {names}")


SHOTS = {"full": 0, "4-shot": 4}
"""The images at hand: 10 % of each class's, or so many."""


def _single(classes: int, images: str) -> Scenario:
    name = f"100-{classes}"
    setting = Setting(requests=(classes,), shots=SHOTS[images])
    return Scenario(f"{name}/{images}", setting, (("data", images), ("scenario", name)))


def _four(images: str) -> Scenario:
    setting = Setting(shots=SHOTS[images])
    return Scenario(f"four/{images}", setting, (("data", images),))


TABLES: dict[str, Table] = {
    "table2": Table(
        "table2",
        "Faces, one request of 5, 10, 50 or 90 of 100 identities",
        "table2_face_single_step.csv",
        "07_face_benchmark",
        tuple(_single(n, images) for images in SHOTS for n in (5, 10, 50, 90)),
    ),
    "table3": Table(
        "table3",
        "Faces, four requests of 20 of 100 identities",
        "table3_face_four_tasks.csv",
        "07_face_benchmark",
        tuple(_four(images) for images in SHOTS),
    ),
    "table4": Table(
        "table4",
        "ImageNet100, four requests of 20 of 100 classes",
        "table4_imagenet100_four_tasks.csv",
        "08_image_classification",
        (Scenario("four/full", Setting(ratio=0.05, preset="imagenet100/ratio"), ()),),
        {"images_missing": []},
    ),
    "table5": Table(
        "table5",
        "Faces, four requests of 20 of 100 identities, 5 retained ones without images",
        "table5_face_missing_class.csv",
        "07_face_benchmark",
        (Scenario("four/missing", Setting(missing=5), ()),),
    ),
    "strangers": Table(
        "strangers",
        "Faces, four requests of 20 of 100 identities, strangers' images in place of retained ones",
        "",
        "07_face_benchmark",
        (Scenario("four/strangers", Setting(replay=False, foreign=800), ()),),
    ),
    "coco": Table(
        "coco",
        "Object detection, seven requests of 10 of 80 categories (fewer at a smaller scale)",
        "",
        "09_object_detection",
        (
            Scenario(
                "sequence",
                Setting(requests=(10,) * 7, shots=32, order=123, shuffle="numpy", preset="coco/sequence"),
                (),
            ),
        ),
    ),
}


def table(name: str) -> Table:
    """Return a published table's description.

    Raises:
        ConfigError: for a name that is none.
    """
    if name not in TABLES:
        raise ConfigError(f"unknown table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]


@cache
def read(name: str) -> pd.DataFrame:
    """Return a published table in one shape for all.

    Returns:
        A frame with columns scenario (a :class:`Scenario`'s name), task (from 1), method (as
        printed) and :data:`METRICS`, NaN where nothing was printed.
    """
    described = table(name)
    if not described.csv:
        return pd.DataFrame(columns=["scenario", "method", "task", *METRICS])
    printed = pd.read_csv(FOLDER / described.csv).rename(columns=str.lower)
    parts = []
    for scenario in described.scenarios:
        chosen = printed
        for column, value in scenario.rows:
            # The pre-trained model is the same whatever images are at hand; it is printed once.
            everywhere = (chosen["method"] == "Pre-train") & (column == "data")
            chosen = chosen[(chosen[column] == value) | everywhere]
        parts.append(chosen.assign(scenario=scenario.name))
    whole = pd.concat(parts, ignore_index=True)
    if "task" not in whole:
        whole["task"] = 1
    return whole.reindex(columns=["scenario", "method", "task", *METRICS])
