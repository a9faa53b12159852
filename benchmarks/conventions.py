"""What every notebook of the course has in the same place, and what is still missing.

    python benchmarks/conventions.py 03 12

prints, for these notebooks or all, what tests/test_course.py would complain of. The numbers of a "What we
saw" box are looked up in the text that the notebook's own code cells print (streams and text/plain), rounded
as the box rounds them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TERMS = ("Acc_r", "Acc_f", "Acc_o", "Drop", "H", "BND", "σ", "request", "adapter", "group", "profile",
         "margin", "oracle")  # fmt: skip
GLOSSARY = "[glossary](00_start_here.ipynb#Glossary)"
DIAGRAMS = {"00": ["method_picture"], "01": ["vision_transformer", "transformer_block"], "02": ["lora_fork"],
            "03": ["prox_1d", "penalty_balls"], "04": ["method_picture"], "06": ["prototype_sphere"],
            "08": ["sliced_head"], "09": ["two_roles"], "12": ["attacker"]}  # fmt: skip
TEACHER = ("Aims", "Minutes a section", "What students get wrong", "Answers", "On the projector")
BOX = re.compile(r"> \*\*What we saw\*\* \((?:cpu profile, seed|any profile|shipped)[^)]*\)\.")
"""How a box begins: it says of what run it speaks, of any, or of the results that ship."""

SLIDES = ("slide", "subslide", "fragment", "-")


@dataclass(frozen=True)
class Book:
    """A notebook as its file is, and what it should say of itself."""

    path: Path
    study: int

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """Return its cells, each source as one string."""
        cells: list[dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"])} for cell in cells]

    @cached_property
    def prose(self) -> list[dict[str, Any]]:
        """Return its markdown cells."""
        return [cell for cell in self.cells if cell["cell_type"] == "markdown"]

    @cached_property
    def text(self) -> str:
        """Return all its markdown."""
        return "\n\n".join(cell["source"] for cell in self.prose)

    @property
    def number(self) -> str:
        """Return "04" of ``04_forget_once``."""
        return self.path.stem[:2]

    def section(self, heading: str) -> str:
        """Return what stands below a heading of the second level, up to the next; "" where it is missing."""
        found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", self.text, re.DOTALL | re.MULTILINE)
        return found[1] if found else ""


def tagged(cell: Mapping[str, Any], tag: str) -> bool:
    """Return whether a cell has a tag."""
    return tag in cell["metadata"].get("tags", [])


def folded(text: str, title: str = "[^<]+") -> bool:
    """Return whether all of a cell's text is folded under a title."""
    fold = rf"\s*<details><summary>{title}</summary>\n\n.+\n\n</details>\s*\Z"
    return bool(re.match(fold, text, re.DOTALL))


# --- one function a convention: what is missing, in words ------------------------------------------


def head(book: Book) -> Iterator[str]:
    """Title, what you need, the study time of times.json, the table of run times."""
    first = book.cells[0]["source"]
    if not first.startswith(f"# {book.number} · "):
        yield f"the first cell should begin with '# {book.number} · Title'"
    if "**You need**" not in first:
        yield "the first cell has no '**You need**'"
    line = f"**Study time**: about {book.study} minutes."
    if not re.search(rf"^{re.escape(line)}.*\n+\| ?profile", first, re.MULTILINE):
        yield f"the first cell has no line '{line}', followed by the table of run times"


def boxes(book: Book) -> Iterator[str]:
    """Boxes say what was seen; each of their numbers was printed by a code cell of the notebook."""
    found = [cell["source"] for cell in book.prose if "What we saw" in cell["source"]]
    if len(found) < 3:
        yield f"there are {len(found)} boxes 'What we saw'; write one after every result"
    known = printed(book)
    for box in found:
        if not BOX.match(box) or any(line and line[0] != ">" for line in box.splitlines()):
            yield (
                "a box should be a quotation in a cell of its own that begins with "
                f"'> **What we saw** (cpu profile, seed 0).': {box[:70]!r}"
            )
        for number in numbers_of_box(box):
            if not any(same(number, other) for other in known):
                about = BOX.sub("", box)[:60].strip()
                yield f"{number}: no code cell prints this number of the box {about!r}"


