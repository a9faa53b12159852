"""Named streams of random numbers, derived from one seed.

Each purpose (data order, subset, initialisation, augmentation) has a stream of its own, keyed by the
seed, the purpose and, for instance, the task, so that no method's construction shifts another's
data, and so that a run taken up at a task draws what an undisturbed run draws there.
"""

from __future__ import annotations

import hashlib
import random

import torch


def stream_seed(seed: int, *key: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``key`` under ``seed``."""
    text = "/".join(map(str, (seed, *key)))
    return int.from_bytes(hashlib.sha256(text.encode(errors="backslashreplace")).digest()[:8], "big") >> 1


class Streams:
    """Makes generators by name: ``Streams(0)("data order", "task1")``."""

    def __init__(self, seed: int, *prefix: str | int) -> None:
        self.seed = seed
        self.prefix = prefix

    def __call__(self, *key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a fresh generator for the stream named ``key``."""
        generator = torch.Generator(device=device)
        generator.manual_seed(stream_seed(self.seed, *self.prefix, *key))
        return generator

    def python(self, *key: str | int) -> random.Random:
        """Return the stream as Python's own generator, for shuffling lists."""
        return random.Random(stream_seed(self.seed, *self.prefix, *key))

    def under(self, *key: str | int) -> Streams:
        """Return the streams below ``key``."""
        return Streams(self.seed, *self.prefix, *key)
