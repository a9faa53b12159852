"""What is remembered from before: the ledger, in memory and in files; when an earlier run stands for this."""

import copy
import json

import pytest
import squares
import tiny
import torch
from safetensors.torch import load_file, save_file

from minigslora import forget, ledger, lora
from minigslora.cli import main
from minigslora.errors import DataError, MiniGSLoRAError, ModelError, OutputError
from minigslora.files import load_tensors, sha256
from minigslora.fingerprint import weights_hash
from minigslora.methods.gslora import GSLoRA
from minigslora.models import checkpoint
from minigslora.tasks import Plan

QUICK = {**tiny.QUICK, "ratio": 0.5, "device": "cpu", "precision": "fp32", "watch": False, "check": False}
NAMES = ("blue", "gold", "green", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("photos"), NAMES, {"train": 10, "test": 4})


@pytest.fixture(scope="module")
def weights(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(squares.trained(photos, NAMES).state_dict(), path)
    return path


def command(weights, data, out, *more):
    quick = ["--set", "epochs=40", "--set", "lr=2e-2", "--set", "rank=4", "--ratio", "0.5", "--device", "cpu"]
    own = ["--model", "test_vit", "--image-size", str(squares.SIZE), "--weights", str(weights)]
    return ["forget", *own, "--data", str(data), "--out", str(out), *quick, *more]


def code(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


def carded(tmp_path, seed=0):
    """A model from a file with a card, as pre-training writes it."""
    card = checkpoint.Card({"kind": "face", **vars(tiny.FACE)}, tiny.faces().classes, image_size=48)
    checkpoint.save(tmp_path / "pre-trained.safetensors", tiny.face_model(seed), card)
    return checkpoint.load(tmp_path / "pre-trained.safetensors")[0]


# --- the ledger ---------------------------------------------------------------------------------------


def test_a_finalised_file_says_what_it_forgot(tmp_path):
    model = carded(tmp_path)
    original = weights_hash(model)
    done = forget(model, tiny.faces(), [["person-001"], ["person-002", "person-004"]], **QUICK)
    _, notes = load_tensors(done.finalize(tmp_path / "erased.safetensors"))
    first, second = ledger.read(notes, "erased.safetensors")
    assert (first.request, first.classes, first.rows) == ("task1", ("person-001",), (1,))
    assert (second.request, second.classes, second.rows) == ("task2", ("person-002", "person-004"), (2, 4))
    assert {(e.method, e.recipe, e.weights) for e in (first, second)} == {
        ("gslora-deep", "corrected", original)
    }
    assert first.version
    assert first.date == ledger.today()


def test_the_next_request_on_a_finalised_file_knows_the_earlier_ones(tmp_path):
    forget(model := carded(tmp_path), tiny.faces(), ["person-001"], **QUICK).finalize(
        tmp_path / "1.safetensors"
    )
    once, _ = checkpoint.load(tmp_path / "1.safetensors")
    second = forget(once, tiny.faces(), ["person-002"], **QUICK)
    (task,) = second.plan.tasks
    assert (task.name, task.old, task.index) == ("task2", (1,), 1)
    assert 1 not in task.retain
    assert "acc_o" in second.reports[0].metrics
    second.finalize(tmp_path / "2.safetensors")
    entries = ledger.read(load_tensors(tmp_path / "2.safetensors")[1], "")
    assert [e.classes for e in entries] == [("person-001",), ("person-002",)]
    assert entries[1].weights == weights_hash(once) != entries[0].weights == weights_hash(model)
    with pytest.raises(DataError, match="'person-001', which the model already forgot"):
        forget(checkpoint.load(tmp_path / "2.safetensors")[0], tiny.faces(), ["person-001"], **QUICK)


@pytest.mark.parametrize("method", ["finetune", "der", "head-only", "retrain"])
def test_methods_that_edit_the_weights_do_not_teach_earlier_requests_again(method):
    quick = {k: v for k, v in QUICK.items() if k != "rank"}
    quick = {k: v for k, v in quick.items() if method != "head-only" or k not in tiny.QUICK}
    model = tiny.face_model()
    forget(model, tiny.faces(), ["person-001"], method=method, **quick)
    second = forget(model, tiny.faces(), ["person-002"], method=method, **quick)
    (task,) = second.plan.tasks
    assert (task.name, task.old) == ("task2", (1,))
    labels = tiny.faces().train.labels[list(task.retain_images)]
    assert 1 not in labels.tolist()


def test_by_the_command_line_an_earlier_class_stays_forgotten_and_doctor_names_both(
    photos, weights, tmp_path, capsys
):
    assert code(command(weights, photos, tmp_path / "a", "--classes", "red")) == 0
    first = tmp_path / "a" / "erased.safetensors"
    assert code(command(first, photos, tmp_path / "b", "--classes", "gold")) == 0
    second = tmp_path / "b" / "erased.safetensors"
    edited = squares.untrained(len(NAMES))
    edited.load_state_dict(load_file(second))
    assert squares.accuracies(edited, photos, NAMES) == {"blue": 100, "gold": 0, "green": 100, "red": 0}
    capsys.readouterr()
    assert code(["doctor", str(second)]) == 0
    said = capsys.readouterr().out
    assert "task1: red (gslora-deep, corrected, 20" in said
    assert "task2: gold (gslora-deep, corrected, 20" in said
    assert sha256(second) in said
    page = (tmp_path / "b" / "report.html").read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in page for name in ("red", "gold"))
    assert code(command(second, photos, tmp_path / "c", "--classes", "red")) == 2
    assert "'red', which the model already forgot" in capsys.readouterr().err


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        ["task1"],
        [{"request": "task1"}],
        [{"request": "task1", "classes": ["a"], "rows": [0], "more": 1}],
        [{"request": "task1", "classes": ["a", "b"], "rows": [0]}],
        [{"request": "task1", "classes": ["a"], "rows": ["x"]}],
        [{"request": 1, "classes": ["a"], "rows": [0]}],
        [{"request": "first", "classes": ["a"], "rows": [0]}],
        [{"request": "task1", "classes": ["a"], "rows": [-1]}],
        [{"request": "task1", "classes": ["a"], "rows": [i]} for i in (0, 1)],
        [{"request": f"task{i}", "classes": ["a"], "rows": [0]} for i in (1, 2)],
    ],
)
def test_a_damaged_ledger_is_refused_not_ignored(tmp_path, broken):
    forget(carded(tmp_path), tiny.faces(), ["person-001"], **QUICK).finalize(tmp_path / "e.safetensors")
    tensors, notes = load_tensors(tmp_path / "e.safetensors")
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in {**notes, "ledger": broken}.items()}
    save_file(tensors, tmp_path / "e.safetensors", metadata=text)
    with pytest.raises(ModelError, match=r"the ledger in the header of .*e\.safetensors is damaged"):
        checkpoint.load(tmp_path / "e.safetensors")


