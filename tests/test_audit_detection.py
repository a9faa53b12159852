"""Audits of a detector: matched queries stand for images, two audits are defined, the others say why not."""

import copy
import json
from dataclasses import replace

import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy

import minigslora
from minigslora import lora
from minigslora.audit import run
from minigslora.audit.relearning import Attack
from minigslora.audit.subject import Case, labels_of
from minigslora.audit.table import AUDITS
from minigslora.cli import main
from minigslora.datasets.rendered import mini_scenes
from minigslora.erasure import finalize
from minigslora.errors import ConfigError, DataError, ModelError
from minigslora.models import checkpoint
from minigslora.prototypes import NEVER

GONE, ROWS = ["fish", "star"], (6, 13)
ASKED = {"images": 4, "device": "cpu", "watch": False}
OTHERS = [name for name, audit in AUDITS.items() if "detection" not in audit.kinds]


@pytest.fixture(scope="module")
def scenes():
    return mini_scenes.load(counts=tiny.SCENES)


def subject(scenes, model=None, **changes):
    case = Case(scenes, ROWS, Attack(), **{"images": 4, **changes})
    return run.subject_of("model", model or tiny.detector(), case, "cpu")


@pytest.fixture(scope="module")
def original(scenes):
    """A tiny detector whose classifier is fitted to the objects of the test images, for it to know some."""
    model = tiny.detector()
    head = model.class_embed[-1]
    for _ in range(2):  # the pairs change with the classifier
        seen = subject(scenes, model).test
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            cross_entropy(head(seen.features), seen.labels).backward()
            optimizer.step()
    return model


