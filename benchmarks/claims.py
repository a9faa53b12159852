"""Numbers in sentences, each beside the cells of ``data/results`` that it comes from.

    python benchmarks/claims.py    # claims that no longer hold, and numbers that no claim speaks for

A line of ``data/results/claims.csv`` is a piece of a page with its numbers in braces, and where they come
from: ``file``, ``rows`` (as in tables.py), ``minus`` (other rows of the file, taken off seed by seed),
``column`` (an expression) and ``how``. A field with semicolons has a part for each number, one without is for
all of them. A file ``published/table3`` is the published table.

``how`` is ``mean`` (of the seeds' means), ``max`` or ``min`` (of single rows), ``max by KEY`` or ``min by
KEY`` (of the means of each seed, method …), ``worst`` (mean over the seeds of each one's worst request),
``reach`` (half of the 95 % t interval of paired differences), ``apart`` (the same as if nothing were paired)
or ``count`` (of rows).

A number in a sentence needs a claim unless it counts things, is a time, or is part of a name (``SETTINGS``).
Tables, code, headings and formulas are no sentences.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
from scipy.stats import t
from tables import RESULTS, chosen

from minigslora.metrics import paired_difference
from minigslora.reproduction import published

ROOT = RESULTS.parents[1]
CLAIMS = RESULTS / "claims.csv"
PAGES = ("results", "faces", "baselines", "images", "detection", "tuning", "README")
NOTEBOOKS = ("06", "07", "08", "09", "10", "11", "13")
LONGER = ("All of them, ten passes, three seeds", "Plain, held, and the baselines")
SHIPPED_SECTIONS = ("What seeds do", *LONGER, "Three seeds", "Summary")
SHIPPED_WORDS = r"data/results|come with the repository|[Ss]hipped rows|three seeds"
"""What in a notebook speaks of shipped results: these sections, and any sentence with these words."""
FIELDS = ("file", "rows", "minus", "column", "how")

# --- which numbers need a claim -----------------------------------------------------------------------

NOT_PROSE = r"```.*?```|<!--.*?-->|^\|.*?$|^#.*?$|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)\n]*\)"
FIGURE = r"\d+(?:,\d{3})*(?:\.\d+)?"
NUMBER = rf"(?<![\w.])[-+]?{FIGURE}(?!\w)"
SEVERAL = r"(?<![\d.,])\d+(?:,\d{3})*(?:(?:, | and | or | to | of | \+ )\d+(?:,\d{3})*)*"
WHOSE = r"(?:rendered|training|validation|test|kept|retained|forgotten|real|other|held|single)"
COUNTED = (
    r"people|images|photographs|pictures|classes|categories|characters|objects|scenes|requests|seeds|runs|passes"
    r"|updates|epochs|steps|rounds|trials|minutes|min|seconds|s|threads?|cores?|rows|pixels|ones|notebooks"
)
NAMED = (
    r"[Nn]otebooks?|[Tt]ables?|[Ss]eeds?|[Ee]xercise|section|IoU|COCO|torch|dimension|depth|patches of"
    r"|batches of|α =|[Rr]anks?|warm-up of|from one of"
)
SETTINGS = "|".join(
    (
        rf"{SEVERAL} (?:{WHOSE} )?(?:{COUNTED})\b",  # counts of things, and times
        rf"(?:{NAMED}) {FIGURE}(?:(?:, | and | or | to | \+ ){FIGURE})*",  # names
        r"\((?:[1-9]|1[0-3])\.[1-9]\)",  # equations
        r"\d+ % of (?:the|their|each|its) images",
        r"95 % (?:t )?interval|t is 4\.3",
        r"\[\d\d · [^]\0]*",  # links to notebooks
        r"\d+×\d+|\d\.\d M parameters",
        r"arXiv\s\S+|\b(?:19|20)\d\d\b",
    )
)


@dataclass(frozen=True)
class Prose:
    """A page's text on one line, and the same with all that needs no claim blotted out."""

    text: str
    blotted: str

    @classmethod
    def of(cls, text: str) -> Prose:
        """Read a page in markdown."""
        blotted = one_line(re.sub(NOT_PROSE, blot, text, flags=re.M | re.S))
        return cls(one_line(text), re.sub(SETTINGS, blot, blotted))

    def numbers(self, notebook: bool = False) -> list[tuple[int, int]]:
        """Return where the numbers stand that need a claim; in a notebook those of shipped results."""
        found = [m.span() for m in re.finditer(NUMBER, self.blotted)]
        parts = self.shipped() if notebook else [(0, len(self.text))]
        return [(a, b) for a, b in found if any(start <= a and b <= end for start, end in parts)]

    def shipped(self) -> list[tuple[int, int]]:
        """Return which parts of a notebook speak of shipped results."""
        sections = re.finditer(rf"## (?:{'|'.join(SHIPPED_SECTIONS)}) .*?(?= ## |$)", self.text)
        starts = [0, *(m.end() for m in re.finditer(r"[.!?:*)]\s+(?=[-A-Z*(`])", self.text)), len(self.text)]
        sentences = [(a, b) for a, b in pairwise(starts) if re.search(SHIPPED_WORDS, self.text[a:b])]
        return [m.span() for m in sections] + sentences


