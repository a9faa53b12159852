"""``minigslora enrol``: one more class for the model in a file, written to another."""

from __future__ import annotations

from pathlib import Path

import torch

from minigslora.enrolment import embeddings, enrol, pictures
from minigslora.erasure import finalize, finalized_file
from minigslora.errors import ConfigError
from minigslora.files import require_new, require_writable
from minigslora.forget_command import keep_source
from minigslora.models import checkpoint
from minigslora.models.head_slicing import classifier


def enrol_into(weights: Path, name: str, images: Path, beside: Path | None, target: Path) -> str:
    """Enrol a class into the model of a file, and write it to another file.

    Args:
        weights: the model's file, which says its architecture.
        name: what the class is called.
        images: the folder that its images lie in.
        beside: class folders of other classes; see :func:`minigslora.enrolment.enrol`.
        target: the file to write.

    Returns:
        What was done, in words.

    Raises:
        ConfigError: for a target that is there already or is the source, and a folder in place of a file.
    """
    if weights.is_dir():
        raise ConfigError(
            f"{weights} is a folder; give the model's file, as {weights / 'erased.safetensors'}"
        )
    keep_source(finalized_file(target), weights)
    require_new(target)
    require_writable(target.parent)
    model, card = checkpoint.load(weights)
    row = enrol(model, name, images, beside)
    with torch.no_grad():
        read = embeddings(model, pictures(images, checkpoint.input_size(model), f"images of {name!r}"))
        named = classifier(model)(read.to(classifier(model).weight.dtype)).argmax(dim=1) == row
    again = " again" if row < len(card.classes) else ""
    finalize(model, target)
    return (
        f"enrolled {name}{again}: row {row} of {len(classifier(model).weight)}; the model names "
        f"{int(named.sum())} of its {len(named)} images so\nmodel: {target}"
    )