def test_a_ledger_of_other_classes_than_the_datas(tmp_path):
    model = tiny.face_model()
    ledger.put(model, [ledger.Entry("task1", ("somebody",), (1,))])
    with pytest.raises(
        DataError, match=r"forgot 'somebody', row 1 of its head, but there .* has 'person-001'"
    ):
        forget(model, tiny.faces(), ["person-002"], **QUICK)


def test_the_same_erasure_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("a", "b"):
        done = forget(carded(tmp_path), tiny.faces(), ["person-001"], **QUICK)
        assert done.ledger[0].date == "2023-11-14"
        done.finalize(tmp_path / f"{name}.safetensors")
    assert sha256(tmp_path / "a.safetensors") == sha256(tmp_path / "b.safetensors")


def test_a_models_hash_is_of_its_own_weights_only():
    model = tiny.face_model()
    before = weights_hash(model)
    forget(model, tiny.faces(), ["person-001"], **QUICK)
    assert weights_hash(model) == before
    assert weights_hash(lora.fold(model)) != before
    lora.remove(model)
    assert weights_hash(model) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert weights_hash(model) != before


# --- revoking from the middle -------------------------------------------------------------------------


def test_after_a_middle_request_was_revoked_the_later_rows_describe_the_model_that_there_is():
    done = forget(tiny.face_model(), tiny.faces(), [["person-001"], ["person-002"], ["person-003"]], **QUICK)
    done.revoke("task2")
    assert [e.request for e in done.ledger] == ["task1", "task3"]
    assert [task.old for task in done.plan.tasks] == [(), (1,)]
    assert 2 in done.plan.tasks[1].retain
    now = done.problem.evaluate([done.plan.tasks[1]])[0]
    assert {k: done.reports[1].metrics[k] for k in now} == now
    with lora.bypassed(done.model, "task3"):
        first = done.problem.evaluate([done.plan.tasks[0]])[0]
    assert {k: done.reports[0].metrics[k] for k in first} == first


