"""The README quotes figures; they must be those of the results beside them."""

import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest

from utils.check_weights import check_same_run

README = Path("README.md").read_text()
TEXT = " ".join(README.split())
RESULTS = json.loads(Path("images/results.json").read_text())


def test_quotes_the_published_accuracy():
    (quoted,) = re.findall(r"\*\*this notebook\*\* .* \| (\d+) \| ([\d.]+) % \|", README)
    assert len(RESULTS["history"]) == RESULTS["config"]["epochs"]
    assert quoted == (str(len(RESULTS["history"])), f"{RESULTS['published']['accuracy']:.2f}")
    assert f"only gets {RESULTS['published']['accuracy']:.2f} %" in TEXT


def test_quotes_every_seed():
    ends = [RESULTS["held-out"][end]["validation accuracy"] for end in ("last step", "average")]
    runs = {RESULTS["config"]["seed"]: [*ends, RESULTS["test"]["accuracy"]]}
    for path in sorted(Path("benchmarks/recipes").glob("notebook-seed[1-9]-40x45000.json")):
        log = json.loads(path.read_text())
        last = log["history"][-1]
        runs[log["recipe"]["seed"]] = [last["validation accuracy"], last["averaged accuracy"], log["test"]["accuracy"]]
    for seed, figures in runs.items():
        (row,) = re.findall(rf"^\| {seed}\b.*", README, re.MULTILINE)
        assert " | ".join(f"{figure:.2f} %" for figure in figures) in row
    columns = list(zip(*runs.values(), strict=True))
    means = [f"{mean(column):.2f} ± {stdev(column):.2f} %" for column in columns]
    assert f"| mean ± standard deviation | {' | '.join(means)} |" in README
    last, average, _ = ([f"{figure:.2f} %" for figure in column] for column in columns)
    assert f"| none | {' | '.join(average)} |" in README
    assert f"| no average: the weights of the last step | {' | '.join(last)} |" in README
    first_end = json.loads(Path("benchmarks/recipes/first_end-seed0.json").read_text())["held-out"]["average"]
    assert f"the rates halved once more | {first_end['validation accuracy']:.2f} % |" in README


SMALL = sorted(Path("benchmarks/recipes").glob("*-seed0-20x4500.json"))


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_tabulates_the_ablation_in_small(path):
    last = json.loads(path.read_text())["history"][-1]
    figures = [last[name] for name in ("train accuracy", "validation accuracy", "averaged accuracy")]
    row = " | ".join([f"`{path.stem.split('-')[0]}`", *(f"{figure:.2f} %" for figure in figures)])
    assert f"| {row} |" in README


def test_quotes_the_beginning_of_the_whole_run_from_the_usual_scales():
    path = Path("benchmarks/recipes/usual_last_scales-seed0-40x45000.json")
    last = json.loads(path.read_text())["history"][-1]
    weights, average = last["validation accuracy"], last["averaged accuracy"]
    assert f"after [{last['epoch']} epochs]({path}) a whole run from 1 has {weights:.2f} % of the held-out" in TEXT
    assert f"images right, {average:.2f} % by its average, more than both runs above at their ends." in TEXT
    other = json.loads(Path("benchmarks/recipes/notebook-seed1-40x45000.json").read_text())["history"][-1]
    ends = (RESULTS["held-out"]["average"]["validation accuracy"], other["averaged accuracy"])
    assert min(weights, average) > max(ends)


def test_quotes_the_calibration():
    sure = RESULTS["confidence"]
    figures = (f"{100 * sure['all']:.1f} %", f"{RESULTS['published']['calibration error']:.3f}")
    assert "mean confidence is {}, its calibration error {}.".format(*figures) in TEXT
    assert f"it is {100 * sure['errors']:.1f} % confident, on the 20 shown {100 * sure['shown']:.1f} %." in TEXT


def test_shows_the_run_whose_weights_are_published():
    check_same_run(RESULTS["test"], RESULTS["published"])
    assert RESULTS["test"] == pytest.approx(RESULTS["published"], rel=5e-3)  # rounding moves the calibration error


