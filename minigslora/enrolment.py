"""Enrolment: one more class for a classifier, from a few images of it and without training.

With the embeddings e of the model as it answers now, adapters included, the class c's row is the direction of
its mean embedding, as long as the others' rows are. A cosine head reads it from the origin:

    w_c = mean ‖w_k‖ · normalise(mean of e over the images of c)             (13.1)

A linear head's rows differ by what a class has beside what all have in common, so that images of other
classes must be at hand, whose mean embedding is m; the bias gives the new class on its own images the logit
that the winner has on theirs:

    w_c = w̄ + mean ‖w_k − w̄‖ · normalise(mean of e − m)                      (13.2)
    b_c = mean over others of max_k z_k − mean over c of w_c · e             (13.3)

where k are the kept classes and w̄ is the mean of their rows. Source: weight imprinting, arXiv 1712.07136.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora import __version__, ledger, lora, rows
from minigslora.datasets.folders import class_files, image_set, loose_files, split_folders
from minigslora.device import autocast
from minigslora.errors import DataError, ModelError
from minigslora.fingerprint import weights_hash
from minigslora.ledger import Entry
from minigslora.models.checkpoint import card_of, input_size, name_classes, normalisation
from minigslora.models.head_slicing import classifier
from minigslora.models.heads import CosineHead

Pictures = Tensor | str | Path
"""Images: uint8, or floats in [0, 1], (N, 3, H, W); or the folder that they lie in."""

BATCH = 256
"""Images of a forward pass."""


def enrol(model: nn.Module, name: str, images: Pictures, beside: Pictures | None = None) -> int:
    """Add a class to a model's head, from a few images of it; nothing is trained.

    The row becomes the head's own, not an adapter's: revoking an earlier request afterwards gives, bit for
    bit, the model without that request and with this row. The row is not made anew then, though it was read
    off embeddings that the request had its part in; who has the images enrols again for that.

    A class that was forgotten is enrolled in its old place, since its name stands there in the card and in
    the data. Its old row, and the one that a request put there, are overwritten: what the model goes by from
    now on are the images given here, and revoking the request does not bring the old row back. Where the
    embedding forgot, too (gslora-deep), its images may still lie apart, and be named less often than a
    newcomer's; revoking the request is the way back that loses nothing.

    The original model, which teaches later requests, has the row as well. They need data with images of the
    new class, at the place of its row (:mod:`minigslora.class_order`).

    Args:
        model: a classifier with timm's interface, live or loaded from a file; edited in place.
        name: what the class is called.
        images: a few images of it.
        beside: images of some of the other classes; a linear head needs them, a cosine head does not.

    Returns:
        The row of the class.

    Raises:
        DataError: for a name that the model knows, or images that it cannot read.
        ModelError: for a model without a single classifier, or a linear head without ``beside``.
    """
    head: Any = classifier(model)
    place = _place(model, name, len(head.weight))
    events, weights = ledger.events(model), weights_hash(model)
    gone = {row for entry in ledger.in_force(events) for row in entry.rows}
    known = [row for row in range(len(head.weight)) if row not in gone]
    weight, bias = _row_of_images(model, head, known, name, images, beside)
    rows.write(head, place, weight, bias)
    _count_classes(model, name, len(head.weight))
    number = ledger.count(events, "enrol") + 1
    how = {"version": __version__, "weights": weights, "date": ledger.today()}
    called = _known_as(model, place, name)
    ledger.put(model, (*events, Entry(f"enrol{number}", (called,), (place,), event="enrol", **how)))
    return place


def _row_of_images(
    model: nn.Module, head: Any, known: list[int], name: str, images: Pictures, beside: Pictures | None
) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias that a few images give; ``known`` are the rows of the classes there are."""
    linear, size = not isinstance(head, CosineHead), input_size(model)
    if linear and beside is None:
        raise ModelError(
            "a linear head tells classes apart by what they do not have in common, so that enrolling one "
            "needs images of others, too: give some of each (beside=…, or --beside FOLDER)"
        )
    own = embeddings(model, pictures(images, size, f"images of {name!r}"))
    others = None
    if linear and beside is not None:
        others = embeddings(model, pictures(beside, size, "images of other classes", without=name))
    weight, bias = _row(head, known, own, others)
    if not (weight.isfinite().all() and (bias is None or bias.isfinite())):
        raise ModelError(f"the model's embeddings of the images of {name!r} are NaN or infinite")
    return weight, bias


