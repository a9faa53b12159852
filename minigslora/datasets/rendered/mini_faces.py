"""mini-faces: rendered portraits of invented people.

A person is a point in a space of face *shapes* (head, jaw, eyes, brows, nose, mouth, ears, hair);
a photograph adds what changes from picture to picture (pose, light, expression, occlusion, colour
cast, background, blur, sensor noise). Colour varies as much within a person as between people, so
that who it is has to be read from shape.

Everything is drawn with soft-edged implicit curves in NumPy, from random streams keyed by
(world, identity, split), so that photograph ``k`` of a person is the same whatever else is rendered.
Lengths are in units of half an image: x runs right and y down, both from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigslora.datasets.images import DataSet
from minigslora.datasets.rendered import drawn, place

Array = NDArray[np.floating[Any]]

SIZE = 48
"""Height and width of a rendered photograph, in pixels."""

WORLDS: dict[str, int] = {"main": 0, "tuning": 1}
"""Two disjoint populations: the shipped one, and one on which constants are settled."""

SPLITS: dict[str, int] = {"train": 0, "val": 1, "test": 2}

COUNTS: dict[str, int] = {"train": 150, "val": 10, "test": 25}
"""Photographs of each person by split."""

# name: (mean, standard deviation between people)
IDENTITY: dict[str, tuple[float, float]] = {
    "head_width": (0.52, 0.045),
    "head_height": (0.68, 0.045),
    "head_power": (2.3, 0.28),
    "jaw_taper": (0.30, 0.11),
    "ear_size": (0.11, 0.030),
    "ear_height": (0.02, 0.045),
    "eye_gap": (0.215, 0.026),
    "eye_height": (-0.08, 0.040),
    "eye_width": (0.105, 0.017),
    "eye_open": (0.058, 0.014),
    "eye_tilt": (0.0, 0.17),
    "iris": (0.048, 0.008),
    "brow_height": (0.145, 0.030),
    "brow_width": (0.135, 0.024),
    "brow_thick": (0.028, 0.010),
    "brow_tilt": (0.0, 0.19),
    "nose_length": (0.25, 0.042),
    "nose_width": (0.085, 0.022),
    "mouth_height": (0.36, 0.036),
    "mouth_width": (0.185, 0.036),
    "lip_thick": (0.034, 0.012),
    "mouth_curve": (0.0, 0.40),
    "hairline": (-0.40, 0.085),
    "hair_curve": (0.25, 0.38),
    "hair_part": (0.0, 0.22),
    "hair_volume": (0.08, 0.050),
    "hair_length": (0.10, 0.38),
    "beard": (-0.25, 0.55),
    "chin": (0.0, 1.0),
    "skin_tone": (0.0, 0.5),
    "hair_tone": (0.0, 0.6),
}

# name: (mean, standard deviation between the photographs of one person)
PHOTOGRAPH: dict[str, tuple[float, float]] = {
    "yaw": (0.0, 0.26),
    "pitch": (0.0, 0.16),
    "roll": (0.0, 0.12),
    "zoom": (0.0, 0.07),
    "shift_x": (0.0, 0.085),
    "shift_y": (0.0, 0.085),
    "smile": (0.0, 0.45),
    "mouth_open": (-0.02, 0.035),
    "eye_close": (0.0, 0.20),
    "brow_raise": (0.0, 0.022),
    "light_x": (0.0, 0.55),
    "light_y": (-0.25, 0.40),
    "light_gain": (0.0, 0.20),
    "cast_r": (0.0, 0.07),
    "cast_g": (0.0, 0.06),
    "cast_b": (0.0, 0.07),
    "skin_jitter": (0.0, 0.6),
    "hair_jitter": (0.0, 0.6),
    "blur": (0.0, 1.0),
    "noise": (0.0, 1.0),
}
SPREAD = 1.2
"""How far apart people are, in units of the deviations above."""

UNIFORM = 24
"""Uniform numbers a photograph draws for background, clothes and occluders."""


@dataclass(frozen=True)
class Photographs:
    """What ``count`` photographs of one person are drawn from, each an array of shape (count,)."""

    who: Mapping[str, float]
    how: Mapping[str, Array]
    uniform: Array  # (count, UNIFORM)
    grain: Array  # (count, SIZE, SIZE)


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([20240311, *key])))


def identity(world: str, person: int) -> dict[str, float]:
    """Return the shape parameters of ``person`` (truncated at two standard deviations)."""
    normal = np.clip(_stream(WORLDS[world], person).standard_normal(len(IDENTITY)), -2.0, 2.0)
    shape = zip(IDENTITY.items(), SPREAD * normal, strict=True)
    return {k: mean + sd * float(z) for (k, (mean, sd)), z in shape}


def photographs(world: str, person: int, split: str, count: int) -> Photographs:
    """Draw the parameters of the first ``count`` photographs of ``person`` in ``split``."""
    normal_rng, uniform_rng, grain_rng = (
        _stream(WORLDS[world], person, 1 + SPLITS[split], purpose) for purpose in range(3)
    )
    normal = normal_rng.standard_normal((count, len(PHOTOGRAPH)))
    normal = np.clip(normal, -2.2, 2.2).astype(np.float32)
    return Photographs(
        who=identity(world, person),
        how={k: m + s * normal[:, i] for i, (k, (m, s)) in enumerate(PHOTOGRAPH.items())},
        uniform=uniform_rng.random((count, UNIFORM), dtype=np.float32),
        grain=grain_rng.standard_normal((count, SIZE, SIZE), dtype=np.float32),
    )


class Canvas:
    """Photographs under way: RGB in [0, 1] of shape (N, 3, SIZE, SIZE), painted back to front.

    ``x`` and ``y`` are the coordinates of each pixel on the face, after undoing roll, zoom and
    shift; a feature at depth ``z`` in front of the head's axis moves with yaw and pitch.
    """

    def __init__(self, p: Photographs) -> None:
        n, how = len(p.uniform), p.how
        axis = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2.0 / SIZE) - 1.0
        self.px = np.broadcast_to(axis[None, None, :], (n, SIZE, SIZE))
        self.py = np.broadcast_to(axis[None, :, None], (n, SIZE, SIZE))
        cos, sin = np.cos(col(how["roll"])), np.sin(col(how["roll"]))
        dx, dy = self.px - col(how["shift_x"]), self.py - col(how["shift_y"]) - 0.05
        zoom = np.exp(-col(how["zoom"]))
        self.x, self.y = (cos * dx + sin * dy) * zoom, (cos * dy - sin * dx) * zoom
        self.yaw, self.pitch = np.sin(col(how["yaw"])), np.sin(col(how["pitch"]))
        self.rgb = np.zeros((n, 3, SIZE, SIZE), np.float32)

    def at(self, x: float, y: float, z: float) -> tuple[Array, Array]:
        """Return pixel coordinates relative to the point (x, y, z) of the turned head."""
        return self.x - x - 0.55 * z * self.yaw, self.y - y - 0.55 * z * self.pitch

    def paint(self, inside: Array, colour: Array, edge: float = 0.022, opacity: float = 1.0) -> None:
        """Paint where ``inside`` (a signed distance, positive inside) is positive."""
        alpha = np.clip(inside / (2 * edge) + 0.5, 0, 1)[:, None] * opacity
        self.rgb += alpha * (colour[:, :, None, None] - self.rgb)


def col(values: Array) -> Array:
    """Reshape (N,) to (N, 1, 1), to act on pixels."""
    return values[:, None, None]


def ellipse(x: Array, y: Array, width: Array | float, height: Array | float) -> Array:
    """Return an approximate signed distance to an ellipse, positive inside."""
    radius = np.sqrt((x / width) ** 2 + (y / height) ** 2)
    return np.asarray((1.0 - radius) * np.minimum(width, height), np.float32)


def turn(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Rotate coordinates by ``angle`` radians."""
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return c * x + s * y, c * y - s * x


