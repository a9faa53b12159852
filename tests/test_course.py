"""What every notebook has in the same place, what teachers are given: pages, students' versions, slides."""

import json
import re

import conventions
import nbformat
import pytest
from courses import NOTEBOOKS, ROOT, each_notebook, read

from minigslora.cli import main
from minigslora.course import slides, student
from minigslora.course.links import absolute_links
from minigslora.errors import ConfigError, OutputError

BOOKS = conventions.books()
NAMES = [path.name for path in NOTEBOOKS]
TEACHING = ROOT / "teaching"


# --- the notebooks --------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", conventions.CONVENTIONS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.path.stem)
def test_convention(book, convention):
    missing = list(convention(book))
    assert not missing, "\n".join([str(convention.__doc__), *missing])


SAW = "> **What we saw** (cpu profile, seed 0)."
BOX = SAW + " Acc_r is 85.3 %, 2.7 points lower than in (4.1); `x 9` and block 7 are names.\n"
GOOD = [
    ("# 04 · A\n\n**You need** 03.\n\n**Study time**: about 90 minutes.\n\n| profile | time |", {}),
    (BOX, {}),
    (f"{SAW} About 80 % of 15,000.", {}),
    (f"{SAW} Three of 1.3e-4. See [glossary](00_start_here.ipynb#Glossary).", {}),
    ("## Check your understanding\n\n(a) Why?\n\n(b) How?\n\n(c) What?", {}),
    (
        "<details><summary>Answers</summary>\n\n(a) So.\n\n(b) So.\n\n(c) So.\n\n</details>",
        {"tags": ["answers"]},
    ),
    ("## Exercises", {}),
    ("## Open project\n\nDo it.\n\n| criterion | points |\n|---|---|\n| one | 4 |\n| two | 6 |", {}),
    (
        "## Summary\n\nAll.\n\n**Further reading**\n\n- A. Author, *One* (2001): it says why one must read "
        "it.\n- B. Author, *Two*\n  (2002): it says why one must read it, on two lines.\n",
        {},
    ),
]


def book_of(folder, cells, printed="85.312 -2.74 79.6 15000 1.31e-04 9"):
    """Write a notebook of markdown cells after one code cell that prints."""
    made = [nbformat.v4.new_markdown_cell(text, metadata=metadata) for text, metadata in cells]
    for cell in made * 2:
        if "answers" not in cell.metadata.get("tags", []):
            cell.metadata["slideshow"] = {"slide_type": "slide"}
    code = nbformat.v4.new_code_cell("print()", metadata={"tags": ["install"]})
    shown = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=printed)])
    hidden = {"jupyter": {"source_hidden": True}, "slideshow": {"slide_type": "-"}}
    solution = "### BEGIN SOLUTION\n1\n### END SOLUTION"
    solved = [nbformat.v4.new_code_cell(solution, metadata=hidden) for _ in range(2)]
    drawn = nbformat.v4.new_code_cell("plots.method_picture()")
    book = nbformat.v4.new_notebook(cells=[made[0], code, shown, drawn, *solved, *made[1:]])
    (folder / "notebooks").mkdir(exist_ok=True)
    path = folder / "notebooks" / "04_forget_once.ipynb"
    nbformat.write(book, path)
    return conventions.Book(path, 90)


def complaints(book, but=("teacher",)):
    return [what for check in conventions.CONVENTIONS if check.__name__ not in but for what in check(book)]


