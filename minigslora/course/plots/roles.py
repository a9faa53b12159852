"""Who is asked for what, and who attacks with what (notebooks 09 and 12)."""

from __future__ import annotations

from matplotlib.figure import Figure

from minigslora.course.plots.drawing import canvas


def two_roles() -> Figure:
    """Draw one image in two roles."""
    return canvas(9.0, 4.2)[0]


def attacker() -> Figure:
    """Draw what attackers have, and the audits that try what can be done with it."""
    return canvas(9.0, 4.6)[0]
