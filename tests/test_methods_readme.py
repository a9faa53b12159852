"""The methods' page: a row for every method that says what its class says, and an example that works."""

import math
import re
from pathlib import Path

import pytest
import tiny

from minigslora import methods
from minigslora.errors import ConfigError
from minigslora.methods.adapters import Adapters
from minigslora.methods.finetuning import FineTuning
from minigslora.methods.head_only import HeadOnly
from minigslora.methods.lirf import LIRF
from minigslora.methods.retrain import Retrain
from minigslora.sequence import forget_sequence
from minigslora.tasks import Setting, plan

FOLDER = Path(methods.__file__).parent
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in TEXT.splitlines()
    if line.startswith("| `") and len(cells := [c.strip() for c in line.strip("| ").split(" | ")]) == 5
}
TRAINS = {
    Adapters: "adapters",
    Retrain: "everything, from random weights",
    LIRF: "lower half",
    HeadOnly: "nothing: erases rows of the head",
    FineTuning: "all but the head",
}
"""What a method of a class trains; the first class that fits counts."""


def test_every_method_has_its_row():
    assert set(ROWS) == set(methods.table())


@pytest.mark.parametrize("name", methods.table())
def test_a_row_says_what_the_class_says(name):
    kind, (label, trains, needs, differs) = methods.table()[name], ROWS[name]
    assert (label == "another, retained") == hasattr(kind, "low_labels")
    assert trains == next(text for base, text in TRAINS.items() if issubclass(kind, base))
    teacher = re.search("the pre-trained model as teacher", needs)
    assert bool(teacher) == bool(kind.taught)
    roles = getattr(kind, "needs", ("retain", "forget"))
    assert ("retained" in needs) == ("retain" in roles or name == "retrain-oracle")
    assert ("forgotten" in needs) == ("forget" in roles)
    assert differs.startswith("control") == (not kind.published and not name.startswith(("gslora", "retr")))
    assert kind.revocable == (trains == "adapters")


def example():
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "name: " in code]
    return found


def test_the_worked_example_is_one_file_that_the_table_finds_and_the_loop_runs(tmp_path, monkeypatch):
    (tmp_path / "even.py").write_text(example(), encoding="utf-8")
    before = {path: path.read_bytes() for path in FOLDER.glob("*.py")}
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    assert set(methods.table()) == {*ROWS, "even"}
    with pytest.raises(ConfigError, match=r"even has no setting 'odd'; its settings are .*even"):
        methods.create("even", odd=1)
    problem = tiny.problem()
    method = methods.create("even", even=2.0, epochs=2, batch_retain=8, batch_forget=4)
    asked = plan(tiny.faces(), Setting(requests=(1, 2), ratio=0.5), 0)
    reports = forget_sequence(problem, method, asked, 0, tmp_path / "run")
    assert [r.task for r in reports] == ["task1", "task2"]
    for report in reports:
        terms = report.terms
        assert terms["loss"] == pytest.approx(terms["retain"] + terms["even"], rel=1e-5)
        assert terms["even"] >= 2 * (math.log(tiny.PEOPLE) - 1e-5)
    assert {path: path.read_bytes() for path in FOLDER.glob("*.py")} == before
