"""Released checkpoints: the converted model against the released architecture, written here anew."""

import math
import os
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from minigslora import cli as command_line
from minigslora import lora
from minigslora.errors import ConfigError, ModelError
from minigslora.models import checkpoint
from minigslora.models.heads import ArcFace, CosFace
from minigslora.models.released import convert_official, import_official, load_official
from minigslora.models.vit import FaceConfig

IMAGE, PATCH, DIM, MLP, CLASSES, RANK = 16, 8, 128, 96, 7, 4
QKV = "transformer.layers.1.0.fn.fn.to_qkv"
FFN = "transformer.layers.0.1.fn.fn.net.0"


# --- the released architecture, from its description ----------------------------------------------------


class Low(nn.Linear):
    """A linear layer with ``pairs`` stacked LoRA pairs, each for an equal share of the outputs."""

    def __init__(self, inputs, outputs, bias=True, rank=0, pairs=1):
        super().__init__(inputs, outputs, bias=bias)
        self.rank, self.pairs = rank, pairs
        if rank:
            self.lora_A = nn.Parameter(torch.randn(pairs * rank, inputs) * 0.2)
            self.lora_B = nn.Parameter(torch.randn(outputs, rank) * 0.2)

    def forward(self, x):
        y = super().forward(x)
        if not self.rank:
            return y
        downs, ups = self.lora_A.chunk(self.pairs), self.lora_B.chunk(self.pairs)
        added = [x @ a.T @ b.T for a, b in zip(downs, ups, strict=True)]
        return y + torch.cat(added, dim=-1) / self.rank


class PreNorm(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x):
        return self.fn(self.norm(x))


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return x + self.fn(x)


class FeedForward(nn.Module):
    def __init__(self, dim, mlp, rank):
        super().__init__()
        up, down = Low(dim, mlp, rank=rank), Low(mlp, dim, rank=rank)
        self.net = nn.Sequential(up, nn.GELU(), nn.Dropout(0.1), down, nn.Dropout(0.1))

    def forward(self, x):
        return self.net(x)


class Attention(nn.Module):
    def __init__(self, dim, heads, rank, pairs):
        super().__init__()
        self.heads = heads
        self.to_qkv = Low(dim, 3 * dim, bias=False, rank=rank, pairs=pairs)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.1))

    def forward(self, x):
        out = []
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        for h in range(self.heads):
            own = slice(h * q.shape[-1] // self.heads, (h + 1) * q.shape[-1] // self.heads)
            scores = (
                q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(x.shape[-1])
            )  # of dim, not its head
            out.append(scores.softmax(dim=-1) @ v[..., own])
        return self.to_out(torch.cat(out, dim=-1))


class Head(nn.Module):
    def __init__(self, dim, classes, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim))
        self.bias = nn.Parameter(torch.randn(classes)) if bias else None

    def forward(self, embedding):
        if self.bias is not None:
            return embedding @ self.weight.T + self.bias
        return 64.0 * F.normalize(embedding) @ F.normalize(self.weight).T


class Released(nn.Module):
    def __init__(
        self,
        image=IMAGE,
        patch=PATCH,
        dim=DIM,
        depth=2,
        heads=2,
        mlp=MLP,
        classes=CLASSES,
        ffn_rank=0,
        attention_rank=0,
        pairs=3,
        bias=False,
    ):
        super().__init__()
        self.patch = patch
        self.pos_embedding = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, dim))
        self.patch_to_embedding = nn.Linear(3 * patch**2, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(
            nn.ModuleList(
                Residual(PreNorm(dim, part))
                for part in (Attention(dim, heads, attention_rank, pairs), FeedForward(dim, mlp, ffn_rank))
            )
            for _ in range(depth)
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim))
        self.loss = Head(dim, classes, bias)

    def embed(self, images):
        p, rows = self.patch, []
        for top in range(0, images.shape[2], p):
            for left in range(0, images.shape[3], p):
                square = images[:, :, top : top + p, left : left + p]
                rows.append(square.permute(0, 2, 3, 1).flatten(1))  # (B, row · column · channel)
        x = self.patch_to_embedding(torch.stack(rows, dim=1))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embedding
        for attention, ffn in self.transformer.layers:
            x = ffn(attention(x))
        return self.mlp_head(x[:, 0])


def released(seed=0, **arguments):
    torch.manual_seed(seed)
    model = Released(**arguments).double().eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):  # else all alike
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return model


