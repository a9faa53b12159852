"""The pages of results, the README and the notebooks say what the CSV files say."""

import json
import re

import pandas as pd
import pytest
import tables
from courses import NOTEBOOKS, ROOT

PAGES = sorted(tables.RESULTS.glob("*.md"))


def heads_of(path):
    found = re.findall(r"^\|(.*)\|\n\| ---", path.read_text(encoding="utf-8"), re.M)
    return [[cell.strip() for cell in line.split("|")] for line in found]


def test_each_table_is_made_from_its_file():
    assert tables.differing() == [], "run python benchmarks/tables.py"


def test_each_table_stands_in_a_page():
    marked = re.findall(r"<!-- table: (\S+) -->", "".join(p.read_text(encoding="utf-8") for p in PAGES))
    assert sorted(marked) == sorted([t.name for t in tables.TABLES] + [*tables.ELSEWHERE])


def test_each_file_stands_in_the_index():
    listed = set(pd.read_csv(tables.INDEX)["file"])
    there = {path.stem for path in tables.RESULTS.glob("*.csv")} - {"index", "claims"}
    assert there <= listed


def test_a_mark_without_a_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        tables.filled("<!-- table: nothing -->\n<!-- end -->")


def test_rows_that_are_not_there_yet_are_said_to_be_missing():
    text = "<!-- table: later -->\nold\n<!-- end -->"
    made = tables.filled(text, [tables.Audits("later", "no_such_file")])
    assert made == text.replace("old", tables.NOTHING)


def test_differences_are_paired_over_the_seeds_that_both_have():
    made = tables.Paired(
        "x", "mini_faces_table3", "four/full der++,scrub corrected", {"method": "gslora++"}
    ).frame()
    assert made["method"].tolist() == ["der++", "scrub"]
    assert made.loc[0, "H with margin"] == "-0.23 ± 0.35"
    assert (
        tables.Paired("x", "casia_face100_table3", "four/full der corrected", {"method": "gslora"})
        .frame()
        .empty
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_table_of_faces_gives_one_convention_without_the_other(path):
    faces = [head for head in heads_of(path) if "H" in head and not {"outside", "images"} & set(head)]
    plain = [head for head in faces if "H with margin" not in head]
    assert len(plain) == (path.stem == "images"), "the one of Tiny-ImageNet, whose head has no margin"


def headline(method):
    rows = tables.chosen("mini_faces_table3", f"four/full corrected {method}")
    mean = rows.groupby("seed")[["h", "h_margin"]].mean().mean()
    return f"{mean['h']:.1f}", f"{mean['h_margin']:.1f}"


@pytest.mark.parametrize("method", ["gslora-distill", "gslora++", "gslora", "der++", "ewc"])
def test_the_ranking_that_turns_over_is_told_with_both_figures(method):
    free, with_margin = headline(method)
    assert f"{free} and {with_margin}" in (ROOT / "README.md").read_text(encoding="utf-8")
    for number in ("07", "10"):
        (path,) = [p for p in NOTEBOOKS if p.stem.startswith(number)]
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown").replace(
            "\n", " "
        )
        assert re.search(rf"\b{free} (and|to) {with_margin}\b", prose), path.stem
