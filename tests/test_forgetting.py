"""The loop and the sequence: order, exactness, stopping and going on, and what breaks."""

import errno
import json
import math
import os
from dataclasses import asdict
from functools import partial

import pytest
import tiny
import torch
from torch._dynamo.exc import BackendCompilerFailed

from minigslora import files, lora, methods
from minigslora.errors import ConfigError, DataError, ModelError, OutputError, TrainingDiverged
from minigslora.methods.base import Method
from minigslora.methods.gslora import GSLoRA
from minigslora.rng import Streams
from minigslora.sequence import RunFolder, forget_sequence
from minigslora.tasks import Progress, Setting, Task, plan
from minigslora.training import Average, EpochOrder, learning_rate, train_task

CPU = torch.device("cpu")
SETTING = Setting(requests=(1, 2), ratio=0.5)


class Stopped(Exception):
    """What stands for a user who interrupts a run."""


def make_plan(seed=0):
    return plan(tiny.faces(), SETTING, seed)


def make_method(name="gslora", recipe="corrected", **settings):
    return methods.create(name, recipe, "ratio", **{**tiny.QUICK, "augment": True, **settings})


def serve(seed=0, name="gslora", recipe="corrected", out=None, on_epoch=lambda *_: None, **settings):
    problem = tiny.problem()
    method = make_method(name, recipe, **settings)
    reports = forget_sequence(problem, method, make_plan(), seed, out, on_epoch=on_epoch)
    return problem, reports


def numbers(reports):
    return [{k: v for k, v in asdict(r).items() if k != "seconds"} for r in reports]


def same_state(one, two):
    a, b = lora.adapter_state(one.model), lora.adapter_state(two.model)
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def stop_in(task, epoch):
    def stop(now, at, _terms):
        if (now.name, at) == (task, epoch):
            raise Stopped

    return stop


# --- rate and order -----------------------------------------------------------------------------------


def test_the_rate_warms_up_and_follows_a_cosine():
    cosine = tiny.training(epochs=10, warmup_epochs=2, lr=1.0, lr_min=0.1)
    rates = [learning_rate(cosine, Progress(epoch=e)) for e in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[3:] == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * i / 8)) for i in range(1, 8)])
    constant = tiny.training(epochs=10, schedule="constant", lr=1.0)
    assert {learning_rate(constant, Progress(epoch=e)) for e in range(10)} == {1.0}


def order(retain=12, forget=5, **settings):
    task = Task("t", 0, (0,), (), (1,), (), tuple(range(retain)), tuple(range(100, 100 + forget)))
    return EpochOrder(task, tiny.training(**settings), Streams(0, "t"), CPU)


def test_an_epoch_takes_every_retained_image_once_and_cycles_the_others():
    made = order(retain=12, forget=5, batch_retain=4, batch_forget=3)
    first, second = made.epoch(), made.epoch()
    assert made.steps == 3
    assert sorted(first["retain"].flatten().tolist()) == list(range(12))
    assert first["forget"].shape == (3, 3)
    counts = [first["forget"].flatten().tolist().count(i) for i in range(100, 105)]
    assert set(counts) <= {1, 2}
    assert not torch.equal(first["retain"], second["retain"])
    assert not torch.equal(first["retain"], first["retain2"])


def test_all_steps_have_the_same_size():
    made = order(retain=10, forget=2, batch_retain=4, batch_forget=8)
    rows = made.epoch()
    assert {k: tuple(v.shape) for k, v in rows.items()} == {
        "retain": (3, 4),
        "forget": (3, 2),
        "retain2": (3, 4),
    }
    assert set(rows["retain"].flatten().tolist()) == set(range(10))
    without = order(retain=0, forget=6, batch_forget=3)
    assert set(without.epoch()) == {"forget"}
    assert without.steps == 2


def test_few_images_are_gone_through_again_where_more_updates_are_asked_for():
    made = order(retain=5, forget=2, batch_retain=4, batch_forget=2, epochs=2, updates=7)
    assert made.steps == 4
    rows = made.epoch()
    counts = [rows["retain"].flatten().tolist().count(i) for i in range(5)]
    assert set(counts) == {3, 4}
    assert order(retain=40, batch_retain=4, epochs=2, updates=7).steps == 10  # more than enough


def test_a_task_without_images_is_refused():
    with pytest.raises(DataError, match=r"t has no image to train on; give retained or forgotten ones"):
        order(retain=0, forget=0)


# --- exactness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "recipe"), [("gslora", "corrected"), ("gslora++", "released")])
def test_the_same_seed_gives_the_same_numbers_twice(name, recipe):
    one, reports = serve(0, name, recipe)
    two, again = serve(0, name, recipe)
    assert numbers(reports) == numbers(again)
    assert same_state(one, two)
    other, _ = serve(1, name, recipe)
    assert not same_state(one, other)


