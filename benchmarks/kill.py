"""A run of four requests, killed again and again: does it come to what an undisturbed one comes to?

    python benchmarks/kill.py                       # 30 kills at random moments, then one at each file
    python benchmarks/kill.py --method scrub --kills 10

``minigslora forget`` runs in a process of its own on a tiny model and tiny pictures and is killed by SIGKILL:
at moments drawn from the time that an undisturbed run takes, and as each of its files is written, the file
half there or just whole. Each time it is started again, until it is done. Its files must then be those of the
undisturbed run, tensors bit for bit; only measured seconds may differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file
from tqdm import tqdm

from minigslora import cli as command_line
from minigslora import files
from minigslora.models import checkpoint
from minigslora.models.vit import FaceConfig, face_transformer

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
REQUESTS = ("ant", "cat", "dog", "fox")
SIZE = 16
SETTINGS = ("epochs=4", "batch_retain=8", "batch_forget=4", "lr=3e-3")
LOCKS = {".lock", ".holder", "tasks/.lock", "tasks/.holder"}
"""Files that say which process is at work."""
IN_CHILDREN = (
    "minigslora.cli",
    "minigslora.erasure",
    "minigslora.forget_command",
    "minigslora.datasets.registry",
)


def lay_out(root: Path) -> None:
    """Write pictures of six shades of noise, and a model of them with random weights."""
    noise = random.Random(0)
    for split, count in (("train", 8), ("test", 3)):
        for shade, name in enumerate(CLASSES):
            (folder := root / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = bytes(40 * shade + noise.randrange(40) for _ in range(3 * SIZE * SIZE))
                Image.frombytes("RGB", (SIZE, SIZE), pixels).save(folder / f"{i}.png")
    torch.manual_seed(0)
    config = FaceConfig(classes=6, image_size=SIZE, patch=8, dim=32, depth=2, heads=2, mlp=64, head="linear")
    card = checkpoint.Card({"kind": "face", **vars(config)}, CLASSES, image_size=SIZE)
    checkpoint.save(root / "model.safetensors", face_transformer(config), card)


def serve(root: Path, out: Path, method: str = "gslora++", at: str = "", half: bool = False) -> None:
    """Run the command in this process; it kills itself when it writes the file ``at``, if one is named.

    Args:
        root: what :func:`lay_out` wrote.
        out: the run's folder.
        method: a name of the table of methods.
        at: the file it dies at, relative to ``out``.
        half: whether that file is only half written by then.
    """
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # a semaphore between processes would outlive a killed one
    whole, deadly_file = files.written_whole, out / at

    @contextlib.contextmanager
    def deadly(path: Path) -> Iterator[Path]:
        with whole(path) as temporary:
            yield temporary
            if path == deadly_file and half:
                os.truncate(temporary, temporary.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        if path == deadly_file:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in [m for m in list(sys.modules.values()) if getattr(m, "written_whole", None) is whole]:
        module.written_whole = deadly  # type: ignore[attr-defined]
    words = ["forget", "--data", str(root / "photos"), "--weights", str(root / "model.safetensors")]
    words += ["--method", method, "--ratio", "1", "--device", "cpu", "--no-check", "--out", str(out)]
    words += [word for name in REQUESTS for word in ("--classes", name)]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    log = out.with_suffix(".log").open("a", 1, encoding="utf-8")
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        command_line.main(words)


def started(root: Path, out: Path, method: str = "gslora++", at: str = "", half: bool = False) -> BaseProcess:
    """Start :func:`serve` in a process of its own, which need not import torch anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IN_CHILDREN))
    process = context.Process(target=serve, args=(root, out, method, at, half))
    process.start()
    return process


def finished(process: BaseProcess, out: Path) -> bool:
    """Wait for a process; return whether it came to its end, or raise where it failed instead of dying."""
    process.join()
    if process.exitcode in (0, 3):  # 3: with random weights there may be nothing to erase
        return True
    if process.exitcode == -signal.SIGKILL:
        return False
    said = out.with_suffix(".log").read_text(encoding="utf-8").splitlines()
    raise RuntimeError(f"exit code {process.exitcode}: {said[-1]}")


def killed_after(process: BaseProcess, seconds: float) -> None:
    """Kill a process that is still there after some time."""
    process.join(seconds)
    process.kill()


