"""What a newcomer touches: the command line, its report and its errors, the README, the environments."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file

from minigslora import doctor, erasure
from minigslora.cli import main, parse_pairs
from minigslora.datasets import folders, images, registry
from minigslora.datasets.rendered import mini_faces, mini_glyphs
from minigslora.errors import ConfigError, OutputError
from minigslora.files import require_writable, sha256, shipped_root
from minigslora.forget_command import split_classes
from minigslora.models import checkpoint
from minigslora.models.vit import FaceConfig, face_transformer
from minigslora.pretraining import RECIPES, Pretraining, make_checkpoint, recipe_for
from minigslora.reproduction import report
from minigslora.reproduction.rendering import PAGES

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("blue", "gold", "green", "red")
COLOURS = {"blue": (30, 30, 220), "gold": (220, 190, 30), "green": (30, 200, 30), "red": (220, 30, 30)}
SIZE = 32


# --- someone else's model and images ----------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of noisy squares of four colours: 10 training and 4 test images of each."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noisy = np.array(COLOURS[name]) + random.normal(0, 25, (SIZE, SIZE, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


def plain_inputs(root, split):
    """Read the images as a script that knows nothing of minigslora would."""
    files = [f for name in CLASSES for f in sorted((root / split / name).glob("*.png"))]
    pixels = np.stack([np.asarray(Image.open(f), dtype=np.float32) for f in files])
    labels = torch.tensor([CLASSES.index(f.parent.name) for f in files])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, labels


def plain_model():
    return timm.create_model("test_vit", num_classes=len(CLASSES), img_size=SIZE)


@pytest.fixture(scope="module")
def weights(photos, tmp_path_factory):
    """A timm ViT trained on the squares by an ordinary loop, saved as plain safetensors."""
    torch.manual_seed(0)
    model, (inputs, labels) = plain_model(), plain_inputs(photos, "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(model.state_dict(), path)
    return path


def forget_command(photos, weights, out, *more):
    quick = ["--set", "epochs=40", "--set", "lr=2e-2", "--set", "rank=4", "--ratio", "0.5", "--device", "cpu"]
    own = ["--model", "test_vit", "--image-size", str(SIZE), "--weights", str(weights)]
    return ["forget", *own, "--data", str(photos), "--out", str(out), *quick, *more]


@pytest.fixture(scope="module")
def erased(photos, weights, tmp_path_factory):
    """The folder of a finished ``minigslora forget`` with two requests."""
    out = tmp_path_factory.mktemp("erased") / "run"
    with pytest.raises(SystemExit) as stop:
        main(forget_command(photos, weights, out, "--classes", "red", "--classes", "gold"))
    assert stop.value.code == 0
    return out


def test_forget_writes_its_results(erased):
    table = pd.read_csv(erased / "table.csv", index_col="task")
    assert list(table.forgot) == ["red", "gold"]
    assert table.acc_f_before.min() == 100  # the squares are easy
    assert table.acc_f.max() == 0
    assert table.acc_o["task2"] == 0
    assert table.acc_r.min() == 100
    assert (erased / "before_after.png").read_bytes().startswith(b"\x89PNG")


def test_the_finalised_file_is_plain_timms_and_has_the_reports_accuracies(erased, photos):
    model = plain_model()
    model.load_state_dict(load_file(erased / "erased.safetensors"), strict=True)
    inputs, labels = plain_inputs(photos, "test")
    with torch.no_grad():
        right = model.eval()(inputs).argmax(dim=1) == labels
    table = pd.read_csv(erased / "table.csv", index_col="task")
    kept = (labels == CLASSES.index("blue")) | (labels == CLASSES.index("green"))
    assert 100 * right[labels == CLASSES.index("gold")].double().mean() == table.acc_f["task2"]
    assert 100 * right[labels == CLASSES.index("red")].double().mean() == table.acc_o["task2"]
    assert 100 * right[kept].double().mean() == table.acc_r["task2"]


def test_a_finished_forget_is_taken_up_not_run_again(erased, photos, weights, capsys):
    before = (erased / "tasks" / "metrics.jsonl").read_bytes()
    main_ok(forget_command(photos, weights, erased, "--classes", "red", "--classes", "gold"))
    assert (erased / "tasks" / "metrics.jsonl").read_bytes() == before
    assert "gold" in capsys.readouterr().out


def test_a_single_image_a_class_is_one_line_of_warning(photos, weights, tmp_path, capsys):
    more = ["--classes", "red", "--ratio", "0.1"]
    with pytest.raises(SystemExit):
        main(forget_command(photos, weights, tmp_path / "run", *more))
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert "warning: ratio = 0.1 takes a single training image of 4 of 4 classes" in said


def test_forget_takes_a_checkpoint_that_says_its_architecture(tmp_path, capsys, few_faces):
    out = tmp_path / "out"
    shipped = shipped_root() / "mini-faces.safetensors"
    arguments = ["forget", "--weights", str(shipped), "--data", "mini-faces", "--classes", "3,4"]
    main_ok([*arguments, "--shots", "1", "--set", "epochs=10", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "person-003, person-004" in printed
    assert "1 of each class" in (out / "report.html").read_text(encoding="utf-8")
    model, _ = checkpoint.load(shipped)
    checkpoint.load_weights(model, load_file(out / "erased.safetensors"), "erased")


# --- the report -------------------------------------------------------------------------------------


def test_the_report_is_whole_and_needs_nothing_from_outside(erased):
    page = (erased / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 2  # the pictures, and the norms of the groups
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page
    assert "url(" not in page
    assert len(re.findall(r'<img alt="[^"]+"', page)) == 2
    for expected in ("Acc_r before", "gslora-deep", "corrected", torch.__version__.split("+")[0], "red"):
        assert expected in page


def test_what_a_report_is_given_is_escaped(tmp_path):
    page = PAGES.from_string(
        '{% extends "base.html" %}{% from "parts.html" import picture, values %}{% block body %}{{ text }}'
        "{{ values(pairs) }}{{ frame | table }}{{ picture(figure, alt, caption) }}{% endblock %}"
    )
    content = {"title": "a <b> & c", "text": "<t>", "pairs": {"<k>": "<v>"}, "alt": '"alt"', "caption": "<f>"}
    written = page.render(content, frame=pd.DataFrame({"<c>": ["<x>"]}), figure=Figure())
    assert not re.search(r"<(b|t|k|v|c|x|f)>", written)
    for given in "tkvcxf":
        assert f"&lt;{given}&gt;" in written
    assert "a &lt;b&gt; &amp; c" in written
    assert 'alt="&#34;alt&#34;"' in written


def test_spread_takes_evenly_spaced_rows():
    assert images.spread(torch.arange(9), 3).tolist() == [0, 4, 8]
    assert images.spread(torch.arange(2), 3).tolist() == [0, 1]


# --- quickstart -------------------------------------------------------------------------------------


@pytest.fixture
def few_faces(monkeypatch):
    """All 100 people of mini-faces, with few photographs of each."""
    data = mini_faces.load(people=100, counts={"train": 2, "val": 1, "test": 2})
    monkeypatch.setattr(registry, "load", lambda name, size=None, watch=False: data)
    return data


def test_quickstart_erases_one_identity_and_says_what_became_of_it(tmp_path, few_faces, capsys, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_RUNS", str(tmp_path))
    main_ok(["quickstart", "--identity", "12", "--epochs", "1"])
    printed = capsys.readouterr().out
    for line in (
        r"forgotten: person-012 .* % → .* %",
        r"kept: 99 others .* % → .* %",
        r"H-mean .* \d",
        r"uv run jupyter lab notebooks/00_start_here\.ipynb",
    ):
        assert re.search(line, printed)
    assert "person-012" in (tmp_path / "quickstart" / "report.html").read_text(encoding="utf-8")


def test_the_summary_gives_the_reports_numbers(few_faces):
    model, _ = checkpoint.load_shipped("mini-faces")
    done = erasure.forget(model, few_faces, ["person-003"], shots=1, epochs=1, device="cpu", watch=False)
    numbers = [float(n) for n in re.findall(r"(\d+\.\d)", report.summary(done))]
    m = done.reports[0].metrics
    wanted = [m["acc_f_before"], m["acc_f"], m["acc_r_before"], m["acc_r"], m["h"]]
    assert numbers == [round(value, 1) for value in wanted]


# --- errors: one line, exit code 2 ------------------------------------------------------------------


def main_ok(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0


def complaint(arguments, capsys):
    """Run a command that must fail and return its one line on stderr."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def pickle_with_code(folder):
    class Evil:
        def __reduce__(self):
            return (os.system, ("echo executed > executed",))

    torch.save({"state_dict": Evil()}, folder / "evil.pth")
    return folder / "evil.pth"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["--data", "nowhere"], "no data set 'nowhere'"),
        (["--classes", "purple"], "unknown class 'purple'"),
        (["--classes", "red,red"], "named twice"),
        (["--classes", "red", "--classes", "red"], "already forgot"),
        (["--classes", "blue,gold,green,red"], "all 4 classes"),
        (["--classes", "red", "--shots", "50"], "50 are asked for"),
        (["--classes", "red", "--weights", "missing.pth"], "no weight file"),
        (["--classes", "red", "--model", "test_resnet"], "test_resnet"),
        (["--classes", "red", "--model", "test_vit2"], "another architecture"),
        (["--classes", "red", "--model", "vit_smal"], "no model 'vit_smal'"),
        (["--classes", "red", "--method", "gslorra"], "unknown method 'gslorra'"),
        (["--classes", "red", "--recipe", "best"], "unknown recipe 'best'"),
        (["--classes", "red", "--set", "epoch=3"], "no setting 'epoch'"),
        (["--classes", "red", "--set", "rank=0"], "rank"),
        (["--classes", "red", "--set", "rank"], "KEY=VALUE"),
        (["--classes", "red", "--set", "ratio=0.2"], "--set ratio: that is no setting of the method"),
        (["--classes", "red", "--ratio", "10"], "ratio = 10.0; expected a share above 0"),
        (["--classes", "red", "--mean", "1,2"], "three numbers"),
        (["--classes", "red", "--device", "abacus"], "unknown device 'abacus'"),
        (["--classes", "red", "--finalize", "erased.pth"], ".safetensors"),
        (["--classes", "red", "--set", "alpha=-1"], "alpha = -1.0; expected 0 or more"),
        (["--classes", "red", "--set", "sparsity_warmup=5"], "sparsity_warmup = 5.0; expected 0 to 1"),
        (["--classes", "red", "--set", "temperature=0"], "temperature = 0.0; expected more than 0"),
        (["--classes", "red", "--set", "foreign=-1"], "foreign = -1.0; expected 0 or more"),
        (["--classes", "red", "--set", "beta=-1"], "beta[0] = -1.0; expected 0 or more"),
    ],
)
def test_forget_says_what_is_wrong(photos, weights, tmp_path, capsys, monkeypatch, changed, expected):
    monkeypatch.chdir(tmp_path)
    command = forget_command(photos, weights, tmp_path / "out", "--classes", "red")
    if "--classes" in changed:
        del command[-2:]
    assert expected in complaint([*command, *changed], capsys)


