"""Plans: who is forgotten when, and from which images."""

from dataclasses import fields, replace

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigslora import methods, recipes
from minigslora.datasets.images import ImageSet
from minigslora.errors import ConfigError, DataError, FewImages
from minigslora.methods.base import Training
from minigslora.tasks import Plan, Setting, class_order, describe, plan, plan_requests, warn_of_single_images


@st.composite
def plans(draw):
    classes = draw(st.integers(3, 12))
    data = tiny.toy_data(tuple(draw(st.lists(st.integers(4, 9), min_size=classes, max_size=classes))))
    requests, left = [], classes - 1
    while left and (not requests or draw(st.booleans())):
        requests.append(draw(st.integers(1, left)))
        left -= requests[-1]
    setting = Setting(
        requests=tuple(requests),
        ratio=draw(st.floats(0.05, 1.0)),
        shots=draw(st.sampled_from([0, 1, 4])),
        missing=draw(st.integers(0, left)),
        order=draw(st.sampled_from([None, 1337])),
    )
    seed = draw(st.integers(0, 10**6))
    return data, setting, seed, plan(data, setting, seed)


@given(plans())
def test_plans_partition_classes_and_images(case):
    data, setting, seed, made = case
    labels, everyone = data.train.labels, set(range(len(data.classes)))
    old = []
    for index, task in enumerate(made.tasks):
        assert (task.name, task.index) == (f"task{index + 1}", index)
        assert task.old == tuple(old)
        parts = [*task.forget, *task.old, *task.retain]
        assert len(parts) == len(everyone)
        assert set(parts) == everyone
        assert len(task.forget) == setting.requests[index]
        assert set(task.missing) <= set(task.retain)
        assert len(task.missing) == setting.missing
        assert not set(task.retain_images) & set(task.forget_images)
        assert set(labels[list(task.forget_images)].tolist()) == set(task.forget)
        kept = labels[list(task.retain_images)].tolist() if task.retain_images else []
        assert set(kept) == set(task.retain) - set(task.missing)
        for c in task.forget:
            total = int((labels == c).sum())
            at_hand = sum(int(labels[i]) == c for i in task.forget_images)
            assert at_hand == (setting.shots or max(1, round(setting.ratio * total)))
        old += task.forget
    assert plan(data, setting, seed) == made


def test_another_seed_gives_another_plan_and_the_published_order_does_not_move():
    data = tiny.toy_data((8,) * 10)
    setting = Setting(requests=(2, 2), ratio=0.5)
    first, other = plan(data, setting, 0), plan(data, setting, 1)
    assert [t.forget for t in first.tasks] != [t.forget for t in other.tasks]
    fixed = replace(setting, order=1337)
    first, other = plan(data, fixed, 0), plan(data, fixed, 1)
    assert [t.forget for t in first.tasks] == [t.forget for t in other.tasks]
    assert first.tasks[0].retain_images != other.tasks[0].retain_images


def test_requests_take_the_end_of_the_published_order():
    import random

    expected = list(range(100))
    random.Random(1337).shuffle(expected)
    assert class_order(100, seed=5, published=1337) == expected
    made = plan(tiny.toy_data((2,) * 100), Setting(order=1337, missing=5), 0)
    for t, task in enumerate(made.tasks):
        assert list(task.forget) == expected[80 - 20 * t : 100 - 20 * t]
        assert list(task.missing) == expected[:5]


def test_a_fresh_share_is_drawn_for_each_task():
    made = plan(tiny.toy_data((20,) * 6), Setting(requests=(1, 1), ratio=0.2), 0)
    kept = [set(t.retain_images) for t in made.tasks]
    assert not kept[1] <= kept[0]


def test_an_index_file_round_trips(tmp_path):
    made = plan(tiny.toy_data(), Setting(requests=(1, 1), missing=1, ratio=0.5), 3)
    made.save(tmp_path / "deep" / "plan.json")
    assert Plan.load(tmp_path / "deep" / "plan.json") == made


