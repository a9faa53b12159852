"""The rendered faces: fixed, varied, and cached."""

import numpy as np
import pytest
import tiny
import torch

from minigslora.datasets.images import augment
from minigslora.datasets.rendered import mini_faces


def test_photographs_do_not_depend_on_what_else_is_rendered():
    few, many = mini_faces.render("main", 3, "train", 2), mini_faces.render("main", 3, "train", 5)
    assert few.shape == (2, 3, 48, 48)
    assert few.dtype == np.uint8
    assert np.array_equal(few, many[:2])
    assert not np.array_equal(many[0], many[1])


@pytest.mark.parametrize("other", [("main", 4, "train"), ("main", 3, "test"), ("tuning", 3, "train")])
def test_people_splits_and_worlds_differ(other):
    assert not np.array_equal(mini_faces.render("main", 3, "train", 1), mini_faces.render(*other, 1))


def test_one_nuisance_can_be_shown_alone():
    drawn = mini_faces.photographs("main", 0, "train", 4)
    mean = mini_faces.render("main", 0, "train", 4, only=lambda name: False)
    yaw = mini_faces.render("main", 0, "train", 4, only=lambda name: name == "yaw")
    assert np.ptp(drawn.how["yaw"]) > 0
    assert not np.array_equal(mean, yaw)


def test_a_persons_shape_is_theirs_alone():
    one, two = mini_faces.identity("main", 0), mini_faces.identity("main", 1)
    assert one == mini_faces.identity("main", 0)
    assert all(one[k] != two[k] for k in mini_faces.IDENTITY)


def test_the_data_set_is_rendered_once_and_read_back_equal(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    counts = {"train": 2, "val": 1, "test": 3}
    one = mini_faces.load(people=2, counts=counts)
    (cached,) = (tmp_path / "mini-faces").iterdir()
    written = cached.stat().st_mtime_ns
    two = mini_faces.load(people=2, counts=dict(reversed(counts.items())))
    assert cached.stat().st_mtime_ns == written
    assert one.classes == ("person-000", "person-001")
    for split, n in counts.items():
        images, again = getattr(one, split), getattr(two, split)
        assert torch.equal(images.images, again.images)
        assert images.labels.tolist() == [0] * n + [1] * n
    assert np.array_equal(one.test.images[3].numpy(), mini_faces.render("main", 1, "test", 1)[0])


def test_augmentation_is_fixed_by_its_stream_and_stays_in_range(data):
    images = data.train.images[:6]

    def moved(seed):
        return augment(images, torch.Generator().manual_seed(seed))

    assert moved(0).shape == images.shape
    assert moved(0).dtype == torch.float32
    assert float(moved(0).min()) >= 0
    assert float(moved(0).max()) <= 1
    assert torch.equal(moved(0), moved(0))
    assert not torch.equal(moved(0), moved(1))


def test_splits_share_no_photograph(data):
    everything = torch.cat([data.train.images, data.val.images, data.test.images]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == tiny.PEOPLE * sum(tiny.COUNTS.values())
