"""The released code's settings, as data: one YAML file a benchmark below ``data/recipes``.

A setting says what its published rows were made with and names its source. Methods take from it what
they have (:func:`pick`); the corrected recipe's constants are the defaults of their configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import Any

import yaml

from minigslora.config import from_mapping
from minigslora.errors import ConfigError
from minigslora.files import shipped_root


@dataclass(frozen=True)
class Released:
    """One setting of the released code; sequences have one value per task.

    Attributes:
        source: the published rows it is for.
        beta: β, the weight of forgetting.
        bound: BND of the cross-entropy, in nats.
        alpha: α of the sparsity penalty.
        sparsity_warmup: share of the epochs before α acts.
        push: w_f of GS-LoRA++.
        push_bound: BND_pro.
        batch: images of each role in a step.
        pull: w_r of GS-LoRA++.
        loop: fields of the training loop, where they differ from the face script's.
        choices: fields of the methods' configurations, where they differ from what all have.
    """

    source: str
    beta: tuple[float, ...]
    bound: float
    alpha: float
    sparsity_warmup: float
    push: tuple[float, ...]
    push_bound: float
    batch: int
    pull: float = 0.0
    loop: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    choices: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@cache
def table(benchmark: str = "face") -> Mapping[str, Released]:
    """Return the settings of a benchmark by name."""
    text = (shipped_root() / "recipes" / f"{benchmark}.yaml").read_text(encoding="utf-8")
    return {name: from_mapping(Released, values) for name, values in yaml.safe_load(text).items()}


def setting(name: str) -> Released:
    """Return the setting called ``name``.

    Raises:
        ConfigError: where there is none.
    """
    files = sorted((shipped_root() / "recipes").glob("*.yaml"), key=lambda file: file.stem != "face")
    known = {k: v for file in files for k, v in table(file.stem).items()}
    if name not in known:
        raise ConfigError(f"unknown setting {name!r}; expected one of {', '.join(known)}")
    return known[name]


def pick(kind: type[Any], values: Released) -> dict[str, Any]:
    """Return the values that a configuration ``kind`` has a field for."""
    known = {f.name for f in fields(kind)}
    return {f.name: getattr(values, f.name) for f in fields(values) if f.name in known}
