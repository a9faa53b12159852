"""``minigslora revoke`` and ``minigslora enrol``: what is written, what stays, what is refused."""

import json
import shutil

import pytest
import squares
import torch
from safetensors.torch import load_file

from minigslora import enrol, forget, ledger
from minigslora.class_order import reordered
from minigslora.cli import main
from minigslora.datasets import folders
from minigslora.errors import OutputError
from minigslora.files import load_tensors, sha256, write_json
from minigslora.models import checkpoint

NAMES = ("blue", "gold", "green", "red")
QUICK = ["--set", "epochs=20", "--set", "lr=2e-2", "--set", "rank=4", "--ratio", "0.5", "--device", "cpu"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("photos"), (*NAMES, "pink"), {"train": 10, "test": 4})


def without(photos, name, folder):
    """The same pictures without those of a class."""
    shutil.copytree(photos, folder, ignore=shutil.ignore_patterns(name))
    return folder


@pytest.fixture(scope="module")
def four(photos, tmp_path_factory):
    return without(photos, "pink", tmp_path_factory.mktemp("four") / "photos")


@pytest.fixture(scope="module")
def weights(four, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    architecture = {"kind": "timm", "name": "test_vit", "classes": 4, "img_size": squares.SIZE}
    half = (0.5, 0.5, 0.5)
    card = checkpoint.Card(architecture, NAMES, half, half, squares.SIZE)
    checkpoint.save(path, squares.trained(four, NAMES), card)
    return path


def command(weights, data, out, *more):
    own = ["--weights", str(weights), "--data", str(data), "--out", str(out)]
    return ["forget", *own, *QUICK, "--classes", "red", "--classes", "gold", "--classes", "blue", *more]


def code(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def finished(weights, four, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    assert code(*command(weights, four, out)) == 0
    return out


@pytest.fixture
def run(finished, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    erased = copied / "erased.safetensors"
    write_json(copied / "finalized.json", {str(erased): sha256(erased)})
    return copied


def files(folder):
    return {f: sha256(f) for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".")}


def events(path):
    return [(e.request, e.event) for e in ledger.read(load_tensors(path)[1], "")]


def test_a_request_is_taken_back_and_the_files_of_the_run_stay(run, weights, four, capsys):
    before = files(run)
    assert code("revoke", run, "--task", "task2") == 0
    path = run / "erased-without-task2.safetensors"
    assert f"revoked task2\nmodel without it: {path}" in capsys.readouterr().out
    after = files(run)
    assert {f: after[f] for f in before} == before
    assert {f.name for f in after.keys() - before.keys()} == {path.name, "revoked.json"}
    asked = [("task1", "forget"), ("task2", "forget"), ("task3", "forget")]
    assert events(path) == [*asked, ("task2", "revoke")]
    # the same as in Python
    model, _ = checkpoint.load(weights)
    quick = {"epochs": 20, "lr": 2e-2, "rank": 4, "ratio": 0.5, "device": "cpu", "watch": False}
    done = forget(model, four, [["red"], ["gold"], ["blue"]], **quick)
    done.revoke("task2")
    ours = load_file(path)
    assert all(torch.equal(v, ours[k]) for k, v in load_file(done.finalize(run / "p.safetensors")).items())


def test_all_taken_back_one_after_another_is_the_model_before(run, weights, capsys):
    for task, name in ((None, "task3"), ("task1", "task1"), (None, "task2")):
        assert code("revoke", run, *(["--task", task] if task else [])) == 0
        assert f"revoked {name}\n" in capsys.readouterr().out
    whole = run / "erased-without-task1-task2-task3.safetensors"
    original, now = load_file(weights), load_file(whole)
    assert all(torch.equal(v, now[k]) for k, v in original.items())
    assert [name for name, event in events(whole) if event == "revoke"] == ["task3", "task1", "task2"]
    assert code("revoke", run) == 2
    assert "every request of" in capsys.readouterr().err
    # stopped before the file was written: given again
    whole.unlink()
    assert code("revoke", run, "--task", "task1") == 0
    assert "task1 was revoked on 20" in capsys.readouterr().out
    assert all(torch.equal(v, load_file(whole)[k]) for k, v in original.items())


def test_a_run_that_goes_on_does_not_bring_it_back(run, weights, four, capsys):
    assert code("revoke", run, "--task", "task2") == 0
    before = files(run)
    assert code(*command(weights, four, run)) == 2
    assert "holds a run of which task2 (on 20" in (said := capsys.readouterr().err)
    assert "choose another folder" in said
    assert files(run) == before
    for part in ("task3.json", "task3.safetensors"):
        (run / "tasks" / part).unlink()
    assert code(*command(weights, four, run)) == 2
    model, _ = checkpoint.load(weights)
    quick = {"epochs": 20, "lr": 2e-2, "rank": 4, "ratio": 0.5, "device": "cpu", "watch": False}
    with pytest.raises(OutputError, match=r"of which task2 \(on .*\) was revoked"):
        forget(model, four, [["red"], ["gold"], ["blue"]], out=run / "tasks", **quick)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "task9"], "'task9' is no request of"),
        (["--task", "task9"], "which has task1, task2, task3. What an earlier run forgot is in the weights"),
        (["--finalize", "{run}/erased.safetensors"], "erased.safetensors is there already and is kept"),
        (["--finalize", "{run}/erased.pth"], "should end in .safetensors"),
        (["--weights", "{run}/erased.safetensors"], "is not the file that the run began with: its sha256"),
        (["--weights", "nowhere.safetensors"], "are not at nowhere.safetensors; say where"),
    ],
)
def test_what_cannot_be_revoked_is_named_and_changes_nothing(run, arguments, message, capsys):
    before = files(run)
    assert code("revoke", run, *(a.format(run=run) for a in arguments)) == 2
    assert message in capsys.readouterr().err
    assert files(run) == before