def test_a_good_notebook_lacks_nothing(tmp_path):
    assert complaints(book_of(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("cell", "old", "new", "expected"),
    [
        (0, "90 minutes", "80 minutes", "**Study time**: about 90 minutes."),
        (0, "# 04", "# 4", "'# 04 · Title'"),
        (1, "85.3 %", "85.4 %", "85.4: no code cell prints"),
        (1, "2.7", "2.75", "2.75: no code cell prints"),
        (2, "80 %", "90 %", "90: no code cell prints"),
        (1, "> **What", "**What", "should be a quotation"),
        (4, "(c)", "(d)", "three questions"),
        (5, "<details>", "", "fold the answers"),
        (7, "| 6 |", "| 7 |", "[4, 7]"),
        (8, ": it says why one must read it.", "", "say why to read it: 'A. Author, *One* (2001)'"),
        (3, "[glossary]", "[terms]", "no link [glossary]"),
    ],
)
def test_what_is_missing_is_named(tmp_path, cell, old, new, expected):
    cells = [*GOOD]
    assert old in cells[cell][0]
    cells[cell] = (cells[cell][0].replace(old, new), cells[cell][1])
    assert any(expected in what for what in complaints(book_of(tmp_path, cells)))


@pytest.mark.parametrize(
    ("said", "known", "expected"),
    [("0.2", 0.249, True), ("0.2", 0.251, False), ("0.25", 0.254, True), ("1e-4", 1.31e-4, True),
     ("15,000", 15000, True), ("2·10^{-3}", 0.0021, True), ("80", 80.6, False)],
)  # fmt: skip
def test_a_number_is_the_same_when_it_is_rounded_as_in_the_box(said, known, expected):
    assert conventions.same(said, known) is expected


# --- pages for teachers ---------------------------------------------------------------------------


def test_the_teachers_readme_links_a_page_for_every_notebook():
    text = (TEACHING / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((\d\d\.md)\)", text)
    assert sorted(set(linked)) == [f"{path.stem[:2]}.md" for path in NOTEBOOKS]
    assert {page.name for page in TEACHING.glob("[0-9][0-9].md")} <= set(linked)


@pytest.mark.parametrize("page", sorted(TEACHING.glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_teachers_pages_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    lost = [link for link in links if not (page.parent / link).exists()]
    assert not lost


def test_every_command_of_the_teachers_readme_exists(capsys):
    text = (TEACHING / "README.md").read_text(encoding="utf-8")
    used = re.findall(r"uv run minigslora (\w+)([^\n`]*)", text)
    assert {"student", "slides"} <= {command for command, _ in used}
    for command, rest in used:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert not ended.value.code
        known = capsys.readouterr().out
        assert all(option in known for option in re.findall(r" (--?[a-z-]+)", rest))


# --- students' versions ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handout")
    assert [path.name for path in student.hand_out([], folder)] == NAMES
    return folder


@each_notebook
def test_the_handout_has_no_answers_and_nothing_hidden(handout, path):
    for cell in read(handout / path.name).cells:
        assert "answers" not in cell.metadata.get("tags", [])
        assert "jupyter" not in cell.metadata
        assert "<summary>Answer" not in cell.source


@each_notebook
def test_links_of_the_handout_lead_to_the_handout_or_the_repository(handout, path):
    text = "\n".join(cell.source for cell in read(handout / path.name).cells if cell.cell_type == "markdown")
    relative = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)
    assert relative
    assert set(relative) <= set(NAMES)
    text = absolute_links(text)  # as in a handout of one notebook
    assert not re.findall(r"\]\((?![a-z]+:|#)", text)
    known = re.findall(r"https://github.com/minigslora/minigslora/(?:blob|tree|raw)/main/([^)#\s]+)", text)
    assert known
    assert not [target for target in known if not (ROOT / target).exists()]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](05_forget_again.ipynb)", "[a](05_forget_again.ipynb)"),
        ("[a](00_start_here.ipynb#H)", "[a](https://github.com/minigslora/minigslora/blob/main/notebooks/"
         "00_start_here.ipynb#H)"),
        ("[a](../data/results)", "[a](https://github.com/minigslora/minigslora/tree/main/data/results)"),
        ("![a](../b.png)", "![a](https://github.com/minigslora/minigslora/raw/main/b.png)"),
        ("[a](#Glossary) [b](https://x.org)", "[a](#Glossary) [b](https://x.org)"),
    ],
)  # fmt: skip
def test_a_link_stays_where_its_file_is_beside(link, expected):
    assert absolute_links(link, {"05_forget_again.ipynb"}) == expected