@pytest.mark.parametrize(("name", "recipe"), [("gslora", "corrected"), ("gslora++", "corrected")])
def test_requests_leave_the_pretrained_weights_alone_and_can_be_taken_back(name, recipe):
    problem = tiny.problem()
    weights = {k: v.clone() for k, v in problem.model.state_dict().items()}
    flags = {k: p.requires_grad for k, p in problem.model.named_parameters()}
    logits = [problem.predict("test")]
    method = make_method(name, recipe)
    for task in make_plan().tasks:
        train_task(problem, method, task, Streams(0, task.name))
        logits.append(problem.predict("test"))
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])
    assert lora.trainable(problem.model) == []
    with lora.bypassed(problem.model):
        assert torch.equal(problem.predict("test"), logits[0])
    lora.revoke(problem.model, "task2")
    assert torch.equal(problem.predict("test"), logits[1])
    lora.revoke(problem.model, "task1")
    assert torch.equal(problem.predict("test"), logits[0])
    lora.remove(problem.model)
    assert {k: p.requires_grad for k, p in problem.model.named_parameters()} == flags
    assert all(torch.equal(v, weights[k]) for k, v in problem.model.state_dict().items())


def test_a_compiled_model_is_trained_alike_and_left_as_it_was(monkeypatch):
    # Without C++: what is tested is that the model is captured whole, used, and given back.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    task = make_plan().tasks[0]
    found = []
    for compile in (False, True):
        problem = tiny.problem()
        method = make_method(augment=False, epochs=1, compile=compile)
        terms = train_task(problem, method, task, Streams(0, task.name))
        found.append((terms, problem))
        assert "forward_features" not in vars(problem.model)
    (plain, _), (compiled, _) = found
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_where_torch_cannot_compile_it_says_so():
    def no_compiler(*_):
        raise BackendCompilerFailed(no_compiler, RuntimeError("no C++ compiler"), None)

    problem = tiny.problem()
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler.*leave compile at false"), problem.compiled():
        no_compiler()


def test_a_report_gives_metrics_figures_terms_and_time():
    _, (first, second) = serve()
    assert first.forget == make_plan().tasks[0].forget
    assert {"acc_r", "acc_f", "drop", "h", "acc_r_before", "acc_f_before"} <= first.metrics.keys()
    assert "acc_o" not in first.metrics
    assert "acc_o" in second.metrics
    assert {"retain", "forget", "loss"} <= first.terms.keys()
    assert 0 <= first.figures["zero_group_ratio"] <= 1
    assert first.row()["seconds"] >= 0


def test_the_pull_to_forget_acts():
    _, gently = serve(epochs=1, lr=1e-5)
    _, hard = serve(epochs=12, lr=3e-3, sparsity="none", augment=False)
    assert hard[0].terms["forget"] < gently[0].terms["forget"]


def kept_after_steps(**settings):
    """Serve one request; return the parameters after each update, and at the end."""
    problem, task, after = tiny.problem(), make_plan().tasks[0], []
    method = make_method(epochs=3, **settings)
    act = method.after_step

    def after_step(lr, progress):
        act(lr, progress)
        after.append((progress.epoch, [p.detach().clone() for p in trained(method)]))

    method.after_step = after_step
    train_task(problem, method, task, Streams(0, task.name))
    return after, [p.detach().clone() for p in trained(method)]


def trained(method):
    return [p for group in method.groups for p in group.parameters]


def test_a_request_can_end_with_the_mean_over_its_last_epochs():
    after, last = kept_after_steps()
    assert all(torch.equal(a, b) for a, b in zip(after[-1][1], last, strict=True))
    same, averaged = kept_after_steps(averaged_epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(same[-1][1], last, strict=True))  # the way is the same
    for place, mean in enumerate(averaged):
        steps = torch.stack([parameters[place] for epoch, parameters in after if epoch >= 1]).double()
        assert len(steps) > 2
        expected = torch.where(last[place] == 0, 0.0, steps.mean(0))
        assert torch.allclose(mean.double(), expected, atol=1e-7)
    assert any(not torch.equal(a, b) for a, b in zip(averaged, last, strict=True))


def test_an_average_leaves_at_zero_what_the_last_update_left_there():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0, 0.0]))
    average = Average([parameter])
    average.put()
    assert parameter.tolist() == [1, 2, 0]  # no update, no mean
    for values in ([1.0, 2.0, 0.0], [3.0, 0.0, 4.0]):
        parameter.data = torch.tensor(values)
        average.add()
    average.put()
    assert parameter.tolist() == [2, 0, 2]


