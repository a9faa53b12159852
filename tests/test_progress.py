"""Where a progress bar is drawn, and where it is not."""

import sys
from types import SimpleNamespace

import pytest

from minigslora.progress import bar


@pytest.mark.parametrize(
    ("asks", "watch", "drawn"),
    [(True, True, True), (True, False, False), (False, True, False), (None, True, False)],
)
def test_a_bar_is_drawn_where_a_front_end_has_a_user(monkeypatch, capsys, asks, watch, drawn):
    shell = None if asks is None else SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=asks))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert list(bar(range(3), "epochs", watch)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert ("epochs" in out) == drawn
    assert not err  # JupyterLab shows it in red


def test_a_terminal_has_it_on_its_error_stream(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(bar(range(3), "epochs", watch=True))
    out, err = capsys.readouterr()
    assert "epochs" in err
    assert not out
