"""`make run` shows how far it is, and keeps what was executed even where a cell fails."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from utils import run_notebook

TABLE = """
from IPython.display import display
import pandas as pd
table = display(pd.DataFrame(), display_id=True)
table.update(pd.DataFrame([[1.5]], ["epoch 1"], ["loss"]))
table.update(pd.DataFrame([[1.5], [0.5]], ["epoch 1", "epoch 2"], ["loss"]))
"""


def test_shows_headings_text_and_new_rows_and_keeps_a_failed_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = [new_markdown_cell("## Training\nProse."), new_code_cell("print('six times', 7)"), new_code_cell(TABLE)]
    nbformat.write(new_notebook(cells=[*cells, new_code_cell("1 / 0")]), run_notebook.NOTEBOOK)
    committed = run_notebook.NOTEBOOK.read_bytes()
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        run_notebook.main()
    shown = capsys.readouterr().out
    assert "\n## Training\nsix times 7\n         loss\nepoch 1   1.5\nepoch 2   0.5\n" in shown and "Prose" not in shown
    executed = nbformat.read(tmp_path / "runs" / run_notebook.NOTEBOOK.name, as_version=4)
    assert [cell.execution_count for cell in executed.cells[1:]] == [1, 2, 3]
    assert "ZeroDivisionError" in (tmp_path / "runs/S8_ResNet18_LayerNorm.html").read_text()
    assert run_notebook.NOTEBOOK.read_bytes() == committed


def test_a_dead_kernel_keeps_what_was_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [new_code_cell("print('done')"), new_code_cell("import os\nos.kill(os.getpid(), 9)")]
    nbformat.write(new_notebook(cells=cells), run_notebook.NOTEBOOK)
    with pytest.raises(SystemExit, match="died"):
        run_notebook.main()
    executed = nbformat.read(tmp_path / "runs" / run_notebook.NOTEBOOK.name, as_version=4)
    assert executed.cells[0].outputs[0].text == "done\n"
