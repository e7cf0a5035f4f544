"""The README quotes figures; they must be those of the results beside them."""

import json
import re
from pathlib import Path

import pytest

README = Path("README.md").read_text()
RESULTS = json.loads(Path("images/results.json").read_text())


def test_quotes_the_measured_accuracies():
    (quoted,) = re.findall(r"\*\*this notebook.* \| (\d+) of (\d+) \| ([\d.]+) % \|", README)
    epochs, accuracy = RESULTS["config"]["epochs"], RESULTS["published"]["accuracy"]
    assert quoted == (str(len(RESULTS["history"])), str(epochs), f"{accuracy:.2f}")
    assert f"right on {RESULTS['held-out']['average']['validation accuracy']:.2f} % of the" in README


def test_shows_the_run_whose_weights_are_published():
    assert RESULTS["test"] == pytest.approx(RESULTS["published"], rel=1e-3)


@pytest.mark.parametrize("method", ["Grad-CAM ", "Grad-CAM++ "])
def test_quotes_the_measured_correlations(method):
    means = [mean for name, (mean, _) in RESULTS["trust"]["r, true class"].items() if name.startswith(method)]
    assert f"{min(means):.2f} to {max(means):.2f}" in README


def test_names_the_maps_that_pass():
    trust = RESULTS["trust"]
    assert f"it puts {trust['pointing']['Grad-CAM layer4'][0]:.2f} of its weight" in README
    assert f"correlates at {trust['r, randomised']['Grad-CAM++ layer4'][0]:.2f} with itself" in README


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(path):
    assert Path(path).exists()
