"""How much quicker deformable attention reads small maps by a matrix than point by point.

    python benchmarks/reading.py

One reading step of the shipped detector's sizes, forward and backward, for images of growing size; both
ways in turn within each round, the median over rounds of the ratio within the round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from minigslora.models.deformable_attention import read_by_matrix

IMAGES, HEADS, DIM, POINTS = 20, 3, 32, 2


def seconds(read: Callable[[], Tensor], inputs: list[Tensor], backward: bool) -> float:
    """Return the time of one call, and of its gradients where asked for."""
    began = time.perf_counter()
    with torch.set_grad_enabled(backward):
        found = read()
        if backward:
            torch.autograd.grad(found.square().sum(), inputs)
    return time.perf_counter() - began


def compare(shapes: list[tuple[int, int]], rounds: int, backward: bool) -> tuple[float, float]:
    """Return the milliseconds by the matrix, and how many times as long the points take."""
    size = sum(a * b for a, b in shapes)
    value = torch.randn(IMAGES, size, HEADS, DIM, requires_grad=True)
    places = torch.rand(IMAGES, size, HEADS, len(shapes), POINTS, 2, requires_grad=True)
    weights = torch.rand(IMAGES, size, HEADS, len(shapes), POINTS, requires_grad=True)
    own, inputs = MultiScaleDeformableAttention(), [value, places, weights]

    def by_matrix() -> Tensor:
        return read_by_matrix(value, shapes, places, weights)

    def by_points() -> Tensor:
        found: Tensor = own(value, torch.tensor(shapes), shapes, torch.empty(0), places, weights, 64)
        return found

    for read in (by_matrix, by_points):
        seconds(read, inputs, backward)
    taken = [
        (seconds(by_matrix, inputs, backward), seconds(by_points, inputs, backward)) for _ in range(rounds)
    ]
    return 1e3 * statistics.median(m for m, _ in taken), statistics.median(p / m for m, p in taken)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    print("| image | places | forward, ms | points / matrix | with backward, ms | points / matrix |")
    print("| --- | --- | --- | --- | --- | --- |")
    for image in (64, 96, 128, 160, 192, 224):
        shapes = [(image // stride, image // stride) for stride in (8, 16, 32)]
        cells = [
            f"{number:.1f}"
            for backward in (False, True)
            for number in compare(shapes, asked.rounds, backward)
        ]
        places = sum(a * b for a, b in shapes)
        print(f"| {image} | {places} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
