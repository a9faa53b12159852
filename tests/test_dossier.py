"""The dossier of an erased file, and verify: what binds them, what is measured again, every refusal."""

import copy
import json
import math
import re
import shutil

import pytest
import squares
import tiny
import torch
from markupsafe import escape
from safetensors.torch import save_file

import minigslora
from minigslora import dossier, dossier_command, forget, ledger
from minigslora.audit.report import LIMITS, PLAIN, Line, Report
from minigslora.audit.table import AUDITS
from minigslora.cli import FAULT, MISMATCH, WITHOUT_EFFECT, main
from minigslora.datasets.rendered import mini_scenes
from minigslora.errors import DataError, ModelError
from minigslora.files import load_tensors, save_tensors, sha256, sha256_of
from minigslora.fingerprint import weights_hash
from minigslora.models import checkpoint
from minigslora.reproduction import dossier_page

NAMES = ("blue", "gold", "green", "red")
RUN = ["--set", "epochs=5", "--set", "lr=2e-2", "--set", "rank=4", "--ratio", "0.5", "--device", "cpu"]
OWN = ["--model", "test_vit", "--image-size", str(squares.SIZE)]
CHECKED = ("dossier", "file", "tensors", "ledger")


def ended(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("photos"), NAMES, {"train": 10, "test": 6})


