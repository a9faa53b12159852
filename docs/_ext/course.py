r"""What the course adds to Sphinx: notebooks become chapters, and equations are linked with the library.

- A notebook's text is changed as it is read, never on disk: solutions are folded, links to headings are
  spelled as here, and the chapter ends with the parts of the library that cite its equations.
- ``(3.2)`` in any text, docstrings too, is a link to the equation with ``\tag{3.2}``.
- Docstrings are written for people who read code: their indented formulas become literal blocks.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"\((\d+\.\d+)\)")
TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
HEADING_LINK = re.compile(r"(\.ipynb|\]\()#([^)\s]+)\)")
FOLDED = {"install", "parameters"}
EMPTY_HEADER = re.compile(r"<th[^>]*>(<p></p>)?</th>")
PLAIN = (
    nodes.literal,
    nodes.reference,
    nodes.title,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.FixedTextElement,
)


def chapters() -> dict[str, str]:
    """Return the page of each numbered equation."""
    pages = {}
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                pages |= dict.fromkeys(TAG.findall("".join(cell["source"])), f"notebooks/{path.stem}")
    return pages


def docstrings(tree: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, docstring) of a module and of all that is public in it."""
    if isinstance(tree, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield name, ast.get_docstring(tree) or ""
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield from docstrings(node, f"{name}.{node.name}")


def citations() -> dict[str, list[str]]:
    """Return the names in the library whose docstrings cite each equation."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "minigslora").rglob("*.py")):
        if "course" in path.parts:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for name, text in docstrings(ast.parse(path.read_text(encoding="utf-8")), module):
            for number in dict.fromkeys(CITED.findall(text)):
                found[number].append(name)
    return found


EQUATIONS, CITATIONS = chapters(), citations()


# --- notebooks, as they are read --------------------------------------------------------------------


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change a notebook's text on its way to the parser; of other pages only what leads to a heading."""
    if not docname.startswith("notebooks/"):
        source[0] = HEADING_LINK.sub(heading_link, source[0])
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = HEADING_LINK.sub(heading_link, cell["source"])
        elif cell["metadata"].get("jupyter", {}).get("source_hidden") or FOLDED & tags(cell):
            fold(cell)
    numbers = [n for n in EQUATIONS if EQUATIONS[n] == docname and n in CITATIONS]
    if numbers:
        notebook["cells"].append(in_the_library(numbers))
    source[0] = json.dumps(notebook)


def tags(cell: dict[str, Any]) -> set[str]:
    """Return a cell's tags."""
    return set(cell["metadata"].get("tags", []))


def heading_link(found: re.Match[str]) -> str:
    """Spell Jupyter's ``#Two-words`` as MyST does, ``#two-words``."""
    anchor = re.sub(r"[^\w\- ]", "", found[2].lower())
    return f"{found[1]}#{anchor})"


def fold(cell: dict[str, Any]) -> None:
    """Fold a cell whose source is hidden in JupyterLab, or of no interest on a page."""
    prompt = "the solution" if "### BEGIN SOLUTION" in cell["source"] else "the code"
    prompt = "the set-up" if FOLDED & tags(cell) else prompt
    cell["metadata"].setdefault("tags", []).append("hide-input")
    cell["metadata"]["mystnb"] = {"code_prompt_show": f"Show {prompt}", "code_prompt_hide": f"Hide {prompt}"}


def in_the_library(numbers: list[str]) -> dict[str, Any]:
    """Return a cell that leads from a chapter's equations to what has them in the library."""
    links = {n: (f"{{py:obj}}`{i.removeprefix('minigslora.')} <{i}>`" for i in CITATIONS[n]) for n in numbers}
    lines = [f"- ({n}): {', '.join(links[n])}" for n in numbers]
    source = "## In the library\n\n" + "\n".join(lines)
    return {"cell_type": "markdown", "id": "in-the-library", "metadata": {}, "source": source}


# --- docstrings, as they are read -------------------------------------------------------------------


def read_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make literal blocks of a docstring's indented formulas, and leave bars and stars as they are."""
    # To napoleon, what stands before a colon in an attribute's first line is a type.
    result = ["\\ "] if what in ("attribute", "data", "property", "type") else []
    indent, literal = 0, False
    for before, line in zip(["", *lines], lines, strict=False):
        depth = len(line) - len(line.lstrip())
        if literal and line and depth <= indent:
            literal = False
        if not literal and line and not before and depth > indent + 3 and result:
            literal = True
            result += [" " * indent + ".. code-block:: none", " " * indent + "   :class: equation", ""]
        if line and not literal:
            indent = depth
        result.append(line if literal else escaped(line))
    lines[:] = result


def escaped(line: str) -> str:
    """Return a line of text whose bars and stars are no markup, but for what stands between back-ticks."""
    parts = re.split(r"(``.*?``|:\w+:`.*?`|\*\*\w+)", line)
    return "".join(p if i % 2 else re.sub(r"([|*])", r"\\\1", p) for i, p in enumerate(parts))


# --- pages, before they are written -----------------------------------------------------------------


def finish(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give equations anchors, link what cites them, and mark the boxes that say what was seen."""
    for block in doctree.findall(nodes.math_block):
        block["ids"] += [anchor(n) for n in TAG.findall(block.astext())]
    for quote in doctree.findall(nodes.block_quote):
        if quote.astext().startswith("What we saw"):
            quote["classes"].append("saw")
    for text in [t for cell in doctree.findall(nodes.entry) for t in cell.findall(nodes.Text)]:
        text.parent.replace(text, nodes.Text(text.replace(" ± ", "\xa0±\xa0")))  # on one line
    for text in list(doctree.findall(nodes.Text)):
        block = text.parent
        formula = isinstance(block, nodes.literal_block) and "equation" in block["classes"]
        if CITED.search(text) and (formula or not inside(text, PLAIN)):
            block.replace(text, linked(app, docname, text))
            if formula:
                block.rawsource = ""  # Sphinx colours what is as in the source, and drops links


def inside(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    """Return whether a node stands in one of some kinds."""
    return node.parent is not None and (isinstance(node.parent, kinds) or inside(node.parent, kinds))


def anchor(number: str) -> str:
    """Return the id of an equation."""
    return f"equation-{number.replace('.', '-')}"


def linked(app: Sphinx, docname: str, text: str) -> list[nodes.Node]:
    """Return a text in pieces, with a link for each equation that a chapter has."""
    parts: list[nodes.Node] = []
    for i, piece in enumerate(CITED.split(text)):
        if i % 2 and piece in EQUATIONS:
            page = app.builder.get_relative_uri(docname, EQUATIONS[piece])
            uri = f"{page}#{anchor(piece)}" if EQUATIONS[piece] != docname else f"#{anchor(piece)}"
            parts.append(nodes.reference("", f"({piece})", refuri=uri, internal=True))
        else:
            parts.append(nodes.Text(f"({piece})" if i % 2 else piece))
    return parts


def finish_html(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mend what a screen reader would say: tables' empty headers, and one name for all that is folded."""
    body = EMPTY_HEADER.sub("<td></td>", context.get("body", ""))
    context["body"] = body.replace(' aria-label="Toggle hidden content"', "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the stages."""
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)
    app.connect("doctree-resolved", finish)
    app.connect("html-page-context", finish_html)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
