"""A notebook executed from outside by papermill, in a process of its own; a finished run is not run again.

:func:`run_notebook` starts ``python -m minigslora.course.executing``, which holds the lock of the run's
folder itself. So the lock lasts as long as the work, even where whoever started it was killed, and whoever
waits for the lock finds the result.

Parameters are read here, not by papermill's ``inspect_notebook``: that passes over lines it cannot read,
where a run needs every one of them, and leaves the values as text.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from minigslora.config import parse_value
from minigslora.course.identity import IDENTITY, PARAMETERS, RESULT, Inputs, identity_of, run_folder
from minigslora.course.profiles import unknown_parameter
from minigslora.errors import ConfigError, OutputError, RunFailed
from minigslora.files import alone_in, read_json, write_json, write_text
from minigslora.fingerprint import fingerprint_of

LITERAL = "write one literal a line, as in 'seed: int = 0'"


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any],
    out: Path | None = None,
    watch: bool = False,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run one notebook by papermill; a finished run is not run again.

    Where another process is at this very run (one whose starter was killed goes on by itself), it is
    waited for.

    The run's folder is its ``MINIGSLORA_RUN_DIR``, whose name comes from its identity. It holds
    ``identity.json``, ``parameters.yaml``, ``executed.ipynb`` and, once the run has succeeded,
    ``result.json``.

    Args:
        notebook: a number, a name or a path; see :func:`notebook_path`.
        parameters: values for names of its parameters cell; paths are relative to the working directory.
        out: another folder for the run.
        watch: whether papermill's progress bar and the cells' output are shown.
        environment: variables for the run's process, such as ``CUDA_VISIBLE_DEVICES``.
        say: is told where a result is taken from an earlier run.

    Returns:
        The run's folder.

    Raises:
        ConfigError: for an unknown notebook or parameter, before anything is started.
        OutputError: where ``out`` holds another run.
        RunFailed: naming the cell's error and where the executed copy is.
    """
    planned = Notebook(notebook).planned(parameters, out)
    if planned.finished:
        say(f"taken from an earlier run: {planned.folder}")
    else:
        planned.claim()
        _papermill(planned, watch, environment or {})
    return planned.folder


@dataclass(frozen=True)
class Planned:
    """A run that may have been carried out or not: notebook, folder, and all that its numbers depend on."""

    notebook: Path
    folder: Path
    identity: Mapping[str, Any] = field(hash=False)

    @property
    def finished(self) -> bool:
        """Whether the folder holds the result of this very run."""
        return (self.folder / RESULT).is_file() and read_identity(self.folder) == self.identity

    def claim(self) -> None:
        """Make the folder this run's, or raise an :class:`OutputError` where it holds another run."""
        found, what = read_identity(self.folder), ""
        if found == self.identity and (self.folder / PARAMETERS).is_file():
            return
        if found and found != self.identity:
            differ = [key for key, value in self.identity.items() if found.get(key) != value]
            what = f"a run with other {', '.join(differ)}"
        elif not found and any((self.folder / name).exists() for name in (RESULT, PARAMETERS)):
            what = f"a run that does not say what it depends on (no readable {IDENTITY})"
        if what:
            raise OutputError(f"{self.folder} holds {what}; choose another folder, or remove it")
        write_json(self.folder / IDENTITY, self.identity)
        write_text(self.folder / PARAMETERS, yaml.safe_dump(self.identity["parameters"]))


def read_identity(folder: Path) -> Mapping[str, Any]:
    """Return what the run in ``folder`` depends on; nothing where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(found := read_json(folder / IDENTITY), dict):
            return found
    return {}


# --- a notebook as a file -------------------------------------------------------------------------


class Notebook:
    """A notebook as its file is now: read once, however many runs are made of it."""

    def __init__(self, name: str | Path) -> None:
        self.path = notebook_path(name)
        cells = [c for c in read_notebook(self.path)["cells"] if c["cell_type"] == "code"]
        self.defaults, self.profiles = _parameters(self.path.name, cells), _profiles(cells)
        self.code = fingerprint_of(json.dumps([cell["source"] for cell in cells]))
        self.given, self.inputs = Inputs(Path.cwd()), Inputs(self.path.parent)

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters of a run, defaults included; paths given are relative to where we are."""
        for name in parameters:
            if name not in self.defaults:
                raise unknown_parameter(name, self.path.stem, self.defaults)
        given = {name: self.given.absolute(name, value) for name, value in parameters.items()}
        for name, value in given.items():
            if isinstance(value, str) and isinstance(like := self.defaults[name], bool | int | float):
                given[name] = parse_value(name, value, type(like))
        values = {"profile": "", "seed": 0, **self.defaults, **given}
        values["profile"] = values["profile"] or os.environ.get("MINIGSLORA_PROFILE") or "cpu"
        return values

    def planned(self, parameters: Mapping[str, Any], out: Path | None = None) -> Planned:
        """Return the run with these parameters; see :meth:`values`."""
        values = self.values(parameters)
        of_profile = {**self.profiles.get("cpu", {}), **self.profiles.get(values["profile"], {})}
        read = {**of_profile, **{name: value for name, value in values.items() if value is not None}}
        identity = identity_of(values, self.code, self.inputs.of(read))
        return Planned(self.path, (out or run_folder(self.path.stem, identity)).resolve(), identity)


