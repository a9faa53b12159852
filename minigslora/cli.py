"""The command line: ``minigslora COMMAND --help`` says more.

What takes long to import is imported by the command that needs it, so that help is immediate.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from minigslora.errors import Advice, ConfigError, MiniGSLoRAError
from minigslora.text import by_method, expand_home, parse_pairs, safe_streams, split_list, three_numbers

if TYPE_CHECKING:
    from minigslora.erasure import Erasure
    from minigslora.pretraining import Epoch

NOTEBOOKS = "uv run jupyter lab notebooks/00_start_here.ipynb"

WITHOUT_EFFECT, MISMATCH, FAULT = 3, 4, 70
"""Exit codes beside 0 and 2: a request changed nothing; a file is not as said; a fault of the program."""

_WORKING_IN: ContextVar[Path] = ContextVar("the folder of the run")

app = typer.Typer(
    help="Continual forgetting for pre-trained vision transformers: GS-LoRA and GS-LoRA++.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Opt = typer.Option
Seed = Annotated[int, Opt(help="Of the images used, initialisation and order.")]
Device = Annotated[str, Opt(help="auto, cpu or cuda.")]
Out = Annotated[Optional[Path], Opt(help="Folder for the results.")]
Checkpoint = Annotated[Path, Opt(help="The checkpoint to write, FILE.safetensors.")]
ClassNames = Annotated[
    Optional[Path], Opt(help="A file of the classes' names in the order of the model's head, one a line.")
]
TimmName = Annotated[Optional[str], Opt(help="timm's name of the model; not needed where the file says it.")]
ImageSize = Annotated[Optional[int], Opt(help="Input size in pixels, where not the model's own.")]
Normalisation = Annotated[Optional[str], Opt(help="Normalisation, as .5,.5,.5; timm's by default.")]
Profile = Annotated[Optional[str], Opt(help="smoke, cpu, gpu or paper.")]
Pairs = Optional[list[str]]
Notebooks = Annotated[
    Optional[list[str]], typer.Argument(help="Numbers (03 05), names or paths; all of the course by default.")
]
ModelArgs = Annotated[
    Pairs, Opt(help="KEY=VALUE of timm's model, with --model: patch_size=8, depth=6, …; repeatable.")
]
Oracles = Annotated[
    Optional[list[Path]],
    Opt(
        "--oracle",
        help="A reference model that never saw the classes; repeatable: two make a band, five a narrow one.",
    ),
]


@app.command()
def quickstart(
    identity: Annotated[str, Opt(help="Who is erased: a name, or a number from 0.")] = "person-007",
    seed: Seed = 0,
    epochs: Annotated[int, Opt(help="Passes over the retained images.")] = 10,
    out: Out = None,
) -> None:
    """Erase one identity from the shipped face model and show what became of it."""
    from minigslora.datasets import registry
    from minigslora.files import require_writable, runs_root
    from minigslora.forget_command import erase
    from minigslora.models import checkpoint
    from minigslora.reproduction import report

    folder = out or runs_root() / "quickstart"
    require_writable(folder)
    _WORKING_IN.set(folder)
    model, _ = checkpoint.load_shipped("mini-faces")
    data = registry.load("mini-faces", None, _watched())
    erasure, before = erase(model, data, [[identity]], watch=_watched(), seed=seed, epochs=epochs)
    asked = {"model": "mini-faces, shipped", "data": "mini-faces", "identity": identity, "seed": seed}
    title, further = "One identity erased from a face model", f"To go on, open the notebooks: {NOTEBOOKS}"
    page = report.write(erasure, before, folder, title, asked, further)
    typer.echo(f"{report.summary(erasure)}\nreport:    {page}\nnotebooks: {NOTEBOOKS}")
    _exit_if_without_effect(erasure)


@app.command()
def forget(
    data: Annotated[str, Opt(help="A folder train/CLASS/*.jpg, test/CLASS/*.jpg, or a name.")],
    classes: Annotated[list[str], Opt(help="Classes to forget, a,b,c; given again: the next request.")],
    weights: Annotated[Path, Opt(help="The model's weights: safetensors, or a state dict.")],
    model: TimmName = None,
    method: Annotated[str, Opt(help="gslora-deep, gslora++, gslora, …")] = "gslora-deep",
    recipe: Annotated[str, Opt(help="corrected or released.")] = "corrected",
    ratio: Annotated[float, Opt(help="Share of the training images used.")] = 0.1,
    shots: Annotated[int, Opt(help="Images of each class used instead, if not 0.")] = 0,
    model_args: ModelArgs = None,
    image_size: ImageSize = None,
    mean: Normalisation = None,
    std: Normalisation = None,
    seed: Seed = 0,
    device: Device = "auto",
    class_names: ClassNames = None,
    check: Annotated[
        bool, Opt(help="Whether to make sure first that the model knows the classes in this order.")
    ] = True,
    out: Out = None,
    finalize: Annotated[
        Optional[Path], Opt(help="The erased model's file; OUT/erased.safetensors by default.")
    ] = None,
    change: Annotated[Pairs, Opt("--set", help="KEY=VALUE of method or training; repeatable.")] = None,
    audit: Annotated[
        bool, Opt("--audit", help="Whether to audit the erased model then; see 'minigslora audit'.")
    ] = False,
    oracle: Oracles = None,
) -> None:
    """Erase classes from your own model, on your own images, and write a report.

    OUT receives report.html, table.csv, before_after.png and the erased model as one plain file,
    without the pre-trained weights or adapters. A stopped run goes on when started again. The exit code is 3
    where a request changed nothing.
    """
    from minigslora import forget_command as command
    from minigslora.device import pick_device
    from minigslora.erasure import finalized_file
    from minigslora.files import load_tensors, runs_root, sha256
    from minigslora.fingerprint import fingerprint_of, library_fingerprint
    from minigslora.reproduction import report

    if oracle and not audit:
        raise ConfigError("--oracle is what --audit compares with; give --audit, too")
    for file in oracle or []:
        load_tensors(file)  # what cannot be read is refused before long work
    settings, arguments = command.method_settings(change or []), parse_pairs(model_args or [])
    normal = three_numbers("mean", mean), three_numbers("std", std)
    network, images = command.own_model(
        model, weights, data, arguments, image_size, *normal, class_names, _watched()
    )
    requests = [command.split_classes(images, text) for text in classes]
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
        "test split": "drawn from the images given" if images.split_by_us else "the data's own",
        "device": pick_device(device).type,
        "library": library_fingerprint(),
    }
    run_id = fingerprint_of(json.dumps(identity, sort_keys=True, default=str))[:10]
    folder = out or runs_root() / "forget" / f"{images.name}-{run_id}"
    _WORKING_IN.set(folder)
    erased = finalized_file(finalize or folder / "erased.safetensors")
    command.keep_source(erased, weights)
    options: dict[str, Any] = {"method": method, "recipe": recipe, "ratio": ratio, "shots": shots}
    options |= {"seed": seed, "device": device, "check": check, "watch": _watched(), **settings}
    erasure, earlier = command.erase_into(
        folder, erased, weights, identity, asked, network, images, requests, **options
    )
    typer.echo(report.table(erasure).round(1).to_string())
    if earlier and not _watched():  # who watches has been told
        typer.echo(f"taken from an earlier run in {folder}: {', '.join(earlier)}")
    if images.split_by_us:
        typer.echo(report.SPLIT_BY_US)
    page = folder / "report.html"
    typer.echo(f"{report.summary(erasure)}\nreport:       {page}\nerased model: {erased}")
    if audit:
        from minigslora.audit_command import after_forgetting

        options = {"seed": seed, "device": device, "watch": _watched()}
        typer.echo(after_forgetting(erasure, erased, weights, oracle or [], folder, **options))
    _exit_if_without_effect(erasure)


@app.command()
def revoke(
    run: Annotated[Path, typer.Argument(help="The folder of a 'minigslora forget' (its --out).")],
    task: Annotated[
        Optional[str], Opt(help="The request, as task2; the newest that stands by default.")
    ] = None,
    finalize: Annotated[
        Optional[Path], Opt(help="The model's file; RUN/erased-without-TASK.safetensors by default.")
    ] = None,
    weights: Annotated[
        Optional[Path], Opt(help="The file that the run began with, where it was moved since.")
    ] = None,
) -> None:
    """Take back a request that was a mistake: write the model of a finished run without it.

    Other requests stand. The file's ledger keeps both the request and that it was revoked, with dates; the
    run's report and its erased model stay as they are. The run does not bring the request back.
    """
    from minigslora.revoke_command import revoke_in

    said, path = revoke_in(run, task, finalize, weights)
    typer.echo(f"{said}\nmodel without it: {path}")


@app.command()
def enrol(
    weights: Annotated[Path, typer.Argument(help="The model's file; an erased one, too.")],
    name: Annotated[str, Opt(help="What the class is called.")],
    images: Annotated[Path, Opt(help="A folder with a few images of it.")],
    out: Checkpoint,
    beside: Annotated[
        Optional[Path], Opt(help="Class folders of other classes, CLASS/*.jpg, which a linear head needs.")
    ] = None,
) -> None:
    """Add a class to a model's head, from a few images and without training; or a forgotten one again.

    Later requests need data with images of the new class. The file's ledger says that it was enrolled.
    """
    from minigslora.enrol_command import enrol_into

    typer.echo(enrol_into(weights, name, images, beside, out))


@app.command()
def audit(
    weights: Annotated[Path, typer.Argument(help="The erased model's file.")],
    data: Annotated[str, Opt(help="As in 'forget'; of a detector a folder as COCO's or Pascal VOC's.")],
    classes: Annotated[
        Optional[str], Opt(help="The forgotten classes, a,b,c; those of the file's ledger by default.")
    ] = None,
    original: Annotated[Optional[Path], Opt(help="The model before it was edited.")] = None,
    oracle: Oracles = None,
    strangers: Annotated[
        Optional[Path], Opt(help="A folder of images of classes that no model ever saw: CLASS/*.jpg.")
    ] = None,
    only: Annotated[str, Opt(help="Audits to run, a,b,c; all by default.")] = "",
    images: Annotated[int, Opt(help="Training images of each class that the attacker has at most.")] = 20,
    model: TimmName = None,
    model_args: ModelArgs = None,
    image_size: ImageSize = None,
    mean: Normalisation = None,
    std: Normalisation = None,
    class_names: ClassNames = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Ask of an erased model what it still knows, beside models that never saw the classes.

    OUT receives audit.json and audit.html: probes, revived rows, relearning, verification and more, each
    with a verdict and what it does not prove. Files that are no checkpoints of ours are named with --model,
    as in 'minigslora forget'.
    """
    from minigslora import audit_command as command

    arguments = parse_pairs(model_args or [])
    normal = three_numbers("mean", mean), three_numbers("std", std)
    own = model, weights, data, arguments, image_size, *normal, class_names, _watched()
    others: dict[str, Any] = {"original": original, "oracles": oracle or [], "strangers": strangers}
    options: dict[str, Any] = {"only": split_list(only), "images": images, "seed": seed, "device": device}
    folder, say = command.audit_files(own, classes, others, out, _WORKING_IN.set, **options)
    typer.echo(f"{say}\nreport: {folder / 'audit.html'}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A file with a card, or the folder of a 'forget' run.")],
    to: Annotated[str, Opt(help="timm, peft, onnx or hf.")],
    out: Annotated[Path, Opt(help="What to write: a file for timm and onnx, a folder for peft and hf.")],
    weights: Annotated[
        Optional[Path], Opt(help="With the folder of a run: the weights that it began with; peft needs them.")
    ] = None,
) -> None:
    """Hand a model over: to timm, PEFT, onnxruntime, or as a Hugging Face folder with a model card.

    What was written is compared with the model's own answers before it takes its name. OUT must not be there
    yet. Adapters for PEFT are made from the folder of a run, as its --out named it; everything else is a
    plain model.
    """
    from minigslora.export_command import export_file

    typer.echo(export_file(model, to, out, weights))


