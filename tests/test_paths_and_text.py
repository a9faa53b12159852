"""Paths, text and the machine: what is typed is what is meant, and what is there is found, or named."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib import pyplot as plt
from matplotlib.cbook import is_math_text
from matplotlib.text import Text
from papermill.iorw import read_yaml_file
from test_reproduction import Pretended
from test_runs import FINISH, write_notebook

from minigslora import doctor, files
from minigslora.cli import main, parse_pairs
from minigslora.config import parse_value
from minigslora.course import executing, identity, plots, profiles
from minigslora.errors import ConfigError, OutputError
from minigslora.reproduction import engines, page
from minigslora.reproduction.benchmark import Contender
from minigslora.reproduction.grid import Grid, read_grid, run_grid
from minigslora.text import expand_home, read_value

ROOT = Path(__file__).resolve().parents[1]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write")
NOBODYS = "/proc/nobody"
"""A folder that cannot be made, whoever asks."""


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_RUNS", str(tmp_path / "runs"))
    for name in ("MINIGSLORA_PROFILE", "MINIGSLORA_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)


def ended(arguments):
    """Return the exit code of a command line."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


# --- values as they are typed ------------------------------------------------------------------------

VALUES = {
    # what YAML 1.1 reads otherwise
    "010": "010",
    "0o17": "0o17",
    "0x1f": "0x1f",
    "007": "007",
    "1_000": "1_000",
    "12:30": "12:30",
    "1:2:3": "1:2:3",
    "yes": "yes",
    "No": "No",
    "on": "on",
    "off": "off",
    "y": "y",
    "~": "~",
    "1e-4": 1e-4,
    "1E5": 1e5,
    "-.5e+3": -500.0,
    "2024-01-02": "2024-01-02",
    "2024-13-01": "2024-13-01",
    "2024-01-02 10:00:00": "2024-01-02 10:00:00",
    "=": "=",
    "<<": "<<",
    # what YAML would take apart, or refuse
    "a: b": "a: b",
    "- x": "- x",
    "cat #2": "cat #2",
    "#2": "#2",
    "*": "*",
    "&x": "&x",
    "!tag": "!tag",
    "!!python/name:os.system": "!!python/name:os.system",
    "%d": "%d",
    "@home": "@home",
    "`x`": "`x`",
    "'tis": "'tis",
    'say "a" and': 'say "a" and',
    "a=b": "a=b",
    "C:\\data": "C:\\data",
    "": "",
    # numbers and words
    "0": 0,
    "-7": -7,
    "+3": 3,
    "3.": 3.0,
    ".5": 0.5,
    "1.5": 1.5,
    "10": 10,
    "1.2.3": "1.2.3",
    "inf": "inf",
    ".inf": ".inf",
    "nan": "nan",
    "٣": "٣",
    "true": True,
    "False": False,
    "null": None,
    "None": "None",
    # lists and mappings
    "[1, 2]": [1, 2],
    "[0.1, 1e-3]": [0.1, 1e-3],
    "[gslora, gslora++:released]": ["gslora", "gslora++:released"],
    "[010, 12:30, yes, 1_000, true, null]": ["010", "12:30", "yes", "1_000", True, None],
    "[]": [],
    "{epochs: 1, lr: 1e-4}": {"epochs": 1, "lr": 1e-4},
    "{rank: [1, 08]}": {"rank": [1, "08"]},
    # text in quotes
    '"7"': "7",
    "'true'": "true",
    '"[draft]"': "[draft]",
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_a_value_is_a_number_a_list_or_text_as_it_stands(text, value):
    found = read_value(text)
    assert found == value
    assert type(found) is type(value)
    assert parse_pairs([f"key={text}"]) == {"key": value}


@pytest.mark.parametrize(
    ("text", "kind", "value"), [("010", int, 10), ("1_000", int, 1000), ("08", float, 8.0)]
)
def test_what_asks_for_a_number_reads_leading_zeros_as_decimals(text, kind, value):
    assert parse_value("seed", read_value(text), kind) == value


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "1"])
def test_what_asks_for_true_or_false_takes_no_other_word(text):
    with pytest.raises(ConfigError, match=r"flip = .*; expected true or false"):
        parse_value("flip", read_value(text), bool)


