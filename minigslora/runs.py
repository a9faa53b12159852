"""A notebook's run: its checked parameters, its folder, its ``result.json``.

The parameters cell holds literals; the next cell turns them into a :class:`Run`:

    run = configure("04_forget_once", globals(), smoke={"epochs": 2}, cpu={"epochs": 30})

A parameter that is None takes the profile's value, so that ``profile`` picks the scale and every other
parameter overrides it. Names that no profile knows are errors: papermill only warns of them.

The second half runs a notebook from outside (:func:`run_notebook`) and makes the version that a teacher
hands out (:func:`student_version`).
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml

from minigslora import __version__
from minigslora.config import parse_value
from minigslora.device import Precision, fast_bf16, pick_device
from minigslora.errors import ConfigError, OutputError, RunFailed
from minigslora.files import (
    data_root,
    read_json,
    require_writable,
    shipped_root,
    write_json,
    write_text,
)

Profile = Literal["smoke", "cpu", "gpu", "paper"]
COMMON: dict[str, Any] = {"profile": str, "seed": int, "device": str, "precision": Precision}
"""Parameters that every notebook has, with their types."""

PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors")
LITERALS = (bool, int, float, str, list, tuple, dict, type(None))
IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


class Run:
    """One run of a notebook; its parameters are attributes (``run.epochs``).

    Attributes:
        notebook: the notebook's name, without ending.
        values: all parameters after the profile was applied.
        out: the run's own folder, made on demand by what writes into it.
    """

    def __init__(self, notebook: str, values: Mapping[str, Any]) -> None:
        self.notebook = notebook
        self.values = dict(values)
        self.torch_device = pick_device(values["device"])
        self.began = time.perf_counter()
        given = os.environ.get("MINIGSLORA_RUN_DIR")
        self.out = Path(given) if given else run_folder(notebook, self.values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"this run has no parameter {name!r}") from None

    @property
    def watch(self) -> bool:
        """Whether someone watches: progress bars are drawn in JupyterLab, not in smoke runs."""
        return bool(self.values["profile"] != "smoke")

    def describe(self) -> str:
        """Return versions, device, seed and profile in four lines."""
        bf16 = "bf16" if fast_bf16(self.torch_device) and self.precision != "fp32" else "fp32"
        shown = ", ".join(f"{k} {v}" for k, v in versions().items() if v)
        own = {k: v for k, v in self.values.items() if k not in COMMON}
        count = torch.get_num_threads()
        return (
            f"{shown}\n{device_name(self.torch_device)}, training in {bf16}, "
            f"{count} {'thread' if count == 1 else 'threads'}\nprofile {self.profile}, seed {self.seed}\n"
            + ", ".join(f"{k} = {v}" for k, v in own.items())
        )

    def folder(self, name: str) -> Path:
        """Return the folder ``name`` of this run, for work that an interrupted run takes up again.

        Where the run has finished before, the folder is emptied: executing a notebook again does its
        work again.
        """
        path = self.out / name
        if (self.out / "result.json").is_file():
            shutil.rmtree(path, ignore_errors=True)
        return path

    def finish(self, metrics: Mapping[str, Any]) -> Path:
        """Write ``result.json`` whole: metrics, configuration, versions, seed, time.

        Args:
            metrics: numbers, and lists or dictionaries of them.
        """
        path = self.out / "result.json"
        write_json(
            path,
            {
                "notebook": self.notebook,
                "parameters": self.values,
                "metrics": _plain(metrics),
                "versions": versions(),
                "device": device_name(self.torch_device),
                "threads": torch.get_num_threads(),
                "seconds": round(time.perf_counter() - self.began, 2),
            },
        )
        return path


def configure(notebook: str, names: Mapping[str, Any], **profiles: Mapping[str, Any]) -> Run:
    """Build a notebook's :class:`Run` from its parameters cell.

    Args:
        notebook: the notebook's name, without ending.
        names: ``globals()``, right after the parameters cell.
        profiles: the value of each parameter by profile; "cpu" must list all of them, and the other
            profiles what differs. Values give the types: a whole number, a number, text, a list.

    Raises:
        ConfigError: for a name no profile knows, an unknown profile, or a value of another type.
    """
    # timm's download library asks for a progress widget on import; its warning would be kept as output
    warnings.filterwarnings("ignore", message="IProgress not found")
    given = {
        k: v
        for k, v in names.items()
        if not k.startswith("_") and k not in IPYTHON and isinstance(v, LITERALS)
    }
    known = {**COMMON, **{k: type(v) for k, v in profiles["cpu"].items()}}
    for name in given:
        if name not in known:
            raise _unknown_parameter(name, notebook, known)
    profile = given.get("profile") or os.environ.get("MINIGSLORA_PROFILE") or "cpu"
    if profile not in get_args(Profile) or (profile not in profiles):
        allowed = ", ".join(p for p in get_args(Profile) if p in profiles)
        raise ConfigError(f"profile = {profile!r}; {notebook} has {allowed}")
    values = {"seed": 0, "device": "auto", "precision": "auto"}
    values |= {**profiles["cpu"], **profiles[profile], "profile": profile}
    for name, value in given.items():
        if name != "profile" and value is not None:
            like = values[name]
            kind = COMMON.get(name) or (Any if like is None else type(like))
            values[name] = parse_value(name, value, kind)
    return Run(notebook, values)


def run_folder(notebook: str, values: Mapping[str, Any]) -> Path:
    """Return the folder of a run: its id comes from its parameters."""
    text = json.dumps(dict(values), sort_keys=True)
    run_id = f"seed{values['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return runs_root() / notebook / str(values["profile"]) / run_id


def runs_root() -> Path:
    """Return where runs are kept: ``MINIGSLORA_RUNS``, the checkout's ``runs``, or the data root's."""
    checkout = shipped_root().parent
    beside = checkout / "runs" if (checkout / "pyproject.toml").is_file() else data_root() / "runs"
    return Path(os.environ.get("MINIGSLORA_RUNS") or beside)


def versions() -> dict[str, str]:
    """Return the versions of Python and of what results depend on."""
    found = {"python": platform.python_version(), "minigslora": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} ({sys.platform}, {platform.machine()})"


def _unknown_parameter(name: str, notebook: str, known: Mapping[str, Any]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ConfigError(f"unknown parameter {name!r} for {notebook}{hint} It has {', '.join(known)}")


def _plain(value: Any) -> Any:
    """Return ``value`` with tensors and NumPy numbers as Python's own."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


