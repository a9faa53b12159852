"""Every notebook runs by nbval in the smoke profile; outputs that no profile changes are the same."""

import subprocess
import sys

import pytest
from courses import ROOT, each_notebook, in_smoke


@pytest.mark.notebooks
@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
@each_notebook
def test_nbval(path, tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0"]
    command += ["--nbval-lax", "--nbval-kernel-name=python3", "--nbval-cell-timeout=120", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env=in_smoke(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
