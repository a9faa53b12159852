"""The benchmark of a stream: who is who in the data, which rows are there, what a stack takes."""

import stream
import tiny
import torch

from minigslora import lora
from minigslora.compact import compact


def test_people_are_counted_in_the_order_of_the_head():
    data = tiny.faces()
    some = stream.of_people(data, ["person-004", "person-001"])
    assert some.classes == ("person-004", "person-001")
    for label, person in enumerate((4, 1)):
        ours, theirs = some.test.of_classes([label]), data.test.of_classes([person])
        assert torch.equal(some.test.images[ours], data.test.images[theirs])
    assert len(some.train) == 2 * tiny.COUNTS["train"]


def test_a_row_that_is_there_is_not_made_again(tmp_path):
    file = tmp_path / "rows.csv"
    table = stream.Table(file)
    key = table.key("long", 0, 5, "compact")
    assert table.lacks(key)
    table.add({**key, "acc_r": 87.5})
    again = stream.Table(file)
    assert not again.lacks(key)
    assert again.lacks(again.key("long", 0, 5))
    again.add({**again.key("long", 0, 6), "acc_o": 0.0})
    assert len(stream.Table(file).rows) == 2


def test_a_folded_stack_takes_no_more():
    model = tiny.adapted(("task1", "task2", "task3"))
    for name in ("task1", "task2", "task3"):
        lora.freeze(model, name)
    before = stream.size(model)
    assert before["rank"] == 6
    compact(model, rank=2)
    after = stream.size(model)
    assert after["rank"] == 2
    assert after["bytes"] < before["bytes"]
    assert stream.size(tiny.face_model()) == {"bytes": 0, "rank": 0}


def test_accuracies_are_of_the_groups_that_there_are():
    data, model = tiny.faces(), tiny.face_model()
    found = stream.accuracies(model, data, {"acc_r": [0, 1, 2, 3, 4, 5], "acc_o": []})
    assert found.keys() == {"acc_r", "acc_r_margin"}
    said = model(data.test.images / 255).argmax(dim=1)
    assert found["acc_r"] == round(100 * float((said == data.test.labels).double().mean()), 3)
