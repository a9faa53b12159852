"""Fingerprints of files, folders and the library; and one process at a time in a folder."""

import os
import subprocess
import sys
import textwrap

import pytest

from minigslora import __version__, fingerprint
from minigslora.errors import DataError, OutputError
from minigslora.files import alone_in


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
        os.utime(folder / name, (1e9, 1e9))
    return folder


def longer(folder):
    (folder / "train/cat/1.jpg").write_bytes(b"another image")
    os.utime(folder / "train/cat/1.jpg", (1e9, 1e9))


def hide(folder):
    (folder / "train/.ipynb_checkpoints").mkdir()
    (folder / "train/.ipynb_checkpoints/1.jpg").touch()
    (folder / "train/cat/.DS_Store").touch()


def loop(folder):
    (folder / "train/again").symlink_to(folder, target_is_directory=True)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: None, True),
        (hide, True),
        (loop, True),
        (lambda folder: (folder / "empty").mkdir(), True),
        (longer, False),
        (lambda folder: os.utime(folder / "train/cat/1.jpg", (1e9, 1e9 + 1)), False),
        (lambda folder: (folder / "train/cat/1.jpg").rename(folder / "train/cat/2.jpg"), False),
        (lambda folder: (folder / "train/cat").rename(folder / "train/cow"), False),
        (lambda folder: (folder / "train/dog/1.jpg").unlink(), False),
        (lambda folder: (folder / "test/cat/2.jpg").write_bytes(b""), False),
    ],
)
def test_a_folder_is_known_by_its_files(photos, change, same):
    before = fingerprint.fingerprint_of_folder(photos)
    change(photos)
    assert (fingerprint.fingerprint_of_folder(photos) == before) is same


def test_a_folder_is_the_same_under_another_name_and_through_a_link(photos, tmp_path):
    before = fingerprint.fingerprint_of_folder(photos)
    moved = photos.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(moved, target_is_directory=True)
    assert fingerprint.fingerprint_of_folder(moved) == before
    assert fingerprint.fingerprint_of_folder(tmp_path / "link") == before


def test_a_file_is_known_by_its_bytes(tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    one.write_bytes(b"weights")
    two.write_bytes(b"weights")
    other.write_bytes(b"Weights")
    assert fingerprint.fingerprint_of_file(one) == fingerprint.fingerprint_of_file(two)
    assert fingerprint.fingerprint_of_file(one) != fingerprint.fingerprint_of_file(other)


@pytest.mark.parametrize("of", [fingerprint.fingerprint_of_file, fingerprint.fingerprint_of_folder])
def test_what_is_not_there_is_named(of, tmp_path):
    with pytest.raises(DataError, match=r"nowhere cannot be read: No such file"):
        of(tmp_path / "nowhere")


def test_the_library_is_known_by_its_version_and_code(tmp_path, monkeypatch):
    found = fingerprint.library_fingerprint()
    assert found.startswith(f"{__version__}-")
    (tmp_path / "fingerprint.py").write_text("other code")
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "fingerprint.py"))
    other = fingerprint.library_fingerprint()
    assert other != found
    (tmp_path / "recipes").mkdir()
    monkeypatch.setattr(fingerprint, "shipped_root", lambda: tmp_path)
    seen = {other}
    for name in ("recipes/face.yaml", "model.safetensors", "fingerprint.py"):
        (tmp_path / name).write_text("changed")
        seen.add(fingerprint.library_fingerprint())
    assert len(seen) == 4
    (tmp_path / "README.md").write_text("says nothing of numbers")
    assert fingerprint.library_fingerprint() in seen


HOLD = """
    import sys
    from pathlib import Path
    from minigslora.files import alone_in
    with alone_in(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_folder_and_a_killed_one_holds_nothing(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    expected = rf"in use by process {other.pid} on .*, since 20\d\d-.*; wait"
    with pytest.raises(OutputError, match=expected), alone_in(tmp_path / "run"):
        pass
    with alone_in(tmp_path / "another"):
        pass
    other.kill()
    other.communicate()
    with alone_in(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / ".holder").read_text()


def test_the_same_process_may_come_back_but_not_enter_twice(tmp_path):
    for _ in range(2):
        expected = f"in use by process {os.getpid()}"
        with alone_in(tmp_path), pytest.raises(OutputError, match=expected), alone_in(tmp_path):
            pass
