"""Fuzzing: broken pictures, annotations, checkpoints and command lines, and what the library makes of them.

    python benchmarks/fuzz.py                              # all kinds, as many as COUNTS says
    python benchmarks/fuzz.py images coco --count 50       # some
    python benchmarks/fuzz.py commands --number 17         # one again, with its traceback

A case is named by kind, seed and number. It is well where it is read to sane values, or refused with an error
of this library (a command: with its exit code), in time, in memory, and every file given is there afterwards
as it was. Anything else is a find. Each kind runs in a process of its own, so that even a crash of the
interpreter is only one find.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import mutations
import timm
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from minigslora import cli as command_line
from minigslora.course import executing
from minigslora.datasets import detection, folders, pictures
from minigslora.datasets.detection import DetectionData
from minigslora.datasets.rendered import mini_faces
from minigslora.errors import MiniGSLoRAError, ModelError
from minigslora.files import load_tensors
from minigslora.models import checkpoint, pretrained
from minigslora.models.released import import_official
from minigslora.models.vit import FaceConfig, face_transformer
from minigslora.reproduction import engines

COUNTS = {"images": 2000, "coco": 500, "voc": 500, "checkpoints": 500, "commands": 200}
SECONDS = {"images": 30, "coco": 30, "voc": 30, "checkpoints": 60, "commands": 240}
"""A case that takes longer hangs; generous, for machines that do other work, too."""
MEMORY = 1536
"""MiB by which a case may raise the peak; a picture just below Pillow's limit takes a third of it."""

Files = dict[str, bytes]
Case = tuple[Files, Callable[[Path], str]]
"""The files of a case, and what is done in their folder; it returns a word for the outcome."""


class Find(Exception):
    """Something that must not be: a wrong value, a wrong exit code, a lost file."""


class Hang(BaseException):
    """A case took too long."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: a word for it, and for a find where it is from."""

    kind: str
    number: int
    what: str
    find: str = ""


def attempt(kind: str, number: int, seed: int, folder: Path, show: bool = False) -> Outcome:
    """Carry out one case in an empty folder."""
    files, act = KINDS[kind](random.Random(f"{kind}/{seed}/{number}"))
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    peak = _peak()
    try:
        with _limited(SECONDS[kind]), warnings.catch_warnings(action="ignore"):
            what, find = act(folder), ""
    except MiniGSLoRAError as problem:
        what, find = f"refused: {type(problem).__name__}", "" if str(problem) else "an error without words"
    except (Exception, Hang) as problem:
        what, find = "find", f"{type(problem).__name__} at {_place(problem)}: {_first_line(problem)}"
        if show:
            traceback.print_exc()
    if lost := [name for name, data in files.items() if not _is_as_it_was(folder / name, data)]:
        what, find = "find", f"{lost[0]} was lost or overwritten ({what}{find})"
    if (grown := _peak() - peak) > MEMORY:
        what, find = "find", f"{grown} MiB of memory ({what}{find})"
    return Outcome(kind, number, "find" if find else what, find)


def _is_as_it_was(file: Path, data: bytes) -> bool:
    return file.is_file() and file.read_bytes() == data


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _place(problem: BaseException) -> str:
    """Return the deepest line of the library, or of this file, that an error went through."""
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if f.name != "stop"]
    own = [f for f in frames if "minigslora" in Path(f.filename).parts] or frames[-1:]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


def _first_line(problem: BaseException) -> str:
    return ascii((str(problem).strip().splitlines() or [""])[0][:150])[1:-1]


# --- pictures -----------------------------------------------------------------------------------------


