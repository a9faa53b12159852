"""Every figure of the notebooks and reports, in one style.

Colours are Okabe and Ito's, safe for colour-blind readers; what is retained is blue, what is forgotten
vermilion, what was forgotten earlier purple, what has no data yellow. Each function returns the figure,
draws from plain numbers or tensors, and decides nothing.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

COLOURS: dict[str, str] = {
    "retain": "#0072B2",
    "forget": "#D55E00",
    "old": "#CC79A7",
    "missing": "#E69F00",
    "before": "#999999",
    "good": "#009E73",
}


def style() -> None:
    """Set the one style; called by every notebook's set-up and by reports."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=list(COLOURS.values()),
        rc={"figure.dpi": 100, "figure.figsize": (7, 3.5), "axes.titlesize": 11, "axes.titleweight": "bold"},
    )


def show(fig: Figure, alt: str, colours: int = 256) -> None:
    """Display a figure below a notebook's cell with a text for who cannot see it, and close it.

    Args:
        fig: the figure.
        alt: what there is to see in it, in a sentence.
        colours: reduce the picture to so many colours, which makes it three times smaller; 0 keeps all.
    """
    from IPython.display import display
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(fig)
    if colours:
        drawn = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB").quantize(colours)
        buffer = io.BytesIO()
        drawn.save(buffer, format="png", optimize=True)
    picture = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
    display({"text/html": image, "text/plain": alt}, raw=True)  # type: ignore[no-untyped-call]


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


def group_norms(norms: Mapping[str, Mapping[str, float]]) -> Figure:
    """Show each group's norm of the update per request as bars; a group at zero is marked "0".

    Args:
        norms: for each request, the norm of each group by name.
    """
    names = list(next(iter(norms.values())))
    fig, ax = plt.subplots(figsize=(max(5.0, 0.9 * len(names)), 2.8))
    width = 0.8 / len(norms)
    for i, (request, values) in enumerate(norms.items()):
        places = [x + (i - (len(norms) - 1) / 2) * width for x in range(len(names))]
        ax.bar(places, [values[name] for name in names], width, label=request)
        for x, name in zip(places, names, strict=True):
            if values[name] == 0:
                ax.text(x, 0, "0", ha="center", va="bottom", fontsize=9)
    ax.set_xticks(range(len(names)), names, rotation=30 if len(names) > 8 else 0)
    ax.set_ylabel("norm of the update")
    ax.set_xlabel("group")
    if len(norms) > 1:
        ax.legend()
    fig.tight_layout()
    return fig


@dataclass(frozen=True)
class Panel:
    """One panel of lines over a common axis.

    Attributes:
        title: what the panel shows.
        ylabel: what is measured, with its unit.
        lines: values by label; a NaN leaves a gap.
        colours: a key of :data:`COLOURS` by label; other lines take the style's order.
        levels: values by label to draw as dashed horizontal lines.
        dashed: labels of the lines to draw dashed and without marks.
        limits: lower and upper end of the y axis; as the values need if None.
    """

    title: str
    ylabel: str
    lines: Mapping[str, Sequence[float]]
    colours: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    dashed: Sequence[str] = ()
    limits: tuple[float, float] | None = None


