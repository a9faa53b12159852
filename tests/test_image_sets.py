"""mini-glyphs, ImageNet's kin in their layouts, CIFAR-100 in its files."""

import functools
import json
import pickle
from urllib.error import URLError

import joblib
import numpy as np
import pytest
import torch
import torchvision
from matplotlib.ft2font import FT2Font
from test_folders import photo, tree

from minigslora.datasets import downloaded, folders, imagenet, registry
from minigslora.datasets.images import augment
from minigslora.datasets.rendered import mini_glyphs
from minigslora.errors import DataError
from minigslora.pretraining import make_checkpoint, recipe_for

A, B, C = "n01440764", "n01443537", "n02099601"


# --- mini-glyphs ------------------------------------------------------------------------------------


def test_a_hundred_characters_in_the_task_and_a_hundred_outside():
    assert len(mini_glyphs.CHARACTERS) == len(set(mini_glyphs.CHARACTERS)) == 200
    assert len(mini_glyphs.TASK) == len(mini_glyphs.OUTSIDE) == 100
    assert sorted(mini_glyphs.TASK + mini_glyphs.OUTSIDE) == list(mini_glyphs.CHARACTERS)
    assert not any(c.isdecimal() or c in ", " for c in mini_glyphs.CHARACTERS)  # names in commands


def test_every_font_has_every_character():
    for name in mini_glyphs.FONTS:
        there = FT2Font(str(mini_glyphs.font_file(name))).get_charmap()
        assert not [c for c in mini_glyphs.CHARACTERS if ord(c) not in there], name


def test_pictures_are_the_same_whatever_else_is_rendered():
    few, more = (mini_glyphs.render("A", "test", count) for count in (3, 3))
    assert torch.equal(few, more)
    assert few.shape == (3, 3, 32, 32)
    assert few.dtype == torch.uint8
    assert not torch.equal(few, mini_glyphs.render("A", "train", 3))
    assert not torch.equal(few, mini_glyphs.render("B", "test", 3))


def test_parts_of_mini_glyphs_share_their_pictures(data_root):
    counts = {"test": 2, "train": 2, "val": 1}
    whole, task, outside = (mini_glyphs.load(part, counts) for part in ("all", "task", "outside"))
    assert (len(whole.train), len(task.val), len(outside.test)) == (400, 100, 200)
    assert (task.classes, outside.classes) == (mini_glyphs.TASK, mini_glyphs.OUTSIDE)
    assert (task.name, outside.name, whole.mirrored) == ("mini-glyphs", "mini-glyphs-outside", False)
    for part in (task, outside):
        for label in (0, 57):
            place = mini_glyphs.CHARACTERS.index(part.classes[label])
            own, there = part.test.labels == label, whole.test.labels == place
            assert torch.equal(part.test.images[own], whole.test.images[there])


def test_characters_are_not_mirrored_by_the_augmentation():
    half = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
    half[..., :16] = 200
    moved = [augment(half, torch.Generator().manual_seed(1), mirrored) for mirrored in (True, False)]
    lighter_left = [(m[..., :12].mean(dim=(1, 2, 3)) > m[..., 20:].mean(dim=(1, 2, 3))) for m in moved]
    assert lighter_left[1].all()
    assert 0 < int(lighter_left[0].sum()) < 16


def test_the_outside_of_a_data_set_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(mini_glyphs, "COUNTS", {"train": 1, "val": 1, "test": 1})
    assert registry.outside("mini-faces", ("person-000",)) is None
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    assert registry.outside("imagenet100", (A,)) is None  # no ImageNet here
    tree(tmp_path / "imagenet", val={A: 1, B: 2, C: 1})
    others = registry.outside("imagenet100", (A,), 8)
    assert (others.classes, len(others)) == ((B, C), 3)


# --- ImageNet and its kin ---------------------------------------------------------------------------


def load(root, classes=0):
    return folders.load(root, 8, "imagenet100", find=functools.partial(imagenet.splits, classes=classes))


def made(root, train=(A, B), val=(A, B)):
    return tree(root, train=dict.fromkeys(train, 10), val=dict.fromkeys(val, 2))


def test_wnid_folders_are_read_in_the_order_of_the_head(tmp_path):
    data = load(made(tmp_path, (B, A), (A, B)), classes=2)
    assert (data.name, data.classes) == ("imagenet100", (A, B))
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 4)


def test_names_come_from_either_metadata_file(tmp_path):
    assert imagenet.names(tmp_path) == {}
    (tmp_path / "Labels.json").write_text(json.dumps({A: "tench"}))
    assert imagenet.names(tmp_path) == {A: "tench"}
    (tmp_path / "words.txt").write_text(f"{A}\ttench, Tinca tinca\n{B}\tgoldfish\n")
    assert imagenet.names(tmp_path)[A] == "tench, Tinca tinca"
    (tmp_path / "words.txt").unlink()
    (tmp_path / "Labels.json").write_text("[1]")
    with pytest.raises(DataError, match=r"Labels\.json is no JSON of the form {WNID: names}"):
        imagenet.names(tmp_path)


@pytest.mark.parametrize(
    ("train", "val", "listed", "message"),
    [
        (
            (A, "tench"),
            (A,),
            "",
            r"the folder .*train.tench is not named by a WordNet id; expected .* Rename",
        ),
        ((A, B), (A,), f"{A}\n{B}", rf"val has no image of {B} \(goldfish\), which .*\(1 of 2 classes"),
        ((A, B, C), (A, B, C), f"{A} {B}", rf"class folder {C}, which .*wnids.txt does not list; remove"),
        ((A, B), (A,), "", rf"val has no image of {B} \(goldfish\), which train/ has"),
        ((A, B), (A, B), f"{A}\nfish", r"entry 2: 'fish' is no WordNet id such as n01440764"),
        ((A, B), (A, B), f"{A}\n{A}", rf"entry 2: {A} is listed twice"),
        ((A, B), (A, B), "", r"train has 2 class folders, not 3; remove those"),
    ],
)
def test_class_folders_that_cannot_be_are_named(tmp_path, train, val, listed, message):
    made(tmp_path, train, val)
    (tmp_path / "words.txt").write_text(f"{B}\tgoldfish\n")
    if listed:
        (tmp_path / "wnids.txt").write_text(listed)
    with pytest.raises(DataError, match=message):
        load(tmp_path, classes=3)


