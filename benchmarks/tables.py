"""The tables of ``data/results``: made from its CSV files, and put between their marks in the pages.

    python benchmarks/tables.py            # write them, and the commits of the index
    python benchmarks/tables.py --check    # only say which differ

A page has ``<!-- table: NAME -->`` and ``<!-- end -->`` where the table of that name belongs. Rows of further
methods and seeds need nothing here; another table is another entry of ``TABLES``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import matrix
import pandas as pd

from minigslora import methods
from minigslora.audit.verdict import UNMEASURED, overall
from minigslora.metrics import paired_difference
from minigslora.reproduction import benchmark

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results"
FACES = ROOT / "notebooks" / "07_face_benchmark.ipynb"
INDEX = RESULTS / "index.csv"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.S)
NOTHING = "*No rows yet.*"
KEYS = ("scenario", "method", "recipe")

OURS = "method=gslora,gslora++,gslora-distill,gslora-deep"
RIVALS = "method=gslora,gslora++,gslora-distill,fg-oriu,bad-teacher,head-only"
MARGIN = (
    "H",
    "H with margin",
    "Acc_r",
    "Acc_r with margin",
    "fall of Acc_r",
    "worst fall",
    "Acc_f",
    "worst Acc_f",
    "Acc_f with margin",
    "Acc_o",
    "worst Acc_o",
    "Acc_o with margin",
)
MISSING = (*MARGIN[:6], "fall of Acc_m", *MARGIN[6:])
PLAIN = ("H", "Acc_r", "fall of Acc_r", "worst fall", "Acc_f", "worst Acc_f", "Acc_o", "worst Acc_o")
OUTSIDE = (*PLAIN, "outside", "fall outside", "worst fall outside", "zero groups")
BOXES = ("H50", "AP50_r", "fall of AP50_r", "worst fall of AP50_r", "worst AP50_f", "worst AP50_o")
HOLDING = "imagenet100/ratio"
SPREAD = ("H", "H with margin", "H50", "outside")
"""Columns that have the standard deviation, too."""


# --- kinds of tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A line per method: means over seeds, those of ``SPREAD`` with their standard deviation; best H first.

    Attributes:
        name: of the mark.
        file: of the rows, without its ending.
        rows: which of them (:func:`chosen`).
        columns: of :func:`minigslora.reproduction.benchmark.summary`.
        setting: whose corrected recipe says which methods hold the model's answers by (8.3); they are
            named so.
    """

    name: str
    file: str
    rows: str = ""
    columns: tuple[str, ...] = MARGIN
    setting: str = ""

    def frame(self) -> pd.DataFrame:
        """Return the cells."""
        made = benchmark.summary(chosen(self.file, self.rows)).reset_index()
        if self.setting:
            ours = made["method"].where(made["recipe"] == "corrected", "head-only")
            held = [getattr(methods.create(name, "corrected", self.setting), "hold", 0) > 0 for name in ours]
            made["method"] += pd.Series(held).map({True: " + hold", False: ""})
        first = made[self.columns[0]].str.split().str[0].astype(float)
        made = made.assign(_first=-first).sort_values(["scenario", "_first"], kind="stable")
        if self.file.endswith("ablations"):
            made = made.rename(columns={"scenario": "setting", "method": "value"}).sort_index()
        keys = [k for k in made if k in ("setting", "value", *KEYS)]
        told = [k for k in keys if k in ("method", "value") or made[k].nunique() > 1]
        for column in {*self.columns} & {*made} - {*SPREAD}:
            made[column] = made[column].str.partition(" ±")[0]
        return made[[*told, "seeds", *(c for c in self.columns if c in made)]].fillna("–").replace("", "–")


