"""Pictures from files, of whatever kind, one at a time or as the images of a split: one reader for all.

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
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from minigslora.errors import DataError
from minigslora.fingerprint import fingerprint_of
from minigslora.progress import bar

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

LONGEST = 16
"""How many times its shorter side the longer side of a picture is read, where it is cropped."""
IN_MEMORY = 4 << 30
"""Bytes of uint8 images kept in memory; a larger split is read from its files as needed."""
SHOWN = 5
"""How many faults a message names; the rest are counted."""

_pillow = threading.Lock()  # its limit is one for the whole process

Size = tuple[int, int]
"""Width and height."""
Fit = Callable[[Image.Image, int], Image.Image]
"""Brings an RGB picture to a square of some height and width."""
CPU = torch.device("cpu")
T = TypeVar("T")


# --- all that is wrong, in one error instead of one a run ----------------------------------------------


class Faults(DataError):
    """Several faults found in one go; ``faults`` says of each what is wrong and what to do."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        shown = "; ".join(self.faults[:SHOWN]) + ("; …" if len(faults) > SHOWN else "")
        super().__init__(shown if len(faults) == 1 else f"{shown} ({len(faults)} faults in all)")


def faults_of(problem: DataError) -> tuple[str, ...]:
    """Return what a data error is made of."""
    return problem.faults if isinstance(problem, Faults) else (str(problem),)


def gathered(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Return what each call returns; raise the data errors of all that failed as one :class:`Faults`."""
    found, faults = list[T](), list[str]()
    for call in calls:
        try:
            found.append(call())
        except DataError as problem:
            faults += faults_of(problem)
    if faults:
        raise Faults(faults)
    return found


# --- the images of a split ------------------------------------------------------------------------------


def cropped(image: Image.Image, size: int) -> Image.Image:
    """Bring the shorter side to ``size``, and cut out the centre."""
    short = min(image.size)
    if max(image.size) > LONGEST * short:  # the rest of a strip is cropped away in any case
        image = tv.center_crop(image, [min(side, LONGEST * short) for side in image.size[::-1]])
    if short != size:
        width, height = (max(size, round(side * (size / short))) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    square: Image.Image = tv.center_crop(image, [size, size])
    return square


def squeezed(image: Image.Image, size: int) -> Image.Image:
    """Bring each side to ``size``: boxes relative to the sides stay as they are."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class ImageFiles:
    """Images read from files when they are asked for; what is asked for next is decoded meanwhile.

    Attributes:
        files: the pictures.
        size: height and width that they are brought to, in pixels.
        fit: how.
        declared: width and height of each as its annotation says; () where there are none.
        device: where images are delivered.
    """

    files: tuple[Path, ...]
    size: int
    fit: Fit = cropped
    declared: tuple[Size, ...] = ()
    device: torch.device = CPU
    _coming: dict[int, Future[Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return uint8 images (B, 3, size, size) for indices (B,); B may be 0."""
        rows: list[int] = indices.tolist()
        if not rows:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        self.ahead(rows)
        reads = {row: self._coming.pop(row) for row in dict.fromkeys(rows)}
        if rows == list(range(rows[0], end := rows[-1] + 1)):
            self.ahead(range(end, min(end + len(rows), len(self))))
        images = dict(zip(reads, gathered(read.result for read in reads.values()), strict=True))
        return torch.stack([images[row] for row in rows]).to(self.device)

    def ahead(self, rows: Iterable[int]) -> None:
        """Start to decode images that will be asked for soon; they are kept until then."""
        self._coming.update({row: self._read(row) for row in dict.fromkeys(rows) if row not in self._coming})

    def _read(self, row: int) -> Future[Tensor]:
        declared = self.declared[row] if self.declared else None
        return _readers(os.getpid()).submit(read, self.files[row], self.size, self.fit, declared)

    def to(self, device: torch.device) -> ImageFiles:
        """Return the same files, delivered to ``device``."""
        return replace(self, device=device)

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times of change, and of the size they are read at."""
        there = [(file, file.stat()) for file in self.files if file.exists()]
        states = [(file.parent.name, file.name, now.st_size, now.st_mtime_ns) for file, now in there]
        return fingerprint_of(json.dumps([self.size, states]))

    def loaded(self, what: str, watch: bool = False) -> Tensor | ImageFiles:
        """Return all images where they fit into memory; else these files, after a look at each.

        ``what`` is the split, for a progress bar where somebody watches.
        """
        if len(self) * 3 * self.size**2 > IN_MEMORY:
            declared = self.declared or (None,) * len(self)
            gathered(partial(probe, *one) for one in zip(self.files, declared, strict=True))
            return self
        seen = bar(torch.arange(len(self)).split(512), f"reading {what}", watch)
        return torch.cat(gathered(partial(self.__getitem__, part) for part in seen))


@cache
def _readers(process: int) -> ThreadPoolExecutor:
    """Return the threads that decode, of a process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(4, f"pictures-{process}")


# --- one picture ----------------------------------------------------------------------------------------


def read(file: Path, size: int, fit: Fit = cropped, declared: Size | None = None) -> Tensor:
    """Return one picture as uint8 (3, size, size).

    Args:
        file: the picture.
        size: height and width to bring it to.
        fit: how.
        declared: the width and height that its annotation says.

    Raises:
        DataError: naming the file, whatever is wrong with it.
    """
    with _named(file):
        tensor: Tensor = tv.pil_to_tensor(fit(_upright_rgb(file, size, declared), size))
    return tensor


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
    stored, large = image.size, image.width * image.height > LARGE
    with image, _limit_raised() if large else contextlib.nullcontext():
        if large:
            image.draft(image.mode, (least, least))  # a JPEG is decoded at a fraction of its size
        image.load()
        turn = _turn(image)
        if declared not in (None, stored, stored[::-1] if turn in SIDEWAYS else stored):
            raise _other_size(file, stored, declared)
        plain = _eight_bit(image)
        if large and (factor := min(plain.size) // (2 * least)) > 1:
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
