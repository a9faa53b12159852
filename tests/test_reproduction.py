"""Published tables, ours beside them, and grids of runs that are stopped, fail and go on."""

import html
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec

import nbformat
import pandas as pd
import pytest
import tiny
from nbformat.v4 import new_code_cell, new_notebook

from minigslora import cli as command_line
from minigslora import methods, recipes
from minigslora.errors import ConfigError, ModelError
from minigslora.files import sha256, shipped_root
from minigslora.metrics import h_mean
from minigslora.models import checkpoint
from minigslora.reproduction import benchmark, engines, page, published, standing
from minigslora.reproduction.benchmark import Contender
from minigslora.reproduction.grid import Grid, read_grid, run_grid
from minigslora.tasks import Setting, TaskReport


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_RUNS", str(tmp_path / "runs"))
    for name in ("MINIGSLORA_PROFILE", "MINIGSLORA_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)


# --- the published tables -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "odd"), [("table2", 1), ("table3", 1), ("table4", 0), ("table5", 0)])
def test_printed_h_agrees_with_its_formula_but_for_the_rows_known(name, odd):
    frame = published.read(name)
    start = frame[frame["method"] == "Pre-train"].set_index(["scenario", "task"])["acc_f"]
    assert start.index.is_unique
    rest = frame[frame["method"] != "Pre-train"]
    off = [
        row.method
        for row in rest.itertuples()
        if abs(h_mean(row.acc_r, start[row.scenario, row.task] - row.acc_f) - row.h) > 0.06
    ]
    assert len(off) == odd
    methods = 12 if name == "table4" else 13  # without LIRF
    later = rest["method"].isin(["FG-OrIU", "BAD-T"])
    expected = len(published.table(name).scenarios) * methods * rest["task"].nunique()
    assert len(rest[~later]) == expected
    assert sum(later) == {"table2": 4, "table3": 8, "table4": 8}.get(name, 0)


def test_every_scenario_has_a_preset_and_every_preset_a_source():
    for table in published.TABLES.values():
        for scenario in table.scenarios:
            assert recipes.setting(scenario.setting.kind).source
            assert sum(scenario.setting.requests) < 100
    assert published.table("table2").scenario("100-90/4-shot").setting == Setting((90,), shots=4)
    assert published.table("table3").scenario("four/full").at(1337).order == 1337
    with pytest.raises(ConfigError, match="unknown table 'table9'; there are table2, table3, table4, table5"):
        published.table("table9")
    with pytest.raises(ConfigError, match="table3 has no scenario 'five'; it has four/full, four/4-shot"):
        published.table("table3").scenario("five")


# --- contenders and models ----------------------------------------------------------------------------


def test_contenders_are_methods_with_recipes_and_only_published_ones_have_a_released_one():
    assert str(Contender.parse("gslora++:released")) == "gslora++:released"
    assert str(Contender.parse("gslora")) == "gslora"
    papers = ["gslora", "gslora:released", "gslora++", "gslora++:released"]
    assert [str(c) for c in benchmark.contenders()] == papers
    every = [str(c) for c in benchmark.contenders(["all"])]
    assert {c.partition(":")[0] for c in every} == set(methods.table())
    assert len(every) == len(set(every))
    assert {"gslora", "gslora:released", "gslora++", "gslora++:released", "gslora-distill"} <= set(every)
    assert "gslora-distill:released" not in every
    assert benchmark.contenders(["gslora:released", "gslora"], ["corrected"]) == (
        Contender("gslora", "released"),
        Contender("gslora"),
    )
    with pytest.raises(ConfigError, match="unknown method 'gslora3'"):
        benchmark.contenders(["gslora3"])
    with pytest.raises(ConfigError, match="unknown recipe 'old'"):
        Contender.parse("gslora:old")


def test_weights_are_checked_against_what_the_run_was_started_with(tmp_path):
    path = tmp_path / "face.safetensors"
    card = checkpoint.Card({"kind": "face", **vars(tiny.FACE)}, image_size=48)
    checkpoint.save(path, tiny.face_model(), card)
    model, found = benchmark.load_model("mini-faces", str(path), sha256(path))
    assert found.image_size == 48
    assert model.head.weight.shape == (tiny.PEOPLE, 32)
    with pytest.raises(ModelError, match="is not the file this run was started with"):
        benchmark.load_model("mini-faces", str(path), "0" * 64)
    with pytest.raises(ModelError, match="no checkpoint ships for 'casia-face100'"):
        benchmark.load_model("casia-face100")


def test_serve_leaves_the_given_model_alone_and_repeats():
    model, data = tiny.face_model(), tiny.faces()
    card = checkpoint.Card({"kind": "face"}, image_size=48)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    served = [
        benchmark.serve(
            model,
            card,
            data,
            Setting((2, 1), ratio=0.5),
            Contender("gslora++"),
            seed=3,
            precision="fp32",
            overrides=tiny.QUICK,
        )
        for _ in range(2)
    ]
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {
        k: v.tolist() for k, v in before.items()
    }
    assert [r.metrics for r in served[0]] == [r.metrics for r in served[1]]
    rows = benchmark.rows_of(served[0], "four/full", Contender("gslora++"), 3)
    assert [(r["task"], r["seed"], r["recipe"]) for r in rows] == [(1, 3, "corrected"), (2, 3, "corrected")]
    assert not [k for k in rows[0] if k.startswith("norm/")]


# --- ours beside theirs -------------------------------------------------------------------------------


def made_rows(method="gslora++", recipe="corrected", seeds=(0, 1), scenario="four/full", h=80.0):
    rows = []
    for seed in seeds:
        for task in (1, 2):
            metrics = {"acc_r": 84.0 + seed, "acc_f": 0.5, "h": h + seed, "h_margin": 70.0 + seed}
            metrics |= {"acc_r_margin": 60.0, "acc_f_margin": 0.0, "acc_r_before": 85.0, "acc_f_before": 86.0}
            metrics |= {"acc_r_before_margin": 61.0, "acc_f_before_margin": 62.0}
            if task > 1:
                metrics |= {"acc_o": 1.0, "acc_o_margin": 0.2}
            report = TaskReport(f"task{task}", (1,), metrics, {"norm/blocks.0": 1.0}, {}, 12.5)
            rows.append((report, seed, task))
    return [
        {**benchmark.rows_of([r], scenario, Contender(method, recipe), s)[0], "task": t} for r, s, t in rows
    ]


def without_margin(rows):
    return rows.drop(columns=[c for c in rows if c.endswith("margin")])


def test_ours_stands_beside_the_published_with_mean_and_deviation():
    found = benchmark.beside(pd.DataFrame(made_rows()), "table3").set_index(["method", "task", "metric"])
    line = found.loc["gslora++", 1, "h"]
    assert (line["seeds"], line["ours"], line["margin"]) == (2, 80.5, 70.5)
    assert line["sd"] == pytest.approx(0.5**0.5)
    assert line["published"] == 73.97
    assert "difference" not in found, "of other data it means nothing"
    assert found.loc["gslora++", 2, "acc_o"]["published"] == 0.10
    assert ("gslora++", 1, "acc_o") not in found.index
    before = found.loc[benchmark.PRE_TRAINED, 1, "acc_f"]
    assert (before["ours"], before["margin"], before["published"]) == (86.0, 62.0, 74.65)


@pytest.mark.parametrize(("method", "h"), [("fg-oriu", 74.45), ("bad-teacher", 68.90)])
def test_rows_of_a_later_paper_stand_beside_ours_too(method, h):
    found = benchmark.beside(pd.DataFrame(made_rows(method, h=80.0)), "table3", "casia-face100")
    line = found.set_index(["method", "task", "metric"]).loc[method, 1, "h"]
    assert (line["published"], line["difference"]) == (h, pytest.approx(70.5 - h))


def test_a_head_without_margin_has_no_figures_with_it():
    rows = without_margin(pd.DataFrame(made_rows()))
    found = benchmark.beside(rows, "table4", "imagenet100").set_index(["method", "task", "metric"])
    line = found.loc["gslora++", 1, "h"]
    assert math.isnan(line["margin"])
    assert line["difference"] == pytest.approx(80.5 - line["published"])
    shown = benchmark.wide(benchmark.beside(rows, "table4"), "four/full")
    assert set(shown.columns.get_level_values(1)) == {"ours", "published"}


def test_one_seed_has_no_deviation_and_an_unpublished_method_no_published_figure():
    rows = pd.DataFrame(made_rows("gslora-distill", seeds=(0,)))
    found = benchmark.beside(rows, "table3").set_index(["method", "task", "metric"])
    assert math.isnan(found.loc["gslora-distill", 1, "h"]["sd"])
    assert math.isnan(found.loc["gslora-distill", 1, "h"]["published"])
    shown = benchmark.wide(benchmark.beside(rows, "table3"), "four/full")
    assert shown.loc[("gslora-distill", "corrected", "1"), ("H", "ours")] == "80.0"
    assert ("H", "published") not in shown
    assert shown.loc[(benchmark.PRE_TRAINED, "", "1"), ("Acc_r", "published")] == "74.3"
    assert shown.loc[("gslora-distill", "corrected", "1"), ("Acc_r", "published")] == ""
    with pytest.raises(ConfigError, match="table5 has no scenario 'four/full'; it has four/missing"):
        benchmark.beside(rows, "table5")


def test_the_summary_takes_tasks_first_and_seeds_then():
    rows = pd.DataFrame(made_rows() + made_rows("gslora", seeds=(0,)))
    rows.loc[(rows["method"] == "gslora++") & (rows["task"] == 2) & (rows["seed"] == 1), "acc_f"] = 2.5
    found = benchmark.summary(rows).loc["four/full"]
    line = found.loc[("gslora++", "corrected")]
    assert (line["seeds"], line["Acc_r"], line["fall of Acc_r"]) == (2, "84.50 ± 0.71", "0.50 ± 0.71")
    assert (line["Acc_f"], line["worst Acc_f"]) == ("1.00 ± 0.71", "1.50 ± 1.41")
    assert line["seconds a run"] == "25.00 ± 0.00"
    assert found.loc[("gslora", "corrected"), "Acc_r"] == "84.00"
    assert "fall of Acc_m" not in found


def test_the_wide_table_is_read_from_left_to_right():
    shown = benchmark.wide(benchmark.beside(pd.DataFrame(made_rows()), "table3"), "four/full")
    sides = ["ours", "with margin", "published"]
    assert list(shown.columns[:4]) == [*(("H", side) for side in sides), ("Acc_r", "ours")]
    assert shown.loc[("gslora++", "corrected", "1"), ("H", "with margin")] == "70.5 ± 0.7"
    assert shown.index[0] == (benchmark.PRE_TRAINED, "", "1")
    assert shown.loc[("gslora++", "corrected", "2"), ("H", "ours")] == "80.5 ± 0.7"


# --- how methods stand --------------------------------------------------------------------------------


def three_methods(seeds=(0, 1, 2)):
    """Return rows of a control and of two methods whose ranks turn over between the conventions."""
    rows = pd.DataFrame([r for m in ("head-only", "gslora", "ewc") for r in made_rows(m, seeds=seeds)])
    rows.loc[rows["method"] == "head-only", ["acc_r", "acc_r_margin", "h", "h_margin"]] = (
        90.0,
        65.0,
        88.0,
        75.0,
    )
    ewc = rows["method"] == "ewc"
    rows.loc[ewc, "h"] = 60.0 + rows["seed"] ** 2
    rows.loc[ewc, "h_margin"] = 72.0
    return rows


def test_methods_stand_in_the_order_of_h_and_ours_beside_the_published():
    found = standing.standing(three_methods(), "four/full", "table3", "_margin")
    methods = list(found.index.get_level_values("method"))
    assert methods[:4] == ["pre-trained", "head-only", "ewc", "gslora"]
    assert {"FG-OrIU", "BAD-T", "GS-LoRA++"} <= set(methods[4:])
    assert set(found.index.get_level_values("recipe")[4:]) == {"not run"}
    line = found.loc[("gslora", "corrected")]
    printed = published.read("table3").query("scenario == 'four/full' and method == 'GS-LoRA' and task < 3")
    assert line["seeds", ""] == "3"
    assert line["H", "ours"] == "71.0 ± 1.0"
    assert line["H", "published"] == f"{printed['h'].mean():.1f}"
    assert (line["Acc_r", "ours"], line["Acc_r", "head-only"]) == ("60.0 ± 0.0", "65.0")
    assert "difference" not in found.columns.get_level_values(1)
    assert found.loc[("pre-trained", ""), ("H", "ours")] == ""


def test_margin_free_figures_stand_in_a_table_of_their_own():
    found = standing.standing(three_methods(), "four/full", "table3")
    assert list(found.index.get_level_values("method")) == ["pre-trained", "head-only", "gslora", "ewc"]
    assert set(found.columns.get_level_values(1)) == {"", "ours", "head-only"}
    assert found.loc[("gslora", "corrected"), ("H", "ours")] == "81.0 ± 1.0"
    assert standing.conventions(without_margin(three_methods())) == {"": ""}


def test_head_only_stands_beside_the_same_seeds_only():
    rows = three_methods()
    rows = rows[(rows["method"] != "head-only") | (rows["seed"] < 2)]
    found = standing.standing(rows, "four/full", "table3")
    assert found.loc[("gslora", "corrected"), ("Acc_r", "head-only")] == ""
    found = standing.standing(rows[rows["seed"] < 2], "four/full", "table3")
    assert found.loc[("gslora", "corrected"), ("Acc_r", "head-only")] == "90.0"


def test_a_difference_needs_the_papers_own_data():
    for data, there in (("casia-face100", True), ("mini-faces", False), ("", False)):
        found = standing.standing(three_methods(), "four/full", "table3", "_margin", data)
        assert (("H", "difference") in found) is there
        free = standing.standing(three_methods(), "four/full", "table3", "", data)
        assert ("H", "published") not in free


def test_differences_are_paired_with_the_first_that_trains():
    found = standing.paired(three_methods(), "four/full")
    free, with_margin = "H margin-free, less gslora", "H with margin, less ewc"
    assert list(found) == [with_margin, free]
    assert found.loc[("gslora", "corrected"), free] == "the first"
    # 60, 61, 64 less 80, 81, 82: -20, -20, -18; mean -19.33, sd 2/√3, over √3 = 2/3, times 4.302653
    assert found.loc[("ewc", "corrected"), free] == "-19.33 ± 2.87"
    assert found.loc[("gslora", "corrected"), with_margin] == "-1.00 ± 2.48"


def test_one_seed_gives_no_difference():
    assert standing.paired(three_methods(seeds=(0,)), "four/full") is None
    rows = three_methods()
    found = standing.paired(rows[(rows["method"] != "ewc") | (rows["seed"] == 0)], "four/full")
    assert set(found.loc[("ewc", "corrected")]) == {""}
    alone = rows[rows["method"] == "gslora"]
    assert standing.paired(alone, "four/full") is None


def test_points_have_their_spread_and_the_published_stand_in_their_own_convention():
    rows = three_methods()
    figure = standing.drawn(rows[(rows["method"] != "ewc") | (rows["seed"] == 0)], "four/full", "table3")
    titles = ["H with margin", "H margin-free", "Acc_o with margin", "Acc_o margin-free"]
    assert [ax.get_title() for ax in figure.axes] == titles
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["head-only", "ewc", "gslora"]
    for ax in figure.axes:
        assert {line.get_linestyle() for line in ax.lines} == {"None"}, "methods are not joined"
        assert ("D" in {line.get_marker() for line in ax.lines}) == ("with" in ax.get_title())
    (bars,) = figure.axes[1].containers[0].lines[2]
    lengths = [len(bar) and float(bar[1][0] - bar[0][0]) for bar in bars.get_segments()]
    assert lengths == [0, 0, pytest.approx(2.0)], "one standard deviation to either side; none of one seed"


def test_a_detectors_figures_stand_without_published_ones():
    rows = pd.DataFrame(made_rows(scenario="sequence")).rename(columns={"h": "h50", "acc_r": "ap50_r"})
    rows = without_margin(rows).assign(h=1.0, ap50_f=0.5, ap50_o=0.7)
    found = standing.standing(rows, "sequence", "coco")
    assert found.loc[("gslora++", "corrected"), ("H50", "ours")] == "80.5 ± 0.7"
    assert [ax.get_title() for ax in standing.drawn(rows, "sequence", "coco").axes] == ["H50", "AP50_o"]


# --- the runs of a grid ---------------------------------------------------------------------------------


def test_a_grid_is_scenarios_times_methods_times_seeds_and_whole_seeds_come_first():
    grid = Grid("table3", "smoke", benchmark.contenders(["gslora", "gslora++"]), seeds=2)
    jobs = grid.jobs()
    assert len(jobs) == 2 * 2 * 2 * 2
    assert [job.parameters["seed"] for job in jobs] == [0] * 8 + [1] * 8
    assert len({job.folder for job in jobs}) == len({job.label for job in jobs}) == len(jobs)
    assert not any(job.finished for job in jobs)


def test_a_run_of_a_grid_leaves_out_what_is_for_the_notebooks_reader():
    (job,) = Grid("table4", "smoke", (Contender("gslora++"),)).jobs()
    assert (job.notebook, job.parameters["images_missing"]) == ("08_image_classification", [])


def test_settings_go_to_all_or_to_one():
    settings = {"": {"epochs": 1}, "gslora:released": {"epochs": 2, "rank": 3}}
    grid = Grid("table5", "smoke", benchmark.contenders(["gslora"]), settings=settings)
    assert [job.parameters["settings"] for job in grid.jobs()] == [{"epochs": 1}, {"epochs": 2, "rank": 3}]
    other = Grid("table5", "smoke", benchmark.contenders(["gslora"]))
    assert other.folder != grid.folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "table7"}, "unknown table 'table7'"),
        ({"scenarios": ("five",)}, "table3 has no scenario 'five'"),
        ({"profile": "huge"}, "profile = 'huge'; expected one of smoke, cpu, gpu, paper"),
        ({"seeds": 0}, "1 methods and 0 seeds make no run"),
        ({"weights": "nowhere.safetensors"}, "no weight file at .*nowhere.safetensors; check --weights"),
        (
            {"settings": {"gslora": {"epochs": 1}}},
            r"settings for 'gslora', which is not run; the methods are gslora\+\+",
        ),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_starts(changes, message):
    with pytest.raises(ConfigError, match=message):
        Grid(**{"table": "table3", "contenders": (Contender("gslora++"),), **changes}).jobs()