def questions(book: Book) -> Iterator[str]:
    """Three questions before the exercises, and their answers folded."""
    headings = re.findall(r"^## (.+)$", book.text, re.MULTILINE)
    name = "Check your understanding"
    if name not in headings or headings[headings.index(name) + 1 :][:1] != ["Exercises"]:
        yield f"'## {name}' does not stand right before '## Exercises'"
        return
    text = book.section(name).partition("<details>")[0]
    if re.findall(r"(?:^|\s)\*{0,2}\(([a-z])\)\*{0,2}(?=\s)", text) != ["a", "b", "c"]:
        yield f"'## {name}' should ask three questions, (a), (b) and (c)"
    place = next(i for i, cell in enumerate(book.cells) if f"## {name}\n" in cell["source"])
    after = book.cells[place + 1]
    if not tagged(after, "answers") or not folded(after["source"], "Answers"):
        yield f"the cell after '## {name}' should be tagged 'answers' and fold the answers in <details>"


def answers(book: Book) -> Iterator[str]:
    """Every cell tagged answers is folded; no answer goes without the tag."""
    for cell in book.prose:
        text = cell["source"]
        if tagged(cell, "answers") and not folded(text):
            yield f"an answer is not folded as <details><summary>Answer</summary>…</details>: {text[:60]!r}"
        if "<summary>Answer" in text and not tagged(cell, "answers"):
            yield f"an answer is not tagged 'answers', so students would be given it: {text[:60]!r}"


def solutions(book: Book) -> Iterator[str]:
    """Solutions are hidden until someone opens them, and nothing else is."""
    for cell in book.cells:
        solved = "### BEGIN SOLUTION" in cell["source"]
        if solved != bool(cell["metadata"].get("jupyter", {}).get("source_hidden")):
            which = "a solution is not hidden" if solved else "a cell without solution is hidden"
            yield f"{which} (metadata jupyter.source_hidden): {cell['source'][:50]!r}"


def project(book: Book) -> Iterator[str]:
    """An open project after the exercises, with a rubric of ten points."""
    headings = re.findall(r"^## (.+)$", book.text, re.MULTILINE)
    order = [heading for heading in headings if heading in ("Exercises", "Open project", "Summary")]
    if order != ["Exercises", "Open project", "Summary"]:
        yield f"after the exercises should come '## Open project' and '## Summary'; found {order}"
        return
    points = re.findall(r"^\|.*\|\s*\**(\d+)\**\s*\|\s*$", book.section("Open project"), re.MULTILINE)
    rows = [int(point) for point in points]
    if rows[-1:] == [10] and sum(rows) == 20:  # a last row with the sum
        rows.pop()
    if sum(rows) != 10 or len(rows) < 2:
        yield f"the rubric of the open project has the points {rows}, which should be 10 in all"


def reading(book: Book) -> Iterator[str]:
    """The summary ends with works to read, each with a line on why."""
    found = re.search(r"^\*\*Further reading\*\*.*?\n((?:\n?(?:[-*]|  ).+)+)", book.section("Summary"), re.M)
    works = re.findall(r"^[-*] (.+(?:\n  .+)*)", found[1] if found else "", re.MULTILINE)
    if len(works) < 2:
        yield "the summary has no '**Further reading**' with a list of two works or more"
    yield from (f"say why to read it: {work!r}" for work in works if len(work.split()) < 10)


def slides(book: Book) -> Iterator[str]:
    """Ten to twenty cells are marked for the slides, the first of them as a new one."""
    kinds = [c["metadata"]["slideshow"].get("slide_type") for c in book.cells if "slideshow" in c["metadata"]]
    if not 10 <= len(kinds) <= 20:
        yield f"{len(kinds)} cells are marked for the slides; 10 to 20 should be"
    if kinds and kinds[0] != "slide":
        yield f"the first cell on the slides is a {kinds[0]!r}; it should be a 'slide'"
    yield from (f"slide type {kind!r}; use one of {', '.join(SLIDES)}" for kind in set(kinds) - {*SLIDES})
    if any("slideshow" in c["metadata"] and tagged(c, "answers") for c in book.cells):
        yield "an answer is on the slides"


def glossary(book: Book) -> Iterator[str]:
    """Notebook 00 explains the terms of the course; the later ones lead there."""
    if book.number != "00":
        if GLOSSARY not in book.text:
            yield f"no link {GLOSSARY} where its terms are first used"
        return
    text = re.sub(r"[$\\{}`]|mathrm", "", book.section("Glossary"))
    named = {name.strip() for names in re.findall(r"\*\*(.+?)\*\*", text) for name in names.split(",")}
    yield from (f"'## Glossary' has no **{term}**" for term in TERMS if term not in named)
    said = " ".join(book.text.lower().split())
    for words in ("article 17", "gdpr", "consent", "machine unlearning"):
        if words not in said:
            yield f"nothing is said of {words!r}"