@pytest.mark.parametrize("method", ["Grad-CAM ", "Grad-CAM++ "])
def test_quotes_the_measured_correlations(method):
    means = [r for name, (r, _) in RESULTS["trust"]["r, true class"].items() if name.startswith(method)]
    assert f"{min(means):.2f} to {max(means):.2f}" in TEXT


@pytest.mark.parametrize("name", RESULTS["trust"]["pointing"])
def test_tabulates_the_measurements(name):
    checks = ("r, true class", "r, randomised", "pointing", "deletion", "insertion", "repair by predicted")
    means = [f"{RESULTS['trust'][check][name][0]:.2f}" for check in checks]
    assert f"| {name} | {' | '.join(means)} |" in README.replace("**", "")


def passing(results: dict) -> list[str]:
    """Return the maps that pass every check, and clearly."""
    fails, unclear = results["fails"], results["unclear"]
    return [name for name in fails if "CAM" in name and not fails[name] + unclear[name]]


def test_names_the_maps_that_pass():
    trust, cascade, fails = RESULTS["trust"], RESULTS["cascade"], RESULTS["fails"]
    assert passing(RESULTS) == ["Grad-CAM layer4"]
    assert all("deletion" in fails[f"Grad-CAM layer{layer}"] for layer in (1, 2))
    assert RESULTS["unclear"]["Grad-CAM layer3"] == "deletion"
    contrast = [trust["repair by contrast"][name][0] for name in ("Grad-CAM layer4", "centre blob")]
    assert "class repairs {:.2f} of the mistakes, the blob {:.2f}.".format(*contrast) in TEXT
    assert f"it puts {trust['pointing']['Grad-CAM layer4'][0]:.2f} of its weight" in TEXT
    learned = [r for name, (r, _) in trust["r, randomised"].items() if name.startswith("Grad-CAM++")]
    assert f"of an untrained network it correlates at {min(learned):.2f} to {max(learned):.2f}." in TEXT
    classifier = [r for name, r in cascade["linear"].items() if name.startswith("Grad-CAM++")]
    assert f"leaves it at {min(classifier):.2f} to {max(classifier):.2f}" in TEXT
    assert f"that of `layer1` keeps {cascade['bn1']['Grad-CAM++ layer1']:.2f} until" in TEXT
    assert f"In {RESULTS['corner']['Grad-CAM++']['layer3']} of the 20 images that of `layer3`" in TEXT
    assert f"from the network's own start, {trust['r, randomised']['Grad-CAM++ layer4'][0]:.2f}" in TEXT
    repairs = {name: 100 * share for name, (share, _) in trust["repair by predicted"].items()}
    assert f"most mistakes ({repairs['Grad-CAM layer3']:.3g} %; `layer4` {repairs['Grad-CAM layer4']:.3g} %" in TEXT
    assert f"the blob {repairs['centre blob']:.3g} %, random pixels {repairs['random']:.3g} %" in TEXT


def test_quotes_the_maps_of_the_other_network():
    other = json.loads(Path("benchmarks/recipes/maps-seed1.json").read_text())
    trust = other["trust"]
    assert passing(other) == ["Grad-CAM layer4"]
    assert f"({trust['pointing']['Grad-CAM layer4'][0]:.2f} on the right image)" in TEXT
    same = [r for name, (r, _) in trust["r, true class"].items() if name.startswith("Grad-CAM++")]
    assert f"for the true class ({min(same):.2f} to {max(same):.2f})" in TEXT


def test_quotes_the_measured_speed():
    training, maps = (json.loads(Path(f"benchmarks/speed/{name}_speed.json").read_text()) for name in ("train", "cam"))
    slow, fast = (training[way]["seconds per epoch"] for way in ("assignment", "repository"))
    assert f"| {slow:,.0f} s | {fast:,.0f} s | {training['ratio']:.1f} |" in README
    slow, fast = (maps[f"seconds, {way}"] for way in ("one call a map", "compute_cams"))
    assert f"| {slow:.2f} s | {fast:.2f} s | {maps['ratio']:.0f} |" in README


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(path):
    assert Path(path).exists()
