"""One more class for a head, forgotten ones again, and what of it stands after requests were revoked."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import squares
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from minigslora import audit, enrol, forget, ledger, lora, revoke
from minigslora.class_order import reordered
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.doctor import examine_file
from minigslora.erasure import finalize
from minigslora.errors import DataError, ModelError
from minigslora.files import load_tensors
from minigslora.models import checkpoint
from minigslora.models.head_slicing import restore_head, slice_head

QUICK = {**tiny.QUICK, "ratio": 0.5, "device": "cpu", "precision": "fp32", "watch": False, "check": False}
HEADS = ["cosface", "linear"]
NAME = "newcomer"


def subset(data, people, names):
    """The images of some people, who are called otherwise and counted anew."""
    splits = []
    for split in (data.train, data.val, data.test):
        rows = [split.of_classes([c]) for c in people]
        labels = torch.arange(len(people)).repeat_interleave(torch.tensor([len(r) for r in rows]))
        splits.append(ImageSet(split.images[torch.cat(rows)], labels, tuple(names)))
    return DataSet("faces", *splits)


ALL = tiny.faces()
KNOWN = ALL.classes[:5]


def five():
    return subset(ALL, range(5), KNOWN)


def six():
    return subset(ALL, range(6), (*KNOWN, NAME))


def newcomers():
    return six().train.images[six().train.of_classes([5])][:4]


def carded(head="cosface", seed=0):
    config = replace(tiny.FACE, classes=5, head=head)
    torch.manual_seed(seed)
    model = checkpoint.build({"kind": "face", **vars(config)}).eval()
    checkpoint.set_card(model, checkpoint.Card({"kind": "face", **vars(config)}, KNOWN, image_size=48))
    return model


def add(model, images=None, name=NAME):
    return enrol(model, name, newcomers() if images is None else images, five().train.images)


def state(model):
    """All parameters, the head's as it acts and what it says."""
    head = model.get_classifier()
    bias = {} if getattr(head, "bias", None) is None else {"bias": head.bias}
    with torch.no_grad():
        said = model(tiny.images())
    own = {f"own/{k}": v for k, v in model.named_parameters()}
    return {k: v.detach().clone() for k, v in {**own, **bias, "weight": head.weight, "said": said}.items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# --- a row ---------------------------------------------------------------------------------------------


def features(model, images):
    with torch.no_grad():
        return model.forward_head(model.forward_features(images / 255), pre_logits=True).double().numpy()


@pytest.mark.parametrize("adapted", [False, True])
def test_a_cosine_heads_row_is_the_mean_embedding_at_the_rows_mean_norm(adapted):
    model = carded()
    if adapted:
        lora.inject(model)
        tiny.attach_drawn(model, "task1")
        ledger.put(model, [ledger.Entry("task1", (KNOWN[1],), (1,))])
    before, modes = state(model.eval()), [module.training for module in model.modules()]
    assert add(model) == 5
    mean, kept = features(model, newcomers()).mean(axis=0), [0, 2, 3, 4] if adapted else list(range(5))
    length = np.linalg.norm(before["weight"][kept].double().numpy(), axis=1).mean()
    expected = length * mean / np.linalg.norm(mean)
    np.testing.assert_allclose(model.head.weight[5].detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    after = state(model)
    assert torch.equal(after["weight"][:5], before["weight"])
    assert torch.equal(after["said"][:, :5], before["said"])
    assert model.num_classes == len(model.head.weight) == 6
    assert [module.training for module in model.modules()] == modes


def test_a_linear_heads_row_and_bias_are_their_formulas():
    model = carded("linear")
    W, b = (getattr(model.head, k).detach().double().numpy() for k in ("weight", "bias"))
    add(model)
    e, others = features(model, newcomers()), features(model, five().train.images)
    centred = W - W.mean(axis=0)
    d = e.mean(axis=0) - others.mean(axis=0)
    w = W.mean(axis=0) + np.linalg.norm(centred, axis=1).mean() * d / np.linalg.norm(d)
    bias = (others @ W.T + b).max(axis=1).mean() - (e @ w).mean()
    np.testing.assert_allclose(model.head.weight[5].detach().numpy(), w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.head.bias[5].detach().numpy(), bias, rtol=1e-4, atol=1e-4)
    assert model.head.out_features == 6


def test_a_linear_head_needs_images_of_other_classes():
    model = carded("linear")
    before = state(model)
    with pytest.raises(ModelError, match=r"needs images of others, too: give some of each \(beside="):
        enrol(model, NAME, newcomers())
    assert same(state(model), before)


def test_the_newcomer_is_named_and_the_others_stay_so(tmp_path):
    names = ("blue", "gold", "green")
    photos = squares.pictures(tmp_path / "photos", (*names, "red"), {"train": 10, "test": 4})
    model = squares.trained(photos, names)
    images = tmp_path / "photos" / "train" / "red"
    assert enrol(model, "red", images, tmp_path / "photos") == 3
    assert squares.accuracies(model, photos, (*names, "red")) == dict.fromkeys((*names, "red"), 100)
    done = forget(model, photos, ["red"], **squares.QUICK)
    assert squares.accuracies(done.model, photos, (*names, "red"))["red"] == 0


# --- what goes on after it --------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_a_newcomer_is_retained_forgotten_finalised_and_loaded_again(head, tmp_path):
    model = carded(head)
    forget(model, five(), [KNOWN[1]], **QUICK)
    add(model)
    assert checkpoint.card_of(model).classes == (*KNOWN, NAME)
    done = forget(model, six(), [KNOWN[2]], **QUICK)
    assert 5 in done.plan.tasks[0].retain
    assert done.plan.tasks[0].old == (1,)
    gone = forget(model, six(), [NAME], **QUICK)
    assert [e.request for e in gone.ledger] == ["task1", "task2", "task3"]
    loaded, card = checkpoint.load(gone.finalize(tmp_path / "e.safetensors"))
    assert card.classes == (*KNOWN, NAME)
    assert ledger.events(loaded) == ledger.events(model)
    assert [e.event for e in ledger.events(loaded)] == ["forget", "enrol", "forget", "forget"]
    with torch.no_grad():
        said = loaded.eval()(tiny.images())
        assert torch.allclose(said, model.eval()(tiny.images()), atol=1e-4)  # of 64, summed in another order
    report = audit(loaded, six(), only=["everyday"], device="cpu", watch=False)
    assert report.asked["forgotten"] == [KNOWN[1], KNOWN[2], NAME]
    again = forget(loaded, six(), [KNOWN[0]], **QUICK)
    assert again.plan.tasks[0].name == "task4"
    found = [str(f) for f in examine_file(tmp_path / "e.safetensors")]
    assert any("enrolled" in line and "enrol1: newcomer" in line for line in found)


@pytest.mark.parametrize("head", HEADS)
def test_revoking_a_request_leaves_the_model_without_it_and_with_the_row(head):
    model = carded(head)
    forget(model, five(), [[KNOWN[1]], [KNOWN[2]]], **QUICK)
    add(model)
    row = {k: v[5] for k, v in state(model).items() if k in ("weight", "bias")}
    forget(model, six(), [KNOWN[3]], **QUICK)
    for task, others in (("task2", ["task1", "task3"]), ("task1", ["task3"]), ("task3", [])):
        expected = copy.deepcopy(model)
        with lora.bypassed(expected, task):
            without = state(expected)
        revoke(model, task)
        now = state(model)
        acting = ("weight", "bias", "said")
        assert all(torch.equal(now[k], without[k]) for k in acting if k in now)
        assert all(torch.equal(now[k][5], v) for k, v in row.items())
        assert lora.adapter_names(model) == others
    plain = carded(head)
    assert torch.equal(model.head.weight[:5], plain.head.weight)
    with torch.no_grad():
        assert torch.equal(model(tiny.images())[:, :5], plain(tiny.images()))


@pytest.mark.parametrize("head", HEADS)
def test_a_forgotten_class_is_enrolled_in_its_old_place_and_is_old_no_more(head, tmp_path):
    model = carded(head)
    forget(model, five(), [[KNOWN[1], KNOWN[3]], [KNOWN[2]]], **QUICK)
    nobody = model.head.weight[3].detach().clone()
    images = five().train.images[five().train.of_classes([1])]
    assert add(model, images, KNOWN[1]) == 1
    row = model.head.weight[1].detach().clone()
    assert checkpoint.card_of(model).classes == KNOWN
    assert [(e.request, e.rows) for e in ledger.of(model)] == [("task1", (3,)), ("task2", (2,))]
    loaded, _ = checkpoint.load(finalize(model, tmp_path / "e.safetensors"))
    assert [(e.request, e.rows) for e in ledger.of(loaded)] == [("task1", (3,)), ("task2", (2,))]
    for again in (model, loaded):
        done = forget(again, five(), [KNOWN[4]], **QUICK)
        assert done.plan.tasks[0].old == (3, 2)
        assert 1 in done.plan.tasks[0].retain
    assert torch.equal(model.head.weight[3], nobody)
    revoke(model, "task1")
    assert torch.equal(model.head.weight[1], row)
    assert torch.equal(model.head.weight[3], carded(head).head.weight[3])
    done = forget(model, five(), [KNOWN[1]], **QUICK)
    assert not torch.equal(model.head.weight[1], row)
    assert done.plan.tasks[0].name == "task4"
    done.revoke()
    assert torch.equal(model.head.weight[1], row)


def test_a_stopped_run_after_an_enrolment_goes_on_bit_for_bit(tmp_path):
    def serve():
        model = carded()
        forget(model, five(), [[KNOWN[1]]], **QUICK)
        add(model, five().train.images[five().train.of_classes([1])], KNOWN[1])
        add(model)
        return forget(model, six(), [[KNOWN[1]], [NAME]], out=tmp_path / "b", **QUICK)

    whole = serve()
    for name in ("task3.json", "task3.safetensors"):
        (tmp_path / "b" / name).unlink()
    resumed = serve()
    assert same(state(resumed.model), state(whole.model))
    assert same(lora.adapter_state(resumed.model), lora.adapter_state(whole.model))
    assert ledger.events(resumed.model) == ledger.events(whole.model)


def test_an_emptied_request_is_still_known(tmp_path):
    model = carded()
    forget(model, five(), [KNOWN[1]], **QUICK)
    add(model, name=KNOWN[1])
    assert ledger.of(model) == ()
    done = forget(model, five(), [KNOWN[2]], **QUICK)
    assert [(t.name, t.old) for t in done.plan.tasks] == [("task2", ())]
    done.revoke("task1")
    assert lora.adapter_names(model) == ["task2"]


def test_a_model_without_a_card_is_served_by_its_ledger():
    model = tiny.timm_vit(classes=5)
    assert add(model) == 5
    with pytest.raises(DataError, match="'newcomer' is a class of the model already, row 5 of its head"):
        add(model)
    with pytest.raises(DataError, match="there was enrolled 'newcomer', row 5 of its head, but there faces"):
        forget(model, reordered(six(), (NAME, *KNOWN)), [0], **QUICK)
    assert forget(model, six(), [NAME], **QUICK).ledger[0].rows == (5,)


def test_accents_may_be_composed_or_not():
    model, composed, apart = carded(), "Ren\u00e9e", "Rene\u0301e"
    add(model, name=composed)
    with pytest.raises(DataError, match="is a class of the model already, row 5"):
        add(model, name=apart)
    data = subset(ALL, range(6), (*KNOWN, composed))
    forget(model, data, [composed], **QUICK)
    assert add(model, name=apart) == 5
    assert ledger.events(model)[-1].classes == (composed,)
    assert ledger.of(model) == ()
    assert forget(model, data, [KNOWN[0]], **QUICK).plan.tasks[0].old == ()


def test_half_precision_models_take_their_own_type():
    model = carded().to(torch.bfloat16)
    add(model)
    assert model.head.weight.dtype == torch.bfloat16


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "images", "error", "message"),
    [
        (KNOWN[2], None, DataError, "'person-002' is a class of the model already, row 2 of its head; give"),
        ("", None, DataError, "'' is no name of a class"),
        (3, None, DataError, "3 is no name of a class"),
        (NAME, torch.zeros(0, 3, 48, 48), DataError, r"shape \(0, 3, 48, 48\); expected \(N, 3, 48, 48\)"),
        (NAME, torch.zeros(2, 3, 32, 32), DataError, r"images of 'newcomer' have shape \(2, 3, 32, 32\)"),
        (NAME, torch.zeros(2, 3, 48, 48, dtype=torch.int), DataError, "are torch.int32 from 0 to 0; exp"),
        (NAME, torch.full((2, 3, 48, 48), 255.0), DataError, "are torch.float32 from 255 to 255; expected"),
        (NAME, torch.full((2, 3, 48, 48), torch.nan), DataError, "from nan to nan; expected"),
        (NAME, "nowhere", DataError, "there is no folder nowhere with images of 'newcomer'"),
    ],
)
def test_what_cannot_be_enrolled_is_named_and_changes_nothing(name, images, error, message):
    model = carded()
    before = state(model)
    with pytest.raises(error, match=message):
        enrol(model, name, newcomers() if images is None else images)
    assert same(state(model), before)
    assert ledger.events(model) == ()


