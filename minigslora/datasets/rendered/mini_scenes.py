"""mini-scenes: rendered scenes with objects of 15 categories, in COCO's format.

A category is an outline (a heart, an arrow, a fish …). Everything else varies from object to object
whatever its category: colour, size, rotation, stretch, place, an optional stripe pattern. Scenes add a
textured background, thin lines that belong to no object, light, blur and noise. So what an object is
has to be read from its outline.

Outlines are tested at three points a pixel each way, from random streams keyed by (world, split,
scene): scene ``k`` is the same whatever else is rendered. Boxes are the extent of the tested points,
to a third of a pixel, as COCO writes them: [left, top, width, height].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minigslora.datasets.detection import DetectionData, DetectionSet, from_coco
from minigslora.datasets.rendered import place
from minigslora.files import load_tensors, read_json, save_tensors, write_json
from minigslora.progress import bar

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Shape = Callable[[Array, Array], Mask]

SIZE = 96
"""Height and width of a scene, in pixels."""

FINE = 3
"""Points a pixel, each way, at which outlines are tested."""

WORLDS: dict[str, int] = {"main": 0, "tuning": 1}
SPLITS: dict[str, int] = {"train": 0, "val": 1, "test": 2}

COUNTS: dict[str, int] = {"train": 4000, "val": 300, "test": 500}
"""Scenes by split."""

MOST_OBJECTS = 5
SMALLEST, LARGEST = 9.0, 19.0
"""Half an object's extent, in pixels."""


# --- outlines, in coordinates from -1 to 1, x to the right and y down --------------------------------


def polygon(*corners: tuple[float, float]) -> Shape:
    """Return the inside of a closed polygon, by the even-odd rule."""

    def inside(x: Array, y: Array) -> Mask:
        found = np.zeros(x.shape, bool)
        for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                found ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        return found

    return inside


def disc(cx: float = 0.0, cy: float = 0.0, rx: float = 1.0, ry: float | None = None) -> Shape:
    """Return the inside of an ellipse."""
    height = rx if ry is None else ry
    return lambda x, y: ((x - cx) / rx) ** 2 + ((y - cy) / height) ** 2 < 1


def box(left: float, top: float, right: float, bottom: float) -> Shape:
    """Return the inside of an upright rectangle."""
    return lambda x, y: (x > left) & (x < right) & (y > top) & (y < bottom)


def union(*parts: Shape) -> Shape:
    """Return what is in any of the parts."""
    return lambda x, y: np.logical_or.reduce([part(x, y) for part in parts])


def minus(whole: Shape, *parts: Shape) -> Shape:
    """Return what is in ``whole`` and in none of the parts."""
    return lambda x, y: whole(x, y) & ~np.logical_or.reduce([part(x, y) for part in parts])


def _star(points: int = 5, inner: float = 0.42) -> Shape:
    angles = np.pi * np.arange(2 * points) / points - np.pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    corners = zip((radii * np.cos(angles)).tolist(), (radii * np.sin(angles)).tolist(), strict=True)
    return polygon(*corners)


SHAPES: dict[str, Shape] = {
    "arrow": polygon((-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)),
    "bolt": polygon((0.25, -1), (-0.65, 0.15), (-0.05, 0.15), (-0.3, 1), (0.65, -0.25), (0.05, -0.25)),
    "crescent": minus(disc(), disc(0.45, -0.1, 0.85)),
    "cross": union(box(-0.3, -1, 0.3, 1), box(-1, -0.3, 1, 0.3)),
    "disc": disc(),
    "drop": union(disc(0, 0.35, 0.65), polygon((0, -1), (0.57, 0.05), (-0.57, 0.05))),
    "fish": union(disc(-0.25, 0, 0.75, 0.5), polygon((0.2, 0), (1, -0.6), (1, 0.6))),
    "frame": minus(box(-0.85, -0.85, 0.85, 0.85), box(-0.45, -0.45, 0.45, 0.45)),
    "heart": union(
        disc(-0.46, -0.35, 0.5), disc(0.46, -0.35, 0.5), polygon((-0.93, -0.15), (0.93, -0.15), (0, 1))
    ),
    "hourglass": polygon((-0.75, -1), (0.75, -1), (-0.75, 1), (0.75, 1)),
    "mushroom": union(minus(disc(0, 0, 1, 0.9), box(-1, 0, 1, 1)), box(-0.28, -0.1, 0.28, 0.95)),
    "ring": minus(disc(), disc(0, 0, 0.55)),
    "square": box(-0.85, -0.85, 0.85, 0.85),
    "star": _star(),
    "triangle": polygon((0, -0.95), (0.95, 0.75), (-0.95, 0.75)),
}
"""The categories, by name in the order of their ids."""


