"""The face transformer, its heads, checkpoints, and what a problem asks of a model."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import tiny
import torch
from timm.models.vision_transformer import VisionTransformer

from minigslora import lora
from minigslora.errors import DataError, ModelError
from minigslora.files import save_tensors
from minigslora.models import checkpoint
from minigslora.models.heads import ArcFace, CosFace, CosineHead, margin_logits
from minigslora.models.vit import MINI_FACE, FaceConfig, face_transformer
from minigslora.problems.base import Batch, Problem
from minigslora.problems.classification import Classification
from minigslora.rng import Streams
from minigslora.tasks import Task


def test_the_published_face_transformer_by_its_numbers():
    model = face_transformer(FaceConfig())
    shapes = {k: tuple(p.shape) for k, p in model.named_parameters()}
    assert shapes["pos_embed"] == (1, 1 + 14 * 14, 512)
    assert shapes["blocks.5.mlp.fc1.weight"] == (2048, 512)
    assert "blocks.6.mlp.fc1.weight" not in shapes
    assert "blocks.0.attn.qkv.bias" not in shapes
    assert model.blocks[0].attn.num_heads == 8
    lora.inject(model)
    lora.attach(model, "task1", rank=8)
    trained = sum(p.numel() for p in lora.trainable(model))
    total = sum(p.numel() for p in model.parameters())
    assert 100 * trained / total == pytest.approx(1.28, abs=0.02)  # the published share


@pytest.mark.parametrize(("head", "kind"), [("cosface", CosFace), ("arcface", ArcFace), ("linear", None)])
def test_heads_give_margin_free_logits(head, kind):
    model, x = tiny.face_model(head=head), tiny.images()
    assert isinstance(model.head, kind or torch.nn.Linear)
    embedding = model.forward_head(model.forward_features(x), pre_logits=True)
    assert embedding.shape == (4, 32)
    assert torch.equal(model(x), model.head(embedding))
    if kind:
        e, w = embedding.detach().double().numpy(), model.head.weight.detach().double().numpy()
        cos = (e / np.linalg.norm(e, axis=1, keepdims=True)) @ (
            w / np.linalg.norm(w, axis=1, keepdims=True)
        ).T
        np.testing.assert_allclose(model(x).detach().numpy(), 64 * cos, atol=1e-4)  # float32, scale 64


def test_margins_move_the_true_class_only():
    labels = torch.tensor([0, 2])
    cos = torch.tensor([[0.5, 0.1, -0.3], [0.2, 0.9, -0.8]], dtype=torch.float64)
    for head, expected in (
        (CosFace(4, 3), lambda c: 64 * (c - 0.35)),
        (ArcFace(4, 3, margin=0.5), lambda c: 64 * math.cos(math.acos(c) + 0.5)),
    ):
        moved = margin_logits(head, 64 * cos, labels)
        wanted = (64 * cos).clone()
        for i, c in enumerate(labels.tolist()):
            wanted[i, c] = expected(float(cos[i, c]))
        torch.testing.assert_close(moved, wanted)
        torch.testing.assert_close(margin_logits(head, 64 * cos, labels, share=0.0), 64 * cos)
    assert margin_logits(torch.nn.Linear(4, 3), cos, labels) is cos
    with pytest.raises(NotImplementedError):
        CosineHead(4, 3).with_margin(cos, labels)


def test_cosine_logits_are_float32_under_autocast():
    head = CosFace(8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.float32


# --- checkpoints --------------------------------------------------------------------------------------


def face_card(**changes):
    architecture = {"kind": "face", **asdict(tiny.FACE), **changes}
    return checkpoint.Card(architecture, classes=tuple("abcdef"), image_size=48, notes={"seed": 0})


def test_a_checkpoint_builds_its_model_again(tmp_path, model):
    checkpoint.save(tmp_path / "m.safetensors", model, face_card())
    again, card = checkpoint.load(tmp_path / "m.safetensors")
    assert card == face_card()
    x = tiny.images()
    assert torch.equal(again.eval()(x), model(x))


def test_a_timm_checkpoint_builds_its_model_again(tmp_path):
    card = checkpoint.Card({"kind": "timm", "name": "test_vit", "classes": 6, "img_size": 48})
    model = tiny.timm_vit()
    checkpoint.save(tmp_path / "m.safetensors", model, card)
    again, _ = checkpoint.load(tmp_path / "m.safetensors")
    assert torch.equal(again.eval()(tiny.images()), model(tiny.images()))


def test_the_shipped_model_loads_with_its_card():
    model, card = checkpoint.load_shipped("mini-faces")
    assert len(card.classes) == 100
    assert card.image_size == MINI_FACE.image_size
    assert model.eval()(tiny.images(2)).shape == (2, 100)
    with pytest.raises(ModelError, match=r"no checkpoint ships for 'mini-cats'; shipped: mini-faces"):
        checkpoint.load_shipped("mini-cats")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, model):
    checkpoint.save(tmp_path / "m.safetensors", model, face_card(mlp=32))
    with pytest.raises(
        ModelError, match=r"another architecture.*of another shape.*\(64, 32\) in the file, \(32, 32\)"
    ):
        checkpoint.load(tmp_path / "m.safetensors")
    checkpoint.save(tmp_path / "m.safetensors", model, face_card(depth=2))
    with pytest.raises(ModelError, match=r"0 missing, 11 unexpected"):
        checkpoint.load(tmp_path / "m.safetensors")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tensors = dict(before)
    del tensors["cls_token"]
    with pytest.raises(
        ModelError, match=r"file\.pth is a checkpoint of another.*1 missing \(first 'cls_token'\)"
    ):
        checkpoint.load_weights(model, tensors, "file.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_files_and_names_that_build_no_model(tmp_path):
    save_tensors(tmp_path / "bare.safetensors", {"w": torch.zeros(1)}, {})
    with pytest.raises(
        ModelError, match=r"does not say its architecture; make it a checkpoint that does: 'minig"
    ):
        checkpoint.load(tmp_path / "bare.safetensors")
    with pytest.raises(
        ModelError,
        match=r"unknown architecture 'onnx'; expected 'face', 'timm', 'deformable-detr' or 'transformers'",
    ):
        checkpoint.build({"kind": "onnx"})
    with pytest.raises(ModelError, match=r"timm has no model 'test_vitt'; did you mean test_vit"):
        checkpoint.timm_model("test_vitt", 3)
    with pytest.raises(ModelError, match=r"'wings' is no argument of test_vit that is known here"):
        checkpoint.timm_model("test_vit", 3, wings=2)
    with pytest.raises(ModelError, match=r"timm cannot build test_vit with .*depths"):
        checkpoint.timm_model("test_vit", 3, depths=(2, 2))


# --- the classification problem -----------------------------------------------------------------------


def task(**changes):
    values = {"name": "task1", "index": 0, "forget": (0,), "old": (), "retain": (1, 2, 3, 4, 5)}
    return Task(**{**values, "retain_images": (13, 30), "forget_images": (0, 5), **changes})


def test_classification_is_a_problem(problem):
    assert isinstance(problem, Problem)


def test_one_forward_pass_serves_all_roles(problem):
    rows = {"retain": torch.tensor([13, 30]), "forget": torch.tensor([0])}
    batch = problem.batch(rows)
    assert batch.targets.tolist() == [1, 2, 0]
    assert torch.equal(batch.inputs, problem.data.train.images[[13, 30, 0]].float() / 255)
    outputs = problem.forward(batch)
    labels = batch.targets
    z = outputs.logits.detach().double().numpy()
    z[np.arange(3), labels] -= 64 * 0.35
    expected = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(3), labels]
    losses = problem.losses(outputs, batch)
    np.testing.assert_allclose(losses.bounded.detach().numpy(), expected, rtol=1e-4, atol=1e-4)  # float32
    assert not losses.plain.any()
    assert torch.equal(losses.total, losses.bounded)
    assert torch.equal(batch.part(losses.total, "forget"), losses.total[2:])
    with pytest.raises(DataError, match="the batch has no retain2 image, only retain and forget"):
        batch.part(losses.total, "retain2")
    vectors, of = problem.vectors(outputs, batch, "embedding", "retain")
    assert torch.equal(vectors, outputs.embedding[:2])
    assert of.tolist() == [1, 2]
    assert problem.vectors(outputs, batch, "logits", "retain2") is None


def test_normalisation_is_applied(data):
    problem = Classification(tiny.face_model(), data, (0.5, 0.4, 0.3), (0.2, 0.5, 1.0), "cpu", "fp32")
    image = torch.full((1, 3, 48, 48), 255, dtype=torch.uint8)
    expected = torch.tensor([0.5 / 0.2, 0.6 / 0.5, 0.7])
    torch.testing.assert_close(problem.normalise(image)[0, :, 0, 0], expected)


def test_replay_gives_the_tasks_images_once(problem):
    batches = list(problem.replay(task()))
    assert [b.sizes for b in batches] == [{"retain": 2}, {"forget": 2}]
    assert torch.cat([b.targets for b in batches]).tolist() == [1, 2, 0, 0]


def test_class_rows_stand_for_classes_without_images(problem):
    rows = problem.class_rows("embedding")
    assert torch.equal(rows, problem.model.head.weight)
    logits = problem.class_rows("logits")
    assert logits.argmax(1).tolist() == list(range(tiny.PEOPLE))


def test_evaluation_counts_argmax_hits_and_margin_hits(problem):
    report = problem.evaluate([task()])[0]
    data = problem.data.test
    with torch.no_grad():
        logits = problem.model.eval()(data.images.float() / 255)
    hits = logits.argmax(1) == data.labels
    assert report["acc_f"] == pytest.approx(100 * hits[data.labels == 0].float().mean().item())
    assert report["acc_r"] == pytest.approx(100 * hits[data.labels != 0].float().mean().item())
    assert report["acc_r_margin"] <= report["acc_r"]
    assert problem.accuracy("test") == pytest.approx(100 * hits.float().mean().item())
    assert problem.correct("test", margin=True).sum() <= hits.sum()
    assert "acc_r_margin" not in tiny.problem(head="linear").evaluate([task()])[0]


def test_a_fresh_model_has_every_weight_drawn_anew(problem):
    tuned = {k: v.clone() for k, v in problem.model.state_dict().items()}
    lora.inject(problem.model)
    tiny.attach_drawn(problem.model, "task1")
    one, same, other = (problem.fresh_model(Streams(s)) for s in (0, 0, 1))
    assert isinstance(one, VisionTransformer)
    assert list(one.state_dict()) == list(tuned)
    assert all(p.requires_grad for p in one.parameters())
    for k, v in one.state_dict().items():
        assert torch.equal(v, same.state_dict()[k])
        if v.dim() > 1:
            assert not torch.equal(v, tuned[k]), k
            assert not torch.equal(v, other.state_dict()[k]), k


def test_a_head_with_other_classes_is_refused(data):
    with pytest.raises(
        ModelError, match=r"the model's head has 5 classes but mini-faces has 6; give a model"
    ):
        Classification(tiny.timm_vit(classes=5), data, device="cpu")


def test_models_without_one_linear_head_are_refused(data):
    for model in (torch.nn.Linear(3, 6), tiny.timm_vit("deit_tiny_distilled_patch16_224", depth=1)):
        with pytest.raises(ModelError, match=r"has no single linear classifier; expected a timm"):
            Classification(model, data, device="cpu")


def test_a_batch_is_cut_by_role_in_order():
    batch = Batch(torch.zeros(5), None, {"retain": 2, "forget": 0, "retain2": 3})
    values = torch.arange(5)
    parts = [batch.part(values, role).tolist() for role in ("retain", "forget", "retain2")]
    assert parts == [[0, 1], [], [2, 3, 4]]
