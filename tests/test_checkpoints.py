"""What a file may say and do: cards, foreign weight files, causes of a misfit, models drawn anew."""

import argparse
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from minigslora import lora
from minigslora.cli import main
from minigslora.datasets.rendered import mini_scenes
from minigslora.erasure import forget
from minigslora.errors import DataError, MiniGSLoRAError, ModelError
from minigslora.files import load_tensors, save_tensors
from minigslora.formats import plain_names
from minigslora.models import checkpoint, fresh, pretrained
from minigslora.models.detr import configured
from minigslora.problems.classification import Classification
from minigslora.problems.detection import Detection
from minigslora.rng import Streams

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"
CARD = {"architecture": {"kind": "timm", "name": NAME, "classes": 3, **SMALL}, "image_size": 32}


def small(classes=3, name=NAME, seed=0, **changes):
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=classes, **{**SMALL, **changes}).eval()


@pytest.fixture(scope="module")
def state():
    return small().state_dict()


def written(path, state, card):
    save_tensors(path, state, {"card": card})
    return path


# --- the card in a header -------------------------------------------------------------------------------


def with_architecture(**changes):
    return {**CARD, "architecture": {**CARD["architecture"], **changes}}


def test_the_card_of_these_tests_builds_its_model(tmp_path, state):
    model, card = checkpoint.load(written(tmp_path / "m.safetensors", state, CARD))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert (card.image_size, card.architecture["depth"]) == (32, 2)


@pytest.mark.parametrize(
    "key",
    [
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
        "scriptable",
        "features_only",
        "block_fn",
        "attn_layer",
        "embed_layer",
        "mlp_layer",
        "weight_init",
        "device",
        "dtype",
        "hf_hub_id",
        "__class__",
        "",
        "num_classes",
    ],
)
def test_a_key_that_is_no_size_or_switch_does_not_reach_timm(key, tmp_path, state, monkeypatch):
    trap = tmp_path / "trap.pth"
    torch.save({}, trap)
    opened = []
    monkeypatch.setattr(timm.models._factory, "load_checkpoint", lambda *a, **k: opened.append(a))
    path = written(tmp_path / "m.safetensors", state, with_architecture(**{key: str(trap)}))
    with pytest.raises(ModelError, match=re.escape(f"{key!r} is no argument of {NAME} that is known")):
        checkpoint.load(path)
    assert not opened


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("text", "it is 'text', not names and values"),
        ([1, 2], "not names and values"),
        (7, "not names and values"),
        (None, "not names and values"),
        ({}, "lacks 'architecture'"),
        ({**CARD, "architecture": "timm"}, "architecture = 'timm'; expected names and values"),
        ({**CARD, "architecture": None}, "architecture = 'None'; expected names"),
        ({**CARD, "colour": 1}, "unknown parameter 'colour'"),
        ({**CARD, "notes": []}, r"notes = '\[\]'"),
        ({**CARD, "classes": 3}, r"classes\[0\] = 3; expected text"),
        ({**CARD, "classes": ["a", "b"]}, "names 2 classes for a head of 3"),
        ({**CARD, "classes": ["a", "b", "a"]}, "names a class twice"),
        ({**CARD, "mean": [0.5]}, "mean = .*expected three numbers"),
        ({**CARD, "mean": ["x", 0, 0]}, r"mean\[0\] = 'x'; expected a number"),
        ({**CARD, "std": [0, 0, 0]}, "std = .*images are divided by it"),
        ({**CARD, "std": [1e999, 1, 1]}, "std = .*expected three numbers"),
        ({**CARD, "image_size": -1}, "image_size = -1; expected 1 to 4096"),
        ({**CARD, "image_size": "big"}, "image_size = 'big'; expected a whole number"),
        (with_architecture(kind="onnx"), "unknown architecture 'onnx'"),
        (with_architecture(kind=[1]), r"unknown architecture \[1\]"),
        ({**CARD, "architecture": {"kind": "timm", "name": NAME}}, "'timm' needs 'classes'"),
        ({**CARD, "architecture": {"kind": "timm", "classes": 3}}, "'timm' needs 'name'"),
        (with_architecture(name="vit_smal_patch16_224"), "did you mean vit_small_patch16_224"),
        (with_architecture(name="hf-hub:someone/something"), "timm has no model 'hf-hub:someone/something'"),
        (with_architecture(name="local-dir:/tmp"), "timm has no model 'local-dir:/tmp'"),
        (with_architecture(name=["vit"]), r"timm has no model \['vit'\]"),
        (with_architecture(name=f"{NAME}.no_such_tag"), "timm cannot build|timm has no model"),
        (with_architecture(depth=10**9), "depth = 1000000000; expected 1 to 256"),
        (with_architecture(depth=-1), "depth = -1; expected 1 to 256"),
        (with_architecture(depth=10**400), "depth = 1000.*; expected 1 to 256"),
        (with_architecture(depth="many"), "depth = 'many'; expected a whole number"),
        (with_architecture(depth=True), "depth = True; expected a whole number"),
        (with_architecture(depth=[2] * 1000), "depth has 1000 entries; expected at most 64"),
        (with_architecture(embed_dim=10**7), "embed_dim = 10000000; expected 1 to 65536"),
        (with_architecture(embed_dim=65536, depth=256), "another architecture.*of another shape"),
        (with_architecture(classes=10**12), "classes = 1000000000000; expected 1 to 1"),
        (with_architecture(classes=-4), "classes = -4"),
        (with_architecture(num_heads=0), "num_heads = 0"),
        (with_architecture(num_heads=3), "timm cannot build"),
        (with_architecture(mlp_ratio=float("nan")), "mlp_ratio = nan"),
        (with_architecture(img_size={"x": 1}), "img_size"),
        (with_architecture(drop_rate=2), "drop_rate = 2.0; expected 0 to 1"),
        (with_architecture(qkv_bias="no"), "qkv_bias = 'no'; expected true or false"),
        (with_architecture(act_layer="os.system"), "act_layer = 'os.system'; allowed"),
        ({**CARD, "architecture": {"kind": "face", "depth": 10**9}}, "depth = 1000000000; expected 1 to 256"),
        ({**CARD, "architecture": {"kind": "face", "code": "x"}}, "unknown parameter 'code'"),
        ({**CARD, "architecture": {"kind": "face", "dim": 33}}, "no such model can be built"),
        ({**CARD, "architecture": {"kind": "face", "head": "os"}}, "head = 'os'; allowed"),
        ({**CARD, "architecture": {"kind": "deformable-detr", "layers": 10**9}}, "expected 1 to 256"),
        ({**CARD, "architecture": {"kind": "deformable-detr", "stages": [1]}}, "no such model can be built"),
        ({**CARD, "architecture": {"kind": "transformers"}}, "'transformers' needs 'config'"),
        ({**CARD, "architecture": {"kind": "transformers", "config": 4}}, "config = '4'; expected"),
    ],
)
def test_a_malformed_card_is_a_model_error(card, message, tmp_path, state):
    path = written(tmp_path / "m.safetensors", state, card)
    with pytest.raises(ModelError, match=message):
        checkpoint.load(path)


