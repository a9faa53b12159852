"""Checked configuration: frozen dataclasses whose values are parsed and whose unknown keys are errors.

Which numbers a field takes is part of its type: ``alpha: NonNegative = 0.1``.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from minigslora.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Which numbers a field takes: those from ``least`` to ``most``, and above ``above``."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def check(self, key: str, value: float) -> None:
        """Raise a :class:`ConfigError` for a number that is outside."""
        if not self.least <= value <= self.most or value <= self.above:
            raise ConfigError(f"{key} = {value}; expected {self}")

    def __str__(self) -> str:
        """Say it in words."""
        if self.above > -math.inf:
            return f"more than {self.above:g}"
        return f"{self.least:g} or more" if self.most == math.inf else f"{self.least:g} to {self.most:g}"


NonNegative = Annotated[float, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(least=0)]
AtLeastOne = Annotated[int, Range(least=1)]
Seed = Annotated[int, Range(-(2**63), 2**63 - 1)]
"""What torch's generators take."""


def parse_value(key: str, value: Any, kind: Any) -> Any:
    """Return ``value`` as ``kind``, or raise a :class:`ConfigError` that names ``key``.

    Numbers may come as strings (YAML reads ``1e-4`` as one), and one value stands for a list of one; nothing
    else is converted silently.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        value = parse_value(key, value, args[0])
        for limits in args[1:]:
            limits.check(key, value)
        return value
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{key} = {value!r}; allowed: {', '.join(map(repr, args))}")
        return value
    if origin in (Union, types.UnionType):
        return _parse_union(key, value, args)
    if origin in (tuple, list, Sequence):
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        parsed = [parse_value(f"{key}[{i}]", v, args[0]) for i, v in enumerate(several)]
        return parsed if origin is list else tuple(parsed)
    return _parse_scalar(key, value, kind)


def _parse_union(key: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    problems = []
    for kind in (kind for kind in kinds if kind is not type(None)):
        try:
            return parse_value(key, value, kind)
        except ConfigError as problem:
            problems.append(str(problem))
    raise ConfigError("; or ".join(problems))


def _parse_scalar(key: str, value: Any, kind: Any) -> Any:
    given = isinstance(value, int | float | str) and not isinstance(value, bool)
    if kind is int and given and isinstance(value, int):
        return value  # a float in between would round a large one
    if kind in (int, float) and given:
        with contextlib.suppress(ValueError):
            number = float(value)
            if number.is_integer() if kind is int else not math.isnan(number):
                return kind(number)
    if kind is bool and isinstance(value, bool | str) and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind not in (int, float, bool) and (not isinstance(kind, type) or isinstance(value, kind)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    name = names.get(kind, getattr(kind, "__name__", str(kind)))
    raise ConfigError(f"{key} = {value!r}; expected {name}")


def parse_fields(config: T) -> T:
    """Return a dataclass instance with every field parsed to its annotated type."""
    assert is_dataclass(config)
    assert not isinstance(config, type)
    hints = get_type_hints(type(config), include_extras=True)
    names = [f.name for f in fields(config)]
    return replace(config, **{name: parse_value(name, getattr(config, name), hints[name]) for name in names})


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass from ``values``; an unknown key is an error that suggests the nearest one."""
    assert is_dataclass(kind)
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(f"unknown parameter {key!r}{hint}; known: {', '.join(known)}")
    return parse_fields(kind(**values))
