"""The committed notebook, as a reader on GitHub meets it."""

import ast
import json
import re
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

PATH = Path("S8_ResNet18_LayerNorm.ipynb")
NOTEBOOK = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
LINES = [len(cell.source.splitlines()) for cell in CODE]


def test_ran_once_from_top_to_bottom_without_an_error():
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for cell in CODE for output in cell.outputs if output.output_type == "error"]


def test_is_small_enough_for_github_and_holds_no_widgets():
    assert PATH.stat().st_size < 5e6
    assert "widgets" not in NOTEBOOK.metadata


def test_cells_are_short_and_define_nothing():
    assert max(LINES) <= 25 and statistics.median(LINES) <= 10
    assert not [cell for cell in CODE if re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)]


def test_training_left_one_table():
    (cell,) = [cell for cell in CODE if "train_one_epoch(" in cell.source]
    assert len([output for output in cell.outputs if output.output_type == "display_data"]) == 1


def test_training_continues_the_weights_even_after_later_cells_ran():
    """They make `model` the average of the weights."""
    (cell,) = [cell for cell in CODE if "train_one_epoch(" in cell.source]
    assert not re.search(r"\bmodel\b", cell.source.replace('parts["model"]', ""))


def test_interrupted_training_is_not_tested():
    (source,) = [cell.source for cell in CODE if cell.source.startswith("assert len(history)")]
    with pytest.raises(AssertionError, match="run its cell again"):
        exec(source, {"history": [{}], "CONFIG": {"epochs": 2}})


def test_shows_twenty_grids():
    (cell,) = [cell for cell in CODE if "plot_cam_grid(" in cell.source]
    assert len([output for output in cell.outputs if "image/png" in output.get("data", {})]) == 20


def test_readings_quote_the_published_run():
    prose = " ".join(" ".join(cell.source.split()) for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
    results = json.loads(Path("images/results.json").read_text())
    trust, cascade = results["trust"], results["cascade"]
    last, average = (results["held-out"][end]["validation accuracy"] for end in ("last step", "average"))
    plus, plain = ([r for name, (r, _) in trust["r, true class"].items() if sign in name] for sign in ("++", "CAM "))
    same, reverse = (trust["r, randomised"][f"Grad-CAM++ layer{layer}"][0] for layer in (4, 3))
    assert f"in the published run {average - last:.1f} points higher." in prose
    assert f"is highest there in {results['corner']['Grad-CAM++']['layer3']} of the 20" in prose
    assert f"with {min(plus):.2f} to {max(plus):.2f}; Grad-CAM has {max(plain):.2f} at most." in prose
    assert f"stays much the same ({same:.2f}), and that of `layer3` tends to the reverse ({reverse:.2f})." in prose
    assert f"most of all {trust['pointing']['Grad-CAM layer4'][0]:.2f} of Grad-CAM's `layer4`." in prose
    random, untrained = (cascade[stage]["Grad-CAM++ layer4"] for stage in ("layer4", "conv1"))
    assert f"falls to {random:.2f} once that layer is random, and is back at {untrained:.2f} when nothing" in prose
    up, left = (-offset for offset in results["offsets"]["layer3"])
    assert f"`layer3` is measured {up:.1f} pixels up and {left:.1f} left, so on that side, `layer2` nearly" in prose
    assert max(map(abs, results["offsets"]["layer2"])) < 0.2
    (table,) = [cell.outputs[0]["data"]["text/html"] for cell in CODE if "without_top_quarter(" in cell.source]
    answers = re.findall("<td>(.*?)</td>", table)
    repaired = [sum("✓" in answer for answer in answers[column::5]) for column in range(5)]
    quoted = "marks repairs {} and {} of the 20, what their contrasts mark {} and {}, a random quarter {}."
    assert quoted.format(*repaired) in prose


@pytest.mark.parametrize("there, calls", [((), ["git", "pip"]), (("S8",), ["pip"]), (("utils",), ["pip"])])
def test_setup_in_colab_can_be_run_again(monkeypatch, tmp_path, there, calls):
    """A restarted runtime is back in /content, beside the clone."""
    for folder in there:
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torchcam" else name)
    commands = []

    def run(command, check):
        commands.append(command)
        if command[0] == "git":
            (tmp_path / "S8").mkdir()

    monkeypatch.setattr("subprocess.run", run)
    exec(CODE[0].source, {})
    assert [command[0 if command[0] == "git" else 2] for command in commands] == calls
    assert commands[-1][-1] == "torchcam"
    assert Path.cwd().name == (tmp_path.name if "utils" in there else "S8")


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({"S8_SMOKE": "1"}, "smoke"),
        ({"S8_SMOKE": "1", "S8_MODE": "full"}, "smoke"),
        ({"S8_MODE": "smoke"}, "smoke"),
        ({"S8_MODE": "preview"}, "preview"),
    ],
)
def test_smoke_mode_downloads_nothing(environ, mode):
    asked = []
    (source,) = [cell.source for cell in CODE if "load_data(" in cell.source]
    scope = {"time": time, "os": SimpleNamespace(environ=environ), "load_data": lambda download: asked.append(download)}
    exec(source[: source.index("MODE, reason")], scope)
    assert environ["S8_MODE"] == mode
    assert asked == [mode != "smoke"]


def test_readme_and_notebook_name_the_same_repository():
    (repository,) = set(re.findall(r'REPOSITORY = "https://github.com/(.+)"', "\n".join(c.source for c in CODE)))
    for text in (Path("README.md").read_text(), NOTEBOOK.cells[0].source):
        assert f"colab.research.google.com/github/{repository}/blob/main/{PATH}" in text


def test_writes_to_its_output_folder_and_weights_in_full_mode_only():
    tree = ast.parse("\n".join(cell.source for cell in CODE))
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    writes = [call for call in calls if call.startswith(("plotting.save_figure(", "write_json("))]
    assert writes and all("OUT / " in call for call in writes)
    assert not [call for call in calls if call.startswith("open(") or ".write_" in call]
    guarded = [
        statement
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "MODE == 'full'"
        for statement in map(ast.unparse, node.body)
    ]
    assert "save_weights(WEIGHTS, model)" in guarded
    assert sum(call.startswith("save_weights(") for call in calls) == 1
