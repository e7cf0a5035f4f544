"""Long loops show how far they are, in a cell or a terminal, leave nothing behind, and never fail because of it."""

import io
from types import SimpleNamespace

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from utils import progress as module
from utils.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal, and a clock that is a second later each time that it is asked."""
    seconds = iter(range(1000))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=Terminal()))
    return module.sys.stderr


def lines(terminal: Terminal) -> list[str]:
    """What stood in the rewritten line."""
    return terminal.getvalue().replace("\033[K", "").split("\r")[:-1]


def test_shows_done_total_and_time_left_after_two_seconds(terminal):
    assert list(progress("abcd", "letters")) == list("abcd")
    assert lines(terminal) == ["letters: 2/4, 0:02 left", "letters: 3/4, 0:01 left", ""]
    assert list(progress(iter("abcd"), "letters", total=150))[3] == "d"
    assert lines(terminal)[3:] == ["letters: 2/150, 2:28 left", "letters: 3/150, 2:27 left", ""]
    assert list(progress((letter for letter in "abc"), "letters"))[2] == "c"
    assert lines(terminal)[6:] == ["letters: 2", ""]


def test_a_short_loop_shows_nothing(terminal):
    assert list(progress("ab", "letters")) == ["a", "b"]
    assert terminal.getvalue() == ""


def test_a_loop_that_fails_clears_the_line(terminal):
    with pytest.raises(ZeroDivisionError):
        for number in progress([1, 1, 1, 0], "numbers"):
            1 / number
    assert lines(terminal)[0] and lines(terminal)[-1] == ""


@pytest.mark.parametrize("error", [OSError(5, "terminal gone"), BrokenPipeError(), UnicodeError(), AttributeError()])
def test_a_terminal_that_fails_does_not_stop_the_loop(terminal, monkeypatch, error):
    monkeypatch.setattr(terminal, "write", lambda text: (_ for _ in ()).throw(error))
    assert list(progress("abcd", "letters")) == list("abcd")


def test_a_cell_stores_one_blank_output():
    cells = [
        "from utils import progress\nfor i in progress.progress(range(3), 'short'): pass",
        "progress.DELAY = progress.INTERVAL = 0\nfor k in 'ab':\n for i in progress.progress(range(3), k): print(k)",
    ]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3").execute()
    kinds = [[output.output_type for output in cell.outputs] for cell in notebook.cells]
    assert kinds[0] == [] and kinds[1].count("display_data") == 1
    (shown,) = [output for output in notebook.cells[1].outputs if output.output_type == "display_data"]
    assert shown.data == {"text/plain": ""} and shown.metadata == {"progress": True}
