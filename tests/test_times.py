"""Times have one source, ``notebooks/times.json``: README, notebooks and teachers' README say the same."""

import json
import math
import re

import pytest
from courses import NOTEBOOKS, ROOT, each_notebook, read

TIMES = json.loads((ROOT / "notebooks" / "times.json").read_text(encoding="utf-8"))
SPOKEN = re.compile(r"(?<![\d.])(\d*)(½?) ?(min(?:utes)?|s)\b")


def seconds(text):
    """Return the only time in a text, in seconds."""
    found = [(whole, half, unit) for whole, half, unit in SPOKEN.findall(text) if whole or half]
    assert len(found) == 1, text
    whole, half, unit = found[0]
    return (int(whole or 0) + 0.5 * bool(half)) * (60 if unit.startswith("min") else 1)


def rounded(measured):
    """Round up, to five seconds or to half a minute."""
    unit = 5 if measured <= 55 else 30
    return unit * math.ceil(measured / unit)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("about 20 s", 20), ("4½ min on 2 cores", 270), ("½ min", 30), ("about 7 minutes on one core", 420)],
)
def test_a_time_is_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(("measured", "expected"), [(16, 20), (25, 25), (56, 60), (61, 90), (391, 420)])
def test_a_time_is_rounded_up(measured, expected):
    assert rounded(measured) == expected


def test_every_notebook_has_its_times():
    assert sorted(TIMES) == [path.stem for path in NOTEBOOKS]
    assert all(set(entry) == {"study", "smoke", "cpu", "threads"} for entry in TIMES.values())


@each_notebook
@pytest.mark.parametrize("profile", ["smoke", "cpu"])
def test_the_first_cell_says_the_time(path, profile):
    (row,) = re.findall(rf"^\| `?{profile}`? \|.*$", read(path).cells[0].source, re.MULTILINE)
    assert seconds(row) == rounded(TIMES[path.stem][profile])
    if profile == "cpu":
        assert ("one core" if TIMES[path.stem]["threads"] == 1 else "2 cores") in row


@each_notebook
def test_the_readme_says_the_same(path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| \[.*\(notebooks/{path.name}\).*$", text, re.MULTILINE)
    *_, study, said = row.rstrip(" |").split("|")
    assert study.strip() == f"{TIMES[path.stem]['study']} min"
    assert f"/minigslora/minigslora/blob/main/notebooks/{path.name}" in row  # the link to Colab
    assert seconds(said) == rounded(TIMES[path.stem]["cpu"])
    assert ("one core" in said) == (TIMES[path.stem]["threads"] == 1)


@each_notebook
def test_no_output_took_longer_than_the_whole_notebook_is_said_to(path):
    texts = [
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in read(path).cells
        for output in cell.get("outputs", [])
    ]
    printed = [float(found) for text in texts for found in re.findall(r"\b(\d+(?:\.\d+)?) s\b", text)]
    assert all(took <= TIMES[path.stem]["cpu"] for took in printed)


@each_notebook
def test_the_teachers_readme_says_the_same_study_time(path):
    text = (ROOT / "teaching" / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {path.stem[:2]} .*\| (\d+) min \|", text, re.MULTILINE)
    assert int(row) == TIMES[path.stem]["study"]
