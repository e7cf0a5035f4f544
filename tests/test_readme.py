"""The README quotes figures; they must be those of the results beside them."""

import json
import re
from pathlib import Path

import pytest

from utils.check_weights import check_same_run

README = Path("README.md").read_text()
RESULTS = json.loads(Path("images/results.json").read_text())


def test_quotes_the_measured_accuracies():
    (quoted,) = re.findall(r"\*\*this notebook\*\* .* \| (\d+) \| ([\d.]+) % \|", README)
    assert len(RESULTS["history"]) == RESULTS["config"]["epochs"]
    assert quoted == (str(len(RESULTS["history"])), f"{RESULTS['published']['accuracy']:.2f}")
    held_out = {end: f"{scores['validation accuracy']:.2f} %" for end, scores in RESULTS["held-out"].items()}
    assert f"are right on {held_out['average']} of" in README
    assert f"those of the last step: {held_out['last step']}" in README


def test_shows_the_run_whose_weights_are_published():
    check_same_run(RESULTS["test"], RESULTS["published"])
    assert RESULTS["test"] == pytest.approx(RESULTS["published"], rel=5e-3)  # rounding moves the calibration error


@pytest.mark.parametrize("method", ["Grad-CAM ", "Grad-CAM++ "])
def test_quotes_the_measured_correlations(method):
    means = [mean for name, (mean, _) in RESULTS["trust"]["r, true class"].items() if name.startswith(method)]
    assert f"{min(means):.2f} to {max(means):.2f}" in README


def test_names_the_maps_that_pass():
    trust = RESULTS["trust"]
    assert f"it puts {trust['pointing']['Grad-CAM layer4'][0]:.2f} of its weight" in README
    learned = {name: mean for name, (mean, _) in trust["r, randomised"].items() if name.startswith("Grad-CAM++")}
    assert f"it correlates at {min(learned.values()):.2f} to {max(learned.values()):.2f}" in README
    assert f"from the network's own start, {learned['Grad-CAM++ layer4']:.2f}" in README


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(path):
    assert Path(path).exists()