@app.command()
def dossier(
    weights: Annotated[Path, typer.Argument(help="The erased model's file.")],
    out: Annotated[Path, Opt(help="The page to write, FILE.html; FILE.json goes beside it.")],
    run: Annotated[
        Optional[Path], Opt(help="The --out of the 'minigslora forget' that wrote the file.")
    ] = None,
    audit: Annotated[Optional[Path], Opt(help="The audit.json of a 'minigslora audit' of the file.")] = None,
    data: Annotated[
        Optional[str],
        Opt(help="Images, as in 'audit': accuracies are measured, and without --audit, audits run."),
    ] = None,
    original: Annotated[Optional[Path], Opt(help="The model before it was edited.")] = None,
    oracle: Oracles = None,
    strangers: Annotated[Optional[Path], Opt(help="As in 'audit'.")] = None,
    only: Annotated[str, Opt(help="Audits to run, a,b,c; all by default.")] = "",
    images: Annotated[int, Opt(help="Training images of each class that the attacker has at most.")] = 20,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Write the dossier of an erased model, for whoever asked and whoever checks: a page, and JSON.

    It holds the file's hashes, the ledger, accuracies before and after, the audits with what they do not
    prove, and how to verify all of it. Reports of another file are refused.
    """
    from minigslora import dossier_command as command

    others: dict[str, Any] = {"original": original, "oracles": oracle or [], "strangers": strangers}
    given: dict[str, Any] = {"run": run, "audit": audit, "data": data, "others": others}
    options: dict[str, Any] = {"only": split_list(only), "images": images, "seed": seed, "device": device}
    page, record = command.write(weights, out, **given, watch=_watched(), **options)
    typer.echo(f"dossier: {page}\nrecord:  {record}")


@app.command()
def verify(
    weights: Annotated[Path, typer.Argument(help="The erased model's file.")],
    dossier: Annotated[Path, Opt(help="The JSON that 'minigslora dossier' wrote.")],
    data: Annotated[
        Optional[str], Opt(help="Images: what the dossier says was measured on them is measured again.")
    ] = None,
    original: Annotated[Optional[Path], Opt(help="The model before; the one that the dossier names.")] = None,
    oracle: Oracles = None,
    strangers: Annotated[Optional[Path], Opt(help="As in 'audit'.")] = None,
    audit: Annotated[str, Opt(help="Audits to run again, a,b,c; all of the dossier's by default.")] = "",
    tolerance: Annotated[float, Opt(help="By how many percentage points a figure may differ.", min=0)] = 1.0,
    device: Device = "auto",
) -> None:
    """Check a file against its dossier, a line a check; the exit code is 4 where any of them fails.

    Without images hashes and the ledger are compared; with them accuracies and audits are measured again.
    """
    from minigslora import dossier_command as command

    others: dict[str, Any] = {"original": original, "oracles": oracle or [], "strangers": strangers}
    options: dict[str, Any] = {"audits": split_list(audit), "tolerance": tolerance, "device": device}
    checks = []
    for check in command.verify(weights, dossier, data=data, others=others, watch=_watched(), **options):
        typer.echo(check)
        checks.append(check)
    made = [check for check in checks if check.passed is not None]
    typer.echo(f"{sum(check.passed is True for check in made)} of {len(made)} checks passed")
    if not all(check.passed for check in made):
        raise typer.Exit(MISMATCH)


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="mini-faces, mini-glyphs, mini-scenes, casia-face100, …")],
    epochs: Annotated[Optional[int], Opt(help="Passes over the training images.")] = None,
    image_size: ImageSize = None,
    width: Annotated[Optional[int], Opt(help="Dimension of the tokens.")] = None,
    depth: Annotated[Optional[int], Opt(help="Number of blocks.")] = None,
    start: Annotated[
        Optional[str], Opt(help="Checkpoint to start from: mini-faces, or a file; '' for none.")
    ] = None,
    without: Annotated[
        Optional[Path],
        Opt(help="A file of class names, one a line, that the model never sees: a reference model."),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[Optional[Path], Opt(help="The checkpoint, FILE.safetensors.")] = None,
) -> None:
    """Pre-train a model; its record goes beside it as JSON."""
    from minigslora.files import read_lines, require_new, runs_root
    from minigslora.pretraining import make_checkpoint, recipe_for

    sizes = {"image_size": image_size, "dim": width, "depth": depth}
    left_out = read_lines(without) if without else []
    recipe = recipe_for(name, device, epochs=epochs, start=start, seed=seed, without=left_out, **sizes)
    target = out or runs_root() / "pretrain" / f"{name}.safetensors"
    for file in (target, target.with_suffix(".json")):
        require_new(file)
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
    out: Checkpoint,
    lora: Annotated[
        str, Opt(help="ignore: already merged (saved after training); fold: add it to the weights.")
    ] = "ignore",
    head: Annotated[str, Opt(help="cosface or arcface.")] = "cosface",
    image_size: Annotated[int, Opt(help="Input size in pixels.")] = 112,
) -> None:
    """Convert a released Face Transformer checkpoint into one of ours."""
    from minigslora.files import require_new
    from minigslora.models.released import import_official

    require_new(out)
    choices: dict[str, Any] = {"lora": lora, "head": head, "image_size": image_size}
    card = import_official(weights, out, **choices)
    typer.echo("\n".join(f"{key:12} {value}" for key, value in card.architecture.items()))
    typer.echo(f"{'checkpoint':12} {out}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="timm's name of the model, or torchvision's: vit_b_16, …")],
    out: Checkpoint,
    weights: Annotated[str, Opt(help="A file of its weights; downloaded where none is given.")] = "",
) -> None:
    """Make a checkpoint of ours from a pre-trained ImageNet model, its whole head included."""
    from minigslora.erasure import finalized_file
    from minigslora.files import require_new, require_writable
    from minigslora.models import checkpoint, pretrained

    target = finalized_file(out)
    require_new(target)
    require_writable(target.parent)
    model, card = pretrained.load(name, weights)
    checkpoint.save(target, model, card)
    typer.echo(f"{card.architecture['name']}, {card.architecture['classes']} classes\ncheckpoint {target}")


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="A number (4), a name (04_…) or a path.")],
    parameters: Annotated[Pairs, Opt("-p", "--parameter", help="KEY=VALUE; repeatable.")] = None,
    profile: Profile = None,
    out: Out = None,
) -> None:
    """Run one notebook with parameters; its results go to a folder of their own."""
    from minigslora.course.executing import run_notebook

    values = parse_pairs(parameters or []) | ({} if profile is None else {"profile": profile})
    typer.echo(run_notebook(notebook, values, out, _watched(), say=partial(typer.echo, err=True)))


@app.command()
def student(
    notebooks: Notebooks = None,
    out: Annotated[Path, Opt(help="Folder for them.")] = Path("handout"),
    nbgrader: Annotated[bool, Opt("--nbgrader", help="Keep solutions; nbgrader takes them out.")] = False,
) -> None:
    """Write notebooks as a teacher hands them out: without solutions, answers and outputs.

    A file that somebody has worked in is never written over. The exercises carry nbgrader's metadata.
    """
    from minigslora.course.student import hand_out

    for path in hand_out(notebooks or [], out, solved=nbgrader):
        typer.echo(path)


@app.command()
def slides(
    notebooks: Notebooks = None,
    out: Annotated[Path, Opt(help="Folder for them.")] = Path("slides"),
) -> None:
    """Write notebooks as slides, one HTML file each that needs no network.

    On the slides are the cells that are marked for it, with the outputs that the notebook holds.
    """
    from minigslora.course.slides import write_slides

    for path in write_slides(notebooks or [], out):
        typer.echo(path)


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="table2, table3, table4, table5, coco or strangers.")],
    profile: Annotated[str, Opt(help="smoke, cpu, gpu or paper.")] = "cpu",
    methods: Annotated[
        str, Opt(help="Names, a,b,c; all; name:released for one recipe only.")
    ] = "gslora,gslora++",
    recipes: Annotated[str, Opt(help="Of methods named without one.")] = "corrected,released",
    scenarios: Annotated[str, Opt(help="Some of the table's, a,b,c; all by default.")] = "",
    seeds: Annotated[int, Opt(help="How many, from 0.")] = 1,
    jobs: Annotated[Optional[int], Opt(help="Runs at a time; one per GPU, or 1, by default.")] = None,
    data: Annotated[str, Opt(help="Data set; the profile's by default.")] = "",
    weights: Annotated[str, Opt(help="Pre-trained model; the shipped one by default.")] = "",
    engine: Annotated[str, Opt(help="local or ray.")] = "local",
    address: Annotated[Optional[str], Opt(help="Of a Ray cluster.")] = None,
    change: Annotated[Pairs, Opt("--set", help="KEY=VALUE, or METHOD/KEY=VALUE; repeatable.")] = None,
) -> None:
    """Run a published table: ours beside the published numbers, as CSV and one HTML page.

    Every run is a papermill run of the benchmark's notebook in a process of its own. A grid that was
    stopped goes on when the same command is given again; what has finished is not run again.
    """
    from minigslora.reproduction import engines, page
    from minigslora.reproduction.benchmark import contenders
    from minigslora.reproduction.grid import Grid, run_grid

    chosen, changes = tuple(split_list(scenarios)), by_method(parse_pairs(change or []))
    who = contenders(split_list(methods), split_list(recipes))
    grid = Grid(table, profile, who, seeds, data, weights, chosen, changes)
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
    from minigslora.files import runs_root
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

    well = True
    for finding in (f for file in files for f in examine_file(file)) if files else examine():
        typer.echo(str(finding))
        well = well and finding.well is not False
    if not well:
        raise typer.Exit(1)


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


@contextlib.contextmanager
def _advice_as_lines() -> Iterator[None]:
    """Show this library's warnings as one line each, without Python's file and line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Advice)
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, Advice):
                typer.echo(f"warning: {message}", err=True)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = line
        yield


def _watched() -> bool:
    """Whether someone watches the terminal, so that progress is drawn."""
    return sys.stderr.isatty()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can act on is one line on stderr, with exit code 2.

    Anything else that goes wrong is a fault of the program: its traceback goes to a file, and the exit code
    is 70 (EX_SOFTWARE of sysexits.h).
    """
    safe_streams()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with _advice_as_lines():
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