# --- running a notebook from outside --------------------------------------------------------------


def notebook_path(name: str | Path) -> Path:
    """Return a notebook of the checkout by number ("4"), by name ("04_forget_once"), or any by path.

    Raises:
        ConfigError: where there is no such notebook.
    """
    if (given := Path(name)).suffix == ".ipynb" and given.is_file():
        return given.resolve()
    folder = shipped_root().parent / "notebooks"
    there = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    stem = given.name.removesuffix(".ipynb")
    number = f"{int(stem):02d}_" if stem.isdecimal() else ""
    for known, path in there.items():
        if known == stem or (number and known.startswith(number)):
            return path
    near = difflib.get_close_matches(stem, there, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = f" The notebooks are {', '.join(there)}" if there else " Give the path of an .ipynb file"
    raise ConfigError(f"no notebook {str(name)!r}{hint}{listed}")


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Return the names and default values of a notebook's parameters cell, without running it.

    Raises:
        ConfigError: where no code cell is tagged ``parameters``, or it holds more than literals.
    """
    cells = _read_notebook(notebook)["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if not tagged:
        raise ConfigError(f"{notebook.name} has no cell tagged 'parameters'; tag its first code cell")
    try:
        lines = ast.parse(tagged[0]["source"]).body
    except SyntaxError as problem:
        raise ConfigError(
            f"{notebook.name}: the parameters cell is no Python ({problem}); write one literal a line, as in "
            "'seed: int = 0'"
        ) from None
    assignments = [line for line in lines if not isinstance(line, ast.Import | ast.ImportFrom)]
    return dict(_parameter(notebook.name, line) for line in assignments)


def _parameter(notebook: str, line: ast.stmt) -> tuple[str, Any]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
        with contextlib.suppress(ValueError):
            return line.target.id, ast.literal_eval(line.value)
    raise ConfigError(
        f"{notebook}: {ast.unparse(line)!r} does not belong in the parameters cell; write one literal a "
        "line, as in 'seed: int = 0'"
    )


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any],
    out: Path | None = None,
    watch: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Run one notebook by papermill, in a process of its own; a finished run is not run again.

    Where another process is at this very run (one whose starter was killed goes on by itself), it is
    waited for.

    The run's folder is its ``MINIGSLORA_RUN_DIR``, whose name comes from the parameters. It holds
    ``parameters.yaml``, ``executed.ipynb`` and, once the run has succeeded, ``result.json``.

    Args:
        notebook: a number, a name or a path; see :func:`notebook_path`.
        parameters: values for names of its parameters cell.
        out: another folder for the run.
        watch: whether papermill's progress bar and the cells' output are shown.
        environment: variables for the run's process, such as ``CUDA_VISIBLE_DEVICES``.

    Returns:
        The run's folder.

    Raises:
        ConfigError: for an unknown notebook or parameter, before anything is started.
        OutputError: where ``out`` holds a run with other parameters.
        RunFailed: naming the cell's error and where the executed copy is.
    """
    source, values = notebook_path(notebook), run_values(notebook, parameters)
    folder = (out or run_folder(source.stem, values)).resolve()
    with _alone(folder) as lock:
        if not _same_run(folder, values) or not (folder / "result.json").is_file():
            _papermill(source, folder, watch, environment or {}, lock)
    return folder


def run_values(notebook: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a notebook's run, defaults included; its folder's name comes from them.

    Raises:
        ConfigError: for an unknown notebook or parameter.
    """
    source = notebook_path(notebook)
    known = parameters_of(source)
    for name in parameters:
        if name not in known:
            raise _unknown_parameter(name, source.stem, known)
    values = {"profile": "", "seed": 0, **known, **parameters}
    values["profile"] = values["profile"] or os.environ.get("MINIGSLORA_PROFILE") or "cpu"
    return values


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int | None]:
    """Hold the run's lock, waiting for who holds it; yield its file descriptor.

    The run's process inherits the lock. So it is free only once that process has ended, even where
    whoever started it was killed.
    """
    require_writable(folder)
    if sys.platform == "win32":  # no such locks; two runs of one folder are the user's to avoid
        yield None
        return
    import fcntl

    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _same_run(folder: Path, values: Mapping[str, Any]) -> bool:
    """Whether ``folder`` holds a run with these parameters; an empty folder is taken for them."""
    text, started = yaml.safe_dump(_plain(values)), folder / "parameters.yaml"
    if not started.is_file():
        write_text(started, text)
        return False
    if started.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"{folder} holds a run with other parameters ({started.name} differs); choose another "
            "folder, or remove it"
        )
    return True


def _papermill(
    source: Path, folder: Path, watch: bool, variables: Mapping[str, str], lock: int | None
) -> None:
    executed, result = folder / "executed.ipynb", folder / "result.json"
    show = "--progress-bar" if watch else "--no-progress-bar"
    command = [sys.executable, "-m", "papermill", str(source), str(executed), show, "-k", "python3"]
    command += ["-f", str(folder / "parameters.yaml"), *(["--log-output"] if watch else [])]
    package = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        **variables,
        "MINIGSLORA_RUN_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not a user's of that name
    }
    for old in (result, executed):  # an earlier try's error is not this one's
        old.unlink(missing_ok=True)
    pipe = None if watch else subprocess.PIPE
    done = subprocess.run(
        command,
        cwd=source.parent,
        env=environment,
        stdout=pipe,
        stderr=pipe,
        text=True,
        check=False,
        pass_fds=() if lock is None else (lock,),
    )
    if done.returncode == 0 and result.is_file():
        return
    last = next(reversed((done.stderr or "").strip().splitlines()), "see above")
    reason = _cell_error(executed, last if done.returncode else "")
    raise RunFailed(f"{source.stem} failed: {reason}. The executed copy is {executed}")


def _cell_error(executed: Path, otherwise: str) -> str:
    """Say in which cell of an executed notebook what went wrong."""
    if not executed.is_file():
        return otherwise or "papermill wrote no notebook"
    try:
        cells = _read_notebook(executed)["cells"]
    except ConfigError:  # stopped while it was written
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


# --- the version a teacher hands out --------------------------------------------------------------

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
    book = _read_notebook(source)
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


def _read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook as plain values, each cell's source as one string."""
    try:
        book: dict[str, Any] = read_json(path)
        for cell in book["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is no notebook; expected Jupyter's JSON, version 4") from None
    return book