def tone(dark: list[float], light: list[float], t: Array) -> Array:
    """Blend two RGB colours by a logistic of ``t``; (N,) → (N, 3)."""
    share = (1.0 / (1.0 + np.exp(-1.3 * t)))[:, None]
    return np.asarray(np.array(dark) * (1 - share) + np.array(light) * share, np.float32)


def _colours(p: Photographs) -> tuple[Array, Array]:
    skin = tone([0.42, 0.27, 0.20], [0.96, 0.78, 0.66], p.who["skin_tone"] + p.how["skin_jitter"])
    hair = tone([0.10, 0.07, 0.06], [0.78, 0.60, 0.36], p.who["hair_tone"] + p.how["hair_jitter"])
    return skin, hair


def _background(c: Canvas, p: Photographs) -> None:
    u = p.uniform
    wave = np.sin(col(u[:, 6] * 6) * c.px * 2 + col(u[:, 7] * 6) * c.py * 2 + col(u[:, 8] * 6.3))
    mix = 0.5 + 0.5 * wave[:, None]
    paper = 0.2 + 0.6 * u
    c.rgb[:] = paper[:, 0:3, None, None] * mix + paper[:, 3:6, None, None] * (1 - mix)
    c.paint(ellipse(c.x, c.y - 1.12, 0.80, 0.45), paper[:, 9:12])


