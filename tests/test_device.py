"""Devices and precision; and on a GPU, that the same calls work there and a step never waits."""

import pytest
import tiny
import torch

from minigslora import lora, methods
from minigslora.device import autocast, choose_attention, cpu_has_bf16, fast_bf16, pick_device
from minigslora.errors import ConfigError
from minigslora.methods.gslora_pp import GSLoRAPlusPlus
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence
from minigslora.sparsity import ProximalStep, zero_groups
from minigslora.tasks import Setting, plan
from minigslora.training import check_defined, train_task

CPU = torch.device("cpu")


def test_devices_by_name():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match=r"unknown device 'gpu'; expected 'auto', 'cpu' or 'cuda'"):
        pick_device("gpu")
    with pytest.raises(ConfigError, match=r"unknown device 'meta'; expected 'auto', 'cpu' or 'cuda'"):
        pick_device("meta")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"torch sees no CUDA GPU; use 'cpu'"):
        pick_device("cuda")
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    assert pick_device("cuda:1").index == 1
    with pytest.raises(ConfigError, match=r"device 'cuda:2' was asked for, but there are 2 GPUs"):
        pick_device("cuda:2")


def test_deterministic_kernels_while_a_request_is_served_and_not_after(data):
    seen = []
    plan_of = plan(data, Setting(requests=(1,)), seed=0)
    method = GSLoRAPlusPlus(rank=2, training=tiny.training(deterministic=True))
    problem = tiny.problem()
    train_task(
        problem,
        method,
        plan_of.tasks[0],
        Streams(0, "task1"),
        on_epoch=lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()),
    )
    assert seen == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    on_a_gpu = tiny.detection()
    on_a_gpu.device = torch.device("cuda")
    with pytest.raises(ConfigError, match="a detector's attention has no such kernel on CUDA"):
        check_defined(on_a_gpu, method, [])


def test_precision_is_chosen_or_as_asked():
    a = torch.randn(4, 4)
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert (a @ a).dtype == kind
    with autocast(CPU, "auto"):
        assert (a @ a).dtype == (torch.bfloat16 if cpu_has_bf16() else torch.float32)
    assert fast_bf16(CPU) == cpu_has_bf16()
    assert not fast_bf16(torch.device("meta"))


@pytest.mark.parametrize(
    ("amx", "avx", "vendor", "fast"),
    [
        (True, True, "GenuineIntel", True),
        (False, True, "GenuineIntel", False),
        (False, True, "AuthenticAMD", True),
        (False, False, "AuthenticAMD", False),
    ],
)
def test_bf16_on_a_cpu_needs_hardware_that_gains_by_it(monkeypatch, tmp_path, amx, avx, vendor, fast):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setattr("minigslora.device.CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    assert cpu_has_bf16() == fast


def test_bf16_where_the_vendor_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr("minigslora.device.CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert cpu_has_bf16()


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
def test_attention_is_plain_where_bf16_runs_on_a_cpu(model, precision, fused):
    choose_attention(model, CPU, precision)
    assert {block.attn.fused_attn for block in model.blocks} == {fused}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_request_is_served_in_either_precision(data, precision):
    problem = tiny.Classification(tiny.face_model(), data, device="cpu", precision=precision)
    made = plan(data, Setting(requests=(1,), ratio=0.5), 0)
    (report,) = forget_sequence(problem, methods.create("gslora++", **tiny.QUICK), made)
    assert all(v.dtype == torch.float32 for v in lora.adapters(problem.model, "task1")[0][1].parameters())
    assert report.terms["loss"] == report.terms["loss"]


# --- on a GPU -------------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu(data):
    return tiny.problem(device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gslora", "gslora++", "gslora-distill"])
def test_the_same_calls_on_a_gpu(data, on_gpu, tmp_path, name):
    made = plan(data, Setting(requests=(1, 1), ratio=0.5), 0)
    before = on_gpu.predict("test")
    reports = forget_sequence(on_gpu, methods.create(name, **tiny.QUICK), made, out=tmp_path)
    assert all(p.device.type == "cuda" for p in on_gpu.model.parameters())
    after = on_gpu.predict("test")
    resumed = tiny.problem(device="cuda")
    again = forget_sequence(resumed, methods.create(name, **tiny.QUICK), made, out=tmp_path)
    assert [r.metrics for r in again] == [r.metrics for r in reports]
    assert torch.equal(resumed.predict("test"), after)
    with lora.bypassed(on_gpu.model):
        assert torch.equal(on_gpu.predict("test"), before)
    # another kernel sums in another order
    torch.testing.assert_close(on_gpu.predict("test", lora.fold(on_gpu.model)), after, rtol=1e-3, atol=1e-3)


class Watched(GSLoRAPlusPlus):
    """GS-LoRA++ under torch's debug mode: from an epoch's second step on, a wait is an error."""

    name = "watched"

    def wants(self, progress):
        if progress.step > 0:
            torch.cuda.set_sync_debug_mode("error")
        return super().wants(progress)

    def after_step(self, lr, progress):
        super().after_step(lr, progress)
        if progress.step == progress.steps - 1:  # the loop now reads the epoch's losses
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("recipe", methods.RECIPES)
def test_a_step_never_waits_for_the_gpu(data, on_gpu, recipe, augment):
    made = methods.create("gslora++", recipe, **{**tiny.QUICK, "augment": augment, "sparsity_warmup": 0.0})
    method = Watched(**made.settings, training=made.training)
    try:
        forget_sequence(on_gpu, method, plan(data, Setting(requests=(1,), ratio=1.0), 0))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["parameters", "B", "product"])
def test_the_proximal_step_on_a_gpu_is_that_on_a_cpu(norm):
    models = [tiny.adapted(), tiny.adapted().cuda()]
    groups = [lora.groups(m, "task1") for m in models]
    with torch.no_grad():
        for own in groups:
            for p in own[0].parameters:
                p.mul_(1e-3)
    for own in groups:
        ProximalStep(own, norm)(0.01, 0.5)
    assert zero_groups(groups[0]) == zero_groups(groups[1]) == ["blocks.0"]
    for on_cpu, on_gpu in zip(*groups, strict=True):
        for p, q in zip(on_cpu.parameters, on_gpu.parameters, strict=True):
            torch.testing.assert_close(p, q.cpu(), rtol=1e-5, atol=1e-7)  # norms summed in another order


@pytest.mark.gpu
def test_adapters_start_alike_on_every_device():
    models = [tiny.face_model(), tiny.face_model().cuda()]
    for model in models:
        lora.inject(model)
        lora.attach(model, "task1", 2, generator=torch.Generator().manual_seed(0))
    a, b = (lora.adapters(m, "task1")[0][1].A for m in models)
    assert torch.equal(a, b.cpu())
