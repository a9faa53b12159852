"""The version of a notebook that a teacher hands out: without solutions and outputs."""

from __future__ import annotations

import re
from pathlib import Path

from minigslora.course.executing import notebook_path, read_notebook
from minigslora.errors import ConfigError
from minigslora.files import write_json

SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION[^\n]*\n.*?^[ \t]*### END SOLUTION[^\n]*$",
    re.DOTALL | re.MULTILINE,
)
TODO = 'raise NotImplementedError("your code here")'


def student_version(notebook: str | Path, target: Path) -> Path:
    """Write a copy of a notebook without solutions and outputs.

    What stands between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` is replaced by a line that
    raises ``NotImplementedError``, indented alike.

    Raises:
        ConfigError: for an unknown notebook, or a BEGIN without its END.
    """
    source = notebook_path(notebook)
    book = read_notebook(source)
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        cell["source"] = SOLUTION.sub(rf"\g<indent>{TODO}", cell["source"])
        if "### BEGIN SOLUTION" in cell["source"] or "### END SOLUTION" in cell["source"]:
            raise ConfigError(
                f"{source.name}: a '### BEGIN SOLUTION' or '### END SOLUTION' stands alone in the cell "
                f"that begins {cell['source'].splitlines()[0]!r}; write both"
            )
        cell["outputs"], cell["execution_count"] = [], None
    write_json(target, book)
    return target