# --- stopping and going on ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "recipe"), [("gslora", "corrected"), ("gslora++", "corrected"), ("gslora++", "released")]
)
@pytest.mark.parametrize("stopped_in", [("task2", 0), ("task1", 1)])
def test_a_stopped_run_goes_on_to_the_numbers_of_one_that_was_not(tmp_path, name, recipe, stopped_in):
    whole, expected = serve(0, name, recipe)
    with pytest.raises(Stopped):
        serve(0, name, recipe, tmp_path, stop_in(*stopped_in))
    done = (tmp_path / "task1.json").is_file()
    assert done == (stopped_in[0] == "task2")
    seen = []
    resumed, reports = serve(0, name, recipe, tmp_path, lambda task, *_: seen.append(task.name))
    assert ("task1" in seen) != done
    assert numbers(reports) == numbers(expected)
    assert same_state(resumed, whole)
    assert torch.equal(resumed.predict("test"), whole.predict("test"))


def seen(folder):
    """Return the files of a folder but for those of its lock."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_finished_run_is_only_read(tmp_path):
    one, first = serve(out=tmp_path)
    written = {p.name: p.stat().st_mtime_ns for p in seen(tmp_path)}
    two, again = serve(out=tmp_path, on_epoch=stop_in("task1", 0))
    assert [asdict(r) for r in again] == [asdict(r) for r in first]
    assert same_state(one, two)
    assert {p.name: p.stat().st_mtime_ns for p in seen(tmp_path)} == written
    assert {"run.json", "metrics.jsonl", "task2.safetensors", "task2.json"} <= written.keys()


def test_the_log_holds_every_epoch_and_every_task(tmp_path):
    _, reports = serve(out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["task"], x.get("epoch")) for x in lines] == [
        (t, e) for t in ("task1", "task2") for e in (0, 1, None)
    ]
    assert lines[2]["acc_r"] == reports[0].metrics["acc_r"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"its seed differ"),
        ({"alpha": 0.5}, r"its config differ"),
        ({"name": "gslora++"}, r"method"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_kept(tmp_path, change, message):
    serve(out=tmp_path)
    before = {p.name: p.read_bytes() for p in seen(tmp_path)}
    with pytest.raises(OutputError, match=message + r".*choose another folder, or remove it"):
        serve(out=tmp_path, **change)
    assert {p.name: p.read_bytes() for p in seen(tmp_path)} == before


def test_a_folder_in_which_nothing_was_done_takes_corrected_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_retain = 0; expected 1 or more"):
        serve(out=tmp_path, batch_retain=0)
    assert not seen(tmp_path)  # found before anything was written
    with pytest.raises(ModelError, match="LoRA rank 999"):
        serve(out=tmp_path, rank=999)
    assert sorted(p.name for p in seen(tmp_path)) == ["before.json", "run.json"]
    _, reports = serve(out=tmp_path)
    assert numbers(serve(out=tmp_path)[1]) == numbers(reports)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "epochs = -1; expected 0 or more"),
        ({"batch_forget": 0}, "batch_forget = 0; expected 1 or more"),
        ({"lr": -0.1}, r"lr = -0\.1; expected 0 or more"),
    ],
)
def test_numbers_the_loop_cannot_use_are_found_before_the_model_is_touched(settings, message):
    problem = tiny.problem()
    with pytest.raises(ConfigError, match=message):
        forget_sequence(problem, make_method(**settings), make_plan())
    assert not lora.wrapped(problem.model)


# --- what breaks --------------------------------------------------------------------------------------


class Poisoned(GSLoRA):
    """GS-LoRA with a loss term that stops being a number in an epoch of a task."""

    name = "poisoned"
    at = ("task2", 1)

    def loss(self, step):
        terms = super().loss(step)
        if (f"task{step.progress.task + 1}", step.progress.epoch) == self.at:
            terms["forget"] = terms["forget"] * float("nan")
        return terms


def poisoned(kind=Poisoned):
    made = make_method()
    return kind(**made.settings, training=made.training)


def test_a_loss_that_is_not_finite_stops_names_its_term_and_keeps_the_last_good_state(tmp_path):
    problem, states = tiny.problem(), []

    def remember(task, epoch, _terms):
        states.append((task.name, epoch, lora.adapter_state(problem.model)))

    with pytest.raises(
        TrainingDiverged, match=r"task2, epoch 2: the loss term 'forget' is not finite.*Lower lr"
    ):
        forget_sequence(problem, poisoned(), make_plan(), 0, tmp_path, on_epoch=remember)
    assert [(name, epoch) for name, epoch, _ in states] == [("task1", 0), ("task1", 1), ("task2", 0)]
    good, now = states[1][2], lora.adapter_state(problem.model)  # as after the last finished request
    assert good.keys() == now.keys()
    assert all(torch.equal(now[k], good[k]) for k in good)
    assert (tmp_path / "task1.safetensors").is_file()
    assert not (tmp_path / "task2.json").exists()


def test_a_parameter_that_is_not_finite_stops_too():
    class Exploding(GSLoRA):
        name = "exploding"

        def after_step(self, lr, progress):
            if progress.step == progress.steps - 1:
                with torch.no_grad():
                    self.groups[0].parameters[0].fill_(float("inf"))

    problem = tiny.problem()
    with pytest.raises(TrainingDiverged, match=r"task1, epoch 1: a trained parameter is not finite"):
        forget_sequence(problem, poisoned(Exploding), make_plan())
    assert all(v.isfinite().all() for v in lora.adapter_state(problem.model).values())


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    problem = tiny.problem()
    with pytest.raises(OutputError, match=r"cannot write .*out: .*choose another folder"):
        forget_sequence(problem, make_method(), make_plan(), 0, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    assert not lora.wrapped(problem.model)


def test_a_full_disk_keeps_the_finished_tasks_and_the_run_goes_on(tmp_path, monkeypatch):
    expected = numbers(serve()[1])
    save, calls = files.save_file, []

    def fill_up(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path, metadata)

    monkeypatch.setattr(files, "save_file", fill_up)
    with pytest.raises(
        OutputError, match=r"task2\.safetensors: No space left.*Nothing already there was changed"
    ):
        serve(out=tmp_path)
    kept = {p.name for p in seen(tmp_path)}
    assert kept == {"run.json", "before.json", "metrics.jsonl", "task1.safetensors", "task1.json"}
    assert numbers(serve(out=tmp_path)[1]) == expected


def test_a_log_that_cannot_be_written(tmp_path):
    folder = RunFolder(tmp_path, {"seed": 0})
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*metrics\.jsonl: .*finished tasks are kept"):
        folder.log({"epoch": 0})


def test_an_unknown_setting_is_found_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"no setting 'epoch'"):
        serve(out=tmp_path / "out", epoch=3)
    assert not (tmp_path / "out").exists()


# --- other kinds of methods ---------------------------------------------------------------------------


class Minimal(Method):
    """A method of one function: everything else is the contract's default."""

    name = "minimal"

    def __init__(self, **settings):
        super().__init__(training=tiny.training(**settings))
        self.wanted = []

    def loss(self, step):
        self.wanted.append((step.progress.epoch, tuple(step.batch.sizes)))
        return {"all": step.losses().total.mean()}


