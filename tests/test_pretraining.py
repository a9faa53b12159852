"""Pre-training: it learns, it repeats, and its recipes and checkpoints are as asked."""

from dataclasses import replace

import pytest
import tiny
import torch

from minigslora.errors import ConfigError, DataError, ModelError, OutputError, TrainingDiverged
from minigslora.files import read_json, sha256
from minigslora.models import checkpoint
from minigslora.models.vit import MINI_FACE, face_transformer
from minigslora.pretraining import (
    Pretraining,
    Recipe,
    _untrained,
    make_checkpoint,
    pretrain,
    recipe_for,
    start_from,
)
from minigslora.tasks import Progress
from minigslora.training import learning_rate

QUICK = Pretraining(epochs=2, batch=24, warmup_epochs=1, precision="fp32", augment=False)


def test_the_rate_warms_up_and_ends_near_nothing():
    loop = tiny.training(epochs=10, lr=1.0, warmup_epochs=2, schedule="cosine by step")
    rates = [learning_rate(loop, Progress(0, i // 5, 10, i % 5, 5)) for i in range(50)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert max(rates) == max(rates[8:12]) <= 1.0
    assert rates[-1] < 0.01
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_loss_falls_and_the_numbers_repeat():
    def run(seed):
        problem = tiny.problem()
        seen = []
        config = replace(QUICK, epochs=6, seed=seed, lr=3e-3, margin_ramp=0.0)
        history = pretrain(problem, config, on_epoch=seen.append, evaluate_every=3, objective="plain")
        assert seen == history
        return problem, [(e.epoch, e.loss, e.acc_val) for e in history]

    (one, history), (two, again), (_, other) = run(0), run(0), run(1)
    assert [e[0] for e in history] == [3, 6]
    assert history[-1][1] < history[0][1]
    assert history == again != other
    states = one.model.state_dict(), two.model.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def linear_problem():
    return tiny.Classification(tiny.timm_vit(), tiny.faces(), device="cpu", precision="fp32")


def test_mixed_images_have_shares_of_classes_for_targets():
    problem = linear_problem()
    batch = problem.batch({"retain": torch.arange(0, 48, 6)})
    torch.manual_seed(0)
    for _ in range(4):  # CutMix and MixUp come up
        mixed = problem.mixed(batch)
        assert mixed.inputs.shape == batch.inputs.shape
        torch.testing.assert_close(mixed.targets.sum(1), torch.ones(8))
        logits = problem.forward(mixed).logits
        expected = -(mixed.targets * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(problem.supervised(mixed), expected)
    whole = replace(batch, targets=torch.nn.functional.one_hot(batch.targets, tiny.PEOPLE).float())
    torch.testing.assert_close(problem.supervised(whole), problem.supervised(batch))


def test_what_is_mixed_repeats_and_counts():
    def run(mix):
        problem = linear_problem()
        return [e.loss for e in pretrain(problem, replace(QUICK, mix=mix), evaluate_every=1)]

    assert run(1.0) == run(1.0) != run(0.0)


def test_only_a_classifier_without_margin_learns_from_mixed_images():
    for problem in (tiny.problem(), tiny.detection()):
        with pytest.raises(ConfigError, match=r"mix = 0\.5: only a classifier without a margin"):
            pretrain(problem, replace(QUICK, mix=0.5))


def test_a_loss_that_is_not_finite_stops():
    problem = tiny.problem()
    with torch.no_grad():
        problem.model.head.weight[0, 0] = float("nan")
    with pytest.raises(
        TrainingDiverged,
        match=r"pre-training, epoch 1: the loss term .supervised. is not finite; this was so before",
    ):
        pretrain(problem, QUICK)


@pytest.mark.parametrize("what", ["the loss term 'supervised'", "a trained parameter"])
def test_what_diverges_leaves_the_weights_of_the_last_good_epoch(monkeypatch, what):
    from minigslora import training

    step, steps_done, good = training.train_step, [], {}

    def spoiled(problem, *rest):
        terms = step(problem, *rest)
        steps_done.append(terms)
        if len(steps_done) == 2 * 3:  # the last step of the second epoch
            with torch.no_grad():
                next(problem.model.parameters()).fill_(float("nan"))
            return {k: v * float("nan") for k, v in terms.items()} if "loss" in what else terms
        return terms

    def remember(_epoch):
        good.update({k: v.clone() for k, v in problem.model.state_dict().items()})

    monkeypatch.setattr(training, "train_step", spoiled)
    problem = tiny.problem()
    with pytest.raises(
        TrainingDiverged,
        match=f"pre-training, epoch 2: {what} is not finite; the model was put back to its last good state",
    ):
        pretrain(problem, replace(QUICK, epochs=3), on_epoch=remember, evaluate_every=1)
    now = problem.model.state_dict()
    assert good
    assert all(torch.equal(v, now[k]) for k, v in good.items())


def test_recipes_take_what_was_asked_for():
    recipe = recipe_for("mini-faces", "cpu", epochs=3, image_size=32, dim=64, depth=2, seed=5)
    model, training = recipe.model, recipe.training
    assert (training.epochs, training.seed) == (3, 5)
    assert (model.image_size, model.dim, model.heads, model.mlp, model.depth) == (32, 64, 2, 128, 2)
    assert recipe_for("casia-face100", "cpu").model.image_size < 112


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mini-cats"}, r"no pre-training recipe for 'mini-cats'; there are mini-faces"),
        ({"epochs": 0}, r"epochs = 0; expected 1 or more"),
        ({"depth": 0}, r"depth = 0; expected 1 or more"),
        ({"dim": 33}, r"width = 33; expected a multiple of 32"),
        ({"seed": 10**20}, r"seed = 10+; expected -9.22337e\+18 to 9.22337e\+18"),
        ({"image_size": 50}, r"image_size = 50; expected a multiple of the patch, 8"),
    ],
)
def test_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(ConfigError, match=message):
        recipe_for(**{"name": "mini-faces", "device": "cpu", **arguments})


def test_a_checkpoint_is_written_with_its_record(tmp_path, monkeypatch, data):
    monkeypatch.setattr("minigslora.pretraining.registry.load", lambda *_: data)
    out = tmp_path / "new" / "tiny.safetensors"
    recipe = Recipe(replace(tiny.FACE, classes=100), replace(QUICK, epochs=1))
    record = make_checkpoint("mini-faces", recipe, out, "cpu", "what was typed")
    assert read_json(out.with_suffix(".json")) == read_json(out.with_suffix(".json")) | {
        "sha256": sha256(out),
        "file": "tiny.safetensors",
        "command": "what was typed",
        "metrics": record["metrics"],
    }
    model, card = checkpoint.load(out)
    assert card.classes == data.classes
    problem = tiny.Classification(model, data, card.mean, card.std, "cpu", "fp32")
    assert problem.accuracy("test") == pytest.approx(record["metrics"]["acc_test"], abs=0.01)


def test_where_a_checkpoint_cannot_go_is_found_before_training(tmp_path):
    recipe = Recipe(tiny.FACE, QUICK)
    with pytest.raises(ConfigError, match=r"model\.pth should end in \.safetensors"):
        make_checkpoint("mini-faces", recipe, tmp_path / "model.pth", "cpu")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot write"):
        make_checkpoint("mini-faces", recipe, tmp_path / "file" / "m.safetensors", "cpu")
    assert (tmp_path / "file").read_text() == "mine"


def test_real_faces_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"casia-face100 is not below"):
        make_checkpoint("casia-face100", Recipe(tiny.FACE, QUICK), tmp_path / "m.safetensors", "cpu")


def test_a_start_gives_the_body_of_another_checkpoint_and_leaves_the_head():
    model = face_transformer(replace(MINI_FACE, classes=7, head="arcface"))
    head = model.head.weight.detach().clone()
    start_from(model, "mini-faces")
    shipped, _ = checkpoint.load_shipped("mini-faces")
    body = {k: v for k, v in shipped.state_dict().items() if not k.startswith("head.")}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in body.items())
    assert torch.equal(model.head.weight, head)


