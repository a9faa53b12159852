"""Models handed over: each export answers as the live model does, in the library that it is for."""

import contextlib
import copy
import json
import os
import shutil
import warnings

import numpy as np
import onnxruntime
import pytest
import timm
import tiny
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from test_deep import QUICK
from torch import nn

from minigslora import export, ledger, lora, peft_format, rows
from minigslora.cli import main
from minigslora.erasure import forget
from minigslora.errors import ConfigError, ModelError, OutputError
from minigslora.export_command import FORMATS, model_of_run
from minigslora.files import read_json, save_tensors, sha256, staged, write_json
from minigslora.fingerprint import weights_hash
from minigslora.model_card import model_card
from minigslora.models import checkpoint

NAMES = tuple(f"person-{i:03}" for i in range(tiny.PEOPLE))
VIT = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
DEEP = {key: value for key, value in QUICK.items() if key != "method"}
METHODS = ("gslora", "gslora++", "gslora-deep")
CLOSE = 1e-4
"""How far cosine logits, of up to 64, may lie apart here."""


def vit(seed=0):
    model = tiny.timm_vit("vit_tiny_patch16_224", seed=seed, **VIT)
    card = checkpoint.timm_card("vit_tiny_patch16_224", {"img_size": 48, **VIT})
    checkpoint.set_card(model, checkpoint.for_classes(card, NAMES))
    return model


def face(head="cosface"):
    model = tiny.face_model(head=head)
    architecture = {"kind": "face", **vars(tiny.FACE), "head": head}
    checkpoint.set_card(model, checkpoint.Card(architecture, NAMES, image_size=48))
    return model


def served(model, *methods):
    """Return the live model after a request by each method."""
    for place, method in enumerate(methods):
        forget(model, tiny.faces(), [NAMES[place]], method=method, **DEEP)
    for name in lora.adapter_names(model):  # few updates move little; here each is seen
        for _, adapter in lora.adapters(model, name):
            adapter.B.data *= 30
    return model.eval()


@pytest.fixture(scope="module")
def lives():
    """A plain model, models after a request by each method, after two, and one of two revoked."""
    made = {"plain": (vit(), vit()), "faces": (face(), served(face(), "gslora++", "gslora-deep"))}
    made |= {method: (vit(), served(vit(), method)) for method in METHODS}
    made["two"] = vit(), served(vit(), "gslora-deep", "gslora-deep")
    made["mixed"] = vit(), served(vit(), "gslora++", "gslora-deep")
    made["revoked"] = vit(), copy.deepcopy(made["two"][1])
    lora.revoke(made["revoked"][1], "task1")
    made["linear faces"] = face("linear"), served(face("linear"), "gslora-deep")
    return made


CASES = ["plain", *METHODS, "two", "mixed", "revoked", "linear faces"]


def normalised(model, images):
    mean, std = (torch.tensor(v)[:, None, None] for v in checkpoint.normalisation(model))
    return (images - mean) / std


def logits(model, images, like):
    with torch.no_grad():
        said = model(normalised(like, images))
    return getattr(said, "logits", said)


def alike(one, two, limit=CLOSE):
    return (one - two).abs().max().item() <= limit


def strictly():
    """Make every warning an error."""
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.simplefilter("error")
    return contextlib.closing(type("Caught", (), {"close": lambda self: caught.__exit__(None, None, None)})())


# --- timm -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_timm_loads_the_file_strictly(case, lives, tmp_path):
    live = lives[case][1]
    done = export.to_timm(live, tmp_path / "erased.safetensors")
    name, arguments = export.timm_description(live)
    plain = timm.create_model(name, num_classes=tiny.PEOPLE, **arguments).eval()
    plain.load_state_dict(load_file(done.path), strict=True)
    assert alike(logits(plain, tiny.images(), live), logits(live, tiny.images(), live))
    again, card = checkpoint.load(done.path)
    assert card.classes == NAMES
    assert ledger.of(again) == ledger.of(live)
    assert done.difference <= done.tolerance
    assert done.size == done.path.stat().st_size
    assert str(done.path) in str(done)


