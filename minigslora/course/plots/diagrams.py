"""Diagrams of models and of what is added to them: no data, no arguments, only what is where."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minigslora.course.plots.drawing import (
    Point,
    arrow,
    bar,
    box,
    canvas,
    face,
    label,
    line,
    plus,
    polygon,
    stacked,
)

# --- the method in one picture ----------------------------------------------------------------------

ROW, FIRST, SECOND = 3.95, 2.45, 1.98
"""Heights in the method's picture: of the blocks, and of the two requests' adapters."""


def method_picture() -> Figure:
    """Draw GS-LoRA in one picture.

    Images are cut into patches and pass six frozen transformer blocks and a frozen head. Beside each block's
    feed-forward network stand the adapters of two requests, those of the first frozen, those of the second
    trained; in block 3 the second request's are zero. Arrows lead to the four terms of the loss: group
    sparsity on the trained adapters, prototypes and cross-entropy on the logits of retained images, and
    bounded forgetting on the images of the request.
    """
    fig, ax = canvas(8.8, 5.3)
    for y, colour, name, wide in ((4.5, "retain", "retained", 0.6), (3.4, "forget", "to forget", 0.46)):
        face(ax, (0.55, y), 0.74, colour, wide, dashed=colour == "forget")
        label(ax, (0.55, y - 0.5), name, colour, 9, bold=True)
    _patches(ax, (1.55, ROW), 0.76)
    label(ax, (1.55, 3.4), "36 patches", pt=9)
    blocks = [2.52 + 0.67 * k for k in range(6)]
    for x in blocks:
        _block(ax, x, zero=x == blocks[2])
    label(ax, (4.2, 5.08), "six transformer blocks, frozen", pt=10)
    label(ax, (2.12, 2.83), "adapters s·B·A", pt=9, ha="right")
    label(ax, (2.12, FIRST), "request 1, frozen", "old", 9, ha="right")
    label(ax, (2.12, SECOND), "request 2, trained", "forget", 9, ha="right", bold=True)
    label(ax, (6.3, SECOND), "0: request 2 does not\nchange this block", pt=9, ha="left")
    for x, name in ((6.72, "embedding"), (8.1, "logits")):
        bar(ax, (x, ROW), (0.15, 1.2))
        label(ax, (x, 4.72), name, pt=9)
    box(ax, (7.41, ROW), (0.66, 0.8), "head,\nfrozen", pt=9)
    ends = ((0.97, 1.14), (1.96, blocks[0] - 0.27), (6.16, 6.62), (6.82, 7.06), (7.76, 8.0))
    for start, end in (*ends, *((x + 0.27, x + 0.4) for x in blocks[:-1])):
        arrow(ax, (start, ROW), (end, ROW), width=1.2)
    _losses(ax, blocks[0] - 0.12, blocks[-1] + 0.28)
    return fig


def _patches(ax: Axes, at: Point, side: float) -> None:
    """Draw six by six patches around a point."""
    step = side / 6
    for k in range(36):
        place = at[0] + (k % 6 - 2.5) * step, at[1] + (k // 6 - 2.5) * step
        bar(ax, place, (step - 0.025, step - 0.025), edge=False)


def _block(ax: Axes, x: float, zero: bool) -> None:
    """Draw a block, and below its FFN two requests' adapters, the second's at zero or not."""
    box(ax, (x, ROW), (0.54, 1.7), fill=0.92)
    box(ax, (x, ROW + 0.48), (0.44, 0.46), "attn", pt=9, fill=0.6)
    box(ax, (x, ROW - 0.48), (0.44, 0.46), "FFN", pt=9, fill=0.6)
    for height, text, colour in (
        (FIRST, "B·A", "old"),
        (SECOND, *(("0", "before") if zero else ("B·A", "forget"))),
    ):
        line(ax, (x - 0.18, ROW - 0.71), (x - 0.18, height), (x - 0.12, height))
        box(ax, (x + 0.08, height), (0.4, 0.34), text, colour, dashed=text == "0", pt=9)


def _losses(ax: Axes, left: float, right: float) -> None:
    """Draw the terms of the loss and the arrows to them, from the adapters and from the logits."""
    terms = (  # middle, width, colour, three lines
        (
            1.43,
            1.6,
            "good",
            "group sparsity",
            r"$\alpha\,\Sigma_g \Vert\theta_g\Vert$",
            "whole blocks to zero",
        ),
        (
            3.64,
            2.4,
            "missing",
            "prototypes (GS-LoRA++)",
            r"$w_r K_r + w_f\,$ReLU$($BND$_{pro} - K_f)$",
            "pull and push",
        ),
        (5.82, 1.52, "retain", "cross-entropy", r"CE$_r$", "retained images"),
        (
            7.72,
            1.86,
            "forget",
            "bounded forgetting",
            r"$\beta\,$ReLU$($BND$\,-\,$CE$_f)$",
            "images to forget",
        ),
    )
    label(ax, (0.35, 0.57), "L  =", pt=12)
    for x, width, colour, *texts in terms:
        box(ax, (x, 0.57), (width, 0.9), colour=colour, dashed=colour == "forget")
        stacked(ax, (x, 0.57), texts, 0.27)
    for x in (2.335, 4.95, 6.685):
        label(ax, (x, 0.57), "+", pt=12)
    top, low = 1.04, SECOND - 0.27
    line(ax, (left, low + 0.06), (left, low), (right, low), (right, low + 0.06), colour="good")
    arrow(ax, (left, low), (1.43, low), (1.43, top), colour="good")
    line(ax, (8.1, ROW - 0.6), (8.1, 1.24))
    arrow(ax, (8.1, 1.46), (3.64, 1.46), (3.64, top), colour="missing")
    arrow(ax, (8.1, 1.24), (5.82, 1.24), (5.82, top), colour="retain")
    arrow(ax, (8.1, 1.24), (8.1, top), colour="forget")


# --- a block, and what LoRA adds to a layer ---------------------------------------------------------


def vision_transformer() -> Figure:
    """Draw the whole model, from a photograph to a cosine for each person, with the shapes below.

    The photograph is cut into 36 patches, and a linear map makes a token of each. The class token, hatched,
    is put in front, and each of the 37 tokens gets its position added. All pass six blocks and a norm. Then
    the class token alone goes on, as the embedding, to the head; the other 36 end there, in grey.
    """
    fig, ax = canvas(8.8, 3.3)
    first, rows = 2.52, (2.1, 1.75, 1.05)
    middle = 1.575
    face(ax, (0.5, middle), 0.76, "retain")
    _patches(ax, (1.52, middle), 0.76)
    box(ax, (2.5, middle), (0.62, 0.76), "linear\nmap", "missing", pt=9)
    for start, end in ((0.92, 1.12), (1.93, 2.17), (2.84, 3.1)):
        arrow(ax, (start, middle), (end, middle))
    for k in range(6):
        box(ax, (5.03 + 0.22 * k, 1.785), (0.18, 2.0), colour="good", fill=0.65)
    box(ax, (6.78, 1.785), (0.4, 2.0), "norm", pt=9)
    for y, colour in ((first, "forget"), *((y, "retain") for y in rows)):
        bar(ax, (3.4, y), (0.5, 0.18), colour, hatched=y == first)
        arrow(ax, (3.7, y), (4.89, y))
        plus(ax, (4.14, y))
        arrow(ax, (6.26, y), (6.55, y))
    for y in rows:
        line(ax, (7.02, y), (7.2, y), colour="before")
        bar(ax, (7.4, y), (0.36, 0.18))
    arrow(ax, (4.14, 0.72), (4.14, rows[-1] - 0.13))
    for x in (3.4, 7.4):
        label(ax, (x, 1.4), "⋮", pt=12)
    _class_token_on(ax, first)
    for x, y, name in ((3.4, 2.86, "class token"), (5.58, 3.0, "six blocks"), (4.2, 0.58, "+ positions")):
        label(ax, (x, y), name, pt=9, bold=True)
    label(ax, (7.66, 1.4), "the other 36\nend here", pt=9, ha="left")
    shapes = (
        (0.5, "photograph", "3 × 48 × 48"),
        (1.52, "patches", "36 × 192"),
        (3.4, "patch tokens", "36 × 128"),
    )
    for x, name, shape in (*shapes, (5.58, "all tokens", "37 × 128"), (7.4, "class token", "128")):
        label(ax, (x, 0.26), f"{name}\n{shape}", pt=9)
    return fig


def _class_token_on(ax: Axes, y: float) -> None:
    """Draw the class token's way from the last norm through the head to the cosines."""
    arrow(ax, (7.02, y), (7.2, y))
    bar(ax, (7.4, y), (0.36, 0.18), "forget", hatched=True)
    arrow(ax, (7.6, y), (7.76, y))
    box(ax, (8.03, y), (0.5, 0.6), "head", "missing", pt=9)
    arrow(ax, (8.3, y), (8.47, y))
    bar(ax, (8.56, y), (0.13, 1.0))
    label(ax, (7.4, y + 0.48), "embedding", pt=9, bold=True)
    label(ax, (8.72, 1.82), "100 cosines", pt=9, ha="right")


