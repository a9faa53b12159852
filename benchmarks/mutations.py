"""What can become of a file: bits flipped, ends cut off, fields of its format given other values.

Every function takes a ``random.Random`` and draws from nothing else, so that a seed names a broken file.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

NUMBERS = (0, 1, -1, 2, 0.5, -1e-9, 1e308, math.inf, -math.inf, math.nan, 2**31, 2**63, 10**30, 65535, 90)
TEXTS = (
    "",
    " ",
    "x",
    "10",
    "1e400",
    "٣",
    "Zürich",
    "🦊",
    "\u202e",
    "\ud800",
    "a" * 3000,
    "../x",
    "a\nb",
    "$^$",
    "%s",
)
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], {"a": None}, [1, 2], [1e9] * 4)
SIZES = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


# --- bytes --------------------------------------------------------------------------------------------


def broken(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return ``data`` changed as a bad disk, download or program would; ``other`` is spliced in."""
    cut, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(9):
        case 0:
            return flipped(data, rng)
        case 1:
            return data[:cut]
        case 2:
            return data[:cut] + rng.randbytes(rng.choice((1, 4, 64, 1024))) + data[cut:]
        case 3:
            return data[:cut] + data[end:]
        case 4:
            return data[:cut] + other[rng.randrange(len(other) + 1) :]
        case 5:  # one file's beginning before another's content
            head = rng.choice((4, 8, 16, 64))
            return other[:head] + data[head:]
        case 6:
            return data[:cut] + bytes(end - cut) + data[end:]
        case 7:
            return data[:cut] + data[cut:end] * 2 + data[end:]
        case _:
            return poked(data, rng)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with one to sixteen bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 16)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def poked(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with a strange number in its first hundred bytes, where formats keep their sizes."""
    kind = rng.choice(("<B", "<H", ">H", "<I", ">I"))
    width = struct.calcsize(kind)
    place = rng.randrange(max(1, min(100, len(data) - width)))
    number = struct.pack(kind, rng.choice(SIZES) % 256**width)
    return data[:place] + number + data[place + width :]


# --- pictures -----------------------------------------------------------------------------------------


def picture(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return an image file with its bytes or the parts of its format changed."""
    kinds: tuple[tuple[bytes, Callable[[bytes, random.Random], bytes]], ...] = (
        (b"\x89PNG", _png),
        (b"\xff\xd8", _jpeg),
        (b"P", _pgm),
    )
    own = next((change for magic, change in kinds if data.startswith(magic)), poked)
    return own(data, rng) if rng.random() < 0.5 else broken(data, other, rng)


def _png(data: bytes, rng: random.Random) -> bytes:
    """Change a chunk and give it a checksum that is right."""
    chunks, place = list[tuple[bytes, bytes]](), 8
    while place < len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    match rng.randrange(5):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(at, chunks[rng.randrange(len(chunks))])
        case 2:
            fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            field = rng.randrange(7)
            fields[field] = rng.choice(SIZES) % (2**32 if field < 2 else 256)
            chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *fields))
        case 3:
            name = rng.choice((b"eXIf", b"iCCP", b"tRNS", b"PLTE", b"acTL", b"zTXt", b"gAMA", b"pHYs"))
            bomb = b"n\0\0" + zlib.compress(bytes(1 << 24))
            chunks.insert(1, (name, rng.choice((b"", rng.randbytes(40), bomb))))
        case _:
            chunks[at] = (kind, broken(body or b"\0", rng.randbytes(64), rng))
    parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return data[:8] + b"".join(parts)


def _jpeg(data: bytes, rng: random.Random) -> bytes:
    """Change the frame's sizes, or a segment."""
    segments, place = list[bytes](), 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        length = 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
        segments.append(data[place : place + length])
        place += length
    at = rng.randrange(len(segments))
    match rng.randrange(5):
        case 0:
            del segments[at]
        case 1:
            segments.insert(at, segments[rng.randrange(len(segments))])
        case 2:
            frame = next(i for i, s in enumerate(segments) if s[1] in (0xC0, 0xC2))
            sizes = struct.pack(">HH", *(rng.choice(SIZES) % 65536 for _ in range(2)))
            segments[frame] = segments[frame][:5] + sizes + segments[frame][9:]
        case 3:
            turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + rng.randbytes(2) + bytes(6)
            body = rng.choice(
                (turned, b"Exif\0\0" + rng.randbytes(40), b"ICC_PROFILE\0\1\1" + rng.randbytes(20))
            )
            segments.insert(
                0, b"\xff" + rng.choice(b"\xe1\xe2\xee").to_bytes() + struct.pack(">H", len(body) + 2) + body
            )
        case _:
            segments[at] = broken(segments[at], rng.randbytes(64), rng)
    return data[:2] + b"".join(segments) + data[place:]