def differences(one: Path, two: Path) -> list[str]:
    """Return the files in which two runs differ, measured seconds aside, and what was left lying about."""
    names = sorted(
        {str(p.relative_to(top)) for top in (one, two) for p in top.rglob("*") if p.is_file()} - LOCKS
    )
    return [name for name in names if not _same(one / name, two / name)]


def _same(one: Path, two: Path) -> bool:
    if not (one.is_file() and two.is_file()):
        return False
    if one.suffix == ".safetensors":
        a, b = load_file(one), load_file(two)
        return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    read = _READERS.get(one.suffix, Path.read_bytes)
    return bool(read(one) == read(two))


def _without_seconds(file: Path) -> object:
    value = json.loads(file.read_text(encoding="utf-8"))
    return {k: v for k, v in value.items() if k != "seconds"} if isinstance(value, dict) else value


def _page(file: Path) -> str:
    return re.sub(r"<td>[\d.]+</td>\s*</tr>", "</tr>", file.read_text(encoding="utf-8"))  # seconds stand last


_READERS = {
    ".json": _without_seconds,
    ".csv": lambda file: pd.read_csv(file).drop(columns="seconds").to_csv(),
    ".html": _page,
}


@dataclass
class Tally:
    """What was counted: kills, runs that came to their end after kills, and in what they differ."""

    kills: int = 0
    runs: int = 0
    different: list[str] = field(default_factory=list)
    writes: int = 0
    seconds: float = 0.0


class Executioner:
    """Kills runs and compares what they come to with an undisturbed one."""

    def __init__(self, top: Path, method: str = "gslora++") -> None:
        self.top, self.method, self.tally = top, method, Tally()
        self.out = top / "run"  # of every run in turn: its path stands in what it writes
        lay_out(top)
        for name in ("whole", "again"):  # the first also waits until everything is imported
            began = time.monotonic()
            finished(self._life(), self.out)
            self.tally.seconds = time.monotonic() - began
            self.out.rename(top / name)
        self.tally.different += [f"undisturbed: {name}" for name in differences(top / "whole", top / "again")]

    def _life(self, at: str = "", half: bool = False) -> BaseProcess:
        return started(self.top, self.out, self.method, at, half)

    def at_random(self, kills: int, seed: int = 0) -> None:
        """Kill runs at ``kills`` random moments; each is started again until it is done."""
        moments = random.Random(f"kill/{seed}")
        while self.tally.kills < kills:
            done = False
            while not done:
                process = self._life()
                if self.tally.kills < kills:
                    killed_after(process, moments.uniform(0, self.tally.seconds))
                done = finished(process, self.out)
                self.tally.kills += not done
            self.compare(f"after {self.tally.kills} kills")

    def at_write(self, at: str, half: bool) -> None:
        """Kill a run as it writes a file, and start it again."""
        if finished(self._life(at, half), self.out):
            raise RuntimeError(f"the run does not write {at}")
        self.tally.kills += 1
        self.tally.writes += 1
        finished(self._life(), self.out)
        self.compare(f"at {at}, {'half' if half else 'just'} written")

    def written(self) -> list[str]:
        """Return the files that a run writes whole."""
        whole = self.top / "whole"
        names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
        return [name for name in names if not name.endswith((".lock", ".jsonl"))]

    def compare(self, when: str) -> None:
        """Compare the killed run, now done, with the undisturbed one, and remove it."""
        self.tally.runs += 1
        self.tally.different += [f"{when}: {name}" for name in differences(self.top / "whole", self.out)]
        shutil.rmtree(self.out)


def main() -> None:
    """Print counts; the exit code is 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--method", default="gslora++")
    parser.add_argument("--kills", type=int, default=30, help="at random moments")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-") as top:
        run = Executioner(Path(top), asked.method)
        run.at_random(asked.kills, asked.seed)
        for name in run.written():
            for half in (True, False):
                run.at_write(name, half)
        tally = run.tally
    print(
        f"{asked.method}: {tally.kills} kills, {tally.writes} of them at files; an undisturbed run takes "
        f"{tally.seconds:.1f} s; {tally.runs} runs came to their end, {len(tally.different)} files differ"
    )
    print("\n".join(tally.different))
    sys.exit(bool(tally.different))


if __name__ == "__main__":
    main()
