"""The versions of notebooks that a teacher hands out: without solutions, answers and outputs.

Exercises carry the metadata that nbgrader reads (its schema 3): a cell to be filled in, and after it a
locked cell with the self-check, worth a point for each ● of the exercise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minigslora.course.executing import notebook_path, notebooks, read_notebook
from minigslora.course.links import absolute_links
from minigslora.errors import ConfigError, OutputError
from minigslora.files import write_json
from minigslora.fingerprint import fingerprint_of

SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION[^\n]*\n.*?^[ \t]*### END SOLUTION[^\n]*(?:\n|\Z)",
    re.DOTALL | re.MULTILINE,
)
TODO = 'raise NotImplementedError("your code here")'
EXERCISE = re.compile(r"\*\*Exercise (?P<number>\d\d\.\d) (?P<grade>●+)")
CHECK = re.compile(r"\bexercise_\d\d_\d\(")


def hand_out(names: Sequence[str], out: Path, solved: bool = False) -> list[Path]:
    """Write student versions into a folder, all of them or, where one is refused, none.

    Args:
        names: numbers, names or paths of notebooks; all of the course if there are none.
        out: the folder. Links between the notebooks in it stay as they are; others lead to the repository.
        solved: whether solutions stay, as in the version from which nbgrader makes its own.

    Returns:
        The files written, in the order of ``names``.

    Raises:
        ConfigError: for an unknown notebook.
        OutputError: where a file is in the way that this function did not write, or that was changed since.
    """
    targets = {out / path.name: path for path in map(notebook_path, names or notebooks())}
    for target in targets:
        _require_untouched(target)
    beside = {path.name for path in (*targets, *out.glob("*.ipynb"))}
    return [student_version(source, target, beside, solved) for target, source in targets.items()]


def student_version(
    notebook: str | Path, target: Path, beside: Collection[str] = (), solved: bool = False
) -> Path:
    """Write a copy of a notebook without solutions, answers and outputs.

    What stands between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` is replaced by a line that
    raises ``NotImplementedError``, indented alike; cells tagged ``answers`` are left out.

    Raises:
        ConfigError: for an unknown notebook, or a BEGIN without its END.
    """
    source = notebook_path(notebook)
    book = read_notebook(source)
    book["cells"] = list(_handed_out(book["cells"], source.name, beside, solved))
    book["metadata"]["minigslora"] = {"handout": _fingerprint(book)}
    write_json(target, book)
    return target


def _handed_out(
    cells: Sequence[dict[str, Any]], name: str, beside: Collection[str], solved: bool
) -> Iterator[dict[str, Any]]:
    exercise: Mapping[str, str] = {}
    for cell in cells:
        if "answers" in cell["metadata"].get("tags", []):
            continue
        if cell["cell_type"] == "code":
            for part in _parts(cell):
                yield _to_fill_in(part, exercise, name, solved)
        else:
            if found := EXERCISE.search(cell["source"]):
                exercise = found.groupdict()
            yield {**cell, "source": absolute_links(cell["source"], beside)}


def _parts(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a cell that holds solution and self-check, so that the check stands in a cell of its own."""
    ends = [found.end() for found in SOLUTION.finditer(cell["source"])]
    check = cell["source"][ends[-1] :].strip() if ends else ""
    if not CHECK.search(check):
        return [cell]
    answer = cell["source"][: ends[-1]].rstrip()
    return [{**cell, "source": answer}, {**cell, "source": check, "id": f"{cell['id']}-check"}]


def _to_fill_in(
    cell: Mapping[str, Any], exercise: Mapping[str, str], name: str, solved: bool
) -> dict[str, Any]:
    metadata = {key: value for key, value in cell["metadata"].items() if key not in ("execution", "jupyter")}
    source = SOLUTION.sub(rf"\g<indent>{TODO}\n", cell["source"]).rstrip()
    if "### BEGIN SOLUTION" in source or "### END SOLUTION" in source:
        raise ConfigError(
            f"{name}: a '### BEGIN SOLUTION' or '### END SOLUTION' stands alone in the cell "
            f"that begins {source.splitlines()[0]!r}; write both"
        )
    if source != cell["source"].rstrip():
        metadata["nbgrader"] = _nbgrader("solution", exercise)
    elif CHECK.search(source):
        metadata["nbgrader"] = _nbgrader("check", exercise)
    return {
        **cell,
        "source": cell["source"] if solved else source,
        "metadata": metadata,
        "outputs": [],
        "execution_count": None,
    }


def _nbgrader(kind: str, exercise: Mapping[str, str]) -> dict[str, Any]:
    """Return nbgrader's metadata of a cell to fill in ("solution") or of its locked test ("check")."""
    number = exercise.get("number", "").replace(".", "_")
    check = kind == "check"
    points = {"points": len(exercise.get("grade", ""))} if check else {}
    roles = {"grade": check, "locked": check, "solution": not check, "task": False}
    return {"schema_version": 3, "grade_id": f"exercise_{number}_{kind}", **roles, **points}


# --- what may be written over ---------------------------------------------------------------------


def _require_untouched(target: Path) -> None:
    """Raise an :class:`OutputError` unless ``target`` is free, or as :func:`student_version` wrote it."""
    if not target.exists():
        return
    try:
        book = read_notebook(target)
        made = book["metadata"].get("minigslora", {}).get("handout")
    except (ConfigError, OSError, KeyError, AttributeError):
        made = None
    if made is None:
        why = "was not written by 'minigslora student'"
    elif made != _fingerprint(book):
        why = "has been worked in since it was handed out"
    else:
        return
    raise OutputError(
        f"{target} is there already and {why}; nothing was written. Choose another folder with --out, or "
        "move that file away"
    )


def _fingerprint(book: Mapping[str, Any]) -> str:
    """Return what changes as soon as somebody writes or runs anything in a notebook."""
    cells = [[c["cell_type"], c["source"], c.get("outputs"), c.get("execution_count")] for c in book["cells"]]
    return fingerprint_of(json.dumps(cells))