ENDLESS = {"references": "[&a [*a]]", "depth": "[" * 500, "both": "[&a {b: *a}]"}


@pytest.mark.parametrize(
    "text",
    ["[1", "{a", "[1] and", "[!!python/name:os.system]", "[!!binary aGk=]", "[*x]", *ENDLESS.values()],
)
def test_what_begins_like_a_list_and_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"is no \[list\] and no \{mapping\}; for text, write"):
        read_value(text)


def test_a_number_of_thousands_of_digits_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"epochs = inf; expected a whole number"):
        parse_value("epochs", read_value("9" * 5000), int)


def test_papermill_reads_back_what_was_typed(tmp_path):
    values = {f"value{i}": value for i, value in enumerate(VALUES.values())}
    planned = executing.Planned(tmp_path / "x.ipynb", tmp_path, {"parameters": values})
    planned.claim()
    found = read_yaml_file(str(tmp_path / "parameters.yaml"))
    assert found == values
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in values.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/x", "{home}/x"),
        ("--data=~/x", "--data={home}/x"),
        ("-o=~/x", "-o={home}/x"),
        ("--data=~", "--data=~"),
        ("~nobody-here/x", "~nobody-here/x"),
        ("a~/x", "a~/x"),
        ("--classes=~tilde", "--classes=~tilde"),
        ("weights=~/x", "weights=~/x"),  # KEY=VALUE is read by read_value
        ("", ""),
    ],
)
def test_the_users_folder_is_found_after_an_equals_sign(text, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expand_home(text) == expected.format(home=tmp_path).replace(
        "/", os.sep if "{" in expected else "/"
    )
    assert parse_pairs(["weights=~/x"]) == {"weights": str(tmp_path / "x")}


# --- paths of a run ------------------------------------------------------------------------------------

READS = (
    "profile: str = ''\nseed: int = 0\nweights: str = ''\ndata: str = ''\ndata_set: str = ''\nnote: str = ''"
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return where we are: a folder with weights and data, beside that of a notebook."""
    (tmp_path / "notebooks").mkdir()
    here = tmp_path / "here"
    (here / "models").mkdir(parents=True)
    (here / "models" / "mine.safetensors").write_bytes(b"weights")
    (here / "photos" / "train" / "cat").mkdir(parents=True)
    (here / "photos" / "train" / "cat" / "1.png").write_bytes(b"image")
    (here / "gslora").mkdir()
    (here / "mini-faces").mkdir()
    monkeypatch.chdir(here)
    return here


def reading(place):
    """Return a notebook that reads weights and data, in a folder other than the current one."""
    return write_notebook(place.parent / "notebooks", FINISH, parameters=READS)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("weights", "models/mine.safetensors", "{here}/models/mine.safetensors"),
        ("weights", "./models/../models/mine.safetensors", "{here}/models/mine.safetensors"),
        ("data", "photos", "{here}/photos"),
        ("data_set", "photos", "{here}/photos"),
        ("data_set", "photos/", "{here}/photos"),
        ("data_set", "nowhere/photos", "{here}/nowhere/photos"),
        ("data_set", "mini-faces", "mini-faces"),  # a data set's name is that, whatever lies about
        ("data_set", "casia-face100", "casia-face100"),
        ("note", "gslora", "gslora"),  # a folder of that name lies here, but it's no path
        ("note", "four/full", "four/full"),
        ("note", "photos/train", "{here}/photos/train"),
        ("weights", "", ""),
    ],
)
def test_paths_start_where_the_command_is_given(place, name, given, expected):
    found = executing.Notebook(reading(place)).values({name: given})[name]
    assert found == expected.format(here=place)


@pytest.mark.parametrize(
    "given", ["missing.safetensors", "models/missing.safetensors", "~/missing.safetensors"]
)
def test_weights_that_are_not_there_are_named_before_anything_starts(place, given, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    with pytest.raises(ConfigError, match=r"no weight file /.*missing\.safetensors; check the path"):
        executing.run_notebook(reading(place), {"weights": given})
    assert not (place.parent / "runs").exists()


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("seed=010", {"seed": 10}),
        ("seed=-3", {"seed": -3}),
        ("epochs=1_0", {"epochs": 10}),
        ("lr=1e-4", {"lr": 1e-4}),
        ("lr=08.5", {"lr": 8.5}),
        ("limit=012", {"limit": "012"}),  # the notebook's configure() knows what it is
    ],
)
def test_a_number_is_what_it_looks_like_in_the_notebook(typed, values, place):
    notebook = executing.Notebook(write_notebook(place, FINISH))
    found = notebook.values(parse_pairs([typed]))
    assert {name: found[name] for name in values} == values
    assert [type(found[name]) for name in values] == [type(value) for value in values.values()]


@pytest.mark.parametrize("typed", ["seed=ten", "epochs=12:30", "lr=2024-01-02"])
def test_what_is_no_number_is_refused_before_anything_starts(typed, place):
    with pytest.raises(ConfigError, match=r"(seed|epochs|lr) = '.*'; expected a (whole )?number"):
        executing.run_notebook(write_notebook(place, FINISH), parse_pairs([typed]))


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("weights", "models/mine.safetensors", True),
        ("note", "models/mine.safetensors", True),
        ("note", "models", False),
        ("note", "./models/log.txt", False),  # may be for results
        ("data", "photos", True),
        ("data_set", "mini-faces", False),
    ],
)
def test_what_a_run_reads_is_part_of_what_it_depends_on(place, name, given, read):
    (place / "models" / "log.txt").write_text("x")
    planned = executing.Notebook(reading(place)).planned({name: given})
    assert planned.identity["inputs"].keys() == ({name} if read else set())


# --- what is remembered from before -------------------------------------------------------------------


def edit(place, old, new):
    path = place.parent / "notebooks" / "90_tiny.ipynb"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def touched(path):
    os.utime(path, (2e9, 2e9))


CHANGES = {
    "nothing": (lambda place, monkeypatch: None, True),
    "a text cell": (lambda place, monkeypatch: edit(place, "# Tiny", "# Small"), True),
    "an output": (lambda place, monkeypatch: edit(place, '"outputs": []', '"outputs": [ ]'), True),
    "a code cell": (lambda place, monkeypatch: edit(place, "import json", "import  json"), False),
    "a default": (lambda place, monkeypatch: edit(place, "seed: int = 0", "seed: int = 1"), False),
    "the weights": (
        lambda place, monkeypatch: (place / "models/mine.safetensors").write_bytes(b"other"),
        False,
    ),
    "an image's time": (lambda place, monkeypatch: touched(place / "photos/train/cat/1.png"), False),
    "an image more": (lambda place, monkeypatch: (place / "photos/train/cat/2.png").touch(), False),
    "a class's name": (
        lambda place, monkeypatch: (place / "photos/train/cat").rename(place / "photos/train/dog"),
        False,
    ),
    "a hidden file": (lambda place, monkeypatch: (place / "photos/.DS_Store").touch(), True),
    "the library": (
        lambda place, monkeypatch: monkeypatch.setattr(identity, "library_fingerprint", lambda: "2"),
        False,
    ),
    "the device": (
        lambda place, monkeypatch: monkeypatch.setattr(
            identity, "pick_device", lambda _: torch.device("cuda")
        ),
        False,
    ),
    "the profile": (lambda place, monkeypatch: monkeypatch.setenv("MINIGSLORA_PROFILE", "smoke"), False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_taken_for_another_only_where_all_is_equal(place, change, monkeypatch, capsys):
    notebook, started = reading(place), []
    given = ["-p", "weights=models/mine.safetensors", "-p", "data_set=photos"]

    def pretended(planned, watch, variables):
        started.append(planned.folder)
        (planned.folder / "result.json").write_text("{}")

    monkeypatch.setattr(executing, "_papermill", pretended)
    assert ended(["run", str(notebook), *given]) == 0
    assert "earlier run" not in capsys.readouterr().err
    alter, same = CHANGES[change]
    alter(place, monkeypatch)
    assert ended(["run", str(notebook), *given]) == 0
    said = capsys.readouterr()
    if same:
        assert said.err == f"taken from an earlier run: {started[0]}\n"
        assert (len(started), said.out.strip()) == (1, str(started[0]))
    else:
        assert "earlier run" not in said.err
        assert len(set(started)) == 2
        assert (started[0] / "result.json").is_file(), "the earlier run stays"


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ("a code cell", "notebook"),
        ("the weights", "inputs"),
        ("an image more", "inputs"),
        ("the library", "library"),
        ("the profile", "parameters"),
    ],
)
def test_a_folder_that_was_chosen_is_refused_to_another_run(place, change, differ, monkeypatch):
    notebook, given = reading(place), {"weights": "models/mine.safetensors", "data_set": "photos"}
    earlier = executing.Notebook(notebook).planned(given, place / "out")
    earlier.claim()
    (place / "out" / "result.json").write_text("{}")
    CHANGES[change][0](place, monkeypatch)
    now = executing.Notebook(notebook).planned(given, place / "out")
    assert not now.finished
    with pytest.raises(
        OutputError, match=f"holds a run with other {differ}; choose another folder, or remove it"
    ):
        now.claim()
    assert earlier.finished


def test_the_data_of_a_profile_count_though_nobody_named_them(place, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path / "data"))
    image = tmp_path / "data" / "casia-face100" / "train" / "anna" / "1.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"anna")
    path = ROOT / "notebooks" / "07_face_benchmark.ipynb"
    before, small = (executing.Notebook(path).planned({"profile": profile}) for profile in ("paper", "cpu"))
    assert before.identity["inputs"].keys() == {"data_set"}
    assert small.identity["inputs"] == {}
    image.write_bytes(b"bertha")
    assert executing.Notebook(path).planned({"profile": "paper"}).folder != before.folder
    assert executing.Notebook(path).planned({"profile": "cpu"}).folder == small.folder


def test_a_notebooks_own_kernel_goes_on_only_with_the_same_library_and_weights(place, monkeypatch):
    cpu = {"weights": "models/mine.safetensors"}

    def folder():
        return profiles.configure("90_tiny", {"device": "cpu"}, cpu=cpu).out

    first = folder()
    assert folder() == first
    (place / "models/mine.safetensors").write_bytes(b"other")
    second = folder()
    monkeypatch.setattr(identity, "library_fingerprint", lambda: "2")
    assert len({first, second, folder()}) == 3


@pytest.mark.usefixtures("warm_python")
def test_two_processes_at_one_run_do_its_work_once(tmp_path):
    wait = "import time\ntime.sleep(2)\n"
    notebook = write_notebook(tmp_path, wait + FINISH)
    script = (
        f"from minigslora.course import executing; print(executing.run_notebook({str(notebook)!r}, {{}}))"
    )
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, stdout=-1, text=True
        )
        for _ in range(2)
    ]
    (one, _), (two, _) = (process.communicate(timeout=300) for process in started)
    assert one == two
    assert (Path(one.strip()) / "count").read_text() == "3 0.1\n"


# --- grids and their pages ---------------------------------------------------------------------------


def small_grid(**changes):
    return Grid(**{"table": "table3", "profile": "smoke", "contenders": (Contender("gslora"),), **changes})


@pytest.mark.parametrize("data", ["photos", "./photos", "{here}/photos", "photos/../photos"])
def test_a_grid_on_a_folder_has_its_page_where_report_looks(place, data, capsys, monkeypatch):
    monkeypatch.setattr(engines, "make", lambda *_: Pretended())
    assert ended(["reproduce", "table5", "--profile", "smoke", "--data", data.format(here=place)]) == 0
    (noted,) = (place.parent / "runs" / "reproduce").glob("*/grid.json")
    assert noted.parent.name.startswith("table5-photos-")
    (job, *_) = Grid("table5", "smoke", data=data.format(here=place)).jobs()
    assert job.parameters["data_set"] == str(place / "photos")
    capsys.readouterr()
    assert ended(["report"]) == 0
    assert capsys.readouterr().out.strip() == str(noted.with_name("report.html"))


def test_grids_on_folders_of_one_name_are_kept_apart(place):
    (place / "photos2" / "photos").mkdir(parents=True)
    assert small_grid(data="photos").folder != small_grid(data="photos2/photos").folder


@pytest.mark.parametrize("data", ["photo", "nowhere/photos", "models/mine.safetensors"])
def test_data_that_are_not_there_are_named_before_a_run(place, data):
    with pytest.raises(ConfigError, match=r"no data '.*': neither a folder \(/.*\) nor one of mini-faces"):
        small_grid(data=data).jobs()


def test_a_page_in_a_nested_folder_is_found(tmp_path, capsys):
    grid = small_grid()
    run_grid(grid, Pretended())
    nested = grid.folder.parent / "table3-" / "home" / "me" / "photos-smoke"
    nested.parent.mkdir(parents=True)
    grid.folder.rename(nested)
    assert ended(["report"]) == 0
    assert capsys.readouterr().out.strip() == str(nested / "report.html")


def damaged(folder):
    (folder / "grid.json").write_text('{"table": "table3", "runs": [')


def without_keys(folder):
    (folder / "grid.json").write_text('{"table": "table3", "runs": [{}]}')


def with_damaged_results(folder):
    for run in read_grid(folder)["runs"]:
        (Path(run["folder"]) / "result.json").write_text('{"metrics": ')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged, r"grid.json is damaged; run 'minigslora reproduce' again"),
        (without_keys, r"grid.json is damaged; run 'minigslora reproduce' again"),
        (with_damaged_results, r"no run of the grid in .* has finished: .*result.json is damaged"),
    ],
)
def test_report_goes_on_past_a_grid_that_fails_and_says_so_at_the_end(damage, message, capsys):
    for table in ("table2", "table3", "table5"):
        run_grid(small_grid(table=table), Pretended())
    damage(small_grid(table="table2").folder)
    damage(small_grid(table="table3").folder)
    assert ended(["report"]) == 1
    said = capsys.readouterr()
    assert said.out.strip() == str(small_grid(table="table5").folder / "report.html")
    assert said.err.count("error: ") == 2
    assert len(said.err.strip().splitlines()) == 2
    with pytest.raises(ConfigError, match=message):
        page.write(small_grid(table="table2").folder)


def test_what_a_grid_takes_from_earlier_runs_is_said(capsys):
    run_grid(small_grid(), Pretended(), watch=True)
    assert "earlier" not in capsys.readouterr().err
    run_grid(small_grid(seeds=2), Pretended(), watch=True)
    assert "taken from earlier runs: 2 of 4, named in " in capsys.readouterr().err


def test_runs_of_another_library_do_not_stand_in_the_same_table(capsys, monkeypatch):
    run_grid(small_grid(), Pretended())
    monkeypatch.setattr(identity, "library_fingerprint", lambda: "2")
    served = Pretended()
    run_grid(small_grid(contenders=(Contender("gslora++"),)), served, watch=True)
    assert "left out: 2 earlier runs of another notebook, library or data" in capsys.readouterr().err
    assert {run["label"].split()[1] for run in read_grid(small_grid().folder)["runs"]} == {"gslora++"}
    run_grid(small_grid(), served)
    assert len(served.served) == 4, "the earlier library's results are not taken"


def test_a_grid_reads_its_notebook_once(monkeypatch):
    read, grid = [], small_grid(seeds=5)
    of_file = executing.read_notebook
    monkeypatch.setattr(executing, "read_notebook", lambda path: read.append(path) or of_file(path))
    outcomes = run_grid(grid, Pretended())
    assert len(outcomes) == 10
    assert len(read) == 1


def test_a_notebook_that_is_edited_while_its_grid_runs_is_not_mistaken(place, monkeypatch):
    notebook = reading(place)
    jobs = [engines.Job(f"seed {seed}", str(notebook), {"seed": seed}) for seed in (1, 2)]
    assert not any(job.finished for job in jobs)

    def pretended(planned, watch, variables):
        (planned.folder / "result.json").write_text("{}")
        edit(place, "import json", "import json  # edited\\nimport json")

    monkeypatch.setattr(executing, "_papermill", pretended)
    outcomes = {o.job.label: o.error for o in engines.Local(1, gpus=0).run(jobs)}
    assert outcomes["seed 1"] == ""
    assert "changed while the grid ran" in outcomes["seed 2"]
    assert [job.finished for job in jobs] == [True, False]


# --- installed from a wheel ----------------------------------------------------------------------------


def test_the_wheel_has_the_notebooks_where_they_are_looked_for(tmp_path, monkeypatch):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["notebooks"] == "minigslora/_notebooks"
    installed = tmp_path / "site-packages" / "minigslora"
    (installed / "_notebooks").mkdir(parents=True)
    (installed / "_notebooks" / "00_start_here.ipynb").write_text("{}")
    monkeypatch.setattr(executing, "__file__", str(installed / "course" / "executing.py"))
    assert executing.notebook_path("0") == installed / "_notebooks" / "00_start_here.ipynb"
    with pytest.raises(ConfigError, match=r"no notebook '7'.* The notebooks are 00_start_here"):
        executing.notebook_path("7")


# --- terminals and files ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm_python")
@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("cp1252", b"?"), ("latin-1:strict", b"?"), ("cp437", b"?"), ("utf-8", "→".encode())],
)
def test_a_terminal_without_an_arrow_does_not_end_the_program(encoding, shown, tmp_path):
    grid = small_grid()
    run_grid(grid, Pretended())
    folder = grid.folder.rename(tmp_path / "a → b")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "minigslora", "report", str(folder)],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": path, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == os.fsencode(folder / "report.html").replace("→".encode(), shown)


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
@pytest.mark.parametrize("kind", ["text", "json", "tensors"])
def test_files_have_the_mode_that_the_umask_allows(umask, mode, kind, tmp_path):
    write = {
        "text": lambda path: files.write_text(path, "x"),
        "json": lambda path: files.write_json(path, {}),
        "tensors": lambda path: files.save_tensors(path, {"x": torch.zeros(1)}, {}),
    }[kind]
    before = os.umask(umask)
    try:
        write(tmp_path / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


def test_a_long_name_is_no_obstacle(tmp_path):
    files.write_text(tmp_path / ("x" * 250), "whole")
    assert [p.read_text() for p in tmp_path.iterdir() if p.is_file()] == ["whole"]


@ON_LINUX
@pytest.mark.parametrize(
    ("variable", "blamed", "spared"),
    [
        ("MINIGSLORA_DATA", "set MINIGSLORA_DATA to a folder that can be written", "--out"),
        ("", "--out", "DATA"),
    ],
)
def test_the_folder_that_cannot_be_written_is_blamed(variable, blamed, spared, monkeypatch):
    monkeypatch.setenv(variable or "UNUSED", NOBODYS)
    for write in (files.require_writable, lambda folder: files.write_text(folder / "x", "x")):
        with pytest.raises(OutputError, match=f"cannot write {NOBODYS}.*{blamed}") as said:
            write(Path(NOBODYS))
        assert spared not in str(said.value)
        assert "free some space" not in str(said.value)


@ON_LINUX
@pytest.mark.parametrize(("variable", "what"), [("MINIGSLORA_DATA", "data"), ("MINIGSLORA_RUNS", "runs")])
def test_doctor_sees_a_folder_that_cannot_be_written(variable, what, monkeypatch):
    monkeypatch.setenv(variable, NOBODYS)
    found = {finding.what: finding for finding in doctor._disk()}
    assert found[f"disk for {what}"].well is False
    assert f"nothing can be written at {NOBODYS}" in found[f"disk for {what}"].found
    assert f"set {variable} to a folder that can be written" in found[f"disk for {what}"].found
    assert sum(finding.well is False for finding in found.values()) == 1


def test_doctor_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path / "not" / "yet"))
    assert [finding.well for finding in doctor._disk()] == [True, True]
    assert not (tmp_path / "not").exists()


# --- names in figures ----------------------------------------------------------------------------------

NAMES = [
    "cash $^$",
    "$",
    "$$",
    "a $b$ c",
    r"\alpha",
    "$\\alpha",
    "100 $ & 200 $",
    "_x^2 {",
    "naïve → ß",
    "$_$ $",
]
DRAWN = {
    "per_class": lambda n: plots.per_class({"before": [1.0], n: [2.0]}, [n], ["retain"], n),
    "destinations": lambda n: plots.destinations([n], [5.0], [True]),
    "curves": lambda n: plots.curves(
        [plots.Panel(n, n, {n: [1.0, 2.0]}, colours={n: "retain"})], n, [n, "b"]
    ),
    "bars": lambda n: plots.bars({n: {n: 1.0, "b": 2.0}}, n, {n: "retain", "b": "forget"}),
    "maps": lambda n: plots.maps({n: torch.rand(3, 2)}, torch.tensor([0, 0, 0]), [n]),
    "gallery": lambda n: plots.gallery(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [n]),
    "comparison": lambda n: plots.comparison(
        [plots.PictureRow(n, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [n], [True])]
    ),
    "boxed": lambda n: plots.boxed(
        {n: [plots.Boxed(torch.zeros(3, 9, 9, dtype=torch.uint8), [[1, 1, 4, 4]], [n], ["retain"])]}
    ),
    "distance_map": lambda n: plots.distance_map(torch.rand(2, 2), [n, "b"], n, n, n),
    "scattered": lambda n: plots.scattered({n: (1.0, 2.0, "retain")}, n, n, {"retain": n}),
    "tables": lambda n: plots.tables({n: {n: [1.0]}}, [n], n),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("figure", DRAWN)
def test_a_name_is_shown_as_it_is(figure, name):
    fig = DRAWN[figure](name)
    fig.canvas.draw()
    shown = {text.get_text() for text in fig.findobj(Text)}
    ours = {text for text in shown if text.replace(r"\$", "$").removeprefix("\u200b") == name}
    legend = {text.get_text() for ax in fig.axes if ax.get_legend() for text in ax.get_legend().get_texts()}
    plt.close(fig)
    assert ours <= legend or figure not in ("curves", "bars", "maps", "scattered"), "matplotlib hides _names"
    assert len(ours) == 1, "the name stands in the figure"
    assert not any(is_math_text(text) for text in ours)


def test_our_own_formulas_are_still_set():
    fig = plots.margin_circle(1.0, 0.2)
    assert {"$w_1$", "$w_2$"} <= {text.get_text() for text in fig.findobj(Text)}
    plt.close(fig)


def test_drawing_functions_keep_their_names_and_what_they_are_given():
    assert plots.curves.__name__ == "curves"
    assert "Draw lines over epochs" in plots.curves.__doc__
    panel = plots.Panel("$", "y", {"$": [1.0]})
    plt.close(plots.curves([panel], "x"))
    assert dataclasses.asdict(panel)["lines"] == {"$": [1.0]}


def test_the_parameters_file_is_yaml_for_anyone(tmp_path):
    executing.Planned(tmp_path / "x.ipynb", tmp_path, {"parameters": {"seed": 3, "name": "010"}}).claim()
    assert yaml.safe_load((tmp_path / "parameters.yaml").read_text()) == {"seed": 3, "name": "010"}
    assert json.loads((tmp_path / "identity.json").read_text())["parameters"]["name"] == "010"
