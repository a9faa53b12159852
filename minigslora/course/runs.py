"""A notebook's run: its checked parameters, its folder, its ``result.json``.

The parameters cell holds literals; the next cell turns them into a :class:`Run`:

    run = configure("04_forget_once", globals(), smoke={"epochs": 2}, cpu={"epochs": 30})

A parameter that is None takes the profile's value, so that ``profile`` picks the scale and every other
parameter overrides it. Names that no profile knows are errors: papermill only warns of them.

The second half runs a notebook from outside (:func:`run_notebook`) and makes the version that a teacher
hands out (:func:`student_version`). A finished run is taken for another only where everything that its
numbers depend on is equal: the notebook's code, the library, the parameters, the weights and the data.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml

from minigslora import __version__
from minigslora.config import parse_value
from minigslora.device import Precision, fast_bf16, pick_device
from minigslora.errors import ConfigError, DataError, OutputError, RunFailed
from minigslora.files import data_root, read_json, shipped_root, write_json, write_text
from minigslora.fingerprint import (
    fingerprint_of,
    fingerprint_of_file,
    fingerprint_of_folder,
    library_fingerprint,
)

Profile = Literal["smoke", "cpu", "gpu", "paper"]
COMMON: dict[str, Any] = {"profile": str, "seed": int, "device": str, "precision": Precision}
"""Parameters that every notebook has, with their types."""

PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors")
PATHS = ("weights", "data", "data_set")
"""Parameters that name a file or a folder that is read."""

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

IDENTITY, PARAMETERS, RESULT = "identity.json", "parameters.yaml", "result.json"
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
        self.out = Path(given) if given else run_folder(notebook, identity_of(self.values))

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


def identity_of(
    parameters: Mapping[str, Any], code: str = "", inputs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return all that a run's numbers depend on, as plain values.

    Args:
        parameters: of the notebook.
        code: the fingerprint of its code; "" in a notebook's own kernel, which doesn't know its file.
        inputs: fingerprints of the files and folders that it reads; taken here if None.
    """
    return {
        "notebook": code,
        "library": library_fingerprint(),
        "device": pick_device("auto").type,
        "inputs": dict(inputs if inputs is not None else Inputs(Path.cwd()).of(parameters)),
        "parameters": _plain(parameters),
    }


def run_folder(notebook: str, identity: Mapping[str, Any]) -> Path:
    """Return the folder of a run: its id comes from its identity."""
    values, text = identity["parameters"], json.dumps(identity, sort_keys=True)
    run_id = f"seed{values['seed']}-{fingerprint_of(text)[:10]}"
    return runs_root() / notebook / str(values["profile"]) / run_id


class Inputs:
    """The files and folders that parameters name, and their fingerprints, each taken once.

    Args:
        base: the folder that relative paths start from.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.seen: dict[Path, str] = {}

    def of(self, parameters: Mapping[str, Any]) -> dict[str, str]:
        """Return the fingerprint of each parameter that names something to be read."""
        places = {name: self.place(name, value) for name, value in parameters.items()}
        return {name: self.fingerprint(place) for name, place in places.items() if place is not None}

    def place(self, name: str, value: Any) -> Path | None:
        """Return the file or folder that is read for a parameter, where there is one.

        It's the value of one of :data:`PATHS`, or ends as weights do; other paths may be for results.
        """
        from minigslora.datasets import registry

        if not isinstance(value, str) or not value:
            return None
        with contextlib.suppress(DataError):
            if value in registry.FOLDERS:
                return registry.find(value)
            if value in registry.BOXED:
                return registry.find_detection(value)
        path = self.base / Path(value).expanduser()
        read = name in PATHS or path.suffix.lower() in WEIGHTS
        return path if read and value not in _data_sets() and path.exists() else None

    def fingerprint(self, place: Path) -> str:
        """Return the fingerprint of a file or folder."""
        if place not in self.seen:
            of = fingerprint_of_folder if place.is_dir() else fingerprint_of_file
            self.seen[place] = of(place)
        return self.seen[place]

    def absolute(self, name: str, value: Any) -> Any:
        """Return a parameter that is a path with its whole path, any other as it is.

        Raises:
            ConfigError: for weights that are not there.
        """
        if not isinstance(value, str) or not value or value in _data_sets():
            return value
        path = (self.base / Path(value).expanduser()).resolve()
        if name == "weights" and not path.is_file():
            raise ConfigError(f"no weight file {path}; check the path that weights has")
        slash = "/" in value or os.sep in value or value.startswith("~")
        is_path = (slash or path.exists()) if name in PATHS else (slash and path.exists())
        return str(path) if is_path else value


def _data_sets() -> set[str]:
    from minigslora.datasets import registry

    return {*registry.names(), *registry.detection_names()}


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
    """Return a notebook of the course by number ("4"), by name ("04_forget_once"), or any by path.

    Raises:
        ConfigError: where there is no such notebook.
    """
    if (given := Path(name).expanduser()).suffix == ".ipynb" and given.is_file():
        return given.resolve()
    package = Path(__file__).resolve().parents[1]
    folder = inside if (inside := package / "_notebooks").is_dir() else package.parent / "notebooks"
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
    return _parameters(notebook.name, _read_notebook(notebook)["cells"])


def _parameters(name: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if not tagged:
        raise ConfigError(f"{name} has no cell tagged 'parameters'; tag its first code cell")
    try:
        lines = ast.parse(tagged[0]["source"]).body
    except SyntaxError as problem:
        raise ConfigError(
            f"{name}: the parameters cell is no Python ({problem}); write one literal a line, as in "
            "'seed: int = 0'"
        ) from None
    assignments = [line for line in lines if not isinstance(line, ast.Import | ast.ImportFrom)]
    return dict(_parameter(name, line) for line in assignments)


def _parameter(notebook: str, line: ast.stmt) -> tuple[str, Any]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
        with contextlib.suppress(ValueError):
            return line.target.id, ast.literal_eval(line.value)
    raise ConfigError(
        f"{notebook}: {ast.unparse(line)!r} does not belong in the parameters cell; write one literal a "
        "line, as in 'seed: int = 0'"
    )


def _profiles(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what a notebook's call of :func:`configure` says of each profile, as far as it is literal."""
    calls = list[ast.Call]()
    for cell in cells:
        with contextlib.suppress(SyntaxError):  # a cell with magics
            calls += [node for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, ast.Call)]
    found: dict[str, dict[str, Any]] = {}
    for call in calls:
        if "configure" in (getattr(call.func, "id", ""), getattr(call.func, "attr", "")):
            for profile in call.keywords:
                if profile.arg and isinstance(profile.value, ast.Dict):
                    found[profile.arg] = _literals(profile.value)
    return found


