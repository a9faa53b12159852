"""mini-glyphs: rendered characters under distortion, 100 in the task and 100 more outside it.

A class is a character; a picture draws its font (regular, bold or slanted; sans, serif, mono or STIX, all
from the files that matplotlib brings along) and what changes from picture to picture: an affine and an
elastic distortion, two colours, a background with clutter, blur and sensor noise.

The pre-trained model knows all 200 characters. The task has 100 of them, chosen at random once and for all;
the other 100 are what must not change when some of the task's are erased (notebook 08). Everything is
drawn from named streams keyed by (character, split), so that a picture is the same whatever else is
rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from minigslora.datasets.images import DataSet, ImageSet
from minigslora.datasets.rendered import drawn, place
from minigslora.rng import Streams

SIZE = 32
"""Height and width of a rendered picture, in pixels."""

SPLITS = ("train", "val", "test")
COUNTS: dict[str, int] = {"train": 160, "val": 10, "test": 25}
"""Pictures of each character by split."""

CHARACTERS = tuple(
    sorted(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghimnqrt"
        "ÄÅÃÂÉÈÊËÑÇŞŠŽÖÕÜÛŮÝĞŃŁØÆŒÞßæðħŊŋƒʊə"
        "ΓΔΛΞΣΨΩαβγδεζηθλμξπρστφχω"
        "БДЖЗИЙЛПЦЧШЩЪЫЬЭЮЯбЂЋЉЊЄҐЏ"
        "!?&@#%$€£¥§¶+=*<>/\\()[]{}±×÷¬©®¢†‡¿«»№™½"
        "←↑→↓↔↕⇐⇒⇔∀∂∃∇∋∏−√∝∞∠∩∪∫≈≠≡≤≥⊃⊆⊇⊕⊖⊗⊥"
    )
)
"""The 200 classes of the pre-trained model, by code point: no two that are hard to tell apart by eye."""

TASK = tuple(sorted(Streams(0, "mini-glyphs").python("task").sample(CHARACTERS, 100)))
"""The 100 classes of the task."""

OUTSIDE = tuple(c for c in CHARACTERS if c not in TASK)
"""The 100 classes outside the task."""

Part = Literal["task", "outside", "all"]
PARTS: dict[str, tuple[str, ...]] = {"task": TASK, "outside": OUTSIDE, "all": CHARACTERS}

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
)
"""Fonts that matplotlib brings along and that have all :data:`CHARACTERS`."""

MASK = 64
"""Height and width of the drawn character before distortion, in pixels."""

POINTS = 42
"""Font size on that square."""


def font_file(name: str) -> Path:
    """Return the file of one of matplotlib's fonts."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


