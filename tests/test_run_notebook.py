"""`make run` shows how far it is, and keeps what was executed, whatever becomes of cells, kernel and terminal."""

import os
import pty
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_core import paths
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from scripts import run_notebook

ROOT = Path(run_notebook.__file__).parents[1]
TABLE = """
from IPython.display import display
import pandas as pd
table = display(pd.DataFrame(), display_id=True)
table.update(pd.DataFrame([[1.5]], ["epoch 1"], ["loss"]))
table.update(pd.DataFrame([[1.5], [0.5]], ["epoch 1", "epoch 2"], ["loss"]))
"""
PICTURE = """
import base64
from IPython.display import Image
Image(base64.b64decode("iVBORw0KGgo="), format="png", metadata={"alt": "two < three"})
"""
PROGRESS = """
from IPython.display import display
for text in ("1/3", "2/3", ""):
    display({"text/plain": text}, raw=True, metadata={"progress": True}, display_id="a", update=text != "1/3")
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the notebook, where one was executed before; a text that starts with # is Markdown."""
    monkeypatch.chdir(tmp_path)

    def write_cells(*texts: str) -> None:
        cells = [
            new_markdown_cell(text) if text.startswith("#") else new_code_cell(text, execution_count=9)
            for text in texts
        ]
        nbformat.write(new_notebook(cells=cells), run_notebook.NOTEBOOK)

    return write_cells


def executed() -> list:
    """The code cells in runs/."""
    cells = nbformat.read(f"runs/{run_notebook.NOTEBOOK}", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def start(stdout, **environment) -> subprocess.Popen:
    command = [sys.executable, "-m", "scripts.run_notebook"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def test_shows_headings_text_and_new_rows_and_keeps_a_failed_run(write, capsys):
    write("## Training\nProse.", "print('six times', 7)", TABLE, PICTURE, "1 / 0", "print('never')")
    committed = run_notebook.NOTEBOOK.read_bytes()
    assert "In [4] failed, ZeroDivisionError: division by zero" in run_notebook.main()
    shown = capsys.readouterr().out
    assert "\n## Training\nsix times 7\n         loss\nepoch 1   1.5\nepoch 2   0.5\n" in shown and "Prose" not in shown
    assert [cell.execution_count for cell in executed()] == [1, 2, 3, 4, None]
    page = Path("runs", run_notebook.NOTEBOOK.with_suffix(".html")).read_text()
    assert "ZeroDivisionError" in page and 'alt="two &lt; three"' in page
    assert run_notebook.NOTEBOOK.read_bytes() == committed


def test_progress_is_shown_now_and_then_and_not_kept(write, capsys):
    write(PROGRESS)
    assert run_notebook.main() is None
    assert capsys.readouterr().out.startswith("1/3\n\nThe executed")
    assert executed()[0].outputs == []


def test_a_dead_kernel_keeps_what_was_executed(write):
    write("print('done')", "import os\nos.kill(os.getpid(), 9)")
    assert "died" in run_notebook.main()
    assert executed()[0].outputs[0].text == "done\n"


def test_the_kernel_is_this_interpreter_and_a_missing_template_costs_the_page_alone(write, capsys, monkeypatch):
    write("import sys\nprint(sys.executable)")
    Path("kernels/python3").mkdir(parents=True)
    Path("kernels/python3/kernel.json").write_text('{"argv": ["none"], "display_name": "", "language": ""}')
    monkeypatch.setenv("JUPYTER_PATH", os.getcwd())
    monkeypatch.setattr(paths, "ENV_JUPYTER_PATH", [])
    assert run_notebook.main() is None
    assert executed()[0].outputs[0].text == f"{sys.executable}\n"
    assert "no page" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_one_line(write, number):
    write("print('first')", "print('second', flush=True)\nimport time\ntime.sleep(60)")
    with start(subprocess.PIPE) as run:
        assert [run.stdout.readline(), run.stdout.readline()] == ["first\n", "second\n"]
        run.send_signal(number)
        out, error = run.communicate(timeout=20)
    assert (run.returncode, error) == (128 + number, "")
    assert out.strip() == "interrupted; `make run` continues from the last checkpoint"
    assert [cell.outputs[0].text for cell in executed()] == ["first\n", "second\n"]


@pytest.mark.parametrize("open_terminal", [os.pipe, pty.openpty])
def test_a_closed_pipe_or_terminal_or_ascii_does_not_stop_the_run(write, open_terminal):
    write("# Café", "import time\nfor _ in range(9):\n    time.sleep(0.1)\n    print('█')", "print('last')")
    reader, writer = open_terminal()
    with start(writer, PYTHONIOENCODING="ascii") as run:
        os.close(writer)
        shown = b""
        while b"Caf?" not in shown:
            shown += os.read(reader, 100) or pytest.fail(run.stderr.read())
        os.close(reader)
        assert (run.stderr.read(), run.wait(20)) == ("", 0)
    assert executed()[1].outputs[0].text == "last\n"


def test_an_old_python_gets_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10))
    with pytest.raises(SystemExit, match="3.11"):
        runpy.run_path(run_notebook.__file__)
