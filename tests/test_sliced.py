"""The class-sliced head, its restoration, and the outside check."""

import copy
from dataclasses import replace

import pytest
import timm
import tiny
import torch
from torch import nn

from minigslora import lora
from minigslora.datasets.images import ImageSet
from minigslora.errors import ModelError
from minigslora.files import save_tensors
from minigslora.methods import create
from minigslora.models import checkpoint
from minigslora.models.head_slicing import restore_head, restored, slice_head
from minigslora.problems.classification import Classification, Outside
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, plan

ALL = tuple("abcdefghi")
TASK = ("c", "a", "h", "d", "i", "f")
"""As many as the tiny data have people."""


def whole_model(kind="timm"):
    if kind == "timm":
        return tiny.timm_vit(classes=len(ALL))
    torch.manual_seed(0)
    return tiny.face_transformer(replace(tiny.FACE, classes=len(ALL))).eval()


@pytest.mark.parametrize("kind", ["timm", "face"])
def test_a_sliced_head_is_rows_of_the_whole_and_comes_back_bit_for_bit(kind):
    model, x = whole_model(kind), tiny.images()
    before = model(x)
    full = slice_head(model, ALL, TASK)
    rows = [ALL.index(name) for name in TASK]
    assert torch.equal(model.get_classifier().weight, full.head.weight[rows])
    # A product of fewer rows may add in another order.
    assert torch.allclose(model(x), before[:, rows], atol=1e-5)
    assert (model.num_classes, len(model.get_classifier().weight)) == (6, 6)
    assert full.outside == ("b", "e", "g")
    sliced = model.get_classifier()
    with restored(model, full) as put_back:
        assert torch.equal(put_back(x), before)
        assert model.num_classes == 9
    assert model.get_classifier() is sliced
    restore_head(model, full)
    assert torch.equal(model(x), before)


def test_a_trained_head_takes_its_rows_along():
    model, x = whole_model(), tiny.images()
    before, full = model(x), slice_head(model, ALL, TASK)
    with torch.no_grad():
        model.head.weight.neg_()
        model.head.bias.zero_()
    sliced = model(x)
    restore_head(model, full)
    others = [ALL.index(name) for name in full.outside]
    assert torch.equal(model(x)[:, others], before[:, others])
    assert torch.allclose(model(x)[:, [ALL.index(n) for n in TASK]], sliced, atol=1e-6)


def test_a_head_comes_back_where_something_fails():
    model = whole_model()
    full = slice_head(model, ALL, TASK)
    with pytest.raises(ZeroDivisionError), restored(model, full):
        1 / 0  # noqa: B018
    assert len(model.head.weight) == 6


def test_a_models_card_says_which_classes_its_head_has(tmp_path):
    card = checkpoint.Card({"kind": "timm", "name": "test_vit", "classes": 9, "img_size": 48}, ALL)
    checkpoint.save(tmp_path / "m.safetensors", whole_model(), card)
    model, _ = checkpoint.load(tmp_path / "m.safetensors")
    full = slice_head(model, ALL, TASK)
    own = checkpoint.card_of(model)
    assert (own.classes, own.architecture["classes"]) == (TASK, 6)
    checkpoint.save(tmp_path / "sliced.safetensors", model, own)
    assert torch.equal(
        checkpoint.load(tmp_path / "sliced.safetensors")[0].eval()(tiny.images()), model.eval()(tiny.images())
    )
    restore_head(model, full)
    assert checkpoint.card_of(model).classes == ALL


@pytest.mark.parametrize(
    ("classes", "wanted", "message"),
    [
        (ALL[:-1], TASK, "8 class names were given for a head of 9 classes"),
        (ALL, ("a", "z"), r"has no row for 1 of the 2 classes of the task \(first 'z'\); give a model that"),
    ],
)
def test_slices_that_cannot_be(classes, wanted, message):
    with pytest.raises(ModelError, match=message):
        slice_head(whole_model(), classes, wanted)


def test_a_pair_of_heads_is_refused():
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=9, img_size=48, depth=1)
    with pytest.raises(ModelError, match="has no single linear classifier; expected a timm"):
        slice_head(model, ALL, TASK)


# --- the outside check ------------------------------------------------------------------------------