@dataclass(frozen=True)
class Paired:
    """Differences from a reference, seed by seed: mean ± half of the 95 % t interval (7.3).

    Attributes:
        name: of the mark.
        file: of the rows, without its ending.
        rows: which are compared.
        against: what the reference has in place of a line's own method, recipe or scenario.
        columns: heading and column; of each the mean over the requests.
    """

    name: str
    file: str
    rows: str
    against: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=lambda: {"H": "h", "H with margin": "h_margin"})

    def frame(self) -> pd.DataFrame:
        """Return the cells; a line needs two seeds in common with its reference."""
        everything, wanted = chosen(self.file), chosen(self.file, self.rows)
        runs = {key: own.groupby("seed").mean(numeric_only=True) for key, own in everything.groupby([*KEYS])}
        lines = []
        for key in wanted.groupby([*KEYS], sort=False).groups:
            named = dict(zip(KEYS, key, strict=True))
            other = tuple((named | dict(self.against)).values())
            shared = runs[key].index.intersection(runs[other].index) if other in runs else []
            if other == key or len(shared) < 2:
                continue
            pairs = {
                heading: paired_difference(
                    runs[key].loc[shared, c].tolist(), runs[other].loc[shared, c].tolist()
                )
                for heading, c in self.columns.items()
            }
            beside = ", ".join(self.against.values())
            lines.append(
                named | {"less": beside, "seeds": len(shared)} | {k: str(d) for k, d in pairs.items()}
            )
        if not lines:
            return pd.DataFrame()
        made = pd.DataFrame(lines)
        first = made["H" if "H" in made else next(iter(self.columns))].str.split().str[0].astype(float)
        made = made.assign(_first=-first).sort_values(["scenario", "_first"], kind="stable")
        told = [k for k in KEYS if k == "method" or made[k].nunique() > 1]
        return made[[*told, "less", "seeds", *self.columns]]


@dataclass(frozen=True)
class Cells:
    """Rows as they are, or means over the other keys.

    Attributes:
        name: of the mark.
        file: of the rows, without its ending.
        columns: heading, and an expression over the columns of the rows; ``max`` or ``count`` before it takes
            that of a group in place of the mean.
        by: which columns a line stands for; none for a line a row.
        rows: which rows.
        digits: after the point.
    """

    name: str
    file: str
    columns: Mapping[str, str]
    by: tuple[str, ...] = ()
    rows: str = ""
    digits: int = 1

    def frame(self) -> pd.DataFrame:
        """Return the cells."""
        rows = chosen(self.file, self.rows)
        groups = (
            [g for _, g in rows.groupby([*self.by], sort=False)]
            if self.by
            else [rows.loc[[i]] for i in rows.index]
        )
        return pd.DataFrame([{h: self.cell(g, e) for h, e in self.columns.items()} for g in groups])

    def cell(self, rows: pd.DataFrame, expression: str) -> str:
        """Return one cell."""
        how, inner = (
            (expression.split(" ", 1)) if expression.startswith(("max ", "count ")) else ("mean", expression)
        )
        values = rows.eval(inner)
        if how == "count" or not pd.api.types.is_float_dtype(values):
            value = len(values) if how == "count" else values.iloc[0]
            return "–" if pd.isna(value) else str(value)
        value = values.agg(how)
        return "–" if pd.isna(value) else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Trials:
    """All trials of a search, a line for each group, best first: settings and what they came to.

    Attributes:
        name: of the mark.
        file: of the rows, without its ending.
        by: what the trials of a line have in common.
        best: the column that is shown, the higher the better; its mean where settings ran more than once.
    """

    name: str
    file: str
    by: tuple[str, ...]
    best: str

    def frame(self) -> pd.DataFrame:
        """Return the cells."""
        lines = []
        for key, rows in chosen(self.file).groupby([*self.by], sort=False):
            trials = rows.groupby("settings")[self.best].mean().sort_values(ascending=False)
            told = ", ".join(f"`{settings}` {value:.1f}" for settings, value in trials.items())
            lines.append(
                dict(zip(self.by, map(str, key), strict=True)) | {f"settings, {self.best.upper()}": told}
            )
        return pd.DataFrame(lines)


@dataclass(frozen=True)
class Audits:
    """How many runs of each method an audit finds to remember, of how many it can tell of."""

    name: str
    file: str

    def frame(self) -> pd.DataFrame:
        """Return the cells."""
        rows = chosen(self.file)
        if rows.empty:
            return rows
        rows = rows[rows["verdict"].notna() & (rows["references"] == rows["references"].max())]
        verdicts = rows.groupby(["method", "audit", "seed"], sort=False)["verdict"].agg(
            lambda v: overall([*v])
        )
        told = verdicts[~verdicts.isin((*UNMEASURED, "cannot tell here"))].groupby(
            ["method", "audit"], sort=False
        )
        cells = told.agg(lambda v: f"{(v == 'remembers').sum()} of {len(v)}").unstack()
        return cells.fillna("–").reset_index()