def diagrams(book: Book) -> Iterator[str]:
    """The diagrams of the thing itself."""
    code = "\n".join(cell["source"] for cell in book.cells if cell["cell_type"] == "code")
    for name in DIAGRAMS.get(book.number, []):
        if f"plots.{name}()" not in code:
            yield f"the picture plots.{name}() is not shown"


def install(book: Book) -> Iterator[str]:
    """The first code cell installs the package where it is missing, and prints nothing."""
    first = next(cell for cell in book.cells if cell["cell_type"] == "code")
    if not tagged(first, "install") or first["outputs"]:
        yield "the first code cell should be tagged 'install' and have no output"


def teacher(book: Book) -> Iterator[str]:
    """A page for the teacher, with the same headings for every notebook."""
    path = book.path.parents[1] / "teaching" / f"{book.number}.md"
    if not path.is_file():
        yield f"there is no teaching/{path.name}"
        return
    text = path.read_text(encoding="utf-8")
    if not re.match(rf"# {book.number} · .+: for the teacher\n", text):
        yield f"teaching/{path.name} should begin with '# {book.number} · Title: for the teacher'"
    if (found := tuple(re.findall(r"^## (.+?)\s*$", text, re.MULTILINE))) != TEACHER:
        yield f"teaching/{path.name} has the headings {', '.join(found)}; they should be {', '.join(TEACHER)}"


CONVENTIONS: tuple[Callable[[Book], Iterator[str]], ...] = (
    head, boxes, questions, answers, solutions, project, reading, slides, glossary, diagrams, install,
    teacher,
)  # fmt: skip


# --- the numbers of boxes -------------------------------------------------------------------------

NUMBER = re.compile(
    r"(?<![\w.])(?:[A-Za-z]+[-_.])?(?P<digits>\d{1,3}(?:[,\u202f\u00a0]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?P<power>(?:e|E|\s?(?:·|×|\\cdot|\\times)\s?10\^?\{?)[-−+]?\d+\}?)?(?![\w.]*\w)"
)
NOT_MEASURED = re.compile(
    r"\[[^\]]*\]\([^)]*\)|`[^`]*`|\(\d+\.\d+\)|"
    r"(?:notebook|exercise|section|seed|block|task|request|table|epoch)s? \d+(?:\.\d+)?"
    r"(?:(?:, | and | to )\d+)*",
    re.IGNORECASE,
)
"""What is named by a number: links, code, equations, and other notebooks, blocks or requests."""


def numbers_of_box(box: str) -> list[str]:
    """Return the numbers of a box as it gives them, without what only names something."""
    text = NOT_MEASURED.sub(" ", BOX.sub("", box))
    return [found["digits"] + (found["power"] or "") for found in NUMBER.finditer(text) if not _named(found)]


def _named(found: re.Match[str]) -> bool:
    return bool(re.match(r"[A-Za-z]", found[0]))  # ViT-16, blocks.3


def printed(book: Book) -> list[float]:
    """Return all numbers in what the code cells print: streams and text/plain, alternative texts included."""
    texts = []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            texts += ["".join(output.get("text", "")), "".join(output.get("data", {}).get("text/plain", ""))]
    found = re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", "\n".join(texts))
    return [float(number.replace(",", "")) for number in found]


def same(said: str, known: float) -> bool:
    """Return whether ``known`` is the number ``said`` when it is rounded to as many decimals, sign apart."""
    digits, power = re.fullmatch(r"([\d.,\u202f\u00a0]+)(.*)", said, re.DOTALL).groups()  # type: ignore[union-attr]
    exponent = int(re.sub(r"[−]", "-", re.findall(r"[-−+]?\d+", power)[-1])) if power else 0
    digits = re.sub(r"[,\u202f\u00a0]", "", digits)
    unit = 10.0 ** (exponent - len(digits.partition(".")[2]))
    return abs(float(digits) * 10.0**exponent - known) <= 0.5 * unit * (1 + 1e-6)


# --- the command ----------------------------------------------------------------------------------


def books(root: Path = ROOT) -> list[Book]:
    """Return the notebooks of the course in their order."""
    times = json.loads((root / "notebooks" / "times.json").read_text(encoding="utf-8"))
    return [
        Book(root / "notebooks" / f"{name}.ipynb", entry.get("study", 0)) for name, entry in times.items()
    ]


def main() -> None:
    """Print what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", help="their numbers; all by default")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    arguments = parser.parse_args()
    for book in books(arguments.root.resolve()):
        if not arguments.notebooks or book.number in arguments.notebooks:
            missing = [f"  {check.__name__}: {what}" for check in CONVENTIONS for what in check(book)]
            print("\n".join([f"{book.path.stem}: {len(missing) or 'nothing'} missing", *missing]))


if __name__ == "__main__":
    main()