class Pretended:
    """An engine that writes results without running anything; labels that contain ``bad`` fail."""

    def __init__(self, bad="nothing", stop_after=99):
        self.bad, self.stop_after, self.served = bad, stop_after, []

    def run(self, jobs):
        for job in jobs:
            if len(self.served) == self.stop_after:
                raise KeyboardInterrupt
            self.served.append(job.label)
            if self.bad in job.label:
                yield engines.Outcome(job, "rank 500 does not fit")
                continue
            p = job.parameters
            who = Contender.parse(p["contenders"][0])
            rows = made_rows(who.method, who.recipe, (p["seed"],), p["scenario"])
            found = {"metrics": {"rows": rows}, "parameters": p, "seconds": 3.0, "device": "cpu"}
            found |= {"threads": 1, "versions": {"torch": "2"}}
            job.run.claim()
            (job.folder / "result.json").write_text(json.dumps(found))
            yield engines.Outcome(job)


def test_what_has_finished_is_not_run_again_and_one_failure_leaves_the_rest_whole():
    grid = Grid("table3", "smoke", benchmark.contenders(["gslora", "gslora++"], ["corrected"]), seeds=2)
    first = Pretended(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, first)
    assert [r["status"] for r in read_grid(grid.folder)["runs"]] == ["finished"] * 3 + ["open"] * 5
    second = Pretended(bad="four/4-shot gslora seed 1")
    outcomes = run_grid(grid, second)
    assert len(second.served) == 5
    assert not set(first.served) & set(second.served)
    assert [o.error for o in outcomes if o.error] == ["rank 500 does not fit"]
    path = page.write(grid.folder)
    text = path.read_text()
    assert "Runs: 7 finished, 1 failed, 0 open." in text
    assert "four/4-shot gslora seed 1" in text
    assert "rank 500 does not fit" in text
    assert "<h2>Open</h2>" not in text
    rows = pd.read_csv(grid.folder / "rows.csv")
    assert len(rows) == 7 * 2
    comparison = pd.read_csv(grid.folder / "comparison.csv")
    assert comparison["published"].notna().any()
    assert "data:image/png" in text


