"""KLoM over several edited models: one model has margins, several have a distribution of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minigslora.audit import detection
from minigslora.audit.relearning import Attack
from minigslora.audit.run import Model, forgotten, loaded, require_different, require_oracles, subject_of
from minigslora.audit.similarity import klom, margins
from minigslora.audit.subject import Case, Subject
from minigslora.datasets.images import DataSet
from minigslora.erasure import data_for
from minigslora.errors import ConfigError


def klom_of(
    models: Iterable[Model],
    data: DataSet | str | Path,
    classes: Sequence[str | int],
    oracles: Iterable[Model],
    device: str = "auto",
    watch: bool = True,
) -> float:
    """Return KLoM of edited models: the median over the forgotten classes' test images, in nats.

    0 is what no image tells apart; see :func:`minigslora.audit.similarity.klom`, which is of each image.

    Args:
        models: classifiers edited by one method with two seeds or more: files, or live models.
        data: as :func:`minigslora.audit.audit` takes it.
        classes: the forgotten ones, names or ids.
        oracles: two or more models that never saw them.
        device: "auto", "cpu" or "cuda".
        watch: whether to show progress.

    Raises:
        ConfigError: for fewer than two models or oracles, or a detector.
        DataError, ModelError: as :func:`minigslora.audit.audit`.
    """
    edited, references = ([loaded(m) for m in given] for given in (models, oracles))
    for what, given in (("models", edited), ("oracles", references)):
        if len(given) < 2:
            raise ConfigError(f"{len(given)} {what}; KLoM compares distributions: give two or more of each")
        if any(map(detection.is_detector, given)):
            raise ConfigError("KLoM reads one label an image, and so is not defined for a detector")
    pictures = data_for(edited[0], data, watch)
    case = Case(pictures, forgotten(edited[0], pictures, classes), Attack())
    ours = [subject_of(f"model {i}", m, case, device) for i, m in enumerate(edited, 1)]
    theirs = [subject_of(f"oracle {i}", m, case, device) for i, m in enumerate(references, 1)]
    require_different(ours)
    require_oracles(theirs, ours[0])

    def of(subjects: Sequence[Subject]) -> Tensor:
        gone = subjects[0].test_gone
        return torch.stack([margins(s.test.logits[gone].double(), s.test.labels[gone]) for s in subjects])

    return float(klom(of(ours), of(theirs)).median())