def without(model, seed):
    """Return a model that never names the forgotten, and differs from others of its kind."""
    oracle = copy.deepcopy(model)
    head = oracle.class_embed[-1]
    with torch.no_grad():
        head.weight.add_(0.01 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
        head.weight[list(ROWS)] = 0
        head.bias[list(ROWS)] = NEVER
    return oracle


@pytest.fixture(scope="module")
def report(scenes, original):
    oracles = [without(original, seed) for seed in (1, 2, 3)]
    return minigslora.audit(original, scenes, GONE, original=original, oracles=oracles, **ASKED)


def by_hand(problem, split):
    """Return (embedding, logits, label) of each object that is no crowd, image by image, as matched."""
    found = []
    for i, own in enumerate(split.objects):
        target = own.targets()
        with torch.no_grad():
            said = problem.outputs(problem.normalise(split.images[i : i + 1]), problem.model)
        asked = {"logits": said.logits, "pred_boxes": said.boxes}
        ((queries, places),) = problem.criterion.matcher(asked, [target])
        pairs = sorted(zip(places.tolist(), queries.tolist(), strict=True))
        found += [(said.embedding[0, q], said.logits[0, q], int(target["class_labels"][o])) for o, q in pairs]
    return found


# --- what is read ------------------------------------------------------------------------------------


def test_each_object_is_read_at_the_query_that_the_matcher_pairs_it_with(scenes, original):
    crowded = replace(scenes.test.objects[0], crowd=torch.ones(len(scenes.test.objects[0]), dtype=torch.bool))
    data = replace(scenes, test=replace(scenes.test, objects=(crowded, *scenes.test.objects[1:])))
    it = subject(data, original)
    found = by_hand(it.problem, data.test)
    embeddings, logits, labels = zip(*found, strict=True)
    assert it.test.labels.tolist() == list(labels) == labels_of(data.test).tolist()
    torch.testing.assert_close(it.test.features, torch.stack(embeddings), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(it.test.logits, torch.stack(logits), atol=1e-4, rtol=1e-4)
    own = [(z, y) for _, z, y in found if y in ROWS]
    hits = [int(z.argmax()) == y for z, y in own]
    assert it.accuracy(it.model, ROWS) == pytest.approx(100 * sum(hits) / len(hits))
    assert it.test_gone.tolist() == [y in ROWS for y in labels]


def test_the_attacker_has_so_many_objects_of_each_class(scenes):
    it = subject(scenes, images=2)
    everything = by_hand(it.problem, scenes.train)
    assert it.train.labels.bincount(minlength=15).tolist() == [
        min(2, sum(y == c for *_, y in everything)) for c in range(15)
    ]
    expected = torch.stack([everything[i][0] for i in sorted(it.case.at_hand.tolist())])
    torch.testing.assert_close(it.train.features, expected, atol=1e-4, rtol=1e-4)


def test_another_classifier_changes_the_average_precision_and_not_the_model(scenes, original):
    best = subject(scenes, original).problem.detect("test")  # what is annotated is what it finds
    truth = [
        replace(o, boxes=b.boxes[:2], labels=b.labels[:2], crowd=torch.zeros(2, dtype=torch.bool))
        for o, b in zip(scenes.test.objects, best, strict=True)
    ]
    data = replace(scenes, test=replace(scenes.test, objects=tuple(truth)))
    gone = int(labels_of(data.test).mode().values)
    it = run.subject_of("model", original, Case(data, (gone,), Attack(), images=4), "cpu")
    before, head = it.average_precisions(), copy.deepcopy(it.head)
    assert before["f"] == pytest.approx(float(it.problem.precisions("test")["ap50"][gone]))
    with torch.no_grad():
        head.weight[gone], head.bias[gone] = 0.0, NEVER
    assert it.average_precisions(head)["f"] == 0.0 < before["f"]
    assert it.average_precisions() == before


# --- the report --------------------------------------------------------------------------------------


def test_a_detector_is_probed_and_its_rows_are_revived(report, original):
    assert set(report.verdicts) == {"probe", "prototype"}
    assert list(report.skipped) == OTHERS
    assert set(report.skipped.values()) == {run.ONE_LABEL}
    figures = report.table("prototype").droplevel("audit")
    names = set(figures.index)
    assert {f"AP50_{k}, {w}" for k in "fr" for w in ("as in the file", "5 images")} <= names
    assert figures.loc["Acc_f, as in the file", "original"] > 100 / 15
    assert figures.loc["Acc_f, as in the file", "head-only"] == 0
    assert figures.loc["AP50_f, as in the file", "head-only"] == 0
    assert "no average precision" in report.asked["an image is"]


def test_the_page_of_a_detector(report, tmp_path):
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert run.ONE_LABEL.replace("'", "&#39;") in text
    assert "one annotated object" in text


def test_without_oracles_there_is_no_verdict_on_a_detector(scenes, original):
    alone = minigslora.audit(original, scenes, GONE, only=["prototype"], **ASKED)
    assert alone.verdicts == {"prototype": "no oracle"}
    assert "no oracle" in alone.summary()
    assert not alone.skipped


def test_a_live_detector_is_audited_with_its_adapters_and_left_alone(scenes, original):
    model = copy.deepcopy(original)
    lora.inject(model, "ffn")
    tiny.attach_drawn(model, "task1")
    asked = {"only": ["probe"], **ASKED}
    live, folded = (minigslora.audit(m, scenes, GONE, **asked) for m in (model, lora.fold(model)))
    assert [line.value for line in live.lines] == [line.value for line in folded.lines]
    assert lora.adapter_names(model) == ["task1"]


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
def test_an_audit_that_is_not_defined_for_a_detector_is_refused_by_name(scenes, original, name):
    with pytest.raises(
        ConfigError, match=f"'{name}' is not defined.*one label an image.*probe and prototype"
    ):
        minigslora.audit(original, scenes, GONE, only=["probe", name], **ASKED)


def test_data_and_models_of_two_kinds_are_refused(scenes, original):
    with pytest.raises(DataError, match="is a detector, but mini-faces holds images with one label each"):
        minigslora.audit(original, tiny.faces(), GONE, **ASKED)
    with pytest.raises(DataError, match=r"boxed objects, but .* is no detector"):
        minigslora.audit(tiny.face_model(), scenes, GONE, **ASKED)
    with pytest.raises(ModelError, match="is no detector that is known here"):
        minigslora.audit(original, scenes, GONE, original=tiny.face_model(), **ASKED)
    with pytest.raises(DataError, match="no detection data 'holidays'"):
        minigslora.audit(original, "holidays", GONE, **ASKED)
    with pytest.raises(ModelError, match=r"oracle 1 names .*trained on them"):
        minigslora.audit(without(original, 1), scenes, GONE, oracles=[original], **ASKED)


# --- the command -------------------------------------------------------------------------------------


def ended(arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def files(scenes, original, tmp_path_factory):
    """The detector as a checkpoint of ours, and a finalised file of an edit."""
    folder = tmp_path_factory.mktemp("detectors")
    architecture = {"kind": "deformable-detr", **vars(tiny.DETECTOR)}
    card = checkpoint.Card(architecture, scenes.classes, image_size=96)
    checkpoint.save(folder / "original.safetensors", original, card)
    edited = without(original, 4)
    checkpoint.set_card(edited, card)
    finalize(edited, folder / "erased.safetensors")
    return folder


def test_the_command_audits_a_finalised_detector(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mini_scenes.load, "__defaults__", ("main", tiny.SCENES, False))
    given = ["audit", files / "erased.safetensors", "--data", "mini-scenes", "--classes", ",".join(GONE)]
    given += ["--device", "cpu", "--images", "4", "--out", tmp_path / "out"]
    assert ended([*given, "--original", files / "original.safetensors", "--only", "prototype"]) == 0
    assert "no oracle" in capsys.readouterr().out
    values = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert values["asked"]["original"] == "original.safetensors"
    given[-1] = tmp_path / "other"
    assert ended([*given, "--only", "enrolment"]) == 2
    assert "'enrolment' is not defined for a detector" in capsys.readouterr().err
    assert ended([*given, "--image-size", "64"]) == 2
    assert "--image-size goes with --model NAME; erased.safetensors brings its own" in capsys.readouterr().err
    names = tmp_path / "names.txt"
    names.write_text("\n".join(mini_scenes.SHAPES), encoding="utf-8")
    assert ended([*given, "--class-names", names]) == 2
    assert "--class-names is for classifiers" in capsys.readouterr().err
