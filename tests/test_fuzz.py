"""A little fuzzing of every kind, the same each time; benchmarks/fuzz.py does a lot of it."""

import os
import random
import re
import sys
import time

import pytest

if sys.platform == "win32":
    pytest.skip("no SIGALRM to stop what hangs", allow_module_level=True)

import fuzz

SEED = 1
COUNTS = {"images": 60, "coco": 30, "voc": 20, "checkpoints": 40, "commands": 12}


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_what_is_broken_is_read_or_refused(kind):
    outcomes = list(fuzz.some(kind, SEED, range(COUNTS[kind])))
    assert len(outcomes) == COUNTS[kind]
    assert [(o.number, o.find) for o in outcomes if o.find] == []
    assert len({o.what for o in outcomes}) > 1, "all cases alike: nothing is tried"


@pytest.mark.parametrize("kind", ["coco", "voc", "checkpoints"])
def test_a_case_is_named_by_kind_seed_and_number(kind):
    one, two, other = (fuzz.KINDS[kind](random.Random(name))[0] for name in ("a/0/1", "a/0/1", "a/0/2"))
    assert one == two
    assert one != other


@pytest.mark.parametrize("words", [command.split() for command in fuzz.COMMANDS], ids=lambda words: words[0])
def test_every_command_line_that_is_changed_was_sound(words, tmp_path):
    (folder := tmp_path / "work").mkdir()
    for name, data in fuzz.desk().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    # None of the runs of "reproduce" is carried out, which it says.
    allowed = {"forget": ("exit 0", "exit 3"), "reproduce": ("exit 2",), "doctor": ("exit 0", "exit 1")}
    assert fuzz.run_command(words, {}, "utf-8", folder) in allowed.get(words[0], ("exit 0",))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text")
@pytest.mark.parametrize("name", fuzz.NAMES)
def test_a_class_is_called_what_its_folder_is_called(name, tmp_path):
    (folder := tmp_path / "work").mkdir()
    for path, data in fuzz.desk().items():
        own = folder / path.replace("/ant/", f"/{name}/")
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_bytes(data)
    assert fuzz.run_command(fuzz.COMMANDS[1].split(), {}, "utf-8", folder) in ("exit 0", "exit 3")


def breaks(folder):
    raise TypeError("an exception of Python's own")


def overwrites(folder):
    (folder / "kept.txt").write_text("gone")
    return "read"


def removes(folder):
    (folder / "kept.txt").unlink()
    return "read"


def hangs(folder):
    time.sleep(60)
    return "read"


def swallows(folder):
    os.environ["FUZZ"] = str(len(bytearray(1 << 26)))
    return "read"


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (breaks, r"TypeError at test_fuzz.py:\d+: an exception of Python's own"),
        (overwrites, r"kept.txt was lost or overwritten"),
        (removes, r"kept.txt was lost or overwritten"),
        (hangs, r"Hang at test_fuzz.py:\d+: longer than 1 s"),
        (swallows, r"\d+ MiB of memory"),
    ],
)
def test_what_must_not_be_is_a_find(act, found, tmp_path, monkeypatch):
    monkeypatch.setitem(fuzz.KINDS, "own", lambda rng: ({"kept.txt": b"precious"}, act))
    monkeypatch.setitem(fuzz.SECONDS, "own", 1)
    monkeypatch.setattr(fuzz, "MEMORY", 16)
    peaks = iter((0, 64 if act is swallows else 0))
    monkeypatch.setattr(fuzz, "_peak", lambda: next(peaks))
    outcome = fuzz.attempt("own", 0, 0, tmp_path)
    assert outcome.what == "find"
    assert re.match(found, outcome.find)
