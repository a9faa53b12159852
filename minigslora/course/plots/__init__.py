"""Every figure of the notebooks and reports, in one style.

Colours are Okabe and Ito's, safe for colour-blind readers; what is retained is blue, what is forgotten
vermilion, what was forgotten earlier purple, what has no data yellow. Each function returns the figure,
draws from plain numbers or tensors, and decides nothing.
"""

from minigslora.course.plots.adapters import differences, model_map, singular_values
from minigslora.course.plots.bands import Banded, Compared, banded, beside_band, verdicts
from minigslora.course.plots.bound import hinge
from minigslora.course.plots.charts import (
    Panel,
    Points,
    bars,
    class_map,
    curves,
    destinations,
    histograms,
    overlaid,
    per_class,
    points,
    scattered,
    tables,
)
from minigslora.course.plots.diagrams import (
    lora_fork,
    method_picture,
    sliced_head,
    transformer_block,
    vision_transformer,
)
from minigslora.course.plots.embeddings import distance_map, flat_map, maps, margin_circle, softened
from minigslora.course.plots.geometry import penalty_balls, prototype_sphere, prox_1d
from minigslora.course.plots.pictures import (
    Boxed,
    PictureRow,
    boxed,
    comparison,
    gallery,
    patches,
    photographs,
)
from minigslora.course.plots.roles import attacker, two_roles
from minigslora.course.plots.slider import slider
from minigslora.course.plots.sparsity import (
    group_norms,
    norm_maps,
    norm_paths,
    selection,
    sparsity_cost,
)
from minigslora.course.plots.style import COLOURS, png, show, style

__all__ = [
    "COLOURS",
    "Banded",
    "Boxed",
    "Compared",
    "Panel",
    "PictureRow",
    "Points",
    "attacker",
    "banded",
    "bars",
    "beside_band",
    "boxed",
    "class_map",
    "comparison",
    "curves",
    "destinations",
    "differences",
    "distance_map",
    "flat_map",
    "gallery",
    "group_norms",
    "hinge",
    "histograms",
    "lora_fork",
    "maps",
    "margin_circle",
    "method_picture",
    "model_map",
    "norm_maps",
    "norm_paths",
    "overlaid",
    "patches",
    "penalty_balls",
    "per_class",
    "photographs",
    "png",
    "points",
    "prototype_sphere",
    "prox_1d",
    "scattered",
    "selection",
    "show",
    "singular_values",
    "sliced_head",
    "slider",
    "softened",
    "sparsity_cost",
    "style",
    "tables",
    "transformer_block",
    "two_roles",
    "verdicts",
    "vision_transformer",
]