@cache
def sound_pictures() -> tuple[tuple[str, bytes], ...]:
    """Return small sound pictures of many formats and modes, each with an ending that is accepted."""
    wanted = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "TIFF": ("1", "L", "RGB", "CMYK", "I;16", "I", "F"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("1", "L", "RGB"),
        "GIF": ("P",),
        "PPM": ("1", "L", "RGB"),
    }
    found = []
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(26), indexing="ij")
    grey = Image.fromarray((rows * 5 + columns * 4).to(torch.uint8).numpy())
    for kind, modes in wanted.items():
        for mode in modes:
            drawn = io.BytesIO()
            (
                Image.fromarray(rows.short().numpy().astype("uint16"))
                if mode == "I;16"
                else grey.convert(mode)
            ).save(drawn, kind)
            ending = f".{kind.lower()}"
            found.append((ending if ending in pictures.ENDINGS else ".png", drawn.getvalue()))
    return tuple(found)


def broken_picture(rng: random.Random) -> Case:
    """Return two classes' folders, one of whose pictures is broken."""
    files = {
        f"{split}/{name}/{i}.png": sound_pictures()[4][1]
        for split, count in (("train", 3), ("test", 1))
        for name in ("ant", "bee")
        for i in range(count)
    }
    ending, data = rng.choice(sound_pictures())
    name = f"{rng.choice(('train', 'test'))}/ant/broken"
    files[name + ending] = mutations.picture(data, rng.choice(sound_pictures())[1], rng)
    return files, partial(_read_folders, broken="broken" + ending)


def _read_folders(folder: Path, broken: str) -> str:
    try:
        data = folders.load(folder, 24)
    except MiniGSLoRAError as problem:
        if broken not in str(problem):
            raise Find(f"the message does not name the file: {problem}") from problem
        raise
    for split, count in ((data.train, 5), (data.test, 2)):
        images = split.images
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.shape[1:] != (3, 24, 24):
            raise Find("images are not uint8 (N, 3, 24, 24)")
        if len(images) > count + 1 or data.classes != ("ant", "bee"):
            raise Find(f"{len(images)} images of {data.classes}")
    return "read"


# --- annotations --------------------------------------------------------------------------------------


def coco_tree(count: int) -> dict[str, Any]:
    """Return sound annotations of ``count`` pictures of 26×20."""
    images = [{"id": 7 * i + 1, "file_name": f"{i}.png", "width": 26, "height": 20} for i in range(count)]
    annotations = [
        {
            "id": i + 1,
            "image_id": images[i % count]["id"],
            "category_id": 1 + 2 * (i % 2),
            "iscrowd": int(i == 3),
            "bbox": [1 + i, 2.5, 10, 8],
            "area": 80,
            "segmentation": [[1, 2, 11, 2, 11, 10]],
        }
        for i in range(2 * count)
    ]
    categories = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "dog"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def broken_coco(rng: random.Random) -> Case:
    """Return a folder in COCO's layout, the annotations of one split broken."""
    files = {}
    at = rng.choice(("train", "val"))
    for split, count in (("train", 4), ("val", 3)):
        files |= {f"{split}2017/{i}.png": sound_pictures()[4][1] for i in range(count)}
        tree = coco_tree(count)
        text = mutations.json_text(tree, rng) if split == at else json.dumps(tree).encode()
        files[f"annotations/instances_{split}2017.json"] = text
    return files, lambda folder: _sane_boxes(detection.load_coco(folder, 24))


def voc_tree(stem: str) -> ElementTree.Element:
    """Return sound annotations of one picture of 26×20."""
    boxes = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x}</xmin><ymin>3</ymin>"
        f"<xmax>{x + 9}</xmax><ymax>12</ymax></bndbox></object>"
        for name, difficult, x in (("cat", 0, 2), ("dog", 0, 8), ("dog", 1, 12))
    )
    size = "<size><width>26</width><height>20</height><depth>3</depth></size>"
    return ElementTree.fromstring(
        f"<annotation><folder>VOC</folder><filename>{stem}.png</filename>{size}{boxes}</annotation>"
    )


