"""The adapters: what they compute, and that taking them away leaves nothing behind."""

import copy
import math
import pickle

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionViT

from minigslora import lora
from minigslora.errors import ModelError


def layer(inputs=5, outputs=7, dtype=torch.float32, bias=True, seed=0):
    torch.manual_seed(seed)
    return lora.LoRALinear(nn.Linear(inputs, outputs, bias=bias, dtype=dtype))


def drawn(wrapped, name, rank, scale=None, seed=1):
    stream = torch.Generator().manual_seed(seed)
    adapter = wrapped.add(name, rank, scale, stream)
    with torch.no_grad():
        adapter.B.copy_(torch.randn(adapter.B.shape, generator=stream))
    return adapter


# --- one layer ----------------------------------------------------------------------------------------


def test_the_layer_is_the_sum_of_base_and_updates_in_float64():
    wrapped = layer(dtype=torch.float64)
    one, two = drawn(wrapped, "task1", 2), drawn(wrapped, "task2", 3, scale=0.7, seed=2)
    x = torch.randn(4, 5, dtype=torch.float64)
    w, b, a1, b1, a2, b2 = (
        t.detach().numpy() for t in (wrapped.base.weight, wrapped.base.bias, one.A, one.B, two.A, two.B)
    )
    expected = x.numpy() @ (w + b1 @ a1 / 2 + 0.7 * b2 @ a2).T + b
    # float64, but summed in another order
    np.testing.assert_allclose(wrapped(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_starts_kaiming_uniform_and_b_at_zero():
    adapter = layer(64, 32).add("task1", 8, generator=torch.Generator().manual_seed(0))
    bound = 1 / math.sqrt(64)  # Kaiming's √(6 / ((1 + a²) · fan_in)) with a = √5
    assert float(adapter.A.detach().abs().max()) <= bound
    assert float(adapter.A.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not adapter.B.any()
    assert adapter.scale == 1 / 8
    assert torch.equal(adapter.delta(), torch.zeros(32, 64))


def test_forward_and_gradients_equal_pefts():
    import peft  # slow to import

    torch.manual_seed(0)
    base = nn.Linear(6, 9)
    ours = lora.LoRALinear(copy.deepcopy(base))
    adapter = drawn(ours, "task1", 3, scale=0.4)
    config = peft.LoraConfig(r=3, lora_alpha=1.2, lora_dropout=0.0, target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(copy.deepcopy(base)), config)
    parts = {k.rsplit(".lora_", 1)[1][0]: p for k, p in theirs.named_parameters() if ".lora_" in k}
    with torch.no_grad():
        parts["A"].copy_(adapter.A)
        parts["B"].copy_(adapter.B)
    x_ours = torch.randn(2, 4, 6, requires_grad=True)
    x_theirs = x_ours.detach().clone().requires_grad_()
    y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
    for y in (y_ours, y_theirs):
        (y.sin() * torch.arange(9.0)).sum().backward()
    # float32 rounding: peft may multiply by s at another place
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y_ours, y_theirs, **close)
    torch.testing.assert_close(adapter.A.grad, parts["A"].grad, **close)
    torch.testing.assert_close(adapter.B.grad, parts["B"].grad, **close)
    torch.testing.assert_close(x_ours.grad, x_theirs.grad, **close)


@given(
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    data=st.data(),
    bias=st.booleans(),
    count=st.integers(0, 3),
)
def test_merge_equals_forward(inputs, outputs, data, bias, count):
    wrapped = layer(inputs, outputs, torch.float64, bias)
    for i in range(count):
        rank = data.draw(st.integers(1, min(inputs, outputs)))
        drawn(wrapped, f"task{i + 1}", rank, data.draw(st.floats(-2, 2)), seed=i)
    x = torch.randn(3, inputs, dtype=torch.float64)
    # W x + s B (A x) and (W + s B A) x are summed in another order
    torch.testing.assert_close(wrapped.folded()(x), wrapped(x), rtol=1e-10, atol=1e-10)


def test_adapters_are_float32_at_least_and_outputs_keep_the_bases_type():
    half = layer(dtype=torch.bfloat16)
    adapter = drawn(half, "task1", 2)
    assert adapter.A.dtype == adapter.B.dtype == torch.float32
    assert half(torch.randn(2, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    full = layer()
    drawn(full, "task1", 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert full(torch.randn(2, 5)).dtype == torch.bfloat16


def test_the_layer_names_its_adapters_and_has_no_weight():
    wrapped = layer()
    wrapped.add("task1", 2)
    assert "task1" in repr(wrapped)
    assert not hasattr(wrapped, "weight")
    with pytest.raises(ModelError, match=r"reads this layer's weight.*leave it out"):
        _ = wrapped.weight
    with pytest.raises(AttributeError, match=r"nonsense"):
        _ = wrapped.nonsense


@pytest.mark.parametrize("rank", [0, -1, 6, 100])
def test_an_impossible_rank_is_refused(rank):
    with pytest.raises(ModelError, match=rf"rank {rank} does not fit a 5 → 7 layer; .* from 1 to 5"):
        layer().add("task1", rank)


# --- the life of a stack --------------------------------------------------------------------------------


def outputs(model):
    with torch.no_grad():
        return model.eval()(tiny.images())


def test_wrapping_and_fresh_adapters_change_nothing(model):
    before = outputs(model)
    names = lora.inject(model)
    assert len(names) == 6
    assert torch.equal(outputs(model), before)
    lora.attach(model, "task1", rank=2)
    assert torch.equal(outputs(model), before)


def test_only_adapters_train_and_every_parameter_is_accounted_for(model):
    base = dict(model.named_parameters())
    lora.inject(model)
    lora.attach(model, "task1", rank=2)
    trained = lora.trainable(model)
    adapters = [p for _, a in lora.adapters(model, "task1") for p in (a.A, a.B)]
    assert {id(p) for p in trained} == {id(p) for p in adapters}
    assert {id(p) for p in model.parameters()} == {id(p) for p in [*adapters, *base.values()]}


def test_revoking_the_last_request_gives_back_the_previous_model(model):
    lora.inject(model)
    steps = [outputs(model)]
    for i, name in enumerate(["task1", "task2", "task3"]):
        tiny.attach_drawn(model, name, seed=i)
        steps.append(outputs(model))
    assert not torch.equal(steps[0], steps[1])
    assert lora.adapter_names(model) == ["task1", "task2", "task3"]
    for name, previous in (("task3", steps[2]), ("task2", steps[1]), ("task1", steps[0])):
        lora.revoke(model, name)
        assert torch.equal(outputs(model), previous)


def test_revoking_a_middle_request_removes_exactly_its_weights():
    model = tiny.adapted(("task1", "task2", "task3"))
    without = tiny.adapted(("task1", "task3"))
    lora.revoke(model, "task2")
    assert torch.equal(outputs(model), outputs(without))


def test_removing_gives_back_the_pretrained_model_flags_included(model):
    model.patch_embed.requires_grad_(False)
    flags = {k: p.requires_grad for k, p in model.named_parameters()}
    before = outputs(model)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    modules = {k: id(m) for k, m in model.named_modules()}
    lora.inject(model)
    lora.inject(model, "attention")
    tiny.attach_drawn(model, "task1")
    lora.remove(model)
    assert {k: id(m) for k, m in model.named_modules()} == modules
    assert {k: p.requires_grad for k, p in model.named_parameters()} == flags
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.equal(outputs(model), before)
    lora.remove(model)  # a model without adapters stays as it is
    assert {k: p.requires_grad for k, p in model.named_parameters()} == flags


def test_bypassed_is_the_pretrained_model_also_after_an_error(model):
    before = outputs(model)
    lora.inject(model)
    tiny.attach_drawn(model, "task1")
    after = outputs(model)
    with lora.bypassed(model):
        assert torch.equal(outputs(model), before)
    with pytest.raises(ZeroDivisionError), lora.bypassed(model):
        _ = 1 / 0
    assert torch.equal(outputs(model), after)


def test_freeze_stops_training_but_not_acting():
    model = tiny.adapted()
    before = outputs(model)
    lora.freeze(model, "task1")
    assert lora.trainable(model) == []
    assert torch.equal(outputs(model), before)


def test_fold_is_a_plain_model_close_to_the_live_one(model):
    keys, live = list(model.state_dict()), tiny.adapted(("task1", "task2"))
    before = outputs(live)
    dense = lora.fold(live)
    assert list(dense.state_dict()) == keys
    assert not lora.wrapped(dense)
    assert all(p.requires_grad for p in dense.parameters())
    # float32 rounding: one product is summed in another order than two
    torch.testing.assert_close(outputs(dense), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(outputs(live), before)


def test_folding_without_adapters_is_exact(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    lora.inject(model)
    assert all(torch.equal(v, before[k]) for k, v in lora.fold(model).state_dict().items())


def test_a_block_at_zero_passes_bit_identical_activations_and_folds_to_its_weights(model):
    def record(net):
        seen = []
        hooks = [b.register_forward_hook(lambda _m, _i, out: seen.append(out)) for b in net.blocks]
        outputs(net)
        for hook in hooks:
            hook.remove()
        return seen

    pretrained, before = copy.deepcopy(model), record(model)
    lora.inject(model)
    tiny.attach_drawn(model, "task1")
    with torch.no_grad():
        for group in lora.groups(model, "task1")[:2]:
            for p in group.parameters:
                p.zero_()
    after = record(model)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False]
    dense = lora.fold(model)
    for i, same in enumerate([True, True, False]):
        ours, theirs = dense.blocks[i].mlp.fc1.weight, pretrained.blocks[i].mlp.fc1.weight
        assert torch.equal(ours, theirs) is same


def test_deepcopy_and_pickle_keep_outputs_names_and_flags():
    model = tiny.adapted(("task1", "task2"))
    before = outputs(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(twin), before)
        assert lora.adapter_names(twin) == ["task1", "task2"]
        lora.remove(twin)
        assert torch.equal(outputs(twin), outputs(tiny.face_model()))
        assert all(p.requires_grad for p in twin.parameters())


def test_state_dict_round_trip():
    model, other = tiny.adapted(), tiny.adapted(seed=3)
    assert not torch.equal(outputs(model), outputs(other))
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(model), outputs(other))


def test_adapter_state_round_trip_is_exact_and_frozen(model):
    source = tiny.adapted(("task1", "task2"))
    lora.load_adapters(model, lora.adapter_state(source))
    assert torch.equal(outputs(model), outputs(source))
    assert lora.adapter_names(model) == ["task1", "task2"]
    assert lora.trainable(model) == []


def test_train_and_eval_change_no_weight():
    model = tiny.adapted()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model.eval()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_same_stream_gives_the_same_adapters():
    models = [tiny.face_model() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        lora.inject(model)
        lora.attach(model, "task1", 2, generator=torch.Generator().manual_seed(seed))
    first, same, other = (lora.adapters(m, "task1")[0][1].A for m in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# --- what cannot be done --------------------------------------------------------------------------------


def test_a_refused_adapter_leaves_no_half_attached_stack(model):
    lora.inject(model)
    model.blocks[2].mlp.fc2 = lora.LoRALinear(nn.Linear(64, 3))  # the smallest layer comes last
    with pytest.raises(ModelError, match=r"rank 4 does not fit a 64 → 3 layer"):
        lora.attach(model, "task1", rank=4)
    assert lora.adapter_names(model) == []


def test_names_must_be_free_and_plain():
    model = tiny.adapted()
    with pytest.raises(ModelError, match=r"'task1' is already attached"):
        lora.attach(model, "task1")
    with pytest.raises(ModelError, match=r"'task 2\.1' cannot name an adapter; use letters"):
        lora.attach(model, "task 2.1")


@pytest.mark.parametrize("act", [lora.revoke, lora.freeze, lora.adapters, lora.groups])
def test_an_unknown_adapter_is_named_beside_those_attached(act):
    with pytest.raises(ModelError, match=r"no adapter is called 'task9'; attached: \['task1'\]"):
        act(tiny.adapted(), "task9")


def test_a_model_without_lora_layers_says_to_inject(model):
    with pytest.raises(ModelError, match=r"call inject"):
        lora.attach(model, "task1")


def test_an_unknown_grouping_is_refused():
    with pytest.raises(ModelError, match=r"unknown grouping 'layer'.*'block', 'module' or 'matrix'"):
        lora.groups(tiny.adapted(), "task1", "layer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"blocks.0.mlp.fc1.weight": torch.zeros(1)}, "is not an adapter's key"),
        (lambda s: {k: v for k, v in s.items() if not k.endswith("B")}, "lacks A, B or scale"),
        (
            lambda s: {k: v[:, :5] if k.endswith("fc1.adapters.task1.A") else v for k, v in s.items()},
            "is for a 5 → 64 layer, but this model's is 32 → 64; .*another architecture",
        ),
        (lambda s: {k.replace("mlp", "ffn"): v for k, v in s.items()}, "'blocks.0.ffn.fc1' is not a linear"),
    ],
)
def test_adapters_of_another_architecture_are_refused(model, change, message):
    state = lora.adapter_state(tiny.adapted())
    with pytest.raises(ModelError, match=message):
        lora.load_adapters(model, change(state))


# --- finding layers and groups ---------------------------------------------------------------------------

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2}
MODELS = {
    "test_vit": {},
    "test_vit2": {},
    "test_vit3": {},
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch16_18x2_224": SMALL,  # two feed-forward networks in one block
    "deit_tiny_patch16_224": SMALL,
    "deit3_small_patch16_224": SMALL,
    "swin_tiny_patch4_window7_224": {"img_size": 32, "embed_dim": 24, "depths": (1, 2), "num_heads": (2, 2)},
    "eva02_tiny_patch14_224": {**SMALL, "img_size": 28},
    "beit_base_patch16_224": SMALL,
    "vit_small_patch16_dinov3": SMALL,
    "vit_giant_patch14_dinov2": {**SMALL, "img_size": 28},
    "cait_xxs24_224": SMALL,  # an attention of a type of its own
}


@pytest.fixture(scope="module")
def zoo():
    models = {name: tiny.timm_vit(name, **arguments) for name, arguments in MODELS.items()}
    with torch.no_grad():  # layer scales start near zero and would hide what a block does
        for model in models.values():
            for name, parameter in model.named_parameters():
                if "gamma" in name:
                    parameter.fill_(1.0)
    return models


def says_what_its_base_says(layer, inputs, output):
    assert torch.equal(output, layer.base(*inputs))


@pytest.mark.parametrize("name", MODELS)
def test_ffns_and_blocks_are_found_and_every_adapter_acts(zoo, name):
    model = copy.deepcopy(zoo[name])
    size = MODELS[name].get("img_size", 48)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        before = model(x)
    chosen = lora.inject(model)
    assert all(isinstance(model.get_submodule(n), lora.LoRALinear) for n in chosen)
    homes = {n.rpartition(".")[0] for n in chosen}
    lora.attach(model, "task1", rank=2)
    layers = [model.get_submodule(n) for n in chosen]
    exact = [layer.register_forward_hook(says_what_its_base_says) for layer in layers]
    with torch.no_grad():
        after = model(x)
    for hook in exact:
        hook.remove()
    if name == "cait_xxs24_224":  # 4×4 products of its attention, not adapted, round by where memory lies
        torch.testing.assert_close(after, before)
    else:
        assert torch.equal(after, before)
    blocks = {group.name for group in lora.groups(model, "task1")}
    assert len(blocks) == (2 if name == "vit_small_patch16_18x2_224" else len(homes))
    for block in blocks:  # a block has more inside than its feed-forward network
        inside = model.get_submodule(block)
        assert len(list(inside.children())) > 1
        assert any(n.startswith(block + ".") for n in homes)
    for layer_name, adapter in lora.adapters(model, "task1"):
        with torch.no_grad():
            adapter.B.normal_()
            assert not torch.equal(model(x), before), f"the adapter on {layer_name} does nothing"
            adapter.B.zero_()


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_attention_is_a_target_too(zoo, name):
    model = copy.deepcopy(zoo[name])
    attention = set(lora.find_linears(model, "attention"))
    both = lora.find_linears(model, "ffn+attention")
    assert attention
    assert set(both) == attention | set(lora.find_linears(model))
    assert both == [n for n, m in model.named_modules() if n in set(both)]
    size = MODELS[name].get("img_size", 48)
    lora.inject(model, "attention")
    tiny.attach_drawn(model, "task1")
    assert model(torch.rand(1, 3, size, size)).isfinite().all()
    in_blocks = lora.find_blocks(model)
    assert attention <= in_blocks.keys()


def test_attention_that_reads_its_weights_refuses_loudly(zoo):
    model = copy.deepcopy(zoo["beit_base_patch16_224"])
    lora.inject(model, "attention")
    with pytest.raises(ModelError, match=r"reads this layer's weight"):
        model(torch.rand(1, 3, 48, 48))


def test_torchvisions_transformer_has_blocks_too():
    torch.manual_seed(0)
    model = TorchvisionViT(32, 16, 2, 2, 16, 32, num_classes=3).eval()
    names = lora.inject(model)
    lora.attach(model, "task1", rank=2)
    assert len(names) == 4
    assert [g.name.rpartition(".")[2] for g in lora.groups(model, "task1")] == [
        "encoder_layer_0",
        "encoder_layer_1",
    ]


def test_layers_by_name_and_by_predicate(model):
    assert lora.find_linears(model, ["blocks.1.mlp.fc2"]) == ["blocks.1.mlp.fc2"]
    wide = lora.find_linears(model, lambda name, linear: linear.out_features == 64)
    assert wide == [f"blocks.{i}.mlp.fc1" for i in range(3)]


def test_finding_again_after_wrapping_finds_the_same(model):
    names, blocks = lora.inject(model), lora.find_blocks(tiny.face_model())
    assert lora.find_linears(model) == names
    assert lora.find_blocks(model) == blocks
    assert lora.inject(model) == names


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("ffn", "Plain has no linear layer selected by targets='ffn'; .* first, second"),
        ("attention", "no linear layer selected by targets='attention'"),
        ("mlp", "unknown LoRA target 'mlp'; expected 'ffn'"),
        (["third"], "'third' is not a linear layer of this Plain; .* first, second"),
        ([], "no linear layer selected"),
    ],
)
def test_layers_that_are_not_there_are_refused(targets, message):
    with pytest.raises(ModelError, match=message):
        lora.find_linears(Plain(), targets)


def test_a_model_without_any_linear_layer_says_so():
    with pytest.raises(ModelError, match=r"it has none at all"):
        lora.inject(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ModelError, match=r"is itself one linear layer"):
        lora.inject(nn.Linear(3, 3), lambda name, linear: True)


def test_shared_weights_are_refused_unless_left_out():
    tied = Plain()
    tied.second.weight = tied.first.weight
    with pytest.raises(ModelError, match=r"'second' and 'first' share one weight.*Untie them"):
        lora.inject(tied, ["first"])
    twice = Plain()
    twice.second = twice.first
    with pytest.raises(ModelError, match=r"share one weight"):
        lora.inject(twice, lambda name, linear: True)
    free = nn.Sequential(tied, nn.Linear(4, 4))
    assert lora.inject(free, ["1"]) == ["1"]


def test_groups_cover_every_adapter_matrix_once():
    model = tiny.adapted(targets="ffn+attention")
    trained = {id(p) for p in lora.trainable(model)}
    for by, count in (("block", 3), ("module", 12), ("matrix", 24)):
        groups = lora.groups(model, "task1", by)
        members = [id(p) for g in groups for p in g.parameters]
        assert len(groups) == count
        assert sorted(members) == sorted(trained)
        assert sum(g.size for g in groups) == sum(p.numel() for p in lora.trainable(model))
    assert [g.name for g in lora.groups(model, "task1")] == ["blocks.0", "blocks.1", "blocks.2"]
    assert lora.groups(model, "task1", "matrix")[0].name == "blocks.0.attn.qkv.A"


def test_a_layer_outside_every_block_is_a_group_of_its_own():
    model = Plain()
    lora.inject(model, ["first", "second"])
    lora.attach(model, "task1", rank=2)
    assert [g.name for g in lora.groups(model, "task1")] == ["first", "second"]