def curves(panels: Sequence[Panel], xlabel: str, ticks: Sequence[str] = (), height: float = 3.2) -> Figure:
    """Draw lines over epochs or tasks, one panel beside the other.

    Args:
        panels: what to draw.
        xlabel: the common axis, counted from 1.
        ticks: labels of its positions; numbers where empty.
        height: of the figure, in inches.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(min(11.5, 4.4 * len(panels)), height), squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=True):
        for label, values in panel.lines.items():
            colour = COLOURS[panel.colours[label]] if label in panel.colours else None
            places = range(1, len(values) + 1)
            look = {"linestyle": "--"} if label in panel.dashed else {"marker": "o", "markersize": 4}
            ax.plot(places, values, label=label, color=colour, **look)
        for i, (label, level) in enumerate(panel.levels.items()):
            ax.axhline(level, label=label, color="black", linewidth=1.2, linestyle=("--", ":", "-.")[i % 3])
        if ticks:
            ax.set_xticks(range(1, len(ticks) + 1), ticks)
        else:
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(panel.title)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(panel.ylabel)
        if panel.limits:
            ax.set_ylim(*panel.limits)
    if len({tuple(panel.lines) for panel in panels}) == 1 and len(panels[0].lines) > 4:
        axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        for ax in axes.flat:
            ax.legend(fontsize=8)
    fig.tight_layout()
    return fig


def histograms(
    values: Mapping[str, Tensor],
    marks: Mapping[str, float],
    xlabel: str,
    ylabel: str = "images",
    colours: Sequence[str] = ("before", "forget", "retain"),
    bins: int = 40,
) -> Figure:
    """Draw one histogram over another on common bins, with vertical lines at named values.

    Args:
        values: samples by label.
        marks: named positions on the axis.
        xlabel: what the samples are, with their unit.
        ylabel: what is counted.
        colours: a key of :data:`COLOURS` for each label, in order.
        bins: how many bins.
    """
    fig, ax = plt.subplots(figsize=(7, 3.2))
    largest = max(float(v.max()) for v in values.values())
    edges = [largest * i / bins for i in range(bins + 1)]
    for (label, samples), colour in zip(values.items(), colours, strict=False):
        ax.hist(
            samples.cpu().numpy(), bins=edges, label=label, color=COLOURS[colour], alpha=0.75, linewidth=0
        )
    for i, (label, place) in enumerate(marks.items()):
        ax.axvline(place, color="black", linewidth=1.5, linestyle=("--", ":", "-.")[i % 3], label=label)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(fontsize=9)
    fig.tight_layout()
    return fig


def bars(
    rows: Mapping[str, Mapping[str, float]],
    ylabel: str,
    colours: Mapping[str, str],
    levels: Mapping[str, tuple[float, str]] | None = None,
) -> Figure:
    """Draw groups of bars, each with its value above it.

    Args:
        rows: for each group the height of each bar by label.
        ylabel: what is measured, with its unit.
        colours: a key of :data:`COLOURS` for each label.
        levels: dashed lines by label: a height and a key of :data:`COLOURS`.
    """
    fig, ax = plt.subplots(figsize=(min(11.0, 2.0 + 1.9 * len(rows)), 3.4))
    labels = list(next(iter(rows.values())))
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        places = [x + (i - (len(labels) - 1) / 2) * width for x in range(len(rows))]
        heights = [row[label] for row in rows.values()]
        drawn = ax.bar(places, heights, width, label=label, color=COLOURS[colours[label]])
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # lines pass behind the numbers
        ax.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2, bbox=plate)
    for label, (level, colour) in (levels or {}).items():
        ax.axhline(level, color=COLOURS[colour], linewidth=1.2, linestyle="--", label=label)
    ax.set_xticks(range(len(rows)), list(rows))
    ax.set_ylabel(ylabel)
    ax.margins(y=0.12)
    ax.grid(visible=False, axis="x")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.tight_layout()
    return fig


def destinations(names: Sequence[str], shares: Sequence[float], forgotten: Sequence[bool]) -> Figure:
    """Draw the share of images that each class receives, most first.

    Args:
        names: the classes.
        shares: in percent, each class's share of the images.
        forgotten: which of the classes are forgotten ones (vermilion); the others are retained (blue).
    """
    fig, ax = plt.subplots(figsize=(7.5, 3.0))
    colours = [COLOURS["forget"] if gone else COLOURS["retain"] for gone in forgotten]
    ax.bar(range(len(names)), shares, color=colours)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    ax.set_ylabel("share of images, %")
    ax.set_xlabel("predicted class")
    legend = {"a retained class": "retain", "a forgotten class": "forget"}
    ax.legend([Rectangle((0, 0), 1, 1, color=COLOURS[c]) for c in legend.values()], list(legend), fontsize=9)
    fig.tight_layout()
    return fig


def class_map(table: Tensor, columns: Sequence[str], requests: Mapping[str, int]) -> Figure:
    """Draw accuracies per class as a heat map, classes in the order in which they were requested.

    Args:
        table: (classes, columns), in percent.
        columns: what each column is, such as "task 1".
        requests: how many rows belong to each request, by name, in order.
    """
    fig, ax = plt.subplots(figsize=(1.9 + 0.9 * len(columns), 5.2))
    sns.heatmap(
        table.cpu().numpy(),
        ax=ax,
        vmin=0,
        vmax=100,
        cmap="cividis",
        xticklabels=list(columns),
        yticklabels=False,
        cbar_kws={"label": "accuracy of the class, %"},
    )
    edge, middles = 0, []
    for size in requests.values():
        middles.append(edge + size / 2)
        edge += size
        ax.axhline(edge, color="white", linewidth=2)
    ax.set_yticks(middles, list(requests), rotation=0)
    ax.tick_params(axis="x", rotation=0)
    ax.set_ylabel("classes, by request")
    ax.set_xlabel("after")
    fig.tight_layout()
    return fig


def lora_layer(in_features: int, out_features: int, rank: int) -> Figure:
    """Draw a wrapped linear layer: W beside A and B, to scale, with the way of x (equation 2.1)."""
    fig, ax = plt.subplots(figsize=(7.6, 3.6))
    unit = 2.4 / max(in_features, out_features)
    wide, high, thin = in_features * unit, out_features * unit, max(rank * unit, 0.07)
    base, side, middle = 0.9, 3.7, high / 2
    last = side + wide + 0.9
    parts = (  # left, bottom, width, height, colour, text
        (base, 0.0, wide, high, "before", f"W  {out_features} × {in_features}\nfrozen"),
        (side, middle - thin / 2, wide, thin, "retain", f"A  {rank} × {in_features}"),
        (last, 0.0, thin, high, "forget", f"B  {out_features} × {rank}"),
    )
    for left, bottom, width, height, colour, text in parts:
        ax.add_patch(Rectangle((left, bottom), width, height, color=COLOURS[colour], linewidth=0))
        ax.text(left + width / 2, bottom - 0.2, text, ha="center", va="top", fontsize=10)
    out, above = last + 1.1, high + 0.45
    way = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.4}
    for start, end in (
        ((0.1, middle), (base - 0.05, middle)),
        ((base + wide + 1.0, middle), (side - 0.05, middle)),
        ((side + wide + 0.05, middle), (side + wide + 0.85, middle)),
        ((last + thin + 0.1, middle), (out - 0.12, middle)),
        ((out + 0.15, middle), (out + 0.75, middle)),
    ):
        ax.annotate("", xy=end, xytext=start, arrowprops=way)
    over = base + wide / 2
    ax.plot([over, over, out, out], [high + 0.05, above, above, middle + 0.14], "k-", lw=1.4)
    ax.text((over + out) / 2, above + 0.06, "W x + b", ha="center", va="bottom", fontsize=10)
    ax.text(base + wide + 0.85, middle, "x", ha="center", va="center", fontsize=12, style="italic")
    ax.text(0.0, middle, "x", ha="right", va="center", fontsize=12, style="italic")
    ax.text(last + 0.5, middle + 0.1, "s·B(A x)", ha="center", va="bottom", fontsize=10)
    ax.text(out, middle, "+", ha="center", va="center", fontsize=16)
    ax.text(out + 0.82, middle, "y", ha="left", va="center", fontsize=12, style="italic")
    ax.set_xlim(-0.3, out + 1.1)
    ax.set_ylim(-0.9, above + 0.5)
    ax.set_aspect("equal")
    ax.set_axis_off()
    fig.tight_layout(pad=0.2)
    return fig


def singular_values(
    spectra: Mapping[str, Tensor],
    errors: Mapping[int, float] | None = None,
    floor: Mapping[int, float] | None = None,
) -> Figure:
    """Draw singular values of updates on a log axis and, beside it, errors by rank.

    Args:
        spectra: singular values (n,), largest first, by label.
        errors: distance of the learnt update to the wanted one, by rank.
        floor: the smallest distance possible at that rank (equation 2.3).
    """
    both = errors is not None and floor is not None
    fig, axes = plt.subplots(1, 1 + both, figsize=(9.5 if both else 7.5, 3.6), squeeze=False)
    left = axes[0, 0]
    colours = sns.color_palette("cividis", len(spectra))
    for (label, values), colour in zip(spectra.items(), colours, strict=True):
        heights = values.double().clamp_min(1e-12).tolist()
        left.semilogy(range(1, len(heights) + 1), heights, "o-", ms=3, lw=1.2, label=label, color=colour)
    left.set_xlabel("index of the singular value")
    left.set_ylabel("singular value")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if errors is not None and floor is not None:
        right = axes[0, 1]
        right.semilogx(
            list(errors), list(errors.values()), "o", ms=8, color=COLOURS["forget"], label="learnt"
        )
        right.semilogx(list(floor), list(floor.values()), "k--", lw=1.2, label="bound (2.3)")
        right.set_xticks(list(errors), [str(r) for r in errors])
        right.minorticks_off()
        right.set_xlabel("rank r")
        right.set_ylabel("distance to the wanted change")
        right.legend(fontsize=9)
    fig.tight_layout()
    return fig


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
    titles = list(outside)
    order = [(titles[0], [outside[titles[0]]]), *columns.items(), *((t, [outside[t]]) for t in titles[1:])]
    tallest = max(len(layers) for _, layers in order)
    fig, ax = plt.subplots(figsize=(1.35 * len(order), 0.62 * tallest + 1.0))
    for x, (title, layers) in enumerate(order):
        shift = (tallest - len(layers)) / 2
        ax.text(x + 0.5, -0.2, title.replace(" ", "\n"), ha="center", va="bottom", fontsize=9, weight="bold")
        for y, layer in enumerate(layers):
            on = layer in wrapped
            colour = COLOURS["forget" if on else "before"]
            box = Rectangle((x + 0.06, y + shift + 0.08), 0.88, 0.84, color=colour, alpha=1.0 if on else 0.45)
            ax.add_patch(box)
            text = layer.removeprefix(title + ".")
            ax.text(x + 0.5, y + shift + 0.5, text, ha="center", va="center", fontsize=8)
    keys = {"wrapped: an adapter beside it": ("forget", 1.0), "frozen": ("before", 0.45)}
    boxes = [Rectangle((0, 0), 1, 1, color=COLOURS[c], alpha=a) for c, a in keys.values()]
    ax.legend(boxes, list(keys), ncols=2, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    ax.set_xlim(0, len(order))
    ax.set_ylim(tallest, -0.9)
    ax.set_axis_off()
    fig.tight_layout(pad=0.3)
    return fig


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
    ax.set_xlabel("absolute difference, power of ten")
    ax.set_ylabel("values")
    ax.legend(fontsize=8)
    fig.tight_layout()
    return fig


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


def margin_circle(angle: float, margin: float) -> Figure:
    """Draw where two classes' directions on the circle win, without and with a cosine margin.

    Args:
        angle: between the two class directions, in radians.
        margin: m; the true class 1 must win by cos θ₁ − m > cos θ₂.
    """
    import numpy as np

    fig, axes = plt.subplots(1, 2, figsize=(8.2, 4.0))
    theta = np.linspace(-np.pi, np.pi, 2001)
    first, second = np.cos(theta + angle / 2), np.cos(theta - angle / 2)
    for ax, m, title in zip(
        axes, (0.0, margin), ("m = 0: in use", f"m = {margin:g}: in training"), strict=True
    ):
        ax.plot(np.cos(theta), np.sin(theta), color=COLOURS["before"], linewidth=1)
        zones = {"1": (first - m > second, "retain"), "2": (second - m > first, "forget")}
        for sign, (name, (zone, colour)) in zip((-1, 1), zones.items(), strict=True):
            x, y = np.where(zone, np.cos(theta), np.nan), np.where(zone, np.sin(theta), np.nan)
            ax.plot(x, y, color=COLOURS[colour], linewidth=6, label=f"satisfies class {name}")
            tip = (np.cos(sign * angle / 2), np.sin(sign * angle / 2))
            ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": COLOURS[colour], "lw": 2})
            ax.text(0.62 * tip[0], 0.62 * tip[1] + sign * 0.2, f"$w_{name}$", color=COLOURS[colour])
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.set_title(title)
    axes[0].legend(fontsize=8, loc="center left", bbox_to_anchor=(0.12, 0.5))
    fig.tight_layout()
    return fig


def maps(panels: Mapping[str, Tensor], labels: Tensor, names: Sequence[str]) -> Figure:
    """Draw points in two dimensions, one panel for each way of placing them, by class.

    Args:
        panels: (N, 2) positions by the panel's title; the axes of such maps have no unit.
        labels: (N,) positions in ``names``, at most 16 classes.
        names: the classes.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels) + 1.2, 4.2), squeeze=False)
    colours = ("retain", "forget", "good", "missing", "old", "before")
    for ax, (title, points) in zip(axes.flat, panels.items(), strict=True):
        for c, name in enumerate(names):
            x, y = points[labels == c].T.tolist()
            colour, marker = COLOURS[colours[c % 6]], "osD^vPX*"[c % 8]
            ax.scatter(x, y, color=colour, marker=marker, s=34, label=name, linewidths=0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel("first axis of the map")
        ax.set_ylabel("second axis of the map")
        ax.set_title(title)
    axes.flat[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    fig.tight_layout()
    return fig


def penalty_contours(axis: Tensor, surfaces: Mapping[str, Tensor], paths: Mapping[str, Tensor]) -> Figure:
    """Draw penalties over two weights as contours, with the path of the minimum as α grows.

    Args:
        axis: (n,) values of either weight.
        surfaces: (n, n) values of each penalty by title.
        paths: (k, 2) minima by title, from α = 0 on.
    """
    fig, axes = plt.subplots(1, len(surfaces), figsize=(3.4 * len(surfaces), 3.6), sharey=True, squeeze=False)
    for ax, (title, values) in zip(axes.flat, surfaces.items(), strict=True):
        grid, path = axis.cpu().numpy(), paths[title].cpu()
        levels = [0.35 * k for k in range(1, 8)]
        ax.contour(grid, grid, values.cpu().numpy(), levels=levels, cmap="cividis", linewidths=1)
        ax.plot(path[:, 0], path[:, 1], lw=2.5, color=COLOURS["forget"], label="minimum as α grows")
        ax.plot(path[0, 0], path[0, 1], "kx", ms=9, mew=2, label="what the loss wants")
        ax.axhline(0, color="black", lw=0.8)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_aspect("equal")
        ax.grid(visible=False)
        ax.set_title(title)
        ax.set_xlabel("weight a")
    axes[0, 0].set_ylabel("weight b")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    fig.tight_layout()
    return fig


def norm_paths(
    walks: Mapping[str, Tensor], matters: Sequence[bool], labels: Sequence[str] = (), xlabel: str = "step"
) -> Figure:
    """Draw norms of groups over steps on a log axis; exact zeros stand on the bottom line.

    Args:
        walks: (steps, groups) norms by title, one panel each.
        matters: which groups are drawn blue; the others are vermilion. With ``labels`` each group has
            a colour of its own.
        labels: names of the groups.
        xlabel: what is counted, from 1.
    """
    fig, axes = plt.subplots(1, len(walks), figsize=(4.6 * len(walks), 3.4), sharey=True, squeeze=False)
    smallest = min(float(w[w > 0].min()) for w in walks.values())
    bottom = smallest / 5
    own = sns.color_palette("cividis", len(matters))
    for ax, (title, norms) in zip(axes.flat, walks.items(), strict=True):
        places = range(1, len(norms) + 1)
        for g, on in enumerate(matters):
            colour = own[g] if labels else COLOURS["retain" if on else "forget"]
            heights = norms[:, g].double().clamp_min(bottom).tolist()
            ax.semilogy(places, heights, lw=1.3, color=colour, label=labels[g] if labels else None)
        if bool((norms == 0).any()):
            ax.axhline(bottom, color="black", lw=1, linestyle=":")
            ax.text(1, bottom * 1.15, "exactly 0", fontsize=9, va="bottom")
        ax.set_title(title)
        ax.set_xlabel(xlabel)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("norm of the group")
    if labels:
        axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif not all(matters):
        lines = [Line2D([], [], color=COLOURS[c]) for c in ("retain", "forget")]
        axes[0, 0].legend(lines, ["groups that matter", "groups that do not"], fontsize=8)
    fig.tight_layout()
    return fig


def _heat(
    ax: Axes, table: Mapping[str, Mapping[str, float]], largest: float, bar: Axes | None = None
) -> None:
    """Draw a heat map of norms, column by column, its scale in ``bar``; exact zeros are white with a 0."""
    rows = list(next(iter(table.values())))
    values = [[column[row] for column in table.values()] for row in rows]
    shown = [["0" if v == 0 else f"{v:.2f}" for v in line] for line in values]
    sns.heatmap(
        np.array(values),
        ax=ax,
        mask=np.array(values) == 0,
        annot=np.array(shown),
        fmt="",
        annot_kws={"fontsize": 8},
        vmin=0,
        vmax=largest,
        cmap="cividis",
        linewidths=0.5,
        xticklabels=list(table),
        yticklabels=rows,
        cbar=bar is not None,
        cbar_ax=bar,
        cbar_kws={"label": "norm of the update"},
    )
    ax.grid(visible=False)
    ax.set_facecolor("white")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value == 0:
                ax.text(x + 0.5, y + 0.5, "0", ha="center", va="center", fontsize=9, color="black")
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=0)


def norm_maps(tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Draw heat maps of norms side by side on one colour scale.

    Args:
        tables: by title, for each column the norm of each row; exact zeros are white with a 0.
    """
    shares = (*(20.0 for _ in tables), 0.8)
    fig, axes = plt.subplots(1, len(shares), figsize=(3.3 * len(tables) + 0.6, 3.4), width_ratios=shares)
    largest = max(v for t in tables.values() for column in t.values() for v in column.values()) or 1.0
    for ax, (title, table) in zip(axes, tables.items(), strict=False):
        _heat(ax, table, largest, axes[-1])
        ax.set_title(title)
    fig.tight_layout()
    return fig


def selection(
    norms: Mapping[str, Mapping[str, float]],
    lines: Mapping[str, tuple[Sequence[float], str]],
    levels: Mapping[str, tuple[float, str]],
    xlabel: str,
) -> Figure:
    """Draw percentages over a setting and, below it, the heat map of each group's norm.

    Args:
        norms: for each value of the setting the norm of each group; exact zeros are white with a 0.
        lines: percentages over the setting and a key of :data:`COLOURS`, by label.
        levels: dashed lines: a height and a key of :data:`COLOURS`, by label.
        xlabel: the setting.
    """
    groups = len(next(iter(norms.values())))
    size = (2.6 + 0.75 * len(norms), 3.4 + 0.4 * groups)
    fig, axes = plt.subplots(2, 2, figsize=size, height_ratios=(2.2, 0.4 * groups), width_ratios=(20, 0.6))
    top, below = axes[:, 0]
    axes[0, 1].set_axis_off()
    places = [x + 0.5 for x in range(len(norms))]
    for label, (values, colour) in lines.items():
        style = "--" if colour == "before" else "-"
        top.plot(places, list(values), style, marker="o", color=COLOURS[colour], label=label)
    for label, (level, colour) in levels.items():
        top.axhline(level, color=COLOURS[colour], lw=1, linestyle=":", label=label)
    top.set_ylabel("percent")
    top.set_ylim(-4, 104)
    top.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    largest = max(v for column in norms.values() for v in column.values()) or 1.0
    _heat(below, norms, largest, axes[1, 1])
    top.set_xlim(below.get_xlim())
    top.set_xticks(places, [])
    below.set_xlabel(xlabel)
    below.set_ylabel("group", labelpad=12)
    fig.tight_layout()
    return fig


def sparsity_cost(
    lines: Mapping[str, Sequence[tuple[float, float, float, str]]], levels: Mapping[str, float]
) -> Figure:
    """Draw accuracies over the share of groups at zero, one line a way of measuring groups.

    Args:
        lines: by label, points of (groups at zero in %, acc_r, acc_f, text beside the point).
        levels: acc_r and acc_f without sparsity.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.5))
    for ax, k, name, title in (
        (axes[0], 1, "acc_r", "retained: high is good"),
        (axes[1], 2, "acc_f", "forgotten: low is good"),
    ):
        for (label, points), marker in zip(lines.items(), "os^DvP", strict=False):
            ordered = sorted(points)
            ax.plot([p[0] for p in ordered], [p[k] for p in ordered], marker=marker, label=label, alpha=0.8)
            for point in ordered:
                ax.annotate(
                    point[3], (point[0], point[k]), fontsize=7, xytext=(4, 4), textcoords="offset points"
                )
        ax.axhline(levels[name], color="black", linestyle="--", lw=1, label="without sparsity")
        ax.set_title(title)
        ax.set_xlabel("groups at zero, %")
        ax.set_ylabel(f"{name}, %")
        ax.set_xlim(-4, 104)
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.tight_layout()
    return fig