def transformer_block() -> Figure:
    """Draw a transformer block with the norms in front.

    Tokens pass a layer norm and attention, in which they read one another, and are added to what came in.
    Then they pass a second layer norm and the feed-forward network, each by itself: fc1 from 128 to 256
    numbers, GELU, and fc2 back to 128. The result is added again.
    """
    fig, ax = canvas(8.8, 2.55)
    y, above = 1.2, 2.12
    box(ax, (6.43, 1.0), (2.86, 1.34), colour="missing", fill=0.9, dashed=True)
    for x, width, text, colour, below in (
        (1.4, 0.68, "layer\nnorm", "before", ""),
        (2.55, 1.0, "attention", "good", "4 heads of 32"),
        (4.5, 0.68, "layer\nnorm", "before", ""),
        (5.5, 0.62, "fc1", "missing", "128 → 256"),
        (6.43, 0.66, "GELU", "before", "256"),
        (7.36, 0.62, "fc2", "missing", "256 → 128"),
    ):
        box(ax, (x, y), (width, 0.66), text, colour, fill=0.65)
        label(ax, (x, y - 0.46), below, pt=9)
    label(ax, (2.55, 0.48), "tokens read one another", pt=9, bold=True)
    label(ax, (6.43, 0.48), "FFN: each token by itself", pt=9, bold=True)
    ways = (0.1, 1.06), (1.74, 2.05), (3.05, 3.37), (3.63, 4.16), (4.84, 5.19), (5.81, 6.1), (6.76, 7.05)
    for start, end in (*ways, (7.67, 8.05), (8.31, 8.75)):
        arrow(ax, (start, y), (end, y))
    for start, end, text in (
        (0.75, 3.5, "z′ = z + attention(norm(z))"),
        (3.9, 8.18, "z″ = z′ + FFN(norm(z′))"),
    ):
        arrow(ax, (start, y), (start, above), (end, above), (end, y + 0.13))
        plus(ax, (end, y))
        label(ax, ((start + end) / 2, above + 0.2), text)
        label(ax, ((start + end) / 2, above - 0.16), "residual: what came in is added", pt=9)
    for x, text in ((0.42, "z"), (3.77, "z′"), (8.52, "z″")):
        label(ax, (x, y + 0.17), text)
    label(ax, (0.42, y - 0.3), "37 tokens\n× 128", pt=9)
    return fig