def _place(model: nn.Module, name: str, total: int) -> int:
    """Return the row that a class gets: a further one, or that which it had before it was forgotten."""
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{name!r} is no name of a class; give some text")
    card, forgotten, key = card_of(model), _rows_of(ledger.of(model)), _composed(name)
    known = {_composed(n): row for row, n in enumerate(card.classes if card else ())}
    known |= _rows_of(ledger.events(model))
    if key in forgotten or key not in known:
        return forgotten.get(key, total)
    raise DataError(
        f"{name!r} is a class of the model already, row {known[key]} of its head; give another name, or "
        "forget it first"
    )


def _rows_of(entries: Sequence[Entry]) -> dict[str, int]:
    """Return the row of each class that some events are about."""
    return {_composed(name): row for e in entries for name, row in zip(e.classes, e.rows, strict=True)}


def _composed(name: str) -> str:
    """Return a name whose accents are composed: as the name of a folder they may not be."""
    return unicodedata.normalize("NFC", name)


def _row(
    head: nn.Module, kept: list[int], own: Tensor, others: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the row (D,) of a class, and its bias where the head has one, from embeddings (N, D)."""
    layer: Any = head
    acting = layer.weight.detach().float()[kept]
    if others is None:
        return acting.norm(dim=1).mean() * F.normalize(own.mean(dim=0), dim=0), None  # (13.1)
    mean = acting.mean(dim=0)
    length = (acting - mean).norm(dim=1).mean()
    weight = mean + length * F.normalize(own.mean(dim=0) - others.mean(dim=0), dim=0)  # (13.2)
    if layer.bias is None:
        return weight, None
    won = F.linear(others, acting, layer.bias.detach().float()[kept]).amax(dim=1)
    return weight, won.mean() - (own @ weight).mean()  # (13.3)


def _known_as(model: nn.Module, place: int, name: str) -> str:
    """Return how the card or the ledger writes the name of a class, its accents composed or not."""
    card = card_of(model)
    if card is not None and card.classes:
        return card.classes[place]
    before = (e.classes[e.rows.index(place)] for e in ledger.of(model) if place in e.rows)
    return next(before, name)


def _count_classes(model: Any, name: str, total: int) -> None:
    """Let the model and its card say how many classes there are, and what the new one is called."""
    if (card := card_of(model)) is not None and 0 < len(card.classes) < total:
        name_classes(model, (*card.classes, name))
    if hasattr(model, "num_classes"):
        model.num_classes = total


def embeddings(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return what the classifier reads of images (N, 3, H, W), (N, D), in float32."""
    network: Any = model
    like = next(p for p in model.parameters() if p.is_floating_point())
    mean, std = (torch.tensor(list(v), device=like.device)[:, None, None] for v in normalisation(model))
    found = []
    with lora.evaluating(model), autocast(like.device, "fp32"):
        for part in pixels.split(BATCH):
            scaled = part.to(like.device)
            scaled = scaled if scaled.is_floating_point() else scaled.float() / 255
            features = network.forward_features(((scaled - mean) / std).to(like.dtype))
            found.append(network.forward_head(features, pre_logits=True).float())
    return torch.cat(found)


def pictures(images: Pictures, size: int, what: str, without: str | None = None) -> Tensor:
    """Return images (N, 3, size, size), read from a folder where one is given.

    Args:
        images: as :func:`enrol` takes them.
        size: height and width that the model reads, in pixels.
        what: they are, for messages.
        without: the class folder that is passed over where the images lie in class folders; None for a folder
            of one class, whose images lie in it.

    Raises:
        DataError: where there is no image, or one that cannot be read or is of another kind.
    """
    if isinstance(images, Tensor):
        return _checked(images, size, what)
    root = Path(images).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root} with {what}")
    if without is None:
        files = loose_files(root)
    else:
        train = split_folders(root)["train"] or root
        files = [file for name, own in class_files(train).items() if name != without for file in own]
        if not files:
            raise DataError(f"{train} has no class folder with {what}; expected CLASS/image.jpg in it")
    everything = torch.arange(len(files))
    found: Tensor = image_set({what: files}, (what,), size, what, watch=False).images[everything]
    return found


def _checked(images: Tensor, size: int, what: str) -> Tensor:
    expected = f"expected (N, 3, {size}, {size}), one image or more, uint8 or floats from 0 to 1"
    if images.dim() != 4 or not len(images) or tuple(images.shape[1:]) != (3, size, size):
        raise DataError(f"the {what} have shape {tuple(images.shape)}; {expected}")
    floats = images.is_floating_point()
    if not (floats or images.dtype == torch.uint8) or (floats and not 0 <= images.min() <= images.max() <= 1):
        values = f"{images.dtype} from {float(images.min()):g} to {float(images.max()):g}"
        raise DataError(f"the {what} are {values}; {expected}")
    return images
