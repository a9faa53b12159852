"""Speed and memory of one training step, as ratios within one run.

    python benchmarks/step.py [--device cpu] [--repeats 15] [--json step.json]

Steps are timed in turn, one round after another, so that a busy machine slows all of them alike; a
ratio is the median of the rounds' ratios. Five steps on the same images:

- ours: GS-LoRA++ as the library's loop takes it (gather the batch, one forward pass over retained and
  forgotten images, backward, fused AdamW, proximal step), augmentation off;
- augmented: the same with the corrected recipe's augmentation;
- compiled: ours, the model compiled by torch (compile = true);
- floor: forward pass and gradient with respect to the tokens after the patch embedding, of the same
  frozen model without adapters, in the same precision;
- naive: the same method as one would first write it: two forward passes, fp32, peft's LoRA, default
  (fused) attention, penalty in a Python loop, every loss read back, AdamW as it comes.

Images are random: a step's time does not depend on what they show. Peak memory is measured in a
process of its own for each step.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora import lora
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.device import device_name, fast_bf16, versions
from minigslora.errors import ModelError
from minigslora.files import write_json
from minigslora.methods import create
from minigslora.methods.original import class_prototypes, logit_spread
from minigslora.models.checkpoint import input_size, load_shipped, timm_model
from minigslora.models.vit import MINI_FACE, face_transformer
from minigslora.problems.classification import Classification
from minigslora.rng import Streams
from minigslora.tasks import Progress, Task
from minigslora.training import EpochOrder, make_optimizer, train_step

Step = Callable[[], None]

STEPS = ("ours", "augmented", "compiled", "floor", "naive")
CLASSES = 100
FORGET = tuple(range(80, 100))
AIMS = {"ours / floor": "≤ 1.25", "naive / ours": "≥ 3", "naive / compiled": "≥ 3"}


# --- what is measured -------------------------------------------------------------------------------


def build_model(args: argparse.Namespace) -> tuple[nn.Module, int, str]:
    """Return the model, its image size, and what it is called."""
    if args.timm:
        torch.manual_seed(0)
        model = timm_model(args.timm, CLASSES)
        return model, input_size(model), f"{args.timm}, random weights"
    sizes = (args.dim, args.depth, args.image_size, args.heads, args.mlp)
    if not any(sizes):
        try:
            model, card = load_shipped("mini-faces")
        except ModelError:
            pass
        else:
            return model, card.image_size, "the shipped mini face model"
    dim = args.dim or MINI_FACE.dim
    config = replace(
        MINI_FACE,
        classes=CLASSES,
        dim=dim,
        depth=args.depth or MINI_FACE.depth,
        image_size=args.image_size or MINI_FACE.image_size,
        heads=args.heads or max(1, dim // 32),
        mlp=args.mlp or 2 * dim,
    )
    torch.manual_seed(0)
    named = f"face transformer, dim {dim}, depth {config.depth}, {config.image_size} pixels, random weights"
    return face_transformer(config), config.image_size, named


def half_precision(precision: str, device: torch.device) -> bool:
    """Whether our steps run in bf16."""
    return precision == "bf16" or (precision == "auto" and fast_bf16(device))


def build_problem(args: argparse.Namespace, precision: str | None = None) -> tuple[Classification, Task]:
    """Return the problem on random images, and a request of 20 of 100 classes."""
    model, size, _ = build_model(args)
    each = max(4, math.ceil(args.batch / len(FORGET)))
    stream = Streams(0)("images")
    images = torch.randint(256, (CLASSES * each, 3, size, size), dtype=torch.uint8, generator=stream)
    labels = torch.arange(CLASSES).repeat_interleave(each)
    split = ImageSet(images, labels, tuple(f"class{c}" for c in range(CLASSES)))
    data = DataSet("random images", split, split, split)
    problem = Classification(model, data, device=args.device, precision=precision or args.precision)
    retain = tuple(c for c in range(CLASSES) if c not in FORGET)
    task = Task(
        name="task1",
        index=0,
        forget=FORGET,
        old=(),
        retain=retain,
        retain_images=tuple(split.of_classes(retain).tolist()),
        forget_images=tuple(split.of_classes(FORGET).tolist()),
    )
    return problem, task


def ours(args: argparse.Namespace, augment: bool = False, compile: bool = False) -> Step:
    """Return GS-LoRA++'s step (corrected recipe)."""
    problem, task = build_problem(args)
    method = create("gslora++", batch_retain=args.batch, batch_forget=args.batch, augment=augment)
    streams = Streams(0, task.name)
    groups = method.begin(problem, task, streams)
    optimizer = make_optimizer(groups, method.training)
    order = EpochOrder(task, method.training, streams, problem.device)
    moves = streams("augment", device=problem.device) if augment else None
    problem.model.train(method.training.dropout)
    rows, numbers = order.epoch(), itertools.count()
    # The last epoch: the sparsity warm-up is over, and the proximal step acts.
    progress = Progress(epoch=method.training.epochs - 1, epochs=method.training.epochs)
    taken: list[dict[str, Tensor]] = []
    compiled = problem.compiled() if compile else contextlib.nullcontext()
    compiled.__enter__()

    def step() -> None:
        number = next(numbers) % order.steps
        wanted = {r: rows[r][number] for r in method.wants(progress)}
        taken.append(train_step(problem, method, optimizer, wanted, progress, moves))

    step.compiled = compiled  # type: ignore[attr-defined]  # it lasts as long as the step
    return step


