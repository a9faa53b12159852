"""Text from a command line, in messages, and to a terminal."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterable
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
    folder.

    Raises:
        ConfigError: for a list or mapping that does not end.
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
