"""Pictures from files, of whatever kind: one reader for all data sets.

A picture comes as 8-bit RGB, turned upright as its EXIF orientation says. What has more than 8 bits is
scaled to 0 … 255 by the range of its kind: 16-bit pictures by 65535, pictures of floats by 1. Pictures
of 32-bit integers or floats that leave that range (or fall below 0) are scaled from their own least to
their own greatest value; NaN counts as the least.

Boxes are drawn on pixels as they are stored or as they are shown, and an annotation file says which
only through the size that it declares. Where that is the stored size, the picture is left as it is
stored; where it is the size of the picture turned upright, the picture is turned; any other size is an
error. (Pillow itself turns TIFFs, which are upright in either case.)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from minigslora.datasets.faults import gathered
from minigslora.errors import DataError

ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif", ".tif", ".tiff"}
    | {".bmp", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".tga"}
)
"""Of file names that count as pictures, in lower case."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "TGA")
"""What Pillow may open, whatever a file is called: PostScript and its like are programs."""
LARGE = 50_000_000
"""Pixels from which pictures are read one at a time and reduced at once."""
MOST = 250_000_000
"""Pixels that a picture may have; Pillow's own limit of 179 million stops legitimate ones."""
NOT_PICTURES = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with 'git lfs pull'",
    b"%!PS": "PostScript: convert it to PNG",
    b"%PDF": "a PDF: convert it to PNG",
    b"<": "markup, such as a web page or SVG",
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""
SIDEWAYS = [TURNS[orientation] for orientation in (5, 6, 7, 8)]
"""Turns by which width and height change places."""

_pillow = threading.Lock()  # its limit is one for the whole process

Size = tuple[int, int]
"""Width and height."""


def read(
    file: Path, shape: Callable[[Image.Image], Image.Image], least: int, declared: Size | None = None
) -> Tensor:
    """Return one picture as uint8 (3, H, W).

    Args:
        file: the picture.
        shape: brings an RGB picture to the wanted size.
        least: neither side of a large picture is reduced below this many pixels before ``shape``.
        declared: the size that its annotation says.

    Raises:
        DataError: naming the file, whatever is wrong with it.
    """
    with _named(file):
        tensor: Tensor = tv.pil_to_tensor(shape(_upright_rgb(file, least, declared)))
    return tensor


def read_all(reads: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Return what each call reads, four at a time; the faults of all are one error."""
    with ThreadPoolExecutor(4) as pool:
        return gathered([pool.submit(call).result for call in reads])


def probe(file: Path, declared: Size | None = None) -> Size:
    """Return the size of a picture as it is stored, without reading its pixels.

    Raises:
        DataError: for what is no picture, or has another size than declared.
    """
    with _named(file):
        with _limit_raised():
            image = _open(file)
        with image:
            if declared not in (None, image.size, image.size[::-1]):
                raise _other_size(file, image.size, declared)
            return image.size


def probe_all(files: Sequence[Path], declared: Sequence[Size | None] | None = None) -> None:
    """Raise one error for all of the files that cannot be pictures; pixels are not read."""
    sizes = declared if declared is not None else [None] * len(files)
    gathered(partial(probe, file, size) for file, size in zip(files, sizes, strict=True))


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """Turn whatever is raised into a :class:`DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as problem:  # damaged bytes make Pillow raise nearly anything
        why = " ".join(str(problem).split()) or type(problem).__name__
        if isinstance(problem, UnidentifiedImageError):
            why = _content(file)
        raise DataError(f"{file} is not a readable image ({why}); remove or replace it") from problem


def _content(file: Path) -> str:
    with contextlib.suppress(OSError), file.open("rb") as opened:
        start = opened.read(32)
        if not start:
            return "the file is empty"
        if start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
            return "HEIC, as phones write it: convert it to JPEG"
        for mark, what in NOT_PICTURES.items():
            if start.startswith(mark):
                return what
    return "it is in none of the formats read here"


@contextlib.contextmanager
def _limit_raised() -> Iterator[None]:
    """Have Pillow leave the limit to us; one thread at a time, as its own is the whole process's."""
    with _pillow:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 4 * MOST
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open(file: Path) -> Image.Image:
    """Return a picture whose pixels are not read yet."""
    if not file.is_file():  # a pipe would never end
        missing = "a link to nothing" if file.is_symlink() else "there is no such file"
        raise OSError("not a regular file" if file.exists() else missing)
    Image.init()
    image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    width, height = image.size
    if not 0 < width * height <= MOST:
        image.close()
        raise ValueError(
            f"{width} × {height} pixels; expected at least 1 and at most {MOST // 1_000_000} million"
        )
    return image


def _upright_rgb(file: Path, least: int, declared: Size | None) -> Image.Image:
    """Return a picture as RGB in the frame that it is declared in; a large one is reduced."""
    with _limit_raised():
        image = _open(file)
        if image.width * image.height > LARGE:
            with image:
                return _finished(image, file, least, declared)
    with image:
        return _finished(image, file, 0, declared)


def _finished(image: Image.Image, file: Path, reduced_to: int, declared: Size | None) -> Image.Image:
    stored = image.size
    if reduced_to:
        image.draft(image.mode, (reduced_to, reduced_to))  # a JPEG is decoded at a fraction of its size
    image.load()
    turn = _turn(image)
    upright = stored[::-1] if turn in SIDEWAYS else stored
    if declared not in (None, stored, upright):
        raise _other_size(file, stored, declared)
    plain = _eight_bit(image)
    if reduced_to and (factor := min(plain.size) // (2 * reduced_to)) > 1:
        plain = plain.reduce(factor)
    rgb = plain if plain.mode == "RGB" else plain.convert("RGB")
    return rgb if turn is None or declared == stored else rgb.transpose(turn)


def _other_size(file: Path, stored: Size, declared: Size | None) -> DataError:
    return DataError(
        f"{file} has {stored[0]} × {stored[1]} pixels, but its annotations say {declared} (width, height); "
        "give the picture that was annotated, or correct them"
    )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns a picture upright; none where its EXIF says nothing that can be read."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged note of the camera's is no reason to lose the picture
        return None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return a picture as RGB or grey."""
    image.info.pop("transparency", None)  # Pillow warns of it; what is transparent shows its own colour
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), 1.0 if image.mode == "F" else 65535.0))
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(values: NDArray[Any], top: float) -> NDArray[np.uint8]:
    """Return values from 0 to ``top``, or from their least to their greatest, as 0 to 255.

    Rows are taken a few at a time: in floating point a large picture would need several times its memory.
    """
    parts = np.array_split(values, min(len(values), 1 + (values.size >> 22)))
    known = (part.astype(np.float32)[np.isfinite(part)] for part in parts)
    ends = [(float(part.min()), float(part.max())) for part in known if part.size]
    low, high = (min(ends)[0], max(end for _, end in ends)) if ends else (0.0, top)
    if low >= 0 and high <= top:
        low, high = 0.0, top
    scaled = np.empty(values.shape, np.uint8)
    for part, place in zip(parts, np.array_split(scaled, len(parts)), strict=True):
        exact = np.nan_to_num(part.astype(np.float32), nan=low, posinf=high, neginf=low)
        place[...] = ((exact - low) / ((high - low) or 1) * 255).round()
    return scaled
