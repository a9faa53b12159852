"""The notebooks: how they are built, and their student versions."""

import ast
import json
import re

import nbformat
import papermill
from courses import NOTEBOOKS, ROOT, each_notebook, read

from minigslora.course import executing, student

LARGEST = 500_000
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|Users|work|opt)/|[A-Z]:\\Users")
SOLUTION = re.compile(r"### BEGIN SOLUTION[^\n]*\n(.*?)### END SOLUTION", re.DOTALL)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def own(path):
    """Return the code cells after the one that installs the package where it is missing."""
    return [cell for cell in code(path) if "install" not in tags(cell)]


def tags(cell):
    return cell.metadata.get("tags", [])


def prose(path):
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def test_the_first_notebooks_are_there():
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers[:7] == ["00", "01", "02", "03", "04", "05", "06"]
    assert len(set(numbers)) == len(numbers)


# --- how they are built ---------------------------------------------------------------------------


@each_notebook
def test_format(path):
    book = read(path)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) >= (4, 5)
    assert book.metadata.kernelspec.name == "python3"
    assert path.stat().st_size <= LARGEST
    assert re.fullmatch(r"\d\d_[a-z_]+", path.stem)


@each_notebook
def test_the_parameters_cell_is_the_first_after_the_installing_one_and_holds_literals_only(path):
    cells = own(path)
    assert "parameters" in tags(cells[0])
    assert not any("parameters" in tags(cell) for cell in cells[1:])
    known = executing.parameters_of(path)
    assert {"profile", "seed", "device", "precision"} <= set(known)
    assert set(papermill.inspect_notebook(str(path))) == set(known)
    for line in filter(None, map(str.strip, cells[0].source.splitlines())):
        if not line.startswith(("from ", "import ")):
            assert re.match(r"[a-z_0-9]+: [^=|]+ = [^=]+$", line), line


@each_notebook
def test_the_next_cell_sets_up_and_the_last_writes_the_result(path):
    cells = own(path)
    assert re.search(rf'configure\(\s*"{path.stem}",\s*globals\(\)', cells[1].source)
    assert "describe()" in cells[1].source
    assert "run.finish(" in cells[-1].source


@each_notebook
def test_it_was_run_from_top_to_bottom_in_the_cpu_profile_without_error_or_stderr(path):
    cells = code(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.get("name", output.output_type) for cell in cells for output in cell.outputs]
    assert "stderr" not in kinds
    assert "error" not in kinds
    assert "profile cpu" in json.dumps(own(path)[1].outputs)


@each_notebook
def test_outputs_name_no_folder_of_a_machine(path):
    outputs = json.dumps([cell.outputs for cell in code(path)])
    outputs = re.sub(r"data:image/[a-z+]+;base64,[^\"\\]+|\"image/png\": \"[^\"]+", "", outputs)
    assert not MACHINE_PATH.search(outputs), MACHINE_PATH.search(outputs)


@each_notebook
def test_pictures_have_a_text_for_who_cannot_see_them(path):
    outputs = json.dumps([cell.outputs for cell in code(path)])
    assert "image/png" not in re.sub("data:image/png;base64", "", outputs), "use minigslora.course.plots.show"
    pictures = re.findall(r"<img [^>]{0,2000}", outputs)
    assert pictures
    assert all(re.match(r'<img alt=\\"[^"\\]{20,}', picture) for picture in pictures)


@each_notebook
def test_cells_are_short_compared_where_they_can_be_and_never_skipped(path):
    cells = code(path)
    long = [cell.source.splitlines()[0] for cell in cells if len(cell.source.splitlines()) > 40]
    assert not long
    used = {tag for cell in cells for tag in tags(cell)}
    assert "nbval-check-output" in used
    assert not used & {"nbval-skip", "nbval-ignore-output", "raises-exception", "nbval-raises-exception"}
    assert not any("NBVAL_" in cell.source for cell in cells)
    silent = [c.source for c in cells if "nbval-check-output" in tags(c) and not c.outputs]
    assert not silent


@each_notebook
def test_three_to_five_exercises_with_solution_and_self_check(path):
    cells, number = code(path), path.stem[:2]
    checks = re.findall(r"exercise_(\d\d)_(\d)\(", "\n".join(cell.source for cell in cells))
    names = list(dict.fromkeys(checks))
    assert [name for name in names if name[0] != number] == []
    assert [int(k) for _, k in names] == list(range(1, len(names) + 1))
    assert 3 <= len(names) <= 5
    solved = [i for i, cell in enumerate(cells) if SOLUTION.search(cell.source)]
    assert len(solved) >= len(names)
    for i in solved:
        assert "exercise_" in cells[i].source + cells[i + 1].source
    text = prose(path)
    asked = re.findall(r"\*\*Exercise (\d\d)\.(\d) ●", text)
    assert asked == names  # each check has its question, once and in order
    for grade in "●", "●●":
        assert re.search(rf"(?<!●){grade}(?!●)", text), f"no exercise is graded {grade}"


@each_notebook
def test_links_lead_to_files(path):
    targets = re.findall(r"\]\((?!https?:|#|mailto:|attachment:|data:)([^)#\s]+)[^)]*\)", prose(path))
    assert targets, "link to the previous and the next notebook"
    assert not [target for target in targets if not (path.parent / target).exists()]


def docstrings():
    for file in sorted((ROOT / "minigslora").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield file.name, text


def test_every_equation_cited_by_the_library_is_in_its_notebook():
    cited = {
        (number, file)
        for file, text in docstrings()
        for number in re.findall(r"\((\d{1,2}\.\d{1,2})\)|equations? (\d{1,2}\.\d{1,2})", text)
        for number in filter(None, number)
    }
    assert len({number for number, _ in cited}) >= 8
    texts = {int(path.stem[:2]): prose(path) for path in NOTEBOOKS}
    lost = [
        f"{file} cites ({number})"
        for number, file in sorted(cited)
        if rf"\tag{{{number}}}" not in texts.get(int(number.split(".")[0]), "")
    ]
    assert not lost


@each_notebook
def test_equations_are_numbered_by_the_notebook_and_without_gap(path):
    tagged = re.findall(r"\\tag\{(\d+)\.(\d+)\}", prose(path))
    assert all(int(chapter) == int(path.stem[:2]) for chapter, _ in tagged)
    assert [int(k) for _, k in tagged] == list(range(1, len(tagged) + 1))


# --- the version a teacher hands out --------------------------------------------------------------


@each_notebook
def test_student_version(path, tmp_path):
    made = student.student_version(path, tmp_path / path.name)
    book = read(made)
    nbformat.validate(book)
    solutions = [text for cell in code(path) for text in SOLUTION.findall(cell.source)]
    given = "\n".join(cell.source for cell in book.cells)
    assert solutions
    assert "SOLUTION" not in given
    assert given.count("your code here") == len(solutions)
    assert not [text for text in solutions if text.strip() in given]
    for cell in book.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source.replace("%pip", "# %pip") + "\n    pass" * ("%pip" in cell.source))
            assert not cell.outputs
            assert cell.execution_count is None