# --- prototypes (notebook 06) ---------------------------------------------------------------------------


def softened(
    prototype: Tensor, temperatures: Sequence[float], names: Sequence[str], most: int = 10
) -> Figure:
    """Draw softmax(p / T) of one prototype at several temperatures, its largest classes first.

    Args:
        prototype: (C,), in logit space.
        temperatures: the T of each panel.
        names: of the C classes.
        most: how many classes are drawn.
    """
    order = prototype.argsort(descending=True)[:most].cpu()
    fig, axes = plt.subplots(1, len(temperatures), figsize=(2.6 * len(temperatures), 3.2), sharey=True)
    for ax, temperature in zip(axes.flat, temperatures, strict=True):
        p = (prototype.cpu() / temperature).softmax(dim=0)
        ax.bar(range(len(order)), p[order].numpy(), color=COLOURS["retain"])
        entropy = float(-(p * p.clamp_min(1e-38).log()).sum())
        ax.set_title(f"T = {temperature:g}\nentropy {entropy:.2f} nats")
        ax.set_xticks(range(len(order)), [names[int(c)] for c in order], rotation=90, fontsize=7)
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-4, 1.5)
    axes[0].set_ylabel("probability (log scale)")
    fig.supxlabel(f"the {len(order)} classes with the largest logits", fontsize=10)
    fig.tight_layout()
    return fig


