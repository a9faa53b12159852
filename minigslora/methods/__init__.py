"""The table of methods: one file each, found by listing this folder.

Add a method by adding a file with one subclass of :class:`~minigslora.methods.base.Method` that sets
``name``, ``Config`` and ``presets``.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields, replace
from typing import Any

from minigslora.config import parse_fields
from minigslora.errors import ConfigError
from minigslora.methods.base import Method

RECIPES = ("corrected", "released")
"""The recipe with repairs (the default), and the one of the released code."""


def table() -> dict[str, type[Method]]:
    """Return every method class by name.

    Raises:
        ConfigError: where two classes go by one name.
    """
    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and isinstance(name := getattr(value, "name", None), str):
                if name in found:
                    files = f"{found[name].__module__} and {value.__module__}"
                    raise ConfigError(f"two methods are called {name!r}, in {files}; rename one of them")
                found[name] = value
    return found


def create(name: str, recipe: str = "corrected", setting: str = "ratio", **overrides: Any) -> Method:
    """Make a method from its preset for ``recipe`` and ``setting``, with ``overrides`` on top.

    Args:
        name: a name of :func:`table`, such as "gslora" or "gslora++".
        recipe: "corrected" or "released".
        setting: what is asked and what the data are, a name in ``data/recipes/released/face.yaml``: "ratio"
            (10 %), "shots" (a few per class), "missing", or "single…" for one request; of another
            benchmark as "imagenet100/ratio" or "coco/sequence".
        overrides: fields of the method's configuration or of its
            :class:`~minigslora.methods.base.Training`.

    Raises:
        ConfigError: for an unknown method, recipe, setting or key.
    """
    methods = table()
    if name not in methods:
        raise ConfigError(f"unknown method {name!r}; known: {', '.join(sorted(methods))}")
    if recipe not in RECIPES:
        raise ConfigError(f"unknown recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    kind: Any = methods[name]
    config, training = kind.presets(recipe, setting)
    known = {f.name: config for f in fields(config)} | {f.name: training for f in fields(training)}
    if unknown := sorted(set(overrides) - set(known)):
        raise ConfigError(
            f"{name} has no setting {unknown[0]!r}; its settings are {', '.join(sorted(known))}"
        )
    own = {k: v for k, v in overrides.items() if known[k] is config}
    loop = {k: v for k, v in overrides.items() if known[k] is training}
    method: Method = kind(parse_fields(replace(config, **own)), parse_fields(replace(training, **loop)))
    return method


__all__ = ["RECIPES", "create", "table"]
