"""The command line's last line of defence: what nobody thought of is one line, a file, and exit code 70."""

import re
from pathlib import Path

import pytest

from minigslora import cli, doctor
from minigslora.datasets import registry


def outcome(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code, capsys.readouterr().err


def raising(fault):
    def broken(*_, **__):
        raise fault

    return broken


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        TypeError("'NoneType' object is not subscriptable"),
        KeyError("weight"),
        IndexError("list index out of range"),
        AssertionError(),
        ZeroDivisionError("division by zero"),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        NotImplementedError(),
        OSError("something without a file"),
    ],
)
def test_a_fault_of_the_program(monkeypatch, tmp_path, capsys, fault):
    monkeypatch.setattr(doctor, "examine", raising(fault))
    code, said = outcome(["doctor"], capsys)
    assert code == 70
    assert len(said.splitlines()) == 1
    assert said.startswith(
        f"error: this is a fault of minigslora, not of what you gave it ({type(fault).__name__})"
    )
    path = Path(re.search(r"is in (\S+);", said)[1])
    text = path.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert type(fault).__name__ in text
    path.unlink()


def test_the_traceback_is_kept_in_the_runs_folder_and_nothing_there_is_lost(monkeypatch, tmp_path, capsys):
    (tmp_path / "report.html").write_text("an earlier report")
    monkeypatch.setattr(registry, "load", raising(RuntimeError("surprise")))
    code, said = outcome(["quickstart", "--out", str(tmp_path)], capsys)
    assert code == 70
    (kept,) = tmp_path.glob("traceback-*.txt")
    assert str(kept) in said
    assert "surprise" in kept.read_text()
    assert (tmp_path / "report.html").read_text() == "an earlier report"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (MemoryError(), "out of memory; close other programs"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (
            PermissionError(13, "Permission denied", "/photos/x.jpg"),
            "/photos/x.jpg: Permission denied; check",
        ),
        (OSError(28, "No space left on device", "/runs/a"), "/runs/a: No space left on device"),
        (OSError(5, "Input/output error", "/photos"), "/photos: Input/output error"),
        (FileNotFoundError(2, "No such file or directory", "gone.jpg"), "gone.jpg: No such file"),
    ],
)
def test_what_the_machine_refuses_is_no_fault_of_the_program(monkeypatch, capsys, fault, expected):
    monkeypatch.setattr(doctor, "examine", raising(fault))
    code, said = outcome(["doctor"], capsys)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert expected in said


def test_where_no_file_can_be_written_the_traceback_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", raising(RuntimeError("surprise")))
    monkeypatch.setattr(Path, "write_text", raising(OSError(30, "Read-only file system")))
    code, said = outcome(["doctor"], capsys)
    assert code == 70
    assert "surprise" in said


def test_ctrl_c_is_no_fault(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", raising(KeyboardInterrupt()))
    code, said = outcome(["doctor"], capsys)
    assert code in (1, 130)
    assert "fault" not in said
