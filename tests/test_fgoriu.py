"""FG-OrIU: subspaces, norms and gradients against sums written out; stopping, revoking, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from test_baselines import CLOSE, STREAMS, TASK, F, InFloat64, R, labels, make_plan, serve
from test_methods import cross_entropy
from torch import nn

from minigslora import lora, methods
from minigslora.blocks import class_token, outputs_of
from minigslora.errors import ConfigError, DataError, ModelError
from minigslora.methods.fg_oriu import free_of, original_tokens
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence
from minigslora.subspaces import basis_of, nuclear_norm, outside, polar
from minigslora.tasks import Progress
from minigslora.training import make_optimizer, train_step

MARGIN = 64 * 0.35
ROWS = {"retain": torch.tensor([13, 30, 44]), "forget": torch.tensor([0, 5, 50])}


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- subspaces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.99, 1.0])
def test_a_basis_holds_the_energy_asked_for_and_one_vector_fewer_does_not(energy):
    features = drawn(30, 12) * torch.logspace(0, -2, 12, dtype=torch.float64)
    found = basis_of(features, energy)
    count = found.shape[1]
    values = np.linalg.svd(features.numpy(), compute_uv=False) ** 4  # of the Gram matrix, squared
    share = values.cumsum() / values.sum()
    assert share[count - 1] >= energy - 1e-12
    assert count == 1 or share[count - 2] < energy
    torch.testing.assert_close(found.T @ found, torch.eye(count, dtype=torch.float64))
    within = features - outside(features, found)
    torch.testing.assert_close(within, features @ (found @ found.T))
    torch.testing.assert_close(outside(within, found), torch.zeros_like(within))


def test_rows_of_one_direction_need_one_vector():
    direction = nn.functional.normalize(drawn(1, 7), dim=1)
    found = basis_of(drawn(5, 1) * direction, 0.99)
    torch.testing.assert_close((found.T @ direction.T).abs(), torch.ones(1, 1, dtype=torch.float64))


def test_what_lies_outside_the_whole_space_is_nothing_and_outside_of_nothing_all():
    features = drawn(4, 6)
    assert outside(features, torch.eye(6, dtype=torch.float64)).abs().max() == 0
    assert torch.equal(outside(features, features.new_zeros(6, 0)), features)


def test_the_nuclear_norm_of_a_matrix_made_by_hand():
    assert nuclear_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0]])).item() == pytest.approx(7, rel=1e-6)
    # (1, 1; 1, 1) has singular values 2 and 0; rows (3, 4) alone have 5.
    assert nuclear_norm(torch.ones(2, 2)).item() == pytest.approx(2, rel=1e-6)
    assert nuclear_norm(torch.tensor([[3.0, 4.0]])).item() == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5), (1, 4)])
def test_the_nuclear_norm_is_the_sum_of_singular_values_and_its_gradient_their_polar_factor(shape):
    matrix = drawn(*shape, seed=sum(shape)).requires_grad_(True)
    u, values, vt = np.linalg.svd(matrix.detach().numpy(), full_matrices=False)
    norm = nuclear_norm(matrix)
    assert norm.item() == pytest.approx(values.sum(), **CLOSE)
    (gradient,) = torch.autograd.grad(norm, matrix)
    np.testing.assert_allclose(gradient.numpy(), u @ vt, atol=1e-9)
    np.testing.assert_allclose(polar(matrix.detach()).numpy(), u @ vt, atol=1e-9)


def test_small_singular_values_count_and_zero_ones_have_no_gradient():
    left, right = (np.linalg.qr(drawn(6, 4, seed=s).numpy())[0] for s in (1, 2))
    for values in ([1.0, 0.1, 1e-2, 1e-4], [1.0, 1.0, 1e-3, 0.0]):
        matrix = torch.from_numpy(left @ np.diag(values) @ right.T).requires_grad_(True)
        (gradient,) = torch.autograd.grad(norm := nuclear_norm(matrix), matrix)
        assert norm.item() == pytest.approx(sum(values), rel=1e-9)
        of = [float(v > 0) for v in values]
        np.testing.assert_allclose(gradient.numpy(), left @ np.diag(of) @ right.T, atol=1e-6)
    zero = torch.zeros(3, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm := nuclear_norm(zero), zero)
    assert (norm.item(), gradient.abs().max().item()) == (0, 0)


# --- the loss -----------------------------------------------------------------------------------------


def started(problem, **settings):
    """Return a method after ``begin`` and the model's adapters moved off their start."""
    method = methods.create("fg-oriu", **{**tiny.QUICK, **settings})
    method.begin(problem, TASK, STREAMS)
    problem.model.eval()
    stream = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, adapter in lora.adapters(problem.model, "task1"):
            adapter.B.copy_(torch.randn(adapter.B.shape, generator=stream, dtype=adapter.B.dtype) * 0.2)
    return method