def finished(tmp_path, rows, table, data, missing=()):
    """Write the page of rows, without a run, and return its text."""
    runs = [{"run": "one", "seconds": 3.0, "device": "cpu", "threads": 1, "folder": "runs/one"}]
    runs[0] |= {"parameters": {"seed": 0, "data_set": data}, "versions": {"torch": "2"}}
    found = page.Collected(table, rows, pd.DataFrame(runs), {}, missing, data)
    return page.show(found, tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_names_data_model_and_what_is_open(tmp_path):
    rows = pd.read_csv(shipped_root() / "results" / "mini_glyphs_table4.csv")
    rows = rows[rows["method"].str.startswith("gslora")]
    text = finished(tmp_path, rows, "table4", "mini-glyphs", ["four/full ewc seed 2"])
    assert "<h1>Table 4 on mini-glyphs with the model that ships with it</h1>" in text
    assert "ImageNet100" not in text
    assert "the paper's data (imagenet100) and the paper's model, ours are not" in html.unescape(text)
    assert "margin" not in text.partition("<h2>More figures")[0].partition("</style>")[2]
    assert "<li>four/full ewc seed 2</li>" in text
    assert "<code>--methods head-only</code>" in text
    assert "FG-OrIU" in text
    assert by_request(text).count("<table") == 1


def by_request(text):
    return text.partition("<summary>Request by request")[2].partition("</details>")[0]


def test_a_page_of_faces_tells_the_conventions_apart(tmp_path):
    rows = three_methods()
    text = finished(tmp_path, rows, "table3", "mini-faces")
    assert "With margin, ours beside the published" in text
    assert text.index("With margin, ours beside") < text.index("<h3>Margin-free</h3>")
    assert "<li>four/4-shot: nothing has been run</li>" in text
    assert ">difference<" not in text
    with_margin, free = by_request(text).split("<table")[1:]
    assert ("published" in with_margin, "published" in free) == (True, False)
    assert "nothing to compare seed by seed" not in text
    assert ">difference<" in finished(tmp_path, rows, "table3", "casia-face100")
    alone = finished(tmp_path, rows[rows["seed"] == 0], "table3", "mini-faces")
    assert "nothing to compare seed by seed" in alone


def test_every_table_of_a_page_scrolls_in_a_box_of_its_own(tmp_path):
    text = finished(tmp_path, three_methods(), "table3", "mini-faces")
    tables = re.findall(r"(.{0,40})<table", text, re.DOTALL)
    assert len(tables) > 5
    assert all('<div class="box"' in before for before in tables)


def test_a_model_from_a_file_is_named(tmp_path):
    runs = pd.DataFrame([{"parameters": {"weights": "/home/me/official.safetensors"}}])
    assert page.Collected("table3", pd.DataFrame(), runs, {}, [], "x").model == "official.safetensors"


def test_a_grid_with_other_methods_adds_to_the_page_and_takes_nothing_away():
    run_grid(Grid("table3", "smoke", (Contender("gslora"),)), Pretended())
    other = Grid("table3", "smoke", (Contender("gslora++"),), seeds=2)
    run_grid(other, Pretended())
    assert {r["label"].split()[1] for r in read_grid(other.folder)["runs"]} == {"gslora", "gslora++"}
    found = page.collect(other.folder)
    assert len(found.runs) == 2 + 4
    again = Pretended()
    run_grid(other, again)
    assert not again.served


def test_a_folder_without_grid_and_a_grid_without_result_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no grid in .*; run 'minigslora reproduce' first"):
        page.collect(tmp_path)
    grid = Grid("table3", "smoke", (Contender("gslora"),))
    run_grid(grid, Pretended(bad="gslora"))
    with pytest.raises(ConfigError, match=r"no run of the grid in .* has finished: rank 500 does not fit"):
        page.write(grid.folder)


def test_a_single_request_has_no_progress_to_draw():
    rows = pd.DataFrame(made_rows(scenario="100-5/full"))
    assert page.progress(rows[rows["task"] == 1], "100-5/full", "table2") is None


def test_many_methods_are_drawn_as_a_table():
    few = pd.DataFrame(made_rows(scenario="four/full"))
    many = pd.concat([few.assign(method=name) for name in ("gslora", "ewc", "l2", "der", "lwf", "mas")])
    lines, table = (page.progress(rows, "four/full", "table3") for rows in (few, many))
    assert lines is not None
    assert any(ax.get_legend() for ax in lines.axes)
    assert table is not None
    assert not any(ax.get_legend() for ax in table.axes)
    rows = [text.get_text() for text in table.axes[0].get_yticklabels()]
    assert {"gslora, corrected", "GS-LoRA, published", "ewc, corrected", "EWC, published"} <= set(rows)


def test_published_faces_stand_beside_figures_with_margin_only():
    figure = page.progress(pd.DataFrame(made_rows(scenario="four/full")), "four/full", "table3")
    assert figure is not None
    panels = {ax.get_title(): {line.get_label(): line.get_ydata() for line in ax.lines} for ax in figure.axes}
    assert list(panels) == ["H with margin", "H margin-free", "Acc_o with margin", "Acc_o margin-free"]
    for title, lines in panels.items():
        printed = pd.Series(lines["GS-LoRA++, published"])
        assert printed.isna().all() == ("margin-free" in title), title
    assert list(panels["H with margin"]["GS-LoRA++, published"]) == [73.97, 73.48]
    ours = [panels[title]["gslora++, corrected"] for title in panels]
    assert [pd.Series(line).mean() for line in ours] == pytest.approx([70.5, 80.5, 0.2, 1.0])


def test_a_head_without_margin_stands_beside_the_published_as_it_is():
    rows = pd.DataFrame(made_rows(scenario="four/full"))
    figure = page.progress(without_margin(rows), "four/full", "table4")
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes] == ["H", "Acc_o"]
    for ax in figure.axes:
        printed = next(line for line in ax.lines if line.get_label() == "GS-LoRA++, published")
        assert not pd.Series(printed.get_ydata()[1:]).isna().any()


