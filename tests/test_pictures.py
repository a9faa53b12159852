"""Class folders as they come: which class is which, what counts as a picture, and every kind of pixel."""

import pytest
import torch
from test_folders import photo, tree

from minigslora.datasets import folders, registry
from minigslora.errors import DataError

# --- the order of the classes ------------------------------------------------------------------------

NUMBERS = ("1", "2", "10", "30")


def numbered(root):
    """Write a class for each number, its images as red as the number."""
    for split, count in (("train", 4), ("test", 2)):
        for name in NUMBERS:
            for i in range(count):
                photo(root / split / name / f"{i}.png", (int(name), 0, 0))
    return root


def reds(split):
    """Return the red of each class's images, by the class's name."""
    shades = split.images[:, 0].float().mean(dim=(1, 2))
    return {c: sorted(set(shades[split.labels == i].tolist())) for i, c in enumerate(split.classes)}


@pytest.mark.parametrize("given", [NUMBERS, tuple(reversed(NUMBERS)), list(NUMBERS)])
def test_classes_are_in_the_order_given_each_with_its_own_images(tmp_path, given):
    root = numbered(tmp_path)
    assert folders.load(root, 8).classes == ("1", "10", "2", "30")
    data = registry.load(root, 8, classes=given)
    assert data.classes == tuple(given)
    for split in (data.train, data.val, data.test):
        assert reds(split) == {name: [float(name)] for name in given}
    assert data.test.labels.bincount().tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("classes.txt", "1\n2\n10\n30\n"),
        ("train/classes.txt", "1\n2\n10\n30"),
        ("classes.txt", "\ufeff1\r\n2\r\n\r\n 10 \r\n30\r\n\r\n"),
    ],
)
def test_a_list_beside_the_folders_says_the_order(tmp_path, place, text):
    root = numbered(tmp_path)
    (root / place).write_bytes(text.encode())
    data = folders.load(root, 8)
    assert data.classes == NUMBERS
    assert reds(data.test)["10"] == [10.0]
    assert folders.load(root, 8, classes=("30", "10", "2", "1")).classes == ("30", "10", "2", "1")


def test_accents_may_be_written_either_way(tmp_path):
    for name in ("zoe\u0308", "ara"):  # as macOS writes folders: e and a mark
        photo(tmp_path / name / "0.png", (1, 2, 3))
        photo(tmp_path / name / "1.png", (1, 2, 3))
    assert folders.load(tmp_path, 8, classes=("zo\u00eb", "ara")).classes == ("zoe\u0308", "ara")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("1", "2", "10"),
            r"does not name the class folders '30'; expected the names of the 4 class folders",
        ),
        (("1", "2", "10", "30", "9"), "names classes without a training folder '9';"),
        (("1", "2", "10", "10", "30"), "names twice '10';"),
        (
            ("one", "2", "10", "30"),
            "without a training folder 'one' and does not name the class folders '1';",
        ),
        ((), r"'1', '10', '2', '30'; .* Correct the list, or remove it"),
    ],
)
def test_a_list_of_other_classes_is_refused(tmp_path, given, message):
    root = numbered(tmp_path)
    with pytest.raises(DataError, match=f"the class names given: the list .*{message}"):
        folders.load(root, 8, classes=given)
    if given:
        (root / "classes.txt").write_text("\n".join(given))
        with pytest.raises(DataError, match=rf"classes\.txt: the list .*{message}"):
            folders.load(root, 8)


def test_two_lists_that_differ_are_refused(tmp_path):
    root = numbered(tmp_path)
    for place in (root, root / "train"):
        (place / "classes.txt").write_text("\n".join(NUMBERS))
    assert folders.load(root, 8).classes == NUMBERS
    (root / "classes.txt").write_text("\n".join(reversed(NUMBERS)))
    with pytest.raises(DataError, match=r"classes\.txt and .*classes\.txt list the classes in two orders"):
        folders.load(root, 8)


def test_a_data_set_by_name_takes_an_order_too(monkeypatch):
    monkeypatch.setattr(registry.mini_glyphs, "COUNTS", {"train": 1, "val": 1, "test": 1})
    plain = registry.load("mini-glyphs")
    turned = registry.load("mini-glyphs", classes=tuple(reversed(plain.classes)))
    assert turned.classes == tuple(reversed(plain.classes))
    assert torch.equal(turned.test.labels, 99 - plain.test.labels)
    assert torch.equal(turned.test.images, plain.test.images)
    with pytest.raises(DataError, match="names classes without a training folder 'none'"):
        registry.load("mini-glyphs", classes=(*plain.classes[1:], "none"))


@pytest.mark.parametrize(
    ("names", "orders"),
    [
        (("a", "b"), [("a", "b")]),
        (NUMBERS, [("1", "10", "2", "30"), NUMBERS]),
        (("b", "C", "a"), [("C", "a", "b"), ("a", "b", "C")]),
        (
            ("x10", "X2", "x1"),
            [("X2", "x1", "x10"), ("x1", "X2", "x10"), ("X2", "x1", "x10"), ("x1", "x10", "X2")],
        ),
        (("cat", "cat-big"), [("cat", "cat-big"), ("cat-big", "cat")]),
        (("-1", "-2", "3"), [("-1", "-2", "3"), ("3", "-1", "-2"), ("-2", "-1", "3")]),
        (("01", "1", "2"), [("01", "1", "2")]),
    ],
)
def test_common_orders_of_the_same_names(names, orders):
    found = list(folders.common_orders(names).values())
    assert found == list(dict.fromkeys(orders))


def test_a_split_of_ours_says_so(tmp_path):
    assert folders.load(tree(tmp_path / "lot", **{"": {"a": 4, "b": 4}}), 8).split_by_us
    assert not folders.load(tree(tmp_path / "own", train={"a": 4}, test={"a": 1}), 8).split_by_us
