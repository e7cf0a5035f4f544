"""The README quotes figures; they must be those of the results beside them."""

import json
import re
from pathlib import Path

import pytest

README = Path("README.md").read_text()
RESULTS = json.loads(Path("images/preview/results.json").read_text())


def test_quotes_the_measured_accuracy():
    (quoted,) = re.findall(r"\*\*this notebook, preview\*\* .* \| ([\d.]+) % \|", README)
    assert quoted == f"{RESULTS['test']['accuracy']:.2f}"


@pytest.mark.parametrize("method", ["Grad-CAM ", "Grad-CAM++ "])
def test_quotes_the_measured_correlations(method):
    means = [mean for name, (mean, _) in RESULTS["trust"]["r, true class"].items() if name.startswith(method)]
    assert f"{min(means):.2f} to {max(means):.2f}" in README


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(path):
    assert Path(path).exists()
