"""The tables and the summaries of results say what the CSV files say."""

import json
import re

import pandas as pd
import pytest
from courses import NOTEBOOKS, ROOT

from minigslora.reproduction import benchmark

RESULTS = ROOT / "data" / "results"
TEXT = (RESULTS / "README.md").read_text(encoding="utf-8")
TABLES = [[line.split("|")[1:-1] for line in t.splitlines()] for t in re.findall(r"(?:^\|.*\n)+", TEXT, re.M)]
FACES = ("mini_faces", "casia")

SUMMARIES = [  # file, scenario and recipe that a table is of, and its first row
    ("mini_faces_table3", "", "", "four/full gslora corrected"),
    ("mini_faces_table3", "four/full", "corrected", "head-only"),
    ("mini_faces_table3", "four/4-shot", "", "der released"),
    ("mini_faces_table5", "", "", "gslora corrected"),
    ("mini_faces_strangers", "", "", "gslora++ corrected"),
    ("mini_faces_baselines", "", "", "head-only"),
    ("casia_face100_table3", "", "", "four/full gslora corrected"),
    ("casia_face100_table3", "four/full", "corrected", "head-only"),
    ("mini_glyphs_table4", "", "", "gslora corrected"),
    ("mini_glyphs_table4_unheld", "", "", "four/full gslora corrected"),
    ("tiny_imagenet_table4", "", "", "gslora corrected"),
]


def stripped(line):
    return [cell.strip() for cell in line]


def rows_of(name, scenario="", recipe=""):
    rows = pd.read_csv(RESULTS / f"{name}.csv")
    rows = rows[rows["scenario"] == scenario] if scenario else rows
    return rows[rows["recipe"] == recipe] if recipe else rows


def is_of(table, summary):
    """Whether every cell of a table is the summary's; a dash stands for nothing."""
    head, _, *lines = map(stripped, table)
    keys = [k for k in ("scenario", "method", "recipe") if k in head]
    own = summary.reset_index().reindex(columns=head).astype(object).fillna("–").astype(str).replace("", "–")
    known = {tuple(row[k] for k in keys): row for row in own.to_dict("records")}
    cells = [dict(zip(head, line, strict=True)) for line in lines]
    return all(known.get(tuple(row[k] for k in keys)) == row for row in cells)


@pytest.mark.parametrize(("name", "scenario", "recipe", "first"), SUMMARIES)
def test_a_table_is_the_summary_of_its_file(name, scenario, recipe, first):
    summary = benchmark.summary(rows_of(name, scenario, recipe))
    begins = [t for t in TABLES if " ".join(stripped(t[2])).startswith(first) and "method" in stripped(t[0])]
    assert any(is_of(table, summary) for table in begins if "H" in stripped(table[0])), first
    if name.startswith(FACES):
        assert "H with margin" in summary


def test_no_table_of_faces_gives_one_convention_without_the_other():
    heads = [stripped(table[0]) for table in TABLES]
    faces = [head for head in heads if "H" in head and not {"outside", "images"} & set(head)]
    plain = [head for head in faces if "H with margin" not in head]
    assert len(faces) >= 11
    assert len(plain) == 1, "the one of Tiny-ImageNet, whose head has no margin"


def headline(method):
    rows = rows_of("mini_faces_table3", "four/full", "corrected")
    mean = rows[rows["method"] == method].groupby("seed")[["h", "h_margin"]].mean().mean()
    return f"{mean['h']:.1f}", f"{mean['h_margin']:.1f}"


@pytest.mark.parametrize("method", ["gslora-distill", "gslora++", "gslora", "der++", "ewc"])
def test_the_ranking_that_turns_over_is_told_with_both_figures(method):
    free, with_margin = headline(method)
    assert f"| {method} | {free} | {with_margin} |" in TEXT
    assert f"{free} and {with_margin}" in (ROOT / "README.md").read_text(encoding="utf-8")
    for number in ("07", "10"):
        (path,) = [p for p in NOTEBOOKS if p.stem.startswith(number)]
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown").replace(
            "\n", " "
        )
        assert re.search(rf"\b{free} (and|to) {with_margin}\b", prose), path.stem