@pytest.mark.parametrize("text", ["{", "not JSON", "[" * 5000, '{"architecture": ', "", "\x00"])
def test_a_card_that_is_no_json_is_a_model_error(text, tmp_path, state):
    save_file(state, tmp_path / "m.safetensors", metadata={"card": text})
    with pytest.raises(ModelError, match=r"the card of .* cannot be used"):
        checkpoint.load(tmp_path / "m.safetensors")


def detr_card(**changes):
    config = json.loads(tiny.detector().config.to_json_string(use_diff=False))
    return {"kind": "transformers", "config": {**config, **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "someone/code--model.Model"}}, "'auto_map' is no part of"),
        ({"_attn_implementation": "someone/kernel"}, "'_attn_implementation' is no part of"),
        ({"attn_implementation": "someone/kernel"}, "'attn_implementation' is no part of"),
        ({"quantization_config": {"quant_method": "awq"}}, "'quantization_config' is no part of"),
        ({"trust_remote_code": True}, "'trust_remote_code' is no part of"),
        ({"backbone_kwargs": {"pretrained": True}}, "'backbone_kwargs' is no part of"),
        ({"backbone_config": None, "backbone": "someone/model"}, "backbone_config is of kind None"),
        ({"backbone_config": None, "use_timm_backbone": True, "backbone": "hf-hub:a/b"}, "timm has no model"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}}, "timm has no model"),
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "local-dir:/"}},
            "timm has no model",
        ),
        ({"backbone_config": {"model_type": "timm_wrapper"}}, "of kind 'timm_wrapper'; expected resnet or"),
        ({"backbone_config": {"model_type": "resnet", "auto_map": {}}}, "'auto_map' is no part of"),
        ({"backbone_config": "resnet"}, "of kind None"),
        ({"encoder_layers": 10**9}, "encoder_layers = 1000000000; expected 0 to 256"),
        ({"num_queries": -3}, "num_queries = -3"),
        ({"d_model": "wide"}, "transformers takes no such configuration"),
        ({"activation_function": "os.system"}, "transformers cannot build this configuration"),
        ({"id2label": ["a"]}, "id2label names no classes"),
    ],
)
def test_a_detectors_configuration_names_no_code_and_no_address(changes, message):
    with pytest.raises(ModelError, match=message):
        checkpoint.build(detr_card(**changes))


