"""Configuration: values are parsed to their types, and what is not allowed is named."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigslora.config import from_mapping, parse_fields, parse_value
from minigslora.errors import ConfigError
from minigslora.methods.base import Training


@dataclass(frozen=True)
class Example:
    count: int = 1
    rate: float = 0.1
    flag: bool = False
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    values: tuple[float, ...] = (1.0,)
    limit: int | None = None
    targets: Literal["ffn"] | tuple[str, ...] = "ffn"


EXAMPLES = st.builds(
    Example,
    count=st.integers(),
    rate=st.floats(allow_nan=False),
    flag=st.booleans(),
    name=st.text(),
    mode=st.sampled_from(["a", "b"]),
    values=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    limit=st.none() | st.integers(),
    targets=st.just("ffn") | st.lists(st.text(), max_size=2).map(tuple),
)


@given(EXAMPLES)
def test_every_configuration_round_trips(example):
    assert parse_fields(example) == example
    assert from_mapping(Example, asdict(example)) == example


@given(EXAMPLES)
def test_numbers_may_come_as_text(example):
    values = asdict(example)
    texts = {"rate": repr(example.rate), "flag": str(example.flag)}
    if abs(example.count) < 2**53:
        texts["count"] = str(example.count)
    parsed = from_mapping(Example, {**values, **texts, "values": list(example.values)})
    assert parsed == example
    assert [type(getattr(parsed, f.name)) for f in fields(parsed)[:3]] == [int, float, bool]


@pytest.mark.parametrize(
    ("value", "kind", "parsed"),
    [
        ("1e-4", float, 1e-4),
        (3, float, 3.0),
        ("7", int, 7),
        (2.0, int, 2),
        (5, tuple[float, ...], (5.0,)),
        ("TRUE", bool, True),
        ([1, 2], list[int], [1, 2]),
        ({"a": 1}, Any, {"a": 1}),
        (None, int | None, None),
    ],
)
def test_values_become_what_they_are_declared(value, kind, parsed):
    result = parse_value("key", value, kind)
    assert result == parsed
    assert type(result) is type(parsed)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("seven", int, "key = 'seven'; expected a whole number"),
        (1.5, int, "key = 1.5; expected a whole number"),
        ("inf", int, "key = 'inf'; expected a whole number"),
        (float("nan"), float, "key = nan; expected a number"),
        (True, int, "key = True; expected a whole number"),
        (True, float, "expected a number"),
        ("yes", bool, "key = 'yes'; expected true or false"),
        (1, bool, "expected true or false"),
        (3, str, "key = 3; expected text"),
        ("c", Literal["a", "b"], "key = 'c'; allowed: 'a', 'b'"),
        ([1, "x"], tuple[int, ...], r"key\[1\] = 'x'; expected a whole number"),
        ("x", int | None, "key = 'x'; expected a whole number"),
        (None, int, "key = None; expected a whole number"),
    ],
)
def test_other_values_are_refused_by_name(value, kind, message):
    with pytest.raises(ConfigError, match=message):
        parse_value("key", value, kind)


def test_an_unknown_key_is_named_beside_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown parameter 'epoch'.*did you mean 'epochs'.*batch_retain"):
        from_mapping(Training, {"epoch": 3})
    with pytest.raises(ConfigError, match=r"unknown parameter 'zzz'; known: count"):
        from_mapping(Example, {"zzz": 1})
