"""Photographs and scenes, with what a model says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minigslora.course.plots.style import COLOURS, figure


@figure(pad=0.3)
def gallery(
    images: Tensor, titles: Sequence[str] = (), columns: int = 8, good: Sequence[bool] = (), size: float = 1.1
) -> Figure:
    """Show uint8 images (N, 3, H, W) in a grid, framed green where ``good`` and vermilion where not."""
    rows = -(-len(images) // columns)
    fig, axes = _sheet(rows, columns, (columns * size, rows * (size + 0.25)))
    for i, (ax, image) in enumerate(zip([ax for line in axes for ax in line], images, strict=False)):
        _picture(ax, image)
        if i < len(titles):
            ax.set_title(titles[i], fontsize=9, fontweight="normal")
        if i < len(good):
            _frame(ax, good[i])
    return fig


@dataclass(frozen=True)
class PictureRow:
    """One row of a comparison: images (N, 3, H, W), uint8, a title each, and which are ``good``."""

    label: str
    images: Tensor
    titles: Sequence[str]
    good: Sequence[bool]


@figure(pad=0.4)
def comparison(rows: Sequence[PictureRow], size: float = 1.0) -> Figure:
    """Show rows of images under one another, such as the same photographs before and after.

    Frames are green where ``good`` and vermilion where not.
    """
    columns = max(len(row.images) for row in rows)
    fig, axes = _sheet(len(rows), columns, (columns * size + 1.2, len(rows) * (size + 0.22)))
    for row, line in zip(rows, axes, strict=True):
        for ax, image, title, good in zip(line, row.images, row.titles, row.good, strict=False):
            _picture(ax, image)
            colour = _frame(ax, good)
            ax.set_title(title, fontsize=9, fontweight="normal", color=colour, pad=3)
        _row_label(line[0], row.label, -0.12, 10)
    return fig


@figure(pad=0.3)
def photographs(images: Tensor, rows: Sequence[str], columns: Sequence[str] = ()) -> Figure:
    """Show uint8 images (R, K, 3, H, W) as a sheet, with a label left of each row and above each column."""
    down, across = images.shape[:2]
    fig, axes = _sheet(down, across, (0.82 * across + 1.2, 0.82 * down + 0.25))
    for label, line, of_row in zip(rows, axes, images, strict=True):
        for ax, image in zip(line, of_row, strict=True):
            _picture(ax, image)
        _row_label(line[0], label, -0.1, 9)
    for label, ax in zip(columns, axes[0], strict=False):
        ax.set_title(label, fontsize=9, fontweight="normal", pad=3)
    return fig


@figure(pad=None)
def patches(image: Tensor, size: int) -> Figure:
    """Show a uint8 image (3, H, W) beside the patches of ``size`` pixels that a transformer reads."""
    count = image.shape[-1] // size
    fig = plt.figure(figsize=(7.4, 3.6))
    halves = fig.add_gridspec(1, 2, left=0.01, right=0.99, bottom=0.01, top=0.9)
    ax = fig.add_subplot(halves[0, 0])
    _picture(ax, image)
    for edge in range(1, count):
        ax.axhline(edge * size - 0.5, color="white", linewidth=0.8)
        ax.axvline(edge * size - 0.5, color="white", linewidth=0.8)
    fig.text(0.25, 0.93, f"{image.shape[-1]} × {image.shape[-1]} pixels", ha="center")
    fig.text(0.75, 0.93, f"{count * count} patches of {size} × {size}", ha="center")
    grid = halves[0, 1].subgridspec(count, count, wspace=0.12, hspace=0.12)
    for k in range(count * count):
        row, column = size * (k // count), size * (k % count)
        piece = image[:, row : row + size, column : column + size]
        _picture(fig.add_subplot(grid[k // count, k % count]), piece)
    return fig


@dataclass(frozen=True)
class Boxed:
    """One picture with boxes: an image (3, H, W), uint8, boxes in its pixels, a text and a colour each."""

    image: Tensor
    boxes: Sequence[Sequence[float]]
    texts: Sequence[str]
    colours: Sequence[str]


@figure(pad=0.3)
def boxed(rows: Mapping[str, Sequence[Boxed]], size: float = 1.9) -> Figure:
    """Show rows of pictures, by label, with boxes [left, top, width, height] drawn into them."""
    columns = max(len(row) for row in rows.values())
    fig, axes = _sheet(len(rows), columns, (columns * size + 0.8, len(rows) * size))
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(line, row, strict=False):
            _picture(ax, picture.image)
            places = _label_places(picture.boxes, picture.image.shape[-1])
            each = zip(picture.boxes, places, picture.texts, picture.colours, strict=True)
            for (left, top, width, height), (y, side), text, key in each:
                colour = COLOURS[key]
                ax.add_patch(Rectangle((left, top), width, height, fill=False, color=colour, linewidth=2))
                plate = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
                far = left > 0.6 * picture.image.shape[-1]  # a text from there would not end inside
                x, edge = (left + width, "right") if far else (left, "left")
                ax.text(x, y, text, fontsize=9, color="white", ha=edge, va=side, bbox=plate, clip_on=True)
        _row_label(line[0], label, -0.06, 9)
    return fig


def _label_places(boxes: Sequence[Sequence[float]], size: int) -> list[tuple[float, str]]:
    """Return at which height each box's text goes: above it, or below where another text would lie under it.

    A text is taken to be 0.4 of the picture's ``size`` wide and a tenth of it high.
    """
    taken: list[tuple[float, float]] = []
    places = []
    for left, top, _, height in boxes:
        bottom = top + height
        clash = any(abs(left - x) < 0.4 * size and abs(top - y) < 0.1 * size for x, y in taken)
        places.append((bottom, "top") if clash else (top, "bottom"))
        taken.append((left, bottom + 0.1 * size if clash else top))
    return places


def _sheet(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of so many panels without axes."""
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return fig, axes.tolist()


def _picture(ax: Axes, image: Tensor) -> None:
    ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    ax.set_axis_off()


def _frame(ax: Axes, good: bool) -> str:
    """Frame a picture, and return the frame's colour."""
    colour = COLOURS["good" if good else "forget"]
    ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, color=colour, linewidth=4))
    return colour


def _row_label(ax: Axes, text: str, left: float, size: int) -> None:
    ax.text(left, 0.5, text, transform=ax.transAxes, ha="right", va="center", fontsize=size)
