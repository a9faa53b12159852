"""The command line: ``minigslora COMMAND --help`` says more.

What takes long to import is imported by the command that needs it, so that help is immediate.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import inspect
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from minigslora.errors import ConfigError, MiniGSLoRAError

if TYPE_CHECKING:
    from torch import nn

    from minigslora.datasets.images import DataSet
    from minigslora.erasure import Erasure
    from minigslora.pretraining import Epoch

NOTEBOOKS = "uv run jupyter lab notebooks/00_start_here.ipynb"

WITHOUT_EFFECT, FAULT = 3, 70
"""Exit codes beside 0 and 2: a request changed nothing; a fault of the program."""

_WORKING_IN: ContextVar[Path] = ContextVar("the folder of the run")

app = typer.Typer(
    help="Continual forgetting for pre-trained vision transformers: GS-LoRA and GS-LoRA++.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Seed = Annotated[int, typer.Option(help="Of the images used, initialisation and order.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Out = Annotated[Optional[Path], typer.Option(help="Folder for the results.")]
Changes = Annotated[
    Optional[list[str]], typer.Option("--set", help="KEY=VALUE of the method or its training; repeatable.")
]


@app.command()
def quickstart(
    identity: Annotated[str, typer.Option(help="Who is erased: a name, or a number from 0.")] = "person-007",
    seed: Seed = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the retained images.")] = 10,
    out: Out = None,
) -> None:
    """Erase one identity from the shipped face model and show what became of it."""
    from minigslora import report
    from minigslora.course.runs import runs_root
    from minigslora.files import require_writable
    from minigslora.models import checkpoint

    folder = out or runs_root() / "quickstart"
    require_writable(folder)
    _WORKING_IN.set(folder)
    model, _ = checkpoint.load_shipped("mini-faces")
    data = _load_data("mini-faces", None)
    erasure, before = _erase(model, data, [[identity]], seed=seed, epochs=epochs)
    asked = {"model": "mini-faces, shipped", "data": "mini-faces", "identity": identity, "seed": seed}
    page = report.write(
        erasure,
        before,
        folder,
        "One identity erased from a face model",
        asked,
        f"To go on, open the notebooks: {NOTEBOOKS}",
    )
    typer.echo(report.summary(erasure))
    typer.echo(f"report:    {page}\nnotebooks: {NOTEBOOKS}")
    _exit_if_without_effect(erasure)


@app.command()
def forget(
    data: Annotated[str, typer.Option(help="A folder train/CLASS/*.jpg, test/CLASS/*.jpg, or a name.")],
    classes: Annotated[
        list[str], typer.Option(help="Classes to forget, a,b,c; given again: the next request.")
    ],
    weights: Annotated[Path, typer.Option(help="The model's weights: safetensors, or a state dict.")],
    model: Annotated[
        Optional[str], typer.Option(help="timm's name of the model; not needed where the file says it.")
    ] = None,
    method: Annotated[str, typer.Option(help="gslora++, gslora, …")] = "gslora++",
    recipe: Annotated[str, typer.Option(help="corrected or released.")] = "corrected",
    ratio: Annotated[float, typer.Option(help="Share of the training images used.")] = 0.1,
    shots: Annotated[int, typer.Option(help="Images of each class used instead, if not 0.")] = 0,
    model_args: Annotated[
        Optional[list[str]],
        typer.Option(help="KEY=VALUE of timm's model, with --model: patch_size=8, depth=6, …; repeatable."),
    ] = None,
    image_size: Annotated[Optional[int], typer.Option(help="Input size, where not the model's own.")] = None,
    mean: Annotated[
        Optional[str], typer.Option(help="Normalisation, as .5,.5,.5; timm's by default.")
    ] = None,
    std: Annotated[Optional[str], typer.Option(help="Normalisation, as .5,.5,.5; timm's by default.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    class_names: Annotated[
        Optional[Path],
        typer.Option(help="A file of the classes' names in the order of the model's head, one a line."),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Whether to make sure first that the model knows the classes in this order.")
    ] = True,
    out: Out = None,
    finalize: Annotated[
        Optional[Path], typer.Option(help="The erased model's file; OUT/erased.safetensors by default.")
    ] = None,
    change: Changes = None,
) -> None:
    """Erase classes from your own model, on your own images, and write a report.

    OUT receives report.html, table.csv, before_after.png and the erased model as one plain file,
    without the pre-trained weights or adapters. A stopped run goes on when started again. The exit code is 3
    where a request changed nothing.
    """
    from minigslora import report
    from minigslora.course.runs import runs_root
    from minigslora.device import pick_device
    from minigslora.erasure import finalized_file
    from minigslora.files import alone_in, read_lines, require_writable, sha256
    from minigslora.fingerprint import library_fingerprint
    from minigslora.training import RunFolder

    settings = method_settings(change or [])
    order = read_lines(class_names) if class_names else None
    arguments = parse_pairs(model_args or [])
    normal = _triple("mean", mean), _triple("std", std)
    network, images = _own_model(model, weights, data, arguments, image_size, *normal, order)
    requests = [split_classes(images, text) for text in classes]
    asked = {
        "model": model or "as the file says",
        "weights": f"{weights.name}, sha256 {sha256(weights)}",
        **({"model arguments": arguments} if arguments else {}),
        "data": data,
        "requests": requests,
        "method": method,
        "recipe": recipe,
        "images": f"{shots} of each class" if shots else f"{100 * ratio:g} % of the training images",
        "seed": seed,
        "changed": settings,
    }
    identity = {
        **asked,
        "data": images.fingerprint(),
        "input": [images.image_size, *normal],
        "device": pick_device(device).type,
        "library": library_fingerprint(),
    }
    folder = out or runs_root() / "forget" / _run_id(images.name, identity)
    _WORKING_IN.set(folder)
    erased = finalized_file(finalize or folder / "erased.safetensors")
    _keep_source(erased, weights)
    with alone_in(folder):
        if not (folder / "run.json").is_file():
            for name in ("report.html", "table.csv", "before_after.png"):
                _require_new(folder / name)
        RunFolder(folder, identity)  # refuses a folder of another run, and one that cannot be written
        require_writable(erased.parent)
        _claim(erased, folder)
        earlier = sorted(path.stem for path in (folder / "tasks").glob("task*.json"))
        erasure, before = _erase(
            network,
            images,
            requests,
            method=method,
            recipe=recipe,
            ratio=ratio,
            shots=shots,
            seed=seed,
            device=device,
            check=check,
            out=folder / "tasks",
            **settings,
        )
        erasure.finalize(erased)
        page = report.write(
            erasure, before, folder, f"Erased from {images.name}", asked, f"The erased model: {erased}"
        )
    typer.echo(report.table(erasure).round(1).to_string())
    if earlier and not _watched():  # who watches has been told
        typer.echo(f"taken from an earlier run in {folder}: {', '.join(earlier)}")
    if images.split_by_us:
        typer.echo(report.SPLIT_BY_US)
    typer.echo(f"{report.summary(erasure)}\nreport:       {page}\nerased model: {erased}")
    _exit_if_without_effect(erasure)


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="mini-faces, mini-glyphs, mini-scenes, casia-face100, …")],
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the training images.")] = None,
    image_size: Annotated[Optional[int], typer.Option(help="Input size in pixels.")] = None,
    width: Annotated[Optional[int], typer.Option(help="Dimension of the tokens.")] = None,
    depth: Annotated[Optional[int], typer.Option(help="Number of blocks.")] = None,
    start: Annotated[
        Optional[str], typer.Option(help="Checkpoint to start from: mini-faces, or a file; '' for none.")
    ] = None,
    without: Annotated[
        Optional[Path],
        typer.Option(help="A file of class names, one a line, that the model never sees: a reference model."),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[Optional[Path], typer.Option(help="The checkpoint, FILE.safetensors.")] = None,
) -> None:
    """Pre-train a model; its record goes beside it as JSON."""
    from minigslora.course.runs import runs_root
    from minigslora.files import read_lines
    from minigslora.pretraining import make_checkpoint, recipe_for

    sizes = {"image_size": image_size, "dim": width, "depth": depth}
    left_out = read_lines(without) if without else []
    recipe = recipe_for(name, device, epochs=epochs, start=start, seed=seed, without=left_out, **sizes)
    target = out or runs_root() / "pretrain" / f"{name}.safetensors"
    for file in (target, target.with_suffix(".json")):
        _require_new(file)
    given: dict[str, Any] = {"epochs": epochs, "image-size": image_size, "width": width, "depth": depth}
    given |= {"start": start, "without": without}
    options = "".join(f" --{key} {value}" for key, value in given.items() if value is not None)
    command = f"minigslora pretrain {name}{options} --device {device} --seed {seed}"
    watch, total = _watched(), recipe.training.epochs

    def say(done: Epoch) -> None:
        if not watch:  # a log file has no progress bar
            figures = f"loss {done.loss:.2f}, val {done.acc_val:.1f} %, {done.seconds:.0f} s"
            typer.echo(f"epoch {done.epoch} of {total}: {figures}", err=True)

    record = make_checkpoint(name, recipe, target, device, command, watch, say)
    for key, value in record["metrics"].items():
        typer.echo(f"{key:16} {value}")
    typer.echo(f"{'sha256':16} {record['sha256']}\n{'checkpoint':16} {target}")


@app.command("import")
def import_(
    weights: Annotated[Path, typer.Argument(help="A released Face Transformer: a state dict, .pth or .pt.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write, FILE.safetensors.")],
    lora: Annotated[
        str, typer.Option(help="ignore: already merged (saved after training); fold: add it to the weights.")
    ] = "ignore",
    head: Annotated[str, typer.Option(help="cosface or arcface.")] = "cosface",
    image_size: Annotated[int, typer.Option(help="Input size in pixels.")] = 112,
) -> None:
    """Convert a released Face Transformer checkpoint into one of ours."""
    from minigslora.models.released import import_official

    _require_new(out)
    choices: dict[str, Any] = {"lora": lora, "head": head, "image_size": image_size}
    card = import_official(weights, out, **choices)
    typer.echo("\n".join(f"{key:12} {value}" for key, value in card.architecture.items()))
    typer.echo(f"{'checkpoint':12} {out}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="timm's name of the model, or torchvision's: vit_b_16, …")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write, FILE.safetensors.")],
    weights: Annotated[str, typer.Option(help="A file of its weights; downloaded where none is given.")] = "",
) -> None:
    """Make a checkpoint of ours from a pre-trained ImageNet model, its whole head included."""
    from minigslora.erasure import finalized_file
    from minigslora.files import require_writable
    from minigslora.models import checkpoint, pretrained

    target = finalized_file(out)
    _require_new(target)
    require_writable(target.parent)
    model, card = pretrained.load(name, weights)
    checkpoint.save(target, model, card)
    typer.echo(f"{card.architecture['name']}, {card.architecture['classes']} classes\ncheckpoint {target}")


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="A number (4), a name (04_…) or a path.")],
    parameters: Annotated[
        Optional[list[str]], typer.Option("-p", "--parameter", help="KEY=VALUE; repeatable.")
    ] = None,
    profile: Annotated[Optional[str], typer.Option(help="smoke, cpu, gpu or paper.")] = None,
    out: Out = None,
) -> None:
    """Run one notebook with parameters; its results go to a folder of their own."""
    from minigslora.course.runs import run_notebook

    values = parse_pairs(parameters or [])
    if profile is not None:
        values["profile"] = profile
    typer.echo(run_notebook(notebook, values, out, _watched(), say=partial(typer.echo, err=True)))


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="table2, table3, table4, table5, coco or strangers.")],
    profile: Annotated[str, typer.Option(help="smoke, cpu, gpu or paper.")] = "cpu",
    methods: Annotated[
        str, typer.Option(help="Names, a,b,c; all; name:released for one recipe only.")
    ] = "gslora,gslora++",
    recipes: Annotated[str, typer.Option(help="Of methods named without one.")] = "corrected,released",
    scenarios: Annotated[str, typer.Option(help="Some of the table's, a,b,c; all by default.")] = "",
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 1,
    jobs: Annotated[
        Optional[int], typer.Option(help="Runs at a time; one per GPU, or 1, by default.")
    ] = None,
    data: Annotated[str, typer.Option(help="Data set; the profile's by default.")] = "",
    weights: Annotated[str, typer.Option(help="Pre-trained model; the shipped one by default.")] = "",
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[Optional[str], typer.Option(help="Of a Ray cluster.")] = None,
    change: Annotated[
        Optional[list[str]], typer.Option("--set", help="KEY=VALUE, or METHOD/KEY=VALUE; repeatable.")
    ] = None,
) -> None:
    """Run a published table: ours beside the published numbers, as CSV and one HTML page.

    Every run is a papermill run of the benchmark's notebook in a process of its own. A grid that was
    stopped goes on when the same command is given again; what has finished is not run again.
    """
    from minigslora.reproduction import engines, page
    from minigslora.reproduction.benchmark import contenders
    from minigslora.reproduction.grid import Grid, run_grid

    grid = Grid(
        table,
        profile,
        contenders(split_list(methods), split_list(recipes)),
        seeds,
        data,
        weights,
        tuple(split_list(scenarios)),
        by_method(parse_pairs(change or [])),
    )
    grid.jobs()  # refuses what cannot be run before an engine is started
    outcomes = run_grid(grid, engines.make(engine, jobs, address), watch=True)
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed:
        typer.echo(f"failed: {outcome.job.label}: {outcome.error}", err=True)
    typer.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} runs have finished")
    typer.echo(f"report: {page.write(grid.folder)}")
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[
        Optional[list[Path]], typer.Argument(help="Folders of grids; all below runs/reproduce by default.")
    ] = None,
) -> None:
    """Collect the results of grids, finished or not, into CSV files and an HTML page each."""
    from minigslora.course.runs import runs_root
    from minigslora.reproduction import page

    found = folders or sorted(path.parent for path in (runs_root() / "reproduce").rglob("grid.json"))
    if not found:
        raise ConfigError(f"no grid below {runs_root() / 'reproduce'}; run 'minigslora reproduce' first")
    problems = []
    for folder in found:
        try:
            typer.echo(page.write(folder))
        except MiniGSLoRAError as problem:
            problems.append(f"error: {problem}")
    if problems:
        typer.echo("\n".join(problems), err=True)
        raise typer.Exit(1)


@app.command()
def doctor(
    files: Annotated[
        Optional[list[Path]],
        typer.Argument(help="Weight files to say all about instead: what they forgot, …"),
    ] = None,
) -> None:
    """Say in one screen what works on this machine; the exit code is 1 where something does not.

    Of a weight file it says what it is, and, if classes were erased from it, its ledger.
    """
    from minigslora.doctor import examine, examine_file

    findings = []
    for finding in [f for file in files for f in examine_file(file)] if files else examine():
        typer.echo(str(finding))
        findings.append(finding)
    if any(finding.well is False for finding in findings):
        raise typer.Exit(1)


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE pairs as a dictionary, values read by :func:`minigslora.text.read_value`.

    Raises:
        ConfigError: for a pair without "=", a key given twice, or a list that does not end.
    """
    from minigslora.text import read_value

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{pair!r} is no setting; expected KEY=VALUE, as in epochs=10")
        if key in found:
            raise ConfigError(f"{key} is given twice; give it once")
        found[key] = read_value(text)
    return found