def masks(character: str) -> Tensor:
    """Return how each font draws a character, centred, float in [0, 1], shape (fonts, MASK, MASK)."""
    drawn = []
    for name in FONTS:
        font = ImageFont.truetype(str(font_file(name)), POINTS, layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = font.getbbox(character)
        image = Image.new("L", (MASK, MASK))
        corner = ((MASK - left - right) / 2, (MASK - top - bottom) / 2)
        ImageDraw.Draw(image).text(corner, character, fill=255, font=font)
        drawn.append(tv.pil_to_tensor(image)[0].float() / 255)
    return torch.stack(drawn)


class Draws:
    """Random numbers of ``count`` pictures, from one stream a purpose."""

    def __init__(self, streams: Streams, count: int) -> None:
        self.streams, self.count = streams, count

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Return (count, …) normal numbers, cut at two standard deviations."""
        drawn = torch.randn(self.count, *shape, generator=self.streams(purpose))
        return drawn.clamp(-2, 2)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Return (count, …) numbers between 0 and 1."""
        return torch.rand(self.count, *shape, generator=self.streams(purpose))


def render(character: str, split: str, count: int) -> Tensor:
    """Render the first ``count`` pictures of a character.

    Args:
        character: one of :data:`CHARACTERS`.
        split: "train", "val" or "test".
        count: how many pictures.

    Returns:
        uint8 tensor of shape (count, 3, SIZE, SIZE).
    """
    draws = Draws(Streams(0, "mini-glyphs", character, split), count)
    font = (draws.uniform("font") * len(FONTS)).long()
    ink = F.grid_sample(masks(character)[font][:, None], _grid(draws), align_corners=False)
    paper, pen = _colours(draws)
    image = _clutter(_paper(paper, draws), paper, pen, draws)
    image = image + ink * (pen[:, :, None, None] - image)
    return _develop(image, draws)


def _grid(draws: Draws) -> Tensor:
    """Return where each pixel looks on the mask, (count, SIZE, SIZE, 2): affine, then elastic."""
    shape, shift = draws.normal("affine", 4), draws.normal("shift", 2)
    angle, zoom = 0.12 * shape[:, 0], torch.exp(0.09 * shape[:, 1])
    stretch, shear = torch.exp(0.08 * shape[:, 2]), 0.10 * shape[:, 3]
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [torch.stack([cos * stretch, shear * cos - sin, 0.05 * shift[:, 0]], 1)]
    rows += [torch.stack([sin * stretch, shear * sin + cos, 0.05 * shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [draws.count, 1, SIZE, SIZE], align_corners=False)
    bend = F.interpolate(0.04 * draws.normal("elastic", 2, 5, 5), (SIZE, SIZE), mode="bicubic")
    return grid + bend.permute(0, 2, 3, 1)


def _colours(draws: Draws) -> tuple[Tensor, Tensor]:
    """Return paper and pen, each (count, 3): of any hues, the pen darker by at least 0.3."""
    hue = 0.12 * draws.normal("hue", 2, 3)
    light = 0.65 + 0.3 * draws.uniform("light of the paper")
    dark = light - 0.3 - 0.3 * draws.uniform("contrast")
    # Hues are centred, so that they leave the contrast in lightness as it is.
    both = torch.stack([light, dark], 1)[:, :, None] + hue - hue.mean(dim=2, keepdim=True)
    return both[:, 0], both[:, 1]


def _paper(paper: Tensor, draws: Draws) -> Tensor:
    """Return the background (count, 3, SIZE, SIZE): the paper's colour with a slow, uneven light."""
    light = F.interpolate(0.07 * draws.normal("light", 1, 3, 3), (SIZE, SIZE), mode="bicubic")
    return paper[:, :, None, None] + light


def _clutter(image: Tensor, paper: Tensor, pen: Tensor, draws: Draws) -> Tensor:
    """Draw straight strokes below the character, of a colour between paper and pen."""
    axis = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    for stroke in range(2):
        u = draws.uniform(f"stroke{stroke}", 6)[:, :, None, None]
        angle, offset = 3.1416 * u[:, 0], 1.8 * u[:, 1] - 0.9
        across = angle.cos() * axis + angle.sin() * axis[:, None] - offset
        along = angle.cos() * axis[:, None] - angle.sin() * axis - (1.6 * u[:, 2] - 0.8)
        width, length = 0.03 + 0.06 * u[:, 3], 0.2 + 0.6 * u[:, 4]
        inside = torch.minimum(width - across.abs(), length - along.abs())
        alpha = (16 * inside + 0.5).clamp(0, 1)[:, None] * 0.6 * (u[:, 5:6] < 0.5)
        colour = paper + draws.uniform(f"shade{stroke}", 1) * (pen - paper)
        image = image + alpha * (colour[:, :, None, None] - image)
    return image


def _develop(image: Tensor, draws: Draws) -> Tensor:
    """Blur, add noise, and return uint8."""
    share = (0.22 * draws.normal("blur").abs())[:, None, None, None]
    for axis in (2, 3):
        near = 0.5 * (image.roll(1, axis) + image.roll(-1, axis))
        image = image + share * (near - image)
    strength = 0.02 + 0.02 * draws.normal("noise").abs()
    image = image + strength[:, None, None, None] * draws.normal("grain", 3, SIZE, SIZE)
    return (255 * image.clamp(0, 1)).round().to(torch.uint8)


def load(
    part: Part = "task",
    counts: Mapping[str, int] = COUNTS,
    watch: bool = False,
) -> DataSet:
    """Return mini-glyphs, rendered on first use and cached below :func:`minigslora.files.data_root`.

    Args:
        part: "task" or "outside", 100 characters each, or "all" of them.
        counts: pictures of each character by split.
        watch: whether to show progress while rendering.
    """
    counts = {split: counts[split] for split in SPLITS}  # the order is part of the cache's name
    path = place("mini-glyphs", __file__, *counts.values())
    whole = drawn(path, CHARACTERS, counts, lambda label, *of: render(CHARACTERS[label], *of), watch)
    splits = [_of_characters(images, PARTS[part]) for images in whole]
    return DataSet("mini-glyphs" if part == "task" else f"mini-glyphs-{part}", *splits, mirrored=False)


def _of_characters(whole: ImageSet, characters: tuple[str, ...]) -> ImageSet:
    """Return the pictures of some characters, labelled by their place among them."""
    if characters == CHARACTERS:
        return whole
    rows = whole.of_classes([CHARACTERS.index(c) for c in characters])
    _, labels = whole.labels[rows].unique(return_inverse=True)  # both orders are by code point
    return ImageSet(whole.images[rows], labels, characters)
