"""Both recipes' settings, as data: one YAML file a recipe and benchmark below ``data/recipes``.

A setting of the released code says what its published rows were made with and names its source. Methods
take from it what they have (:func:`pick`). The corrected recipe's constants are the defaults of the methods'
configurations, but for those that a setting has of its own (:func:`corrected`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import yaml

from minigslora.config import from_mapping
from minigslora.errors import ConfigError
from minigslora.files import shipped_root

T = TypeVar("T", "Released", "Corrected")


def nothing() -> Mapping[str, Any]:
    """Return a mapping without entries."""
    return MappingProxyType({})


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
    loop: Mapping[str, Any] = field(default_factory=nothing)
    choices: Mapping[str, Any] = field(default_factory=nothing)


@dataclass(frozen=True)
class Corrected:
    """One setting of the corrected recipe, where it is not the default.

    Attributes:
        choices: fields of the methods' configurations; a method takes those that it has.
        loop: fields of the training loop.
    """

    choices: Mapping[str, Any] = field(default_factory=nothing)
    loop: Mapping[str, Any] = field(default_factory=nothing)


@cache
def read(recipe: Literal["released", "corrected"], benchmark: str, kind: type[T]) -> Mapping[str, T]:
    """Return the settings of a recipe and a benchmark by name."""
    text = (folder(recipe) / f"{benchmark}.yaml").read_text(encoding="utf-8")
    return {name: from_mapping(kind, values) for name, values in yaml.safe_load(text).items()}


def table(benchmark: str = "face") -> Mapping[str, Released]:
    """Return the released code's settings of a benchmark by name."""
    return read("released", benchmark, Released)


def setting(name: str) -> Released:
    """Return a setting of the released code: of faces, or of another benchmark as "imagenet100/ratio".

    Raises:
        ConfigError: where there is none.
    """
    benchmark, slash, key = name.rpartition("/")
    if benchmark and benchmark not in (there := benchmarks()):
        raise ConfigError(f"unknown benchmark {benchmark!r} of {name!r}; expected one of {', '.join(there)}")
    known = table(benchmark or "face")
    if key not in known:
        expected = ", ".join(f"{benchmark}{slash}{k}" for k in known)
        raise ConfigError(f"unknown setting {name!r}; expected one of {expected}")
    return known[key]


def corrected(name: str) -> Corrected:
    """Return what the corrected recipe has of its own in the setting called ``name``.

    Raises:
        ConfigError: where there is no such setting.
    """
    setting(name)  # refuses one that does not exist
    benchmark, _, key = name.rpartition("/")
    known: Mapping[str, Corrected] = read("corrected", benchmark or "face", Corrected)
    return known.get(key, Corrected())


def benchmarks() -> list[str]:
    """Return the benchmarks that have settings."""
    return sorted(path.stem for path in folder("released").glob("*.yaml"))


def folder(recipe: str) -> Path:
    """Return where the settings of a recipe are."""
    return shipped_root() / "recipes" / recipe


def pick(kind: type[Any], values: Released) -> dict[str, Any]:
    """Return the values that a configuration ``kind`` has a field for."""
    known = {f.name for f in fields(kind)}
    return {f.name: getattr(values, f.name) for f in fields(values) if f.name in known}