# --- engines -------------------------------------------------------------------------------------------

SETUP = """
from minigslora.course.profiles import configure

run = configure("{name}", globals(), cpu={{"wait": 0.0, "log": ""}})
"""
WORK = """
import time
from pathlib import Path

assert run.seed != 13, "an unlucky seed"
with Path(run.log).open("a") as file:
    file.write(f"{run.seed} begins\\n")
time.sleep(run.wait)
with Path(run.log).open("a") as file:
    file.write(f"{run.seed} ends\\n")
_ = run.finish({"rows": [{"seed": run.seed}]})
"""


def small_jobs(tmp_path, seeds, wait=0.0):
    """Return jobs of a notebook that does next to nothing, and the file it writes to."""
    given = "from typing import Optional\n\nprofile: str = ''\nseed: int = 0\ndevice: str = 'cpu'\n"
    given += "precision: str = 'auto'\nwait: Optional[float] = None\nlog: Optional[str] = None"
    cells = [new_code_cell(given, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(SETUP.format(name="small").strip()), new_code_cell(WORK.strip())]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path, log = tmp_path / "small.ipynb", tmp_path / "log.txt"
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    common = {"wait": wait, "log": str(log)}
    return [engines.Job(f"seed {s}", str(path), {**common, "seed": s}) for s in seeds], log


def test_cores_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert engines.Local(3, gpus=0).slots() == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    slots = engines.Local(gpus=2).slots()
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots] == ["4", "6"]
    with pytest.raises(ConfigError, match="jobs = 0; expected 1 or more"):
        engines.Local(0)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_local_runs_go_on_beside_one_that_fails(tmp_path):
    jobs, log = small_jobs(tmp_path, [1, 13])
    outcomes = {o.job.label: o.error for o in engines.Local(2, gpus=0).run(jobs)}
    assert outcomes["seed 1"] == ""
    assert "AssertionError: an unlucky seed" in outcomes["seed 13"]
    assert log.read_text().split("\n")[:2] == ["1 begins", "1 ends"]
    assert [job.finished for job in jobs] == [True, False]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_grid_that_is_killed_goes_on_and_runs_nothing_twice(tmp_path):
    jobs, log = small_jobs(tmp_path, [1, 2, 3], wait=1.5)
    script = f"""
        from minigslora.reproduction.engines import Job, Local
        jobs = [Job(l, n, p) for l, n, p in {[(j.label, j.notebook, dict(j.parameters)) for j in jobs]!r}]
        list(Local(1, gpus=0).run(jobs))
    """
    package = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], env={**os.environ, "PYTHONPATH": package}
    )
    deadline = time.monotonic() + 120
    while not (log.is_file() and "2 begins" in log.read_text()):
        assert time.monotonic() < deadline, "the second run never began"
        time.sleep(0.1)
    started.send_signal(signal.SIGKILL)
    started.wait()
    outcomes = list(engines.Local(1, gpus=0).run([job for job in jobs if not job.finished]))
    assert not [o.error for o in outcomes if o.error]
    # The second run was under way: it either went on by itself, and was waited for, or was begun anew.
    lines = log.read_text().split("\n")
    assert [lines.count(f"{k} ends") for k in (1, 2, 3)] == [1, 1, 1]
    assert lines.count("1 begins") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("warm_kernels")
