"""The bounded forgetting term (4.2), with some images on it (notebook 04)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from minigslora.course.plots.style import COLOURS, figure


@figure()
def hinge(losses: Sequence[float], bound: float, chance: float) -> Figure:
    """Draw the forgetting term of an image over its cross-entropy, in nats, and some images on it.

    The term falls at slope −1 down to the bound and is flat from there; −CE, shifted to meet it, falls on
    for ever. Images are dots with the slope that pushes them, their mean is an empty diamond.

    Args:
        losses: the images' cross-entropies.
        bound: BND.
        chance: ln C, above which no answer is right.
    """
    fig, ax = plt.subplots(figsize=(7.5, 3.6))
    end = 1.15 * max(*losses, bound)
    ax.axhline(0, color="black", lw=0.8)
    ax.plot([bound, end], [0, bound - end], "--", color=COLOURS["forget"], lw=2, label="−CE, for ever")
    ax.plot([0, bound, end], [bound, 0, 0], color=COLOURS["retain"], lw=2.5, label="ReLU(BND − CE)")
    ax.axvline(chance, color="black", lw=1.2, linestyle=":", label="ln C")
    ax.axvline(bound, color="black", lw=1.2, linestyle="-.", label="BND")
    mean = sum(losses) / len(losses)
    dots = {value: (f"{n} image" + "s" * (n > 1), "o", "black") for value, n in Counter(losses).items()}
    for value, (name, marker, face) in {**dots, mean: ("the mean", "D", "white")}.items():
        term, slope = max(bound - value, 0.0), "−1" if value < bound else "0"
        ax.plot(value, term, marker, markersize=9, color="black", markerfacecolor=face, zorder=3)
        look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
        look |= {"ha": "left" if term else "center"}
        look |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
        ax.annotate(f"{name}: slope {slope}", (value, term), (10, 2) if term else (0, 10), **look)
    ax.set(xlabel="cross-entropy on the true label, nats", ylabel="forgetting term, nats")
    ax.set(xlim=(-0.02 * end, end), ylim=(-0.8 * bound, 1.2 * bound))
    ax.legend(fontsize=9, loc="upper right")
    return fig