@each_notebook
def test_what_nbgrader_reads(handout, path):
    """Each exercise has a cell to fill in and one locked test, worth a point for each ●."""
    cells = [cell for cell in read(handout / path.name).cells if "nbgrader" in cell.metadata]
    marks = [cell.metadata.nbgrader for cell in cells]
    assert len({mark.grade_id for mark in marks}) == len(marks)
    for cell, mark in zip(cells, marks, strict=True):
        assert set(mark) == {"schema_version", "grade_id", "grade", "locked", "solution", "task"} | (
            {"points"} if mark.grade else set()
        )
        assert (mark.grade, mark.locked, mark.solution) in [(True, True, False), (False, False, True)]
        assert mark.solution == (student.TODO in cell.source)
        assert mark.grade == bool(student.CHECK.search(cell.source))
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    grades = [len(grade) for _, grade in student.EXERCISE.findall(text)]
    assert [mark.points for mark in marks if mark.grade] == grades


def test_nbgraders_own_validator(handout):
    validator = pytest.importorskip("nbgrader.nbgraderformat").MetadataValidator()
    for name in NAMES:
        validator.validate_nb(read(handout / name))


def test_for_nbgrader_solutions_stay_but_answers_do_not(tmp_path):
    (made,) = student.hand_out(["04"], tmp_path, solved=True)
    cells = read(made).cells
    assert any("### BEGIN SOLUTION" in cell.source for cell in cells)
    assert not any("answers" in cell.metadata.get("tags", []) or cell.get("outputs") for cell in cells)


def test_a_solved_exercise_passes_its_check_in_the_handout(handout, capsys):
    """The exercise about H: the student's cell raises, and with a solution the locked cell passes."""
    cells = read(handout / "05_forget_again.ipynb").cells
    place = next(i for i, cell in enumerate(cells) if cell.source.startswith("def my_h("))
    names = {}
    exec(cells[place].source, names)
    with pytest.raises(NotImplementedError):
        names["my_h"](80.0, 90.0, 0.0)
    body = "drop = acc_f_before - acc_f_now\n"
    body += "    return 2 * acc_r * drop / (acc_r + drop) if drop > 0 < acc_r else 0.0"
    exec(cells[place].source.replace(student.TODO, body), names)
    exec(cells[place + 1].source, names)
    assert "✔ Exercise 05.1" in capsys.readouterr().out


def changed(path, how):
    book = json.loads(path.read_text(encoding="utf-8"))
    how(book["cells"][-1])
    path.write_text(json.dumps(book), encoding="utf-8")


@pytest.mark.parametrize(
    "work",
    [
        lambda cell: cell.update(source="run.finish({})"),
        lambda cell: cell.update(execution_count=3),
        lambda cell: cell.update(outputs=[{"output_type": "stream", "name": "stdout", "text": "1"}]),
    ],
    ids=["written", "run", "output"],
)
def test_what_a_student_worked_in_is_kept(tmp_path, work):
    first, second = student.hand_out(["02", "03"], tmp_path)
    first.unlink()
    changed(second, work)
    kept = second.read_bytes()
    with pytest.raises(OutputError, match=r"has been worked in.*--out") as refused:
        student.hand_out(["02", "03"], tmp_path)
    assert "nothing was written" in str(refused.value)
    assert second.read_bytes() == kept
    assert not first.exists()


def test_a_handout_nobody_touched_is_written_anew_also_when_jupyter_saved_it(tmp_path):
    (made,) = student.hand_out(["03"], tmp_path)
    text = made.read_bytes()
    nbformat.write(read(made), made)
    assert student.hand_out(["3"], tmp_path) == [made]
    assert made.read_bytes() == text


