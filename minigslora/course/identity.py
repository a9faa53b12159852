"""All that a run's numbers depend on, and the run's folder, whose name comes from it.

A finished run is taken for another only where all of it is equal: the notebook's code, the library, the
device, the parameters, and the files and folders that the parameters name.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigslora.device import pick_device
from minigslora.errors import ConfigError, DataError
from minigslora.files import runs_root
from minigslora.fingerprint import (
    fingerprint_of,
    fingerprint_of_file,
    fingerprint_of_folder,
    library_fingerprint,
)

IDENTITY, PARAMETERS, RESULT = "identity.json", "parameters.yaml", "result.json"
"""The files of a run's folder that say what it depends on, what it was given, and what came of it."""

PATHS = ("weights", "data", "data_set")
"""Parameters that name a file or a folder that is read."""

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def identity_of(
    parameters: Mapping[str, Any], code: str = "", inputs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return all that a run's numbers depend on, as plain values.

    ``code`` is the fingerprint of the notebook's code, "" in its own kernel, which doesn't know its file;
    ``inputs`` are those of the files and folders that it reads, taken here if None.
    """
    return {
        "notebook": code,
        "library": library_fingerprint(),
        "device": pick_device("auto").type,
        "inputs": dict(inputs if inputs is not None else Inputs(Path.cwd()).of(parameters)),
        "parameters": plain(parameters),
    }


def run_folder(notebook: str, identity: Mapping[str, Any]) -> Path:
    """Return the folder of a run: its id comes from its identity."""
    values, text = identity["parameters"], json.dumps(identity, sort_keys=True)
    run_id = f"seed{values['seed']}-{fingerprint_of(text)[:10]}"
    return runs_root() / notebook / str(values["profile"]) / run_id


class Inputs:
    """The files and folders that parameters name, relative to ``base``; each fingerprint is taken once."""

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
        return path if read and not _names_data(value) and path.exists() else None

    def fingerprint(self, place: Path) -> str:
        """Return the fingerprint of a file or folder."""
        if place not in self.seen:
            self.seen[place] = (fingerprint_of_folder if place.is_dir() else fingerprint_of_file)(place)
        return self.seen[place]

    def absolute(self, name: str, value: Any) -> Any:
        """Return a parameter that is a path with its whole path, any other as it is.

        Weights that are not there are a :class:`ConfigError`.
        """
        if not isinstance(value, str) or not value or _names_data(value):
            return value
        path = (self.base / Path(value).expanduser()).resolve()
        if name == "weights" and not path.is_file():
            raise ConfigError(f"no weight file {path}; check the path that weights has")
        slash = "/" in value or os.sep in value or value.startswith("~")
        is_path = (slash or path.exists()) if name in PATHS else (slash and path.exists())
        return str(path) if is_path else value


def _names_data(value: str) -> bool:
    from minigslora.datasets import registry

    return value in (*registry.names(), *registry.detection_names())


def plain(value: Any) -> Any:
    """Return ``value`` with tensors and NumPy's numbers as Python's own, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value