def beyond(classes=("b", "e")):
    """Return pictures outside the task, three of each class."""
    stream = torch.Generator().manual_seed(3)
    pictures = torch.randint(256, (3 * len(classes), 3, 48, 48), dtype=torch.uint8, generator=stream)
    return ImageSet(pictures, torch.arange(len(classes)).repeat_interleave(3), classes)


def sliced_problem(data):
    model = whole_model()
    full = slice_head(model, ALL, TASK)
    return Classification(model, data, precision="fp32", device="cpu", outside=Outside.of(beyond(), full))


def test_the_outside_accuracy_is_that_of_the_whole_head(data):
    problem, whole = sliced_problem(data), whole_model()
    pictures = beyond()
    answers = whole(pictures.images.float() / 255).argmax(dim=1)
    right = answers == torch.tensor([ALL.index(pictures.classes[k]) for k in pictures.labels])
    assert torch.equal(problem.outside_correct(), right)
    assert problem.outside_accuracy() == pytest.approx(100 * float(right.float().mean()))


def test_reports_have_the_outside_before_and_after(data):
    problem = sliced_problem(data)
    start, pristine = problem.outside_accuracy(), copy.deepcopy(problem.model)
    method = create("gslora++", **tiny.QUICK)
    reports = forget_sequence(problem, method, plan(data, Setting(requests=(2, 2), ratio=0.5), 0), seed=0)
    for report in reports:
        assert report.metrics["acc_outside_before"] == start
    assert reports[-1].metrics["acc_outside"] == problem.outside_accuracy()
    assert problem.outside_accuracy(pristine) == start
    assert "acc_outside" not in tiny.problem().evaluate(plan(data, Setting((2,)), 0).tasks)[0]


@pytest.mark.parametrize("name", ["a", "z"])
def test_outside_pictures_of_the_tasks_or_of_unknown_classes_are_refused(name):
    full = slice_head(whole_model(), ALL, TASK)
    with pytest.raises(
        ModelError, match=f"'{name}' is not among the 3 classes that the whole head has outside"
    ):
        Outside.of(beyond(("b", name)), full)


def test_without_an_outside_there_is_no_accuracy_of_it():
    with pytest.raises(ModelError, match=r"no classes outside the task; give outside=Outside\.of"):
        tiny.problem().outside_accuracy()


@pytest.mark.parametrize("name", ["gslora", "gslora++", "gslora-distill"])
def test_a_request_without_any_retained_image_is_served(data, name):
    asked = plan(data, Setting(requests=(2,), ratio=0.5, replay=False), 0)
    report = forget_sequence(tiny.problem(), create(name, **tiny.QUICK), asked, seed=0)[0]
    assert report.metrics["acc_m"] == report.metrics["acc_r"]
    assert "retain" not in report.terms
    assert report.terms["forget"] >= 0


# --- an edited model in plain timm ------------------------------------------------------------------


def test_an_edited_model_with_its_whole_head_loads_strictly_in_plain_timm(data, tmp_path):
    problem, x = sliced_problem(data), tiny.images()
    method = create("gslora++", **tiny.QUICK)
    forget_sequence(problem, method, plan(data, Setting(requests=(2,), ratio=0.5), 0), seed=0)
    full, live = problem.outside.head, problem.model.eval()
    with torch.no_grad(), restored(live, full):
        expected = live(x)
    folded = lora.fold(problem.model)
    restore_head(folded, full)
    save_tensors(tmp_path / "edited.safetensors", folded.state_dict(), {"format": "pt"})
    path = str(tmp_path / "edited.safetensors")
    loaded = timm.create_model("test_vit", num_classes=9, img_size=48, checkpoint_path=path).eval()
    own = timm.create_model("test_vit", num_classes=9, img_size=48)
    assert list(folded.state_dict()) == list(own.state_dict())
    assert not any(isinstance(module, lora.LoRALinear) for module in folded.modules())
    with torch.no_grad():
        # Folding adds s·BA to W once instead of to each product: another order of float32 sums.
        assert torch.allclose(loaded(x), expected, atol=1e-5)
        assert not torch.allclose(loaded(x), whole_model()(x), atol=1e-4)
    assert isinstance(loaded.head, nn.Linear)