def test_folders_that_hold_no_one_class_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no image in it \(images end in"):
        enrol(carded(), NAME, tmp_path / "empty")
    (tmp_path / "several" / "anna").mkdir(parents=True)
    Image.new("RGB", (48, 48)).save(tmp_path / "several" / "anna" / "1.png")
    with pytest.raises(DataError, match="there are some in anna, but one class is asked for"):
        enrol(carded(), NAME, tmp_path / "several")
    with pytest.raises(DataError, match="has no class folder with images of other classes"):
        enrol(carded("linear"), "anna", tmp_path / "several" / "anna", tmp_path / "several")


def test_models_without_one_classifier_and_broken_ones_are_refused():
    with pytest.raises(ModelError, match="has no single linear classifier"):
        enrol(nn.Linear(2, 2), NAME, newcomers())
    model = carded()
    with torch.no_grad():
        model.norm.bias.fill_(torch.nan)
    with pytest.raises(ModelError, match="embeddings of the images of 'newcomer' are NaN or infinite"):
        add(model)
    assert len(model.head.weight) == 5


def test_a_sliced_model_cannot_be_put_back_around_a_newcomer():
    model = carded()
    full = slice_head(model, KNOWN, KNOWN[:3])
    add(model)
    with pytest.raises(ModelError, match="has 4 rows, but 3 were cut for it"):
        restore_head(model, full)


# --- the ledger ------------------------------------------------------------------------------------------


def test_a_revoked_request_leaves_a_trace_with_its_date(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    model = carded()
    done = forget(model, five(), [[KNOWN[1]], [KNOWN[2]]], **QUICK)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700100000")
    done.revoke("task1")
    done.finalize(tmp_path / "e.safetensors")
    events = ledger.read(load_tensors(tmp_path / "e.safetensors")[1], "")
    assert [(e.request, e.event, e.date, e.classes) for e in events] == [
        ("task1", "forget", "2023-11-14", (KNOWN[1],)),
        ("task2", "forget", "2023-11-14", (KNOWN[2],)),
        ("task1", "revoke", "2023-11-16", (KNOWN[1],)),
    ]
    assert [e.request for e in ledger.in_force(events)] == ["task2"]
    loaded, _ = checkpoint.load(tmp_path / "e.safetensors")
    assert forget(loaded, five(), [KNOWN[1]], **QUICK).plan.tasks[0].name == "task3"


def test_files_without_other_events_are_as_they_were(tmp_path):
    done = forget(carded(), five(), [KNOWN[1]], **QUICK)
    notes = load_tensors(done.finalize(tmp_path / "e.safetensors"))[1]
    assert all("event" not in entry for entry in notes["ledger"])
    old = {"ledger": [{"request": "task1", "classes": ["a"], "rows": [0], "date": "2026-01-01"}]}
    (entry,) = ledger.read(old, "an old file")
    assert (entry.event, entry.rows) == ("forget", (0,))


def entry(request, event="forget", row=0):
    return {"request": request, "classes": ["a"], "rows": [row], "event": event}


@pytest.mark.parametrize(
    "broken",
    [
        [entry("task1", "erase")],
        [entry("task1", "revoke")],
        [entry("task1", "revoke"), entry("task1")],
        [entry("task1"), entry("task1", "revoke"), entry("task1", "revoke")],
        [entry("task1"), entry("task1", "revoke"), entry("task1")],
        [entry("task1"), entry("task2")],
        [entry("task1", "enrol")],
        [entry("enrol1", "enrol", -1)],
        [entry("enrol1", "enrol"), entry("enrol1", "enrol", 1)],
        [{**entry("enrol1", "enrol"), "rows": [0, 1], "classes": ["a", "b"]}],
    ],
)
def test_events_that_cannot_have_been_are_refused(broken, tmp_path):
    finalize(carded(), tmp_path / "e.safetensors")
    tensors, notes = load_tensors(tmp_path / "e.safetensors")
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in {**notes, "ledger": broken}.items()}
    save_file(tensors, tmp_path / "e.safetensors", metadata=text)
    with pytest.raises(ModelError, match=r"the ledger in the header of .* is damaged"):
        checkpoint.load(tmp_path / "e.safetensors")


def test_events_one_after_another():
    given = [
        entry("task1"),
        entry("task1", "revoke"),
        entry("task2"),
        entry("enrol1", "enrol"),
        entry("task3"),
        entry("task4", row=2),
    ]
    events = ledger.read({"ledger": given}, "")
    assert [(e.request, e.rows) for e in ledger.in_force(events)] == [("task3", (0,)), ("task4", (2,))]
    assert (ledger.count(events, "forget"), ledger.count(events, "enrol")) == (4, 1)
    assert ledger.plain(events) == [{**ledger.plain([e])[0]} for e in events]


def test_load_file_of_a_finalised_model_is_plain(tmp_path):
    model = carded()
    add(model)
    loaded = load_file(finalize(model, tmp_path / "e.safetensors"))
    assert loaded["head.weight"].shape == (6, 32)