@dataclass(frozen=True)
class Attacked:
    """What each attack measures: of the original, of a model that never saw the request, of each method.

    Figures that no verdict rests on are left out.
    """

    name: str
    file: str

    def frame(self) -> pd.DataFrame:
        """Return the cells."""
        rows = chosen(self.file)
        if rows.empty:
            return rows
        rows, keys = rows[rows["verdict"].notna()], ["audit", "figure"]
        known = rows.groupby(keys, sort=False)[["original", "oracles"]].mean()
        names = [*dict.fromkeys(rows["method"])]
        made = rows.groupby([*keys, "method"], sort=False)["model"].mean().unstack()[names]
        cells = known.rename(columns={"oracles": "never saw them"}).join(made)
        return cells.map(lambda v: "–" if pd.isna(v) else f"{v:.1f}").reset_index()


@dataclass(frozen=True)
class Index:
    """What files there are: who made them, of how many rows and seeds, and where they are told of."""

    name: str

    def frame(self) -> pd.DataFrame:
        """Return the cells."""
        lines = []
        for line in pd.read_csv(INDEX, dtype=str).fillna("").to_dict("records"):
            rows = chosen(line["file"])
            seeds = ", ".join(map(str, sorted(rows["seed"].unique()))) if "seed" in rows else "–"
            steps = [step.strip() for step in line["command"].split(";")]
            made = "; ".join(f"`{step}`" if step.startswith("uv run ") else step for step in steps)
            lines.append(
                {"file": f"[{line['file']}.csv]({line['file']}.csv)", "made by": made}
                | {"last changed": line["commit"], "rows": str(len(rows)), "seeds": seeds}
                | {"page": f"[{line['page']}]({line['page']}.md)"}
            )
        return pd.DataFrame(lines)


AP = {
    "seed": "seed",
    "request": "task",
    "AP50_r before": "ap50_r_before",
    "AP50_r": "ap50_r",
    "AP50_f before": "ap50_f_before",
    "AP50_f": "ap50_f",
    "AP50_o": "ap50_o",
    "H of AP50": "h50",
}

OUTSIDE_BY_REQUEST = {
    "request": "task",
    "Acc_r before": "acc_r_before",
    "Acc_r": "acc_r",
    "Acc_f": "acc_f",
    "Acc_o": "acc_o",
    "outside": "acc_outside",
    "fall outside": "acc_outside_before - acc_outside",
    "worst seed": "max acc_outside_before - acc_outside",
}


@dataclass(frozen=True)
class Reproduced:
    """The matrix of what is reproduced."""

    name: str

    def frame(self) -> pd.DataFrame:
        """Return the cells."""
        return matrix.matrix()


Table = Summary | Paired | Cells | Trials | Audits | Index | Reproduced