@pytest.fixture(scope="module")
def weights(photos, tmp_path_factory):
    """Somebody's model as a state dict, and two that never saw red."""
    folder = tmp_path_factory.mktemp("weights")
    save_file(squares.trained(photos, NAMES).state_dict(), folder / "mine.safetensors")
    for seed in (1, 2):
        model = squares.trained(photos, NAMES[:3])
        head, whole = model.head, squares.untrained(4).head
        torch.manual_seed(seed)
        with torch.no_grad():
            whole.weight[:3], whole.bias[:3] = head.weight, head.bias
            whole.weight[3] = 0.01 * torch.randn_like(whole.weight[3])
            whole.bias[3] = -9
        model.head = whole
        save_file(model.state_dict(), folder / f"oracle{seed}.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(photos, weights, tmp_path_factory):
    """The folder of ``minigslora forget``, two requests."""
    out = tmp_path_factory.mktemp("run") / "out"
    own = [*OWN, "--weights", weights / "mine.safetensors", "--data", photos]
    assert ended("forget", *own, "--classes", "red", "--classes", "gold", "--out", out, *RUN) == 0
    return out


@pytest.fixture(scope="module")
def erased(run):
    return run / "erased.safetensors"


@pytest.fixture(scope="module")
def others(weights):
    return [
        *("--original", weights / "mine.safetensors"),
        *(word for i in (1, 2) for word in ("--oracle", weights / f"oracle{i}.safetensors")),
    ]


@pytest.fixture(scope="module")
def audited(erased, photos, others, tmp_path_factory):
    """The audit.json of four audits that ask about the class of the first request."""
    out = tmp_path_factory.mktemp("audited") / "out"
    asked = ["--classes", "red", "--only", "everyday,prototype,membership,similarity", "--images", "4"]
    own = [*OWN, "--data", photos, *others]
    assert ended("audit", erased, *own, *asked, "--device", "cpu", "--out", out) == 0
    return out / "audit.json"


@pytest.fixture(scope="module")
def made(erased, run, audited, photos, weights, tmp_path_factory):
    """A dossier with all its parts, by the command; its JSON."""
    page = tmp_path_factory.mktemp("dossier") / "dossier.html"
    parts = ["--run", run, "--audit", audited, "--data", photos, "--original", weights / "mine.safetensors"]
    assert ended("dossier", erased, *parts, "--device", "cpu", "--out", page) == 0
    return page.with_suffix(".json")


@pytest.fixture
def bare(erased):
    """A dossier of hashes and ledger only, as values."""
    return dossier.make(erased)


def written(values, path):
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def failed(checks):
    return [check.what for check in checks if check.passed is False]


# --- what it says -------------------------------------------------------------------------------------


def test_all_of_it_comes_from_the_file_and_the_reports(made, erased, run, weights):
    values = json.loads(made.read_text(encoding="utf-8"))
    tensors, notes = load_tensors(erased)
    assert values["file"]["sha256"] == sha256(erased)
    assert values["file"]["bytes"] == erased.stat().st_size
    assert values["file"]["tensors sha256"] == sha256_of(tensors)
    assert values["file"]["numbers"] == sum(t.numel() for t in tensors.values())
    assert values["ledger"] == notes["ledger"]
    assert [entry["classes"] for entry in values["ledger"]] == [["red"], ["gold"]]
    assert values["original"]["weights sha256"] == notes["ledger"][0]["weights"]
    assert values["original"]["file"]["sha256"] == sha256(weights / "mine.safetensors")
    for number, request in enumerate(values["run"]["requests"], 1):
        kept = json.loads((run / "tasks" / f"task{number}.json").read_text(encoding="utf-8"))
        assert request["metrics"] == kept["metrics"]
    assert [r["classes"] for r in values["run"]["requests"]] == [["red"], ["gold"]]
    assert values["run"]["asked"]["test split"] == "the data's own"


def test_before_and_after_are_what_a_loop_of_ones_own_measures(made, erased, photos, weights):
    measured = json.loads(made.read_text(encoding="utf-8"))["measured"]
    before = squares.accuracies(squares.trained(photos, NAMES), photos, NAMES)
    after = squares.accuracies(checkpoint.load(erased)[0], photos, NAMES)
    for key, classes in (("forgotten", ("red", "gold")), ("kept", ("blue", "green"))):
        found = measured["accuracy"][key]
        assert found["images"] == 6 * len(classes)
        for when, by_class in (("before", before), ("after", after)):
            assert found[when] == pytest.approx(sum(by_class[name] for name in classes) / len(classes))


def test_the_page_says_what_an_auditor_asks_for(made, erased):
    text, values = made.with_suffix(".html").read_text("utf-8"), json.loads(made.read_text("utf-8"))
    report = Report.from_values(values["audit"], "it")
    assert {"everyday", "prototype", "membership"} == set(report.verdicts)
    said = [
        sha256(erased),
        values["file"]["tensors sha256"],
        values["ledger"][0]["weights"],
        values["digest"],
    ]
    said += [*LIMITS, *dossier.NOT, *(AUDITS[name].unproven for name in report.verdicts)]
    said += [PLAIN[verdict] for verdict in report.verdicts.values()]
    assert all(str(escape(words)) in text for words in said)
    assert "minigslora verify erased.safetensors --dossier dossier.json" in text
    assert "did not ask about exactly the classes of the ledger" in text  # gold was not asked about
    assert "(not asked about exactly the classes of the ledger)" in text
    assert text.count("<img ") == 3
    assert "http" not in text.replace("http-equiv", "")
    assert "src=" not in text.replace('src="data:', "")


def test_what_nobody_measured_is_said_so(bare, tmp_path):
    page = dossier_page.write(bare, tmp_path / "bare.html").read_text(encoding="utf-8")
    assert page.lower().count("not measured") >= 5
    assert "Nothing here says what the model still knows" in page
    assert "Its file was not given" in page
    assert bare["run"] is bare["measured"] is bare["audit"] is None


def test_fields_of_the_ledger_are_shown_whatever_they_are_and_escaped(bare, tmp_path):
    asked = {"request": "task1", "classes": ["<b>", "c"], "rows": [0, 1]}
    bare["ledger"] = [asked, {"request": "enrol1", "classes": ["<b>"], "rows": [0], "event": "enrol"}]
    text = dossier_page.write(bare, tmp_path / "other.html").read_text(encoding="utf-8")
    assert "<b>," not in text
    assert "&lt;b&gt;, c" in text
    assert re.search(r"event</td><td[^>]*>enrol", text)
    assert "no date is given" in text


def test_the_same_file_and_reports_make_the_same_dossier(erased, run, audited):
    assert dossier.make(erased, run=run, audit=audited) == dossier.make(erased, run=run, audit=audited)


def test_without_a_report_the_file_is_audited_now(erased, photos, tmp_path, capsys):
    page = tmp_path / "now.html"
    asked = ["--data", photos, "--only", "prototype", "--images", "4", "--device", "cpu"]
    assert ended("dossier", erased, *asked, "--out", page) == 0
    assert f"dossier: {page}" in capsys.readouterr().out
    values = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert values["audit"]["verdicts"] == {"prototype": "no oracle"}
    assert values["audit"]["asked"]["forgotten"] == ["red", "gold"]
    assert values["measured"]["accuracy"]["forgotten"]["before"] is None
    text = page.read_text(encoding="utf-8")
    assert "so that there is no verdict" in text
    assert "did not ask about exactly" not in text
    assert text.count("it was not asked for") == len(AUDITS) - 1
    assert ended("verify", erased, "--dossier", page.with_suffix(".json"), "--data", photos) == 0


def test_a_detectors_dossier_counts_objects(tmp_path):
    scenes, model = mini_scenes.load(counts=tiny.SCENES), tiny.detector()
    ledger.put(model, [ledger.Entry("task1", (scenes.classes[1],), (1,))])
    card = checkpoint.Card({"kind": "deformable-detr", **vars(tiny.DETECTOR)}, scenes.classes)
    checkpoint.save(tmp_path / "detector.safetensors", model, card)
    measured = dossier_command.measure(tmp_path / "detector.safetensors", scenes, copy.deepcopy(model), "cpu")
    of = measured["accuracy"]
    assert of["forgotten"]["images"] == len(scenes.test.of_classes([1]))
    assert of["kept"]["before"] == of["kept"]["after"]
    assert 0 <= of["forgotten"]["after"] <= 100
    assert dossier.make(tmp_path / "detector.safetensors", measured=measured)["measured"] == measured


# --- verify: what passes ------------------------------------------------------------------------------


def test_hashes_and_ledger_pass_a_line_each(made, erased, tmp_path, capsys):
    moved = shutil.copy(erased, tmp_path / "another name.safetensors")
    assert ended("verify", moved, "--dossier", made) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["pass", what] for what in CHECKED]
    assert lines[-1] == "4 of 4 checks passed"


