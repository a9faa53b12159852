"""Image folders and data sets by name."""

import functools
import operator
from concurrent.futures import wait

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from minigslora.datasets import folders, pictures, registry
from minigslora.errors import DataError
from minigslora.methods import create
from minigslora.problems.classification import Classification
from minigslora.rng import Streams
from minigslora.tasks import Setting, plan
from minigslora.training import train_task


def photo(path, colour, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def tree(root, **splits):
    """Write ``count`` photographs for each class of each split; a split "" has class folders only."""
    for split, classes in splits.items():
        for shade, (name, count) in enumerate(classes.items()):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                photo(root / split / name / f"{i}.png", (40 * shade, i, 0))
    return root


def test_train_and_test_folders(tmp_path):
    root = tree(tmp_path / "pets", train={"cat": 20, "ant": 10}, test={"cat": 3, "ant": 2})
    data = folders.load(root, 8)
    assert data.name == "pets"
    assert data.classes == ("ant", "cat")
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 5)
    assert data.train.images.shape == (27, 3, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert data.test.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.test.images[:, 0].float().mean(dim=(1, 2)).tolist() == [40, 40, 0, 0, 0]


def test_what_is_held_out_is_fixed_and_taken_from_training(tmp_path):
    root = tree(tmp_path, train={"a": 10, "b": 10}, test={"a": 1, "b": 1})
    one, two = folders.load(root, 8), folders.load(root, 8)
    assert torch.equal(one.val.images, two.val.images)
    shades = [s.images[s.labels == 0][:, 1, 0, 0].tolist() for s in (one.train, one.val)]
    assert sorted(functools.reduce(operator.iadd, shades, [])) == list(range(10))


def test_a_validation_folder_serves_as_test_where_there_is_no_other(tmp_path):
    with_val = tree(tmp_path / "a", train={"x": 10}, valid={"x": 2})
    data = folders.load(with_val, 8)
    assert (len(data.train), len(data.val), len(data.test)) == (9, 1, 2)
    all_three = tree(tmp_path / "b", train={"x": 10}, validation={"x": 3}, test={"x": 2})
    data = folders.load(all_three, 8)
    assert (len(data.train), len(data.val), len(data.test)) == (10, 3, 2)


@pytest.mark.parametrize(("count", "sizes"), [(20, (16, 2, 2)), (7, (6, 0, 1)), (2, (1, 0, 1))])
def test_class_folders_only_are_split_into_three_the_test_first(tmp_path, count, sizes):
    root = tree(tmp_path)
    for name in ("x", "y"):
        for i in range(count):
            photo(root / name / f"{i}.png", (i, 0, 0))
    data = folders.load(root, 8)
    assert [len(s) for s in (data.train, data.val, data.test)] == [2 * n for n in sizes]


def test_images_are_resized_by_the_shorter_side_and_cropped(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert torch.equal(pictures.read(tmp_path / "wide.png", 10), torch.full((3, 10, 10), 200).byte())
    assert pictures.read(tmp_path / "wide.png", 7).shape == (3, 7, 7)
    Image.new("L", (5, 5), 9).save(tmp_path / "grey.png")
    assert pictures.read(tmp_path / "grey.png", 6).shape == (3, 6, 6)


def test_large_splits_are_read_from_their_files(tmp_path, monkeypatch):
    root = tree(tmp_path, train={"a": 4, "b": 4}, test={"a": 2, "b": 2})
    whole = folders.load(root, 8)
    monkeypatch.setattr(pictures, "IN_MEMORY", 0)
    lazy = folders.load(root, 8)
    assert isinstance(lazy.train.images, pictures.ImageFiles)
    rows = torch.tensor([3, 0, 5])
    assert torch.equal(lazy.train.images[rows], whole.train.images[rows])
    assert lazy.image_size == 8
    assert len(lazy.train.to(torch.device("cpu")).images) == len(whole.train)


def test_what_is_asked_for_next_is_decoded_meanwhile_and_read_once(tmp_path, monkeypatch):
    for i in range(9):
        photo(tmp_path / f"{i}.png", (20 * i, 0, 0))
    files, reads = pictures.ImageFiles(tuple(tmp_path / f"{i}.png" for i in range(9)), 4), []
    plain = pictures.read
    monkeypatch.setattr(pictures, "read", lambda file, *how: reads.append(file.name) or plain(file, *how))
    parts = [files[part][:, 0, 0, 0].tolist() for part in torch.arange(9).split(4)]
    assert parts == [[0, 20, 40, 60], [80, 100, 120, 140], [160]]
    assert files[torch.tensor([8, 8, 2])][:, 0, 0, 0].tolist() == [160, 160, 40]
    assert sorted(reads) == sorted([*(f"{i}.png" for i in range(9)), "8.png", "2.png"])
    files.ahead([5, 6])
    wait(files._coming.values())
    (tmp_path / "6.png").unlink()
    (tmp_path / "7.png").write_bytes(b"no image")
    assert files[torch.tensor([6])][0, 0, 0, 0] == 120
    for _ in range(2):  # what could not be read is tried anew
        with pytest.raises(DataError, match=r"7\.png is not a readable image"):
            files[torch.tensor([5, 7])]
    photo(tmp_path / "7.png", (7, 0, 0))
    assert files[torch.tensor([5, 7])][:, 0, 0, 0].tolist() == [100, 7]


def test_training_asks_for_the_next_batch_while_it_works_on_one(tmp_path, monkeypatch):
    root = tree(tmp_path, train={"a": 6, "b": 6}, test={"a": 1, "b": 1})
    whole = folders.load(root, 48)
    monkeypatch.setattr(pictures, "IN_MEMORY", 0)
    lazy, asked, ahead = folders.load(root, 48), [], pictures.ImageFiles.ahead

    def noted(self, rows):
        asked.append(list(rows))
        ahead(self, asked[-1])

    monkeypatch.setattr(pictures.ImageFiles, "ahead", noted)
    found = []
    for data in (whole, lazy):
        problem = Classification(tiny.timm_vit(classes=2), data, device="cpu", precision="fp32")
        task = plan(data, Setting(requests=(1,), ratio=1.0), 0).tasks[0]
        method = create("gslora", epochs=1, batch_retain=2, batch_forget=2, rank=2)
        found.append(train_task(problem, method, task, Streams(0, "task1")))
    assert found[0] == found[1]
    assert [len(rows) for rows in asked if len(rows) == 4] == [4, 4]  # of three steps, all but the first


def damaged(root):
    (root / "train" / "a" / "0.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": {"a": 2}}, "has train/ but neither test/ nor val/; add one to measure on"),
        (
            {"train": {"a": 0}, "test": {"a": 1}},
            "train has no class folder with images; expected CLASS/image",
        ),
        ({"train": {"a": 1}, "test": {"a": 0}}, "test has no class folder with images"),
        ({"train": {"a": 2, "b": 0}, "test": {"a": 1}}, "the class folder .*b has no image; fill or remove"),
        ({"train": {"a": 2}, "test": {"a": 1, "z": 1}}, "has the class folder 'z', which .*train lacks"),
        (
            {"train": {"a": 2}, "val": {"a": 1, "y": 1}, "test": {"a": 1}},
            "val has the class folder 'y', which .*train lacks; add its training images, or remove it",
        ),
        ({"": {"a": 0}}, "has no class folder with images"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, splits, message):
    with pytest.raises(DataError, match=message):
        folders.load(tree(tmp_path, **splits), 8)


def test_a_missing_folder_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"no data folder at .*none; expected .*train.CLASS.image\.jpg"):
        folders.load(tmp_path / "none", 8)


