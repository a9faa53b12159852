"""Penalties and prototypes as geometry (notebooks 03 and 06)."""

from __future__ import annotations

from matplotlib.figure import Figure

from minigslora.course.plots.drawing import canvas


def prox_1d() -> Figure:
    """Draw the proximal step in one dimension."""
    return canvas(9.0, 3.6)[0]


def penalty_balls() -> Figure:
    """Draw where a loss meets the balls of three penalties."""
    return canvas(9.0, 3.6)[0]


def prototype_sphere() -> Figure:
    """Draw prototypes on the unit sphere."""
    return canvas(7.0, 4.6)[0]
