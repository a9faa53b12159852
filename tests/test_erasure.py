"""The front door: forgetting on anyone's own model and data."""

import numpy as np
import pytest
import timm
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

import minigslora
from minigslora import lora
from minigslora.contracts import TaskReport
from minigslora.erasure import Erasure, as_requests, forget, input_size, normalisation
from minigslora.errors import ConfigError, DataError, MiniGSLoRAError, ModelError

QUICK = {**tiny.QUICK, "watch": False, "device": "cpu", "precision": "fp32", "ratio": 0.5}
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


def test_one_class_by_itself_is_one_request(data):
    assert as_requests(data, "person-001") == [[1]]
    assert as_requests(data, ["person-001", 2]) == [[1, 2]]
    assert as_requests(data, [["person-001"], [2]]) == [[1], [2]]


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
        ({"device": "gpu0"}, ConfigError, r"unknown device 'gpu0'; expected 'auto', 'cpu' or 'cuda'"),
        ({"targets": "mlp"}, ModelError, r"'mlp' is not a linear layer of this VisionTransformer"),
    ],
)
def test_settings_that_cannot_be(settings, kind, message):
    with pytest.raises(kind, match=message) as caught:
        forget(tiny.face_model(), tiny.faces(), ["person-001"], **{**QUICK, **settings})
    assert isinstance(caught.value, MiniGSLoRAError)


def test_a_model_without_feed_forward_networks():
    with pytest.raises(ModelError, match=r"has no linear layer selected by targets='ffn'; name the layers"):
        forget(timm.create_model("test_resnet", num_classes=6), tiny.faces(), ["person-001"], **QUICK)


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"no data set .*nowhere"):
        forget(someone_elses_model(), tmp_path / "nowhere", ["ant"], **QUICK)


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
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, depths=(1,), num_heads=(2,))
    assert input_size(swin) == 224
