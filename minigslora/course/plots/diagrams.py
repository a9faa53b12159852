"""Diagrams of models and of what is added to them: no data, no arguments, only what is where."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minigslora.course.plots.drawing import Point, arrow, box, canvas, face, label, mixed, plus

# --- the method in one picture ----------------------------------------------------------------------


def method_picture() -> Figure:
    """Draw GS-LoRA in one picture.

    Images are cut into patches and pass six frozen transformer blocks and a frozen head. Beside each block's
    feed-forward network stand two adapters, one a request; the second request's adapter of block 3 is zero.
    Four arrows lead to the terms of the loss: group sparsity on the adapters that are trained, prototypes on
    the outputs, cross-entropy on retained images, and bounded forgetting on images of the request.
    """
    fig, ax = canvas(9.0, 5.3)
    for y, colour, name in ((4.45, "retain", "retained"), (3.35, "forget", "forget")):
        face(ax, (0.6, y), 0.72, colour, dashed=colour == "forget", smile=1 if colour == "retain" else -1)
        label(ax, (0.6, y - 0.5), name, colour, 9, bold=True)
    _patches(ax, (1.65, 3.9), 0.78)
    label(ax, (1.65, 3.36), "36 patches", pt=9)
    arrow(ax, (1.02, 3.9), (1.22, 3.9))
    arrow(ax, (2.08, 3.9), (2.33, 3.9))
    blocks = [2.62 + 0.68 * k for k in range(6)]
    for k, x in enumerate(blocks, 1):
        _block(ax, x, k)
        arrow(ax, (x + 0.27, 3.9), (x + 0.4, 3.9), width=1.2)
    label(ax, (2.22, 2.42), "request 1: frozen", "old", 9, ha="right")
    label(ax, (2.22, 1.98), "request 2: trained", "forget", 9, ha="right", bold=True)
    label(ax, (2.22, 2.78), "adapters s·B·A", pt=9, ha="right")
    for x, name in ((6.62, "embedding"), (7.95, "logits")):
        ax.add_patch(Rectangle((x - 0.08, 3.3), 0.16, 1.2, facecolor=mixed("before", 0.6), edgecolor="black"))
        label(ax, (x, 4.66), name, pt=9)
    box(ax, (7.28, 3.9), (0.62, 0.8), "head\nfrozen", pt=9)
    arrow(ax, (6.72, 3.9), (6.95, 3.9), width=1.2)
    arrow(ax, (7.61, 3.9), (7.85, 3.9), width=1.2)
    _losses(ax, blocks)
    return fig


def _patches(ax: Axes, at: Point, side: float) -> None:
    """Draw six by six patches around a point."""
    step = side / 6
    for row in range(6):
        for column in range(6):
            corner = (at[0] - side / 2 + column * step + 0.01, at[1] - side / 2 + row * step + 0.01)
            ax.add_patch(Rectangle(corner, step - 0.02, step - 0.02, color=mixed("before", 0.5), linewidth=0))


def _block(ax: Axes, x: float, number: int) -> None:
    """Draw one frozen block with two requests' adapters below it; that of request 2 in block 3 is zero."""
    box(ax, (x, 3.9), (0.54, 1.62), fill=0.92)
    label(ax, (x, 4.86), f"block {number}", pt=9)
    box(ax, (x, 4.36), (0.44, 0.46), "attn", pt=9, fill=0.65)
    box(ax, (x, 3.44), (0.44, 0.46), "FFN", pt=9, fill=0.65)
    arrow(ax, (x, 3.2), (x, 2.62), head="-", width=1.2)
    zero = number == 3
    box(ax, (x, 2.42), (0.46, 0.34), "B·A", "old", pt=9)
    arrow(ax, (x, 2.25), (x, 2.15), head="-", width=1.2)
    box(
        ax,
        (x, 1.98),
        (0.46, 0.34),
        "0" if zero else "B·A",
        "before" if zero else "forget",
        dashed=zero,
        pt=9,
    )


def _losses(ax: Axes, blocks: list[float]) -> None:
    """Draw the terms of the loss and the arrows that lead to them."""
    terms = (  # middle, width, colour, title, formula
        (1.3, 1.9, "good", "group sparsity", "α Σ ‖θ_g‖"),
        (3.68, 2.5, "old", "prototypes (GS-LoRA++)", "pull K_r,  push ReLU(BND_pro − K_f)"),
        (6.0, 1.8, "retain", "retained images", "CE_r"),
        (7.95, 1.8, "forget", "images of the request", "β · ReLU(BND − CE_f)"),
    )
    for x, width, colour, title, formula in terms:
        box(ax, (x, 0.5), (width, 0.7), colour=colour, dashed=colour == "forget")
        label(ax, (x, 0.64), title, pt=9, bold=True)
        label(ax, (x, 0.36), formula, pt=9)
    arrow(ax, (blocks[0] - 0.3, 1.72), (1.3, 1.72), (1.3, 0.87), colour="good")
    arrow(ax, (7.95, 3.28), (7.95, 0.87), colour="forget", dashed=True)
    arrow(ax, (7.9, 1.5), (6.0, 1.5), (6.0, 0.87), colour="retain")
    arrow(ax, (7.9, 1.3), (3.68, 1.3), (3.68, 0.87), colour="old")


# --- a block, and what LoRA adds to a layer ---------------------------------------------------------


def transformer_block() -> Figure:
    """Draw a pre-norm transformer block.

    Tokens pass a layer norm and the attention, and are added to what came in; then a second layer norm and
    the feed-forward network, fc1 from 128 to 256 numbers, GELU, fc2 back to 128, and are added again.
    """
    fig, ax = canvas(9.0, 3.3)
    middle = 1.35
    stops = (  # middle, width, text, colour
        (1.55, 0.7, "layer\nnorm", "missing"),
        (2.75, 1.1, "attention\n4 heads", "retain"),
        (4.55, 0.7, "layer\nnorm", "missing"),
        (5.55, 0.6, "fc1", "forget"),
        (6.45, 0.6, "GELU", "before"),
        (7.35, 0.6, "fc2", "forget"),
    )
    box(ax, (6.45, middle), (2.6, 1.25), colour="forget", fill=0.93, dashed=True)
    label(ax, (6.45, 0.55), "FFN: each token by itself", pt=10)
    label(ax, (2.75, 0.55), "tokens read one another", pt=10)
    for x, width, text, colour in stops:
        box(ax, (x, middle), (width, 0.75), text, colour, fill=0.7)
    ways = (0.35, 1.2), (1.9, 2.2), (3.3, 3.55), (3.81, 4.2), (4.9, 5.25), (5.85, 6.15), (6.75, 7.05)
    for start, end in (*ways, (7.65, 8.0), (8.26, 8.75)):
        arrow(ax, (start, middle), (end, middle))
    for start, end in ((0.85, 3.68), (4.0, 8.13)):
        arrow(ax, (start, middle), (start, 2.45), (end, 2.45), (end, middle + 0.13))
        plus(ax, (end, middle))
    return fig


def lora_fork() -> Figure:
    """Draw three ways to change a layer, an x that forks each time and is added up again."""
    fig, ax = canvas(9.0, 4.3)
    titles = ("full fine-tuning", "one LoRA", "two requests, stacked")
    for k, title in enumerate(titles):
        label(ax, (1.5 + 3 * k, 4.05), title, pt=11, bold=True)
    return fig


# --- a head of some classes -------------------------------------------------------------------------


def sliced_head() -> Figure:
    """Draw a head of many classes, and the rows of it that a task has."""
    fig, ax = canvas(9.0, 4.0)
    label(ax, (4.5, 2.0), "W")
    return fig
