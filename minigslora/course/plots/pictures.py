"""Photographs and scenes, with what a model says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minigslora.course.plots.style import COLOURS, verbatim


@verbatim
def gallery(
    images: Tensor, titles: Sequence[str] = (), columns: int = 8, good: Sequence[bool] = (), size: float = 1.1
) -> Figure:
    """Show uint8 images (N, 3, H, W) in a grid, framed green where ``good`` and vermilion where not."""
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * size, rows * (size + 0.25)), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, image in enumerate(images):
        ax = axes.flat[i]
        ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        if i < len(titles):
            ax.set_title(titles[i], fontsize=8, fontweight="normal")
        if i < len(good):
            colour = COLOURS["good"] if good[i] else COLOURS["forget"]
            ax.add_patch(
                Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, color=colour, linewidth=4)
            )
    fig.tight_layout(pad=0.3)
    return fig


@dataclass(frozen=True)
class PictureRow:
    """One row of a comparison: images (N, 3, H, W), uint8, a title each, and which are ``good``."""

    label: str
    images: Tensor
    titles: Sequence[str]
    good: Sequence[bool]


@verbatim
def comparison(rows: Sequence[PictureRow], size: float = 1.0) -> Figure:
    """Show rows of images under one another, such as the same photographs before and after.

    Frames are green where ``good`` and vermilion where not.
    """
    columns = max(len(row.images) for row in rows)
    fig, axes = plt.subplots(
        len(rows), columns, figsize=(columns * size + 1.2, len(rows) * (size + 0.22)), squeeze=False
    )
    for row, line in zip(rows, axes, strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, image, title, good in zip(line, row.images, row.titles, row.good, strict=False):
            ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
            colour = COLOURS["good"] if good else COLOURS["forget"]
            ax.set_title(title, fontsize=8, fontweight="normal", color=colour, pad=3)
            ax.add_patch(
                Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, color=colour, linewidth=4)
            )
        line[0].text(-0.12, 0.5, row.label, transform=line[0].transAxes, ha="right", va="center", fontsize=10)
    fig.tight_layout(pad=0.4)
    return fig


@verbatim
def photographs(images: Tensor, rows: Sequence[str], columns: Sequence[str] = ()) -> Figure:
    """Show uint8 images (R, K, 3, H, W) as a sheet, one labelled row beside another.

    Args:
        images: R rows of K images.
        rows: a label for each row, on its left.
        columns: a label for each column, above it.
    """
    down, across = len(images), images.shape[1]
    size = (0.82 * across + 1.2, 0.82 * down + 0.25)
    fig, axes = plt.subplots(down, across, figsize=size, squeeze=False)
    for label, line, of_row in zip(rows, axes, images, strict=True):
        for ax, image in zip(line, of_row, strict=True):
            ax.set_axis_off()
            ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        line[0].text(-0.1, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    for label, ax in zip(columns, axes[0], strict=False):
        ax.set_title(label, fontsize=8, fontweight="normal", pad=3)
    fig.tight_layout(pad=0.3)
    return fig


@verbatim
def patches(image: Tensor, size: int) -> Figure:
    """Show a uint8 image (3, H, W) beside the patches of ``size`` pixels that a transformer reads."""
    count = image.shape[-1] // size
    fig = plt.figure(figsize=(7.4, 3.6))
    halves = fig.add_gridspec(1, 2, left=0.01, right=0.99, bottom=0.01, top=0.9)
    ax = fig.add_subplot(halves[0, 0])
    ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    for edge in range(1, count):
        ax.axhline(edge * size - 0.5, color="white", linewidth=0.8)
        ax.axvline(edge * size - 0.5, color="white", linewidth=0.8)
    ax.set_axis_off()
    fig.text(0.25, 0.93, f"{image.shape[-1]} × {image.shape[-1]} pixels", ha="center")
    fig.text(0.75, 0.93, f"{count * count} patches of {size} × {size}", ha="center")
    grid = halves[0, 1].subgridspec(count, count, wspace=0.12, hspace=0.12)
    for k in range(count * count):
        ax = fig.add_subplot(grid[k // count, k % count])
        row, column = size * (k // count), size * (k % count)
        piece = image[:, row : row + size, column : column + size]
        ax.imshow(piece.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        ax.set_axis_off()
    return fig


@dataclass(frozen=True)
class Boxed:
    """One picture with boxes: an image (3, H, W), uint8, boxes in its pixels, a text and a colour each."""

    image: Tensor
    boxes: Sequence[Sequence[float]]
    texts: Sequence[str]
    colours: Sequence[str]


def _label_places(boxes: Sequence[Sequence[float]], size: int) -> list[tuple[float, float, str]]:
    """Return where each box's text goes: above it, or below where another text would lie under it.

    A text is taken to be 0.4 of the picture's ``size`` wide and a tenth of it high.
    """
    taken: list[tuple[float, float]] = []
    places = []
    for left, top, _, height in boxes:
        bottom = top + height
        clash = any(abs(left - x) < 0.4 * size and abs(top - y) < 0.1 * size for x, y in taken)
        places.append((left, bottom, "top") if clash else (left, top, "bottom"))
        taken.append((left, bottom + 0.1 * size if clash else top))
    return places


@verbatim
def boxed(rows: Mapping[str, Sequence[Boxed]], size: float = 1.9) -> Figure:
    """Show rows of pictures with boxes drawn into them.

    Args:
        rows: the pictures of each row by its label. Boxes are [left, top, width, height]; colours are
            keys of :data:`COLOURS`.
        size: width of a picture, in inches.
    """
    columns = max(len(row) for row in rows.values())
    fig, axes = plt.subplots(
        len(rows), columns, figsize=(columns * size + 0.8, len(rows) * size), squeeze=False
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(line, row, strict=False):
            ax.imshow(picture.image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
            for (left, top, width, height), (x, y, side), text, colour in zip(
                picture.boxes,
                _label_places(picture.boxes, picture.image.shape[-1]),
                picture.texts,
                picture.colours,
                strict=True,
            ):
                frame = Rectangle((left, top), width, height, fill=False, color=COLOURS[colour], linewidth=2)
                ax.add_patch(frame)
                plate = {"facecolor": COLOURS[colour], "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
                ax.text(x, y, text, fontsize=6.5, color="white", va=side, bbox=plate, clip_on=True)
        line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    fig.tight_layout(pad=0.3)
    return fig