def test_folders_of_no_finished_run_are_refused(run, tmp_path, capsys):
    for folder, message in (
        (tmp_path / "nothing", "there is no folder"),
        (tmp_path, "has no tasks/run.json"),
    ):
        assert code("revoke", folder) == 2
        assert message in capsys.readouterr().err
    (run / "tasks" / "task3.json").unlink()
    assert code("revoke", run) == 2
    assert "has not finished; give the same 'minigslora forget' again" in capsys.readouterr().err
    (run / "tasks" / "run.json").write_text("{}")
    assert code("revoke", run) == 2
    assert "is damaged (KeyError('method')); nothing was changed" in capsys.readouterr().err


def test_a_method_that_edits_the_weights_is_refused_by_name(run, capsys):
    described = json.loads((run / "tasks" / "run.json").read_text())
    (run / "tasks" / "run.json").write_text(json.dumps({**described, "method": "der"}))
    assert code("revoke", run) == 2
    assert "der changes the weights themselves: the run in" in capsys.readouterr().err


# --- enrol -------------------------------------------------------------------------------------------------


def test_a_class_is_enrolled_into_a_file_and_forgotten_later(run, photos, four, tmp_path, capsys):
    erased, out = run / "erased.safetensors", tmp_path / "five.safetensors"
    given = ["--name", "pink", "--images", photos / "train" / "pink", "--beside", photos]
    assert code("enrol", erased, *given, "--out", out) == 0
    said = capsys.readouterr().out
    assert "enrolled pink: row 4 of 5; the model names" in said
    assert checkpoint.load(out)[1].classes == (*NAMES, "pink")
    assert events(out)[-1] == ("enrol1", "enrol")
    model, _ = checkpoint.load(erased)
    assert enrol(model, "pink", photos / "train" / "pink", photos) == 4
    assert torch.equal(model.head.weight, load_file(out)["head.weight"])
    later = ["--weights", out, "--data", photos, "--out", tmp_path / "later", *QUICK, "--classes", "pink"]
    assert code("forget", *later, "--no-check") in (0, 3)  # little is left of a model that forgot 3 of 4
    assert events(tmp_path / "later" / "erased.safetensors")[-1] == ("task4", "forget")
    again = ["--name", "red", "--images", photos / "train" / "red", "--beside", photos]
    assert code("enrol", out, *again, "--out", tmp_path / "again.safetensors") == 0
    assert "enrolled red again: row 3 of 5" in capsys.readouterr().out
    data = reordered(folders.load(photos, squares.SIZE), (*NAMES, "pink"))
    done = forget(
        checkpoint.load(tmp_path / "again.safetensors")[0], data, ["green"], **squares.QUICK, check=False
    )
    assert 3 in done.plan.tasks[0].retain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{weights}", "--name", "red", "--out", "{tmp}/a.safetensors"], "'red' is a class of the model alr"),
        (["{weights}", "--name", "pink", "--out", "{weights}"], "is the file of the weights given"),
        (["{weights}", "--name", "pink", "--out", "{tmp}/there.safetensors"], "is there already and is kept"),
        (["{weights}", "--name", "pink", "--out", "{tmp}/a.pth"], "should end in .safetensors"),
        (["{tmp}", "--name", "pink", "--out", "{tmp}/a.safetensors"], "is a folder; give the model's file"),
        (["{tmp}/plain.safetensors", "--name", "p", "--out", "{tmp}/a.safetensors"], "does not say its arch"),
    ],
)
def test_what_cannot_be_enrolled_is_named(weights, photos, tmp_path, arguments, message, capsys):
    (tmp_path / "there.safetensors").write_text("mine")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    before = files(tmp_path), sha256(weights)
    own = (a.format(weights=weights, tmp=tmp_path) for a in arguments)
    assert code("enrol", *own, "--images", photos / "train" / "pink", "--beside", photos) == 2
    assert message in capsys.readouterr().err
    assert (files(tmp_path), sha256(weights)) == before