def broken_voc(rng: random.Random) -> Case:
    """Return a folder in Pascal VOC's layout, one annotation or one list broken."""
    stems = {"trainval": ["a1", "a 2", "a3"], "test": ["b1", "b2"]}
    files = {f"ImageSets/Main/{k}.txt": "\n".join(v).encode() + b"\n" for k, v in stems.items()}
    for stem in (every := [s for own in stems.values() for s in own]):
        files[f"JPEGImages/{stem}.png"] = sound_pictures()[4][1]
        files[f"Annotations/{stem}.xml"] = ElementTree.tostring(voc_tree(stem))
    if rng.random() < 0.1:
        name = f"ImageSets/Main/{rng.choice(list(stems))}.txt"
        files[name] = mutations.broken(files[name], b"a1 -1\nb1  1\n", rng)
    else:
        stem = rng.choice(every)
        files[f"Annotations/{stem}.xml"] = mutations.xml_text(voc_tree(stem), rng)
    return files, lambda folder: _sane_boxes(detection.load_voc(folder, 24))


def _sane_boxes(data: DetectionData) -> str:
    for split in (data.train, data.val, data.test):
        if not all(isinstance(name, str) and name for name in split.classes):
            raise Find(f"class names {split.classes!r}")
        if len(set(split.classes)) != len(split.classes):
            raise Find(f"class names twice: {split.classes!r}")
        for objects in split.objects:
            boxes = objects.targets()["boxes"]
            inside = (boxes[:, :2] - boxes[:, 2:] / 2 > -0.1) & (boxes[:, :2] + boxes[:, 2:] / 2 < 1.1)
            if not (boxes.isfinite().all() and (boxes[:, 2:] > 0).all() and inside.all()):
                raise Find(f"boxes {boxes.tolist()}")
            if len(objects.labels) and not 0 <= int(objects.labels.min()) <= int(objects.labels.max()) < len(
                split.classes
            ):
                raise Find(f"labels {objects.labels.tolist()} of {len(split.classes)} classes")
    return "read"


# --- checkpoints --------------------------------------------------------------------------------------

FACE = FaceConfig(classes=3, image_size=16, patch=8, dim=32, depth=1, heads=2, mlp=32)
TIMM = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


class Payload:
    """What a pickle with code is made of: reading it would write a file."""

    def __reduce__(self) -> Any:
        """Return the call that a pickle of this makes."""
        return os.mkdir, ("code-has-run",)


@cache
def models() -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    """Return weights and cards of sound checkpoints."""
    torch.manual_seed(0)
    face, vit = face_transformer(FACE), timm.create_model("vit_tiny_patch16_224", num_classes=3, **TIMM)
    common = {"classes": ["ant", "bee", "cat"], "image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    cards: list[dict[str, Any]] = [
        {**common, "architecture": {"kind": "face", **vars(FACE)}},
        {**common, "architecture": {"kind": "timm", "name": "vit_tiny_patch16_224", "classes": 3, **TIMM}},
    ]
    weights = [{k: v.clone() for k, v in model.state_dict().items()} for model in (face, vit)]
    return {
        "face": (weights[0], cards[0]),
        "timm": (weights[1], cards[1]),
        "released": (released(), {}),
    }


