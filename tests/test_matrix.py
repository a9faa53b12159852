"""The matrix of what is reproduced says what the files of rows say, and the pages say the same."""

import json

import matrix
import pandas as pd
import pytest
import tables
from courses import NOTEBOOKS, ROOT

from minigslora.reproduction import published


def faces():
    """The texts of notebook 07, cell by cell."""
    (path,) = [p for p in NOTEBOOKS if p.stem.startswith("07")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def test_every_page_has_the_matrix_of_the_files():
    assert tables.differing() == [], "run python benchmarks/tables.py"
    for text in ((ROOT / "README.md").read_text(encoding="utf-8"), "\n".join(faces())):
        assert "<!-- table: reproduced -->" in text
        assert tables.markdown(matrix.matrix()).strip() in text


def test_readme_and_notebook_say_first_that_nothing_published_is_reproduced():
    said = "No published number has been reproduced on the papers' own data and model"
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("What is reproduced\n\n")
    assert section.startswith(said)
    assert said in faces()[0]
    own = matrix.matrix().query('`data and model` == "the paper\'s own"')
    assert own["table"].tolist() == ["Table 2", "Table 3", "Table 4", "Table 5"]
    assert set(own["not run"]) == {"everything"}


def written(folder, name, rows):
    columns = ["scenario", "method", "recipe", "seed"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture
def found(tmp_path):
    """Return the lines of a folder with one table's rows, by data and model."""
    of = {"scenario": "four/full", "recipe": "corrected"}
    rows = [
        {**of, "method": m, "seed": s, "task": t} for m in ("gslora", "lora") for s in (0, 1) for t in (1, 2)
    ]
    rows += [{**of, "method": "ewc", "seed": 0, "task": 1}]
    rows += [{**of, "scenario": "four/4-shot", "recipe": "released", "method": "ewc", "seed": 5}]
    written(tmp_path, "mini_faces_table3", rows)
    written(tmp_path, "my_faces_table3_unheld", rows[:1])
    written(tmp_path, "paper_table4", [{**of, "method": "l2", "seed": 0}])
    written(tmp_path, "mini_faces_baselines", rows)
    return matrix.matrix(tmp_path).set_index(["table", "data and model"])


def test_methods_seeds_and_scenarios_are_counted(found):
    line = found.loc["Table 3", "mini-faces, shipped model"]
    assert (
        line["corrected recipe"] == "four/full: 3 methods (2 of 15 published): 2 with 2 seeds, 1 with 1 seed"
    )
    assert line["released recipe"] == "four/4-shot: 1 method (1 of 15 published), 1 seed"
    assert line["not run"] == "13 of the published methods"


def test_what_is_open_is_named(found):
    line = found.loc["Table 3", "my_faces, unheld"]
    assert line["not run"] == "four/4-shot; 14 of the published methods; the released recipe"
    own = found.loc["Table 4", "the paper's own"]
    assert own["corrected recipe"] == "four/full: 1 method (1 of 14 published), 1 seed"
    assert len(found) == 6, "four printed tables, mini-faces and my faces"


def test_scenarios_with_the_same_runs_stand_together(tmp_path):
    names = [s.name for s in published.table("table2").scenarios]
    rows = [{"scenario": n, "method": "gslora", "recipe": "corrected", "seed": 0} for n in names]
    written(tmp_path, "mini_faces_table2", rows)
    (line,) = (
        matrix.matrix(tmp_path).query("`data and model` == 'mini-faces, shipped model'").to_dict("records")
    )
    both = "100-5, 100-10, 100-50, 100-90/full, 100-5, 100-10, 100-50, 100-90/4-shot"
    assert line["corrected recipe"].startswith(f"{both}: 1 method (1 of ")


def test_a_page_without_the_mark_is_left_as_it_is():
    assert tables.filled("# A page\n") == "# A page\n"
    marked = "before\n<!-- table: reproduced -->\nold\n<!-- end -->\nafter"
    assert tables.filled(marked) == marked.replace("old\n", tables.markdown(matrix.matrix()))