def test_a_model_without_a_card_is_given_one(tmp_path):
    model = tiny.timm_vit("vit_tiny_patch16_224", **VIT)
    done = export.to_timm(model, tmp_path / "plain.safetensors", NAMES)
    again, card = checkpoint.load(done.path)
    assert (card.classes, card.image_size) == (NAMES, 48)
    assert alike(again.eval()(tiny.images()), model(tiny.images()), 0)
    assert checkpoint.card_of(model) is None


# --- PEFT -----------------------------------------------------------------------------------------------


def in_peft(base, folder, names):
    with strictly():
        model = PeftModel.from_pretrained(copy.deepcopy(base), folder / names[0], adapter_name=names[0])
        for name in names[1:]:
            model.load_adapter(folder / name, adapter_name=name)
        model.base_model.set_adapter(list(names))
    return model.eval()


@pytest.mark.parametrize("case", [*METHODS, "two", "mixed", "revoked", "linear faces", "faces"])
def test_peft_puts_the_requests_on_without_a_warning(case, lives, tmp_path):
    base, live = lives[case]
    done = export.to_peft(live, tmp_path / "adapters")
    names = lora.adapter_names(live)
    assert {p.name for p in done.path.iterdir()} == {*names, "README.md"}
    model = in_peft(base, done.path, names)
    images = tiny.images()
    assert alike(logits(model, images, live), logits(live, images, live))
    with model.disable_adapter():
        assert torch.equal(logits(model, images, live), logits(base, images, live))
    if len(names) > 1:
        model.base_model.set_adapter(names[:1])
        with lora.bypassed(live, names[1]):
            assert alike(logits(model, images, live), logits(live, images, live))
    assert weights_hash(base) in (done.path / "README.md").read_text(encoding="utf-8")
    with safe_open(done.path / names[-1] / "adapter_model.safetensors", "pt") as file:
        assert [e["request"] for e in json.loads(file.metadata()["ledger"])] == names[-1:]


@pytest.mark.parametrize("case", ["two", "faces"])
def test_peft_merges_to_the_same(case, lives, tmp_path):
    base, live = lives[case]
    done, names = export.to_peft(live, tmp_path / "adapters"), lora.adapter_names(live)
    merged = in_peft(base, done.path, names).merge_and_unload(adapter_names=names)
    assert alike(logits(merged, tiny.images(), live), logits(live, tiny.images(), live))


def test_layers_and_requests_without_an_update_are_left_out(tmp_path):
    live = tiny.adapted(("task1", "task2"))
    (first, adapter), *others = lora.adapters(live, "task1")
    adapter.B.data.zero_()
    for _, adapter in lora.adapters(live, "task2"):
        adapter.A.data.zero_()
    done = export.to_peft(live, tmp_path / "adapters")
    assert {p.name for p in done.path.iterdir()} == {"task1", "README.md"}
    config = read_json(done.path / "task1" / "adapter_config.json")
    assert config["target_modules"] == [layer for layer, _ in others]
    assert not any(first in key for key in load_file(done.path / "task1" / "adapter_model.safetensors"))
    assert alike(in_peft(tiny.face_model(), done.path, ["task1"])(tiny.images()), live(tiny.images()))
    for _, adapter in lora.adapters(live, "task1"):
        adapter.B.data.zero_()
    with pytest.raises(ModelError, match="all zero"):
        export.to_peft(live, tmp_path / "none")


def test_ranks_and_scales_of_each_layer_travel(tmp_path):
    live = tiny.face_model()
    first, second, *_ = lora.inject(live)
    stream = torch.Generator().manual_seed(0)
    lora.attach(live, "task1", rank=3, scale=0.7, generator=stream, layers=[first])
    lora.wrapped(live)[second].add("task1", 5, 1.5, stream)
    for _, adapter in lora.adapters(live, "task1"):
        nn.init.normal_(adapter.B, std=0.2, generator=stream)
    done = export.to_peft(live, tmp_path / "adapters")
    assert alike(in_peft(tiny.face_model(), done.path, ["task1"])(tiny.images()), live(tiny.images()))