def tokens_after_blocks(problem, model, rows):
    """Return class tokens after each block by the model's own layers, in float64."""
    with torch.no_grad():
        x = model.norm_pre(model._pos_embed(model.patch_embed(problem.batch(rows).inputs)))
        found = []
        for block in model.blocks:
            x = block(x)
            found.append(x[:, 0].numpy())
    return found


def basis_by_hand(tokens, energy):
    _, values, rows = np.linalg.svd(tokens.T @ tokens)
    share = (values**2).cumsum() / (values**2).sum()
    return rows[: 1 + int((share < energy).sum())].T


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("margin", [False, True])
def test_the_loss_is_its_equation(data, last_only, margin):
    problem = InFloat64()
    settings = {"leave": 0.3, "stay": 0.2, "energy": 0.95, "last_only": last_only, "margin": margin}
    method = started(problem, **settings)
    rows = {"retain": TASK.retain_images, "forget": TASK.forget_images}
    first = tiny.face_model().double()
    before = [
        tokens_after_blocks(problem, first, {role: torch.tensor(images)}) for role, images in rows.items()
    ]
    now = tokens_after_blocks(problem, problem.model, ROWS)
    leave = stay = 0.0
    for kept, gone, tokens in list(zip(*before, now, strict=True))[-1 if last_only else 0 :]:
        p_f, p_r = basis_by_hand(gone, 0.95), basis_by_hand(kept, 0.95)
        tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
        leave += np.linalg.svd(tokens[F] @ p_f, compute_uv=False).sum()
        stay += np.linalg.norm(tokens[R] @ (np.eye(len(p_r)) - p_r @ p_r.T))
    with torch.no_grad():
        logits = problem.forward(problem.batch(ROWS)).logits.numpy()
    retain = cross_entropy(logits[R], labels(problem)[R], MARGIN if margin else 0).mean()
    expected = {"retain": retain, "leave": 0.3 * leave, "stay": 0.2 * stay}
    expected["loss"] = sum(expected.values())
    found = tiny.loss_terms(method, problem, problem.batch(ROWS))
    assert {k: v.item() for k, v in found.items()} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert min(leave, stay) > 1e-3


def test_the_gradient_of_the_loss_is_its_slope(data):
    problem = InFloat64()
    method = started(problem)
    weights = lora.trainable(problem.model)
    direction = [drawn(*p.shape, seed=i) for i, p in enumerate(weights)]

    def loss():
        return tiny.loss_terms(method, problem, problem.batch(ROWS))["loss"]

    def moved(step):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p += step * d
            value = loss().item()
            for p, d in zip(weights, direction, strict=True):
                p -= step * d
        return value

    gradients = torch.autograd.grad(loss(), weights)
    along = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    assert along == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-4)


def test_bases_are_the_pretrained_models_whatever_earlier_requests_did(data):
    problem = tiny.problem()
    plain = original_tokens(problem, TASK)
    lora.inject(problem.model)
    tiny.attach_drawn(problem.model, "task0")
    again = original_tokens(problem, TASK)
    assert list(plain) == [f"blocks.{i}" for i in range(tiny.FACE.depth)]
    for block, (gone, kept) in plain.items():
        assert (len(gone), len(kept)) == (len(TASK.forget_images), len(TASK.retain_images))
        assert not torch.allclose(gone.norm(dim=1), torch.ones(len(gone))), "as the model gives them"
        assert torch.equal(gone, again[block][0])
        assert torch.equal(kept, again[block][1])


def test_a_step_is_one_forward_pass_and_leaves_no_hook(data, monkeypatch):
    problem = tiny.problem()
    method = started(problem)
    passes, forward = [], problem.forward
    monkeypatch.setattr(problem, "forward", lambda *given: passes.append(1) or forward(*given))
    tiny.loss_terms(method, problem, problem.batch(ROWS))
    assert len(passes) == 1
    assert not any(module._forward_hooks for module in problem.model.modules())


def test_half_precision_outside_is_float32_inside(data):
    problem = tiny.problem()
    method = started(problem)
    with torch.autocast("cpu", torch.bfloat16):
        terms = tiny.loss_terms(method, problem, problem.batch(ROWS))
    assert {terms[k].dtype for k in ("leave", "stay")} == {torch.float32}
    exact = tiny.loss_terms(method, problem, problem.batch(ROWS))
    assert terms["leave"].item() == pytest.approx(exact["leave"].item(), rel=0.02)


# --- gradients ----------------------------------------------------------------------------------------


