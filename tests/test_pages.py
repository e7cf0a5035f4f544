"""The pages say what the results say, and their links and code work."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import pages
from utils.files import NOTEBOOK, RESULTS

PAGES = [*pages.PAGES, Path("models/README.md")]


def test_every_block_is_filled_from_the_results():
    check = subprocess.run([sys.executable, "-m", "scripts.pages", "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


def test_a_stale_block_is_named_and_filled_again(monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- this_run -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(pages, "PAGES", [page])
    monkeypatch.setattr("sys.argv", ["pages", "--check"])
    with pytest.raises(SystemExit, match="page.md: this_run"):
        pages.main()
    assert "old" in page.read_text()
    monkeypatch.setattr("sys.argv", ["pages"])
    pages.main()
    accuracy = json.loads(RESULTS.read_text())["test"]["accuracy"]
    assert f"{accuracy:.2f}" in page.read_text() and page.read_text().startswith("before\n<!-- this_run -->\n")
    assert page.read_text().endswith("<!-- end -->\nafter\n")
    monkeypatch.setattr("sys.argv", ["pages", "--check"])
    pages.main()


def test_seeds_counts_and_gains_are_those_of_the_logs(monkeypatch, tmp_path):
    for seed, accuracy in enumerate((90.0, 92.0)):
        history = [{"EMA validation accuracy": 91 + seed, "validation accuracy": 90, "seconds": 1}]
        margins = {"class": {"gradcam": {"layer1": [0.3, 0.1], "layer2": [0.3 - seed, 0.1]}}}
        log = {
            "config": {"seed": seed, "train images": 49_000},
            "environment": {"device": "X"},
            "test": {"accuracy": accuracy},
            "history": history,
            "margins": margins,
        }
        (tmp_path / f"recipe-seed{seed}-40x49000.json").write_text(json.dumps(log))
    monkeypatch.setattr(pages, "SEEDS", tmp_path)
    assert "**91.00 ± 1.41**" in pages.seeds()
    assert [line.split(" | ")[1:] for line in pages.trust_counts().splitlines()[2:]] == [
        ["2", "**2** |"],
        ["1", "**1** |"],
    ]
    gains = pages.gains(
        pages.read_logs(tmp_path, "*49000*"),
        [{"history": [{"x": 0} | {"EMA validation accuracy": 90}]}] * 2,
        "EMA validation accuracy",
    )
    assert gains == (1.5, 0.5)


def links(text: str) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)#]+)", text) + re.findall(r'src="(?!https?:)([^"]+)"', text)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in links(text):
        assert (page.parent / target).exists(), target
    anchors = {
        other: {
            re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
        }
        for other in PAGES
    }
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        assert anchor in anchors[(page.parent / target) if target else page], anchor


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_python_in_pages_parses_and_its_imports_exist(page):
    for source in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec("\n".join(map(ast.unparse, imports)), {})


def test_make_has_every_target_that_pages_name():
    targets = set(re.findall(r"^(\w+):", Path("Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:`|^ {4})make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


def test_readme_notebook_and_citation_name_the_same_repository():
    texts = Path("README.md").read_text(), NOTEBOOK.read_text(), Path("CITATION.cff").read_text()
    names = [set(re.findall(r"github(?:\.com)?/([\w-]+/S8-ResNet18-LayerNorm)", text)) for text in texts]
    assert names[0] == names[1] == names[2] and len(names[0]) == 1


def test_only_the_record_of_a_whole_full_run_is_published(tmp_path, monkeypatch):
    from scripts import publish

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="execute the notebook first"):
        publish.main()
    (tmp_path / "runs").mkdir()
    cell = {"cell_type": "code", "execution_count": 1, "id": "a", "metadata": {}, "source": "", "outputs": []}
    text = {"output_type": "stream", "name": "stdout", "text": "Mode: full, because there is a GPU."}
    error = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
    base = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    for outputs, why in (([], "no full run"), ([text, error], "a cell failed"), ([text], None)):
        notebook = base | {"cells": [cell | {"outputs": outputs}]}
        (tmp_path / "runs" / NOTEBOOK).write_text(json.dumps(notebook))
        if why:
            with pytest.raises(SystemExit, match=why):
                publish.main()
            assert not NOTEBOOK.exists()
    publish.main()
    assert json.loads(NOTEBOOK.read_text())["cells"][0]["outputs"]
