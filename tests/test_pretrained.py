"""ImageNet's pre-trained models: torchvision's ViT under timm's names, files, failed downloads."""

import pytest
import timm
import torch
from torchvision.models import VisionTransformer, get_model

from minigslora.cli import main
from minigslora.errors import ModelError
from minigslora.files import save_tensors
from minigslora.models import checkpoint, pretrained

SIZES = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}


def theirs(classes=5):
    """Return torchvision's model with every parameter drawn, none of them at zero."""
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES, num_classes=classes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def ours(classes=5, name="vit_base_patch16_224"):
    return timm.create_model(
        name,
        img_size=32,
        patch_size=8,
        depth=2,
        num_heads=2,
        embed_dim=16,
        mlp_ratio=1.5,
        num_classes=classes,
    ).eval()


def test_torchvisions_model_gives_the_same_logits_under_timms_names():
    model, x = theirs(), torch.randn(3, 3, 32, 32)
    converted = ours()
    converted.load_state_dict(pretrained.from_torchvision(model.state_dict()), strict=True)
    with torch.no_grad():
        # The same products; timm's attention may add in another order.
        assert torch.allclose(converted(x), model(x), atol=1e-5, rtol=1e-5)


def test_the_older_names_of_the_mlp_are_known():
    state = theirs().state_dict()
    old = {
        k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for k, v in state.items()
    }
    assert old.keys() != state.keys()
    assert pretrained.from_torchvision(old).keys() == pretrained.from_torchvision(state).keys()


def test_every_name_of_torchvisions_fits_timms():
    for name, timms in pretrained.TORCHVISION.items():
        with torch.device("meta"):
            source, target = get_model(name), timm.create_model(timms, num_classes=1000)
        renamed = pretrained.from_torchvision(source.state_dict())
        assert {k: v.shape for k, v in renamed.items()} == {
            k: v.shape for k, v in target.state_dict().items()
        }


@pytest.mark.parametrize("layout", ["timm", "torchvision"])
def test_a_file_becomes_a_checkpoint_of_ours(tmp_path, capsys, monkeypatch, layout):
    file, out = tmp_path / "given.safetensors", tmp_path / "made.safetensors"
    small = ours(1000, "vit_tiny_patch16_224")
    state = small.state_dict() if layout == "timm" else theirs(1000).state_dict()
    save_tensors(file, state, {})
    monkeypatch.setattr(checkpoint, "timm_model", lambda name, classes, **kw: ours(classes, name))
    main_ok(["fetch", "vit_tiny_patch16_224", "--weights", str(file), "--out", str(out)])
    assert "vit_tiny_patch16_224, 1000 classes" in capsys.readouterr().out
    model, card = checkpoint.load(out)
    assert (len(card.classes), card.classes[0], card.image_size) == (1000, "n01440764", 224)
    assert card.mean == ((0.5, 0.5, 0.5) if layout == "timm" else (0.485, 0.456, 0.406))
    x = torch.randn(2, 3, 32, 32)
    source = small if layout == "timm" else theirs(1000)
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), source(x), atol=1e-4, rtol=1e-4)


def main_ok(arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


def test_what_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="timm has no model 'vit_bass'"):
        pretrained.load("vit_bass")
    save_tensors(tmp_path / "body.safetensors", {"norm.weight": torch.ones(3)}, {})
    with pytest.raises(ModelError, match=r"body\.safetensors has no classifier .*; give weights with their"):
        pretrained.load("vit_tiny_patch16_224", tmp_path / "body.safetensors")

    def offline(*args, **kw):
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("torchvision.models.get_model", offline)
    for name in ("deit_tiny_patch16_224", "vit_b_16"):
        with pytest.raises(
            ModelError, match=rf"{name} could not be downloaded \(no route to the hub\)\. Conn"
        ):
            pretrained.load(name)