def after_backward(projection, **settings):
    """Return a method, its adapters by layer, and each one's gradients before and after ``before_update``."""
    problem = InFloat64()
    method = started(problem, projection=projection, **settings)
    tiny.loss_terms(method, problem, problem.batch(ROWS))["loss"].backward()
    found = dict(lora.adapters(problem.model, "task1"))
    before = {name: (a.A.grad.clone(), a.B.grad.clone()) for name, a in found.items()}
    method.before_update()
    return method, before, {name: (a.A.grad, a.B.grad) for name, a in found.items()}


def test_projected_gradients_have_nothing_in_the_retained_subspace(data):
    method, before, after = after_backward("transposed")
    for name, (a, b) in after.items():
        kept = method.bases[name.partition(".mlp")[0]][1]
        off = torch.eye(tiny.FACE.dim, dtype=torch.float64) - kept @ kept.T
        if name.endswith("fc1"):
            torch.testing.assert_close(a, before[name][0] @ off)
            assert (a @ kept).abs().max() < 1e-12 < (before[name][0] @ kept).abs().max()
            assert torch.equal(b, before[name][1]), "the FFN's inner width"
        else:
            torch.testing.assert_close(b, off @ before[name][1])
            assert (kept.T @ b).abs().max() < 1e-12 < (kept.T @ before[name][1]).abs().max()
            assert torch.equal(a, before[name][0])


def test_the_released_projection_reshapes_b_and_leaves_something_in_the_subspace(data):
    method, before, after = after_backward("reshaped")
    _, _, transposed = after_backward("transposed")
    for name, (a, b) in after.items():
        kept = method.bases[name.partition(".mlp")[0]][1].numpy()
        if name.endswith("fc1"):
            assert torch.equal(a, transposed[name][0])
        else:
            rows = before[name][1].numpy().reshape(-1, tiny.FACE.dim)
            expected = (rows - rows @ kept @ kept.T).reshape(b.shape)
            np.testing.assert_allclose(b.numpy(), expected, atol=1e-12)
            assert np.abs(kept.T @ b.numpy()).max() > 1e-6
            assert not torch.allclose(b, transposed[name][1])


def test_the_released_projection_reshapes_a_of_a_second_layer_that_is_four_times_as_wide():
    kept, gradient = np.linalg.qr(drawn(4, 2).numpy())[0], drawn(3, 16)
    found = free_of(torch.from_numpy(kept), gradient, is_b=False, reshaped=True)
    rows = gradient.numpy().reshape(4, 12).T
    np.testing.assert_allclose(found.numpy(), (rows - rows @ kept @ kept.T).reshape(3, 16), atol=1e-12)
    assert torch.equal(free_of(torch.from_numpy(kept), gradient, is_b=False), gradient)


def test_without_projection_gradients_are_what_they_were(data):
    _, before, after = after_backward("none")
    assert all(torch.equal(x, y) for n in before for x, y in zip(before[n], after[n], strict=True))


def test_where_the_last_block_counts_alone_only_its_gradients_are_projected(data):
    method, before, after = after_backward("transposed", last_only=True)
    assert list(method.bases) == ["blocks.2"]
    changed = {n for n in before for x, y in zip(before[n], after[n], strict=True) if not torch.equal(x, y)}
    assert changed == {"blocks.2.mlp.fc1", "blocks.2.mlp.fc2"}


def test_a_step_of_the_loop_clips_and_then_projects(data):
    norms = []
    for projection in ("none", "transposed"):
        problem = tiny.problem()
        method = started(problem, clip=1e-3, projection=projection)
        optimizer = make_optimizer([{"params": lora.trainable(problem.model)}], method.training)
        train_step(problem, method, optimizer, ROWS, Progress())
        gradients = [p.grad for p in lora.trainable(problem.model)]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1] < 0.999e-3
    for matrix, is_b, kept in method.projected:
        rows = matrix.grad.T if is_b else matrix.grad
        if rows.shape[1] != len(kept):
            continue  # the FFN's inner width
        assert (rows @ kept).abs().max() < 1e-6 * rows.abs().max() + 1e-9


def test_adapters_of_attentions_are_projected_by_width_too(data):
    _, before, after = after_backward("transposed", targets="ffn+attention")
    sides = {
        name: tuple(not torch.equal(x, y) for x, y in zip(before[name], after[name], strict=True))
        for name in before
        if name.startswith("blocks.0.")
    }
    assert sides == {
        "blocks.0.attn.qkv": (True, False),
        "blocks.0.attn.proj": (True, True),
        "blocks.0.mlp.fc1": (True, False),
        "blocks.0.mlp.fc2": (False, True),
    }