def notebooks() -> dict[str, Path]:
    """Return the notebooks of the course by name, in their order."""
    package = Path(__file__).resolve().parents[1]
    folder = inside if (inside := package / "_notebooks").is_dir() else package.parent / "notebooks"
    return {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}


def notebook_path(name: str | Path) -> Path:
    """Return a notebook of the course by number ("4"), by name ("04_forget_once"), or any by path."""
    if (given := Path(name).expanduser()).suffix == ".ipynb" and given.is_file():
        return given.resolve()
    known = notebooks()
    stem = given.name.removesuffix(".ipynb")
    number = f"{int(stem):02d}_" if stem.isdecimal() else ""
    for other, path in known.items():
        if other == stem or (number and other.startswith(number)):
            return path
    near = difflib.get_close_matches(stem, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = f" The notebooks are {', '.join(known)}" if known else " Give the path of an .ipynb file"
    raise ConfigError(f"no notebook {str(name)!r}{hint}{listed}")


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook as plain values, each cell's source as one string."""
    try:
        book: dict[str, Any] = read_json(path)
        for cell in book["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is no notebook; expected Jupyter's JSON, version 4") from None
    return book


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Return the names and default values of a notebook's parameters cell, without running it.

    Raises:
        ConfigError: where no code cell is tagged ``parameters``, or it holds more than literals.
    """
    return _parameters(notebook.name, read_notebook(notebook)["cells"])


def _parameters(notebook: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if not tagged:
        raise ConfigError(f"{notebook} has no cell tagged 'parameters'; tag its first code cell")
    try:
        lines = ast.parse(tagged[0]["source"]).body
    except SyntaxError as problem:
        raise ConfigError(f"{notebook}: the parameters cell is no Python ({problem}); {LITERAL}") from None
    return dict(
        _parameter(notebook, line) for line in lines if not isinstance(line, ast.Import | ast.ImportFrom)
    )


def _parameter(notebook: str, line: ast.stmt) -> tuple[str, Any]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
        with contextlib.suppress(ValueError):
            return line.target.id, ast.literal_eval(line.value)
    raise ConfigError(f"{notebook}: {ast.unparse(line)!r} does not belong in the parameters cell; {LITERAL}")


def _profiles(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what a notebook's call of ``configure`` says of each profile, as far as it is literal."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        with contextlib.suppress(SyntaxError):  # a cell with magics
            for call in ast.walk(ast.parse(cell["source"])):
                if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "configure":
                    found |= {
                        profile.arg: _literals(profile.value)
                        for profile in call.keywords
                        if profile.arg and isinstance(profile.value, ast.Dict)
                    }
    return found


def _literals(values: ast.Dict) -> dict[str, Any]:
    found = {}
    for key, value in zip(values.keys, values.values, strict=True):
        with contextlib.suppress(ValueError):
            found[str(ast.literal_eval(key or value))] = ast.literal_eval(value)
    return found


# --- the process that executes it -----------------------------------------------------------------


def _papermill(planned: Planned, watch: bool, variables: Mapping[str, str]) -> None:
    folder, executed = planned.folder, planned.folder / "executed.ipynb"
    earlier = _stamp(executed)
    show = ["--progress-bar", "--log-output"] if watch else ["--no-progress-bar"]
    arguments = [str(path) for path in (folder, planned.notebook, executed)]
    arguments += [*show, "-k", "python3", "-f", str(folder / PARAMETERS)]
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        **variables,
        "MINIGSLORA_RUN_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not a user's of that name
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "minigslora.course.executing", *arguments],
        cwd=planned.notebook.parent,
        env=environment,
        stderr=None if watch else subprocess.PIPE,
        stdout=None if watch else subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode == 0 and planned.finished:
        return
    last = next(reversed((done.stderr or "").strip().splitlines()), "see above") if done.returncode else ""
    told = _stamp(executed) != earlier  # an earlier try's error is not this one's
    reason = _cell_error(executed, last) if told else last or "papermill wrote no notebook"
    raise RunFailed(f"{planned.notebook.stem} failed: {reason}. The executed copy is {executed}")


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _cell_error(executed: Path, otherwise: str) -> str:
    """Say in which cell of an executed notebook what went wrong."""
    try:
        cells = read_notebook(executed)["cells"]
    except (OSError, ConfigError):  # stopped while it was written
        return otherwise or "papermill was stopped"
    for cell in cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                line = cell["source"].strip().splitlines()[0]
                return f"{output['ename']}: {output['evalue']} (in the cell that begins {line!r})"
    return otherwise or (
        "no result.json was written; the kernel was killed (short of memory?), or the last cell does not "
        "call run.finish"
    )


def execute(folder: Path, arguments: list[str]) -> None:
    """Execute a notebook with papermill's ``arguments``, unless another process has done so meanwhile."""
    from papermill.cli import papermill

    with alone_in(folder, wait=True):
        if not (folder / RESULT).is_file():
            papermill(arguments, standalone_mode=False)


if __name__ == "__main__":
    execute(Path(sys.argv[1]), sys.argv[2:])