def test_a_detectors_own_configuration_builds_it():
    model = tiny.detector()
    again = configured(json.loads(model.config.to_json_string(use_diff=False)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_the_given_file_is_loaded_and_not_its_folders(tmp_path):
    tiny.detector(seed=1).save_pretrained(tmp_path)
    given = tiny.detector(seed=2).state_dict()
    save_file({k: v.clone() for k, v in given.items()}, tmp_path / "mine.safetensors")
    model, _ = checkpoint.load(tmp_path / "mine.safetensors")
    assert all(torch.equal(v, given[k]) for k, v in model.state_dict().items())
    torch.save(given, tmp_path / "mine.pth")
    model, _ = checkpoint.load(tmp_path / "mine.pth")
    assert all(torch.equal(v, given[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "config", ["{}", "[]", "no JSON", '{"model_type": "vit"}', '{"architecture": "resnet50"}']
)
def test_another_models_config_beside_a_file_is_not_taken_for_a_detectors(config, tmp_path, state):
    (tmp_path / "config.json").write_text(config)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=r"does not say its architecture; make it .*minigslora fetch"):
        checkpoint.load(tmp_path / "m.safetensors")


def test_weights_that_do_not_fit_the_config_beside_them(tmp_path, state):
    tiny.detector().save_pretrained(tmp_path)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors does not fit .*config\.json"):
        checkpoint.load(tmp_path / "other.safetensors")


# --- files of others --------------------------------------------------------------------------------------


def prefixed(state, prefix):
    return {prefix + k: v for k, v in state.items()}


WRAPPED = {
    "plain": lambda s: s,
    "data parallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "both": lambda s: prefixed(s, "module._orig_mod."),
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "epoch": 3, "global_step": 9},
    "backbone": lambda s: prefixed(s, "backbone."),
    "own head": lambda s: {k if k.startswith("head") else f"backbone.{k}": v for k, v in s.items()},
    "network": lambda s: {"model_state_dict": prefixed(s, "network.")},
    "averaged": lambda s: {"n_averaged": torch.tensor(5), **prefixed(s, "module.")},
    "net": lambda s: {"net": s, "acc": 0.5},
    "nested": lambda s: {"model": {"state_dict": s}},
    "namespace": lambda s: {
        "state_dict": s,
        "args": argparse.Namespace(out=Path("x"), n=argparse.Namespace(a=1)),
    },
    "optimiser": lambda s: {
        "model": s,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "best": None,
    },
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".safetensors", ""])
def test_a_training_scripts_file_is_read(wrap, ending, tmp_path, state):
    path = tmp_path / f"mine{ending}"
    torch.save(wrap(state), path)
    tensors, notes = load_tensors(path)
    model = checkpoint.with_weights(checkpoint.card_from(CARD, "here"), tensors, str(path))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert notes == {}
    again = small(seed=5)
    checkpoint.load_weights(again, tensors, str(path))
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())


def test_safetensors_are_read_whatever_the_ending_and_without_prefixes(tmp_path, state):
    save_file(prefixed(state, "module."), tmp_path / "mine.pth")
    model = small(seed=5)
    checkpoint.load_weights(model, load_tensors(tmp_path / "mine.pth")[0], "mine")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_names_that_a_model_has_itself_keep_their_prefix():
    wrapper = nn.Sequential()
    wrapper.add_module("model", nn.Linear(2, 2))
    own = wrapper.state_dict()
    assert plain_names(own, own) == own
    assert plain_names({f"module.{k}": v for k, v in own.items()}, own).keys() == own.keys()
    clash = {"model.weight": 1, "weight": 2}
    assert plain_names(clash) == clash


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda s, e: {"state_dict": s, "state_dict_ema": e}, "state_dict_ema"),
        (lambda s, e: {"model": s, "model_ema": e}, "model_ema"),
        (lambda s, e: {"model": s, "model_ema": WRAPPED["averaged"](e)}, "model_ema"),
        (lambda s, e: {"model_ema": {"state_dict": e}, "model": s}, "model_ema.state_dict"),
        (lambda s, e: {"state_dict": e, "state_dict_ema": None}, ""),
        (lambda s, e: {"model": e, "model_ema": {}}, ""),
        (lambda s, e: {"model": e, "model_ema": 0.999}, ""),
    ],
)
def test_the_moving_average_is_taken_and_said(wrap, taken, tmp_path, state):
    average = small(seed=7).state_dict()
    torch.save(wrap(state, average), tmp_path / "mine.pth")
    tensors, notes = load_tensors(tmp_path / "mine.pth")
    model = small(seed=5)
    checkpoint.load_weights(model, tensors, "mine")
    assert all(torch.equal(v, average[k]) for k, v in model.state_dict().items())
    assert notes == ({"taken": f"the moving average, {taken!r},"} if taken else {})


