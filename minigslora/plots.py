"""Every figure of the notebooks and reports, in one style.

Colours are Okabe and Ito's, safe for colour-blind readers; what is retained is blue, what is forgotten
vermilion, what was forgotten earlier purple, what has no data yellow. Each function returns the figure,
draws from plain numbers or tensors, and decides nothing.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
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


def show(fig: Figure, alt: str) -> None:
    """Display a figure below a notebook's cell with a text for who cannot see it, and close it.

    Args:
        fig: the figure.
        alt: what there is to see in it, in a sentence.
    """
    from IPython.display import display

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    plt.close(fig)
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
