"""Links of a notebook that is read away from its folder: what is not beside it is in the repository."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

REPOSITORY = "https://github.com/minigslora/minigslora"
LINK = re.compile(
    r"(?P<picture>!?)(?P<text>\[[^\]]*\])\((?!(?:[a-z]+:|#))(?P<target>[^)#\s]+)(?P<anchor>(?:#[^)\s]*)?)\)"
)


def absolute_links(markdown: str, beside: Collection[str] = ()) -> str:
    """Return a cell's text with its relative links made absolute, except those to files ``beside`` it.

    Args:
        markdown: the text of a markdown cell of ``notebooks/``.
        beside: names of files that are in the same folder as the copy, so that links to them still work.
    """

    def absolute(found: re.Match[str]) -> str:
        if found["target"] in beside:
            return found[0]
        path = posixpath.normpath(posixpath.join("notebooks", found["target"]))
        kind = "raw" if found["picture"] else "blob" if posixpath.splitext(path)[1] else "tree"
        url = f"{REPOSITORY}/{kind}/main/{path}{found['anchor']}"
        return f"{found['picture']}{found['text']}({url})"

    return LINK.sub(absolute, markdown)
