"""``minigslora forget``: someone's model and images, a folder that is the run's own, a report."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from minigslora.class_order import in_heads_order
from minigslora.datasets import registry
from minigslora.datasets.images import DataSet, Splits
from minigslora.erasure import Erasure, forget
from minigslora.errors import ConfigError
from minigslora.files import (
    alone_in,
    load_tensors,
    read_lines,
    require_new,
    require_writable,
    sha256,
    write_json,
)
from minigslora.finished_run import keep_live
from minigslora.models import checkpoint
from minigslora.reproduction import report
from minigslora.sequence import FINALIZED, RunFolder, written
from minigslora.text import parse_pairs, split_list


def method_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the KEY=VALUE pairs of --set; a key that is an option of its own is a :class:`ConfigError`."""
    found = parse_pairs(pairs)
    own = set(inspect.signature(forget).parameters) - {"settings", "precision"}
    if taken := sorted(own & found.keys()):
        raise ConfigError(
            f"--set {taken[0]}: that is no setting of the method or its training; give it as an option "
            "(minigslora forget --help lists them)"
        )
    return found


def split_classes(data: Splits[Any], text: str) -> list[str]:
    """Return the classes of one request; a class whose name has a comma in it may stand alone.

    A number that is a class's name and another one's position is a :class:`DataError`.
    """
    names = [text] if text in data.classes else split_list(text)
    for name in names:
        data.require_clear(name)
    return names


def brings_its_own(weights: Path, options: Mapping[str, Any]) -> None:
    """Refuse options of a model that is named, by what they are called, where a file says what it is."""
    if given := [key for key, value in options.items() if value]:
        raise ConfigError(f"--{given[0]} goes with --model NAME; {weights.name} brings its own")


def own_model(
    name: str | None,
    weights: Path,
    data_name: str,
    arguments: dict[str, Any],
    image_size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    class_names: Path | None = None,
    watch: bool = False,
) -> tuple[nn.Module, DataSet]:
    """Return someone's model with its weights, and the data at its input size, in the order of its head.

    Args:
        name: timm's, of a model whose file does not say what it is.
        weights: the file.
        data_name: a data set's, or a folder.
        arguments: of timm's model.
        image_size: the input size; it, ``mean`` and ``std`` are for where they are not the model's own.
        mean: of the normalisation.
        std: of the normalisation.
        class_names: a file of the classes in the head's order.
        watch: whether to show progress.
    """
    order = read_lines(class_names) if class_names else None
    options = {"model-args": arguments, "image-size": image_size, "mean": mean, "std": std}
    if name is None:
        brings_its_own(weights, options)
        model, card = checkpoint.load(weights, "name it (--model NAME)")
        data = registry.load(data_name, checkpoint.input_size(model), watch)
        return model, in_heads_order(data, order, card.classes, weights.name)
    if image_size is not None and arguments.setdefault("img_size", image_size) != image_size:
        raise ConfigError(
            f"--image-size {image_size} and --model-args img_size={arguments['img_size']} differ"
        )
    own = checkpoint.timm_card(name, arguments, mean, std)
    tensors, notes = load_tensors(weights)
    if "taken" in notes:
        print(f"{notes['taken']} of {weights.name} is taken", file=sys.stderr)
    data = registry.load(data_name, own.image_size, watch)
    data = in_heads_order(data, order, notes.get("classes", ()), weights.name)
    card = checkpoint.for_classes(own, data.classes)
    return checkpoint.with_weights(card, tensors, str(weights), notes), data


def erase(
    model: nn.Module, data: DataSet, requests: list[list[str]], /, **options: Any
) -> tuple[Erasure, Tensor]:
    """Return the erasure, and the class the model predicted for each test image before it, (N,)."""
    original = copy.deepcopy(model)
    erasure = forget(model, data, requests, **options)
    return erasure, erasure.problem.predict("test", original.to(erasure.problem.device)).argmax(dim=1)


def erase_into(
    folder: Path,
    erased: Path,
    weights: Path,
    identity: Mapping[str, Any],
    asked: Mapping[str, Any],
    model: nn.Module,
    data: DataSet,
    requests: list[list[str]],
    /,
    **options: Any,
) -> tuple[Erasure, list[str]]:
    """Erase, write the erased model's file and the report; a stopped run goes on in its folder.

    Args:
        folder: the run's.
        erased: the erased model's file.
        weights: the file that the model was loaded from.
        identity: all that the run's numbers depend on.
        asked: what was asked for, as the report shows it.
        model: what is edited.
        data: the images.
        requests: the classes of each.
        options: of :func:`minigslora.forget`.

    Returns:
        The erasure, and the requests that were taken from an earlier run.
    """
    with alone_in(folder):
        if not (folder / "run.json").is_file():
            for name in ("report.html", "table.csv", "before_after.png"):
                require_new(folder / name)
        RunFolder(folder, identity)  # refuses a folder of another run, and one that cannot be written
        require_writable(erased.parent)
        _claim(erased, folder)
        earlier = sorted(path.stem for path in (folder / "tasks").glob("task*.json"))
        erasure, before = erase(model, data, requests, out=folder / "tasks", **options)
        erasure.finalize(erased)
        keep_live(folder, weights, erasure.model)
        _note(erased, folder)
        title, further = f"Erased from {data.name}", f"The erased model: {erased}"
        report.write(erasure, before, folder, title, asked, further)
    return erasure, earlier


def keep_source(target: Path, source: Path) -> None:
    """Raise a :class:`ConfigError` where what is written would replace the weights it is made from."""
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the file of the weights given, which are kept; write to another file")


def _claim(target: Path, folder: Path) -> None:
    """Note in a run's folder where it writes its model; refuse a file that another run or user wrote."""
    known, own = written(folder), str(target.resolve())
    if own not in known:
        require_new(target)
        write_json(folder / FINALIZED, {**known, own: ""})


def _note(target: Path, folder: Path) -> None:
    """Note the hash of the model that a run wrote, so that its report is known to be of that file."""
    write_json(folder / FINALIZED, {**written(folder), str(target.resolve()): sha256(target)})