def method_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the KEY=VALUE pairs of --set.

    Raises:
        ConfigError: for what :func:`parse_pairs` refuses, or a key that is an option of its own.
    """
    from minigslora.erasure import forget as erase

    found = parse_pairs(pairs)
    own = set(inspect.signature(erase).parameters) - {"settings", "precision"}
    if taken := sorted(own & found.keys()):
        raise ConfigError(
            f"--set {taken[0]}: that is no setting of the method or its training; give it as an option "
            "(minigslora forget --help lists them)"
        )
    return found


def split_list(text: str) -> list[str]:
    """Return the parts of "a,b,c"."""
    return [part.strip() for part in text.split(",") if part.strip()]


def by_method(pairs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return settings by the method they are for: "" for all, else what stands before the "/"."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs.items():
        method, _, name = key.rpartition("/")
        found.setdefault(method, {})[name] = value
    return found


def split_classes(data: DataSet, text: str) -> list[str]:
    """Return the classes of one request; a class whose name has a comma in it may stand alone.

    Raises:
        DataError: for a number that is a class's name and another one's position.
    """
    names = [text] if text in data.classes else [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        data.require_clear(name)
    return names


def _triple(key: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise ConfigError(f"{key} = {text!r}; expected three numbers, as in .5,.5,.5")
    return values


def _keep_source(target: Path, source: Path) -> None:
    """Raise a :class:`ConfigError` where what is written would replace the weights it is made from."""
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the file of the weights given, which are kept; write to another file")


def _require_new(target: Path) -> None:
    """Raise a :class:`ConfigError` where what is written would replace a file."""
    if target.exists():
        raise ConfigError(f"{target} is there already and is kept; write to another file, or remove it first")


def _claim(target: Path, folder: Path) -> None:
    """Note in a run's folder where it writes its erased model; refuse a file that another run or user wrote.

    Raises:
        ConfigError: for such a file.
    """
    from minigslora.files import read_json, write_json

    claimed, own = folder / "finalized.json", str(target.resolve())
    known: list[str] = read_json(claimed) if claimed.is_file() else []
    if own not in known:
        _require_new(target)
    write_json(claimed, sorted({*known, own}))


def _exit_if_without_effect(erasure: Erasure) -> None:
    """End with exit code 3 where a request changed nothing, saying which."""
    for report in erasure.without_effect:
        m = report.metrics
        names = ", ".join(erasure.problem.data.classes[c] for c in report.forget)
        why = "the model hardly knew them before: look at the order of the classes and the normalisation"
        if m["acc_f"] >= m["acc_f_before"]:
            why = "nothing was forgotten: train longer (--set epochs=…)"
        figures = f"Acc_f was {m['acc_f_before']:.1f} % before and is {m['acc_f']:.1f} % now"
        typer.echo(f"no effect: {report.task} ({names}): {figures}; {why}", err=True)
    if erasure.without_effect:
        raise typer.Exit(WITHOUT_EFFECT)


def _own_model(
    name: str | None,
    weights: Path,
    data_name: str,
    arguments: dict[str, Any],
    image_size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    order: Sequence[str] | None = None,
) -> tuple[nn.Module, DataSet]:
    """Return someone's model with its weights, and the data at its input size, in the order of its head."""
    from minigslora.class_order import in_heads_order
    from minigslora.files import load_tensors
    from minigslora.models import checkpoint

    options = {"model-args": arguments, "image-size": image_size, "mean": mean, "std": std}
    if name is None:
        if given := [key for key, value in options.items() if value]:
            raise ConfigError(f"--{given[0]} goes with --model NAME; {weights.name} brings its own")
        model, card = checkpoint.load(weights, "name it (--model NAME)")
        data = _load_data(data_name, checkpoint.input_size(model))
        return model, in_heads_order(data, order, card.classes, weights.name)
    if image_size is not None and arguments.setdefault("img_size", image_size) != image_size:
        raise ConfigError(
            f"--image-size {image_size} and --model-args img_size={arguments['img_size']} differ"
        )
    own = checkpoint.timm_card(name, arguments, mean, std)
    tensors, notes = load_tensors(weights)
    if "taken" in notes:
        typer.echo(f"{notes['taken']} of {weights.name} is taken", err=True)
    data = _load_data(data_name, own.image_size)
    data = in_heads_order(data, order, notes.get("classes", ()), weights.name)
    card = checkpoint.for_classes(own, data.classes)
    return checkpoint.with_weights(card, tensors, str(weights), notes), data