@pytest.mark.parametrize(
    ("more", "classes"),
    [
        ({"class_to_idx": {"b": 0, "a": 2, "c": 1}}, ("b", "c", "a")),
        ({"idx_to_class": {0: "x", 1: "y"}}, ("x", "y")),
        ({"idx_to_class": {"1": "y", "0": "x"}}, ("x", "y")),
        ({"classes": ["2", "10"]}, ("2", "10")),
        ({"class_names": ("b", "a")}, ("b", "a")),
        ({"args": argparse.Namespace(classes=["q", "p"])}, ("q", "p")),
        ({"hyper_parameters": {"class_names": ["q", "p"]}}, ("q", "p")),
        ({"classes": 4}, None),
        ({"classes": []}, None),
        ({"classes": {}}, None),
    ],
)
def test_the_classes_that_a_file_names_are_in_its_notes(more, classes, tmp_path, state):
    torch.save({"state_dict": state, **more}, tmp_path / "m.pth")
    assert load_tensors(tmp_path / "m.pth")[1].get("classes") == classes
    if classes and "args" not in more and "hyper_parameters" not in more:
        notes = {k: json.dumps(v) for k, v in more.items()}
        save_file(state, tmp_path / "m.safetensors", metadata=notes)
        assert load_tensors(tmp_path / "m.safetensors")[1]["classes"] == classes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"class_to_idx": {"a": 0, "b": 2}}, "does not number its 2 classes 0 to 1, each once"),
        ({"class_to_idx": {"a": 1, "b": 1}}, "does not number its 2 classes"),
        ({"class_to_idx": {"a": 1, "b": 2}}, "does not number its 2 classes"),
        ({"classes": ["a", "b", "a"]}, "names a class twice"),
    ],
)
def test_classes_that_cannot_be_a_heads_are_refused(more, message, tmp_path, state):
    torch.save({"state_dict": state, **more}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=message):
        load_tensors(tmp_path / "m.pth")


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def a_zip(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)


def legacy(path, value):
    torch.save(value, path, _use_new_zipfile_serialization=False)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 343245508\n"
