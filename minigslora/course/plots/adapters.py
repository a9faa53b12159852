"""What LoRA adds to a model (notebooks 01 and 02)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minigslora.course.plots.style import COLOURS, MARKERS, figure


@figure()
def singular_values(
    spectra: Mapping[str, Tensor],
    errors: Mapping[int, float] | None = None,
    floor: Mapping[int, float] | None = None,
) -> Figure:
    """Draw singular values (n,) of updates by label, largest first, on a log axis.

    Beside it stand ``errors``, the distance of the learnt update to the wanted one by rank, and ``floor``,
    the smallest distance possible at that rank (equation 2.3), if both are given.
    """
    both = errors is not None and floor is not None
    fig, axes = plt.subplots(1, 1 + both, figsize=(10.5 if both else 7.5, 3.6), squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    colours = sns.color_palette("cividis", len(spectra))
    for k, ((label, values), colour) in enumerate(zip(spectra.items(), colours, strict=True)):
        heights = values.double().clamp_min(1e-12).tolist()
        marker, size = MARKERS[k % len(MARKERS)], max(9 - 1.5 * k, 3)  # smaller ones lie on larger ones
        places = range(1, len(heights) + 1)
        left.semilogy(places, heights, marker=marker, ms=size, lw=1.2, label=label, color=colour)
    left.set(xlabel="index of the singular value", ylabel="singular value")
    left.locator_params(axis="x", integer=True)
    left.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if errors is not None and floor is not None:
        found = list(errors.values())
        right.semilogx(list(errors), found, "o", ms=8, color=COLOURS["forget"], label="learnt")
        right.semilogx(list(floor), list(floor.values()), "k--", lw=1.2, label="bound (2.3)")
        right.set_xticks(list(errors), [str(r) for r in errors])
        right.minorticks_off()
        right.set(xlabel="rank r", ylabel="distance to the wanted change")
        right.legend(fontsize=9)
    return fig


@figure(pad=0.3)
def model_map(blocks: Mapping[str, str], wrapped: Sequence[str], outside: Mapping[str, str]) -> Figure:
    """Draw a transformer's linear layers block by block: wrapped ones vermilion, frozen ones grey.

    Args:
        blocks: each layer's block, as :func:`minigslora.lora.find_blocks` gives it.
        wrapped: the layers that carry adapters.
        outside: further parts by title and name; the first stands before the blocks, others after.
    """
    columns: dict[str, list[str]] = {}
    for layer, block in blocks.items():
        columns.setdefault(block, []).append(layer)
    first, *others = ((title, [name]) for title, name in outside.items())
    order = [first, *columns.items(), *others]
    tallest = max(len(layers) for _, layers in order)
    fig, ax = plt.subplots(figsize=(1.35 * len(order), 0.62 * tallest + 1.0))
    looks = {True: (COLOURS["forget"], 1.0), False: (COLOURS["before"], 0.45)}
    for x, (title, layers) in enumerate(order):
        shift = (tallest - len(layers)) / 2
        ax.text(x + 0.5, -0.2, title.replace(" ", "\n"), ha="center", va="bottom", fontsize=9, weight="bold")
        for y, layer in enumerate(layers):
            colour, alpha = looks[layer in wrapped]
            ax.add_patch(Rectangle((x + 0.06, y + shift + 0.08), 0.88, 0.84, color=colour, alpha=alpha))
            text = layer.removeprefix(title + ".") + ("\n+ A, B" if layer in wrapped else "")
            ax.text(x + 0.5, y + shift + 0.5, text, ha="center", va="center", fontsize=9)
    boxes = [Rectangle((0, 0), 1, 1, color=colour, alpha=alpha) for colour, alpha in looks.values()]
    texts = ["wrapped: adapters A, B beside it", "frozen"]
    ax.legend(boxes, texts, ncols=2, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    ax.set(xlim=(0, len(order)), ylim=(tallest, -0.9))
    ax.set_axis_off()
    return fig


@figure()
def differences(values: Mapping[str, Tensor], tolerance: float) -> Figure:
    """Draw histograms of absolute differences on a log axis, with the tolerance as a line.

    Differences of exactly zero cannot stand on a log axis; the legend gives their share.
    """
    fig, ax = plt.subplots(figsize=(7.5, 3.2))
    logs = {k: v[v > 0].double().log10().cpu() for k, v in values.items()}
    filled = [v for v in logs.values() if len(v)]
    low = min((float(v.min()) for v in filled), default=-1.0)
    high = max([*(float(v.max()) for v in filled), math.log10(tolerance)])
    edges = [low + (high - low) * i / 80 for i in range(81)]
    for (label, part), colour in zip(logs.items(), ("forget", "retain", "good"), strict=False):
        equal = 100.0 * float((values[label] == 0).double().mean())
        text = f"{label} ({equal:.0f} % exactly equal)"
        ax.hist(part.numpy(), bins=edges, color=COLOURS[colour], alpha=0.8, label=text)
    ax.axvline(math.log10(tolerance), color="black", linestyle="--", label=f"tolerance {tolerance:.1e}")
    ax.set(xlabel="absolute difference, power of ten", ylabel="values")
    ax.legend(fontsize=9)
    return fig
