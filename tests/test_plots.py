"""Pictures: what is drawn stands where it should and can be read; the notebooks' tests draw the rest."""

import warnings
from itertools import combinations

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from minigslora.course import plots

DIAGRAMS = (
    "method_picture",
    "vision_transformer",
    "transformer_block",
    "lora_fork",
    "prox_1d",
    "penalty_balls",
    "prototype_sphere",
    "sliced_head",
    "two_roles",
    "attacker",
)


def shown_texts(figure):
    """The texts that are seen, with their boxes in pixels."""
    figure.canvas.draw()
    unseen = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            outside = [t for t in axis.get_major_ticks() if not (ax.axison and low <= t.get_loc() <= high)]
            unseen |= {id(tick.label1) for tick in outside}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(t, t.get_window_extent()) for t in texts if id(t) not in unseen]


def luminance(colour):
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_legible(name):
    draw = getattr(plots, name)
    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("error")
        plots.style()
        figure = draw()
        texts = shown_texts(figure)
        plots.png(figure, 100)
    assert figure.get_size_inches()[0] <= 9
    assert figure.get_facecolor() == (1, 1, 1, 1)
    for text, box in texts:
        assert text.get_fontsize() >= 9, text
        assert 1.05 / (luminance(text.get_color()) + 0.05) >= 4.5, text
        assert figure.bbox.x0 <= box.x0, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for (one, a), (other, b) in combinations(texts, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 - 2 <= b.y0 or b.y1 - 2 <= a.y0  # leading may overlap
        assert apart, (one, other)
    assert len(" ".join(draw.__doc__.split())) > 150  # says what there is to see
    plt.close(figure)


def test_a_slider_shows_one_picture_of_each_value(monkeypatch):
    plt.close("all")
    shown, drawn = [], []

    def draw(value):
        drawn.append(value)
        return plt.figure(figsize=(1, 1))

    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    plots.slider(draw, [0.1, 0.2, 0.5], "α", "A <small> figure.", start=1)
    page, plain = shown[0]["text/html"], shown[0]["text/plain"]
    assert drawn == [0.1, 0.2, 0.5]
    assert plain == "A <small> figure. (α = 0.2)"
    assert page.count('<img alt="A &lt;small&gt; figure. (α = ') == 3
    assert page.count("display: none") == 2
    assert 'max="2" step="1" value="1" aria-label="α"' in page
    assert "<output>α = 0.2</output>" in page
    assert "script" not in page
    assert "widget" not in page
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="start = 3 is no place among 3 values"):
        plots.slider(draw, [1, 2, 3], "k", "A figure.", start=3)


def test_texts_of_boxes_on_one_place_do_not_cover_each_other():
    boxes = [[10.0, 20.0, 30.0, 30.0], [12.0, 21.0, 30.0, 30.0], [60.0, 60.0, 20.0, 20.0]]
    picture = plots.Boxed(torch.zeros(3, 96, 96, dtype=torch.uint8), boxes, list("abc"), ["retain"] * 3)
    figure = plots.boxed({"row": [picture]})
    places = {t.get_text(): (t.get_position(), t.get_va()) for t in figure.axes[0].texts}
    assert places["a"] == ((10.0, 20.0), "bottom")
    assert places["b"] == ((12.0, 51.0), "top")  # below its box
    assert places["c"] == ((80.0, 60.0), "bottom")  # right of the middle: it ends where its box ends
    plt.close(figure)


def test_marks_of_histograms_are_lines_with_a_name():
    figure = plots.overlaid({"one": (torch.arange(9.0), "retain")}, "x", "y", marks={"bound": 4.0})
    (line,) = figure.axes[0].lines
    assert line.get_label() == "bound"
    assert set(line.get_xdata()) == {4.0}
    plt.close(figure)


def test_no_line_strikes_a_number_of_a_bar_through():
    rows = {"one": {"Acc_r": 83.0, "Acc_f": 0.5}}
    colours = {"Acc_r": "retain", "Acc_f": "forget"}
    (ax,) = plots.bars(rows, "%", colours, {"before": (85.0, "retain")}).axes
    tall, low = ax.texts
    assert (tall.get_va(), low.get_va()) == ("top", "bottom")
    assert {text.get_va() for text in plots.bars(rows, "%", colours).axes[0].texts} == {"bottom"}
    plt.close("all")


def test_what_is_forgotten_can_be_told_without_colours():
    (ax,) = plots.destinations(["a", "b", "c"], [5.0, 3.0, 1.0], [False, True, False]).axes
    assert {bar.get_x() + bar.get_width() / 2: bar.get_hatch() for bar in ax.patches} == {
        0: "",
        2: "",
        1: "///",
    }
    figure = plots.histograms({"before": torch.arange(9.0), "after": torch.arange(9.0)}, {}, "nats")
    assert len({patch.get_hatch() for patch in figure.axes[0].patches}) == 2
    plt.close("all")


def test_legends_below_leave_the_lines_alone():
    panel = plots.Panel("a", "y", {"one": [1.0, 2.0]}, levels={"ln C": 1.5})
    (ax,) = plots.curves([panel], "epoch", below=True).axes
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0
    plt.close("all")


def test_the_hinge_says_which_images_are_pushed():
    (ax,) = plots.hinge([60.0, 60.0, 0.1], 25.0, 4.6).axes
    assert {text.get_text() for text in ax.texts} == {
        "1 image: slope −1",
        "2 images: slope 0",
        "the mean: slope 0",
    }
    (term,) = [line for line in ax.lines if line.get_label().startswith("ReLU")]
    assert list(term.get_ydata()) == [25.0, 0.0, 0.0]
    plt.close("all")


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
