"""Every notebook runs by papermill in the smoke profile, from any folder, and leaves its result."""

import json

import pytest
from courses import each_notebook, in_smoke, read

from minigslora.course import executing


@pytest.mark.notebooks
@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
@each_notebook
def test_papermill(path, tmp_path, monkeypatch):
    for name, value in in_smoke(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    folder = executing.run_notebook(path, {"seed": 1})
    assert tmp_path in folder.parents
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["notebook"] == path.stem
    assert result["parameters"]["seed"] == 1
    assert result["parameters"]["profile"] == "smoke"
    assert result["metrics"]
    executed = read(folder / "executed.ipynb")
    assert "seed 1" in json.dumps([cell.get("outputs", []) for cell in executed.cells])
