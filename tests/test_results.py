"""The pages of results, the README and the notebooks say what the CSV files say."""

import json
import re

import claims
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
    assert sorted(marked) == sorted(t.name for t in tables.TABLES)


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


def test_audits_count_the_models_that_are_found_to_remember(monkeypatch):
    rows = pd.DataFrame(
        [
            ("der", seed, 5, audit, figure, verdict)
            for seed, verdict in ((0, "remembers"), (1, "passes"))
            for audit, figure in (("probe", "a"), ("probe", "b"), ("rows", "c"))
        ]
        + [("lwf", 0, 5, "probe", "a", "cannot tell here"), ("lwf", 0, 5, "rows", "c", "remembers")]
        + [("lwf", 0, 3, "probe", "a", "remembers"), ("der", 0, 5, "probe", "shown", None)],
        columns=["method", "seed", "references", "audit", "figure", "verdict"],
    )
    monkeypatch.setattr(tables, "chosen", lambda file, rows_="": rows)
    made = tables.Audits("x", "a file").frame().set_index("method")
    assert made.loc["der"].tolist() == ["1 of 2", "1 of 2"]
    assert made.loc["lwf"].tolist() == ["–", "1 of 1"]


def test_attacks_are_listed_beside_the_original_and_a_model_that_never_saw_the_people(monkeypatch):
    rows = pd.DataFrame(
        [
            ("der", "probe", "all", 40.0, 80.0, 20.0, "no band"),
            ("lwf", "probe", "all", float("nan"), 80.0, 20.0, "no band"),
            ("der", "probe", "one", 30.0, 70.0, 10.0, None),
        ],
        columns=["method", "audit", "figure", "model", "original", "oracles", "verdict"],
    )
    monkeypatch.setattr(tables, "chosen", lambda file, rows_="": rows)
    made = tables.Attacked("x", "a file").frame()
    assert made.columns.tolist() == ["audit", "figure", "original", "never saw them", "der", "lwf"]
    assert made.values.tolist() == [["probe", "all", "80.0", "20.0", "40.0", "–"]]


def test_trials_are_listed_best_first():
    made = tables.Trials("x", "baselines_tuning", ("method", "passes"), "h").frame().set_index("method")
    assert made.loc["finetune"].tolist() == ["5", "`lr=3e-4` 82.4, `lr=1e-3` 75.6"]


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


# --- numbers in sentences -----------------------------------------------------------------------------


def test_each_claim_stands_in_its_page_and_is_what_the_files_give():
    assert claims.faults() == []


@pytest.mark.parametrize("page", [*claims.PAGES, *claims.NOTEBOOKS])
def test_each_number_in_a_sentence_is_claimed(page):
    assert claims.unclaimed(page) == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("H is 87.1 and\n20.7 (37.9).", ["87.1", "20.7", "37.9"]),
        ("It loses -0.3 ± 0.6 of 87 points, or 2 to 5 %.", ["-0.3", "0.6", "87", "2", "5"]),
        ("Four of 20 of 100 people, 250, 190 and 70 updates, 48 + 48 images, 1,400 steps", []),
        ("in 33 minutes, seeds 7, 8 and 9 of notebook 08 and Table 3, (8.3), at 48×48", []),
        ("with 10 % of the images it has 10 % of the photographs", ["10"]),
        ("# 5.5\n| 4 |\n`hold=3` $x = 2$ <!-- 7 -->\n```\n8\n```\n[nine](nine_9.md)", []),
        ("AP50 of 85.0, GS-LoRA2, 4x", ["85.0"]),
    ],
)
def test_which_numbers_need_a_claim(text, numbers):
    prose = claims.Prose.of(text)
    assert [prose.text[start:end] for start, end in prose.numbers()] == numbers


def claim(
    printed="1.0",
    rows="four/full corrected der++",
    column="h",
    how="mean",
    minus="",
    file="mini_faces_table3",
):
    return claims.Claim("faces", "a text", 0, printed, file, rows, minus, column, how)


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (claim("74.4"), ""),
        (claim("74.5"), "faces: a text: 74.5 is 74.39"),
        (claim("12", how="count"), ""),
        (claim("-0.23", column="h_margin", minus="four/full corrected gslora++"), ""),
        (claim("0.35", column="h_margin", how="reach", minus="four/full corrected gslora++"), ""),
        (claim("24.93", column="acc_f", how="worst"), ""),
        (claim(rows="four/full corrected derr"), "faces: a text: mini_faces_table3.csv has no rows"),
        (claim(column="h_mean"), "faces: a text: name 'h_mean' is not defined"),
    ],
)
def test_a_claim_is_computed_from_its_rows(made, fault):
    assert made.fault() == fault if not fault else made.fault().startswith(fault)


@pytest.mark.parametrize(("printed", "holds"), [("48", True), ("49", True), ("48.5", True), ("50", False)])
def test_what_lies_halfway_may_be_rounded_either_way(printed, holds):
    made = claim(printed, rows="lirf", column="acc_f", file="mini_faces_baselines")
    assert (made.fault() == "") == holds


def test_one_line_of_the_table_may_claim_several_numbers():
    held = [c for c in claims.claims() if c.page == "README" and c.text.startswith("distillation 87.1 and")]
    assert [(c.printed, c.column) for c in held[:2]] == [("87.1", "h"), ("20.7", "h_margin")]
    assert all(c.text[c.start :].startswith(c.printed) for c in claims.claims())


# --- links --------------------------------------------------------------------------------------------


def anchors(path):
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "README.md", ROOT / "benchmarks" / "README.md"], ids=lambda p: p.stem
)
def test_links_to_the_pages_of_results_lead_somewhere(path):
    for target in re.findall(r"\]\(([^):]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if found.parent != tables.RESULTS or found.name == "mini_faces_audits.csv":
            continue
        assert found.is_file(), target
        assert not anchor or anchor in anchors(found), target
