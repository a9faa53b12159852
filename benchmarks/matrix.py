"""What is reproduced, put between its marks in the pages: README, results and the first cell of notebook 07.

python benchmarks/matrix.py            # write them
python benchmarks/matrix.py --check    # only say which differ
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from minigslora.reproduction import matrix

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "data/results/README.md", "notebooks/07_face_benchmark.ipynb")]


def filled(path: Path) -> str:
    """Return what a page should be: its text with the matrix at its place."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return matrix.filled(text)
    notebook = json.loads(text)
    first = notebook["cells"][0]
    first["source"] = matrix.filled("".join(first["source"])).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def differing() -> list[Path]:
    """Return the pages that say something else than the CSV files."""
    return [path for path in PAGES if filled(path) != path.read_text(encoding="utf-8")]


def main() -> None:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page differs")
    check = parser.parse_args().check
    for path in (pages := differing()):
        if not check:
            path.write_text(filled(path), encoding="utf-8")
        print(path.relative_to(ROOT))
    sys.exit(bool(check and pages))


if __name__ == "__main__":
    main()
