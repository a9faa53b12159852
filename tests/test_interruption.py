"""Runs that are killed come to what undisturbed ones come to; benchmarks/kill.py does it more often."""

import os
import signal
import sys
import time

import pytest

if sys.platform == "win32":
    pytest.skip("no SIGKILL", allow_module_level=True)

import kill

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return kill.Executioner(tmp_path_factory.mktemp("kill"))


@pytest.fixture(autouse=True)
def nothing_differs(runs):
    """Compare every file of every run of this module with those of an undisturbed one."""
    before = runs.tally.runs
    runs.tally.different.clear()
    yield
    assert runs.tally.runs > before
    assert runs.tally.different == []


def test_a_run_killed_at_random_moments_goes_on_to_the_same_files(runs):
    runs.at_random(3, seed=1)
    assert runs.tally.kills == 3


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
@pytest.mark.parametrize("at", ["run.json", "tasks/task1.safetensors", "tasks/task2.json", "report.html"])
def test_a_run_killed_at_one_of_its_files_goes_on_to_the_same_files(runs, at, half):
    runs.at_write(at, half)


def test_a_second_process_in_the_same_folder_is_refused_by_name(runs):
    folder = runs.out
    first = kill.started(runs.top, folder)
    try:
        while not (folder / "tasks" / "task1.json").is_file():
            assert first.is_alive()
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeError, match=rf"exit code 2: error: .*in use by process {first.pid} on"):
            kill.finished(kill.started(runs.top, folder), folder)
        os.kill(first.pid, signal.SIGCONT)
        assert kill.finished(first, folder)
    finally:
        first.kill()
    runs.compare("beside a second process")