TABLES: tuple[Table, ...] = (
    Index("files"),
    Reproduced("reproduced"),
    Summary(
        "headline",
        "mini_faces_table3",
        "four/full corrected",
        (*MARGIN[:4], "Acc_f", *MARGIN[8:10], *MARGIN[11:]),
    ),
    Summary("faces-full", "mini_faces_table3", f"four/full {OURS}"),
    Summary("faces-4-shot", "mini_faces_table3", f"four/4-shot {OURS}"),
    Summary("faces-missing", "mini_faces_table5", OURS, MISSING),
    Summary("faces-strangers", "mini_faces_strangers", "", MISSING),
    Paired("faces-recipes", "mini_faces_table3", "corrected", {"recipe": "released"}),
    Paired("missing-recipes", "mini_faces_table5", "corrected", {"recipe": "released"}),
    Cells(
        "quality",
        "mini_faces_quality",
        {"recipe": "recipe", "passes": "epochs", "updates": "updates"}
        | {"processor seconds": "processor_seconds", "H": "h", "H with margin": "h_margin"}
        | {"Acc_r": "acc_r", "Acc_f": "acc_f"},
    ),
    Paired("faces-family", "mini_faces_table3", f"corrected {OURS}", {"method": "gslora++"}),
    Paired("faces-deep", "mini_faces_table3", f"corrected {RIVALS}", {"method": "gslora-deep"}),
    Cells(
        "stream-long",
        "mini_faces_stream_long",
        {
            "requests": "task",
            "adapters": "variant",
            "seeds": "count seed",
            "Acc_r": "acc_r",
            "Acc_r with margin": "acc_r_margin",
            "Acc_f": "acc_f",
            "Acc_o": "acc_o",
            "rows of A": "rank",
            "kB": "bytes / 1000",
            "forward pass, × the original's": "forward",
        },
        by=("task", "variant"),
        rows="task=5,10,15,20",
    ),
    Cells(
        "stream-people",
        "mini_faces_stream_people",
        {
            "event": "task",
            "what": "event",
            "people": "people",
            "withdrawn": "withdrawn",
            "Acc_r": "acc_r",
            "Acc_r with margin": "acc_r_margin",
            "of the enrolled": "acc_enrolled",
            "of those concerned": "acc_concerned",
            "of the withdrawn": "acc_o",
        },
        ("task",),
    ),
    Paired("missing-family", "mini_faces_table5", f"corrected {OURS}", {"method": "gslora++"}),
    Cells(
        "faces-single",
        "mini_faces_table2",
        {
            "scenario": "scenario",
            "recipe": "recipe",
            "Acc_r before": "acc_r_before",
            "Acc_r": "acc_r",
            "Acc_f before": "acc_f_before",
            "Acc_f": "acc_f",
            "H": "h",
            "Acc_r before, with margin": "acc_r_before_margin",
            "Acc_r with margin": "acc_r_margin",
            "Acc_f with margin": "acc_f_margin",
            "H with margin": "h_margin",
        },
    ),
    Summary("ablations", "mini_faces_ablations", "", (*MARGIN[:5], "Acc_f", "zero groups")),
    Summary("casia-full", "casia_face100_table3", f"four/full {OURS}"),
    Summary("casia-4-shot", "casia_face100_table3", f"four/4-shot {OURS}"),
    Paired(
        "casia-family",
        "casia_face100_table3",
        "corrected method=gslora,gslora-distill",
        {"method": "gslora++"},
    ),
    Summary("casia112", "casia_face100_112_table3"),
    Summary("glyphs", "mini_glyphs_table4", "", OUTSIDE, HOLDING),
    Summary("glyphs-unheld", "mini_glyphs_table4_unheld", "", OUTSIDE),
    *(
        Cells(
            f"glyphs-requests{end}",
            f"mini_glyphs_table4{end}",
            OUTSIDE_BY_REQUEST,
            ("task",),
            "gslora++ corrected",
        )
        for end in ("", "_unheld")
    ),
    Summary("tiny-imagenet", "tiny_imagenet_table4", "", (*PLAIN, "zero groups"), HOLDING),
    Summary("scenes", "mini_scenes_coco", "", BOXES),
    Cells("scenes-requests", "mini_scenes_coco", {"method": "method", "recipe": "recipe", **AP}),
    Cells(
        "photographs",
        "foda_coco",
        {
            f"{name} {when}": f"{stem}{column}"
            for stem, name in (("ap50", "AP50"), ("ap", "AP"))
            for column, when in (
                ("_r_before", "kept, before"),
                ("_r", "kept"),
                ("_f_before", "forgotten, before"),
                ("_f", "forgotten"),
            )
        },
    ),
    Summary("baselines", "mini_faces_table3", "four/full corrected"),
    Paired("baselines-paired", "mini_faces_table3", "four/full corrected", {"method": "gslora++"}),
    Summary("baselines-4-shot", "mini_faces_table3", "four/4-shot released"),
    Summary("baselines-missing", "mini_faces_table5", "released", MISSING),
    Summary("baselines-few", "mini_faces_baselines"),
    Summary("baselines-casia", "casia_face100_table3", "four/full corrected"),
    Audits("audits", "mini_faces_audits"),
    Attacked("audits-casia", "casia_face100_audits"),
    Trials("tuning-baselines", "baselines_tuning", ("method", "images", "passes"), "h"),
    Cells(
        "tuning-missing",
        "missing_tuning",
        {"held": "settings", "Acc_r": "acc_r", "Acc_f": "acc_f", "Acc_m": "acc_m"},
    ),
    Cells(
        "tuning-deep",
        "deep_tuning",
        {"model": "model", "z̃": "variant", "blur": "blur", "passes": "epochs", "T": "temperature"}
        | {"H": "h", "H with margin": "h_margin", "probe, 4": "probe_4", "probe, all": "probe_all"}
        | {"5 photographs": "prototype_5", "relearning": "relearning_as_in_file"}
        | {"rows drawn anew": "relearning_anew", "strangers": "strangers_confidence"},
    ),
    Cells(
        "tuning-glyphs",
        "glyphs_tuning",
        {
            "settings": "settings",
            "updates": "updates",
            "change of outside, first": "outside_1",
            "fourth": "outside_4",
        }
        | {"Acc_f, first": "acc_f_1", "fourth ": "acc_f_4", "Acc_o, fourth": "acc_o_4"},
    ),
    Trials("tuning-detection", "detection_tuning", ("requests",), "h50"),
    Cells(
        "tuning-worst",
        "detection_worst",
        {"settings": "settings", "AP50_f": "ap50_f", "AP50_o": "ap50_o", "fall of AP50_r": "fall"},
    ),
    Cells(
        "tuning-photographs",
        "foda_tuning",
        {"settings": "settings", "AP50_r": "ap50_r", "AP50_f": "ap50_f", "H50": "h50"},
    ),
)