def as_distributed(root):
    """Write Tiny-ImageNet's own layout."""
    for wnid in (A, B):
        for i in range(10):
            photo(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (i, 0, 0))
    lines = []
    for i, wnid in enumerate((B, A, B)):
        photo(root / "val" / "images" / f"val_{i}.JPEG", (0, 100 + i, 0))
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text(f"{B}\n{A}\n")
    return root


def test_both_layouts_of_tiny_imagenet(tmp_path, monkeypatch):
    own = load(as_distributed(tmp_path / "tiny-imagenet-200"))
    assert own.classes == (A, B)
    assert (len(own.train), len(own.val), len(own.test)) == (18, 2, 3)
    greens = [round(float(own.test.images[i, 1].float().mean())) for i in range(3)]
    assert own.test.labels.tolist() == [0, 1, 1]
    assert [abs(a - b) <= 2 for a, b in zip(greens, (101, 100, 102), strict=True)] == [True] * 3
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path / "other"))
    made(tmp_path / "other" / "tiny_imagenet32")
    assert registry.load("tiny-imagenet", 8).classes == (A, B)


def test_annotations_that_do_not_fit_are_named(tmp_path):
    root = as_distributed(tmp_path)
    notes = root / "val" / "val_annotations.txt"
    notes.write_text(f"gone.JPEG\t{A}\n")
    with pytest.raises(DataError, match=r"names gone\.JPEG, which is not in val.images"):
        load(root)
    notes.write_text(f"val_0.JPEG\t{C}\n")
    with pytest.raises(DataError, match=f"names the class {C}, which train/ lacks"):
        load(root)
    (root / "train").rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"has val/val_annotations\.txt but no folder .*train; unpack"):
        load(root)


def test_nothing_outside_the_task_is_an_error(tmp_path):
    with pytest.raises(DataError, match="val has no class folder outside the task; expected val/WNID"):
        imagenet.outside(made(tmp_path), (A, B), 8)


def test_data_sets_that_are_not_here_say_what_is_expected(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"imagenet100 is not below .* expected train/WNID/\*\.JPEG and val"):
        registry.load("imagenet100")


# --- CIFAR-100 --------------------------------------------------------------------------------------


def write_cifar(root, classes=4, each=20):
    """Write small files in the format of cifar-100-python."""
    folder = root / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        labels = [c for c in range(classes) for _ in range(each)]
        pixels = np.zeros((len(labels), 3072), np.uint8)
        pixels[:, :1024] = np.array(labels)[:, None]  # the red plane says the class
        batch = {"data": pixels, "fine_labels": labels, "coarse_labels": labels}
        (folder / split).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"kind{c}" for c in range(classes)]}))


def test_cifar_is_read_from_its_files_and_a_tenth_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    write_cifar(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    data = registry.load("cifar100")
    assert data.classes == ("kind0", "kind1", "kind2", "kind3")
    assert [len(s) for s in (data.train, data.val, data.test)] == [72, 8, 80]
    for split in (data.train, data.val, data.test):
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)
        assert not split.images[:, 1:].any()
    assert data.val.labels.bincount().tolist() == [2, 2, 2, 2]
    assert downloaded.cifar100(16).train.images.shape == (72, 3, 16, 16)


def write_olivetti(root):
    """Write faces of one grey each in the format that scikit-learn keeps; ten in a row are one person's."""
    (root / "olivetti").mkdir()
    faces = np.repeat(np.linspace(0, 1, 400, dtype=np.float32)[:, None], 4096, axis=1)
    joblib.dump(faces, root / "olivetti" / "olivetti_py3.pkz", compress=6)


def test_olivetti_is_split_by_person(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    write_olivetti(tmp_path)
    data = registry.load("olivetti")
    assert (len(data.classes), data.classes[7], data.train.images.shape) == (
        40,
        "person-07",
        (240, 3, 64, 64),
    )
    for split, count in downloaded.PHOTOGRAPHS.items():
        part = getattr(data, split)
        assert part.labels.bincount().tolist() == [count] * 40
        shade = part.images[:, 0, 0, 0].double() * 399 / 255  # a photograph's number, nearly
        assert ((shade / 10).floor() - part.labels).abs().max() <= 1
    again = downloaded.olivetti(48)
    assert again.test.images.shape == (120, 3, 48, 48)
    assert torch.equal(again.test.labels, data.test.labels)
    record = make_checkpoint(
        "olivetti", recipe_for("olivetti", "cpu", epochs=1), tmp_path / "o.safetensors", "cpu"
    )
    assert record["architecture"]["classes"] == 40


def test_olivetti_that_cannot_be_downloaded_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(**_):
        raise URLError("no network")

    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets.fetch_olivetti_faces", unreachable)
    with pytest.raises(
        DataError, match=r"no network.* put olivettifaces\.mat, as scikit-learn names it, into"
    ):
        registry.load("olivetti")


def test_cifar_that_cannot_be_downloaded_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "file:///nowhere/cifar-100-python.tar.gz")
    expected = r"could not be downloaded from file:///nowhere.* put cifar-100-python\.tar\.gz into"
    with pytest.raises(DataError, match=expected):
        registry.load("cifar100")