def test_a_local_ray_runs_the_same_jobs(tmp_path):
    if find_spec("ray") is None:  # imported by the engine, which first says how
        pytest.skip("Ray is an optional extra")
    jobs, _ = small_jobs(tmp_path, [1, 13])
    try:
        engine = engines.make("ray", 1)
    except ConfigError as problem:  # no shared memory, no local ports
        pytest.skip(f"Ray cannot start on this machine: {problem}")
    try:
        outcomes = {o.job.label: o.error for o in engine.run(jobs)}
    finally:
        engine.ray.shutdown()
    assert outcomes["seed 1"] == ""
    assert "an unlucky seed" in outcomes["seed 13"]
    assert [job.finished for job in jobs] == [True, False]


def test_results_from_another_machine_are_written_whole(tmp_path):
    engines.bring_back(tmp_path / "run", {"result.json": b"{}", "parameters.yaml": b"seed: 1"})
    assert (tmp_path / "run" / "result.json").read_bytes() == b"{}"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["parameters.yaml", "result.json"]


def test_an_engine_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="unknown engine 'slurm'; expected local or ray"):
        engines.make("slurm")
    with pytest.raises(ConfigError, match="--address head:6379 goes with --engine ray"):
        engines.make("local", 1, "head:6379")


# --- the command line ----------------------------------------------------------------------------------


