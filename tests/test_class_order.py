"""Which class is which: what was asked for is what is forgotten, or nothing is."""

import copy
import re
import shutil

import pytest
import squares
import tiny
import torch
from safetensors.torch import load_file, save_file

from minigslora import class_order, forget
from minigslora.cli import main
from minigslora.datasets import folders
from minigslora.errors import DataError
from minigslora.models import checkpoint

NATURAL = ("1", "2", "10", "20")
"""The order of someone's head; by code point it is 1, 10, 2, 20."""

SPLITS = {"train": 10, "test": 4}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("numbered"), NATURAL, SPLITS)


@pytest.fixture(scope="module")
def model(numbered):
    return squares.trained(numbered, NATURAL)


@pytest.fixture
def weights(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def command(weights, data, out, *more):
    quick = ["--set", "epochs=40", "--set", "lr=2e-2", "--set", "rank=4", "--ratio", "0.5", "--device", "cpu"]
    own = ["--model", "test_vit", "--image-size", str(squares.SIZE), "--weights", str(weights)]
    return ["forget", *own, "--data", str(data), "--out", str(out), *quick, *more]


def code(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


# --- the order of the head ----------------------------------------------------------------------------


def test_a_head_in_another_common_order_is_found_before_anything_is_trained(numbered, model):
    mine = copy.deepcopy(model)
    with pytest.raises(
        DataError, match=r"another order, natural.*: 1, 2, 10, 20\. Here they are 1, 10, 2, 20"
    ):
        forget(mine, numbered, ["10"], **squares.QUICK)
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("way", ["option", "file beside the folders", "file in train", "checkpoint"])
def test_with_the_heads_own_order_the_class_that_was_asked_for_falls(
    numbered, model, weights, tmp_path, way, capsys
):
    data, names, more = tmp_path / "photos", tmp_path / "names.txt", []
    shutil.copytree(numbered, data)
    names.write_text("\n".join(NATURAL) + "\n", encoding="utf-8")
    if way == "option":
        more = ["--class-names", str(names)]
    elif way == "checkpoint":
        weights = tmp_path / "mine.pth"
        places = {name: place for place, name in enumerate(NATURAL)}
        torch.save({"state_dict": model.state_dict(), "class_to_idx": places}, weights)
    else:
        shutil.copy(names, (data / "train" if "train" in way else data) / "classes.txt")
    assert code(command(weights, data, tmp_path / "out", "--classes=#2", *more)) == 0
    edited = squares.untrained(len(NATURAL))
    edited.load_state_dict(load_file(tmp_path / "out" / "erased.safetensors"))
    assert squares.accuracies(edited, numbered, NATURAL) == {"1": 100, "2": 100, "10": 0, "20": 100}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("1\n2\n10\n", r"leaves out '20'"),
        ("1\n2\n10\n20\n30\n", r"names what is no class '30'"),
        ("1\n2\n2\n10\n20\n", r"names twice '2'"),
        ("", r"names.txt is empty; write one name a line"),
        (None, r"names.txt cannot be read as a list of names"),
    ],
)
def test_a_list_of_names_that_does_not_fit(numbered, weights, tmp_path, capsys, names, message):
    if names is not None:
        (tmp_path / "names.txt").write_text(names)
    more = ["--class-names", str(tmp_path / "names.txt"), "--classes", "1"]
    assert code(command(weights, numbered, tmp_path / "out", *more)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_list_of_names_beside_a_checkpoint_that_says_another(numbered, model, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("1\n10\n2\n20\n")
    file = tmp_path / "mine.pth"
    torch.save({"model": model.state_dict(), "class_to_idx": {n: i for i, n in enumerate(NATURAL)}}, file)
    more = ["--class-names", str(tmp_path / "names.txt"), "--classes=#1"]
    assert code(command(file, numbered, tmp_path / "out", *more)) == 2
    assert "mine.pth says that its head's classes are 1, 2, 10, 20" in capsys.readouterr().err


def test_a_model_that_is_at_chance_is_not_edited(numbered):
    with pytest.raises(DataError, match=r"no more than guessing would \(25\.0 %\).*check=False"):
        forget(squares.untrained(4), numbered, ["1"], **squares.QUICK)
    done = forget(squares.untrained(4), numbered, ["1"], **{**squares.QUICK, "epochs": 1}, check=False)
    assert len(done.reports) == 1


def test_a_wrong_normalisation_is_no_silent_success(numbered, weights, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\n".join(NATURAL))
    more = ["--class-names", str(tmp_path / "names.txt"), "--classes=#0", "--std", "1e4,1e4,1e4"]
    assert code(command(weights, numbered, tmp_path / "out", *more)) == 2
    assert "no more than guessing would" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "other", "better"),
    [
        ([1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], False),
        ([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1], True),
        ([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1], False),
        ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], False),
        ([0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], False),  # four of four is luck one time in sixteen
    ],
)
def test_another_order_is_believed_by_a_sign_test(own, other, better):
    assert class_order.fits_better(torch.tensor(other).bool(), torch.tensor(own).bool()) is better


def test_what_was_forgotten_earlier_does_not_count_as_unknown(numbered, model):
    (numbered / "classes.txt").write_text("\n".join(NATURAL))
    try:
        mine = copy.deepcopy(model)
        forget(mine, numbered, ["1"], **squares.QUICK)
        second = forget(mine, numbered, ["10"], **squares.QUICK)
    finally:
        (numbered / "classes.txt").unlink()
    assert squares.accuracies(mine, numbered, NATURAL) == {"1": 0, "2": 100, "10": 0, "20": 100}
    assert [entry.classes for entry in second.ledger] == [("1",), ("10",)]