def _load_data(name: str, size: int | None) -> DataSet:
    from minigslora.datasets import registry

    return registry.load(name, size, _watched())


def _erase(
    model: nn.Module, data: DataSet, requests: list[list[str]], /, **options: Any
) -> tuple[Erasure, Any]:
    """Return the erasure, and the class the model predicted for each test image before it."""
    import copy

    from minigslora.erasure import forget as erase

    original = copy.deepcopy(model)
    erasure = erase(model, data, requests, watch=_watched(), **options)
    before = erasure.problem.predict("test", original.to(erasure.problem.device)).argmax(dim=1)
    return erasure, before


def _run_id(data: str, asked: dict[str, Any]) -> str:
    text = json.dumps(asked, sort_keys=True, default=str)
    return f"{data}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _watched() -> bool:
    """Whether someone watches the terminal, so that progress is drawn."""
    return sys.stderr.isatty()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can act on is one line on stderr, with exit code 2.

    Anything else that goes wrong is a fault of the program: its traceback goes to a file, and the exit code
    is 70 (EX_SOFTWARE of sysexits.h).
    """
    from minigslora.text import expand_home, safe_streams

    safe_streams()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=[expand_home(text) for text in given], prog_name="minigslora")
    except MiniGSLoRAError as problem:
        _fail(str(problem), 2)
    except Exception as fault:
        if reason := _of_the_machine(fault):
            _fail(reason, 2)
        _fail(
            f"this is a fault of minigslora, not of what you gave it ({type(fault).__name__}). Its traceback "
            f"is in {_keep_traceback()}; please report it with the command that you gave. What was written "
            "is kept",
            FAULT,
        )


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _of_the_machine(fault: Exception) -> str:
    """Say what the machine or its user refused, if that is what went wrong; "" otherwise."""
    text = str(fault)
    if isinstance(fault, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return (
            "out of memory; close other programs, give smaller images (--image-size) or smaller batches "
            "(--set batch_retain=… --set batch_forget=…)"
        )
    if isinstance(fault, OSError) and fault.errno is not None and fault.filename is not None:
        return (
            f"{fault.filename}: {fault.strerror}; check the path, its permissions and the space on the disk"
        )
    return ""


def _keep_traceback() -> Path:
    """Write the traceback of what is being handled into the run's folder, or else a temporary one."""
    text = "".join(traceback.format_exception(*sys.exc_info()))
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for folder in (_WORKING_IN.get(None), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            if folder is not None and folder.is_dir():
                path = folder / f"traceback-{now}-{os.getpid()}.txt"
                path.write_text(f"{sys.argv}\n{text}", encoding="utf-8")
                return path
    sys.stderr.write(text)
    return Path("the lines above")