def test_without_replay_no_retained_class_has_an_image():
    for task in plan(tiny.toy_data(), Setting(requests=(1, 1), ratio=0.5, replay=False), 0).tasks:
        assert not task.retain_images
        assert task.missing == task.retain
        assert task.forget_images


def test_presets_of_another_benchmark_go_by_its_name():
    assert Setting(ratio=0.05, preset="imagenet100/ratio").kind == "imagenet100/ratio"
    assert recipes.setting("imagenet100/ratio").choices["push"] == [0.05]
    with pytest.raises(ConfigError, match=r"unknown benchmark 'pets' of 'pets/ratio'; expected .*face"):
        recipes.setting("pets/ratio")
    with pytest.raises(
        ConfigError, match="unknown setting 'imagenet100/few'; expected one of imagenet100/ratio"
    ):
        recipes.setting("imagenet100/few")


def test_what_the_corrected_recipe_has_of_its_own_are_fields_of_a_method_or_the_loop():
    for benchmark in recipes.benchmarks():
        prefix = "" if benchmark == "face" else f"{benchmark}/"
        for recipe in recipes.RECIPES:
            for name in recipes.read(recipe, benchmark):
                own = recipes.setting(prefix + name, recipe)
                assert set(own.choices) <= {f.name for f in fields(methods.table()["gslora++"])}
                assert set(own.loop) <= {f.name for f in fields(Training)}
    assert recipes.setting("ratio", "corrected") == recipes.Preset()
    with pytest.raises(ConfigError, match="unknown setting 'few'"):
        recipes.setting("few", "corrected")


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_what_a_recipe_says_of_a_method_are_its_settings(recipe):
    known = {name: {f.name for f in fields(kind) if f.init} for name, kind in methods.table().items()}
    for name, own in recipes.read(recipe, "methods").items():
        theirs = known.get(name, set().union(*known.values()))
        assert set(own.choices) | {key for choices in own.within.values() for key in choices} <= theirs
        assert set(own.loop) <= {f.name for f in fields(Training)}
        assert name in {"all", "weights", *known}


def test_a_setting_says_its_preset():
    assert [Setting().kind, Setting(shots=4).kind, Setting(missing=5).kind] == ["ratio", "shots", "missing"]
    assert Setting(shots=4, missing=5).kind == "missing-shots"
    assert methods.create("gslora", "corrected", "missing-shots").hold == 100
    assert [Setting((5,)).kind, Setting((5,), shots=4).kind] == ["single", "single-shots"]
    assert describe(Setting(shots=4))["shots"] == 4


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "no request was given; name at least one class"),
        ([[0], []], "request 2 names no class; name at least one"),
        ([[0, 9]], "request 1 names class 9, but toy has classes 0 to 3"),
        ([[-1]], "request 1 names class -1, but toy has classes 0 to 3"),
        ([[1, 1]], "request 1 names 'class-1' twice; name it once"),
        ([[1], [2, 1]], "request 2 names 'class-1', which request 1 already forgot; leave it out"),
        ([[0, 1], [2, 3]], "the requests name all 4 classes of toy; at least one must stay"),
    ],
)
def test_requests_that_cannot_be_served(requests, message):
    with pytest.raises(DataError, match=message):
        plan_requests(tiny.toy_data(), requests, Setting(), 0)


