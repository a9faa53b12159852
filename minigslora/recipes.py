"""Both recipes as data: what differs from a method's own defaults, by method and by setting.

A folder of ``data/recipes`` for each recipe has a file a benchmark, whose settings say what is asked and what
the data are, and ``methods.yaml``, by method. The corrected recipe's constants are the defaults of the
methods' fields; the files hold what differs from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from minigslora.config import from_mapping
from minigslora.errors import ConfigError
from minigslora.files import shipped_root

RECIPES = ("corrected", "released")
"""The recipe with repairs (the default), and the one of the released code."""


@dataclass(frozen=True)
class Preset:
    """What a setting or a method has of its own.

    Attributes:
        source: the published rows that a setting is for.
        choices: a method's settings; those of a setting are GS-LoRA's and its kin's.
        loop: fields of :class:`~minigslora.methods.base.Training`.
        within: further choices of a method, by the beginning of the setting's name.
    """

    source: str = ""
    choices: Mapping[str, Any] = field(default_factory=dict)
    loop: Mapping[str, Any] = field(default_factory=dict)
    within: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@cache
def read(recipe: str, file: str) -> Mapping[str, Preset]:
    """Return the presets of a recipe's file by name."""
    text = (folder(recipe) / f"{file}.yaml").read_text(encoding="utf-8")
    return {name: from_mapping(Preset, values or {}) for name, values in yaml.safe_load(text).items()}


def setting(name: str, recipe: str = "released") -> Preset:
    """Return a setting of faces, or of another benchmark as "imagenet100/ratio".

    The released code has every setting; the corrected recipe has an empty one where its defaults serve.

    Raises:
        ConfigError: where there is none.
    """
    benchmark, slash, key = name.rpartition("/")
    if benchmark and benchmark not in (there := benchmarks()):
        raise ConfigError(f"unknown benchmark {benchmark!r} of {name!r}; expected one of {', '.join(there)}")
    known = read("released", benchmark or "face")
    if key not in known:
        expected = ", ".join(f"{benchmark}{slash}{k}" for k in known)
        raise ConfigError(f"unknown setting {name!r}; expected one of {expected}")
    return read(recipe, benchmark or "face").get(key, Preset())


def benchmarks() -> list[str]:
    """Return the benchmarks that have settings."""
    return sorted({path.stem for path in folder("released").glob("*.yaml")} - {"methods"})


def folder(recipe: str) -> Path:
    """Return where the presets of a recipe are."""
    return shipped_root() / "recipes" / recipe


def preset(
    method: type[Any], recipe: str, name: str, kin: type[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a method's settings and loop in a recipe and a setting, where they are not its defaults.

    What comes later in these lists wins. Settings: those of all methods, the method's own, the benchmark's
    setting (GS-LoRA and its kin only), the method's within that setting. Loop: that of all methods, the
    benchmark's setting, that of what trains weights, the method's own.

    Args:
        method: a dataclass with a ``name``. A method that the released code does not have has one recipe.
        recipe: one of :data:`RECIPES`.
        name: the setting's.
        kin: the class whose settings the benchmarks' files speak of: GS-LoRA.
    """
    recipe = recipe if method.published else "corrected"
    asked, by_method = setting(name, recipe), read(recipe, "methods")
    common, own = by_method["all"], by_method.get(method.name, Preset())
    of_weights = {} if method.revocable else by_method["weights"].loop
    within = [choices for start, choices in own.within.items() if name.startswith(start)]
    layers = [common.choices, own.choices, asked.choices if issubclass(method, kin) else {}, *within]
    known = {f.name for f in fields(method) if f.init}
    choices = {key: value for layer in layers for key, value in layer.items() if key in known}
    return choices, {**common.loop, **asked.loop, **of_weights, **own.loop}
