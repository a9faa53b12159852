"""Pictures: what is drawn stands where it should; the notebooks' tests draw the rest."""

import torch
from matplotlib import pyplot as plt

from minigslora.course import plots


def test_texts_of_boxes_on_one_place_do_not_cover_each_other():
    boxes = [[10.0, 20.0, 30.0, 30.0], [12.0, 21.0, 30.0, 30.0], [60.0, 60.0, 20.0, 20.0]]
    picture = plots.Boxed(torch.zeros(3, 96, 96, dtype=torch.uint8), boxes, list("abc"), ["retain"] * 3)
    figure = plots.boxed({"row": [picture]})
    places = {t.get_text(): (t.get_position(), t.get_va()) for t in figure.axes[0].texts}
    assert places["a"] == ((10.0, 20.0), "bottom")
    assert places["b"] == ((12.0, 51.0), "top")  # below its box
    assert places["c"] == ((60.0, 60.0), "bottom")
    plt.close(figure)


def test_marks_of_histograms_are_lines_with_a_name():
    figure = plots.overlaid({"one": (torch.arange(9.0), "retain")}, "x", "y", marks={"bound": 4.0})
    (line,) = figure.axes[0].lines
    assert line.get_label() == "bound"
    assert set(line.get_xdata()) == {4.0}
    plt.close(figure)


def test_equal_points_of_two_lines_both_show():
    lines = {name: [(0.0, 80.0, 1.0), (50.0, 79.0, 2.0)] for name in ("A", "B")}
    figure = plots.sparsity_cost(lines, {"acc_r": 82.0, "acc_f": 0.0})
    drawn = figure.axes[0].lines[:2]
    assert drawn[0].get_markersize() > drawn[1].get_markersize()
    assert drawn[0].get_marker() != drawn[1].get_marker()
    assert all(ax.get_ylim()[1] - ax.get_ylim()[0] >= 10 for ax in figure.axes)
    plt.close(figure)


def test_points_of_categories_are_not_joined():
    panel = plots.Panel("position", "Acc_r, %", {"after": [84.0, 74.0, 83.0]}, joined=False)
    (line,) = plots.curves([panel], "layers", ["ffn", "attention", "both"]).axes[0].lines
    assert (line.get_linestyle(), line.get_marker()) == ("None", "o")
    (line,) = plots.curves([plots.Panel("rank", "Acc_r, %", {"after": [84.0, 85.0]})], "rank").axes[0].lines
    assert line.get_linestyle() == "-"
    plt.close("all")


def test_a_band_is_drawn_only_where_there_is_one():
    lines, ends = {"model": [1.0, 2.0]}, {"model": "forget"}
    with_band = plots.Banded("a", lines, [1.0, 1.0], [0.5, 0.5], ["1", "2"])
    without = plots.Banded("b", lines, [], [], ["1", "2"])
    first, second = plots.banded([with_band, without], "x", "y", ends).axes
    assert (len(first.collections), len(second.collections)) == (1, 0)
    assert (len(first.lines), len(second.lines)) == (2, 1)
    rows = {
        "a": plots.Compared({"model": 1.0}, [0.0, 1.0], (0.5, 2.0)),
        "b": plots.Compared({"model": 1.0}, [], None),
    }
    (ax,) = plots.beside_band(rows, ends).axes
    assert len(ax.patches) == 1


def test_a_map_of_verdicts_counts_the_seeds_that_an_audit_can_judge():
    found = {
        "a": {"probe": ["remembers", "passes", "cannot tell here"], "template": ["no band"]},
        "b": {"probe": ["passes", "passes", "passes"]},
    }
    (ax,) = plots.verdicts(found).axes
    assert [text.get_text() for text in ax.texts] == ["1 of 2", "–", "0 of 3", "–"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["probe", "template"]
    plt.close("all")