def test_a_layer_whose_name_ends_as_another_one_is_left_alone(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.deep = nn.Linear(4, 4), nn.ModuleDict({"fc": nn.Linear(4, 4)})

        def forward(self, x):
            return self.deep["fc"](self.fc(x))

    base = Two()
    live = copy.deepcopy(base)
    lora.inject(live, ["fc"])
    tiny.attach_drawn(live, "task1")
    updates = peft_format.updates_of(live, "task1")
    config = peft_format.configuration(base, updates)
    write_json(tmp_path / "task1" / "adapter_config.json", config)
    save_tensors(tmp_path / "task1" / "adapter_model.safetensors", peft_format.tensors(base, updates), {})
    x = torch.randn(3, 4)
    assert alike(in_peft(base, tmp_path, ["task1"])(x), live(x))


def test_what_peft_cannot_express_is_refused_by_name(tmp_path):
    out = tmp_path / "adapters"
    with pytest.raises(ModelError, match=r"carries no adapters.*--weights FILE"):
        export.to_peft(face(), out)
    with pytest.raises(ModelError, match=r"Deformable DETR cannot be written for PEFT.*--to hf"):
        export.to_peft(tiny.detector(), out)
    bare = face("linear")  # its query, key and value have no bias
    lora.inject(bare, "attention")
    tiny.attach_drawn(bare, "task1")
    rows.replace(bare.head, "task1", [0], torch.ones(1, 32), torch.ones(1))
    with pytest.raises(ModelError, match=r"a bias to all layers.*'blocks.0.attn.qkv' has none.*--to timm"):
        export.to_peft(bare, out)
    both = face("linear")
    rows.replace(both.head, "task1", [0], torch.ones(1, 32), torch.ones(1))
    lora.inject(both, ["head"])
    tiny.attach_drawn(both, "task1")
    with pytest.raises(ModelError, match=r"replaced rows of 'head', which has an adapter, too"):
        export.to_peft(both, out)
    assert not out.exists()


# --- ONNX -----------------------------------------------------------------------------------------------


def in_onnx(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    said = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), said


@pytest.mark.parametrize("case", ["two", "faces"])
def test_onnxruntime_answers_alike_for_any_number_of_images(case, lives, tmp_path):
    live = lives[case][1]
    done = export.to_onnx(live, tmp_path / "erased.onnx")
    model, said = in_onnx(done.path)
    for count in (1, 3):
        images = tiny.images(count, seed=count)
        assert alike(model(images), logits(live, images, live))
    assert said["classes"] == list(NAMES)
    assert [e["request"] for e in said["ledger"]] == lora.adapter_names(live)
    assert said["input"] == {"images": ["batch", 3, 48, 48], "range": [0, 1], "channels": "RGB"}
    mean, std = checkpoint.normalisation(live)
    assert said["normalisation"] == {"inside": True, "mean": list(mean), "std": list(std)}
    assert said["weights"] == weights_hash(lora.fold(live))
    assert [p.name for p in tmp_path.iterdir()] == ["erased.onnx"]


# --- Hugging Face -----------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("case", ["plain", "two", "revoked", "linear faces"])
def test_timm_and_transformers_load_the_folder(case, lives, tmp_path, offline):
    from transformers import AutoModelForImageClassification

    live = lives[case][1]
    done = export.to_hf(live, tmp_path / "model")
    assert {p.name for p in done.path.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    expected = logits(live, tiny.images(), live)
    by_timm = timm.create_model(f"local-dir:{done.path}", pretrained=True).eval()
    assert alike(logits(by_timm, tiny.images(), live), expected)
    assert tuple(by_timm.pretrained_cfg["mean"]) == checkpoint.normalisation(live)[0]
    with strictly():
        model, info = AutoModelForImageClassification.from_pretrained(done.path, output_loading_info=True)
    assert not any(info.values())
    assert alike(logits(model.eval(), tiny.images(), live), expected)
    assert tuple(model.config.id2label.values()) == NAMES
    assert ledger.of(checkpoint.load(done.path / "model.safetensors")[0]) == ledger.of(live)
    card = (done.path / "README.md").read_text(encoding="utf-8")
    for entry in ledger.of(live):
        assert f"| {entry.request} | {entry.classes[0]} | {entry.date} | {entry.method} |" in card
    assert ("Nothing that its ledger says" in card) == (case == "plain")


def test_the_images_are_read_as_here(lives, tmp_path, offline):
    from PIL import Image
    from transformers import AutoImageProcessor

    from minigslora.datasets.pictures import cropped

    done = export.to_hf(vit(), tmp_path / "model")
    pixels = np.random.default_rng(0).integers(
        0, 256, (72, 96, 3), dtype=np.uint8
    )  # timm rounds another ratio otherwise
    picture = Image.fromarray(pixels)
    own = torch.from_numpy(np.array(cropped(picture, 48))).permute(2, 0, 1) / 255
    given = AutoImageProcessor.from_pretrained(done.path)(picture, return_tensors="pt")["pixel_values"][0]
    assert alike(given, normalised(vit(), own), 1e-5)


def test_a_detector_goes_to_transformers(tmp_path, offline):
    from transformers import AutoModelForObjectDetection

    live = tiny.detector()
    lora.inject(live)
    tiny.attach_drawn(live, "task1")
    ledger.put(live, [ledger.Entry("task1", ("b",), (1,))])
    names = [chr(97 + i) for i in range(15)]
    done = export.to_hf(live, tmp_path / "model", names)
    model = AutoModelForObjectDetection.from_pretrained(done.path).eval()
    assert list(model.config.id2label.values()) == names
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        one, two = model(images), live(images)
    assert alike(one.logits, two.logits, 1e-5)
    assert alike(one.pred_boxes, two.pred_boxes, 1e-5)
    again, card = checkpoint.load(done.path / "model.safetensors")
    assert (card.classes, ledger.of(again)) == (tuple(names), ledger.of(live))
    for write in (export.to_timm, export.to_onnx):
        with pytest.raises(ModelError, match=r"Deformable DETR cannot be written for .*--to hf"):
            write(live, tmp_path / f"a.{'onnx' if write is export.to_onnx else 'safetensors'}")


def test_a_name_is_no_markdown():
    entry = ledger.Entry("task1", ("a|b\n<script>", "*c*"), (0, 1), date="2026-01-02")
    card = model_card("x", [entry], ("a|b\n<script>", "*c*", "d"), "")
    assert "| task1 | a\\|b \\<script\\>, \\*c\\* | 2026-01-02 | – | – | – |" in card
    assert "3 classes: d stay" in card


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [export.to_timm, export.to_hf])
def test_models_that_timm_cannot_build(write, tmp_path):
    out = tmp_path / ("a.safetensors" if write is export.to_timm else "a")
    with pytest.raises(ModelError, match=r"no cosine head .*--to onnx"):
        write(face(), out)
    odd = tiny.face_transformer(tiny.replace(tiny.FACE, head="linear", norm_eps=1e-5)).eval()
    config = {**vars(tiny.FACE), "head": "linear", "norm_eps": 1e-5}
    checkpoint.set_card(odd, checkpoint.Card({"kind": "face", **config}, NAMES, image_size=48))
    with pytest.raises(ModelError, match=r"ε = 1e-06, those of this Face Transformer 1e-05; write ONNX"):
        write(odd, out)
    with pytest.raises(ModelError, match="nobody says which of timm's models this VisionTransformer is"):
        write(tiny.face_model(head="linear"), out)
    wrong = vit()
    wrong.blocks[0].norm1.eps = 0.5  # as someone's own surgery that no card tells of
    with pytest.raises(ModelError, match=r"answers otherwise than the model: .*Nothing was written"):
        write(wrong, out)
    with pytest.raises(ModelError, match="2 classes are named for a head of 6"):
        write(vit(), out, ("a", "b"))
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_session", lambda file: lambda images: torch.full((4, 6), torch.nan))
    with pytest.raises(ModelError, match="onnxruntime answers otherwise"):
        export.to_onnx(vit(), tmp_path / "a.onnx")
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: 1 / 0)
    with pytest.raises(ModelError, match="torch cannot export this model to ONNX: division by zero"):
        export.to_onnx(vit(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_ending(tmp_path):
    for write, name in ((export.to_timm, "a.pth"), (export.to_onnx, "a.safetensors")):
        with pytest.raises(ModelError, match="should end in"):
            write(vit(), tmp_path / name)
    for write in (export.to_hf, export.to_peft):
        with pytest.raises(ModelError, match=r"a.onnx is a file's name, but a folder is written"):
            write(tiny.adapted(), tmp_path / "a.onnx")


def test_what_is_staged_appears_whole_or_not_at_all(tmp_path):
    def write(name, then):
        with staged(tmp_path / name) as made:
            made.write_text("half")
            then()

    with pytest.raises(ZeroDivisionError):
        write("a", lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="there already"):
        write("b", lambda: (tmp_path / "b").write_text("kept"))
    assert (tmp_path / "b").read_text() == "kept"
    with pytest.raises(OutputError, match="cannot write"), staged(tmp_path / "b" / "c"):
        pass


# --- the command ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_root):
    """A folder of a run of two requests, and the weights it began with, which say nothing of themselves."""
    root = tmp_path_factory.mktemp("run")
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for shade, name in enumerate(("ant", "bee", "cat")):
            for i in range(count):
                path = root / "photos" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((rng.integers(0, 90, (32, 32, 3)) + 70 * shade).astype(np.uint8)).save(path)
    model = tiny.timm_vit("vit_tiny_patch16_224", classes=3, **VIT, img_size=32)
    torch.save(model.state_dict(), root / "mine.pth")
    arguments = [f"--model-args={k}={v}" for k, v in VIT.items()]
    words = ["forget", "--model", "vit_tiny_patch16_224", "--image-size", "32", "--no-check", *arguments]
    words += ["--data", root / "photos", "--weights", root / "mine.pth", "--device", "cpu", "--ratio", "1"]
    for method in ("gslora-deep", "der"):
        settings = ["--set=epochs=1"] + (["--set=rank=2"] if method != "der" else [])
        given = ["--classes", "ant", "--classes", "bee", "--method", method, "--out", root / method]
        call([*words, *settings, *given], {0, 3})
    return root


def call(words, codes=frozenset({0})):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert (ended.value.code or 0) in codes


@pytest.mark.parametrize("to", FORMATS)
def test_the_command_on_a_run(to, run, tmp_path, capsys):
    out = tmp_path / {"timm": "a.safetensors", "onnx": "a.onnx"}.get(to, "a")
    call(["export", run / "gslora-deep", "--to", to, "--out", out, "--weights", run / "mine.pth"])
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: ")
    assert "differ from the model's by at most" in said
    live = model_of_run(run / "gslora-deep", run / "mine.pth", True)
    assert [e.classes for e in ledger.of(live)] == [("ant",), ("bee",)]
    if to == "peft":
        base = tiny.timm_vit("vit_tiny_patch16_224", classes=3, **VIT, img_size=32)
        images = torch.rand(2, 3, 32, 32)
        assert alike(in_peft(base, out, ["task1", "task2"])(images), live.eval()(images))


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_the_command_on_a_file_and_on_a_run_without_its_weights(to, run, tmp_path):
    for place, source in enumerate((run / "der", run / "der" / "erased.safetensors")):
        call(["export", source, "--to", to, "--out", tmp_path / f"{place}{'.safetensors' * (to == 'timm')}"])
    one, two = (p / "model.safetensors" if p.is_dir() else p for p in sorted(tmp_path.iterdir()))
    assert sha256(one) == sha256(two) == sha256(run / "der" / "erased.safetensors")


def test_a_run_that_was_moved(run, tmp_path):
    shutil.copytree(run / "gslora-deep", tmp_path / "moved")
    elsewhere = str(tmp_path / "gone" / "erased.safetensors")
    write_json(tmp_path / "moved" / "finalized.json", [elsewhere])
    assert ledger.of(model_of_run(tmp_path / "moved", None, False))


REFUSED = {
    "there is no such format; expected timm, peft, onnx, hf": ("{run}/der", "torch", "new"),
    "no weight file at .*check the path": ("{run}/none.safetensors", "timm", "new.safetensors"),
    "is there already and is kept": ("{run}/der", "timm", "{run}/mine.pth"),
    "should end in .safetensors": ("{run}/der", "timm", "new.onnx"),
    "should end in .onnx": ("{run}/der", "onnx", "new.safetensors"),
    "is a file's name": ("{run}/der", "hf", "new.safetensors"),
    "is no folder of a .* run: it has no finalized.json. Give": (
        "{run}/photos",
        "hf",
        "new",
    ),
    "no finalized.json; .*der is one": ("{run}/der/tasks", "hf", "new"),
    "does not say its architecture": ("{run}/mine.pth", "timm", "new.safetensors"),
    "carries no adapters": ("{run}/der/erased.safetensors", "peft", "new"),
    "--weights goes with the folder of a run": ("{run}/mine.pth", "peft", "new", "{run}/mine.pth"),
    "der changes the weights themselves": ("{run}/der", "peft", "new", "{run}/mine.pth"),
    "is not the file that the run began with": (
        "{run}/gslora-deep",
        "peft",
        "new",
        "{run}/der/erased.safetensors",
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_the_command_refuses(message, run, tmp_path, capsys, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    source, to, out, *weights = (text.format(run=run) for text in REFUSED[message])
    words = ["export", source, "--to", to, "--out", out]
    call([*words, "--weights", *weights] if weights else words, {2})
    assert re.search(message, capsys.readouterr().err)
    assert os.listdir(tmp_path) == []


def test_a_damaged_run_is_refused(run, tmp_path, capsys):
    folder, weights = tmp_path / "run", run / "mine.pth"
    shutil.copytree(run / "gslora-deep", folder)
    state = load_file(folder / "tasks" / "task2.safetensors")
    moved = {k: v + 1 if k.endswith(".B") else v for k, v in state.items()}
    save_tensors(folder / "tasks" / "task2.safetensors", moved, {})
    with pytest.raises(ModelError, match="are not of one model"):
        model_of_run(folder, weights, True)
    shutil.copy(run / "gslora-deep" / "tasks" / "task2.safetensors", folder / "tasks")
    assert model_of_run(folder, weights, True)
    (folder / "erased.safetensors").unlink()
    write_json(folder / "finalized.json", ["nowhere"])
    with pytest.raises(ConfigError, match="has written no erased model yet"):
        model_of_run(folder, weights, True)
    (folder / "finalized.json").write_text("{")
    with pytest.raises(ConfigError, match=r"finalized.json cannot be read"):
        model_of_run(folder, weights, True)
    (folder / "live.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"live.json is damaged"):
        model_of_run(folder, weights, True)
    (folder / "tasks" / "task1.json").unlink()
    with pytest.raises(ConfigError, match="has not finished"):
        model_of_run(folder, weights, True)
    (folder / "tasks" / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match="is damaged"):
        model_of_run(folder, weights, True)


@pytest.mark.parametrize(("kind", "share"), [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_half_precision(kind, share, lives, tmp_path):
    live = copy.deepcopy(lives["two"][1]).to(kind)
    onnx, plain = export.to_onnx(live, tmp_path / "a.onnx"), export.to_timm(live, tmp_path / "a.safetensors")
    hf, peft = export.to_hf(live, tmp_path / "hf"), export.to_peft(live, tmp_path / "peft")
    assert {t.dtype for t in load_file(plain.path).values()} == {kind}
    images = tiny.images()
    with torch.no_grad():
        expected = live(normalised(live, images).to(kind)).float()
    limit = share * max(1.0, expected.abs().max().item())
    assert alike(in_onnx(onnx.path)[0](images), expected, limit)
    base = copy.deepcopy(live)
    lora.remove(base)
    with torch.no_grad():
        said = in_peft(base, peft.path, ["task1", "task2"])(normalised(live, images).to(kind)).float()
    assert alike(said, expected, limit)
    assert all(done.tolerance == pytest.approx(limit, rel=0.5) for done in (onnx, plain, hf, peft))