def released(image: int = 16, patch: int = 8, dim: int = 64, mlp: int = 16) -> dict[str, Tensor]:
    """Return weights as a released Face Transformer has them, drawn at random."""
    layer, sizes = (
        "transformer.layers.0.",
        {"pos_embedding": (1, (image // patch) ** 2 + 1, dim), "cls_token": (1, 1, dim)},
    )
    for stem, outputs, inputs in (
        ("patch_to_embedding", dim, 3 * patch**2),
        (f"{layer}0.fn.fn.to_out.0", dim, dim),
        (f"{layer}1.fn.fn.net.0", mlp, dim),
        (f"{layer}1.fn.fn.net.3", dim, mlp),
    ):
        sizes |= {f"{stem}.weight": (outputs, inputs), f"{stem}.bias": (outputs,)}
    for stem in (f"{layer}0.fn.norm", f"{layer}1.fn.norm", "mlp_head.0"):
        sizes |= {f"{stem}.weight": (dim,), f"{stem}.bias": (dim,)}
    sizes |= {f"{layer}0.fn.fn.to_qkv.weight": (3 * dim, dim), "loss.weight": (3, dim)}
    return {name: torch.randn(size) for name, size in sizes.items()}


def safetensors(name: str, **notes: Any) -> bytes:
    """Return a sound checkpoint, with its card in the header."""
    weights, card = models()[name]
    held = {"card": json.dumps(card)} if card else {}
    return save(weights, metadata={**held, **notes})


def pickled(value: Any, legacy: bool = False) -> bytes:
    """Return what ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def broken_checkpoint(rng: random.Random) -> Case:
    """Return one broken weight file: its header, its card, its pickle, or its bytes."""
    name = rng.choice(("face", "face", "timm", "released"))
    way, ending = rng.choice((_broken_header, _broken_card, _broken_pickle, _broken_bytes)), ".safetensors"
    data = way(name, rng)
    if way is _broken_pickle or rng.random() < 0.1:
        ending = rng.choice((".pth", ".pt", ".bin", ".ckpt", "", ".safetensors"))
    files = {f"weights{ending}": data}
    if rng.random() < 0.1:
        files["config.json"] = mutations.json_text({"model_type": "deformable_detr", "num_labels": 3}, rng)
    readers = (_as_model, _as_timm, _as_released) if name == "released" else (_as_model, _as_model, _as_timm)
    return files, partial(_read_weights, rng.choice(readers), f"weights{ending}")


def _broken_header(name: str, rng: random.Random) -> bytes:
    data = safetensors(name)
    size = int.from_bytes(data[:8], "little")
    header = mutations.json_text(json.loads(data[8 : 8 + size]), rng)
    length = len(header) if rng.random() < 0.9 else rng.choice(mutations.SIZES)
    return length.to_bytes(8, "little") + header + data[8 + size :]


def _broken_card(name: str, rng: random.Random) -> bytes:
    card = models()[name][1] or models()["face"][1]
    text = mutations.json_text(card, rng).decode("utf-8", "replace")
    return safetensors(name, card=text.replace("�", "?"))


def _broken_bytes(name: str, rng: random.Random) -> bytes:
    return mutations.broken(safetensors(name), pickled({"a": torch.zeros(2)}), rng)


def _broken_pickle(name: str, rng: random.Random) -> bytes:
    weights = dict(models()[name][0])
    legacy = rng.random() < 0.3
    match rng.randrange(6):
        case 0:
            return mutations.broken(pickled(weights, legacy), pickle.dumps([1, 2]), rng)
        case 1:
            key = rng.choice(list(weights))
            own = weights.pop(key)
            strange = (
                None,
                1,
                "x",
                [1],
                own.double(),
                own[..., None],
                own.to_sparse(),
                own.bool(),
                own[:0],
                own * torch.nan,
            )
            weights[rng.choice((key, "", "x", f"module.{key}"))] = rng.choice(strange)
            return pickled({"state_dict": weights} if rng.random() < 0.5 else weights, legacy)
        case 2:
            wrapped: tuple[Any, ...] = (
                {"model": weights, "args": argparse.Namespace(lr=1)},
                {"model": {"model": weights}},
                {"state_dict": None},
                {1: torch.zeros(1)},
                [weights],
                torch.zeros(3),
                None,
                {},
            )
            return pickled(rng.choice(wrapped), legacy)
        case 3:
            return pickled({**weights, "x": Payload()}, legacy)
        case 4:
            plain = (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                b"",
                b"<html>",
                b"PK\3\4",
                b"\x80\x05.",
                b"GGUF",
            )
            return rng.choice((*plain, pickle.dumps(Payload()), pickle.dumps({"a": 1})))
        case _:
            return mutations.flipped(pickled(weights, legacy), rng)


def _read_weights(read: Callable[[Path], None], name: str, folder: Path) -> str:
    with contextlib.chdir(folder):
        try:
            read(folder / name)
        finally:
            if (folder / "code-has-run").exists():
                raise Find("code in a pickle has run")
    return "read"


def _as_model(file: Path) -> None:
    model, card = checkpoint.load(file)
    kinds = (
        all(isinstance(c, str) for c in card.classes),
        isinstance(card.image_size, int),
        len(card.mean) == 3,
    )
    if not all(kinds):
        raise Find(f"a card with {card.classes!r}, {card.image_size!r}, {card.mean!r}")
    model(torch.zeros(1, 3, card.image_size, card.image_size))


def _as_timm(file: Path) -> None:
    load_tensors(file)
    pretrained.load("test_vit", file)


def _as_released(file: Path) -> None:
    import_official(file, file.with_name("converted.safetensors"), image_size=16)


# --- command lines ------------------------------------------------------------------------------------

QUICK = "--no-check --set epochs=1 --set batch_retain=4 --set batch_forget=2 --set rank=2"
COMMANDS = (
    f"forget --data photos --classes ant --weights face.safetensors --ratio 0.5 --out new {QUICK}",
    "forget --data photos --classes bee --classes cat --weights vit.pth --model vit_tiny_patch16_224 "
    "--model-args patch_size=8 --model-args embed_dim=32 --model-args depth=1 --model-args num_heads=2 "
    "--image-size 16 --mean .5,.5,.5 --std .5,.5,.5 --shots 2 --method gslora --recipe released --seed 1 "
    f"--device cpu --finalize done/erased.safetensors {QUICK}",
    "run 0 -p seed=1 --profile smoke --out new",
    "run own.ipynb -p seed=1 -p names=[a,b]",
    "reproduce table3 --profile smoke --methods gslora,ewc --recipes corrected --seeds 1 --jobs 1 "
    "--engine local --set ewc/epochs=1",
    "import released.pth --out new.safetensors --lora ignore --head cosface --image-size 16",
    "fetch vit_tiny_patch16_224 --out new.safetensors --weights full.pth",
    "pretrain mini-faces --epochs 1 --image-size 48 --width 32 --depth 1 --without names.txt --device cpu "
    "--seed 1 --out new.safetensors",
    "doctor",
    "doctor face.safetensors",
)
PATHS = (
    "", ".", "..", "~", "~nobody/x", "$HOME/x", "/dev/null", "/dev/null/x", "/dev/full", "loop",
    "dangling", "fifo", "photos", "photos/train", "photos/train/ant/0.png", "empty", "names.txt",
    "face.safetensors", "vit.pth", "released.pth", "damaged.pth", "notes.json", "a" * 300,
    "a/" * 100 + "x", "new folder/ü 🦊.safetensors", "\udcff.safetensors", "--", "-", "old", "a\nb",
    "old/erased.safetensors", "own.ipynb", "new.pth", "new.SAFETENSORS", "x" * 250 + ".safetensors",
    "photos/x.safetensors",
)  # fmt: skip
WORDS = (
    "", " ", ",", "a,b,,c", "ant", "ANT", "ant,ant", "dog", "0", "1", "2", "#1", "-1", "3", "1.5", "nan",
    "inf", "-inf", "1e400", "0x10", "010", "1_0", "٣", "99999999999999999999", "2147483648", "true",
    "None", "[1, 2]", "cpu", "cuda", "cuda:9", "mps", "smoke", "paper", "gslora", "gslora:x", "retrain",
    "all", "mini-faces", "coco", "table2", "four", "released", "fold", "keep", "arcface", "ray", "local",
    ".5,.5", "0,0,0", ".5,.5,nan", "1e308,1,1", "-1,-1,-1", "vit_tiny_patch16_224", "resnet18", "vit_b_16",
    "vit_smal", "a.b", "%s", "$^$", "\u202e", "a" * 3000, "\ud800", "../x", "*",
)  # fmt: skip
SETTINGS = (
    "", "=", "x", "epochs", "=1", "epochs=", "epochs=0", "epochs=-1", "epochs=1.5", "epochs=nan",
    "epochs=1e400", "epochs=[1]", "epochs=a", "epochs=010", "epochs=2024-01-01", "epochs={a: 1}",
    "epochs=!!python/object:os.system", "epochs=&a [*a]", "epochs=[&a [*a]]", "epochs=[!!binary aGk=]",
    "epochs=" + "9" * 5000, "epochs=*a", "epochs=\t", "lr=0", "lr=-1", "lr=.nan", "lr=.inf", "lr=1e30",
    "lr=1e-400", "rank=0", "rank=9999999", "rank=2.0", "alpha=1e300", "method=gslora", "batch_retain=0",
    "batch_retain=99999999999", "seed=1", "optimizer=sgd", "schedule=x", "clip=-1", "dropout=2",
    "ewc/lr=x", "/=1", "a/b/c=1", "depth=3", "checkpoint_path=vit.pth", "num_classes=4",
    "nothing/epochs=1", "groups=x", "precision=fp64", "device=cpu", "compile=maybe", "averaged_epochs=9",
    "profile=x", "names=[a, [b]]", "lr=" + "[" * 500, "x=" + "a" * 3000, "é=1", "\ud800=1",
    "epochs=\ud800", "weights=~nobody/x", "names=",
)  # fmt: skip
PRECIOUS = ("old/erased.safetensors", "old", "face.safetensors", "old/report.html") * 4
VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("--out", "--finalize"), PATHS + PRECIOUS),
    **dict.fromkeys(("--weights", "--class-names", "--without", "--data", "--start"), PATHS),
    **dict.fromkeys(("--set", "-p", "--model-args"), SETTINGS),
}
OPTIONS = (
    "--help", "--x", "--out", "--seed", "--device", "--set", "-p", "--profile", "--epochs", "--model",
    "--finalize", "--image-size", "--check", "--class-names", "--model-args",
)  # fmt: skip
NAMES = ("ant\udcff", "$^$", "a, b", "10", "-x", " ant ", "Ä🦊", "<b>", "%s", "_", "a" * 200, "ant.", "#1")
"""Of a class's folder; the first holds a byte that is no character."""
VARIABLES = ("MINIGSLORA_DATA", "MINIGSLORA_RUNS", "MINIGSLORA_PROFILE", "HOME", "XDG_CACHE_HOME", "TMPDIR")
LONG = ("--epochs", "--seeds", "--jobs")
"""Options whose large values ask for days of work, and would get it."""


@cache
def desk() -> Files:
    """Return the files that a command line finds in its folder."""
    rng = random.Random(0)
    grey = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 90, 30)).save(grey, "PNG")
    files = {
        f"photos/{split}/{name}/{i}.png": grey.getvalue()
        for split in ("train", "test")
        for name in ("ant", "bee", "cat")
        for i in range(4)
    }
    torch.manual_seed(0)
    full = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None,
         "source": "seed: int = 0\nnames: list = []\nprofile: str = ''"}
    ]  # fmt: skip
    own = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return files | {
        "face.safetensors": safetensors("face"),
        "vit.pth": pickled(models()["timm"][0]),
        "released.pth": pickled(models()["released"][0]),
        "full.pth": pickled(full.state_dict()),
        "damaged.pth": mutations.flipped(pickled({"a": torch.zeros(9)}), rng)[:200],
        "names.txt": b"person-001\nperson-002\n",
        "notes.json": b'{"kept": true}',
        "empty": b"",
        "own.ipynb": json.dumps(own).encode(),
        "old/erased.safetensors": safetensors("face", note="precious"),
        "old/report.html": b"<p>precious</p>",
        "old/table.csv": b"precious",
        "old/result.json": b'{"precious": true}',
        "new folder/here.txt": b"precious",
    }