def blot(found: re.Match[str]) -> str:
    """Return as much of nothing; spaces stay."""
    return re.sub(r"\S", "\0", found[0])


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return re.sub(r"\s+", " ", text)


def text_of(page: str) -> str:
    """Return a page: one of results, the README's own results, or a notebook's markdown."""
    if page == "README":
        whole = (ROOT / "README.md").read_text(encoding="utf-8")
        return whole.partition("\n## Results\n")[2].partition("\n## ")[0]
    if page in NOTEBOOKS:
        (path,) = (ROOT / "notebooks").glob(f"{page}_*.ipynb")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return (RESULTS / f"{'README' if page == 'results' else page}.md").read_text(encoding="utf-8")


# --- claims -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One number: where it stands, what is printed, and where it comes from."""

    page: str
    text: str
    start: int
    printed: str
    file: str
    rows: str
    minus: str
    column: str
    how: str

    def value(self) -> float:
        """Return the number that the files give."""
        rows = read(self.file, self.rows)
        if rows.empty:
            raise ValueError(f"{self.file}.csv has no rows {self.rows!r}")
        if self.minus:
            return self.difference(rows)
        values = rows.eval(self.column).astype(float)
        if self.how == "count":
            return float(len(values))
        how, _, key = self.how.partition(" by ")
        if key:
            return float(values.groupby(rows[key]).mean().agg(how))
        if how in ("max", "min"):
            return float(values.agg(how))
        seeds = values.groupby(rows["seed"] if "seed" in rows else values.index * 0)
        return float((seeds.max() if how == "worst" else seeds.mean()).mean())

    def difference(self, rows: pd.DataFrame) -> float:
        """Return the mean or the reach of what ``rows`` have over those of ``minus``."""
        ours, theirs = (
            r.eval(self.column).groupby(r["seed"]).mean() for r in (rows, read(self.file, self.minus))
        )
        shared = ours.index.intersection(theirs.index)
        if self.how == "apart":
            n = len(shared)
            return float(t.ppf(0.975, 2 * n - 2) * ((ours.var() + theirs.var()) / n) ** 0.5)
        found = paired_difference(ours[shared].tolist(), theirs[shared].tolist())
        return found.reach if self.how == "reach" else found.mean

    def fault(self) -> str:
        """Return what is wrong with it; "" where it holds. What lies halfway may be rounded either way."""
        digits = len(self.printed.partition(".")[2])
        try:
            found = self.value()
        except Exception as error:
            return f"{self.page}: {self.text}: {error}"
        if abs(found - float(self.printed.replace(",", ""))) <= 0.5 * 10**-digits + 1e-6:
            return ""
        return f"{self.page}: {self.text}: {self.printed} is {found:.{digits + 1}f}"


def read(file: str, rows: str) -> pd.DataFrame:
    """Return rows of a file, or of one of the published tables."""
    return chosen(published.read(file.partition("/")[2]) if file.startswith("published/") else file, rows)


def claims() -> Iterator[Claim]:
    """Read the table of claims, a claim a number."""
    for line in pd.read_csv(CLAIMS, dtype=str, keep_default_na=False).to_dict("records"):
        marks = list(re.finditer(r"\{([^}]*)\}", line["text"]))
        parts = {f: [p.strip() for p in line[f].split(";")] for f in FIELDS}
        text = re.sub(r"[{}]", "", line["text"])
        for i, mark in enumerate(marks):
            own = {f: p[0] if len(p) == 1 else p[i] for f, p in parts.items()}
            yield Claim(line["page"], text, mark.start() - 2 * i, mark[1], **own)


def faults() -> list[str]:
    """Return what is wrong with the claims: their texts, their numbers."""
    prose = {page: Prose.of(text_of(page)).text for page in (*PAGES, *NOTEBOOKS)}
    found = []
    for claim in claims():
        if claim.text not in prose[claim.page]:
            found.append(f"{claim.page}: does not say {claim.text!r}")
        elif fault := claim.fault():
            found.append(fault)
    return found


def unclaimed(page: str) -> list[str]:
    """Return the numbers of a page that no claim speaks for, each with what is around it."""
    prose = Prose.of(text_of(page))
    spoken_for = set()
    for claim in claims():
        if claim.page == page:
            at = prose.text.find(claim.text)
            while at >= 0:
                spoken_for |= {*range(at + claim.start, at + claim.start + len(claim.printed))}
                at = prose.text.find(claim.text, at + 1)
    found = []
    for start, end in prose.numbers(page in NOTEBOOKS):
        if not {*range(start, end)} <= spoken_for:
            before, after = prose.text[max(start - 60, 0) : start], prose.text[end : end + 40]
            found.append(f"{page}: …{before}[{prose.text[start:end]}]{after}…")
    return found


def main() -> None:
    """Print what is wrong."""
    wrong = faults() + [line for page in (*PAGES, *NOTEBOOKS) for line in unclaimed(page)]
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
