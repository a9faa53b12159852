"""How long the notebooks take: what the README and the notebooks' first cells say.

    uv run python benchmarks/times.py --profile cpu 00 02

runs notebooks one after the other, each from a fresh kernel with one thread, and writes the processor's
seconds to ``notebooks/times.json``; they are the clock's where nothing else runs. tests/test_times.py holds
the texts to that file. Beside them stands the study time in minutes, which nobody measured.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from minigslora.course import executing
from minigslora.files import write_json

TIMES = Path(__file__).resolve().parents[1] / "notebooks" / "times.json"


def measure(notebook: Path, profile: str) -> float:
    """Return the processor's seconds of one run, from starting its kernel to its result."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.times()
        one = {"OMP_NUM_THREADS": "1"}
        executing.run_notebook(notebook, {"profile": profile}, out=Path(folder) / "run", environment=one)
        after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and write."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("notebooks", nargs="*", help="their numbers; all by default")
    parser.add_argument("--profile", choices=("smoke", "cpu"), default="cpu")
    arguments = parser.parse_args()
    every = sorted(path.stem for path in TIMES.parent.glob("*.ipynb"))
    for name in every:
        if arguments.notebooks and name[:2] not in arguments.notebooks:
            continue
        seconds = measure(TIMES.parent / f"{name}.ipynb", arguments.profile)
        table = json.loads(TIMES.read_text(encoding="utf-8"))
        table[name] |= {arguments.profile: round(seconds)} | (
            {"threads": 1} if arguments.profile == "cpu" else {}
        )
        write_json(TIMES, table)
        print(f"{name}, {arguments.profile}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
