"""The front door: forgetting on anyone's own model and data."""

import contextlib
import copy
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import minigslora
from minigslora import lora
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.erasure import Erasure, as_requests, forget, knows_moved
from minigslora.errors import ConfigError, DataError, MiniGSLoRAError, ModelError, UnknownMoves
from minigslora.methods.gslora import GSLoRA
from minigslora.models import checkpoint
from minigslora.models.checkpoint import input_size, normalisation
from minigslora.problems.classification import Classification
from minigslora.reproduction import report
from minigslora.reproduction.report import forgotten
from minigslora.tasks import Setting, TaskReport, plan_requests

QUICK = {**tiny.QUICK, "watch": False, "check": False, "device": "cpu", "precision": "fp32", "ratio": 0.5}
TIMM = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of shapes as PNG files in class folders."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for shade, name in enumerate(["ant", "bee", "cat"]):
            for i in range(count):
                pixels = rng.integers(0, 100, (32, 32, 3)) + 70 * shade
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def someone_elses_model():
    return tiny.timm_vit("vit_tiny_patch16_224", classes=3, **TIMM)


def test_forget_in_five_lines_and_the_finalised_file_in_plain_timm(photos, tmp_path):
    model = someone_elses_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    erasure = minigslora.forget(model, photos, classes=["bee"], **{**QUICK, "epochs": 10, "lr": 1e-2})
    assert erasure.model is model
    assert all(torch.equal(v, before[k]) for k, v in undressed(model).items())
    path = erasure.finalize(tmp_path / "erased.safetensors")

    plain = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TIMM).eval()
    plain.load_state_dict(load_file(path), strict=True)
    test = erasure.problem.data.test
    with torch.no_grad():
        config = timm.data.resolve_model_data_config(plain)
        mean, std = (torch.tensor(config[k])[:, None, None] for k in ("mean", "std"))
        hits = plain((test.images / 255 - mean) / std).argmax(1) == test.labels
    row = erasure.table().loc["task1"]
    assert row["forgot"] == "bee"
    assert row["acc_f"] == pytest.approx(100 * hits[test.labels == 1].float().mean().item())
    assert row["acc_r"] == pytest.approx(100 * hits[test.labels != 1].float().mean().item())
    assert not any(torch.equal(v, before[k]) for k, v in load_file(path).items() if "mlp.fc2.weight" in k)


def test_a_finalised_face_model_says_its_architecture(tmp_path):
    card = checkpoint.Card({"kind": "face", **vars(tiny.FACE)}, tiny.faces().classes, image_size=48)
    checkpoint.save(tmp_path / "faces.safetensors", tiny.face_model(), card)
    model, _ = checkpoint.load(str(tmp_path / "faces.safetensors"))
    erasure = minigslora.forget(model, tiny.faces(), classes=[1], **QUICK)
    erased, found = checkpoint.load(erasure.finalize(tmp_path / "erased.safetensors"))
    assert found == card
    folded = lora.fold(erasure.model).eval()
    assert torch.equal(erased.eval()(tiny.images()), folded(tiny.images()))


def undressed(model):
    """Return a wrapped model's own weights under their own names."""
    return {k.replace(".base.", "."): v for k, v in model.state_dict().items() if ".adapters." not in k}


def test_two_requests_one_after_another_and_taken_back():
    model = tiny.face_model()
    erasure = forget(model, tiny.faces(), classes=[["person-001"], [2, "person-003"]], **QUICK)
    assert [r.forget for r in erasure.reports] == [(1,), (2, 3)]
    assert list(erasure.table()["forgot"]) == ["person-001", "person-002, person-003"]
    assert "acc_o" in erasure.table().columns
    erasure.revoke()
    assert lora.adapter_names(model) == ["task1"]
    assert [r.task for r in erasure.reports] == ["task1"]
    erasure.revoke("task1")
    assert torch.equal(model(tiny.images()), tiny.face_model()(tiny.images()))
    with pytest.raises(ModelError, match=r"no request is left to revoke"):
        erasure.revoke()


def test_a_stopped_erasure_is_read_from_its_folder(tmp_path):
    one = forget(tiny.face_model(), tiny.faces(), ["person-001"], out=tmp_path / "run", **QUICK)
    two = forget(tiny.face_model(), tiny.faces(), ["person-001"], out=str(tmp_path / "run"), **QUICK)
    assert one.reports == two.reports
    assert torch.equal(one.problem.predict("test"), two.problem.predict("test"))