def strange_command(rng: random.Random) -> Case:
    """Return a command line with options changed, taken away or added, and where it is given."""
    words = rng.choice(COMMANDS).split()
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        words = _changed(words, rng)
    variables = {rng.choice(VARIABLES): rng.choice(PATHS)} if rng.random() < 0.1 else {}
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "cp1252", "ascii"))
    files, name = desk(), rng.choice((*["ant"] * 9, *NAMES))
    files = {path.replace("/ant/", f"/{name}/"): data for path, data in files.items()}
    words = [name if word == "ant" else word for word in words]
    return files, partial(run_command, words, variables, encoding)


def _changed(words: list[str], rng: random.Random) -> list[str]:
    names = [i for i, word in enumerate(words[1:], 1) if word.startswith("-") and i + 1 < len(words)]
    at = rng.choice(names) if names else 0
    match rng.randrange(8):
        case 0 if names:
            return words[:at] + words[at + 2 :]
        case 1:
            option = rng.choice(OPTIONS)
            return [*words, option, _value(option, rng)]
        case 2 if names:
            return [*words, words[at], _value(words[at], rng)]
        case 3 if len(words) > 1:  # what the command is about
            return [words[0], rng.choice((*PATHS, *WORDS)), *words[2:]]
        case _ if names:
            return [*words[: at + 1], _value(words[at], rng), *words[at + 2 :]]
    return [*words, rng.choice(WORDS)]


