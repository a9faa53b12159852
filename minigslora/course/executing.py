"""The process that executes one notebook, started by :func:`minigslora.course.runs.run_notebook`.

It holds the lock of the run's folder itself. So the lock lasts as long as the work, even where whoever
started it was killed, and whoever waits for the lock finds the result.
"""

from __future__ import annotations

import sys
from pathlib import Path

from minigslora.files import alone_in


def execute(folder: Path, arguments: list[str]) -> None:
    """Execute a notebook with papermill, unless another process has done so meanwhile.

    Args:
        folder: the run's.
        arguments: papermill's.
    """
    from papermill.cli import papermill

    with alone_in(folder, wait=True):
        if not (folder / "result.json").is_file():
            papermill(arguments, standalone_mode=False)


if __name__ == "__main__":
    execute(Path(sys.argv[1]), sys.argv[2:])