# --- requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", methods.RECIPES)
def test_two_requests_then_stopped_and_taken_up_gives_the_same_bits(recipe, tmp_path):
    whole, _, reports = serve("fg-oriu", recipe, tmp_path, rank=2)
    assert all(math.isfinite(v) for r in reports for v in [*r.metrics.values(), *r.terms.values()])
    for suffix in ("json", "safetensors"):
        (tmp_path / f"task2.{suffix}").unlink()
    taken_up, method, again = serve("fg-oriu", recipe, tmp_path, rank=2)
    assert [(r.metrics, r.terms, r.figures) for r in again] == [
        (r.metrics, r.terms, r.figures) for r in reports
    ]
    weights = taken_up.model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in whole.model.state_dict().items())
    once_more = forget_sequence(tiny.problem(), method, make_plan(), 0)
    assert [r.terms for r in once_more] == [r.terms for r in reports], (
        "a method keeps nothing of its last run"
    )


def test_revoking_gives_the_model_before_each_request_back():
    problem = tiny.problem()
    logits = [problem.predict("test")]
    method = methods.create("fg-oriu", **tiny.QUICK, lr=0.05)
    forget_sequence(problem, method, make_plan(), 0, on_task=lambda r: logits.append(problem.predict("test")))
    assert not torch.equal(logits[1], logits[2])
    lora.revoke(problem.model, "task2")
    assert torch.equal(problem.predict("test"), logits[1])
    lora.revoke(problem.model, "task1")
    assert torch.equal(problem.predict("test"), logits[0])


def test_a_model_without_a_class_token_has_the_mean_of_its_tokens():
    model = tiny.timm_vit(class_token=False, global_pool="avg")
    features = drawn(2, 9, 4, dtype=torch.float32)
    expected = features.mean(dim=1)
    torch.testing.assert_close(class_token(model, features), expected)
    grid = features.reshape(2, 3, 3, 4)
    torch.testing.assert_close(class_token(model, grid), expected)
    first = features[:, 0]
    torch.testing.assert_close(class_token(tiny.timm_vit(), features), first)
    assert class_token(model, features.bfloat16()).dtype == torch.float32


def test_outputs_are_collected_within_the_context_only_and_vectors_left_out():
    model = tiny.face_model()
    with torch.no_grad(), outputs_of(model, ["blocks.1", "head"]) as seen:
        model(tiny.images())
    assert set(seen) == {"blocks.1"}
    assert seen["blocks.1"].shape == (4, 10, 32)
    seen.clear()
    model(tiny.images())
    assert not seen


@pytest.mark.parametrize(("role", "kind"), [("retain", "retained"), ("forget", "forgotten")])
def test_a_task_without_the_images_that_are_needed_is_refused(problem, role, kind):
    task = replace(TASK, **{f"{role}_images": ()})
    with pytest.raises(DataError, match=rf"fg-oriu needs {kind} images, but task1 has none; give some"):
        methods.create("fg-oriu").begin(problem, task, Streams(0))
    assert not lora.wrapped(problem.model)


class NoBlocks(nn.Module):
    """A classifier of nothing but linear layers."""

    def __init__(self):
        super().__init__()
        self.inner, self.fc = nn.Linear(3 * 48 * 48, 8), nn.Linear(8, tiny.PEOPLE)

    def forward_features(self, x):
        return self.inner(x.flatten(1))

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else self.fc(x)

    def get_classifier(self):
        return self.fc


def test_a_model_without_transformer_blocks_is_refused(problem):
    problem.model = NoBlocks()
    with pytest.raises(ModelError, match="Transformer blocks give, but this NoBlocks has none that is known"):
        methods.create("fg-oriu", targets=("inner",)).begin(problem, TASK, STREAMS)


def test_detection_and_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="fg-oriu is not defined for detection, only for classification"):
        forget_sequence(tiny.detection(), methods.create("fg-oriu"), make_plan(), 0)
    with pytest.raises(ConfigError, match=r"energy = 1\.5"):
        methods.create("fg-oriu", energy=1.5)
    with pytest.raises(ConfigError, match=r"projection = 'some'; allowed: 'transposed', 'reshaped', 'none'"):
        methods.create("fg-oriu", projection="some")


def test_the_recipes():
    corrected, released = (methods.create("fg-oriu", recipe) for recipe in methods.RECIPES)
    for method in (corrected, released):
        assert (method.leave, method.stay, method.energy, method.last_only) == (0.1, 0.01, 0.99, False)
        assert (method.training.clip, method.training.batch_retain) == (1.0, 48)
    assert (corrected.projection, released.projection) == ("transposed", "reshaped")
    loop = methods.create("gslora", "released").training
    assert released.training == replace(loop, clip=1.0)
    for recipe in methods.RECIPES:
        method = methods.create("fg-oriu", recipe, "imagenet100/ratio")
        assert (method.leave, method.stay, method.last_only) == (0.05, 0.1, True)
