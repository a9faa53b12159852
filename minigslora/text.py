"""Text from a command line, in messages, and to a terminal."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from minigslora.errors import ConfigError

SCALARS: dict[str, tuple[re.Pattern[str], str, Callable[[str], Any]]] = {
    "null": (re.compile("null|Null|NULL"), "nN", lambda text: None),
    "bool": (re.compile("true|True|TRUE|false|False|FALSE"), "tTfF", lambda text: text.lower() == "true"),
    "int": (re.compile(r"[-+]?(0|[1-9][0-9]*)"), "-+0123456789", int),
    "float": (
        re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?"),
        "-+.0123456789",
        float,
    ),
}
"""What is no text: by YAML's tag, how it is written, its first characters, and what reads it."""


class _Flow(yaml.SafeLoader):
    """Reads lists and mappings whose scalars are :data:`SCALARS`, or text.

    YAML 1.1's further ones surprise: 010 is 8 there, 12:30 is 750, no is false. Its references can make a
    value that never ends, its tags one that is none of ours.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse references and tags."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise yaml.YAMLError("no references, no tags")
        return super().compose_node(parent, index)


_Flow.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first, _) in SCALARS.items():
    _Flow.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), [*_first]
    )


def read_value(text: str) -> Any:
    """Return what a VALUE of KEY=VALUE says: null, true, false, a number, a [list], a {mapping}, or text.

    Everything else is text as it stands, as is what stands in quotes. A ``~/`` in front is the user's
    folder. A list or mapping that does not end is a :class:`ConfigError`.
    """
    if text[:1] in ("[", "{") or re.fullmatch(r"\".*\"|'.*'", text, re.DOTALL):
        try:
            return yaml.load(text, _Flow)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(f'{text!r} is no [list] and no {{mapping}}; for text, write "{text}"') from None
    for pattern, _, convert in SCALARS.values():
        if pattern.fullmatch(text.strip()):
            with contextlib.suppress(ValueError):  # of thousands of digits
                return convert(text.strip())
    return expand_home(text)


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE pairs as a dictionary, values read by :func:`read_value`."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{pair!r} is no setting; expected KEY=VALUE, as in epochs=10")
        if key in found:
            raise ConfigError(f"{key} is given twice; give it once")
        found[key] = read_value(text)
    return found


def by_method(pairs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return settings by the method they are for: "" for all, else what stands before the "/"."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs.items():
        method, _, name = key.rpartition("/")
        found.setdefault(method, {})[name] = value
    return found


def split_list(text: str) -> list[str]:
    """Return the parts of "a,b,c"."""
    return [part.strip() for part in text.split(",") if part.strip()]


def three_numbers(key: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of ".5,.5,.5", None of nothing, or raise a :class:`ConfigError` about ``key``."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        if len(values := tuple(float(part) for part in text.split(","))) == 3:
            return values
    raise ConfigError(f"{key} = {text!r}; expected three numbers, as in .5,.5,.5")


def expand_home(text: str) -> str:
    """Return ``text`` with the user's folder for a ``~/`` in front, or after ``--option=``."""
    option, path = re.fullmatch(r"(--?[\w-]+=)?(.*)", text, re.DOTALL).groups("")  # type: ignore[union-attr]
    if path.startswith(("~/", "~\\")):
        with contextlib.suppress(RuntimeError):  # no home is known
            return option + str(Path(path).expanduser())
    return text


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first few of some names, and how many there are where there are more."""
    known = list(names)
    return ", ".join(known[:most]) + (f", … ({len(known)} in all)" if len(known) > most else "")


def safe_streams() -> None:
    """Let characters that the terminal's encoding lacks be printed as "?", not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