# --- one scene ---------------------------------------------------------------------------------------


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([20250115, *key])))


def _background(rng: np.random.Generator) -> Array:
    """Return a textured picture without objects, (3, SIZE, SIZE) in [0, 1]."""
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    a, b, c, d = rng.uniform(-4, 4, 4)
    wave = 0.5 + 0.5 * np.sin(a * x + b * y + c + 0.5 * np.sin(d * x * y * 2))
    first, second = rng.uniform(0.15, 0.85, (2, 3, 1, 1)).astype(np.float32)
    picture = first * wave + (0.6 * first + 0.4 * second) * (1 - wave)
    for _ in range(rng.integers(0, 4)):  # lines that belong to nothing
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8)
        distance = np.abs(np.cos(angle) * x + np.sin(angle) * y - offset)
        alpha = np.clip(1.5 - distance * SIZE / 2, 0, 1)
        picture = picture + alpha * 0.6 * (rng.uniform(0, 1, (3, 1, 1)) - picture)
    return np.asarray(picture, np.float32)


def _place(rng: np.random.Generator, size: float, taken: list[tuple[float, float, float]]) -> Array | None:
    """Return a centre at which an object barely covers another; None where there is no room."""
    for _ in range(20):
        centre = rng.uniform(size + 1, SIZE - size - 1, 2)
        if all(np.hypot(centre[0] - x, centre[1] - y) > 0.85 * (size + other) for x, y, other in taken):
            return np.asarray(centre)
    return None


