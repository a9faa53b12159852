"""The table of methods, found by listing this folder.

Add a method by adding a file with a subclass of :class:`~minigslora.methods.base.Method` that has a ``name``.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields, replace
from typing import Any, get_type_hints

from minigslora import recipes
from minigslora.config import parse_fields, parse_value
from minigslora.errors import ConfigError
from minigslora.methods.base import Method, Training
from minigslora.methods.gslora import GSLoRA
from minigslora.recipes import RECIPES


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
        overrides: settings of the method or fields of its :class:`~minigslora.methods.base.Training`.

    Raises:
        ConfigError: for an unknown method, recipe, setting or key.
    """
    methods = table()
    if name not in methods:
        raise ConfigError(f"unknown method {name!r}; known: {', '.join(sorted(methods))}")
    if recipe not in RECIPES:
        raise ConfigError(f"unknown recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    kind = methods[name]
    of_loop = {f.name for f in fields(Training)}
    known = {f.name for f in fields(kind) if f.init and f.name != "training"}
    if unknown := sorted(set(overrides) - known - of_loop):
        listed = ", ".join(sorted(known | of_loop))
        raise ConfigError(f"{name} has no setting {unknown[0]!r}; its settings are {listed}")
    choices, loop = recipes.preset(kind, recipe, setting, GSLoRA)
    choices |= {key: value for key, value in overrides.items() if key in known}
    loop |= {key: value for key, value in overrides.items() if key in of_loop}
    hints = get_type_hints(kind, include_extras=True)
    parsed = {key: parse_value(key, value, hints[key]) for key, value in choices.items()}
    return kind(training=parse_fields(replace(Training(), **loop)), **parsed)


__all__ = ["RECIPES", "create", "table"]