def test_a_plan_goes_on_where_another_ended():
    data, setting = tiny.toy_data((8,) * 5), Setting(requests=(1, 2), ratio=0.5)
    whole = plan_requests(data, [[4], [1, 2]], setting, 0)
    rest = plan_requests(data, [[1, 2]], setting, 0, old=[4], start=1)
    assert rest.tasks == whole.tasks[1:]
    with pytest.raises(DataError, match="request 1 names 'class-4', which the model already forgot; leave"):
        plan_requests(data, [[1, 4]], setting, 0, old=[4], start=1)
    with pytest.raises(DataError, match="the requests name all 5 classes of toy; at least one must stay"):
        plan_requests(data, [[0, 1, 2, 3]], setting, 0, old=[4], start=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"requests": ()}, r"requests = \(\); each request forgets at least one class"),
        ({"requests": (1, 0)}, r"requests = \(1, 0\); each request"),
        ({"requests": (-1,)}, r"requests = \(-1,\); each request"),
        ({"ratio": 0.0}, r"ratio = 0\.0; expected a share above 0 and at most 1"),
        ({"ratio": 10.0}, r"ratio = 10\.0; expected a share"),
        ({"ratio": float("nan")}, r"ratio = nan; expected a share"),
        ({"shots": -1}, r"shots = -1; expected 0 for none, or more"),
        ({"missing": -2}, r"missing = -2; expected 0 for none, or more"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        Setting(**values)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(requests=(2, 2)), "4 classes to forget and 0 without images leave none of 4 to retain"),
        (Setting(requests=(2,), missing=2), "2 classes to forget and 2 without images leave none"),
    ],
)
def test_settings_that_leave_nothing(setting, message):
    with pytest.raises(ConfigError, match=message):
        plan(tiny.toy_data(), setting, 0)


def test_fewer_images_than_shots():
    data = tiny.toy_data((5, 3, 5))
    with pytest.raises(DataError, match=r"'class-1' has 3 training images, but 4 are asked for; lower shots"):
        plan_requests(data, [[0]], Setting(shots=4), 0)


def test_an_empty_split():
    data = tiny.toy_data()
    nothing = ImageSet(data.train.images[:0], data.train.labels[:0], data.classes)
    with pytest.raises(DataError, match=r"the training split is empty; put images"):
        plan_requests(replace(data, train=nothing), [[0]], Setting(), 0)


# --- images and class names -----------------------------------------------------------------------------


def test_classes_go_by_name_or_number():
    data = tiny.toy_data()
    assert data.class_ids(["class-2", 0, "3"]) == [2, 0, 3]
    assert data.image_size == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["class-9"], "unknown class 'class-9' in toy; its 4 classes are class-0, .* number from 0 to 3"),
        ([4], "unknown class 4 in toy"),
        ([-1], "unknown class -1 in toy"),
        (["²"], "unknown class '²' in toy"),
        ([True], "unknown class True in toy"),
        (["class-1", 1], "class 'class-1' is named twice in one request; name it once"),
    ],
)
def test_unknown_and_repeated_classes(names, message):
    with pytest.raises(DataError, match=message):
        tiny.toy_data().class_ids(names)


def test_a_number_that_is_another_classs_name_is_refused():
    data = tiny.toy_data((2, 2, 2))
    named = replace(data, train=replace(data.train, classes=("1", "10", "2")))
    assert named.class_ids(["1", "2", "10"]) == [0, 2, 1]
    assert named.class_ids([10, 0]) == [1, 0]
    assert named.class_ids([2]) == [2]
    with pytest.raises(DataError, match=r"1 is ambiguous in toy: it may be the class called '1'"):
        named.class_ids([1])


def test_images_and_labels_must_match():
    with pytest.raises(DataError, match=r"4 images but 3 labels"):
        ImageSet(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.long), ("a",))


def test_images_of_some_classes():
    assert tiny.toy_data((2, 3, 1)).train.of_classes([2, 0]).tolist() == [0, 1, 5]


def test_a_ratio_that_takes_one_image_a_class_is_warned_of():
    data, setting = tiny.toy_data((7, 7, 40, 1)), Setting(requests=(1,), ratio=0.1)
    expected = r"ratio = 0.1 takes a single .* of 2 of 4 classes \(class-0, class-1\).*larger ratio"
    with pytest.warns(FewImages, match=expected):
        warn_of_single_images(data.train, [], setting)
    with pytest.warns(FewImages, match=r"of 1 of 2 classes \(class-1\).*or shots \(4 of each class\)"):
        warn_of_single_images(data.train, [0, 3], setting)


@pytest.mark.parametrize("setting", [Setting(ratio=0.3), Setting(ratio=0.1, shots=1)])
def test_enough_images_and_shots_asked_for_are_not_warned_of(setting, recwarn):
    warn_of_single_images(tiny.toy_data((7, 7, 40, 1)).train, [], setting)
    assert not recwarn.list
