"""One request on a ViT-B/16 at 224×224 with random weights, end to end, at smoke scale: shapes and memory.

    python benchmarks/vit_b16.py
    python benchmarks/vit_b16.py --device cuda --batch 48 --each 12

The head has 1000 rows, of which the task takes 100; a request forgets 20 of them, and the whole head goes
back on for the outside check. Accuracies mean nothing here. For seconds a step against naive code see
``python benchmarks/step.py --timm vit_base_patch16_224``.
"""

from __future__ import annotations

import argparse
import time

import torch
from step import resident

from minigslora import lora
from minigslora.datasets.images import DataSet, ImageSet
from minigslora.device import device_name
from minigslora.methods import create
from minigslora.models.checkpoint import timm_model
from minigslora.models.head_slicing import slice_head
from minigslora.models.pretrained import imagenet_classes
from minigslora.problems.classification import Classification, Outside
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, plan


def random_images(classes: tuple[str, ...], each: int, size: int, name: str) -> ImageSet:
    """Return ``each`` images of noise a class."""
    stream = Streams(0)(name)
    images = torch.randint(256, (each * len(classes), 3, size, size), dtype=torch.uint8, generator=stream)
    return ImageSet(images, torch.arange(len(classes)).repeat_interleave(each), classes)


def main() -> None:
    """Serve the request and print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224", help="any of timm's by name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4, help="images of each role in a step")
    parser.add_argument("--each", type=int, default=1, help="training images a class")
    parser.add_argument("--classes", type=int, default=12, help="classes of the task; a sixth is forgotten")
    args = parser.parse_args()
    torch.manual_seed(0)
    model, known = timm_model(args.model, 1000), imagenet_classes()
    size, total = model.patch_embed.img_size[0], sum(p.numel() for p in model.parameters())
    task, others = known[5 : 5 + args.classes], known[900:904]
    head = slice_head(model, known, task)
    data = DataSet(
        "noise",
        random_images(task, args.each, size, "train"),
        random_images(task[:1], 1, size, "val"),
        random_images(task, 1, size, "test"),
    )
    outside = Outside.of(random_images(others, 1, size, "outside"), head)
    problem = Classification(model, data, [0.5] * 3, [0.5] * 3, args.device, outside=outside)
    print(
        f"{args.model}, {total / 1e6:.1f} M parameters, input 3×{size}×{size}, {device_name(problem.device)}"
    )
    print(f"head sliced from {len(known)} to {len(task)} classes")
    asked = Setting(requests=(args.classes // 6,), ratio=1.0)
    method = create("gslora++", epochs=2, batch_retain=args.batch, batch_forget=args.batch)
    began = time.perf_counter()
    report = forget_sequence(problem, method, plan(data, asked, 0), seed=0)[0]
    seconds, figures = time.perf_counter() - began, report.figures
    adapters = sum(p.numel() for _, a in lora.adapters(problem.model, "task1") for p in a.parameters())
    cuda = problem.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident()
    share, groups = figures["trained_percent"], len(problem.model.blocks)
    print(f"trained: {share:.2f} % of the parameters ({adapters}) in {groups} groups")
    print(f"one request, batch {args.batch} + {args.batch}: {report.seconds:.1f} s")
    print(f"the same with evaluation before and after: {seconds:.1f} s")
    print(f"peak memory {peak:.0f} MiB")
    print(", ".join(f"{key} {report.metrics[key]:.1f}" for key in ("acc_outside_before", "acc_outside")))


if __name__ == "__main__":
    main()
