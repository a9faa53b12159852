"""What all tests share: data below one temporary folder, never the user's cache; tiny fixtures."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: each worker its share of the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import pytest
import tiny
import torch
from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None, database=None, derandomize=True)
settings.load_profile("quick")

USERS_DATA = os.environ.get("MINIGSLORA_DATA")


@pytest.fixture(scope="session", autouse=True)
def data_root(tmp_path_factory):
    """Point the library's data root at a folder that this run of the tests has for itself."""
    root = tmp_path_factory.mktemp("data")
    if "PYTEST_XDIST_WORKER" in os.environ:  # one for all workers, so that faces are rendered once
        root = tmp_path_factory.getbasetemp().parent / "data"
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
    return tiny.faces()


@pytest.fixture
def model():
    return tiny.face_model()


@pytest.fixture
def problem(data):
    return tiny.problem()


@pytest.fixture(scope="session")
def warm_kernels():
    """Have Jupyter fork its kernels from a process that has the libraries loaded; on Linux only."""
    if not hasattr(os, "pidfd_open"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="warm") as folder, pytest.MonkeyPatch.context() as patch:
        warm, server = Path(__file__).with_name("warm.py"), Path(folder, "socket")
        spec = Path(folder, "kernels", "python3", "kernel.json")
        spec.parent.mkdir(parents=True)
        argv = [sys.executable, "-S", str(warm), str(server), "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": "python3", "language": "python"}))
        patch.setenv("JUPYTER_PATH", folder, prepend=os.pathsep)
        serving = subprocess.Popen([sys.executable, str(warm), "serve", str(server)])
        while not server.exists() and serving.poll() is None:
            time.sleep(0.1)
        yield
        serving.terminate()
        serving.wait()


def pytest_collection_modifyitems(items):
    """Skip GPU tests where torch sees no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="torch sees no CUDA GPU"))