def test_forget_refuses_a_pickle_with_code_and_does_not_run_it(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = forget_command(photos, pickle_with_code(tmp_path), tmp_path / "out", "--classes", "red")
    assert "was refused" in complaint(command, capsys)
    assert not (tmp_path / "executed").exists()


def test_an_unwritable_folder_is_found_before_training(photos, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(erasure, "forget_sequence", lambda *args: pytest.fail("trained first"))
    (tmp_path / "file").write_text("not a folder")
    command = forget_command(photos, weights, tmp_path / "file" / "out", "--classes", "red")
    assert "cannot write" in complaint(command, capsys)
    assert "cannot write" in complaint(["quickstart", "--out", str(tmp_path / "file")], capsys)
    with pytest.raises(OutputError, match="cannot write"):
        require_writable(tmp_path / "file" / "deeper")


def test_what_was_mistyped_is_corrected_in_the_same_folder(photos, weights, tmp_path, capsys):
    command = forget_command(photos, weights, tmp_path / "out", "--classes", "red")
    for wrong in ("epoch=1", "rank=999"):
        complaint([*command, "--set", wrong], capsys)
    main_ok([*command[:-2], "--classes", "gold"])


def test_the_weights_given_are_not_overwritten(photos, weights, tmp_path, capsys):
    before = weights.read_bytes()
    command = forget_command(
        photos, weights, tmp_path / "out", "--classes", "red", "--finalize", str(weights)
    )
    assert "is the file of the weights given" in complaint(command, capsys)
    assert weights.read_bytes() == before


def test_a_finalised_file_of_another_format_is_found_before_training(
    photos, weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(erasure, "forget_sequence", lambda *args: pytest.fail("trained first"))
    command = forget_command(photos, weights, tmp_path / "out", "--classes", "red", "--finalize", "x.pth")
    assert "should end in .safetensors" in complaint(command, capsys)


def test_images_of_other_classes_than_the_checkpoints_are_refused(photos, tmp_path, capsys):
    config = FaceConfig(classes=4, image_size=SIZE, patch=16, dim=32, depth=1, heads=2, mlp=64)
    card = checkpoint.Card({"kind": "face", **vars(config)}, ("ann", "bob", "cy", "dee"), image_size=SIZE)
    path = tmp_path / "m.safetensors"
    checkpoint.save(path, face_transformer(config), card)
    command = ["forget", "--weights", str(path), "--data", str(photos), "--classes", "red"]
    expected = "m.safetensors is for the classes ann, bob, cy, dee, but photos"
    assert expected in complaint([*command, "--out", str(tmp_path / "out")], capsys)


def test_a_folder_of_another_run_is_refused(erased, photos, weights, capsys):
    command = forget_command(photos, weights, erased, "--classes", "blue")
    assert "holds another run" in complaint(command, capsys)


def test_quickstart_refuses_an_unknown_identity(tmp_path, few_faces, capsys):
    command = ["quickstart", "--identity", "somebody", "--out", str(tmp_path)]
    assert "unknown class 'somebody'" in complaint(command, capsys)


def test_a_checkpoints_own_sizes_cannot_be_changed(photos, capsys):
    shipped = str(shipped_root() / "mini-faces.safetensors")
    command = [
        "forget",
        "--weights",
        shipped,
        "--data",
        str(photos),
        "--classes",
        "red",
        "--image-size",
        "32",
    ]
    assert "--image-size goes with --model" in complaint(command, capsys)


def test_run_refuses_what_is_no_notebook(capsys):
    assert "no notebook" in complaint(["run", "no_such_thing"], capsys)
    assert "KEY=VALUE" in complaint(["run", "no_such_thing", "-p", "epochs"], capsys)


# --- small parts of the command line ----------------------------------------------------------------


def test_pairs_are_numbers_lists_and_text():
    pairs = ["epochs=3", "beta=[0.1, 0.2]", "augment=false", "name=a=b", "lr=1e-3"]
    assert parse_pairs(pairs) == {
        "epochs": 3,
        "beta": [0.1, 0.2],
        "augment": False,
        "name": "a=b",
        "lr": 1e-3,
    }


def test_a_date_is_text():
    assert parse_pairs(["name=2024-01-02"]) == {"name": "2024-01-02"}


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a=1", "a=2"], ["a=[1"]])
def test_pairs_that_are_none_are_refused(pairs):
    with pytest.raises(ConfigError):
        parse_pairs(pairs)


def test_a_class_with_a_comma_may_stand_alone(photos, tmp_path):
    data = folders.load(photos, 8)
    assert split_classes(data, "red, gold") == ["red", "gold"]
    renamed = tmp_path / "root"
    for split in ("train", "test"):
        for name in ("a,b", "c"):
            (renamed / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8)).save(renamed / split / name / f"{i}.png")
    assert split_classes(folders.load(renamed, 8), "a,b") == ["a,b"]


def test_help_is_quick_and_lists_the_commands():
    code = "import sys, minigslora.cli as m; print('torch' in sys.modules); m.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("False")
    for command in ("quickstart", "forget", "pretrain", "run", "doctor"):
        assert command in done.stdout


# --- pre-training -----------------------------------------------------------------------------------


def test_pretrain_writes_checkpoint_and_record(tmp_path, monkeypatch, capsys):
    data = mini_faces.load(people=4, counts={"train": 6, "val": 2, "test": 2})
    monkeypatch.setattr(registry, "load", lambda name, size=None, watch=False: data)
    out = tmp_path / "small.safetensors"
    sizes = ["--epochs", "1", "--width", "32", "--depth", "1"]
    main_ok(["pretrain", "mini-faces", *sizes, "--seed", "5", "--device", "cpu", "--out", str(out)])
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(out)
    printed = capsys.readouterr()
    assert record["sha256"] in printed.out
    assert "epoch 1 of 1: loss " in printed.err
    assert record["seed"] == 5
    assert record["command"].startswith("minigslora pretrain mini-faces --epochs 1 --width 32 --depth 1")
    assert {"acc_val", "acc_test", "epochs", "seconds"} <= set(record["metrics"])
    model, card = checkpoint.load(out)
    assert (card.classes, len(model.blocks), model.embed_dim) == (data.classes, 1, 32)
    assert doctor.check_shipped("small", out).well

    again = make_checkpoint(
        "mini-faces", recipe_for("mini-faces", "cpu", epochs=1, dim=32, depth=1, seed=5), out, "cpu"
    )
    first, second = checkpoint.load(out)[0], model
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert again["metrics"]["acc_test"] == record["metrics"]["acc_test"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lfw"], "no pre-training recipe for 'lfw'"),
        (["mini-faces", "--epochs", "0"], "epochs = 0"),
        (["mini-faces", "--width", "100"], "multiple of 32"),
        (["mini-faces", "--depth", "0"], "depth = 0"),
        (["casia-face100", "--image-size", "50"], "multiple of the patch"),
        (["casia-face100", "--device", "cpu"], "casia-face100 is not below"),
        (["mini-faces", "--image-size", "56"], "48 pixels"),
        (["mini-faces", "--out", "model.pth"], "should end in .safetensors"),
    ],
)
def test_pretrain_says_what_is_wrong(arguments, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_RUNS", str(tmp_path))
    assert expected in complaint(["pretrain", *arguments], capsys)


def test_recipes_fit_their_devices():
    assert recipe_for("casia-face100", "cpu").model.image_size == 48
    assert RECIPES["casia-face100"]["cuda"].model.image_size == 112
    wide = recipe_for("mini-faces", "cpu", dim=64).model
    assert (wide.dim, wide.heads, wide.mlp) == (64, 2, 128)
    assert set(RECIPES) <= {*registry.names(), *registry.detection_names()}
    assert {r.data for own in RECIPES.values() for r in own.values()} <= {"", *registry.names()}


def test_the_glyphs_checkpoint_is_what_its_record_says():
    path = shipped_root() / "mini-glyphs.safetensors"
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(path)
    _, card = checkpoint.load_shipped("mini-glyphs")
    recipe = RECIPES["mini-glyphs"]["cpu"]
    assert card.architecture == record["architecture"] == recipe.model.architecture()
    assert Pretraining(**record["training"]) == recipe.training  # what it lacks is newer, and at its default
    assert (card.classes, card.mean) == (mini_glyphs.CHARACTERS, (0.5, 0.5, 0.5))
    assert 85 <= record["metrics"]["acc_test"] <= 95


def test_the_shipped_checkpoint_is_what_its_record_says():
    path = shipped_root() / "mini-faces.safetensors"
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(path)
    model, card = checkpoint.load_shipped("mini-faces")
    assert card.architecture == record["architecture"]
    recipe = RECIPES["mini-faces"]["cpu"]
    assert Pretraining(**record["training"]) == recipe.training
    described = dict(record["architecture"])
    assert described.pop("kind") == "face"
    assert FaceConfig(**described) == recipe.model
    assert len(card.classes) == model.get_classifier().weight.shape[0]


# --- doctor -----------------------------------------------------------------------------------------


def test_doctor_looks_at_everything():
    findings = {finding.what: finding for finding in doctor.examine()}
    assert findings["packages"].well
    assert torch.__version__.split("+")[0] in findings["packages"].found
    assert findings["casia-face100"].well is None
    assert findings["mini-faces"].well
    assert findings["model mini-faces"].well
    for what in ("python", "device", "bf16", "threads", "disk for data", "disk for runs", "JupyterLab"):
        assert findings[what].found
    assert len(findings) <= 30  # one screen


def test_doctor_fails_for_a_damaged_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "shipped_root", lambda: tmp_path)
    path = tmp_path / "mini-faces.safetensors"
    assert "missing" in doctor.check_shipped("model", path).found
    path.write_bytes(b"damaged")
    assert "no record" in doctor.check_shipped("model", path).found
    path.with_suffix(".json").write_text("{")
    assert "mini-faces.json is damaged" in doctor.check_shipped("model", path).found
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))
    assert "damaged" in doctor.check_shipped("model", path).found
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    assert "!! model mini-faces" in capsys.readouterr().out