def same_adapters(one, two):
    a, b = lora.adapter_state(one), lora.adapter_state(two)
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def without_time(reports):
    return [{k: v for k, v in asdict(r).items() if k != "seconds"} for r in reports]


def test_a_second_call_goes_on_to_what_one_call_gives():
    model = tiny.face_model()
    first = forget(model, tiny.faces(), ["person-001"], **QUICK)
    second = forget(model, tiny.faces(), [2, "person-003"], **QUICK)
    whole = forget(tiny.face_model(), tiny.faces(), [["person-001"], [2, "person-003"]], **QUICK)
    assert same_adapters(model, whole.model)
    assert without_time(first.reports + second.reports) == without_time(whole.reports)
    assert second.plan.tasks == whole.plan.tasks[1:]
    assert forgotten(second) == forgotten(whole) == [1, 2, 3]
    with pytest.raises(DataError, match=r"request 1 names 'person-001', which the model already forgot"):
        forget(model, tiny.faces(), ["person-001"], **QUICK)

    second.revoke()
    assert lora.adapter_names(model) == ["task1"]
    again = forget(model, tiny.faces(), ["person-003"], **QUICK)
    assert [(t.name, t.old) for t in again.plan.tasks] == [("task3", (1,))]
    first.revoke()  # its own request, not the last one of the model
    assert lora.adapter_names(model) == ["task3"]
    last = forget(copy.deepcopy(model), tiny.faces(), ["person-001"], **QUICK)
    assert [(t.name, t.old) for t in last.plan.tasks] == [("task4", (3,))]


def test_a_second_call_that_was_stopped_goes_on_from_its_folder(tmp_path):
    def serve():
        model = tiny.face_model()
        forget(model, tiny.faces(), ["person-001"], **QUICK)
        return forget(model, tiny.faces(), [["person-002"], ["person-003"]], out=tmp_path / "b", **QUICK)

    whole = serve()
    for name in ("task3.json", "task3.safetensors"):
        (tmp_path / "b" / name).unlink()
    resumed = serve()
    assert same_adapters(resumed.model, whole.model)
    assert without_time(resumed.reports) == without_time(whole.reports)


def test_a_request_that_was_stopped_halfway_is_served_anew(monkeypatch):
    model = tiny.face_model()

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GSLoRA, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            forget(model, tiny.faces(), ["person-001"], **QUICK)
    assert not lora.wrapped(model)
    forget(model, tiny.faces(), ["person-001"], **QUICK)
    whole = forget(tiny.face_model(), tiny.faces(), ["person-001"], **QUICK)
    assert same_adapters(model, whole.model)


def test_adapters_that_forget_did_not_attach_are_refused():
    model = tiny.adapted()
    with pytest.raises(ModelError, match=r"carries the adapter 'task1', but which classes.*lora\.remove"):
        forget(model, tiny.faces(), ["person-001"], **QUICK)
    lora.remove(model)
    forget(model, tiny.faces(), ["person-001"], **QUICK)


def test_a_finalised_model_is_edited_like_any_other(tmp_path):
    once = forget(tiny.face_model(), tiny.faces(), ["person-001"], **QUICK)
    model = tiny.face_model()
    model.load_state_dict(load_file(once.finalize(tmp_path / "once.safetensors")))
    twice = forget(model, tiny.faces(), ["person-002"], **QUICK)
    assert lora.adapter_names(model) == ["task1"]
    assert twice.reports[0].metrics["acc_r_before"] >= 0


def test_where_every_request_was_revoked_the_table_is_empty_and_there_is_no_report(tmp_path):
    erasure = forget(tiny.face_model(), tiny.faces(), ["person-001"], **QUICK)
    erasure.revoke()
    assert len(erasure.table()) == 0
    with pytest.raises(ModelError, match="every request was revoked; there is nothing to report on"):
        report.write(erasure, erasure.problem.predict("test").argmax(dim=1), tmp_path, "title", {})