def floor(args: argparse.Namespace) -> Step:
    """Return forward and input gradient of the frozen model, without adapters."""
    problem, task = build_problem(args)
    model = problem.model.requires_grad_(False).eval()
    model.patch_embed.register_forward_hook(lambda module, given, tokens: tokens.requires_grad_())
    order = EpochOrder(task, create("gslora++").training, Streams(0), problem.device)
    order.sizes = dict.fromkeys(order.sizes, args.batch)
    rows = {role: part[0] for role, part in order.epoch().items()}

    def step() -> None:
        batch = problem.batch({r: rows[r] for r in ("retain", "forget")})
        with problem.autocast():
            outputs = problem.forward(batch)
            loss = F.cross_entropy(outputs.logits, batch.targets)
        loss.backward()

    return step


def naive(args: argparse.Namespace) -> Step:
    """Return the method as one would first write it, with peft."""
    from peft import LoraConfig, inject_adapter_in_model

    problem, task = build_problem(args, "fp32")
    config: Any = create("gslora++")
    prototypes, spread = class_prototypes(problem, task, "logits"), logit_spread(problem, task)
    temperature = spread * config.temperature
    handicap = problem.margin or spread * config.handicap
    bound = math.log(CLASSES) + handicap + spread * config.bound
    kept_prototypes = prototypes.clone()
    kept_prototypes[:, list(task.forget)] = -1e4
    names = lora.find_linears(problem.model, "ffn")
    peft = LoraConfig(r=config.rank, lora_alpha=1, target_modules=names)
    problem.model.requires_grad_(False)
    model: Any = inject_adapter_in_model(peft, problem.model).eval()
    blocks = [[p for p in block.parameters() if p.requires_grad] for block in model.blocks]
    optimizer = torch.optim.AdamW([p for block in blocks for p in block], lr=1e-5, weight_decay=0)
    data = problem.data.train
    kept = torch.tensor(task.retain_images[: args.batch], device=problem.device)
    gone = torch.tensor(task.forget_images[: args.batch], device=problem.device)
    logged: list[float] = []

    def kl(prototypes: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(prototypes[labels] / temperature, dim=1)
        log_q = F.log_softmax(logits / temperature, dim=1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)

    def cross_entropies(logits: Tensor, labels: Tensor, handicap: float) -> Tensor:
        true = F.one_hot(labels, CLASSES)
        return F.cross_entropy(logits - handicap * true, labels, reduction="none")

    def step() -> None:
        logits_r = model(problem.normalise(data.images[kept]))
        logits_f = model(problem.normalise(data.images[gone]))
        labels_r, labels_f = data.labels[kept], data.labels[gone]
        loss_r = cross_entropies(logits_r, labels_r, problem.margin).mean()
        loss_f = (bound - cross_entropies(logits_f, labels_f, handicap)).relu().mean()
        push = (config.push_bound - kl(prototypes, logits_f, labels_f)).relu().mean()
        pull = kl(kept_prototypes, logits_r, labels_r).mean()
        sparsity = torch.zeros((), device=problem.device)
        for block in blocks:
            square = torch.zeros((), device=problem.device)
            for matrix in block:
                square = square + (matrix**2).sum()
            sparsity = sparsity + torch.sqrt(square)
        loss = loss_r + config.beta[0] * loss_f + config.push[0] * push + config.pull * pull
        loss = loss + 1e-4 * sparsity
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logged.extend(term.item() for term in (loss, loss_r, loss_f, push, pull, sparsity))

    return step


def make(name: str, args: argparse.Namespace) -> Step:
    """Return a step by name."""
    if name in ("augmented", "compiled"):
        return ours(args, augment=name == "augmented", compile=name == "compiled")
    return {"ours": ours, "floor": floor, "naive": naive}[name](args)


# --- measuring -------------------------------------------------------------------------------------


def timed(step: Step, device: torch.device, inner: int, clock: str = "wall") -> float:
    """Return the milliseconds of one step, over ``inner`` steps in a row."""
    now = time.process_time if clock == "processor" else time.perf_counter
    began = now()
    for _ in range(inner):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (now() - began) / inner


def in_turn(steps: dict[str, Step], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return each step's times, measured in turn; the order turns with the rounds."""
    device = torch.device(args.device)
    inner = args.inner or (10 if device.type == "cuda" else 1)
    for step in steps.values():
        timed(step, device, 2)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(args.repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(timed(steps[name], device, inner, args.clock))
    return times


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over rounds of one step's time divided by another's."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def resident() -> float:
    """Return this process's peak resident memory so far in MiB; NaN where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: unlike getrusage's, this peak does not include the parent's
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak() -> None:
    """Start the peak anew from what is resident now, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_here(args: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of one step in MiB, and by how much training raised it."""
    step, device = make(args.only, args), torch.device(args.device)
    forget_peak()
    before = resident()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    timed(step, device, 5)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident()
    return {"peak": peak, "raised": peak - before}


def memory_of(name: str, argv: Sequence[str]) -> dict[str, float]:
    """Measure a step's memory in a fresh process."""
    command = [sys.executable, str(Path(__file__).resolve()), *argv, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"measuring the memory of {name!r} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the report --------------------------------------------------------------------------------------


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return median, minimum and number of times by name."""
    return {
        name: {"median_ms": statistics.median(t), "min_ms": min(t), "rounds": len(t)}
        for name, t in times.items()
    }


def measure_steps(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Time the steps and measure their memory."""
    times = in_turn({name: make(name, args) for name in STEPS}, args)
    found: dict[str, Any] = {"steps": summary(times)}
    found["ratios"] = {
        "ours / floor": ratio(times["ours"], times["floor"]),
        "naive / ours": ratio(times["naive"], times["ours"]),
        "augmented / ours": ratio(times["augmented"], times["ours"]),
        "compiled / floor": ratio(times["compiled"], times["floor"]),
        "naive / compiled": ratio(times["naive"], times["compiled"]),
    }
    if not args.no_memory:
        for name in STEPS:
            found["steps"][name] |= memory_of(name, argv)
    return found


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    for key, value in found["setting"].items():
        print(f"{key:10} {value}")
    if "steps" in found:
        print(f"\n{'step':12}{'median ms':>11}{'minimum ms':>12}{'peak MiB':>10}{'of it, steps':>14}")
        for name, row in found["steps"].items():
            peak = f"{row['peak']:10.0f}{row['raised']:14.0f}" if "peak" in row else ""
            print(f"{name:12}{row['median_ms']:11.1f}{row['min_ms']:12.1f}{peak}")
        print()
        for name, value in found["ratios"].items():
            print(f"{name:18}{value:6.2f}  {'aim ' + AIMS[name] if name in AIMS else ''}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=["cpu", "cuda"])
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "bf16", "fp32"], help="ours and floor"
    )
    for name in ("dim", "depth", "image-size", "heads", "mlp"):
        parser.add_argument(f"--{name}", type=int, default=0, help="another model, with random weights")
    parser.add_argument("--timm", default="", help="any vision transformer of timm, with random weights")
    parser.add_argument("--batch", type=int, default=48, help="images of each role in a step")
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--inner", type=int, default=0, help="steps per measurement; 1 on a CPU, 10 on CUDA")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "processor"], help="processor: on a machine in use"
    )
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", choices=STEPS, help=argparse.SUPPRESS)  # memory, in a process of its own
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Measure and report."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.only:
        print(json.dumps(memory_here(args)))
        return
    device = torch.device(args.device)
    half = "bf16 autocast" if half_precision(args.precision, device) else "fp32"
    shown = ", ".join(f"{k} {v}" for k, v in versions().items() if v)
    found: dict[str, Any] = {
        "setting": {
            "model": build_model(args)[2],
            "batch": f"{args.batch} + {args.batch}",
            "device": f"{device_name(device)}, {torch.get_num_threads()} threads",
            "precision": f"{half} (naive: fp32)",
            "clock": args.clock,
            "versions": shown,
        }
    }
    found |= measure_steps(args, argv)
    show(found)
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main(sys.argv[1:])