def _head(c: Canvas, p: Photographs) -> Array:
    w, (skin, hair) = p.who, _colours(p)
    back_w, back_h = w["head_width"] + w["hair_volume"], w["head_height"] + w["hair_volume"]
    x, y = c.at(0.0, -0.06, -0.25)
    mane = np.where(y > 0, ellipse(x, y, back_w, back_h * (0.55 + 0.55 * abs(w["hair_length"]))), 1)
    c.paint(np.minimum(mane, ellipse(x, y, back_w, back_h)), hair)
    for side in (-1.0, 1.0):
        ear = c.at(side * (w["head_width"] - 0.01), w["ear_height"], -0.12)
        c.paint(ellipse(*ear, w["ear_size"] * 0.65, w["ear_size"]), skin * 0.9)
    c.paint(ellipse(c.x, c.y - 0.75, 0.24, 0.35), skin * 0.8)
    x, y = c.at(0.0, 0.0, 0.05)
    taper = 1.0 - w["jaw_taper"] * np.clip(y / w["head_height"], 0, 1) ** 1.5
    power = w["head_power"]
    radius = (np.abs(x / (w["head_width"] * taper)) ** power + np.abs(y / w["head_height"]) ** power) ** (
        1 / power
    )
    inside = np.asarray((1 - radius) * w["head_width"], np.float32)
    c.paint(inside, skin)
    chin = c.at(0.0, w["head_height"] - 0.12, 0.3)
    c.paint(ellipse(*chin, 0.10, 0.05), skin * (1 + 0.12 * np.float32(w["chin"])), 0.05, 0.6)
    return inside


def _hair_and_beard(c: Canvas, p: Photographs, head: Array) -> None:
    w, (_, hair) = p.who, _colours(p)
    x, y = c.at(0.0, 0.0, 0.20)
    line = w["hairline"] + w["hair_curve"] * x**2 * 2 + w["hair_part"] * x
    c.paint(np.minimum(head + 0.03, line - y), hair, 0.03)
    if w["beard"] > 0:
        x, y = c.at(0.0, w["mouth_height"], 0.25)
        grown = np.minimum(head, y + 0.02 + 0.35 * np.abs(x))
        c.paint(grown, hair * 0.9, 0.05, min(0.85, w["beard"]))


def _eyes(c: Canvas, p: Photographs) -> None:
    w, how, (skin, hair) = p.who, p.how, _colours(p)
    opening = np.clip(w["eye_open"] * (1 - np.abs(col(how["eye_close"]))), 0.012, None)
    white = np.full((len(skin), 3), 0.93, np.float32)
    dark = np.full((len(skin), 3), 0.10, np.float32)
    for side in (-1.0, 1.0):
        x, y = c.at(side * w["eye_gap"], w["eye_height"], 0.42)
        ex, ey = turn(x, y, side * w["eye_tilt"])
        c.paint(ellipse(ex, ey, w["eye_width"] + 0.02, opening + 0.022), skin * 0.62)
        lid = ellipse(ex, ey, w["eye_width"], opening)
        c.paint(lid, white)
        c.paint(np.minimum(lid, ellipse(x, y, w["iris"], w["iris"])), dark)
        bx, by = turn(x, y + w["brow_height"] + col(how["brow_raise"]), side * w["brow_tilt"])
        c.paint(ellipse(bx, by + 0.8 * bx**2, w["brow_width"], w["brow_thick"]), hair * 0.8)


def _nose_and_mouth(c: Canvas, p: Photographs) -> None:
    w, how, (skin, _) = p.who, p.how, _colours(p)
    top = w["eye_height"] + 0.03
    x, y = c.at(0.0, top + w["nose_length"] / 2, 0.60)
    c.paint(ellipse(x, y, w["nose_width"] * 0.55, w["nose_length"] * 0.62), skin * 1.10, 0.04, 0.7)
    x, y = c.at(0.0, top + w["nose_length"], 0.68)
    c.paint(ellipse(x, y, w["nose_width"], 0.042), skin * 0.80, 0.03)
    for side in (-1.0, 1.0):
        c.paint(ellipse(x - side * w["nose_width"] * 0.5, y - 0.012, 0.022, 0.016), skin * 0.35)
    x, y = c.at(0.0, w["mouth_height"], 0.48)
    y = y + (w["mouth_curve"] + col(how["smile"])) * (x**2 - 0.5 * w["mouth_width"] ** 2) * 1.6
    lips = skin * np.array([0.85, 0.50, 0.50], np.float32)
    opening = np.clip(col(how["mouth_open"]), 0, None)
    c.paint(ellipse(x, y, w["mouth_width"], w["lip_thick"] + opening), lips)
    c.paint(ellipse(x, y, w["mouth_width"] * 0.82, 0.008 + opening * 0.8), lips * 0.35, 0.015)


