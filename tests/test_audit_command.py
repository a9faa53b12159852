"""minigslora.audit() and its command on somebody else's model: references, verdicts, page, every refusal."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import squares
import tiny
import torch
from markupsafe import escape
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import minigslora
from minigslora import audit as audit_package
from minigslora import lora
from minigslora.audit import run, unseen
from minigslora.audit.relearning import Attack
from minigslora.audit.report import LIMITS, PLAIN, Line, Report
from minigslora.audit.table import AUDITS
from minigslora.cli import main
from minigslora.errors import ConfigError, DataError, ModelError, WeakOracle
from minigslora.models.head_slicing import classifier

NAMES = ("amber", "blue", "cyan", "dun", "ecru", "fawn")
GONE = ["blue", "ecru"]
QUICK = Attack(shots=2, steps=4, every=2, batch=4)
ASKED = {"images": 4, "relearning": QUICK, "device": "cpu", "watch": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("photos"), NAMES, {"train": 6, "test": 12})


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A folder of class folders with grey squares."""
    folder, random = tmp_path_factory.mktemp("strangers"), np.random.default_rng(5)
    for shade, name in ((60, "slate"), (160, "ash")):
        (folder / name).mkdir()
        for i in range(15):
            noisy = shade + random.normal(0, 25, (squares.SIZE, squares.SIZE, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def trained(root, without=(), seed=0):
    """Return a model that some colours were kept from, its head of all of them."""
    model = squares.untrained(len(NAMES))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    images, labels = squares.inputs(root, NAMES, "train")
    seen = ~torch.isin(labels, torch.tensor([NAMES.index(name) for name in without], dtype=torch.long))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[seen]), labels[seen]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def original(root):
    return trained(root)


@pytest.fixture(scope="module")
def oracles(root):
    return [trained(root, GONE, seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def report(root, original, oracles, strangers):
    given = {"original": original, "oracles": oracles, "strangers": strangers}
    return minigslora.audit(original, root, GONE, **given, **ASKED)


# --- the report --------------------------------------------------------------------------------------


def test_the_original_remembers(report):
    assert report.verdicts["everyday"] == "remembers"
    assert report.verdicts["template"] == "remembers"
    assert set(report.verdicts) == {name for name, audit in AUDITS.items() if audit.judged}
    assert not report.skipped


def test_an_oracle_that_is_no_reference_passes_what_the_original_does_not(root, original, oracles):
    held_out = minigslora.audit(
        oracles[0], root, GONE, original=original, oracles=oracles[1:], only=["everyday"], **ASKED
    )
    assert held_out.verdicts == {"everyday": "passes"}


def test_every_figure_is_registered_and_every_judged_one_is_found(report):
    for name, audit in AUDITS.items():
        found = {line.figure for line in report.of(name)}
        assert set(audit.judged) <= found <= {*audit.judged, *audit.shown}
        assert len(audit.judged) <= 2
    assert {line.audit for line in report.lines} == set(AUDITS)


def test_no_measured_figure_is_left_out(root, original, oracles):
    asked = run.Case(minigslora.datasets.registry.load(root, 32), (1, 4), QUICK, images=4)
    subject = run.subject_of("model", original, asked, "cpu")
    beside = run.Beside((run.subject_of("oracle 1", oracles[0], asked, "cpu"),), subject)
    for name, audit in AUDITS.items():
        if name != "strangers":
            assert set(audit.measure(subject, beside).figures) <= {*audit.judged, *audit.shown}


def test_the_table_has_all_models_and_the_band(report):
    table = report.table()
    assert list(table.columns) == ["model", "original", "head-only", "oracles", "band ±", "verdict"]
    assert table.loc[("everyday", "Acc_f"), "model"] == table.loc[("everyday", "Acc_f"), "original"]
    assert table.loc[("everyday", "Acc_f"), "head-only"] == 0
    assert isinstance(report.table("probe"), pd.DataFrame)


def test_the_audit_of_the_audits_finds_the_original_and_leaves_oracles_alone(report):
    checks = report.checks()
    assert checks.loc[("everyday", "Acc_f"), "original"] == "found"
    assert checks.loc[("everyday", "Acc_f"), "head-only"] == "not found"  # its answers are an oracle's
    assert checks.loc[("everyday", "Acc_f"), "oracles, held out"].endswith(" of 3")


def test_classes_never_seen_are_asked_in_the_forgotten_ones_place(report):
    checks = report.checks()
    for audit in ("probe", "prototype", "enrolment"):
        rows = checks.loc[audit]
        assert (rows["never seen"] != "").all()
        assert (rows["never seen"] == rows["never seen, original"]).all()  # the original is under audit
    assert (checks.loc[["everyday", "template"], "never seen"] == "").all()


def test_without_classes_of_strangers_the_report_says_why(root, original):
    images = torch.zeros(30, 3, squares.SIZE, squares.SIZE, dtype=torch.uint8)
    asked = {"only": ["prototype"], **ASKED}
    for given, words in ((None, "no strangers"), (images, "do not say which class they show")):
        found = minigslora.audit(original, root, GONE, strangers=given, **asked)
        assert words in found.asked["classes never seen"]
        assert (found.checks()["never seen"] == "").all()


def test_head_only_shares_the_originals_features_and_never_names_the_forgotten(root, original):
    case = run.Case(minigslora.datasets.registry.load(root, 32), (1, 4), QUICK, images=4)
    before = run.subject_of("original", original, case, "cpu")
    control = run.head_only(before)
    assert control.test.features is before.test.features
    assert not torch.isin(control.test.logits.argmax(dim=1), torch.tensor([1, 4])).any()
    assert control.accuracy(control.model, (1, 4)) == 0


def test_it_is_the_same_again(report, root, original, oracles, strangers):
    again = minigslora.audit(
        original, root, GONE, original=original, oracles=oracles, strangers=strangers, **ASKED
    )
    assert json.dumps(again.values()) == json.dumps(report.values())


def test_without_references_the_figures_stand_alone(root, original):
    alone = minigslora.audit(original, root, GONE, only=["probe", "similarity", "strangers"], **ASKED)
    assert alone.verdicts == {"probe": "no oracle"}
    assert alone.skipped == {
        "similarity": "it needs the original or oracles",
        "strangers": "it needs images of strangers (--strangers FOLDER)",
    }
    assert "not run" in alone.summary()


def test_one_oracle_makes_no_band(root, original, oracles):
    one = minigslora.audit(original, root, GONE, oracles=oracles[:1], only=["everyday"], **ASKED)
    assert one.verdicts == {"everyday": "no band"}
    assert "oracle 0.0" in one.summary()


def test_without_an_oracle_the_original_stands_beside():
    line = Line("probe", "all images, forgotten", 84.0, 100.0, 100.0, ())
    assert Report.said(line) == "all images, forgotten 84.0 (original 100.0)"
    assert line.verdict == "no oracle"


def test_an_audit_that_finds_nobody_says_so():
    line = Line("probe", "4 images a class, forgotten", 70.0, 70.4, 70.2, (70.0, 71.0, 69.0))
    assert line.verdict == "cannot tell here"
    assert Report({}, (line,), {}, {}).verdicts == {"probe": "cannot tell here"}
    assert Line("probe", "all images, forgotten", float("nan"), 1.0, 1.0, (1.0, 2.0)).verdict is None


def test_a_live_model_is_audited_with_its_adapters_by_its_ledger_and_left_alone(root, original):
    erasure = minigslora.forget(copy.deepcopy(original), root, GONE, **squares.QUICK)
    names = lora.adapter_names(erasure.model)
    live = minigslora.audit(erasure.model, root, original=original, only=["everyday"], **ASKED)
    assert live.asked["forgotten"] == GONE
    figures = live.table().loc[("everyday", "Acc_f")]
    assert figures["model"] == erasure.reports[-1].metrics["acc_f"]
    assert figures["original"] == erasure.reports[-1].metrics["acc_f_before"]
    assert lora.adapter_names(erasure.model) == names


def test_what_is_found_of_references_is_kept_for_the_next_audit(root, original, oracles, monkeypatch):
    asked = {"original": original, "oracles": oracles, "only": ["relearning"], **ASKED, "seed": 7}
    first = minigslora.audit(original, root, GONE, **asked)
    trained = []

    def noted(subject, start):
        trained.append(subject.name)
        return [0.0] * 3

    monkeypatch.setattr("minigslora.audit.relearning.relearnt", noted)
    second = minigslora.audit(original, root, GONE, **asked)
    assert set(trained) == {"model"}
    assert [line.oracles for line in second.lines if "area" in line.figure] == [
        line.oracles for line in first.lines if "area" in line.figure
    ]


def test_what_the_original_knows_of_classes_that_nobody_saw_is_kept_too(monkeypatch):
    model, before = tiny.face_model(), tiny.face_model()
    monkeypatch.setattr(run, "_original", lambda subject: subject)  # this one knows nobody
    asked = {"original": before, "only": ["prototype"], **ASKED, "seed": 8}
    first = minigslora.audit(model, tiny.faces(), [0, 3], **asked)
    asked_of, put_in = set(), unseen.Unseen._from

    def noted(subject, reading):
        asked_of.add(subject.twin.name)
        return put_in(subject, reading)

    monkeypatch.setattr(unseen.Unseen, "_from", noted)
    second = minigslora.audit(model, tiny.faces(), [0, 3], **asked)
    assert asked_of == {"model"}
    assert str(second.lines) == str(first.lines)  # NaN is not equal to itself


@pytest.mark.parametrize("head", ["cosface", "linear"])
def test_face_models_are_audited_with_rendered_strangers(head):
    data, model = tiny.faces(), tiny.face_model(head=head)
    found = minigslora.audit(model, data, [0, 3], **ASKED)
    assert not {"strangers", "enrolment"} - set(found.verdicts)
    assert any(line.figure == "Acc_r with margin" for line in found.lines) == (head == "cosface")


def test_one_class_alone_can_be_audited(root, original, oracles):
    found = minigslora.audit(original, root, ["dun"], original=original, **ASKED)
    assert found.verdicts["template"] == "no oracle"
    assert not any("nearest row" in line.figure or "among them" in line.figure for line in found.lines)


# --- several edited models -----------------------------------------------------------------------------


def test_klom_of_several_models_is_the_median_over_the_forgotten_classes_images(root, original, oracles):
    models = [trained(root, seed=seed) for seed in (5, 6)]
    images, labels = squares.inputs(root, NAMES, "test")
    chosen = torch.isin(labels, torch.tensor([NAMES.index(name) for name in GONE]))

    def margins_of(given):
        with torch.no_grad():
            logits = torch.stack([m(images[chosen]).double() for m in given])
        true = torch.nn.functional.one_hot(labels[chosen], len(NAMES)).bool().expand_as(logits)
        return logits[true].reshape(len(given), -1) - logits.masked_fill(true, -torch.inf).logsumexp(-1)

    (m, v), (m_o, v_o) = ((x.mean(0), x.var(0)) for x in map(margins_of, (models, oracles)))
    expected = 0.5 * ((v_o / v).log() + (v + (m - m_o) ** 2) / v_o - 1)
    found = audit_package.klom_of(models, root, GONE, oracles, device="cpu", watch=False)
    assert found == pytest.approx(float(expected.median()), rel=1e-3)
    assert found > audit_package.klom_of(
        [trained(root, GONE, seed) for seed in (7, 8)], root, GONE, oracles, device="cpu", watch=False
    )


def test_klom_of_too_few_models_or_of_copies_is_refused(root, original, oracles):
    def klom_refused(error, words, models, oracles):
        with pytest.raises(error, match=words):
            audit_package.klom_of(models, root, GONE, oracles, device="cpu", watch=False)

    klom_refused(ConfigError, "1 models; KLoM compares distributions", [original], oracles)
    klom_refused(ConfigError, "1 oracles", [original] * 2, oracles[:1])
    klom_refused(ModelError, "model 1 and model 2 have the same weights", [original] * 2, oracles)
    klom_refused(ConfigError, "not defined for a detector", [tiny.detector()] * 2, oracles)


# --- the page ----------------------------------------------------------------------------------------


def test_the_page_says_the_verdicts_and_what_they_do_not_prove(report, tmp_path):
    page = report.write(tmp_path / "audited")
    text = page.read_text(encoding="utf-8")
    for name, verdict in report.verdicts.items():
        assert f"<td>{name}</td><td><b>{verdict}</b></td>" in text
        assert escape(PLAIN[verdict]) in text
    assert LIMITS[0] in text
    for audit in AUDITS.values():
        assert f"A pass does not prove: {escape(audit.unproven)}" in text
    assert text.count('<img alt="Curves of ') == 4
    assert "The audits, audited" in text
    values = json.loads((tmp_path / "audited" / "audit.json").read_text(encoding="utf-8"))
    assert values["verdicts"] == report.verdicts
    assert len(values["figures"]) == len(report.lines)


def test_names_are_escaped_and_figures_that_were_not_measured_are_none(tmp_path):
    line = Line("everyday", "Acc_f", float("nan"), float("inf"), 0.0, ())
    asked = {"model": "<b>", "original": "none", "oracles": 0, "data": "$", "forgotten": ["<i>"], "seed": 0}
    found = Report(asked, (line,), {}, {"strangers": "it needs <images>"})
    text = found.write(tmp_path).read_text(encoding="utf-8")
    assert "<i>" not in text
    assert "&lt;i&gt;" in text
    assert "a pass says less" in text
    (values,) = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["figures"]
    assert (values["model"], values["original"]) == (None, "inf")


# --- what is refused ---------------------------------------------------------------------------------


def refused(error, words, *given, **asked):
    with pytest.raises(error, match=words):
        minigslora.audit(*given, **{**ASKED, **asked})


def test_what_cannot_be_audited_is_refused(root, original, strangers, tmp_path):
    refused(
        ConfigError,
        "unknown audit 'seance'; there are everyday, probe",
        original,
        root,
        GONE,
        only=["seance"],
    )
    refused(ConfigError, "images = 0", original, root, GONE, images=0)
    refused(DataError, "no ledger; name them", original, root)
    refused(DataError, "unknown class 'mauve'", original, root, ["mauve"])
    refused(
        DataError, "5 of 6 classes are forgotten; at least two must stay", original, root, list(NAMES[:5])
    )
    refused(DataError, "no detection data", tiny.detector(), root, GONE)
    refused(
        ModelError, "Linear is no classifier with timm's.*no Deformable DETR", nn.Linear(1, 1), root, GONE
    )
    refused(DataError, "no class folder with images", original, root, GONE, strangers=tmp_path / "none")
    refused(
        DataError, "shows 'amber'.*no model was trained on", original, root, GONE, strangers=root / "test"
    )


def test_a_class_without_an_image_is_refused(original, tmp_path):
    root = squares.pictures(tmp_path / "some", NAMES, {"train": 3, "test": 2})
    for file in (root / "test" / "blue").iterdir():
        file.unlink()
    (root / "test" / "blue").rmdir()
    refused(DataError, "no test image of 'blue'", original, root, GONE)


def test_models_that_are_no_references_are_refused(root, original, oracles):
    twice = [oracles[0], copy.deepcopy(oracles[0])]
    refused(ModelError, "oracle 1 and oracle 2 have the same weights", original, root, GONE, oracles=twice)
    refused(ModelError, "oracle 1 names 100.0 %.*trained on them", original, root, GONE, oracles=[original])
    half = trained(root, [*GONE, "amber", "cyan", "dun"], 4)
    refused(ModelError, "oracle 1 names only .* less than half", original, root, GONE, oracles=[half])
    refused(
        ModelError, "the original names 0.0 %.*nothing to forget", original, root, GONE, original=oracles[0]
    )
    other = squares.untrained(4)
    refused(ModelError, "head has 4 classes", original, root, GONE, original=other)


def test_a_reference_that_knows_less_of_the_others_is_warned_of(root, original):
    weak = trained(root, [*GONE, "amber"], 4)
    with pytest.warns(WeakOracle, match=r"oracle 1 names .* weakness, not innocence"):
        minigslora.audit(original, root, GONE, oracles=[weak], only=["everyday"], **ASKED)


# --- the command -------------------------------------------------------------------------------------

OWN = ["--model", "test_vit", "--image-size", str(squares.SIZE)]


def ended(arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def files(root, original, oracles, tmp_path_factory):
    """Weights as somebody else saved them, and an erased file that carries card and ledger."""
    folder = tmp_path_factory.mktemp("weights")
    for name, model in {"original": original, **{f"oracle{i}": o for i, o in enumerate(oracles)}}.items():
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    edited = copy.deepcopy(original)
    with torch.no_grad():
        classifier(edited).weight[[1, 4]] = 0
        classifier(edited).bias[[1, 4]] = -1e6
    save_file(edited.state_dict(), folder / "erased.safetensors")
    return folder


def command(files, root, out, *more):
    given = ["audit", files / "erased.safetensors", *OWN, "--data", root, "--device", "cpu", "--images", "4"]
    return [*given, "--out", out, *more]


def test_the_command_writes_a_page_and_refuses_the_folder_of_another_audit(files, root, tmp_path, capsys):
    others = [word for i in range(3) for word in ("--oracle", files / f"oracle{i}.safetensors")]
    others += ["--original", files / "original.safetensors", "--only", "everyday,template,prototype"]
    asked = command(files, root, tmp_path / "out", "--classes", ",".join(GONE), *others)
    assert ended(asked) == 0
    printed = capsys.readouterr().out
    assert "everyday    passes" in printed
    assert "A pass is no proof" in printed
    values = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert values["asked"]["model"] == "erased.safetensors"
    assert values["asked"]["original"] == "original.safetensors"
    assert len(values["asked"]["files"]["oracles"]) == 3
    assert "<title>Is it forgotten? erased.safetensors" in (tmp_path / "out" / "audit.html").read_text(
        "utf-8"
    )
    assert ended(asked) == 0  # the same audit again
    assert ended([*asked, "--seed", "1"]) == 2
    assert "holds another run (its seed differ)" in capsys.readouterr().err


def test_the_commands_errors_say_what_to_do(files, root, tmp_path, capsys):
    assert ended(command(files, root, tmp_path / "a")) == 2
    assert "no ledger; name them: classes=[…], or --classes a,b,c" in capsys.readouterr().err
    given = ["audit", files / "erased.safetensors", "--data", root, "--classes", "blue"]
    assert ended([*given, "--out", tmp_path / "b"]) == 2
    assert "does not say its architecture; name it (--model NAME)" in capsys.readouterr().err
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "audit.html").write_text("somebody else's", encoding="utf-8")
    assert ended(command(files, root, tmp_path / "kept", "--classes", "blue")) == 2
    assert "audit.html is there already and is kept" in capsys.readouterr().err
    missing = [*command(files, root, tmp_path / "d", "--classes", "blue"), "--original", tmp_path / "none"]
    assert ended(missing) == 2
    assert "none: No such file or directory; check the path" in capsys.readouterr().err


def test_forget_refuses_what_its_audit_cannot_use(files, root, tmp_path, capsys):
    given = ["forget", "--weights", files / "original.safetensors", *OWN, "--data", root]
    given += ["--classes", "blue", "--out", tmp_path / "run"]
    assert ended([*given, "--oracle", files / "oracle0.safetensors"]) == 2
    assert "give --audit, too" in capsys.readouterr().err
    assert ended([*given, "--audit", "--oracle", tmp_path / "none.safetensors"]) == 2
    assert "none.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_forget_audits_its_file_where_asked(files, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "Attack", lambda: QUICK)
    quick = ["--set", "epochs=2", "--set", "rank=2", "--ratio", "0.5", "--device", "cpu"]
    given = ["forget", "--weights", files / "original.safetensors", *OWN, "--data", root, *quick]
    more = ["--classes", ",".join(GONE), "--out", tmp_path / "run", "--audit"]
    more += [word for i in range(2) for word in ("--oracle", files / f"oracle{i}.safetensors")]
    assert ended([*given, *more]) in (0, 3)
    assert f"audit:        {tmp_path / 'run' / 'audit.html'}" in capsys.readouterr().out
    values = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    assert values["asked"]["forgotten"] == GONE
    assert values["asked"]["oracles"] == 2
