"""A notebook's parameters, its run from outside, and the version a teacher hands out."""

import json
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minigslora.course import executing, profiles, student
from minigslora.errors import ConfigError, OutputError, RunFailed

CPU = {"epochs": 30, "lr": 1e-3, "requests": [20, 20], "name": "mini", "limit": None, "flip": True}
SMOKE = {"epochs": 2}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_RUNS", str(tmp_path / "runs"))
    for name in ("MINIGSLORA_PROFILE", "MINIGSLORA_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)


def configure(**names):
    return profiles.configure(
        "04_forget_once", {"profile": "", "device": "cpu", **names}, smoke=SMOKE, cpu=CPU
    )


# --- parameters -----------------------------------------------------------------------------------


def test_none_takes_the_profiles_value_and_a_value_overrides_it():
    run = configure(profile="smoke", epochs=None, lr=0.5)
    assert (run.profile, run.epochs, run.lr, run.name) == ("smoke", 2, 0.5, "mini")
    assert not run.watch


def test_the_first_cells_can_be_run_once_more_when_the_notebook_has_names_of_its_own():
    again = configure(run=configure(), profile="smoke", lr=0.5, zigzag=[0.1], answer=50)
    assert (again.profile, again.epochs, again.lr) == ("smoke", 2, 0.5)
    with pytest.raises(ConfigError, match="epochs = 'many'"):
        configure(run=again, epochs="many")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("epochs", "7", 7),
        ("lr", "1e-4", 1e-4),
        ("lr", 1, 1.0),
        ("flip", "false", False),
        ("requests", [5], [5]),
        ("limit", 3, 3),
        ("seed", "11", 11),
    ],
)
def test_values_from_yaml_are_parsed(name, given, expected):
    value = getattr(configure(**{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "unknown parameter 'epoch'.*did you mean 'epochs'"),
        ({"profile": "huge"}, "profile = 'huge'.*smoke, cpu"),
        ({"profile": "gpu"}, "profile = 'gpu'.*smoke, cpu"),
        ({"epochs": "many"}, "epochs = 'many'; expected a whole number"),
        ({"epochs": 2.5}, "epochs = 2.5; expected a whole number"),
        ({"flip": 1}, "flip = 1; expected true or false"),
        ({"precision": "fp8"}, "precision = 'fp8'; allowed: 'auto', 'bf16', 'fp32'"),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(given, message):
    with pytest.raises(ConfigError, match=message):
        configure(**given)


def test_names_that_are_no_parameters_are_left_alone():
    assert configure(_private=1, In=["x"], function=len, module=json).epochs == 30
    with pytest.raises(AttributeError, match="no parameter 'missing'"):
        _ = configure().missing


def test_the_profile_comes_from_the_environment_unless_given(monkeypatch):
    assert configure().profile == "cpu"
    monkeypatch.setenv("MINIGSLORA_PROFILE", "smoke")
    assert configure().profile == "smoke"
    assert configure(profile="cpu").profile == "cpu"


def test_describe_says_versions_device_seed_and_profile():
    text = configure(seed=5).describe()
    for part in ("torch ", "cpu (", "profile cpu, seed 5", "epochs = 30"):
        assert part in text


def test_finish_writes_result_whole(tmp_path):
    import numpy as np
    import torch

    run = configure(seed=3)
    metrics = {"h": torch.tensor(2.0), "rows": [np.float32(1.5), {"n": np.int64(4)}], "pair": (1, 2)}
    metrics["curve"] = np.array([0.5, 1.0])
    path = run.finish(metrics)
    value = json.loads(path.read_text())
    assert value["metrics"] == {"h": 2.0, "rows": [1.5, {"n": 4}], "pair": [1, 2], "curve": [0.5, 1.0]}
    assert value["parameters"]["seed"] == 3
    assert value["parameters"]["epochs"] == 30
    assert value["versions"]["torch"]
    assert value["seconds"] >= 0
    assert path.parent.parts[-3:-1] == ("04_forget_once", "cpu")


def test_a_runs_folder_comes_from_its_parameters(tmp_path, monkeypatch):
    assert configure().out == configure().out
    assert configure().out != configure(seed=1).out
    assert configure().out != configure(epochs=31).out
    assert tmp_path in configure().out.parents
    monkeypatch.setenv("MINIGSLORA_RUN_DIR", str(tmp_path / "here"))
    assert configure().out == tmp_path / "here"


# --- one notebook from outside --------------------------------------------------------------------

FINISH = (
    "import json, os, pathlib\n"
    "out = pathlib.Path(os.environ['MINIGSLORA_RUN_DIR'])\n"
    "with (out / 'count').open('a') as file:\n"
    "    print(epochs, lr, file=file)\n"
    "(out / 'result.json').write_text(json.dumps({'epochs': epochs}))"
)
PARAMETERS = (
    "from typing import Optional\n"
    "profile: str = ''\nseed: int = 0\nepochs: int = 3\nlr: float = 0.1\nlimit: Optional[int] = None"
)


def write_notebook(folder: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    cells = [new_markdown_cell("# Tiny"), new_code_cell(parameters)]
    cells[1].metadata.tags = ["parameters"]
    book = new_notebook(cells=cells + [new_code_cell(source) for source in sources])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "90_tiny.ipynb"
    nbformat.write(book, path)
    return path


def test_a_run_succeeds_from_any_folder_and_is_not_run_again(tmp_path, monkeypatch):
    notebook = write_notebook(tmp_path, FINISH)
    monkeypatch.chdir(tmp_path)
    folder = executing.run_notebook("90_tiny.ipynb", {"epochs": 5, "lr": 1e-5})
    assert folder.parts[-3:-1] == ("90_tiny", "cpu")
    assert json.loads((folder / "result.json").read_text()) == {"epochs": 5}
    executed = nbformat.read(folder / "executed.ipynb", as_version=4)
    assert all(c.execution_count for c in executed.cells if c.cell_type == "code")
    assert "epochs: int = 3" in notebook.read_text()  # the source stays as it was

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert executing.run_notebook(notebook, {"lr": 1e-5, "epochs": 5}) == folder
    assert (folder / "count").read_text() == "5 1e-05\n"

    with pytest.raises(OutputError, match="run with other parameters"):
        executing.run_notebook(notebook, {"epochs": 6}, out=folder)


@pytest.mark.usefixtures("warm_python")
def test_an_interrupted_run_is_taken_up_in_the_same_folder(tmp_path):
    notebook = write_notebook(
        tmp_path, "import pathlib\nassert pathlib.Path('go').exists(), 'stopped'", FINISH
    )
    with pytest.raises(RunFailed, match="AssertionError: stopped"):
        executing.run_notebook(notebook, {}, out=tmp_path / "run")
    (tmp_path / "go").touch()  # beside the notebook, which is where its cells run
    folder = executing.run_notebook(notebook, {}, out=tmp_path / "run")
    assert (folder / "result.json").is_file()


@pytest.mark.usefixtures("warm_python")
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(in the cell that begins '1 / 0'\)"),
        ("import os\nos._exit(0)", "Kernel died|killed"),
        ("'no result'", "no result.json was written"),
    ],
)
def test_a_failed_run_says_why_and_where_the_executed_copy_is(tmp_path, cell, message):
    last = FINISH if cell.startswith("1") else "'the end'"
    notebook = write_notebook(tmp_path, cell, last)
    with pytest.raises(RunFailed, match=message) as problem:
        executing.run_notebook(notebook, {}, out=tmp_path / "run")
    executed = tmp_path / "run" / "executed.ipynb"
    assert str(executed) in str(problem.value)
    assert executed.is_file()


def test_a_failure_is_not_told_from_an_earlier_trys_notebook(tmp_path, monkeypatch):
    notebook, folder = write_notebook(tmp_path, FINISH), tmp_path / "run"
    error = nbformat.v4.new_output("error", ename="OldError", evalue="of yesterday", traceback=[])
    old = new_notebook(cells=[new_code_cell("1 / 0", outputs=[error])])
    folder.mkdir()
    nbformat.write(old, folder / "executed.ipynb")
    failed = subprocess.CompletedProcess([], 1, "", "No module named papermill")
    monkeypatch.setattr(executing.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RunFailed, match="No module named papermill"):
        executing.run_notebook(notebook, {}, out=folder)


def test_an_executed_copy_that_was_cut_short_does_not_hide_the_reason(tmp_path, monkeypatch):
    notebook, folder = write_notebook(tmp_path, FINISH), tmp_path / "run"

    def killed(*_, **__):
        (folder / "executed.ipynb").write_text('{"cells": [')
        return subprocess.CompletedProcess([], 1, "", "Killed")

    monkeypatch.setattr(executing.subprocess, "run", killed)
    with pytest.raises(RunFailed, match="Killed"):
        executing.run_notebook(notebook, {}, out=folder)


@pytest.mark.parametrize("left", ["result.json", "parameters.yaml"])
def test_a_folder_of_an_earlier_version_is_neither_used_nor_written(tmp_path, left):
    notebook = write_notebook(tmp_path, FINISH)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("{}")
    with pytest.raises(OutputError, match=r"does not say what it depends on \(no readable identity.json\)"):
        executing.run_notebook(notebook, {}, out=tmp_path / "run")
    assert [(p.name, p.read_text()) for p in (tmp_path / "run").iterdir()] == [(left, "{}")]


def test_an_unknown_parameter_is_an_error_before_anything_starts(tmp_path):
    notebook = write_notebook(tmp_path, FINISH)
    with pytest.raises(ConfigError, match="unknown parameter 'epoch' for 90_tiny; did you mean 'epochs'"):
        executing.run_notebook(notebook, {"epoch": 5}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- notebooks as files ---------------------------------------------------------------------------


def test_parameters_are_read_without_running(tmp_path):
    found = executing.parameters_of(write_notebook(tmp_path))
    assert found == {"profile": "", "seed": 0, "epochs": 3, "lr": 0.1, "limit": None}


@pytest.mark.parametrize("line", ["epochs = 3", "epochs: int = 2 + one()", "print(1)", "epochs: int"])
def test_only_literals_belong_in_the_parameters_cell(tmp_path, line):
    with pytest.raises(ConfigError, match="does not belong in the parameters cell"):
        executing.parameters_of(write_notebook(tmp_path, parameters=line))


def test_a_notebook_without_parameters_cell_is_an_error(tmp_path):
    path = tmp_path / "plain.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    with pytest.raises(ConfigError, match="no cell tagged 'parameters'"):
        executing.parameters_of(path)


@pytest.mark.parametrize("text", ["no notebook", "[]", "{}"])
def test_a_file_that_is_no_notebook_is_refused(tmp_path, text):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.ipynb is no notebook"):
        executing.run_notebook(tmp_path / "x.ipynb", {})


def test_a_parameters_cell_that_is_no_python(tmp_path):
    notebook = write_notebook(tmp_path, parameters="%matplotlib inline\nseed: int = 0")
    with pytest.raises(ConfigError, match="the parameters cell is no Python"):
        executing.parameters_of(notebook)


@pytest.mark.parametrize("name", ["0", "00", "00_start_here", "00_start_here.ipynb"])
def test_notebooks_are_found_by_number_and_name(name):
    assert executing.notebook_path(name).name == "00_start_here.ipynb"


@pytest.mark.parametrize("name", ["77", "²", "00_start_hear", "nowhere/x.ipynb"])
def test_an_unknown_notebook_is_an_error_that_lists_them(name):
    with pytest.raises(ConfigError, match=r"no notebook .*00_start_here"):
        executing.notebook_path(name)


def test_student_versions_have_neither_solutions_nor_outputs(tmp_path):
    source = (
        "def double(x):\n    ### BEGIN SOLUTION\n    y = x\n    return y + x\n    ### END SOLUTION\n\n"
        "### BEGIN SOLUTION\nanswer = double(2)\n### END SOLUTION\ncheck(answer)"
    )
    notebook = write_notebook(tmp_path, source)
    book = nbformat.read(notebook, as_version=4)
    book.cells[2].outputs = [nbformat.v4.new_output("stream", text="4")]
    book.cells[2].execution_count = 2
    nbformat.write(book, notebook)

    made = nbformat.read(student.student_version(notebook, tmp_path / "student.ipynb"), as_version=4)
    nbformat.validate(made)
    todo = 'raise NotImplementedError("your code here")'
    assert made.cells[2].source == f"def double(x):\n    {todo}\n\n{todo}\ncheck(answer)"
    assert made.cells[2].outputs == []
    assert made.cells[2].execution_count is None


@pytest.mark.parametrize("line", ["### BEGIN SOLUTION", "### END SOLUTION"])
def test_half_a_pair_of_solution_marks_is_an_error(tmp_path, line):
    with pytest.raises(ConfigError, match="stands alone"):
        student.student_version(write_notebook(tmp_path, f"x = 1\n{line}\ny = 2"), tmp_path / "student.ipynb")