class Phases(Minimal):
    """Forgotten images in the first epoch, two draws of retained ones in the second."""

    name = "phases"

    def wants(self, progress):
        return ("forget",) if progress.epoch == 0 else ("retain", "retain2")


class ClosedForm(Minimal):
    """Nothing is trained; the head's row is cleared at the end."""

    name = "closed-form"

    def begin(self, problem, task, streams):
        return []

    def end(self, problem, task):
        with torch.no_grad():
            problem.model.head.weight[list(task.forget)] = 0


def test_a_method_of_one_function_trains_the_whole_model():
    problem = tiny.problem()
    method = Minimal(clip=0.5, optimizer="adam", dropout=False)
    before = {k: v.clone() for k, v in problem.model.state_dict().items()}
    forget_sequence(problem, method, make_plan())
    assert not torch.equal(problem.model.state_dict()["head.weight"], before["head.weight"])
    assert set(method.wanted) == {(0, ("retain", "forget")), (1, ("retain", "forget"))}


def test_a_step_takes_the_images_it_wants():
    problem, method = tiny.problem(), Phases()
    train_task(problem, method, make_plan().tasks[0], Streams(0))
    assert set(method.wanted) == {(0, ("forget",)), (1, ("retain", "retain2"))}


def test_a_closed_form_edit_trains_nothing_and_is_resumed_from_its_weights(tmp_path):
    whole = tiny.problem()
    expected = forget_sequence(whole, ClosedForm(), make_plan())
    assert expected[0].terms == {}
    stopped = tiny.problem()
    evaluate, calls = stopped.evaluate, []

    def evaluate_twice(tasks):
        calls.append(tasks)
        if len(calls) == 3:  # before, task 1, task 2
            raise Stopped
        return evaluate(tasks)

    stopped.evaluate = evaluate_twice
    with pytest.raises(Stopped):
        forget_sequence(stopped, ClosedForm(), make_plan(), out=tmp_path)
    resumed = tiny.problem()
    reports = forget_sequence(resumed, ClosedForm(), make_plan(), out=tmp_path)
    assert numbers(reports) == numbers(expected)
    assert torch.equal(resumed.predict("test"), whole.predict("test"))