def test_an_unreadable_image_is_named(tmp_path):
    root = tree(tmp_path, train={"a": 3}, test={"a": 1})
    for file in (root / "train" / "a").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a.\d\.png is not a readable image .*; remove or replace it"):
        folders.load(root, 8)


# --- by name ------------------------------------------------------------------------------------------------


def test_data_sets_by_name_and_by_folder(tmp_path, monkeypatch):
    root = tree(tmp_path / "casia_face100", train={"x": 4, "y": 4}, test={"x": 1, "y": 1})
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    assert registry.find("casia-face100") == root
    assert registry.load("casia-face100", 16).train.images.shape[-1] == 16
    assert registry.load(root, 16).name == "casia_face100"
    assert {"mini-faces", "casia-face100"} <= set(registry.names())


def test_data_sets_that_are_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"casia-face100 is not below .*train/IDENTITY.*MINIGSLORA_DATA"):
        registry.load("casia-face100")
    with pytest.raises(DataError, match=r"no data set 'mini-face': neither a folder nor one of mini-faces"):
        registry.load("mini-face")
    with pytest.raises(DataError, match=r"mini-faces is rendered at 48 pixels, not 64"):
        registry.load("mini-faces", 64)


def test_real_faces_load(casia):
    names = sorted(p.name for p in (casia / "train").iterdir() if p.is_dir())
    files = folders.class_files(casia / "train")
    assert list(files) == names
    assert pictures.read(files[names[0]][0], 48).shape == (3, 48, 48)