@pytest.mark.parametrize("content", ["no notebook", None], ids=["text", "the course's own"])
def test_files_of_others_are_kept(tmp_path, content, capsys):
    target = tmp_path / NAMES[3]
    target.write_text(content or NOTEBOOKS[3].read_text(encoding="utf-8"), encoding="utf-8")
    before = target.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["student", "03", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "was not written by 'minigslora student'" in capsys.readouterr().err
    assert target.read_bytes() == before


# --- slides ---------------------------------------------------------------------------------------


def deck(folder):
    """Write a notebook with marked cells, one of them with a picture, and one that is not marked."""
    on = {"slideshow": {"slide_type": "slide"}}
    text = nbformat.v4.new_markdown_cell(
        "# 99 · Deck\n\n$x_1$, [next](04_forget_once.ipynb)\n\n**Study time**: a day.\n\n| profile |\n|---|",
        metadata=on,
    )
    picture = nbformat.v4.new_output("display_data", {"text/html": '<img alt="A dot." src="data:,">'})
    code = nbformat.v4.new_code_cell("draw()", metadata={"slideshow": {"slide_type": "-"}}, outputs=[picture])
    below = {"slideshow": {"slide_type": "subslide"}}
    plain = nbformat.v4.new_code_cell("short()", metadata=below)
    lines = nbformat.v4.new_output("stream", text="line\n" * slides.SHOWN)
    much = nbformat.v4.new_code_cell("much()", metadata=below, outputs=[lines])
    left_out = nbformat.v4.new_markdown_cell("left out")
    path = folder / "99_deck.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[text, left_out, code, plain, much]), path)
    return path


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(slides, "shipped", lambda package, end: f"/* {end} */")


def test_slides_show_marked_cells_only_and_ask_the_network_for_nothing(tmp_path, parts):
    (made,) = slides.write_slides([str(deck(tmp_path))], tmp_path / "out")
    text = made.read_text(encoding="utf-8")
    assert "left out" not in text
    assert "short" in text
    assert "Study time" not in text
    assert text.count("<details>") == 2  # the code that draws, and that which prints much, is folded
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text.replace('href="https://github.com', ""))
    assert "@import" not in text
    assert "blob/main/notebooks/04_forget_once.ipynb" in text
    assert slides.write_slides([str(deck(tmp_path))], tmp_path / "out") == [made]


def test_slides_hold_reveal_and_mathjax_whole(tmp_path):
    try:
        slides.shipped(*slides.PARTS["reveal_js"])
    except ConfigError as problem:
        pytest.skip(str(problem))
    (made,) = slides.write_slides([str(deck(tmp_path))], tmp_path)
    text = made.read_text(encoding="utf-8")
    assert "reveal.js 5" in text
    assert "MathJax" in text
    assert len(text) > 2_000_000


def test_slides_need_marked_cells_and_their_packages(tmp_path, monkeypatch):
    path = deck(tmp_path)
    monkeypatch.setitem(slides.PARTS, "reveal_js", ("no-such-package", "reveal.js"))
    with pytest.raises(ConfigError, match=r"no-such-package ships.*minigslora\[slides\]"):
        slides.write_slides([str(path)], tmp_path)
    book = read(path)
    book.cells = book.cells[1:2]
    nbformat.write(book, path)
    monkeypatch.setattr(slides, "shipped", lambda package, end: "")
    with pytest.raises(ConfigError, match="no cell for the slides"):
        slides.write_slides([str(path)], tmp_path)


def test_slides_do_not_replace_a_page_of_somebody_elses(tmp_path, parts):
    (tmp_path / "99_deck.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="was not written by 'minigslora slides'"):
        slides.write_slides([str(deck(tmp_path))], tmp_path)
    assert (tmp_path / "99_deck.html").read_text(encoding="utf-8") == "mine"