def _literals(values: ast.Dict) -> dict[str, Any]:
    found = {}
    for key, value in zip(values.keys, values.values, strict=True):
        with contextlib.suppress(ValueError):
            found[str(ast.literal_eval(key or value))] = ast.literal_eval(value)
    return found


@dataclass(frozen=True)
class Planned:
    """A run that may have been carried out or not.

    Attributes:
        notebook: its file.
        folder: where its files are, or will be.
        identity: all that its numbers depend on.
    """

    notebook: Path
    folder: Path
    identity: Mapping[str, Any] = field(hash=False)

    @property
    def finished(self) -> bool:
        """Whether the folder holds the result of this very run."""
        return (self.folder / RESULT).is_file() and self._found() == self.identity

    def _found(self) -> Any:
        try:
            return read_json(self.folder / IDENTITY)
        except (OSError, ValueError):
            return None

    def claim(self) -> None:
        """Make the folder this run's.

        Raises:
            OutputError: where it holds another run, or nothing can be written.
        """
        found, what = self._found(), ""
        if found == self.identity and (self.folder / PARAMETERS).is_file():
            return
        if isinstance(found, dict) and found != self.identity:
            differ = [key for key, value in self.identity.items() if found.get(key) != value]
            what = f"a run with other {', '.join(differ)}"
        elif found is None and any((self.folder / name).exists() for name in (RESULT, PARAMETERS)):
            what = f"a run that does not say what it depends on (no readable {IDENTITY})"
        if what:
            raise OutputError(f"{self.folder} holds {what}; choose another folder, or remove it")
        write_json(self.folder / IDENTITY, self.identity)
        write_text(self.folder / PARAMETERS, yaml.safe_dump(self.identity["parameters"]))


class Notebook:
    """A notebook as its file is now: read once, however many runs are made of it.

    Args:
        name: a number, a name or a path; see :func:`notebook_path`.

    Raises:
        ConfigError: for an unknown notebook, or one without a proper parameters cell.
    """

    def __init__(self, name: str | Path) -> None:
        self.path = notebook_path(name)
        cells = [c for c in _read_notebook(self.path)["cells"] if c["cell_type"] == "code"]
        self.defaults, self.profiles = _parameters(self.path.name, cells), _profiles(cells)
        self.code = fingerprint_of(json.dumps([cell["source"] for cell in cells]))
        self.given, self.inputs = Inputs(Path.cwd()), Inputs(self.path.parent)

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters of a run, defaults included; paths given are relative to where we are.

        Raises:
            ConfigError: for an unknown parameter, or weights that are not there.
        """
        for name in parameters:
            if name not in self.defaults:
                raise _unknown_parameter(name, self.path.stem, self.defaults)
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
        identity = json.loads(json.dumps(identity_of(values, self.code, self.inputs.of(read))))
        return Planned(self.path, (out or run_folder(self.path.stem, identity)).resolve(), identity)


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any],
    out: Path | None = None,
    watch: bool = False,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run one notebook by papermill, in a process of its own; a finished run is not run again.

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


def _papermill(planned: Planned, watch: bool, variables: Mapping[str, str]) -> None:
    folder = planned.folder
    executed, earlier = folder / "executed.ipynb", _stamp(folder / "executed.ipynb")
    show = "--progress-bar" if watch else "--no-progress-bar"
    command = [
        sys.executable,
        "-m",
        "minigslora.course.executing",
        str(folder),
        str(planned.notebook),
        str(executed),
    ]
    command += [show, "-k", "python3", "-f", str(folder / PARAMETERS)]
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
        [*command, *(["--log-output"] if watch else [])],
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