def lora_fork() -> Figure:
    """Draw three ways to change one layer of 128 inputs and 256 outputs.

    In full fine-tuning x passes one matrix, all of whose 32 768 weights are trained. With LoRA x forks: one
    way goes through the frozen matrix W, one through A and B of rank 8 with 3 072 trained weights, and both
    are added. With two requests x forks into three: W, the first request's A and B, now frozen, and the
    second's, which are trained.
    """
    fig, ax = canvas(8.8, 4.4)
    plain, one, two = "y = W′x + b", "y = W x + b + s B(A x)", "y = W x + b + s B₁(A₁x) + s B₂(A₂x)"
    texts = (  # middle, title, formula, what is trained
        (1.2, "full fine-tuning", plain, "32 768 weights trained,\nthe old W is overwritten"),
        (4.0, "one LoRA", one, "3 072 weights trained,\nW is only read"),
        (7.2, "two requests, stacked", two, "request 1 (A₁, B₁) frozen,\nrequest 2: 3 072 weights trained"),
    )
    for y, text in ((2.64, "256 × 8"), (1.62, "8 × 128")):
        label(ax, (5.0, y), text, pt=9, ha="left")
    for x, title, formula, trained in texts:
        label(ax, (x, 4.2), title, pt=11, bold=True)
        label(ax, (x, 3.86), formula)
        label(ax, (x, 0.33), trained, pt=9)
    _ways(ax, 1.2, ("trained",))
    _ways(ax, 4.0, ("frozen", ""))
    _ways(ax, 7.2, ("frozen", "₁", "₂"))
    return fig