# --- README, environments, continuous integration ---------------------------------------------------

CONDA_NAMES = {"torch": "pytorch"}
"""Packages that conda-forge calls otherwise."""


def requirements(lines):
    """Return {name: the rest} of requirement lines, names in one spelling."""
    parsed = [re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", line.replace(" ", "")).groups() for line in lines]
    return {name.lower().replace("_", "-"): rest for name, rest in parsed}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_conda_environment_has_the_packages_of_the_project():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = requirements(line for line in listed if isinstance(line, str))
    pip = next(line["pip"] for line in listed if isinstance(line, dict))
    assert pip[-1] == "--editable ."
    wanted = requirements(project()["project"]["dependencies"])
    assert {CONDA_NAMES.get(k, k): v for k, v in wanted.items()} == {
        k: v for k, v in (conda | requirements(pip[:-1])).items() if k not in ("python", "pip")
    }
    assert conda["python"].startswith(project()["project"]["requires-python"])


def readme_commands():
    """Return the README's two commands."""
    blocks = re.findall(r"```bash\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return blocks[0], blocks[1]


def test_continuous_integration_runs_the_readmes_commands():
    first, second = readme_commands()
    assert first.startswith("git clone ")
    assert first.endswith("uv run minigslora quickstart")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    bootstrap = first.split(" && ")[2:-1]
    assert " && ".join(bootstrap) in script.splitlines()
    assert second in script.splitlines()
    assert os.access(ROOT / ".ci" / "run", os.X_OK) or sys.platform == "win32"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert {"run": "bash .ci/run"} in workflow["jobs"]["test"]["steps"]


@pytest.mark.parametrize("page", ["README.md", *(f"data/{p.name}" for p in (ROOT / "data").glob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_the_readme_lists_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[.*?\]\(notebooks/(.*?)\)", text, re.MULTILINE)
    assert listed == sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))


def test_every_command_and_option_of_the_readme_exists(capsys):
    text = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "README.md", *ROOT.glob("data/*.md")))
    used = re.findall(r"(?:uv run|uv\\Scripts\\uv run|`)\s?minigslora (\w+)([^\n`]*)", text)
    assert {command for command, _ in used} >= {"quickstart", "forget", "pretrain", "run", "doctor"}
    for command in sorted({command for command, _ in used}):
        main_ok([command, "--help"])
        known = capsys.readouterr().out
        options = {o for name, rest in used if name == command for o in re.findall(r" (--?[a-z-]+)", rest)}
        assert all(option in known for option in options)


def test_the_readmes_picture_is_small():
    assert (ROOT / "data" / "pictures" / "before_after.png").stat().st_size < 150_000


def project_texts():
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if names.returncode:
        pytest.skip("not a git checkout")
    endings = (".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".json", ".ipynb", "run", ".gitignore")
    return [ROOT / n for n in names.stdout.splitlines() if n.endswith(endings) and (ROOT / n).is_file()]


def test_no_package_registrys_host_is_named():
    hosts = re.compile(
        "|".join([r"py" + r"pi\.org", r"python" + r"hosted\.org", r"conda\.ana" + r"conda\.org"])
    )
    found = [str(p.relative_to(ROOT)) for p in project_texts() if hosts.search(p.read_text(encoding="utf-8"))]
    assert not found


def test_the_citation_names_the_version_and_both_papers():
    from minigslora import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == project()["project"]["license"] == "MIT"
    papers = {entry["identifiers"][0]["value"] for entry in citation["references"]}
    assert papers == {"arXiv:2403.11530", "arXiv:2501.09705"}
    assert all(paper.removeprefix("arXiv:") in (ROOT / "README.md").read_text("utf-8") for paper in papers)