def _paint(
    picture: Array, shape: Shape, centre: Array, size: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Paint one object in place and return its box [left, top, width, height] in pixels."""
    angle, stretch = rng.uniform(-0.45, 0.45), rng.uniform(-0.15, 0.15)
    reach = int(np.ceil(size * 1.5)) + 1
    left, top = (max(0, int(v) - reach) for v in centre)
    right, bottom = (min(SIZE, int(v) + reach) for v in centre)
    xs = (np.arange(left * FINE, right * FINE) + 0.5) / FINE - centre[0]
    ys = (np.arange(top * FINE, bottom * FINE) + 0.5) / FINE - centre[1]
    x, y = np.meshgrid(xs / size, ys / size)
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = (cos * x + sin * y) * (1 + stretch), (cos * y - sin * x) * (1 - stretch)
    mask = shape(u, v)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    here = picture[:, top:bottom, left:right]
    colour = np.clip(here.mean((1, 2)) + rng.choice([-1, 1], 3) * rng.uniform(0.2, 0.5, 3), 0, 1)
    striped = rng.random() < 0.3
    paint = np.broadcast_to(colour[:, None, None], (3, *mask.shape)).astype(np.float32)
    if striped:
        paint = paint * (1 + 0.2 * np.sign(np.sin(9 * u + rng.uniform(0, 6)))).astype(np.float32)
    fine = mask[None] * paint
    height, width = bottom - top, right - left
    blocks = (height, FINE, width, FINE)
    alpha = mask.reshape(blocks).mean((1, 3), dtype=np.float32)
    here *= 1 - alpha
    here += fine.reshape(3, *blocks).mean((2, 4), dtype=np.float32)
    return (
        left + columns[0] / FINE,
        top + rows[0] / FINE,
        (columns[-1] - columns[0] + 1) / FINE,
        (rows[-1] - rows[0] + 1) / FINE,
    )


def render(world: str, split: str, scene: int) -> tuple[NDArray[np.uint8], list[tuple[int, list[float]]]]:
    """Render one scene.

    Args:
        world: "main", or "tuning".
        split: "train", "val" or "test".
        scene: its number, from 0.

    Returns:
        The picture, uint8 (3, SIZE, SIZE), and for each object its category (a position in
        :data:`SHAPES`) and its box [left, top, width, height] in pixels.
    """
    rng = _stream(WORLDS[world], SPLITS[split], scene)
    shapes = list(SHAPES.values())
    picture, objects, taken = _background(rng), list[tuple[int, list[float]]](), list[Any]()
    for _ in range(rng.integers(1, MOST_OBJECTS + 1)):
        size = rng.uniform(SMALLEST, LARGEST)
        centre = _place(rng, size, taken)
        if centre is None:
            break
        taken.append((centre[0], centre[1], size))
        category = int(rng.integers(len(shapes)))
        corners = _paint(picture, shapes[category], centre, size, rng)
        objects.append((category, [round(float(v), 3) for v in corners]))
    picture = picture * rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, (3, 1, 1))
    weight = rng.uniform(0, 0.35)
    for axis in (1, 2):
        near = 0.5 * (np.roll(picture, 1, axis) + np.roll(picture, -1, axis))
        picture = picture * (1 - weight) + near * weight
    picture = picture + rng.uniform(0.01, 0.05) * rng.standard_normal((1, SIZE, SIZE))
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), objects


def coco(world: str, split: str, count: int, watch: bool = False) -> tuple[torch.Tensor, dict[str, Any]]:
    """Render the first scenes of a split.

    Returns:
        The pictures, uint8 (count, 3, SIZE, SIZE), and COCO's dictionary of images, annotations and
        categories (ids from 1).
    """
    shown = bar(range(count), f"rendering mini-scenes, {split}", watch)
    scenes = [render(world, split, scene) for scene in shown]
    boxed = [(scene, *found) for scene, (_, objects) in enumerate(scenes, 1) for found in objects]
    images = [
        {"id": i + 1, "file_name": f"{world}-{split}-{i:05d}.png", "height": SIZE, "width": SIZE}
        for i in range(count)
    ]
    annotations = [
        {
            "id": i,
            "image_id": scene,
            "category_id": category + 1,
            "bbox": corners,
            "area": round(corners[2] * corners[3], 3),
            "iscrowd": 0,
        }
        for i, (scene, category, corners) in enumerate(boxed, 1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(SHAPES, 1)]
    pictures = torch.stack([torch.from_numpy(picture) for picture, _ in scenes])
    return pictures, {"images": images, "annotations": annotations, "categories": categories}


def load(world: str = "main", counts: Mapping[str, int] = COUNTS, watch: bool = False) -> DetectionData:
    """Return mini-scenes, rendered on first use and cached below :func:`minigslora.files.data_root`.

    The cache of a split is a file of pictures and one of annotations, ``SPLIT.json``, in COCO's format.

    Args:
        world: "main", or "tuning", other scenes of the same categories.
        counts: scenes by split.
        watch: whether to show progress while rendering.
    """
    splits = []
    for split in SPLITS:
        file = place("mini-scenes", __file__, world, counts[split]) / f"{split}.json"
        if not file.is_file():
            pictures, annotations = coco(world, split, counts[split], watch)
            save_tensors(file.with_suffix(".safetensors"), {"images": pictures}, {"split": split})
            write_json(file, annotations)  # last: with it the split is whole
        splits.append(kept(file))
    return DetectionData("mini-scenes", *splits)


def kept(file: Path) -> DetectionSet:
    """Return a split from the file of its annotations, beside its pictures."""
    return from_coco(load_tensors(file.with_suffix(".safetensors"))[0]["images"], read_json(file))
