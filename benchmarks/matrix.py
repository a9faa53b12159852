"""What is reproduced: which published table has been run on which data and model, and what is open.

Counted in the files of rows that ship, ``data/results/SOURCE_TABLE.csv``; a further word in a file's name, as
in ``mini_glyphs_table4_unheld.csv``, makes a line of its own. ``tables.py`` puts it into the pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from minigslora.files import shipped_root
from minigslora.reproduction import published
from minigslora.reproduction.benchmark import printed_name

PAPERS = "paper"
"""The source of runs on a paper's own data and model."""

SOURCES = {
    PAPERS: "the paper's own",
    "mini_faces": "mini-faces, shipped model",
    "casia_face100": "CASIA-Face100 subset at 48×48, small model",
    "casia_face100_112": "CASIA-Face100 subset at 112×112, small model",
    "mini_glyphs": "mini-glyphs, shipped model",
    "tiny_imagenet": "Tiny-ImageNet subset at 32×32, small model",
    "mini_scenes": "mini-scenes, shipped detector",
    "foda": "FOD-A subset, small detector",
}
"""Data and model of the files whose names begin so."""

NOTHING = "–"


def matrix(results: Path | None = None) -> pd.DataFrame:
    """Return a line per published table, data and model: what each recipe has run, and what is open.

    The papers' own data and model have a line for each printed table, run or not.

    Args:
        results: the folder of the CSV files; the one that ships by default.
    """
    folder, lines = results or shipped_root() / "results", []
    for table in published.TABLES.values():
        found = {PAPERS: pd.DataFrame(columns=["scenario", "method", "recipe", "seed"])} if table.csv else {}
        order = list(SOURCES)
        for path in sorted(folder.glob(f"*_{table.name}*.csv")):
            source, _, variant = path.stem.partition(f"_{table.name}")
            order += [source] if source not in order else []
            found[source + variant.replace("_", ", ")] = pd.read_csv(path)
        for source in sorted(found, key=lambda name: (order.index(name.partition(", ")[0]), name)):
            name, comma, variant = source.partition(", ")
            lines.append(
                {
                    "table": table.label if table.csv else f"none: {table.name}",
                    "data and model": SOURCES.get(name, name) + comma + variant,
                    "corrected recipe": _run(found[source], table, "corrected"),
                    "released recipe": _run(found[source], table, "released"),
                    "not run": _open(found[source], table),
                }
            )
    return pd.DataFrame(lines)


def _printed(table: published.Table) -> set[str]:
    """Return the methods of a published table, as printed."""
    return set(published.read(table.name)["method"]) - {"Pre-train"}


def _run(rows: pd.DataFrame, table: published.Table, recipe: str) -> str:
    """Return what has been run with a recipe: by scenario how many methods, and how many seeds of each."""
    scenarios: dict[str, list[str]] = {}
    for scenario in (s.name for s in table.scenarios):
        own = rows[(rows["scenario"] == scenario) & (rows["recipe"] == recipe)]
        if own.empty:
            continue
        seeds = {str(method): of["seed"].nunique() for method, of in own.groupby("method")}
        counts = Counter(sorted(seeds.values(), reverse=True))
        how = ", ".join(f"{n} with {_many(count, 'seed')}" for count, n in counts.items())
        spread = f": {how}" if len(counts) > 1 else f", {_many(min(counts), 'seed')}"
        printed = _printed(table) & set(map(printed_name, seeds))
        of = f" ({len(printed)} of {len(_printed(table))} published)" if table.csv else ""
        scenarios.setdefault(f"{_many(len(seeds), 'method')}{of}{spread}", []).append(scenario)
    return "; ".join(f"{_joined(names)}: {what}" for what, names in scenarios.items()) or NOTHING


def _open(rows: pd.DataFrame, table: published.Table) -> str:
    """Return the scenarios that have no run, and the published methods without one in any scenario."""
    if rows.empty:
        return "everything"
    scenarios = [s.name for s in table.scenarios if s.name not in set(rows["scenario"])]
    methods = sorted(_printed(table) - {printed_name(method) for method in set(rows["method"])})
    named = ", ".join(methods) if len(methods) < 4 else f"{len(methods)} of the published methods"
    parts = [_joined(scenarios), named, "" if (rows["recipe"] == "released").any() else "the released recipe"]
    return "; ".join(part for part in parts if part) or NOTHING


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _joined(scenarios: Iterable[str]) -> str:
    """Return scenarios' names, those of the same images together: "100-5, 100-10/full"."""
    by_images: dict[str, list[str]] = {}
    for requests, slash, images in (name.partition("/") for name in scenarios):
        by_images.setdefault(slash + images, []).append(requests)
    return ", ".join(", ".join(names) + images for images, names in by_images.items())