def _ways(ax: Axes, middle: float, ways: tuple[str, ...]) -> None:
    """Draw an x that forks into W and adapters, and is added up again; of an adapter its index is given."""
    fork, join, gap = 1.05, 3.18, 1.02
    places = [middle + gap * (k - (len(ways) - 1) / 2) for k in range(len(ways))]
    label(ax, (middle, 0.72), "x", pt=12)
    line(ax, (middle, 0.84), (middle, fork))
    for x, way in zip(places, ways, strict=True):
        arrow(ax, (middle, fork), (x, fork), (x, 1.32))
        side = (x > middle) - (x < middle)
        if side:
            arrow(ax, (x, 2.86), (x, join), (middle + 0.13 * side, join))
        elif len(ways) > 1:
            arrow(ax, (x, 2.86), (x, join - 0.13))
        if way in ("trained", "frozen"):
            trained = way == "trained"
            name = ("W′" if trained else "W") + f"\n256 × 128\n{way}"
            box(
                ax, (x, 2.09), (0.86, 1.54), name, "forget" if trained else "before", pt=9, dashed=not trained
            )
        else:
            _adapter(ax, x, way, frozen=way == "₁")
    if len(ways) > 1:
        plus(ax, (middle, join))
    arrow(ax, (middle, join + 0.13 if len(ways) > 1 else 2.86), (middle, 3.46))
    label(ax, (middle, 3.62), "y", pt=12)


def _adapter(ax: Axes, x: float, index: str, frozen: bool) -> None:
    """Draw A, which narrows to the rank, and B, which widens again."""
    colour = "old" if frozen else "forget"
    for bottom, below, above, text in ((1.32, 0.5, 0.24, f"A{index}"), (2.12, 0.24, 0.86, f"B{index}")):
        top = bottom + 0.74
        corners = [
            (x - below / 2, bottom),
            (x + below / 2, bottom),
            (x + above / 2, top),
            (x - above / 2, top),
        ]
        polygon(ax, corners, colour, dashed=frozen)
        label(ax, (x, bottom + (0.3 if below > above else 0.48)), text)


# --- a head of some classes -------------------------------------------------------------------------


def sliced_head() -> Figure:
    """Draw a head with a row for each class that the model knows, and the task's head cut out of it.

    The embedding of the edited model meets the whole head, whose rows are all frozen. Rows of the task's
    classes, retained ones and ones to forget, are copied into the task's head, and only their logits enter
    the cross-entropies. The logits of all rows, those outside the task, too, are held to what they were.
    """
    fig, ax = canvas(8.8, 4.3)
    box(ax, (0.85, 2.0), (1.3, 1.1), "backbone,\nits adapters\ntrained", "good", pt=9)
    bar(ax, (1.95, 2.0), (0.15, 1.2))
    label(ax, (1.95, 2.78), "e(x)")
    arrow(ax, (1.5, 2.0), (1.86, 2.0))
    arrow(ax, (2.04, 2.0), (2.44, 2.0))
    _rows(ax)
    for x, title, rows in (
        (3.05, "whole head W, frozen", "ImageNet 1000 rows, mini-glyphs 200"),
        (5.2, "task's head", "100 of the rows"),
    ):
        label(ax, (x, 4.15), title, bold=True)
        label(ax, (x, 3.86), rows, pt=9)
    box(ax, (7.57, 2.76), (2.3, 0.9), colour="retain")
    stacked(
        ax,
        (7.57, 2.76),
        ("in the loss: these rows", "cross-entropies and prototypes", "on images of the task"),
        0.25,
    )
    arrow(ax, (6.1, 2.76), (6.4, 2.76))
    box(ax, (6.45, 0.62), (4.5, 0.9), colour="before", dashed=True)
    held = (
        "held: all rows (8.3)",
        "on every image their logits stay what they were before,",
        "those of the forgotten classes left out",
    )
    stacked(ax, (6.45, 0.62), held, 0.25)
    arrow(ax, (3.62, 0.45), (4.18, 0.45))
    label(ax, (3.05, 0.2), "grey: outside the task", pt=9)
    return fig


def _rows(ax: Axes) -> None:
    """Draw the rows of the whole head, and those of the task's classes once more, beside it."""
    task = {2: "retain", 5: "forget", 8: "retain", 9: "retain", 13: "forget", 17: "retain", 20: "forget"}
    names = {"retain": "retained", "forget": "to forget"}
    for row in range(23):
        colour = task.get(row, "before")
        bar(ax, (3.05, 3.57 - 0.142 * row), (1.1, 0.122), colour, hatched=colour == "forget")
    for k, (row, colour) in enumerate(task.items()):
        place = 3.54 - 0.26 * k
        bar(ax, (4.9, place), (0.9, 0.2), colour, hatched=colour == "forget")
        label(ax, (5.42, place), names[colour], colour, pt=9, ha="left")
        line(ax, (3.62, 3.57 - 0.142 * row), (4.43, place), colour=colour, width=0.9)
