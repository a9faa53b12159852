"""Metrics of continual forgetting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigslora.errors import DataError
from minigslora.metrics import (
    class_accuracies,
    drop,
    h_mean,
    paired_difference,
    subset_accuracy,
    task_metrics,
    with_h,
)
from minigslora.tasks import Task

PERCENT = st.floats(0.01, 100)


@given(PERCENT, PERCENT)
def test_h_mean_lies_between(acc_r, fall):
    h = h_mean(acc_r, fall)
    assert min(acc_r, fall) * (1 - 1e-12) <= h <= max(acc_r, fall) * (1 + 1e-12)
    assert h == pytest.approx(1 / ((1 / acc_r + 1 / fall) / 2))


@pytest.mark.parametrize(("acc_r", "fall"), [(0, 50), (50, 0), (50, -3), (0, 0)])
def test_h_mean_is_zero_where_nothing_is_kept_or_nothing_fell(acc_r, fall):
    assert h_mean(acc_r, fall) == 0.0


def test_accuracies_are_argmax_over_the_whole_head():
    labels = torch.tensor([0, 0, 1, 1, 1, 3])
    predicted = torch.tensor([0, 2, 1, 1, 0, 3])
    hits, counts = class_accuracies(torch.eye(4)[predicted], labels, 4)
    assert hits.tolist() == [1, 2, 0, 1]
    assert counts.tolist() == [2, 3, 0, 1]
    assert subset_accuracy((hits, counts), [0, 1], "some") == pytest.approx(60.0)
    with pytest.raises(DataError, match=r"no image of the 1 retained classes.*evaluate on a split that has"):
        subset_accuracy((hits, counts), [2], "retained")
    with pytest.raises(DataError, match=r"no image of the 1 forgotten classes \('c'\).*add images of them"):
        subset_accuracy((hits, counts), [2], "forgotten", ["a", "b", "c", "d"])


def test_a_tasks_metrics_are_its_subsets():
    labels = torch.arange(5).repeat_interleave(2)
    predicted = labels.clone()
    predicted[[0, 3, 4, 8]] = torch.tensor([4, 4, 4, 0])
    per_class = class_accuracies(torch.eye(5)[predicted], labels, 5)
    task = Task("task2", 1, forget=(1,), old=(2,), retain=(0, 3, 4), missing=(3,))
    expected = {"acc_r": 400 / 6, "acc_f": 50.0, "acc_o": 50.0, "acc_m": 100.0}
    assert task_metrics(per_class, task) == pytest.approx(expected)
    first = Task("task1", 0, forget=(1,), old=(), retain=(0, 2, 3, 4))
    assert set(task_metrics(per_class, first)) == {"acc_r", "acc_f"}


def test_h_takes_the_pretrained_accuracy_on_the_forgotten():
    before = {"acc_r": 80.0, "acc_f": 90.0, "acc_m": 70.0, "acc_r_margin": 60.0, "acc_f_margin": 50.0}
    now = {"acc_r": 75.0, "acc_f": 10.0, "acc_m": 65.0, "acc_r_margin": 55.0, "acc_f_margin": 0.0}
    row = with_h(before, now)
    assert row["drop"] == drop(90.0, 10.0) == 80.0
    assert row["h"] == pytest.approx(2 * 75 * 80 / 155)
    assert row["h_margin"] == pytest.approx(2 * 55 * 50 / 105)
    assert (row["acc_r_before"], row["acc_f_before"], row["acc_m_before"]) == (80.0, 90.0, 70.0)
    assert now == {k: row[k] for k in now}


# --- two methods over seeds ---------------------------------------------------------------------------


def test_a_paired_difference_is_the_sum_written_out():
    # differences 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, sd √7, standard error √(7/3), t of two 4.302653
    found = paired_difference([81.0, 84.0, 90.0], [80.0, 82.0, 84.0])
    assert found.mean == pytest.approx(3.0)
    assert found.reach == pytest.approx(4.302652729911275 * (7 / 3) ** 0.5)
    assert str(found) == "+3.00 ± 6.57"
    assert paired_difference([81.0, 84.0, 90.0], [80.0, 83.0, 89.0]).reach == 0.0  # always the same


@given(st.lists(st.tuples(PERCENT, PERCENT), min_size=2, max_size=9), st.sampled_from([0.8, 0.95, 0.99]))
def test_a_paired_difference_is_scipys(pairs, level):
    from scipy.stats import ttest_rel

    ours, theirs = zip(*pairs, strict=True)
    d = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    found = paired_difference(ours, theirs, level)
    assert found.mean == pytest.approx(float(d.mean()), abs=1e-9)
    if float(d.std()) > 1e-6:  # scipy gives no interval where nothing differs
        low, high = ttest_rel(ours, theirs).confidence_interval(level)
        assert (found.mean - found.reach, found.mean + found.reach) == pytest.approx(
            (low, high), rel=1e-6, abs=1e-6
        )


@pytest.mark.parametrize(
    ("ours", "theirs"), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([], []), ([1.0], [1.0, 2.0])]
)
def test_one_seed_has_no_interval_and_figures_must_be_pairs(ours, theirs):
    message = rf"{len(ours)} figures beside {len(theirs)} .*over the same seeds, at least two"
    with pytest.raises(DataError, match=message):
        paired_difference(ours, theirs)
