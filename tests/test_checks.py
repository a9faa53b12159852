"""What the exercises' self-checks say to an answer that is wrong, of the wrong form, or broken."""

import pytest

from minigslora.course import checks


@pytest.mark.parametrize(
    ("check", "answers", "expected"),
    [
        ("exercise_00_1", (43.0, 46.5), "not yet. How far did the forgotten class fall"),
        ("exercise_00_2", (lambda logits, labels: None,), "whether you return it at all. (TypeError: "),
        ("exercise_00_3", (lambda z, y, who: dict.fromkeys(z.argmax(1)[y == who], 1),), "ints, not tensors"),
        ("exercise_04_2", ([0.1] + 9 * [0.0], [0.0, 0.1] + 8 * [-20.0]), "tensors of shape (10,)"),
    ],
)
def test_a_wrong_answer_gets_one_line(check, answers, expected):
    with pytest.raises(checks.NotYet) as caught:
        getattr(checks, check)(*answers)
    (line,) = caught.value._render_traceback_()
    assert expected in line
    assert line.startswith(f"✘ Exercise {check[9:11]}.{check[12:]}: not yet. ")


def test_an_error_in_the_answer_itself_keeps_its_traceback():
    source = "def answer(logits, labels):\n    return logits.no_such_method()"
    cell = {"__name__": "__main__"}  # as in a notebook's cells
    exec(source, cell)
    with pytest.raises(AttributeError, match="no_such_method"):
        checks.exercise_00_2(cell["answer"])