def test_all_that_was_measured_is_measured_again(made, erased, photos, others, capsys):
    assert ended("verify", erased, "--dossier", made, "--data", photos, *others, "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert len(re.findall("^pass", out, re.MULTILINE)) == 15
    for name in ("everyday", "prototype", "membership", "similarity"):
        assert re.search(rf"pass +audit {name} +\d+ figures differ by 0 at most \(tolerance 1\)$", out, re.M)
    assert "the weights that the ledger's first request began with" in out
    assert "15 of 15 checks passed" in out


def test_one_audit_can_be_run_again_and_without_references(made, erased, photos, capsys):
    again = ["verify", erased, "--dossier", made, "--data", photos, "--device", "cpu", "--audit"]
    assert ended(*again, "prototype") == 0
    out = capsys.readouterr().out
    assert "audit prototype" in out
    assert "audit everyday" not in out
    assert "forgotten, after" not in out
    assert ended(*again, "everyday,membership") == 0
    out = capsys.readouterr().out
    assert "not measured again without the references: ToW" in out
    assert "RMIA" in out
    assert ended(*again, "similarity") == MISMATCH  # asked for by name, and not made
    assert re.search(
        "^FAIL +audit similarity +it needs the original or oracles", capsys.readouterr().out, re.M
    )


def test_the_exit_codes_are_four():
    assert len({0, 1, 2, WITHOUT_EFFECT, MISMATCH, FAULT}) == 6
    assert MISMATCH == 4


# --- verify: what fails -------------------------------------------------------------------------------


def test_a_file_changed_by_one_byte_anywhere_fails(bare, erased, tmp_path):
    whole, path = erased.read_bytes(), tmp_path / "changed.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(8), *range(8, header, header // 40), *range(header, len(whole), len(whole) // 20)]
    for place in [*places, len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        checks = dossier.verify(path, bare)
        assert "file" in failed(checks)
        assert ("tensors" in failed(checks)) or place < header
    for shorter in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(shorter)
        assert "file" in failed(dossier.verify(path, bare))


def test_the_command_says_what_does_not_match_and_ends_with_4(made, erased, photos, tmp_path, capsys):
    whole, path = bytearray(erased.read_bytes()), tmp_path / "changed.safetensors"
    whole[-1] ^= 128
    path.write_bytes(whole)
    assert ended("verify", path, "--dossier", made, "--data", photos) == MISMATCH
    out = capsys.readouterr().out
    assert re.search(r"^FAIL +file +sha256 is \w{16}…, the dossier says \w{16}…$", out, re.MULTILINE)
    assert re.search(r"^FAIL +tensors", out, re.MULTILINE)
    assert re.search(r"^pass +ledger +2 entries", out, re.MULTILINE)
    assert "not made  measured again" in out
    assert "2 of 4 checks passed" in out


def test_a_ledger_that_does_not_match_fails_where_the_weights_are_the_same(bare, erased, tmp_path):
    tensors, notes = load_tensors(erased)
    for change in ({"classes": ["blue"], "rows": [0]}, {"date": "2001-01-01"}, {"weights": "0" * 64}):
        other = copy.deepcopy(notes["ledger"])
        other[0].update(change)
        save_tensors(tmp_path / "other.safetensors", tensors, {**notes, "ledger": other})
        assert failed(dossier.verify(tmp_path / "other.safetensors", bare)) == ["file", "ledger"]
    bare["ledger"] = bare["ledger"][:1]
    assert failed(dossier.verify(erased, bare)) == ["dossier", "ledger"]
    bare["digest"] = dossier.digest(bare)  # whoever edits can take another digest, and is found all the same
    assert failed(dossier.verify(erased, bare)) == ["ledger"]


def test_the_dossier_of_another_file_fails(made, weights, photos, tmp_path, capsys):
    model = squares.trained(photos, NAMES)
    other = forget(model, photos, ["green"], **{**squares.QUICK, "epochs": 2}).finalize(
        tmp_path / "other.safetensors"
    )
    assert ended("verify", other, "--dossier", made) == MISMATCH
    assert failed(dossier.verify(other, dossier.read(made))) == ["file", "tensors", "ledger"]


@pytest.mark.parametrize(
    "key", ["made", "file", "original", "ledger", "run", "measured", "audit", "not", "digest"]
)
def test_a_dossier_that_was_edited_fails(made, erased, key, tmp_path):
    values = json.loads(made.read_text(encoding="utf-8"))
    edits = {
        "made": lambda v: v.update(date="2001-01-01"),
        "file": lambda v: v.update(name="x"),
        "original": lambda v: v.update(file=None),
        "ledger": lambda v: v[0].update(method="magic"),
        "run": lambda v: v["requests"][0]["metrics"].update(acc_f=0.5),
        "measured": lambda v: v["accuracy"]["kept"].update(after=99.9),
        "audit": lambda v: v["figures"][0].update(model=0.25),
        "not": lambda v: v.pop(),
    }
    if key == "digest":
        values["digest"] = "0" * 64
    else:
        edits[key](values[key])
    assert "dossier" in failed(
        dossier.verify(erased, dossier.read(written(values, tmp_path / "edited.json")))
    )


def test_what_is_no_dossier_or_a_damaged_one_is_refused(made, erased, tmp_path, capsys):
    whole = made.read_bytes()
    values = json.loads(whole)
    path = tmp_path / "it.json"
    for content in (
        b"",
        whole[:-9],
        b"[]",
        b"{}",
        b"\xff\xfe",
        whole.replace(b"minigslora dossier", b"other", 1),
    ):
        path.write_bytes(content)
        assert ended("verify", erased, "--dossier", path) == 2
        assert "cannot be read as a dossier" in capsys.readouterr().err
    for version in (2, "1", None):
        written({**values, "version": version}, path)
        assert ended("verify", erased, "--dossier", path) == 2
        assert (
            f"is a dossier of version {version!r}; this minigslora reads version 1" in capsys.readouterr().err
        )
    for key in ("original", "ledger", "run", "measured", "audit", "digest", "file"):
        written({k: v for k, v in values.items() if k != key}, path)
        assert ended("verify", erased, "--dossier", path) == 2
        assert "is damaged: it" in capsys.readouterr().err
    assert ended("verify", erased, "--dossier", tmp_path / "none.json") == 2
    assert ended("verify", tmp_path / "none.safetensors", "--dossier", made) == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_claim_about_figures_is_found_out_by_measuring_again(made, erased, photos, tmp_path, capsys):
    values = json.loads(made.read_text(encoding="utf-8"))
    values["measured"]["accuracy"]["forgotten"]["after"] += 50
    for figure in values["audit"]["figures"]:
        if (figure["audit"], figure["figure"]) == ("prototype", "Acc_r, 1 image"):
            figure["model"] += 1.5
    values["digest"] = dossier.digest(values)
    again = ["verify", erased, "--dossier", written(values, tmp_path / "claim.json"), "--data", photos]
    assert ended(*again) == MISMATCH
    out = capsys.readouterr().out
    assert re.search(r"^FAIL +forgotten, after", out, re.MULTILINE)
    assert re.search(r"^FAIL +audit prototype .*differ by 1\.5 at most", out, re.MULTILINE)
    assert re.search(r"^pass +audit everyday", out, re.MULTILINE)
    assert ended(*again, "--tolerance", "2", "--audit", "prototype") == 0


def test_other_images_and_another_original_fail(made, erased, weights, tmp_path, capsys):
    other = squares.pictures(tmp_path / "other", NAMES, {"train": 10, "test": 6}, seed=9)
    asked = ["verify", erased, "--dossier", made, "--device", "cpu"]
    assert ended(*asked, "--data", other) == MISMATCH
    out = capsys.readouterr().out
    assert re.search(r"^FAIL +images +they are not the dossier's", out, re.MULTILINE)
    assert re.search(r"^FAIL +audits' images", out, re.MULTILINE)
    assert ended(*asked, "--original", weights / "oracle1.safetensors") == MISMATCH
    assert "is not the model that erased.safetensors was made from" in capsys.readouterr().out
    assert ended(*asked, "--original", weights / "oracle1.safetensors", "--data", other) == MISMATCH
    assert "images" not in capsys.readouterr().out


def test_what_verify_cannot_do_is_refused(made, erased, photos, weights, bare, tmp_path, capsys):
    def says(words, *more, record=made):
        assert ended("verify", erased, "--dossier", record, *more) == 2
        assert words in capsys.readouterr().err

    says("give them: --data FOLDER", "--audit", "probe")
    says(
        "has no audit 'probe'; it has everyday, prototype, membership, similarity",
        "--data",
        photos,
        "--audit",
        "probe",
    )
    one = ["--data", photos, "--oracle", weights / "oracle1.safetensors"]
    says("the oracles of the dossier's audits are others, or more", *one)
    nothing = written(bare, tmp_path / "bare.json")
    says("holds no figures that could be measured again", "--data", photos, record=nothing)
    says("has no audit 'probe'; it has none", "--data", photos, "--audit", "probe", record=nothing)


# --- figures side by side -----------------------------------------------------------------------------

FILES = {"model": "m", "original": "o", "oracles": ["a", "b"]}


def report(*lines, files=FILES, skipped=()):
    return Report({"files": files}, lines, {}, dict(skipped))


def line(figure="Acc_f", value=0.0, original=90.0, oracles=(1.0, 2.0)):
    return Line("everyday", figure, value, original, 0.0, oracles)


def compared(said, again, tolerance=1.0):
    (check,) = dossier.compare(said, again, ["everyday"], tolerance)
    return check


def test_figures_within_the_tolerance_pass_and_others_fail():
    assert compared(report(line()), report(line(value=1.0))).passed
    assert not compared(report(line()), report(line(value=1.01))).passed
    assert not compared(report(line()), report(line(oracles=(1.0, 4.0)))).passed
    assert not compared(report(line("Acc_r", original=90.0)), report(line("Acc_r", original=80.0))).passed
    assert compared(report(line(value=math.inf)), report(line(value=math.inf))).passed
    assert not compared(report(line("Acc_r", value=math.inf)), report(line("Acc_r", value=3.0))).passed


def test_another_verdict_fails_within_the_tolerance():
    far = {"oracles": (0.0, 0.1), "original": 90.0}
    said, again = line(value=1.4, **far), line(value=0.5, **far)
    assert (said.verdict, again.verdict) == ("remembers", "passes")
    check = compared(report(said), report(again))
    assert check.passed is False
    assert "another verdict: Acc_f" in check.found


def test_what_was_not_measured_again_fails_only_beside_the_same_references():
    tow = line("ToW", 80.0)
    assert compared(report(line(), tow), report(line())).passed is False
    fewer = report(line(oracles=()), files={**FILES, "oracles": []})
    check = compared(report(line(), tow), fewer)
    assert check.passed
    assert "not measured again without the references: ToW" in check.found
    none = compared(
        report(tow), report(files={**FILES, "oracles": []}, skipped={"everyday": "it needs oracles"}.items())
    )
    assert none.passed is None
    assert none.found == "it needs oracles"
    assert str(none).startswith("not made  audit everyday")


# --- making one: what is refused ----------------------------------------------------------------------


def test_an_audit_is_bound_to_the_file_that_it_names(erased, audited, tmp_path):
    values = json.loads(audited.read_text(encoding="utf-8"))

    def refused(words, **asked):
        changed = {**values, "asked": {**values["asked"], **asked}}
        with pytest.raises(DataError, match=words):
            dossier.make(erased, audit=written(changed, tmp_path / "audit.json"))

    refused(r"is of another file, erased\.safetensors of sha256 000", files={"model": "0" * 64})
    for files in (None, {}, {"model": None}, "x"):
        refused("does not say by hash which file it is of; make it anew", files=files)
    del values["asked"]["seed"]
    refused("does not say 'seed', so that nobody can run it again")


def test_an_audit_that_says_more_than_its_figures_is_refused(erased, audited, tmp_path):
    values = json.loads(audited.read_text(encoding="utf-8"))

    def refused(words, **changes):
        with pytest.raises(DataError, match=words):
            dossier.make(erased, audit=written({**values, **changes}, tmp_path / "audit.json"))

    refused("its figures say .*it says", verdicts=dict.fromkeys(values["verdicts"], "cannot tell here"))
    refused("it names the audit 'seance'", figures=[{**values["figures"][0], "audit": "seance"}])
    refused("is damaged, or no report", figures=[1])
    refused("is damaged, or no report", asked=3)
    refused("lacks 'model'", figures=[{"audit": "everyday", "figure": "Acc_f", "never seen": [None, None]}])
    for content in (b"", b"\xff", b"{"):
        (tmp_path / "audit.json").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as an audit\.json"):
            dossier.make(erased, audit=tmp_path / "audit.json")


def test_audits_in_python_say_of_which_file_they_are(erased, photos):
    asked = {"only": ["prototype"], "images": 4, "device": "cpu", "watch": False}
    found = minigslora.audit(erased, photos, **asked)
    assert found.asked["files"] == {"model": sha256(erased), "original": None, "oracles": []}
    assert dossier.make(erased, audit=found)["audit"]["asked"]["forgotten"] == ["red", "gold"]
    live = minigslora.audit(checkpoint.load(erased)[0], photos, **asked)
    with pytest.raises(DataError, match="this report of audits does not say by hash which file"):
        dossier.make(erased, audit=live)


def test_accuracies_of_another_file_are_refused(bare, erased):
    for measured in ({"file": "0" * 64}, {}):
        with pytest.raises(DataError, match=r"these accuracies are of a file of sha256 (0{12}|None)"):
            dossier.make(erased, measured=measured)


def test_a_report_reads_as_it_was_written(audited):
    values = json.loads(audited.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(Report.from_values(values, "it").values())) == values
    values["figures"][0]["original"] = "inf"
    assert Report.from_values(values, "it").lines[0].original == math.inf


def test_a_run_is_bound_to_the_file_that_it_wrote(erased, run, tmp_path):
    def refused(words, folder):
        with pytest.raises(DataError, match=words):
            dossier.make(erased, run=folder)

    refused("is no folder of a finished 'minigslora forget'", tmp_path)
    other = shutil.copytree(run, tmp_path / "other")
    (other / "finalized.json").write_text(json.dumps({"/x.safetensors": "0" * 64}))
    refused(r"did not write this file, of sha256 .*: it wrote /x\.safetensors", other)
    (other / "finalized.json").write_text(json.dumps(["/x.safetensors"]))  # before hashes were noted
    refused("it does not say which; give the same command again", other)
    (other / "tasks" / "task1.json").write_text("{")
    refused("is no folder of a finished", other)
    shutil.rmtree(other / "tasks")
    refused("no finished request", other)


def test_an_original_that_the_ledger_does_not_name_is_refused(erased, weights, tmp_path, capsys):
    asked = ["dossier", erased, "--original", weights / "oracle1.safetensors", "--out", tmp_path / "d.html"]
    assert ended(*asked) == 2
    said = load_tensors(erased)[1]["ledger"][0]["weights"][:12]
    assert f"the ledger's first request began with {said}…" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_ledger_is_refused(weights, tmp_path):
    with pytest.raises(ModelError, match="has no ledger: it does not say that anything was forgotten"):
        dossier.make(weights / "mine.safetensors")
    with pytest.raises(ModelError):
        dossier.make(tmp_path / "none.safetensors")


def test_the_commands_errors_say_what_to_do(erased, audited, photos, weights, tmp_path, capsys):
    def says(words, *more, out="d.html"):
        assert ended("dossier", erased, *more, "--out", tmp_path / out) == 2
        assert words in capsys.readouterr().err

    says("should end in .html", out="d.pdf")
    says("images are needed: --data FOLDER", "--only", "probe")
    oracle = ["--oracle", weights / "oracle1.safetensors"]
    says("audits are taken from --audit", "--audit", audited, "--data", photos, *oracle)
    (tmp_path / "d.json").write_text("thesis")
    says("d.json is there already and is kept")
    assert (tmp_path / "d.json").read_text() == "thesis"


def test_the_run_notes_the_hash_of_what_it_wrote(run, erased):
    known = json.loads((run / "finalized.json").read_text(encoding="utf-8"))
    assert known == {str(erased.resolve()): sha256(erased)}


def test_the_hash_of_the_model_before_is_its_weights(weights, erased):
    model, file = dossier_command.original_of(weights / "mine.safetensors", erased)
    assert weights_hash(model) == load_tensors(erased)[1]["ledger"][0]["weights"]
    assert file == {"name": "mine.safetensors", "sha256": sha256(weights / "mine.safetensors")}