def distance_map(table: Tensor, names: Sequence[str], label: str, rows: str, columns: str) -> Figure:
    """Draw a square table of distances between classes as a heat map, dark for near.

    Args:
        table: (K, K).
        names: of the K classes.
        label: what is measured, with its unit.
        rows: what a row is.
        columns: what a column is.
    """
    fig, ax = plt.subplots(figsize=(6.4, 5.2))
    short = list(names)
    sns.heatmap(
        table.cpu().numpy(),
        ax=ax,
        cmap="cividis",
        square=True,
        xticklabels=short,
        yticklabels=short,
        cbar_kws={"label": label},
    )
    ax.tick_params(labelsize=7)
    ax.set_ylabel(rows)
    ax.set_xlabel(columns)
    fig.tight_layout()
    return fig


def flat_map(
    panels: Mapping[str, Tensor], labels: Tensor, prototypes: Tensor, kinds: Mapping[int, str], axes_name: str
) -> Figure:
    """Draw images of some classes in two dimensions, before and after, with the classes' prototypes.

    Args:
        panels: for each state of the model, (N, 2) places of the same images.
        labels: (N,) classes of the images.
        prototypes: (K, 2), in the order of ``kinds``.
        kinds: "retain" or "forget" for each of the K classes drawn.
        axes_name: what the two axes are.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.2), sharex=True, sharey=True)
    markers = {"retain": iter("ovDPs"), "forget": iter("ovDPs")}
    names = {"retain": "retained", "forget": "forgotten"}
    own = {c: next(markers[kind]) for c, kind in kinds.items()}
    for ax, (title, places) in zip(axes.flat, panels.items(), strict=True):
        for (c, kind), star in zip(kinds.items(), prototypes.cpu(), strict=True):
            x, y = places[labels == c].cpu().T.numpy()
            ax.scatter(x, y, s=20, marker=own[c], color=COLOURS[kind], alpha=0.6, linewidths=0)
            ax.scatter(*star.numpy(), s=190, marker="*", color=COLOURS[kind], edgecolors="black", zorder=3)
        ax.set_title(title)
        ax.set_xlabel(f"{axes_name} 1")
    axes[0].set_ylabel(f"{axes_name} 2")
    shown = [(f"{names[k]} classes' images", COLOURS[k], "o", 6) for k in names]
    shown += [(f"{names[k]} classes' prototypes", COLOURS[k], "*", 13) for k in names]
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=size, linestyle="", label=text)
        for text, colour, marker, size in shown
    ]
    fig.legend(handles=handles, loc="lower center", ncols=4, fontsize=8)
    fig.tight_layout(rect=(0, 0.07, 1, 1))
    return fig


def overlaid(values: Mapping[str, tuple[Tensor, str]], xlabel: str, ylabel: str, bins: int = 40) -> Figure:
    """Draw histograms of several samples over one another, as shares of each sample.

    Args:
        values: by label, a sample and a key of :data:`COLOURS`.
        xlabel: what the samples are, with their unit.
        ylabel: what is counted.
        bins: how many bins, the same for all.
    """
    fig, ax = plt.subplots(figsize=(7, 3.2))
    low = min(float(v.min()) for v, _ in values.values())
    high = max(float(v.max()) for v, _ in values.values())
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    for label, (sample, colour) in values.items():
        weights = [100.0 / len(sample)] * len(sample)
        ax.hist(
            sample.cpu().numpy(), bins=edges, weights=weights, label=label, color=COLOURS[colour], alpha=0.6
        )
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(fontsize=9)
    fig.tight_layout()
    return fig


# --- methods side by side (notebooks 10 and 11) ---------------------------------------------------------


def scattered(
    points: Mapping[str, tuple[float, float, str]], xlabel: str, ylabel: str, logarithmic: bool = False
) -> Figure:
    """Draw one point for each label.

    Args:
        points: by label, the place and a key of :data:`COLOURS`; points of one colour differ by marker.
        xlabel: what is to the right, with its unit.
        ylabel: what is above, with its unit.
        logarithmic: whether the x axis is.
    """
    fig, ax = plt.subplots(figsize=(7.5, 4.2))
    used: dict[str, int] = {}
    for label, (x, y, colour) in points.items():
        marker = "osD^vPX*<>"[used.get(colour, 0) % 10]
        used[colour] = used.get(colour, 0) + 1
        ax.scatter(x, y, s=60, marker=marker, color=COLOURS[colour], label=label, alpha=0.85, linewidths=0)
    if logarithmic:
        ax.set_xscale("log")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    fig.tight_layout()
    return fig


def tables(
    panels: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[str], xlabel: str
) -> Figure:
    """Draw tables of percentages side by side as heat maps, each number in its cell.

    Args:
        panels: by title, the values of each row, one per column; a NaN leaves a gap.
        columns: labels of the columns.
        xlabel: what they are.
    """
    rows = list(next(iter(panels.values())))
    size = (1.6 + (0.4 + 0.62 * len(columns)) * len(panels), 1.0 + 0.27 * len(rows))
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=True):
        sns.heatmap(
            np.array([list(values[row]) for row in rows], dtype=float),
            ax=ax,
            annot=True,
            fmt=".1f",
            annot_kws={"fontsize": 8},
            vmin=0,
            vmax=100,
            cmap="cividis",
            linewidths=0.5,
            cbar=False,
            xticklabels=list(columns),
            yticklabels=rows,
        )
        ax.set_facecolor("white")
        ax.grid(visible=False)
        ax.tick_params(axis="y", rotation=0, labelsize=9)
        ax.set_title(title)
        ax.set_xlabel(xlabel)
    fig.tight_layout()
    return fig


@dataclass(frozen=True)
class Boxed:
    """One picture with boxes: an image (3, H, W), uint8, boxes in its pixels, a text and a colour each."""

    image: Tensor
    boxes: Sequence[Sequence[float]]
    texts: Sequence[str]
    colours: Sequence[str]


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
            for (left, top, width, height), text, colour in zip(
                picture.boxes, picture.texts, picture.colours, strict=True
            ):
                frame = Rectangle((left, top), width, height, fill=False, color=COLOURS[colour], linewidth=2)
                ax.add_patch(frame)
                plate = {"facecolor": COLOURS[colour], "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
                ax.text(left, top, text, fontsize=6.5, color="white", va="bottom", bbox=plate, clip_on=True)
        line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    fig.tight_layout(pad=0.3)
    return fig


def per_class(
    rows: Mapping[str, Sequence[float]], names: Sequence[str], colours: Sequence[str], ylabel: str
) -> Figure:
    """Draw bars of each class: one light bar for each value of the first row, the others in colour.

    Args:
        rows: a value for each class by label; the first row is what was before.
        names: the classes.
        colours: a key of :data:`COLOURS` for each class.
        ylabel: what is measured, with its unit.
    """
    fig, ax = plt.subplots(figsize=(min(11.0, 2.0 + 0.5 * len(names)), 3.2))
    width = 0.85 / len(rows)
    for i, (label, values) in enumerate(rows.items()):
        places = [x + (i - (len(rows) - 1) / 2) * width for x in range(len(names))]
        shown = [COLOURS["before"] if i == 0 else COLOURS[c] for c in colours]
        ax.bar(places, values, width, color=shown, alpha=0.55 if i == 0 else 1.0, label=label)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    ax.set_ylabel(ylabel)
    ax.grid(visible=False, axis="x")
    kinds = {"before": "before", "kept, after": "retain", "forgotten, after": "forget"}
    handles = [
        Rectangle((0, 0), 1, 1, color=COLOURS[c], alpha=0.55 if c == "before" else 1.0)
        for c in kinds.values()
    ]
    ax.legend(handles, list(kinds), fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    fig.tight_layout()
    return fig