# --- names and numbers --------------------------------------------------------------------------------


def named(*names):
    data = tiny.toy_data((2,) * len(names))
    split = {k: tiny.ImageSet(data.train.images, data.train.labels, names) for k in ("train", "val", "test")}
    return tiny.DataSet("toy", **split)


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (("a", "b", "c"), 1, 1),
        (("a", "b", "c"), "1", 1),
        (("a", "b", "c"), "#1", 1),
        (("0", "1", "2"), "1", 1),
        (("0", "1", "2"), 1, 1),
        (("01", "02", "10"), "01", 0),
        (("01", "02", "10"), "#1", 1),
        (("01", "02", "10"), 0, 0),
        (("1", "10", "2"), "10", 1),  # text that is a whole name, in Python
        (("1", "10", "2"), "#2", 2),
        (("100", "200"), "200", 1),
        (("100", "200"), 200, 1),
        (("#1", "x", "y"), "#1", 0),
        (("person-1", "person-2"), "1", 1),
    ],
)
def test_a_class_by_name_position_or_clear_number(names, given, expected):
    assert named(*names).class_ids([given]) == [expected]


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("01", "02", "10"), "1"),
        (("01", "02", "10"), 1),
        (("01", "02", "10"), "2"),
        (("1", "10", "2"), 1),
        (("10", "20", "030"), "30"),
        (("1", "01", "2"), 1),
    ],
)
def test_a_number_that_may_be_two_classes_is_refused(names, given):
    with pytest.raises(DataError, match=rf"{given} is ambiguous in toy: it may be the class called .*#"):
        named(*names).class_ids([given])


@pytest.mark.parametrize("given", ["#9", "#", "#-1", "9", 9, -1, "-1", "1.0", "d", "", "²", "#1.5"])
def test_what_names_no_class(given):
    with pytest.raises(DataError, match="unknown class"):
        named("a", "b", "c").class_ids([given])


@pytest.mark.parametrize("given", ["1", "20,1", "1,10"])
def test_a_bare_number_on_the_command_line_that_is_a_name_elsewhere(
    numbered, weights, tmp_path, capsys, given
):
    assert code(command(weights, numbered, tmp_path / "out", "--classes", given)) == 2
    assert "is ambiguous in" in capsys.readouterr().err


# --- what could not be measured, and what did nothing -------------------------------------------------


def test_classes_without_a_test_image_are_named(tmp_path, capsys):
    names = ("blue", "gold", "green", "red")
    root = squares.pictures(tmp_path / "photos", names, SPLITS)
    save_file(squares.trained(root, names).state_dict(), tmp_path / "mine.safetensors")
    shutil.rmtree(root / "test" / "gold")
    assert code(command(tmp_path / "mine.safetensors", root, tmp_path / "out", "--classes", "red")) == 0
    expected = "not measured, since the test split has no image of them: gold"
    printed = capsys.readouterr().out
    assert expected in printed
    assert "kept: 2 others" in printed
    assert expected in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_erasure_that_changed_nothing_says_so_and_exits_with_3(numbered, weights, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\n".join(NATURAL))
    more = ["--class-names", str(tmp_path / "names.txt"), "--classes=#0", "--method", "gslora++"]
    arguments = command(weights, numbered, tmp_path / "out", *more)
    arguments[arguments.index("epochs=40")] = "epochs=0"
    assert code(arguments) == 3
    said = capsys.readouterr()
    assert "no effect: task1 (1): Acc_f was 100.0 % before and is 100.0 % now" in said.err
    assert "Request task1 shows no effect" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "erased.safetensors").is_file()


# --- the order that a file says -----------------------------------------------------------------------


def test_in_python_too_the_cards_order_counts(tmp_path):
    """A head that counts a, b, d, c is in no common order, and is known only by its card."""
    names = ("a", "b", "d", "c")
    root = squares.pictures(tmp_path / "photos", names, SPLITS)
    model = squares.trained(root, names)
    checkpoint.set_card(model, checkpoint.Card({"kind": "timm"}, names, (0.5,) * 3, (0.5,) * 3, squares.SIZE))
    done = forget(model, root, ["c"], **squares.QUICK)
    assert squares.accuracies(done.model, root, names) == {"a": 100, "b": 100, "d": 100, "c": 0}
    assert [(e.classes, e.rows) for e in done.ledger] == [(("c",), (3,))]
    with pytest.raises(DataError, match=r"card counts its classes as a, b, d, c, but photos as a, b, c, d"):
        forget(model, folders.load(root, squares.SIZE), ["b"], **squares.QUICK)


def test_one_swapped_pair_among_many_classes_is_found_where_it_is_asked_for(monkeypatch):
    """Two of the classes stand elsewhere by case; few of the images that are looked at evenly are theirs."""
    names = ("B", "a", *(f"c{i:03d}" for i in range(298)))
    data = named(*names)
    labels = torch.arange(300).repeat_interleave(2)
    told = sorted(names, key=str.casefold)

    class Knows:
        """A model whose head is in the order whatever the case."""

        def __init__(self):
            self.data = data

        def logits_of(self, asked):
            rows = torch.tensor([told.index(names[label]) for label in asked.labels.tolist()])
            return torch.nn.functional.one_hot(rows, 300).float()

    assert len(labels) == len(data.train)
    with pytest.raises(DataError, match="whatever the case"):
        class_order.require_same_order(Knows(), [1])