def test_a_start_at_another_input_size_interpolates_the_places():
    shipped, _ = checkpoint.load_shipped("mini-faces")
    there, larger = shipped.state_dict(), face_transformer(replace(MINI_FACE, image_size=96))
    start_from(larger, "mini-faces")
    assert torch.equal(larger.blocks[0].mlp.fc1.weight, there["blocks.0.mlp.fc1.weight"])
    places = larger.pos_embed.detach()
    assert torch.equal(places[:, 0], there["pos_embed"][:, 0])  # the class token's has no place
    grids = [p[:, 1:].unflatten(1, (side, side)) for p, side in ((places, 12), (there["pos_embed"], 6))]
    coarse = torch.nn.functional.avg_pool2d(grids[0].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert (coarse - grids[1]).norm() < 0.2 * grids[1].norm()


def test_a_start_of_another_size_or_name_is_refused():
    with pytest.raises(ModelError, match=r"mini-faces is a checkpoint of another architecture"):
        start_from(tiny.face_model(), "mini-faces")
    with pytest.raises(ModelError, match="no weight file at nobody"):
        start_from(tiny.face_model(), "nobody")


def test_the_recipe_of_real_faces_on_a_cpu_starts_from_the_shipped_model_where_it_fits():
    assert recipe_for("casia-face100", "cpu").start == "mini-faces"
    assert recipe_for("casia-face100", "cpu", image_size=112).start == "mini-faces"
    assert recipe_for("casia-face100", "cpu", depth=12).start == ""
    assert recipe_for("casia-face100", "cpu", start="").start == ""
    assert recipe_for("mini-faces", "cpu").start == ""


def test_a_reference_model_never_sees_the_classes_it_goes_without():
    recipe = recipe_for("mini-faces", epochs=1, without=["person-003", "person-007"])
    problem, _ = _untrained("mini-faces", recipe, "cpu", False)
    for split in ("train", "val", "test"):
        labels = getattr(problem.data, split).labels
        assert not torch.isin(labels, torch.tensor([3, 7])).any()
        assert labels.unique().numel() == 98
    assert len(problem.data.classes) == problem.num_classes == 100


def test_a_reference_model_needs_classes_that_there_are():
    with pytest.raises(DataError, match="unknown class 'person-999'"):
        _untrained("mini-faces", recipe_for("mini-faces", without=["person-999"]), "cpu", False)
    with pytest.raises(ConfigError, match="for classifiers"):
        recipe_for("mini-scenes", without=["cat"])
