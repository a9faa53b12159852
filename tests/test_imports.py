"""What forgetting loads: nothing that only notebooks, tables or detectors need, and few lines of ours."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEAVY = ("papermill", "nbval", "matplotlib", "seaborn", "pandas", "transformers")
MOST = 9_700
"""Lines of the package that a call of forget() may load; it is meant to come down to 6000."""

RUN = """
import json, sys
import minigslora, timm

model = timm.create_model("test_vit", img_size=32, num_classes=2)
minigslora.forget(model, sys.argv[1], ["ant"], device="cpu", watch=False, check=False, epochs=1, rank=2)
ours = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "minigslora"]
packages = {name.split(".")[0] for name in sys.modules}
import minigslora.audit
audit = {name.split(".")[0] for name in sys.modules}
print(json.dumps({"packages": sorted(packages), "files": ours, "with audit": sorted(audit)}))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return the packages that a process has loaded after forget() on a folder, and the files of ours."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "test"):
        for shade, name in ((50, "ant"), (200, "bee")):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.full((32, 32, 3), shade + i, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    done = subprocess.run([sys.executable, "-c", RUN, root], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", HEAVY)
def test_forgetting_loads_nothing_that_only_others_need(loaded, package):
    assert package not in loaded["packages"]


def test_auditing_loads_nothing_that_only_pages_need(loaded):
    assert "matplotlib" not in loaded["with audit"]


def test_forgetting_loads_few_of_our_lines(loaded):
    lines = sum(len(Path(file).read_text(encoding="utf-8").splitlines()) for file in loaded["files"])
    assert 0 < lines <= MOST