def _pgm(data: bytes, rng: random.Random) -> bytes:
    """Change a number of the header, which is text."""
    words = data.split(maxsplit=4)
    words[rng.randrange(4)] = rng.choice(
        (*(str(s).encode() for s in SIZES), b"-1", b"1e9", b"#", b"P9", b"\xff")
    )
    return b"\n".join(words)


# --- trees --------------------------------------------------------------------------------------------


def json_text(tree: Any, rng: random.Random) -> bytes:
    """Return JSON's text of ``tree`` with one to three entries changed, or with its text broken."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _changed(tree, rng)
    text = json.dumps(tree)
    match rng.randrange(16):
        case 0:
            return broken(text.encode(), b'{"a": [1, 2]}', rng)
        case 1:
            return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
        case 2:
            return rng.choice(
                ("[" * 100_000, "", " ", "null", "[]", "0", '"x"', "{}", "NaN", "9" * 5000)
            ).encode()
        case 3:  # a key twice
            return re.sub(r'"(\w+)": ', r'"\1": 0, "\1": ', text, count=rng.randint(1, 3)).encode()
        case 4:
            return text.encode().replace(b'"', rng.choice((b"'", b'"\xff', b'"\0')), rng.randint(1, 9))
        case _:
            return text.encode()


def _changed(tree: Any, rng: random.Random) -> Any:
    places = list(_places(tree))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    match rng.randrange(7):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        case 1 | 2 if isinstance(holder, dict):
            holder[rng.choice(("", "x", "id", key.upper(), f" {key}"))] = holder.pop(key)
        case 3:
            other, place = rng.choice(places)
            holder[key] = copy.deepcopy(other[place])
        case _:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def xml_text(tree: ElementTree.Element, rng: random.Random) -> bytes:
    """Return XML's text of ``tree`` with one to three elements changed, or with its text broken."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_element(tree, rng)
    text = ElementTree.tostring(tree)
    match rng.randrange(12):
        case 0:
            return broken(text, b"<a><b>1</b></a>", rng)
        case 1:
            return (
                b'<?xml version="1.0" encoding="%s"?>' % rng.choice((b"utf-17", b"utf-16", b"ascii", b""))
                + text
            )
        case 2:
            return rng.choice((b"", b" ", b"<a/>", b"{}", b"<a>" * 20_000, b"<annotation/>", b"\xff\xfe"))
        case 3:
            laughs = b"".join(b'<!ENTITY e%d "%s">' % (i + 1, b"&e%d;" % i * 10) for i in range(12))
            kind = rng.choice((b'<!ENTITY e0 "ha">' + laughs, b'<!ENTITY e12 SYSTEM "file:///etc/hostname">'))
            return b"<!DOCTYPE a [" + kind + b"]>" + text.replace(b"</name>", b"&e12;</name>", 1)
        case _:
            return text


def _change_element(tree: ElementTree.Element, rng: random.Random) -> None:
    pairs = [(parent, child) for parent in tree.iter() for child in parent]
    if not pairs:
        return
    parent, child = rng.choice(pairs)
    match rng.randrange(6):
        case 0:
            parent.remove(child)
        case 1:
            parent.append(copy.deepcopy(rng.choice(pairs)[1]))
        case 2:
            child.tag = rng.choice(("x", "name", "xmin", "size", child.tag.upper()))
        case _:
            leaves = [element for element in tree.iter() if not len(element)]
            texts = [t for t in TEXTS if t != "\ud800"]
            rng.choice(leaves).text = rng.choice((*texts, *(str(n) for n in NUMBERS)))