def test_one_class_by_itself_is_one_request(data):
    assert as_requests(data, "person-001") == [[1]]
    assert as_requests(data, 3) == [[3]]
    assert as_requests(data, ["person-001", 2]) == [[1, 2]]
    assert as_requests(data, [["person-001"], [2]]) == [[1], [2]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([1, 2]), [[1, 2]]),
        (torch.tensor([1, 2]), [[1, 2]]),
        (np.array(["person-001"]), [[1]]),
        (np.int64(4), [[4]]),
        ([np.int64(1), "person-002"], [[1, 2]]),
        (list(torch.tensor([3, 4])), [[3, 4]]),
        ([np.array([1]), torch.tensor([2, 3])], [[1], [2, 3]]),
        (torch.tensor([[1], [2]]), [[1], [2]]),
        (range(2), [[0, 1]]),
    ],
)
def test_whole_numbers_of_any_kind_are_ids(data, given, expected):
    assert as_requests(data, given) == expected


@pytest.mark.parametrize("given", [1.5, [1.0], None, [None], torch.tensor([0.5]), np.array([True])])
def test_what_is_neither_name_nor_whole_number_is_refused(data, given):
    with pytest.raises(DataError, match=r"names no class; give names or whole numbers|unknown class"):
        as_requests(data, given)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], r"no request was given|names no class"),
        (["nobody"], r"unknown class 'nobody' in mini-faces"),
        (["person-001", 1], r"'person-001' is named twice in one request"),
        ([["person-001"], ["person-001"]], r"which request 1 already forgot"),
        (list(range(6)), r"name all 6 classes of mini-faces; at least one must stay"),
    ],
)
def test_requests_that_cannot_be_served_leave_the_model_untouched(classes, message):
    model = tiny.face_model()
    with pytest.raises(DataError, match=message):
        forget(model, tiny.faces(), classes, **QUICK)
    assert not lora.wrapped(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"rank": 0}, ModelError, r"LoRA rank 0 does not fit a 32 → 64 layer; choose a rank from 1 to 32"),
        ({"rank": 33}, ModelError, r"LoRA rank 33 does not fit"),
        ({"shots": 99}, DataError, r"'person-000' has 12 training images, but 99 are asked for"),
        ({"epoch": 1}, ConfigError, r"has no setting 'epoch'"),
        ({"method": "magic"}, ConfigError, r"unknown method 'magic'"),
        ({"precision": "fp8"}, ConfigError, r"precision = 'fp8'; allowed: 'auto', 'bf16', 'fp32'"),
        ({"ratio": 2.0}, ConfigError, r"ratio = 2\.0; expected a share above 0 and at most 1"),
        ({"device": "gpu0"}, ConfigError, r"unknown device 'gpu0'; expected 'auto', 'cpu' or 'cuda'"),
        ({"targets": "mlp"}, ModelError, r"'mlp' is not a linear layer of this VisionTransformer"),
    ],
)
def test_settings_that_cannot_be(settings, kind, message):
    with pytest.raises(kind, match=message) as caught:
        forget(tiny.face_model(), tiny.faces(), ["person-001"], **{**QUICK, **settings})
    assert isinstance(caught.value, MiniGSLoRAError)


def test_a_model_without_feed_forward_networks():
    model = timm.create_model("test_resnet", num_classes=6)
    with pytest.raises(
        ModelError, match=r"only linear layer is the classifier 'fc'.* choose a method that tr"
    ):
        forget(model, tiny.faces(), ["person-001"], **QUICK)
    quick = {k: v for k, v in QUICK.items() if k != "rank"}
    assert forget(model, tiny.faces(), ["person-001"], method="finetune", **quick).reports  # as it is told


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"no data set .*nowhere"):
        forget(someone_elses_model(), tmp_path / "nowhere", ["ant"], **QUICK)


def test_a_class_without_test_images_is_found_before_the_model_is_touched(photos, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    shutil.rmtree(root / "test" / "bee")
    model = someone_elses_model()
    with pytest.raises(DataError, match=r"no image of the 1 forgotten classes \('bee'\).*add images of them"):
        forget(model, root, ["bee"], **QUICK)
    assert not lora.wrapped(model)
    assert forget(model, root, ["ant"], **QUICK).reports[0].forget == (0,)


def test_images_of_another_size_than_the_models():
    model = tiny.timm_vit("vit_tiny_patch16_224", **TIMM)
    with pytest.raises(DataError, match=r"have 48 pixels a side, but the model reads 32;.*img_size=48"):
        forget(model, tiny.faces(), ["person-001"], **QUICK)


def test_images_are_normalised_as_the_checkpoint_says(tmp_path):
    card = checkpoint.Card(
        {"kind": "face", **vars(tiny.FACE)}, tiny.faces().classes, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), 48
    )
    checkpoint.save(tmp_path / "faces.safetensors", tiny.face_model(), card)
    erasure = forget(checkpoint.load(tmp_path / "faces.safetensors")[0], tiny.faces(), classes=[1], **QUICK)
    assert erasure.problem.mean.flatten().tolist() == pytest.approx([0.4] * 3)


