"""What all tests share: data below one temporary folder, never the user's cache; tiny fixtures."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

if WORKER := os.environ.get("PYTEST_XDIST_WORKER"):  # each its share of the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

if sys.dont_write_bytecode and not WORKER:  # or each of the many processes compiles torch anew
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No torch here: the process that hands out the tests needs none.
import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None, database=None, derandomize=True)
settings.load_profile("quick")

USERS_DATA = os.environ.get("MINIGSLORA_DATA")
WARM = Path(__file__).with_name("warm.py")


def shared_folder(tmp_path_factory) -> Path:
    """Return a temporary folder that all workers of a run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if WORKER else base


@pytest.fixture(scope="session", autouse=True)
def data_root(tmp_path_factory):
    """Point the library's data root at a folder that this run of the tests has for itself."""
    root = shared_folder(tmp_path_factory) / "data"  # one for all workers, so that faces are rendered once
    root.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGSLORA_DATA", str(root))
        yield root


@pytest.fixture(scope="session")
def casia() -> Path:
    """The user's CASIA-Face100 folder; tests that need it are skipped where there is none."""
    root = Path(USERS_DATA or "missing")
    for name in ("casia_face100", "casia-face100"):
        if (root / name / "train").is_dir():
            return root / name
    pytest.skip("no casia_face100 folder below MINIGSLORA_DATA")


def boxed_folder(*names: str) -> Path:
    """Return one of the user's detection folders; tests that need it are skipped where there is none."""
    for name in names:
        if USERS_DATA and (folder := Path(USERS_DATA) / name).is_dir():
            return folder
    pytest.skip(f"no {names[0]} folder below MINIGSLORA_DATA")


@pytest.fixture(scope="session")
def coco() -> Path:
    """The user's COCO folder."""
    return boxed_folder("coco_tiny", "coco", "coco2017")


@pytest.fixture(scope="session")
def voc() -> Path:
    """The user's Pascal VOC folder."""
    return boxed_folder("foda_voc", "VOC2012", "voc")


@pytest.fixture(scope="session")
def data(data_root):
    import tiny

    return tiny.faces()


@pytest.fixture
def model():
    import tiny

    return tiny.face_model()


@pytest.fixture
def problem(data):
    import tiny

    return tiny.problem()


@pytest.fixture(scope="session")
def warm_client(tmp_path_factory):
    """The command of a Python that has the libraries loaded; elsewhere than on Linux, of a plain one.

    All workers have one server, which warm.py describes.
    """
    from minigslora.files import alone_in

    if not hasattr(os, "pidfd_open"):
        return [sys.executable]
    folder, owner = shared_folder(tmp_path_factory), os.getppid() if WORKER else os.getpid()
    with alone_in(folder / "warm", wait=True):
        if not (at := folder / "warm" / "socket").exists():
            serving = subprocess.Popen([sys.executable, str(WARM), "serve", str(at), str(owner)])
            while not at.exists():
                assert serving.poll() is None, "the server of warm.py ended"
                time.sleep(0.1)
    return [sys.executable, "-S", str(WARM), str(at)]


@pytest.fixture
def warm_kernels(warm_client, tmp_path, monkeypatch):
    """Have Jupyter's kernels begin with the libraries loaded."""
    spec = tmp_path / "warm" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [*warm_client, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "python3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "warm"), prepend=os.pathsep)


@pytest.fixture
def warm_python(warm_client, warm_kernels, tmp_path, monkeypatch):
    """Have kernels, and what ``sys.executable`` starts, begin with the libraries loaded."""
    if len(warm_client) > 1:
        python = tmp_path / "warm" / "python"
        python.write_text(f'#!/bin/sh\nWARM_PYTHON="$0" exec {shlex.join(warm_client)} "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))


def pytest_collection_modifyitems(items):
    """Skip GPU tests where torch sees no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="torch sees no CUDA GPU"))