def _value(option: str, rng: random.Random) -> str:
    own = VALUES.get(option, ())
    value = rng.choice(own if own and rng.random() < 0.8 else WORDS)
    return "2" if option in LONG and value.isdecimal() else value


def run_command(words: list[str], variables: Mapping[str, str], encoding: str, folder: Path) -> str:
    """Give a command line in ``folder``; return its exit code as a word, or raise a :class:`Find`.

    Args:
        words: the command line.
        variables: changes of the environment.
        encoding: of the terminal.
        folder: where it is given.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors) for errors in ("strict", "backslashreplace"))
    try:
        with _apart(folder, variables), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command_line.main(words)
        code: Any = 0
    except SystemExit as left:
        code = 0 if left.code is None else left.code
    except BaseException as problem:
        problem.add_note(f"minigslora {words} {dict(variables)} {encoding}")
        raise
    out.flush()
    err.flush()
    said = [f.buffer.getvalue().decode(encoding, "replace") for f in (out, err)]
    if kept := re.search(r"\S+/traceback-\S+\.txt", said[1]):
        where = re.findall(
            r'minigslora/(\S+)", line (\d+)', (text := (folder / kept[0]).read_text(encoding="utf-8"))
        )
        raise Find(f"exit code {code} at {':'.join(where[-1])}, {text.splitlines()[-1]}: {words}")
    if what := _wrong(words[0], code, *said):
        raise Find(f"{what}: minigslora {words} {dict(variables)} {encoding}: {said[1][-600:]!r}")
    return f"exit {code}"


def _wrong(command: str, code: Any, out: str, err: str) -> str:
    """Say what is wrong with a command's exit code and words; "" for nothing."""
    allowed = {0: True, 2: True, 3: command == "forget", 1: command in ("doctor", "reproduce")}
    if not allowed.get(code):
        return f"exit code {code}"
    if "Traceback" in out + err:
        return "a traceback"
    if code in (2, 3) and not err.strip():
        return f"exit code {code} without a word"
    return "exit code 0 without a word" if code == 0 and not out.strip() else ""