def _light(c: Canvas, p: Photographs, head: Array) -> None:
    how = p.how
    nx, ny = np.clip(c.x / 0.6, -1, 1), np.clip(c.y / 0.75, -1, 1)
    shade = 1 + 0.42 * (col(how["light_x"]) * nx + col(how["light_y"]) * ny)
    shade = np.where(head > 0, shade, 1 + 0.5 * (shade - 1)) * np.exp(col(how["light_gain"]))
    cast = 1 + np.stack([how["cast_r"], how["cast_g"], how["cast_b"]], axis=1)
    c.rgb *= np.clip(shade, 0.25, 1.9)[:, None] * cast[:, :, None, None]


def _occlude(c: Canvas, p: Photographs) -> None:
    u = p.uniform
    dark = np.full((len(u), 3), 0.12, np.float32)
    shades: Array = np.full_like(c.x, -1.0)
    for side in (-1.0, 1.0):
        lens = ellipse(*c.at(side * p.who["eye_gap"], p.who["eye_height"], 0.5), 0.16, 0.11)
        shades = np.maximum(shades, lens)
    c.paint(np.where(col(u[:, 12]) < 0.08, shades, -1), dark)
    angle = col(u[:, 13] * 6.3)
    x, y = c.px - col(u[:, 14] * 1.6 - 0.8), c.py - col(u[:, 15] * 1.6 - 0.8)
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    bar = np.minimum(col(0.10 + 0.18 * u[:, 16]) - np.abs(x), col(0.15 + 0.30 * u[:, 17]) - np.abs(y))
    c.paint(np.where(col(u[:, 18]) < 0.30, bar, -1), u[:, 19:22])


def _develop(c: Canvas, p: Photographs) -> NDArray[np.uint8]:
    rgb: Array = np.clip(c.rgb, 0, 1)
    weight = np.clip(np.abs(p.how["blur"]) * 0.22, 0, 0.45)[:, None, None, None]
    for axis in (2, 3):
        near = 0.5 * (np.roll(rgb, 1, axis) + np.roll(rgb, -1, axis))
        rgb = rgb * (1 - weight) + near * weight
    strength = 0.012 + 0.022 * np.abs(p.how["noise"])
    rgb = np.clip(rgb + strength[:, None, None, None] * p.grain[:, None], 0, 1)
    return np.asarray(np.rint(rgb * 255), np.uint8)


def render(
    world: str, person: int, split: str, count: int, only: Callable[[str], bool] | None = None
) -> NDArray[np.uint8]:
    """Render the first ``count`` photographs of one person.

    Args:
        world: "main" or "tuning".
        person: index of the person, from 0.
        split: "train", "val" or "test".
        count: how many photographs.
        only: which photograph parameters vary, by name; the others stay at their mean
            (for pictures that show one nuisance at a time).

    Returns:
        uint8 array of shape (count, 3, SIZE, SIZE).
    """
    p = photographs(world, person, split, count)
    if only is not None:
        how = {k: v if only(k) else np.full_like(v, PHOTOGRAPH[k][0]) for k, v in p.how.items()}
        p = replace(p, how=how)
    c = Canvas(p)
    _background(c, p)
    head = _head(c, p)
    _hair_and_beard(c, p, head)
    _eyes(c, p)
    _nose_and_mouth(c, p)
    _light(c, p, head)
    _occlude(c, p)
    return _develop(c, p)


def load(
    world: str = "main",
    people: int = 100,
    counts: Mapping[str, int] = COUNTS,
    watch: bool = False,
) -> DataSet:
    """Return mini-faces, rendered on first use and cached below :func:`minigslora.files.data_root`.

    Args:
        world: "main", or "tuning", the population on which the recipe's constants were settled.
        people: how many identities.
        counts: photographs of each identity by split.
        watch: whether to show progress while rendering.
    """
    classes = [f"person-{i:03d}" for i in range(people)]
    counts = {split: counts[split] for split in SPLITS}  # the order is part of the cache's name
    path = place("mini-faces", __file__, world, people, *counts.values())
    return DataSet("mini-faces", *drawn(path, classes, counts, partial(render, world), watch))