def test_another_request_may_adapt_other_layers(problem):
    model = problem.model
    first = forget(model, tiny.faces(), classes=[1], **QUICK)
    first.revoke()
    forget(model, tiny.faces(), classes=[1], targets="attention", **QUICK)
    layers = [name for name, _ in lora.adapters(model, "task2")]
    assert layers == lora.find_linears(model, "attention")


def test_finalize_writes_safetensors_only(tmp_path, problem):
    with pytest.raises(ModelError, match=r"erased\.pth should end in \.safetensors"):
        Erasure(problem, None, None).finalize(tmp_path / "erased.pth")


def test_other_methods_are_not_revocable(problem):
    class Weights:
        name, revocable = "retrain", False

    erasure = Erasure(problem, Weights(), None, [TaskReport("task1", (0,), {"acc_r": 1.0})])
    with pytest.raises(ModelError, match=r"retrain changes the weights themselves; nothing to revoke"):
        erasure.revoke()


def test_what_a_model_expects_of_its_input():
    vit, face = someone_elses_model(), tiny.face_model()
    assert normalisation(vit) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalisation(face) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert (input_size(vit), input_size(face)) == (32, 48)
    checkpoint.set_card(vit, checkpoint.Card({"kind": "timm"}, (), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    assert normalisation(vit) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, depths=(1,), num_heads=(2,))
    assert input_size(swin) == 224


class Templates(nn.Module):
    """A classifier whose rows are its classes' pictures."""

    def __init__(self, data):
        super().__init__()
        pictures = data.train.images[data.train.labels.argsort()[::4]].flatten(1) / 255 - 0.5
        self.head = nn.Linear(pictures.shape[1], len(pictures), bias=False)
        self.head.weight.data = F.normalize(pictures, dim=1)

    def forward_features(self, x):
        return x.flatten(1) - 0.5

    def forward_head(self, x, pre_logits=False):
        return x

    def get_classifier(self):
        return self.head


def portraits(smooth: bool) -> DataSet:
    """Return three classes of one picture each, four times: smooth ones look alike once shifted."""
    rng = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 3, *((1, 1) if smooth else (16, 16)), generator=rng).expand(3, 3, 16, 16)
    labels = torch.arange(3).repeat_interleave(4)
    split = ImageSet((255 * pictures).round().to(torch.uint8)[labels], labels, ("ant", "bee", "cat"))
    return DataSet("portraits", split, split, split)


@pytest.mark.parametrize("smooth", [True, False])
def test_a_model_that_does_not_know_its_images_once_moved_is_found(smooth):
    data = portraits(smooth)
    problem = Classification(Templates(data), data, device="cpu")
    plan = plan_requests(data, [[1]], Setting(requests=(1,), ratio=1.0), seed=0)
    expected = contextlib.nullcontext() if smooth else pytest.warns(UnknownMoves, match=r"names 100 % of its")
    with expected:
        assert knows_moved(problem, plan.tasks[0]) is smooth


@pytest.mark.parametrize(("method", "knows", "given", "expected"), [
    ("gslora++", True, {}, True), ("gslora++", False, {}, False), ("gslora-deep", False, {}, True),
    ("gslora++", False, {"augment": True}, True), ("gslora++", True, {"augment": False}, False),
])  # fmt: skip
def test_images_are_augmented_where_the_model_knows_them_so_or_the_user_insists_or_a_teacher_answers(
    photos, monkeypatch, method, knows, given, expected
):
    monkeypatch.setattr(minigslora.erasure, "knows_moved", lambda *_: knows)
    settings = {k: v for k, v in QUICK.items() if k != "augment"} | {"method": method}
    done = minigslora.forget(someone_elses_model(), photos, ["bee"], **settings, **given)
    assert done.method.training.augment is expected
