"""What the tests of the notebooks share: where they are, how they are read, how a smoke run is set up."""

import os
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def in_smoke(tmp_path):
    """Return the environment of a smoke run that leaves nothing in the checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    changes = {"MINIGSLORA_PROFILE": "smoke", "MINIGSLORA_RUNS": str(tmp_path / "runs"), "PYTHONPATH": path}
    return {**os.environ, **changes, "JUPYTER_PREFER_ENV_PATH": "1"}