WRONG_FILES = {
    "lfs pointer": (
        lambda p, s: p.write_bytes(POINTER),
        r"Git LFS pointer, not .* of 343,245,508 bytes.*lfs pull",
    ),
    "empty": (lambda p, s: p.write_bytes(b""), r"is empty \(0 bytes\)"),
    "page": (lambda p, s: p.write_bytes(b"<!DOCTYPE html><html>"), "is a web page"),
    "page after blanks": (lambda p, s: p.write_bytes(b"\xef\xbb\xbf\n <HTML lang=en>"), "is a web page"),
    "xml": (lambda p, s: p.write_bytes(b'<?xml version="1.0"?><Error>'), "is a web page"),
    "json": (lambda p, s: p.write_bytes(b'{"error": "gated"}'), "is JSON text, not weights"),
    "index": (
        lambda p, s: p.write_bytes(b'{"metadata": {}, "weight_map": {"a": "1"}}'),
        "index of weights that lie in sev",
    ),
    "cut safetensors": (lambda p, s: (save_file(s, p), cut(p)), r"is cut short \([\d,]+ of [\d,]+ bytes\)"),
    "cut in the header": (lambda p, s: (save_file(s, p), cut(p, 0.005)), "is cut short after"),
    "cut zip": (lambda p, s: (torch.save(s, p), cut(p)), "is cut short after"),
    "cut pickle": (
        lambda p, s: p.write_bytes(pickle.dumps({"a": [1] * 99}, protocol=2)[:-20]),
        "is cut short after",
    ),
    "cut old torch": (lambda p, s: (legacy(p, s), cut(p, 0.9)), "is cut short|was refused: it is damaged"),
    "one byte": (lambda p, s: p.write_bytes(b"\x80"), "no weight file of a kind"),
    "hdf5": (lambda p, s: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5 file, as Keras writes"),
    "gguf": (lambda p, s: p.write_bytes(b"GGUF" + bytes(99)), "GGUF file"),
    "npy": (lambda p, s: np.save(p.open("wb"), np.ones(3)), "a NumPy array"),
    "npz": (lambda p, s: np.savez(p.open("wb"), w=np.ones(3)), "NumPy archive, as the JAX vision"),
    "gzip": (lambda p, s: p.write_bytes(b"\x1f\x8b\x08" + bytes(99)), "packed by gzip; unpack"),
    "tar": (lambda p, s: p.write_bytes(bytes(257) + b"ustar" + bytes(99)), "a tar archive; unpack"),
    "picture": (lambda p, s: p.write_bytes(b"\x89PNG\r\n"), "is a picture"),
    "other zip": (lambda p, s: a_zip(p, a__txt="x"), "zip archive without torch's weights"),
    "torchscript": (
        lambda p, s: torch.jit.script(nn.Linear(2, 2)).save(str(p)),
        "TorchScript program, whose code",
    ),
    "whole model": (lambda p, s: torch.save(small(), p), r"it holds timm\.models\..*VisionTransf"),
    "old whole model": (
        lambda p, s: legacy(p, nn.Linear(2, 2)),
        r"it holds torch\.nn\.modules\.linear\.Linear",
    ),
    "a function": (lambda p, s: torch.save({"state_dict": s, "f": os.system}, p), "it holds posix.system"),
    "text": (lambda p, s: p.write_text("weights: yes"), "no weight file of a kind"),
    "zeros": (lambda p, s: p.write_bytes(bytes(5000)), "no weight file of a kind"),
    "header no json": (
        lambda p, s: p.write_bytes(struct.pack("<Q", 4) + b"{abc"),
        "is not a readable safetensors",
    ),
    "header a list": (
        lambda p, s: p.write_bytes(struct.pack("<Q", 6) + b'{"a":1'),
        "is not a readable safetensors",
    ),
    "header too deep": (
        lambda p, s: p.write_bytes(struct.pack("<Q", 90000) + b'{"a":' * 18000),
        "not a readable saf",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize(("write", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_what_is_no_weight_file_is_named(write, message, ending, tmp_path, state):
    path = tmp_path / f"weights{ending}"
    write(path, state)
    with pytest.raises(ModelError, match=message):
        load_tensors(path)


def test_a_folder_is_named_with_what_is_in_it(tmp_path, state):
    with pytest.raises(ModelError, match="is a folder; give the weight file"):
        load_tensors(tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"is a folder; give a file in it: model\.safetensors"):
        load_tensors(tmp_path)


# --- why weights do not fit ---------------------------------------------------------------------------------


def without(state, *keys):
    return {k: v for k, v in state.items() if k not in keys}


def spoilt(state, value, key="blocks.1.mlp.fc1.weight"):
    broken = {k: v.clone() for k, v in state.items()}
    broken[key].view(-1)[3] = value
    return broken


def of_kind(kind):
    return {k: v.to(kind) for k, v in small().state_dict().items()}


CAUSES = {
    "rows": (lambda: small(1000).state_dict(), "its head has 1000 classes, and 3 are asked for"),
    "fewer rows": (lambda: small(2).state_dict(), "its head has 2 classes, and 3 are asked for"),
    "image size": (
        lambda: small(img_size=64).state_dict(),
        r"of 64 pixels .*\(--image-size 64, or img_size=64\)",
    ),
    "smaller images": (lambda: small(img_size=16).state_dict(), "of 16 pixels a side"),
    "rows and size": (
        lambda: small(10, img_size=48).state_dict(),
        "has 10 classes, and 3 .*; and it was .* 48 ",
    ),
    "no bias": (lambda: without(small().state_dict(), "head.bias"), "its classifier has no bias.*add zeros"),
    "no head": (lambda: without(small().state_dict(), "head.bias", "head.weight"), "it has no classifier"),
    "NaN": (
        lambda: spoilt(small().state_dict(), torch.nan),
        r"NaN or infinity in 1 of its \d+ .*'blocks\.1.*'\), before",
    ),
    "infinity": (
        lambda: spoilt(small().state_dict(), -torch.inf, "norm.bias"),
        r"NaN or infinity .*'norm\.bias'",
    ),
    "NaN in half": (lambda: spoilt(small().bfloat16().state_dict(), torch.nan), "NaN or infinity"),
    "quantised": (lambda: of_kind(torch.int8), "is torch.int8: give the weights unquantised"),
    "complex": (lambda: of_kind(torch.complex64), "is torch.complex64: give the weights"),
    "depth": (lambda: small(depth=3).state_dict(), "another architecture .*: 0 missing, 12 unexp"),
    "width": (lambda: small(embed_dim=48).state_dict(), r"another arch.*another shape.*\(1, 1, 48\) in the"),
    "other model": (lambda: nn.Linear(2, 2).state_dict(), "another architecture"),
}


@pytest.mark.parametrize(("make", "message"), CAUSES.values(), ids=CAUSES)
def test_each_cause_of_a_misfit_has_its_message(make, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        checkpoint.with_weights(checkpoint.card_from(CARD, "here"), make(), "mine.pth")


WINDOWS = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": (1, 1),
    "num_heads": (2, 2),
    "window_size": 4,
}
SIZES = [
    ("beit_base_patch16_224", SMALL, 48),
    ("eva02_tiny_patch14_224", SMALL, 64),
    ("vit_small_patch14_dinov2", SMALL, 56),
    ("deit3_small_patch16_224", SMALL, 24),
]


@pytest.mark.parametrize(("name", "sizes", "size"), SIZES)
def test_the_image_size_is_found_for_other_architectures(name, sizes, size):
    weights = timm.create_model(name, num_classes=3, **{**sizes, "img_size": size}).state_dict()
    card = checkpoint.for_classes(checkpoint.timm_card(name, sizes), "abc")
    with pytest.raises(ModelError, match=f"of {size} pixels a side"):
        checkpoint.with_weights(card, weights, "mine")


def test_a_model_with_nan_is_refused_before_it_is_trained():
    model = tiny.face_model()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(
        ModelError, match=r"the model holds NaN or infinity in 1 .*before anything was trained"
    ):
        forget(model, tiny.faces(), classes=[1], device="cpu", watch=False, check=False, **tiny.QUICK)


def test_a_detector_with_nan_is_refused_too():
    model = tiny.detector()
    with torch.no_grad():
        model.class_embed[-1].bias[0] = torch.inf
    with pytest.raises(ModelError, match=r"the model holds NaN or infinity .*before anything was trained"):
        Detection(model, mini_scenes.load(counts=tiny.SCENES), device="cpu")


def test_the_documented_way_to_give_a_file_a_card(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "data" / "checkpoints.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})
    model, card = checkpoint.load(tmp_path / "mine.safetensors")
    assert (card.classes, model.patch_embed.img_size) == (("ant", "bee", "cat"), (32, 32))


# --- reproducible bytes -----------------------------------------------------------------------------------


def test_the_same_tensors_and_notes_are_the_same_bytes(tmp_path, state):
    notes = {
        "format": "pt",
        "card": CARD,
        "ü": 'grüße \n \x1f \\ " / \u2028 😀',
        **{f"k{i}": i for i in range(9)},
    }
    written = []
    for i in range(12):
        save_tensors(
            tmp_path / f"{i}.safetensors", state, dict(sorted(notes.items(), key=lambda p: hash((i, p[0]))))
        )
        written.append((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(set(written)) == 1
    tensors, read = load_tensors(tmp_path / "0.safetensors")
    assert read == notes
    assert all(torch.equal(v, load_file(tmp_path / "0.safetensors")[k]) for k, v in tensors.items())


def test_the_same_bytes_from_another_process(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from minigslora.files import save_tensors; "
        "save_tensors(Path(sys.argv[1]), {'w': torch.ones(3)}, {k: k for k in 'abcdefgh'})"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "x"], check=True)
    save_tensors(tmp_path / "y", {"w": torch.ones(3)}, {k: k for k in "abcdefgh"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


# --- other precisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("head", ["linear", "cosface"])
def test_a_model_in_another_precision_is_served_in_its_own(kind, head):
    model = tiny.face_model(head=head).to(kind)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    done = forget(model, tiny.faces(), classes=[1], device="cpu", watch=False, check=False, **tiny.QUICK)
    assert done.table().acc_f.notna().all()
    assert {p.dtype for n, p in model.named_parameters() if "adapters" not in n} == {kind}
    lora.remove(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", ["finetune", "retrain", "lwf"])
def test_a_method_that_trains_weights_takes_double_precision_and_says_why_not_half(method):
    quick = {"epochs": 1, "batch_retain": 8, "device": "cpu", "watch": False}
    double = tiny.face_model().double()
    assert len(forget(double, tiny.faces(), classes=[1], method=method, check=False, **quick).reports) == 1
    with pytest.raises(ModelError, match=r"trains weights in torch\.bfloat16.*model\.float\(\)"):
        forget(tiny.face_model().bfloat16(), tiny.faces(), classes=[1], method=method, check=False, **quick)


# --- the feed-forward networks of a block -----------------------------------------------------------------


WINDOWS = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": (1, 1),
    "num_heads": (2, 2),
    "window_size": 4,
}
POSITIONS = {
    "vit_relpos_small_patch16_224": SMALL,
    "vit_srelpos_small_patch16_224": SMALL,
    "vit_relpos_base_patch16_clsgap_224": SMALL,
    "vit_relpos_medium_patch16_rpn_224": SMALL,
    "swinv2_cr_tiny_224": WINDOWS,
    "swinv2_tiny_window8_256": WINDOWS,
    "swin_tiny_patch4_window7_224": WINDOWS,
    "beit_base_patch16_224": SMALL,
}


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("targets", ["ffn", "attention", "ffn+attention"])
def test_only_a_blocks_own_ffn_is_one_and_positions_are_neither(name, targets):
    model = timm.create_model(name, num_classes=3, **POSITIONS[name])
    names = lora.find_linears(model, targets)
    ffn = [n for n in names if re.search(r"blocks\.\d+\.mlp\.fc[12]$", n)]
    attention = [n for n in names if re.search(r"blocks\.\d+\.attn\.(qkv|proj)$", n)]
    assert sorted(ffn + attention) == sorted(names)
    assert len(ffn) == (4 if "ffn" in targets else 0)
    assert len(attention) == (4 if "attention" in targets else 0)
    assert set(lora.find_blocks(model).values()) == {
        n.rpartition(".mlp")[0] for n in lora.find_linears(model)
    }


def test_a_model_with_relative_positions_is_served():
    model = small(6, "vit_relpos_small_patch16_224", img_size=48)
    done = forget(
        model, tiny.faces(), classes=[1], device="cpu", watch=False, check=False, **{**tiny.QUICK, "rank": 8}
    )
    assert done.table().acc_f.notna().all()


class PlainCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timm.create_model("resnet18", num_classes=3), r"only .* the classifier 'fc'.*Give a vision"),
        (lambda: timm.create_model("test_resnet", num_classes=3), r"only .* the classifier 'fc'"),
        (lambda: timm.create_model("test_convnext", conv_mlp=True), r"only .* the classifier 'head\.fc'"),
        (PlainCNN, r"only .* the classifier 'fc'"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), "it has none at all.*Give a vision transformer"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "name the layers yourself, from: 0, 1"),
    ],
)
def test_a_network_without_ffns_is_not_told_to_adapt_its_classifier(make, message):
    with pytest.raises(ModelError, match=message):
        lora.find_linears(make())


# --- from nothing -------------------------------------------------------------------------------------------


STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
ARCHITECTURES = {
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch14_dinov2": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "test_vit": {},
    "test_vit3": {},
    "deit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "deit3_small_patch16_224": SMALL,
    "beit_base_patch16_224": SMALL,
    "beitv2_base_patch16_224": SMALL,
    "eva02_tiny_patch14_224": SMALL,
    "eva_large_patch14_196": SMALL,
    "cait_xxs24_224": SMALL,
    "convnext_atto": STAGES,
    "convnextv2_atto": STAGES,
    "swin_tiny_patch4_window7_224": WINDOWS,
    "swinv2_tiny_window8_256": WINDOWS,
    "swinv2_cr_tiny_224": WINDOWS,
    "vit_relpos_small_patch16_224": SMALL,
    "vit_srelpos_small_patch16_224": SMALL,
    "xcit_nano_12_p16_224": {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "resnet18": {},
}


def parameters(model):
    return {k: p.detach().clone() for k, p in model.named_parameters()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_is_drawn_anew(name):
    model, reference = (timm.create_model(name, num_classes=3, **ARCHITECTURES[name]) for _ in range(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.25)
    torch.manual_seed(1)
    fresh.redraw(model)
    one = parameters(model)
    torch.manual_seed(2)
    fresh.redraw(model)
    other = parameters(model)
    for key, start in reference.named_parameters():
        constant = start.numel() < 2 or bool((start == start.flatten()[0]).all())
        assert not (one[key] == 7.25).any(), key
        if constant:  # the start that the architecture gives it
            assert torch.equal(one[key], start), key
        else:
            assert not torch.equal(one[key], other[key]), key
            assert start.numel() < 50 or 0.5 < one[key].std() / start.std() < 2, key


def test_a_fresh_model_of_a_problem_is_drawn_by_seed_and_in_the_models_precision():
    model = small(6, "beit_base_patch16_224", img_size=48).bfloat16()
    problem = Classification(model, tiny.faces(), device="cpu")
    before = parameters(model)
    one, same, other = (parameters(problem.fresh_model(Streams(seed))) for seed in (0, 0, 1))
    assert all(torch.equal(v, same[k]) and v.dtype == torch.bfloat16 for k, v in one.items())
    assert not torch.equal(one["cls_token"], other["cls_token"])
    assert not torch.equal(one["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])
    assert all(torch.equal(v, before[k]) for k, v in parameters(model).items())


class Own(nn.Module):
    """Someone's own network: tokens, a scale, a norm, a layer."""

    def __init__(self, scale=False):
        super().__init__()
        self.tokens = nn.Parameter(torch.full((1, 4, 8), 7.25))
        self.layer, self.norm = nn.Linear(8, 3), nn.LayerNorm(8)
        if scale:
            self.scale = nn.Parameter(torch.full((8,), 7.25))


def test_someones_own_network_is_drawn_anew_or_refused():
    model = Own()
    nn.init.constant_(model.norm.weight, 7.25)
    fresh.redraw(model)
    assert 0 < model.tokens.std() < 0.04
    assert torch.equal(model.norm.weight, torch.ones(8))
    with pytest.raises(ModelError, match=r"'scale' of this Own cannot be drawn anew.*reset_parameters"):
        fresh.redraw(Own(scale=True))


def test_a_vision_transformer_built_by_hand_and_one_whose_head_was_changed():
    by_hand = VisionTransformer(**SMALL, num_classes=3, init_values=1e-5, reg_tokens=2)
    changed = small(3, "beit_base_patch16_224")
    changed.reset_classifier(5)
    for model in (by_hand, changed):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.25)
        fresh.redraw(model)
        assert not any((p == 7.25).any() or p.isnan().any() for p in model.parameters())


# --- the command line ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for shade, name in enumerate(["ant", "bee", "cat"]):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (32, 32, 3)) + 70 * shade
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def command(photos, weights, out, *more):
    quick = ["--set", "epochs=1", "--set", "rank=2", "--device", "cpu", "--ratio", "0.5"]
    files = ["--weights", str(weights), "--data", str(photos), "--out", str(out)]
    return ["forget", *files, "--classes", "bee", *quick, *more]


OWN = [f"--model-args={k}={v}" for k, v in SMALL.items() if k != "img_size"]


def said(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code, capsys.readouterr()


def test_ones_own_vit_is_described_by_its_arguments(photos, tmp_path, capsys, state):
    torch.save({"model": state, "model_ema": prefixed(state, "module.")}, tmp_path / "mine.pth")
    own = ["--model", NAME, *OWN, "--image-size", "32"]
    own = [*own, "--no-check"]
    code, printed = said(command(photos, tmp_path / "mine.pth", tmp_path / "out", *own), capsys)
    assert code in (0, 3)  # 3: so short an erasure may not have changed anything
    assert "the moving average, 'model_ema', of mine.pth is taken" in printed.err
    erased, card = checkpoint.load(tmp_path / "out" / "erased.safetensors")
    assert card.architecture == {"kind": "timm", "name": NAME, "classes": 3, **SMALL}
    assert (card.classes, card.image_size) == (("ant", "bee", "cat"), 32)
    plain = small(seed=3)
    plain.load_state_dict(load_file(tmp_path / "out" / "erased.safetensors"), strict=True)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in erased.state_dict().items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", NAME, *OWN], "of 32 pixels a side; take that size (--image-size 32"),
        (["--model", NAME, *OWN, "--image-size", "40"], "(--image-size 32"),
        (["--model", NAME, *OWN, "--image-size", "32", "--model-args", "img_size=40"], "img_size=40 differ"),
        (["--model", NAME, "--image-size", "32"], "another architecture"),
        (["--model", NAME, "--model-args", "checkpoint_path=x.pth"], "'checkpoint_path' is no argument"),
        (["--model", NAME, "--model-args", "patchsize=8"], "did you mean 'patch_size'?"),
        (["--model", NAME, "--model-args", "depth=-1"], "depth = -1; expected 1 to 256"),
        (["--model", NAME, "--model-args", "depth"], "'depth' is no setting; expected KEY=VALUE"),
        (["--model", NAME, "--model-args", "num_heads=7"], "timm cannot build"),
        (["--model", NAME, *OWN, "--image-size", "32", "--std", "0,0,0"], "images are divided by it"),
        (["--model", "vit_smal_patch16_224"], "did you mean vit_small_patch16_224"),
        (["--model", "vit_base_patch16_242"], "did you mean vit_base_patch16_224"),
        (["--model", "deit_tiny_patch_224"], "deit_tiny_patch16_224"),
        (["--model", "my_own_network"], "timm has no model 'my_own_network'; timm.list_models"),
        (["--model-args", "depth=2"], "--model-args goes with --model NAME"),
        ([], "does not say its architecture; name it (--model NAME)"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_model(more, message, photos, tmp_path, capsys, state):
    save_file(state, tmp_path / "mine.safetensors")
    code, printed = said(command(photos, tmp_path / "mine.safetensors", tmp_path / "out", *more), capsys)
    assert code == 2
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_a_head_of_another_number_of_classes(photos, tmp_path, capsys):
    save_file(small(1000).state_dict(), tmp_path / "mine.safetensors")
    own = ["--model", NAME, *OWN, "--image-size", "32"]
    code, printed = said(command(photos, tmp_path / "mine.safetensors", tmp_path / "out", *own), capsys)
    assert (code, "its head has 1000 classes, and 3 are asked for" in printed.err) == (2, True)


def test_commands_without_that_option_do_not_name_it(tmp_path, state):
    save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(ModelError) as problem:
        checkpoint.load(tmp_path / "mine.safetensors")
    assert "--model" not in str(problem.value)
    assert isinstance(problem.value, MiniGSLoRAError)
    assert not isinstance(problem.value, DataError)


def test_a_fetched_checkpoint_says_which_weights_it_is_of(tmp_path):
    weights = timm.create_model("test_vit", num_classes=3).state_dict()
    torch.save(
        {"state_dict": {}, "state_dict_ema": prefixed(weights, "module."), "classes": ["c", "a", "b"]},
        tmp_path / "w.pth",
    )
    model, card = pretrained.load("test_vit", tmp_path / "w.pth")
    assert card.classes == ("c", "a", "b")
    assert "state_dict_ema" in card.notes["taken"]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