def merged(model):
    """Return the state dict as loralib saves it in evaluation mode: keys and all, weights summed."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, Low) and layer.rank:
            downs, ups = layer.lora_A.chunk(layer.pairs), layer.lora_B.chunk(layer.pairs)
            delta = torch.cat([b @ a for a, b in zip(downs, ups, strict=True)])
            state[f"{name}.weight"] += (delta / layer.rank).detach()
    return state


def convert(state, **how):
    model, config = convert_official(state, **{"image_size": IMAGE, **how})
    return model.eval(), config


def pictures(count=3, size=IMAGE):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def assert_same_function(model, reference, tolerance=1e-10):
    """Compare embeddings and logits in float64, where only the order of sums differs."""
    x = pictures()
    expected = reference.embed(x)
    embedding = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=tolerance)
    if reference.loss.bias is not None:
        torch.testing.assert_close(model(x), reference.loss(expected), rtol=0, atol=tolerance)
        return
    assert torch.equal(model.head.weight, reference.loss.weight)
    cosines = F.linear(F.normalize(embedding), F.normalize(model.head.weight))
    torch.testing.assert_close(64 * cosines, reference.loss(expected), rtol=0, atol=64 * tolerance)
    # cosine heads compute in float32, whatever the model's type
    torch.testing.assert_close(model(x).double(), reference.loss(expected), rtol=0, atol=1e-4)


# --- the same function --------------------------------------------------------------------------------


def test_the_converted_model_computes_the_same():
    reference = released()
    state = reference.state_dict()
    before = {k: v.clone() for k, v in state.items()}
    model, config = convert(state)
    assert config == FaceConfig(
        classes=7, image_size=16, patch=8, dim=128, depth=2, heads=2, mlp=96, norm_eps=1e-5
    )
    assert isinstance(model.head, CosFace)
    assert_same_function(model, reference)
    assert all(torch.equal(v, before[k]) for k, v in state.items()), "the state dict was changed"
    with torch.no_grad():
        model.blocks[0].norm1.eps = 1e-6
        x = pictures()
        wrong = model.forward_head(model.forward_features(x), pre_logits=True)
    assert (wrong - reference.embed(x)).abs().max() > 1e-8, "the comparison would not see a wrong ε"


def test_other_heads():
    assert isinstance(convert(released().state_dict(), head="arcface")[0].head, ArcFace)
    reference = released(bias=True)
    model, config = convert(reference.state_dict())
    assert config.head == "linear"
    assert_same_function(model, reference)


def test_heads_of_another_width():
    reference = released(dim=96, heads=3)
    with pytest.raises(ModelError, match=r"width of 96 does not divide into heads of 64.*give the number"):
        convert(reference.state_dict())
    with pytest.raises(ModelError, match=r"width of 96 does not divide into 5 heads"):
        convert(reference.state_dict(), heads=5)
    assert_same_function(convert(reference.state_dict(), heads=3)[0], reference)


def test_the_published_size():
    torch.manual_seed(0)
    reference = Released(112, 8, 512, 6, 8, 2048, 100).eval()
    model, config = convert_official(reference.state_dict())
    assert config == FaceConfig(norm_eps=1e-5)
    x = pictures(1, 112).float()
    with torch.no_grad():
        embedding = model.eval().forward_head(model.forward_features(x), pre_logits=True)
        # float32, six blocks deep, values of order 1
        torch.testing.assert_close(embedding, reference.embed(x), rtol=0, atol=1e-4)


def test_precision_is_float64_or_float32():
    state = released().state_dict()
    for dtype, expected in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        model, _ = convert({k: v.to(dtype) for k, v in state.items()})
        assert {p.dtype for p in model.parameters()} == {expected}


# --- LoRA keys ----------------------------------------------------------------------------------------

RANKS = [{"ffn_rank": RANK}, {"attention_rank": RANK}, {"attention_rank": RANK, "pairs": 1}]


@pytest.mark.parametrize("ranks", RANKS)
def test_merged_lora_keys_are_ignored(ranks):
    reference = released(**ranks)
    assert_same_function(convert(merged(reference))[0], reference)
    with pytest.raises(AssertionError):  # the update counted twice
        assert_same_function(convert(merged(reference), lora="fold")[0], reference)


@pytest.mark.parametrize("ranks", RANKS)
def test_unmerged_lora_keys_are_folded_or_kept(ranks):
    reference = released(**ranks)
    state = reference.state_dict()
    folded, _ = convert(state, lora="fold")
    assert not lora.wrapped(folded)
    assert_same_function(folded, reference)
    kept, _ = convert(state, lora="keep")
    assert lora.adapter_names(kept) == ["official"]
    assert not lora.trainable(kept)
    assert_same_function(kept, reference)
    lora.revoke(kept, "official")
    bare, _ = convert(state, lora="ignore")
    with torch.no_grad():
        assert torch.equal(kept(pictures()), bare(pictures()))
    with pytest.raises(AssertionError):  # the update left out
        assert_same_function(bare, reference)


def test_keeping_nothing_wraps_nothing():
    reference = released()
    assert not lora.wrapped(convert(reference.state_dict(), lora="keep")[0])


def test_unknown_choices():
    with pytest.raises(ConfigError, match=r"lora = 'merge'; allowed: 'ignore', 'fold', 'keep'"):
        convert(released().state_dict(), lora="merge")
    with pytest.raises(ConfigError, match=r"head = 'sface'; allowed: 'cosface', 'arcface'"):
        convert(released().state_dict(), head="sface")


# --- what does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_wrappers_and_prefixes(wrapper, prefix):
    reference = released()
    state = {prefix + k: v for k, v in reference.state_dict().items()}
    assert_same_function(convert({wrapper: state, "epoch": 3} if wrapper else state)[0], reference)


def state_without(*keys, **ranks):
    state = released(**ranks).state_dict()
    for key in keys:
        del state[key]
    return state


def test_missing_and_unexpected_keys_are_named():
    with pytest.raises(
        ModelError,
        match=r"1 missing \(loss\.weight\); none unexpected\. Expected .*\(the head\).*whole model",
    ):
        convert(state_without("loss.weight"))
    state = state_without("cls_token", "mlp_head.0.bias") | {"extra": torch.ones(1), "epoch": 3}
    with pytest.raises(
        ModelError, match=r"2 missing \(cls_token, mlp_head\.0\.bias\); 2 unexpected \(epoch, extra\)"
    ):
        convert(state)
    deep = released(depth=3).state_dict()
    with pytest.raises(ModelError, match=r"11 missing \(transformer\.layers\.1.*, …\); 11 unexpected"):
        convert({k: v for k, v in deep.items() if not k.startswith("transformer.layers.1.")})
    with pytest.raises(ModelError, match=r"1 missing \(transformer\.layers\.0\.1\.fn\.fn\.net\.0\.lora_B\)"):
        convert(state_without(f"{FFN}.lora_B", ffn_rank=RANK))


@pytest.mark.parametrize("state", [{}, {"w": torch.ones(1)}, {"model": {}}, {"blocks.0.norm1.weight": 1}])
def test_other_models_are_refused(state):
    with pytest.raises(
        ModelError, match=r"not the weights of a released Face Transformer: 18 missing.*--model"
    ):
        convert(state)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("cls_token", (DIM,), r"cls_token: \(128,\) in the file, \(1, 1, 128\) expected"),
        ("cls_token", (), r"cls_token: \(\) in the file"),
        (f"{FFN}.weight", (DIM, MLP), r"net\.0\.weight: \(128, 96\) in the file, \(96, 128\) expected"),
        (f"{QKV}.weight", (DIM, DIM), r"to_qkv\.weight: \(128, 128\) in the file, \(384, 128\) expected"),
        (f"{QKV.replace('1', '0', 1)}.weight", (4,), r"to_qkv\.weight: \(4,\) in the file"),
        ("patch_to_embedding.weight", (192, DIM), r"\(192, 128\) in the file, \(128, 192\) expected"),
        ("loss.weight", (DIM, CLASSES), r"loss\.weight: \(128, 7\) in the file, \(7, 128\) expected"),
        (
            f"{FFN}.lora_A",
            (RANK, MLP),
            r"lora_A and \.lora_B: \(4, 96\) and \(96, 4\).*\(r, 128\) and \(96, r\)",
        ),
        (f"{FFN}.lora_A", (3 * RANK, DIM), r"lora_A and \.lora_B: \(12, 128\) and"),
        (f"{FFN}.lora_B", (MLP, 0), r"lora_A and \.lora_B: .*\(96, 0\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(key, shape, message):
    state = released(ffn_rank=RANK).state_dict() | {key: torch.ones(shape)}
    with pytest.raises(ModelError, match=message):
        convert(state)


def test_architectures_timm_does_not_have():
    state = released().state_dict()
    with pytest.raises(
        ModelError, match=r"4 patches of 192 values are no image of 112×112.*image_size.*ViTs"
    ):
        convert_official(state)
    overlapping = state | {"patch_to_embedding.weight": torch.ones(DIM, 3 * 12**2)}
    with pytest.raises(ModelError, match=r"4 patches of 432 values are no image of 16×16"):
        convert(overlapping)
    narrow = {k: v[: 3 * 64] if "to_qkv" in k else v for k, v in state.items()}
    with pytest.raises(ModelError, match=r"attention is 64 wide inside a model 128 wide.*\(192, 128\)"):
        convert(narrow)
    with pytest.raises(ModelError, match=r"mlp_head\.0\.weight is empty"):
        convert(state | {"mlp_head.0.weight": torch.ones(0)})
    with pytest.raises(ModelError, match=r"cls_token is no tensor of floating-point numbers"):
        convert(state | {"cls_token": torch.ones(1, 1, DIM, dtype=torch.int8)})


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_files_become_checkpoints_of_this_library(tmp_path, ending):
    reference = released(ffn_rank=RANK).float()
    state, source = merged(reference), tmp_path / f"Backbone{ending}"
    (save_file if ending == ".safetensors" else torch.save)(state, source)
    out = tmp_path / "face.safetensors"
    card = import_official(source, out, image_size=IMAGE)
    again, read = checkpoint.load(out)
    assert read == card
    assert card.architecture == {"kind": "face", **asdict(convert(state)[1])}
    assert (card.image_size, card.mean, card.std) == (IMAGE, (0, 0, 0), (1, 1, 1))
    assert card.notes["file"] == source.name
    assert card.notes["lora"] == "4 layers: ignore"
    direct, same_card = load_official(source, image_size=IMAGE)
    assert same_card == card
    x = pictures().float()
    assert again.blocks[1].norm2.eps == 1e-5
    with torch.no_grad():
        assert torch.equal(again.eval()(x), direct.eval()(x))
        torch.testing.assert_close(again(x), reference.loss(reference.embed(x)), rtol=0, atol=1e-4)  # float32


def test_a_checkpoint_from_before_norm_eps_still_loads(tmp_path):
    architecture = {"kind": "face", **asdict(FaceConfig(image_size=16, dim=64, depth=1, heads=1, mlp=64))}
    del architecture["norm_eps"]
    model = checkpoint.build(architecture)
    checkpoint.save(tmp_path / "m.safetensors", model, checkpoint.Card(architecture, image_size=16))
    assert checkpoint.load(tmp_path / "m.safetensors")[0].norm.eps == 1e-6


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_files_that_are_refused(tmp_path):
    path, out = tmp_path / "w.pth", tmp_path / "face.safetensors"
    torch.save(released().state_dict() | {"w": Trap(tmp_path / "it-ran")}, path)
    with pytest.raises(ModelError, match=r"was refused: .*code, which is never run here"):
        import_official(path, out, image_size=IMAGE)
    assert not (tmp_path / "it-ran").exists()
    with pytest.raises(ModelError, match=r"no weight file at .*none\.pth"):
        load_official(tmp_path / "none.pth")
    torch.save(state_without("loss.weight"), path)
    with pytest.raises(ModelError, match=r"w\.pth: these are not the weights .*1 missing \(loss\.weight\)"):
        import_official(path, out, image_size=IMAGE)
    with pytest.raises(ConfigError, match=r"should end in \.safetensors"):
        import_official(path, tmp_path / "face.pth")
    with pytest.raises(
        ConfigError, match=r"lora = 'keep'; a checkpoint holds a plain model: choose 'ignore'"
    ):
        import_official(path, out, lora="keep")
    assert not out.exists()


def test_the_command_converts_and_says_the_architecture(tmp_path, capsys):
    source, out = tmp_path / "official.pth", tmp_path / "ours.safetensors"
    torch.save(released().state_dict(), source)
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["import", str(source), "--out", str(out), "--image-size", str(IMAGE)])
    assert stopped.value.code == 0
    assert "kind         face" in capsys.readouterr().out
    assert checkpoint.load(out)[1].image_size == IMAGE
    with pytest.raises(SystemExit) as stopped:
        command_line.main(
            ["import", str(source), "--out", str(tmp_path / "x.safetensors"), "--lora", "merge"]
        )
    assert stopped.value.code == 2
    assert "lora = 'merge'" in capsys.readouterr().err
