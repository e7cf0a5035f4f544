"""The README quotes figures, and speed.md seconds of an epoch; they must be those of the results beside them."""

import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from tests.pages import README, RESULTS, SPEED, TEXT, read_log
from utils.check_weights import check_same_run
from utils.transforms import CLASSES


def test_quotes_the_published_accuracy():
    (quoted,) = re.findall(r"\*\*this notebook\*\* .* \| (\d+) \| ([\d.]+) % \|", README)
    assert len(RESULTS["history"]) == RESULTS["config"]["epochs"]
    assert quoted == (str(len(RESULTS["history"])), f"{RESULTS['published']['accuracy']:.2f}")
    assert f"gets {RESULTS['published']['accuracy']:.2f} % of CIFAR-10's test images right after 40 epochs" in TEXT


def test_quotes_the_seed():
    last, average = (RESULTS["held-out"][end]["validation accuracy"] for end in ("last step", "average"))
    assert f"network is seed {RESULTS['config']['seed']}," in TEXT
    assert f"recipe: {RESULTS['config']['train images']:,} images in batches" in TEXT
    assert f"as they are published, it was right on {RESULTS['test']['accuracy']:.2f} % of the test images" in TEXT
    assert f"| none | `notebook` | {RESULTS['config']['seed']} | {last:.2f} % | {average:.2f} % |" in README


def test_quotes_the_calibration():
    sure = RESULTS["confidence"]
    figures = (f"{100 * sure['all']:.1f} %", f"{RESULTS['published']['calibration error']:.3f}")
    assert "mean confidence is {}, its calibration error {}.".format(*figures) in TEXT
    errors, shown = (f"{100 * sure[which]:.1f} %" for which in ("errors", "shown"))
    assert f"On its {RESULTS['errors']} errors it is {errors} confident, on the 20 shown {shown}." in TEXT


def test_shows_the_run_whose_weights_are_published():
    check_same_run(RESULTS["test"], RESULTS["published"])
    assert RESULTS["test"] == pytest.approx(RESULTS["published"], rel=5e-3)  # rounding moves the calibration error


def test_quotes_what_the_first_mistake_becomes():
    cells = nbformat.read("S8_ResNet18_LayerNorm.ipynb", as_version=4).cells
    (table,) = [cell.outputs[0]["data"]["text/plain"] for cell in cells if "without_top_quarter(" in cell.source]
    mistake = f"{RESULTS['indices'][0]}: automobile → truck, 89 %"
    rows = [row.removeprefix(mistake) for row in table.splitlines() if row.startswith(mistake)]
    layer3, layer4, _, _, noise = re.findall(r"(\w+), (\d+ %)", " ".join(rows))
    assert (layer3[0], layer4[0], noise[0]) == ("automobile", "truck", "truck")
    assert f"`layer4` marks highest leaves it a truck ({layer4[1]}); that of `layer3` makes it an automobile" in TEXT
    assert f"an automobile ({layer3[1]}); a random one leaves it a truck ({noise[1]})." in TEXT


@pytest.mark.parametrize("cpu", ["_amx", "", "_avx2"])
def test_quotes_the_measured_speed(cpu):
    folder = Path("benchmarks/speed")
    training, maps = (json.loads((folder / f"{name}_speed{cpu}.json").read_text()) for name in ("train", "cam"))
    slow, fast = (training[way]["seconds per epoch"] for way in ("assignment", "repository"))
    assert f"| {slow:,.0f} s | {fast:,.0f} s | {training['ratio']:.2g} |" in README
    slow, fast = (maps[f"seconds, {way}"] for way in ("one call a map", "compute_cams"))
    assert f"| {slow:.2f} s | {fast:.2f} s | {maps['ratio']:.0f} |" in README


def test_quotes_the_seconds_of_an_epoch():
    runs = [[row["seconds"] for row in run["history"]] for run in (RESULTS, read_log("notebook-seed1-40x45000"))]
    first_sharp = len(runs[0]) - RESULTS["config"]["sharpness-aware epochs"]
    parts = [part for run in runs for part in (run[:first_sharp], run[first_sharp:])]
    plain, sharp, *other = (statistics.median(part) for part in parts)
    assert f"took {plain:.0f} s (the median), with sharpness-aware steps {sharp:,.0f} s" in SPEED
    assert "{:.0f} and {:.0f} s, {:.1f} hours in all".format(*other, sum(runs[1]) / 3600) in SPEED


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(path):
    assert Path(path).exists()


def test_explains_an_image_of_your_own(tmp_path, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "mine.png")
    exec(code.replace("mine", str(tmp_path / "mine")), {})
    assert Image.open(tmp_path / "mine_explained.png").width > 600
    assert capsys.readouterr().out.split(",")[0] in CLASSES