# --- reading and writing ------------------------------------------------------------------------------


@cache
def whole(path: Path) -> pd.DataFrame:
    """Return a file's rows."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def chosen(file: str | pd.DataFrame, rows: str = "") -> pd.DataFrame:
    """Return rows of one of the CSV files; no rows where there is no such file yet.

    Args:
        file: its name without the ending, or rows that were read elsewhere.
        rows: which: a pandas query where it holds a comparison (``==``, ``<`` …), else words that all have
            to fit: ``column=one,or,another``, or a scenario, method or recipe by itself.
    """
    frame = whole(RESULTS / f"{file}.csv") if isinstance(file, str) else file
    if {"setting", "value"} <= {*frame}:
        frame = frame.rename(columns={"setting": "scenario", "value": "method"}).assign(recipe="")
    if re.search("[=!<>]=|[<>]", rows):
        return frame.query(rows)
    for word in rows.split():
        column, found, values = word.rpartition("=")
        columns = [column] if found else [k for k in KEYS if k in frame]
        fits = pd.concat([frame[c].astype(str).isin(values.split(",")) for c in columns], axis=1).any(axis=1)
        frame = frame[fits]
    return frame


def markdown(frame: pd.DataFrame) -> str:
    """Return a table as markdown."""
    if frame.empty:
        return NOTHING + "\n"
    cells = frame.astype(str).replace({"0.00": "0", "0.00 ± 0.00": "0"})
    lines = [[*map(str, frame)], ["---"] * frame.shape[1], *cells.to_numpy().tolist()]
    return "".join(f"| {' | '.join(cell.strip() for cell in line)} |\n" for line in lines)


def filled(text: str, tables: Sequence[Table] = TABLES) -> str:
    """Return a page with each marked place filled.

    Raises:
        KeyError: for a mark that no table has the name of.
    """
    known = {table.name: table for table in tables}

    def fill(found: re.Match[str]) -> str:
        return found[1] + markdown(known[found[2]].frame()) + found[3]

    return MARKED.sub(fill, text)


def with_commits() -> None:
    """Write into the index at which commit each file was last changed."""
    index = pd.read_csv(INDEX, dtype=str).fillna("")
    for place, name in index["file"].items():
        path = str(RESULTS / f"{name}.csv")
        asked = ["git", "log", "-1", "--format=%h", "--follow", "--", path]
        found = subprocess.run(asked, cwd=RESULTS, capture_output=True, text=True, check=False).stdout.strip()
        index.loc[place, "commit"] = found or index.loc[place, "commit"]
    index.to_csv(INDEX, index=False)


def pages() -> dict[Path, str]:
    """Return what each page should be: those of results, README, and notebook 07 with its table."""
    found = [*sorted(RESULTS.glob("*.md")), ROOT / "README.md"]
    texts = {path: filled(path.read_text(encoding="utf-8")) for path in found}
    notebook = json.loads(FACES.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "<!-- table: " in (text := "".join(cell["source"])):
            cell["source"] = filled(text).splitlines(keepends=True)
    return {**texts, FACES: json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"}


def differing() -> list[str]:
    """Return the names of the pages whose tables are not those of the CSV files."""
    return [path.name for path, text in pages().items() if path.read_text(encoding="utf-8") != text]


def main() -> None:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page differs")
    if parser.parse_args().check:
        if names := differing():
            sys.exit(f"{', '.join(names)}: tables differ from the CSV files; run python benchmarks/tables.py")
        return
    with_commits()
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