class NothingRuns:
    """An engine for 'reproduce' that carries out nothing; every run fails."""

    def run(self, jobs: list[engines.Job]) -> Iterator[engines.Outcome]:
        """Yield an outcome of each job."""
        for job in jobs:
            yield engines.Outcome(job, "not run")


def _not_executed(planned: executing.Planned, *_: Any) -> None:
    (planned.folder / "result.json").write_text('{"metrics": {}}')


@contextlib.contextmanager
def _apart(folder: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Let a command find a home and runs of its own and small data; no notebook is executed."""
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere/at-all")
    os.mkfifo(folder / "fifo")
    own = {
        name: str(folder.parent / name.lower())
        for name in VARIABLES
        if name not in ("MINIGSLORA_PROFILE", "TMPDIR")
    }
    own |= {"COLUMNS": "100", "MINIGSLORA_DATA": str(cache_folder())}
    faces = partial(mini_faces.load, people=6, counts={"train": 12, "val": 2, "test": 4})
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {**own, **variables}),
        mock.patch.object(mini_faces, "load", faces),
        mock.patch.object(engines, "Local", return_value=NothingRuns()),
        mock.patch.object(engines, "Ray", return_value=NothingRuns()),
        mock.patch.object(executing, "_papermill", _not_executed),
        mock.patch.object(pretrained, "_download", side_effect=ModelError("no network here")),
    ):
        yield


@cache
def cache_folder() -> Path:
    """Return where small data are rendered, once for all commands of a process."""
    return Path(tempfile.mkdtemp(prefix="fuzz-data-"))


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "images": broken_picture,
    "coco": broken_coco,
    "voc": broken_voc,
    "checkpoints": broken_checkpoint,
    "commands": strange_command,
}


# --- running them -------------------------------------------------------------------------------------


def some(kind: str, seed: int, numbers: Iterator[int] | range, show: bool = False) -> Iterator[Outcome]:
    """Carry out cases in this process, each in a folder of its own."""
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as top:
            folder = Path(top) / "work"
            folder.mkdir()
            yield attempt(kind, number, seed, folder, show)


def _child(kind: str, seed: int, first: int, count: int) -> None:
    """Print an outcome a line; memory and a hang that no signal ends are stopped hard."""
    torch.set_num_threads(1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (12 << 30), -1))
    for number in range(first, count):
        faulthandler.dump_traceback_later(3 * SECONDS[kind], exit=True)
        for outcome in some(kind, seed, range(number, number + 1)):
            print(json.dumps(asdict(outcome)), flush=True)


def all_of(kind: str, seed: int, count: int) -> Iterator[Outcome]:
    """Carry out the cases of a kind in processes of their own; the next goes on where one died."""
    first = 0
    while first < count:
        command = [sys.executable, __file__, kind, "--seed", str(seed), "--child", str(first), str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                if line.startswith('{"kind"'):
                    yield (outcome := Outcome(**json.loads(line)))
                    first = outcome.number + 1
            said = (child.stderr.read() if child.stderr else "").strip().splitlines()
        if child.returncode == 1:
            raise RuntimeError(f"{kind} {first} could not be tried: {said[-3:]}")
        if first < count:
            yield Outcome(kind, first, "find", f"the process ended with {child.returncode}: {said[-3:]}")
            first += 1


def report(outcomes: list[Outcome]) -> str:
    """Return a table of counts by outcome, and each find with the number of its first case."""
    lines = ["| kind | cases | outcome | count |", "| --- | --- | --- | --- |"]
    for kind in dict.fromkeys(o.kind for o in outcomes):
        own = [o for o in outcomes if o.kind == kind]
        lines += [
            f"| {kind} | {len(own)} | {what} | {n} |"
            for what, n in Counter(o.what for o in own).most_common()
        ]
    places = dict[str, list[Outcome]]()
    for outcome in outcomes:
        if outcome.find:
            places.setdefault(outcome.find.partition(": ")[0], []).append(outcome)
    lines += [f"{len(places)} different finds"]
    for found in sorted(places.values(), key=len, reverse=True):
        lines.append(f"{len(found):5} × {found[0].kind} {found[0].number}: {found[0].find[:700]}")
    return "\n".join(lines)


def main() -> None:
    """Print the report; the exit code is 1 where there are finds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "kinds", nargs="*", default=list(KINDS), metavar="KIND", help=f"{', '.join(KINDS)}; all by default"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="cases of each kind instead of its own number")
    parser.add_argument("--number", type=int, help="one case, in this process, with its traceback")
    parser.add_argument("--json", type=Path, help="every outcome as a file")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return _child(asked.kinds[0], asked.seed, *asked.child)
    if asked.number is not None:
        outcomes = list(some(asked.kinds[0], asked.seed, range(asked.number, asked.number + 1), show=True))
    else:
        outcomes = []
        for kind in asked.kinds:
            for outcome in all_of(kind, asked.seed, asked.count or COUNTS[kind]):
                outcomes.append(outcome)
                if outcome.find:
                    print(outcome, file=sys.stderr, flush=True)
    print(report(outcomes))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    return sys.exit(any(o.find for o in outcomes))


if __name__ == "__main__":
    main()