def test_reproduce_and_report_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(engines, "make", lambda *arguments: Pretended(bad="gslora:released"))
    with pytest.raises(SystemExit) as stopped:
        command_line.main(
            ["reproduce", "table5", "--profile", "smoke", "--methods", "gslora", "--seeds", "2"]
        )
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert "2 of 4 runs have finished" in printed.out
    assert printed.err.count("failed: four/missing gslora:released") == 2
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["report"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_reproduce_runs_the_papers_methods_unless_others_are_named(monkeypatch, capsys):
    monkeypatch.setattr(engines, "make", lambda *arguments: Pretended())
    for options, count in (([], 4), (["--methods", "all"], len(benchmark.contenders(["all"])))):
        with pytest.raises(SystemExit) as stopped:
            command_line.main(["reproduce", "table5", "--profile", "smoke", *options])
        assert stopped.value.code == 0
        assert f"{count} of {count} runs have finished" in capsys.readouterr().out


def test_report_without_a_grid_says_what_to_do(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["report"])
    assert stopped.value.code == 2
    assert "run 'minigslora reproduce' first" in capsys.readouterr().err


def test_settings_from_the_command_line_are_for_all_or_for_one():
    pairs = {"epochs": 1, "gslora++/lr": 0.1, "gslora:released/rank": 4}
    expected = {"": {"epochs": 1}, "gslora++": {"lr": 0.1}, "gslora:released": {"rank": 4}}
    assert command_line.by_method(pairs) == expected
    assert command_line.split_list(" a, b,,c ") == ["a", "b", "c"]