def test_a_revoked_class_can_be_forgotten_again():
    done = forget(model := tiny.face_model(), tiny.faces(), [["person-001"], ["person-002"]], **QUICK)
    done.revoke("task1")
    again = forget(model, tiny.faces(), ["person-001"], **QUICK)
    assert [(t.name, t.old) for t in again.plan.tasks] == [("task3", (2,))]


# --- what is interrupted ------------------------------------------------------------------------------


class Stop(KeyboardInterrupt):
    """Ctrl-C."""


def stopping_at(monkeypatch, task):
    """Interrupt the first step of a task."""
    plain = GSLoRA.after_step

    def after_step(self, lr, progress):
        if progress.task == task - 1:
            raise Stop
        plain(self, lr, progress)

    monkeypatch.setattr(GSLoRA, "after_step", after_step)


REQUESTS = [["person-001"], ["person-002"], ["person-003"]]


@pytest.mark.parametrize("task", [1, 2, 3])
def test_an_interrupted_cell_called_again_goes_on(tmp_path, monkeypatch, task):
    whole = forget(tiny.face_model(), tiny.faces(), REQUESTS, **QUICK)
    model = tiny.face_model()
    with monkeypatch.context() as patch:
        stopping_at(patch, task)
        with pytest.raises(Stop):
            forget(model, tiny.faces(), REQUESTS, out=tmp_path / "run", **QUICK)
    assert lora.adapter_names(model) == [f"task{i}" for i in range(1, task)]
    assert [e.request for e in ledger.of(model)] == [f"task{i}" for i in range(1, task)]
    again = forget(model, tiny.faces(), REQUESTS, out=tmp_path / "run", **QUICK)
    ours, theirs = lora.adapter_state(again.model), lora.adapter_state(whole.model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert [r.metrics for r in again.reports] == [r.metrics for r in whole.reports]
    assert again.ledger == whole.ledger


def test_an_interrupted_method_that_edits_the_weights_puts_them_back_and_goes_on(tmp_path, monkeypatch):
    from minigslora.methods.der import DER

    quick = {k: v for k, v in QUICK.items() if k != "rank"} | {"method": "der"}
    whole = forget(tiny.face_model(), tiny.faces(), REQUESTS, **quick)
    model, plain, begun = tiny.face_model(), DER.begin, []

    def begin(self, problem, task, streams):
        groups = plain(self, problem, task, streams)
        if task.name == "task2" and not begun:
            begun.append({k: v.clone() for k, v in problem.model.state_dict().items()})
            with torch.no_grad():
                groups[0]["params"][0].add_(1)
            raise Stop
        return groups

    monkeypatch.setattr(DER, "begin", begin)
    with pytest.raises(Stop):
        forget(model, tiny.faces(), REQUESTS, out=tmp_path / "run", **quick)
    assert all(torch.equal(v, begun[0][k]) for k, v in model.state_dict().items())
    again = forget(model, tiny.faces(), REQUESTS, out=tmp_path / "run", **quick)
    assert all(torch.equal(v, whole.model.state_dict()[k]) for k, v in again.model.state_dict().items())
    assert [r.metrics for r in again.reports] == [r.metrics for r in whole.reports]


# --- an earlier run stands for this one only where all that matters is equal ---------------------------


def brighter(data):
    """The same data set with one pixel of one image repaired."""
    images = data.train.images.clone()
    images[0, 0, 0, 0] ^= 1
    train = type(data.train)(images, data.train.labels, data.train.classes)
    return type(data)(data.name, train, data.val, data.test)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"model": lambda: tiny.face_model(seed=1)}, "weights"),
        ({"data": lambda: brighter(tiny.faces())}, "data"),
        ({"card": (0.1, 0.1, 0.1)}, "normalisation"),
        ({"seed": 1}, "seed, plan"),
        ({"lr": 0.123}, "training"),
        ({"alpha": 0.2}, "config"),
        ({"method": "gslora"}, "method"),
        ({"ratio": 0.9}, "plan"),
        ({"precision": "bf16"}, "precision"),
        ({"library": "0.0.0"}, "library"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_by_what_differs(tmp_path, monkeypatch, change, differs):
    forget(tiny.face_model(), tiny.faces(), ["person-001"], out=tmp_path / "run", **QUICK)
    files = {f: f.read_bytes() for f in tmp_path.rglob("*.*") if f.is_file() and not f.name.startswith(".")}
    change = dict(change)
    model, data = change.pop("model", tiny.face_model)(), change.pop("data", tiny.faces)()
    if std := change.pop("card", None):
        checkpoint.set_card(model, checkpoint.Card({"kind": "face"}, (), (0.0,) * 3, std))
    if newer := change.pop("library", None):
        monkeypatch.setattr("minigslora.sequence.library_fingerprint", lambda: newer)
    with pytest.raises(OutputError, match=rf"holds another run \(its .*{differs}.* differ\); choose another"):
        forget(model, data, ["person-001"], out=tmp_path / "run", **{**QUICK, **change})
    assert all(f.read_bytes() == before for f, before in files.items())


def test_what_is_taken_from_an_earlier_run_is_said(photos, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_RUNS", str(tmp_path / "runs"))
    plain = [a for a in command(weights, photos, "", "--classes", "red") if a not in ("--out", "")]
    assert code(plain) == 0
    assert "taken from an earlier run" not in capsys.readouterr().out
    assert code(plain) == 0
    assert "taken from an earlier run in" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs" / "forget").iterdir()
    assert code([*plain, "--mean", ".4,.4,.4"]) == 0  # another run: a folder of its own
    assert "taken from an earlier run" not in capsys.readouterr().out
    assert len(list((tmp_path / "runs" / "forget").iterdir())) == 2
    assert (folder / "report.html").is_file()


def test_a_file_that_is_there_already_is_not_overwritten(photos, weights, tmp_path, capsys):
    target = tmp_path / "thesis.safetensors"
    target.write_bytes(b"years of work")
    more = ["--classes", "red", "--finalize", str(target)]
    assert code(command(weights, photos, tmp_path / "out", *more)) == 2
    assert "thesis.safetensors is there already and is kept; write to another file" in capsys.readouterr().err
    assert target.read_bytes() == b"years of work"
    target.unlink()
    assert code(command(weights, photos, tmp_path / "out", *more)) == 0
    assert code(command(weights, photos, tmp_path / "out", *more)) == 0  # its own file again


@pytest.mark.parametrize("file", ["run.json", "task1.json", "task1.safetensors", "before.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_run_folder_is_one_clear_line(tmp_path, file, content):
    forget(tiny.face_model(), tiny.faces(), ["person-001"], out=tmp_path, **QUICK)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(MiniGSLoRAError, match=rf"{file}"):
        forget(tiny.face_model(), tiny.faces(), ["person-001"], out=tmp_path, **QUICK)


def test_a_plan_of_which_a_request_was_taken_back():
    from minigslora.tasks import without

    done = forget(copy.deepcopy(tiny.face_model()), tiny.faces(), REQUESTS, **QUICK)
    left = without(done.plan, "task1", [1])
    assert isinstance(left, Plan)
    assert [(t.name, t.old, 1 in t.retain) for t in left.tasks] == [
        ("task2", (), True),
        ("task3", (2,), True),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "mini-faces", "--out"],
        ["import", "no-such.pth", "--out"],
        ["fetch", "vit_tiny_patch16_224", "--weights", "no-such.pth", "--out"],
    ],
)
def test_no_command_replaces_a_file_that_is_there(tmp_path, capsys, arguments):
    target = tmp_path / "thesis.safetensors"
    target.write_bytes(b"years of work")
    assert code([*arguments, str(target)]) == 2
    assert "thesis.safetensors is there already and is kept" in capsys.readouterr().err
    assert target.read_bytes() == b"years of work"


# --- what a reader of the code found ------------------------------------------------------------------


def test_other_arguments_of_the_architecture_are_another_run(photos, weights, tmp_path, capsys):
    plain = command(weights, photos, tmp_path / "out", "--classes", "red")
    assert code(plain) == 0
    assert code([*plain, "--model-args", "act_layer=relu"]) == 2
    assert "holds another run (its model arguments" in capsys.readouterr().err


def test_the_same_weights_in_another_architecture_are_another_run(tmp_path):
    model = tiny.timm_vit()
    forget(model, tiny.faces(), ["person-001"], out=tmp_path, **QUICK)
    other = tiny.timm_vit(num_heads=1)
    other.load_state_dict(tiny.timm_vit().state_dict())
    with pytest.raises(OutputError, match=r"its model differ"):
        forget(other, tiny.faces(), ["person-001"], out=tmp_path, **QUICK)


def test_other_adapters_of_an_earlier_request_are_another_run(tmp_path):
    for seed in (0, 1):
        model = tiny.face_model()
        forget(model, tiny.faces(), ["person-001"], **{**QUICK, "seed": seed})
        if seed == 0:
            forget(model, tiny.faces(), ["person-002"], out=tmp_path, **QUICK)
    before = lora.adapter_state(model)
    with pytest.raises(OutputError, match=r"its adapters differ"):
        forget(model, tiny.faces(), ["person-002"], out=tmp_path, **QUICK)
    assert all(torch.equal(v, before[k]) for k, v in lora.adapter_state(model).items())


def test_a_folder_that_does_not_say_whose_it_is_is_refused(tmp_path):
    forget(tiny.face_model(), tiny.faces(), ["person-001"], out=tmp_path, **QUICK)
    (tmp_path / "run.json").unlink()
    with pytest.raises(OutputError, match=r"no run\.json that says of which run it is"):
        forget(tiny.face_model(5), tiny.faces(), ["person-003"], out=tmp_path, **QUICK)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "before.json").write_text("mine")
    with pytest.raises(OutputError, match=r"holds before\.json"):
        forget(tiny.face_model(), tiny.faces(), ["person-001"], out=tmp_path / "mine", **QUICK)
    assert (tmp_path / "mine" / "before.json").read_text() == "mine"


def test_a_model_that_was_trained_on_since_is_not_put_back_by_the_same_cell(tmp_path):
    quick = {k: v for k, v in QUICK.items() if k != "rank"} | {"method": "finetune"}
    model = tiny.face_model()
    forget(model, tiny.faces(), ["person-001"], out=tmp_path, **quick)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    mine = next(model.parameters()).clone()
    with pytest.raises(MiniGSLoRAError, match=r"already forgot"):
        forget(model, tiny.faces(), ["person-001"], out=tmp_path, **quick)
    assert torch.equal(next(model.parameters()), mine)


def test_a_finished_cell_is_run_again_by_a_model_that_knows_nothing_else_any_more(photos, weights, tmp_path):
    model = squares.untrained(len(NAMES))
    model.load_state_dict(load_file(weights))
    requests = [["blue"], ["gold"], ["green"]]
    quick = {**squares.QUICK, "epochs": 20}
    first = forget(model, photos, requests, out=tmp_path / "run", **quick)
    again = forget(model, photos, requests, out=tmp_path / "run", **quick)
    assert [r.metrics for r in again.reports] == [r.metrics for r in first.reports]


@pytest.mark.parametrize("way", ["remove", "revoke", "fold"])
def test_the_ledger_follows_the_adapters(tmp_path, way):
    model = tiny.face_model()
    forget(model, tiny.faces(), [["person-001"], ["person-002"]], **QUICK)
    if way == "remove":
        lora.remove(model)
        assert ledger.of(model) == ()
        assert ledger.header(model) == {}
        assert forget(model, tiny.faces(), ["person-001"], **QUICK).reports[0].task == "task1"
    elif way == "revoke":
        lora.revoke(model, "task2")
        assert [e.request for e in ledger.of(model)] == ["task1"]
    else:
        assert [e.request for e in ledger.of(lora.fold(model))] == ["task1", "task2"]


def test_revoking_an_earlier_calls_request_measures_later_ones_anew():
    model = tiny.face_model()
    forget(model, tiny.faces(), ["person-001"], **QUICK)
    second = forget(model, tiny.faces(), ["person-002"], **QUICK)
    assert "acc_o" in second.reports[0].metrics
    second.revoke("task1")
    assert second.plan.tasks[0].old == ()
    assert 1 in second.plan.tasks[0].retain
    assert "acc_o" not in second.reports[0].metrics


def test_a_checkpoint_made_of_an_erased_file_keeps_its_ledger(tmp_path):
    model = carded(tmp_path)
    forget(model, tiny.faces(), ["person-001"], **QUICK).finalize(tmp_path / "erased.safetensors")
    again, card = checkpoint.load(tmp_path / "erased.safetensors")
    checkpoint.save(tmp_path / "copy.safetensors", again, card)
    assert ledger.of(checkpoint.load(tmp_path / "copy.safetensors")[0]) == ledger.of(model)


def test_a_report_that_is_there_is_not_replaced_by_a_new_run(photos, weights, tmp_path, capsys):
    (tmp_path / "report.html").write_text("my thesis")
    assert code(command(weights, photos, tmp_path, "--classes", "red")) == 2
    assert "report.html is there already and is kept" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "my thesis"


def test_a_request_that_cannot_begin_leaves_the_model_unwrapped():
    model = tiny.face_model()
    with pytest.raises(ModelError, match="rank"):
        forget(model, tiny.faces(), ["person-001"], **{**QUICK, "rank": 5000})
    assert not lora.wrapped(model)
    assert all(p.requires_grad for p in model.parameters())
