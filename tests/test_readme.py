"""README, recipes.md and trust.md quote figures; they must be those of the results beside them."""

import json
import re
import statistics
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from utils.check_weights import check_same_run
from utils.transforms import CLASSES

PAGES = [
    Path(name).read_text()
    for name in ("README.md", "benchmarks/recipes.md", "benchmarks/trust.md", "benchmarks/speed.md")
]
README = PAGES[0]
TEXT, RECIPES, TRUST, SPEED = (" ".join(page.split()) for page in PAGES)  # without line breaks
RESULTS = json.loads(Path("images/results.json").read_text())
BEYOND_CHANCE = 4.3  # standard errors of a mean of three at 5 %: t of 2 degrees of freedom


def read_log(name: str) -> dict:
    """Return a published log of a recipe or of its maps."""
    return json.loads(Path(f"benchmarks/recipes/{name}.json").read_text())


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


WHOLE = sorted(Path("benchmarks/recipes").glob("*-40x45000.json"))


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_tabulates_the_ablation_by_whole_runs(path):
    name, seed, _ = path.stem.split("-")
    last = json.loads(path.read_text())["history"][-1]
    figures = f"{last['validation accuracy']:.2f} % | {last['averaged accuracy']:.2f} %"
    assert last["epoch"] == 40
    assert f"| `{name}` | {seed.removeprefix('seed')} | {figures} |" in README


def test_quotes_the_other_seeds():
    others = [read_log(f"notebook-seed{seed}-40x45000")["test"]["accuracy"] for seed in (1, 2)]
    tested = [RESULTS["test"]["accuracy"], *others]
    mean, deviation = statistics.mean(tested), statistics.stdev(tested)
    assert "The same recipe in seeds 1 and 2 gets {:.2f} and {:.2f} %".format(*others) in TEXT
    assert f"the mean of the three is {mean:.2f} %, their standard deviation {deviation:.2f} points." in TEXT
    assert f"({mean:.2f} % in the mean of three seeds)" in TEXT
    assert f"at {mean:.2f} % it is missed by {94 - mean:.2f} points." in TEXT
    assert "those of `notebook` 1 and 2 ({:.2f} and {:.2f} %)".format(*others) in RECIPES


def of_seeds(name: str, run: str, figure: str, epoch: int) -> list[float]:
    """Return a figure of seeds 0, 1 and 2 of a recipe after an epoch."""
    return [read_log(f"{name}-seed{seed}-{run}")["history"][epoch - 1][figure] for seed in (0, 1, 2)]


def whole_run(name: str, figure: str, epoch: int = 40) -> list[float]:
    """Return a figure of the whole runs of seeds 0, 1 and 2 after an epoch."""
    return of_seeds(name, "40x45000", figure, epoch)


def test_quotes_what_sharpness_aware_steps_gain():
    runs = [[whole_run(name, "averaged accuracy", epoch) for name in ("notebook", "never_sharp")] for epoch in (39, 40)]
    earlier, last = ("{:.2f}, {:.2f} and {:.2f}".format(*lead(*pair)[0]) for pair in runs)
    for text in (TEXT, RECIPES):
        assert f"{last} points ahead by the average" in text
    assert f"an epoch earlier it was {earlier}." in TEXT
    assert f"an epoch earlier they were {earlier} ahead." in RECIPES
    assert f"in the whole runs they end {last} points ahead by the average." in RECIPES
    sharp, plain = (whole_run(name, "averaged loss") for name in ("notebook", "never_sharp"))
    quoted = "{:.3f}, {:.3f} and {:.3f}, where plain steps end with {:.3f}, {:.3f} and {:.3f}."
    assert quoted.format(*sharp, *plain) in RECIPES


def test_quotes_how_far_batch_norm_was_ahead_in_a_lost_run():
    at = {"validation accuracy": (94.18, 94.04, 94.28), "averaged accuracy": (94.30, 94.46, 94.54)}
    layer = read_log("notebook-seed0-40x45000")["history"][33:36]
    leads = [lead(batch, [row[figure] for row in layer])[0] for figure, batch in at.items()]
    quoted = "{:.2f}, {:.2f} and {:.2f} points ahead of layer normalisation, by the average {:.2f}, {:.2f} and {:.2f}."
    assert quoted.format(*leads[0], *leads[1]) in RECIPES
    assert f"it was {min(sum(leads, [])):.1f} to {max(sum(leads, [])):.1f} points ahead" in TEXT


def test_quotes_what_a_larger_radius_does():
    near, wide = (read_log(log)["history"] for log in ("notebook-seed2-40x45000", "radius0.2-seed2"))
    assert near[:33] == wide[:33] and len(wide) == 40
    average, step = (wide[-1][key] - near[-1][key] for key in ("averaged accuracy", "validation accuracy"))
    losses = "the average's loss is {:.3f}, not {:.3f}".format(*(run[-1]["averaged loss"] for run in (wide, near)))
    quoted = f"With 0.2 seed 2 ends {-average:.2f} points lower by the average and {step:.2f} higher by the last step"
    assert f"{quoted}, and {losses}: it hardly matters." in RECIPES


PRECISIONS = {
    "": "bfloat16",
    "-float32": "float32",
    "-rounded": "rounded to bfloat16",
    "-float16": "rounded to float16",
}


@pytest.mark.parametrize(
    "path", sorted(Path("benchmarks/recipes").glob("*-seed?-20x4500*.json")), ids=lambda path: path.stem
)
def test_tabulates_every_run_in_small(path):
    recipe, seed, precision = re.fullmatch(r"(\w+)-seed(\d)-20x4500(.*)", path.stem).groups()
    history = json.loads(path.read_text())["history"]
    figures = [f"{history[-1][name]:.2f}" for name in ("train accuracy", "validation accuracy", "averaged accuracy")]
    figures += [f"{history[-1][name]:.3f}" for name in ("validation loss", "averaged loss")]
    rates = pairwise(epoch["learning rate"] for epoch in history)
    halved = [str(epoch) for epoch, (before, after) in enumerate(rates, start=2) if before == 2 * after]
    assert len(history) == 20
    row = [f"`{recipe}`", seed, PRECISIONS[precision], *figures, ", ".join(halved) or "never"]
    assert f"| {' | '.join(row)} |" in RECIPES


def in_small(name: str, figure: str, epoch: int = 20, precision: str = "") -> list[float]:
    """Return a figure of the runs in small of seeds 0, 1 and 2 after an epoch."""
    return of_seeds(name, f"20x4500{precision}", figure, epoch)


def end_in_small(name: str, precision: str = "") -> list[list[float]]:
    """Return the held-out accuracy by the last step, and by the average, of seeds 0, 1 and 2."""
    return [in_small(name, figure, precision=precision) for figure in ("validation accuracy", "averaged accuracy")]


def lead(one: list[float], other: list[float]) -> tuple[list[float], float, float]:
    """Return by how much one is ahead in each seed, the mean, and its standard error."""
    gains = [a - b for a, b in zip(one, other, strict=True)]
    return gains, statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5


def leads_in_small() -> dict[str, list[tuple[list[float], float, float]]]:
    """Return for every change its lead on `notebook` by the last step and by the average."""
    names = [path.stem.split("-")[0] for path in Path("benchmarks/recipes").glob("*-seed0-20x4500.json")]
    ends = {name: end_in_small(name) for name in names}
    notebook = ends.pop("notebook")
    return {name: list(map(lead, both, notebook)) for name, both in ends.items()}


LEADS = leads_in_small()


@pytest.mark.parametrize("name", LEADS)
def test_tabulates_the_ablation_in_small(name):
    figures = [f"{mean:+.2f} ({error:.2f})" for _, mean, error in LEADS[name]]
    assert f"| `{name}` | {' | '.join(figures)} |" in README


def test_names_the_differences_in_small_that_chance_does_not_explain():
    leads = {(name, which): lead for name, pair in LEADS.items() for which, lead in enumerate(pair)}
    clear = {key for key, (_, mean, error) in leads.items() if abs(mean) > BEYOND_CHANCE * error}
    both = {(name, which) for name in ("batch_norm", "adamw", "sgd", "zero_last_scales") for which in (0, 1)}
    assert clear == both | {("no_decay", 0), ("no_plateau", 0)}
    assert {name for name, which in clear if leads[name, which][1] > 0} == {"batch_norm"}
    assert f"in {len(leads)} such comparisons" in RECIPES and f"of {len(leads)} comparisons one" in TEXT


def test_quotes_how_the_notebook_ends_in_small():
    last, average = end_in_small("notebook")
    quoted = "ends at {:.2f}, {:.2f} and {:.2f} % in seeds 0, 1 and 2, its average at {:.2f}, {:.2f} and {:.2f} %."
    assert quoted.format(*last, *average) in TEXT


BEHIND = "last step is {3:.1f} points behind (standard error {4:.1f}), the average {8:.1f}"
EACH = "by {0:.1f}, {1:.1f} and {2:.1f} points (mean {3:.1f}, standard error {4:.1f}), "


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("no_smoothing", "Without label smoothing the " + BEHIND + " ({9:.1f})"),
        ("zero_last_scales", "With last scales of 0 the " + BEHIND + " ({9:.1f})"),
        ("flip", "as many are ({3:.1f} points fewer, standard error {4:.1f}; by the average {8:.1f}, {9:.1f})"),
        ("never_sharp", BEHIND + " ahead ({9:.1f})"),
        ("no_decay", EACH + "the average in two, and in the mean not ({8:.1f}, {9:.1f})."),
        ("no_plateau", EACH + "the average in two, by {8:.1f} in the mean ({9:.1f}):"),
        ("batch_norm", EACH + "its average by {5:.1f}, {6:.1f} and {7:.1f} ({8:.1f}, {9:.1f})."),
    ],
)
def test_quotes_leads_in_small(name, quoted):
    """Their signs are those of the README's table."""
    figures = [abs(figure) for gains, mean, error in LEADS[name] for figure in (*gains, mean, error)]
    assert quoted.format(*figures) in RECIPES
    assert "average in two" not in quoted or sum(gain < 0 for gain in LEADS[name][1][0]) == 2


POINTS = "{:.1f}, {:.1f} and {:.1f} points"


@pytest.mark.parametrize(
    ("name", "figure", "sign", "quoted"),
    [
        ("no_smoothing", "validation loss", 1, "loss is higher in all three, by {:.3f}, {:.3f} and {:.3f}."),
        ("flip", "train accuracy", -1, "fewer of the training images are right in the last epoch, by " + POINTS),
        ("no_plateau", "train accuracy", -1, "are right in the last epoch with the plateau, by " + POINTS),
        ("never_sharp", "train accuracy", 1, "more of the training images are right in the last epoch, by " + POINTS),
        ("never_sharp", "averaged loss", -1, "lower held-out loss in all three seeds (by {:.3f}, {:.3f} and {:.3f})"),
    ],
)
def test_quotes_changes_in_small(name, figure, sign, quoted):
    changes, *_ = lead(in_small(name, figure), in_small("notebook", figure))
    assert quoted.format(*(sign * change for change in changes)) in RECIPES


def test_quotes_how_slowly_adamw_learns():
    adamw, muon = (in_small(name, "validation accuracy", 16) for name in ("adamw", "notebook"))
    quoted = "{:.1f}, {:.1f} and {:.1f} % of the held-out images after 16 epochs, Muon on {:.1f}, {:.1f} and {:.1f} %."
    assert quoted.format(*adamw, *muon) in RECIPES
    rises, *_ = lead(in_small("adamw", "train loss", 17), in_small("adamw", "train loss", 16))
    quoted = "its training loss rises by {:.2f}, {:.2f} and {:.2f}."
    assert quoted.format(*rises) in RECIPES


def test_quotes_how_slowly_a_net_with_last_scales_of_0_learns():
    zeros, ones = (in_small(name, "validation loss", 12) for name in ("zero_last_scales", "notebook"))
    quoted = "loss is {:.2f}, {:.2f} and {:.2f}, with the notebook's 1 it is {:.2f}, {:.2f} and {:.2f}."
    assert quoted.format(*zeros, *ones) in RECIPES


def test_quotes_how_little_sgd_learns():
    first, third = (sorted(in_small("sgd", "train loss", epoch)) for epoch in (1, 3))
    quoted = "loss is {:.1f} to {:.1f} in epoch 1, still {:.2f} to {:.2f}, that of chance, in epoch 3"
    assert quoted.format(first[0], first[-1], third[0], third[-1]) in RECIPES
    least = min(min(in_small("sgd", "train loss", epoch)[1:]) for epoch in range(1, 21))
    assert f"never below {int(100 * least) / 100}." in RECIPES


def test_quotes_how_far_seeds_differ():
    quoted = "are up to {:.1f} points apart in bfloat16 and {:.1f} in float32, their averages {:.1f} and {:.1f}."
    last, average = zip(end_in_small("notebook"), end_in_small("notebook", "-float32"), strict=True)
    assert quoted.format(*(max(ends) - min(ends) for ends in (*last, *average))) in RECIPES


def test_quotes_the_lead_of_batch_norm():
    (_, last, _), (_, average, _) = LEADS["batch_norm"]
    assert f"batch normalisation was {last:.1f} points ahead, by the average of the weights {average:.1f}." in TEXT


def test_quotes_what_bfloat16_gains():
    (last, *of_last), (average, *of_average) = map(lead, end_in_small("notebook"), end_in_small("notebook", "-float32"))
    quoted = "in all three seeds, by {:.1f} points on average (standard error {:.1f}), "
    quoted += "the average of the weights in two, by {:.1f} ({:.1f})."
    assert quoted.format(*of_last, *of_average) in RECIPES
    assert min(last) > 0 and sum(gain > 0 for gain in average) == 2


def test_quotes_how_far_rounding_takes_a_run():
    logs = [[f"notebook-seed{seed}-20x4500{suffix}" for suffix in ("", "-rounded")] for seed in (1, 2)]
    ends = [[read_log(log)["history"][-1] for log in pair] for pair in logs]
    apart = [abs(a[name] - b[name]) for a, b in ends for name in ("validation accuracy", "averaged accuracy")]
    assert f"Such runs ended up to {max(apart):.1f} points from those in bfloat16" in RECIPES


def test_quotes_the_run_rounded_to_float16():
    names = ("-float16", "-float32", "")
    rounded, plain, bfloat16 = (read_log(f"notebook-seed0-20x4500{name}")["history"] for name in names)
    assert {(row["steps skipped"], row["loss scale"]) for row in rounded} == {(0, 65536.0)}
    first, *later = (row["largest scaled gradient"] for row in rounded)
    quoted = "was {:,.0f} of the 65,504 that float16 holds, in the first epoch, and at most {:,.0f} later"
    assert quoted.format(first, max(later)) in RECIPES
    assert f"result of a convolution was {max(row['largest activation'] for row in rounded):.0f}." in RECIPES
    accuracies = ("validation accuracy", "averaged accuracy")
    gains = [rounded[-1][name] - plain[-1][name] for name in accuracies]
    lacks = [bfloat16[-1][name] - rounded[-1][name] for name in accuracies]
    quoted = "It ended {:.1f} and {:.1f} points above float32, and {:.1f} and {:.1f} below bfloat16."
    assert quoted.format(*gains, *lacks) in RECIPES


def after_eight_epochs(*logs: str, figure: str = "validation accuracy") -> list[float]:
    """Return a figure of each log after its eighth epoch."""
    return [read_log(log)["history"][7][figure] for log in logs]


ADAMW = ("adamw-rate0.0001-seed0-8of20x4500", "adamw-rate0.0003-seed0-8of20x4500", "adamw-seed0-20x4500")
SGD = ("sgd-seed0-20x4500", *(f"sgd-rate{rate}-seed0-8of20x4500" for rate in ("0.03", "0.01", "0.003")))
MUON = ("notebook-seed0-20x4500", "notebook-seed0-20x4500-float32")


def test_quotes_the_other_rates_of_adamw():
    figures = after_eight_epochs(*ADAMW, *MUON)
    losses = after_eight_epochs(*ADAMW, *MUON, figure="train loss")
    lower = "a training loss of {:.2f} and {:.2f} and was right on {:.1f} and {:.1f} % of the held-out images"
    assert lower.format(*losses[:2], *figures[:2]) in RECIPES
    assert f"in bfloat16 at 0.001 {losses[2]:.2f} and {figures[2]:.1f} %" in RECIPES
    assert f"Muon on {figures[3]:.1f} % in bfloat16, in float32 {losses[4]:.2f} and {figures[4]:.1f} %" in RECIPES


def test_quotes_the_other_rates_of_sgd():
    quoted = "right on {:.1f} % of the held-out images, at 0.03, 0.01 and 0.003 on {:.1f}, {:.1f} and {:.1f} %"
    assert quoted.format(*after_eight_epochs(*SGD)) in RECIPES


def test_quotes_the_best_of_those_rates():
    bfloat16, float32 = after_eight_epochs(*MUON)
    adamw, sgd = float32 - max(after_eight_epochs(*ADAMW)), bfloat16 - max(after_eight_epochs(*SGD))
    assert f"AdamW and SGD are {adamw:.0f} and {sgd:.0f} points behind Muon after 8 epochs" in TEXT


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


@pytest.mark.parametrize("method", ["Grad-CAM ", "Grad-CAM++ "])
def test_quotes_the_measured_correlations(method):
    means = [r for name, (r, _) in RESULTS["trust"]["r, true class"].items() if name.startswith(method)]
    assert f"{min(means):.2f} to {max(means):.2f}" in TEXT


@pytest.mark.parametrize("name", RESULTS["trust"]["pointing"])
def test_tabulates_the_measurements(name):
    checks = ("r, true class", "r, randomised", "pointing", "deletion", "insertion")
    checks += ("repair by predicted", "repair by contrast")
    means = [f"{RESULTS['trust'][check][name][0]:.2f}" for check in checks]
    short = {"repair by predicted": "repaired", "repair by contrast": "by contrast"}
    wrong = [
        short.get(check, check.removeprefix("r, ")) + mark
        for how, mark in (("fails", ""), ("unclear", "?"))
        for check in RESULTS[how][name].split("; ")
        if check
    ]
    wrong = ", ".join(wrong) or ("none" if "CAM" in name else "")
    assert f"| {name} | {' | '.join(means)} | {wrong} |" in README.replace("**", "")


def passing(results: dict) -> list[str]:
    """Return the maps that pass every check, and clearly."""
    fails, unclear = results["fails"], results["unclear"]
    return [name for name in fails if "CAM" in name and not fails[name] + unclear[name]]


def test_names_the_maps_that_pass():
    trust, cascade, fails = RESULTS["trust"], RESULTS["cascade"], RESULTS["fails"]
    assert passing(RESULTS) == ["Grad-CAM layer3", "Grad-CAM layer4"] == list(RESULTS["lead"]["deletion"])
    assert fails["Grad-CAM layer1"] == "pointing; deletion" and RESULTS["unclear"]["Grad-CAM layer2"] == "deletion"
    assert trust["deletion"]["edges"][0] > trust["deletion"]["random 1x1"][0]
    assert f"marks nothing at all in {RESULTS['empty']['Grad-CAM layer3']} of 200 random test images" in TEXT
    (most,) = re.findall(r"repairs the most mistakes of the maps for the predicted class\*\*, (0\.\d+) here", TEXT)
    repairs = {name: f"{mean:.2f}" for name, (mean, _) in trust["repair by predicted"].items()}
    assert most == max(repairs.values()) == repairs["Grad-CAM layer3"]
    contrast = trust["repair by contrast"]["Grad-CAM layer4"][0]
    blob = f"repairs {repairs['Grad-CAM layer4']} of the mistakes, blurring a blob in the image's centre"
    assert f"{blob} {repairs['centre blob']}, and blurring its contrast with the true class {contrast:.2f}." in TEXT
    assert f"it puts {trust['pointing']['Grad-CAM layer4'][0]:.2f} of its weight" in TEXT
    classifier = [r for name, r in cascade["linear"].items() if name.startswith("Grad-CAM++")]
    assert f"leaves it at {min(classifier):.2f} to {max(classifier):.2f}" in TEXT
    least, end = (cascade[stage]["Grad-CAM++ layer4"] for stage in ("layer4", "conv1"))
    assert f"falls to {least:.2f} once that layer is random, too, but is back at {end:.2f} when nothing" in TRUST
    assert f"In {RESULTS['corner']['Grad-CAM++']['layer3']} of the 20 images that of `layer3` is highest" in TRUST


def test_quotes_the_maps_of_a_thousand_images():
    more = read_log("maps-notebook-seed0-1000images")
    assert more["indices"] == RESULTS["indices"] and passing(more) == ["Grad-CAM layer3", "Grad-CAM layer4"]
    gains = {
        layer: [
            sign * (more["trust"][check][f"Grad-CAM {layer}"][0] - more["trust"][check]["random 4x4"][0])
            for check, sign in (("deletion", -1), ("insertion", 1))
        ]
        for layer in ("layer3", "layer4")
    }
    assert "in deletion it is {:.2f} below random cells, in insertion {:.2f} above".format(*gains["layer4"]) in TRUST
    (gain,) = {f"{gain:.2f}" for gain in gains["layer3"]}
    assert f"`layer3`, with {more['empty']['Grad-CAM layer3']} empty maps, {gain} below and above" in TRUST
    lead = [more["lead"][check][f"Grad-CAM {layer}"] for layer in gains for check in ("deletion", "insertion")]
    figures, highest = [mean for mean, _ in lead], max(error for _, error in lead)
    assert "`layer3` by {:.3f} and {:.3f}, on 1,000 images".format(*figures[:2]) in TEXT
    assert "leads by {:.3f} in deletion and {:.3f} in insertion".format(*figures[2:]) in TEXT
    assert f"standard errors of up to {highest:.3f}" in TRUST
    kept = [1 - mean / gain for mean, gain in zip(figures, sum(gains.values(), []), strict=True)]
    assert min(kept) > 0.35  # "much of their lead" in the README
    assert (
        "`layer4` keep {2:.2f} of their lead over random cells in deletion and {3:.2f} in insertion".format(*kept)
        in TRUST
    )
    assert "those of `layer3` {:.2f} and {:.2f}.".format(*kept[:2]) in TRUST
    assert more["unclear"]["Grad-CAM layer2"] == "deletion"
    assert f"it has {more['trust']['insertion']['Grad-CAM layer3'][0]:.2f} and passes" in TRUST


@pytest.mark.parametrize(
    "log",
    ["maps-notebook-seed0-1000images", "maps-zero_last_scales-seed0-1000images", "maps-notebook-seed2", None],
)
def test_names_the_maps_that_a_centre_blob_beats(log):
    trust = (read_log(log) if log else RESULTS)["trust"]
    deletion, insertion = trust["deletion"], trust["insertion"]
    blob = deletion["centre blob"][0], insertion["centre blob"][0]
    for name in filter(lambda name: "CAM" in name, deletion):
        ahead = {deletion[name][0] < blob[0], insertion[name][0] > blob[1]}
        assert ahead == {name.endswith("layer4")}, name
    assert "nearly as good as Grad-CAM of `layer4`**, and better than every map of the other layers;" in TEXT


def test_quotes_the_first_rules():
    log, name = read_log("maps-notebook-seed0-ranked-by-pixel"), "Grad-CAM layer3"
    few, many = log["200 images"]["deletion"], log["1,000 images"]["insertion"]
    figures = [few[name][0], few["random 1x1"][0], many[name][0], many["random 4x4"][0]]
    assert "fails deletion ({:.2f}, where those have {:.2f})".format(*figures[:2]) in TRUST
    assert "fails insertion on 1,000 images ({:.2f}, where those have {:.2f})".format(*figures[2:]) in TRUST
    for check, of, random in (("deletion", few, "random 1x1"), ("insertion", many, "random 4x4")):
        margin, error = of[f"{name} against {random}"]
        assert margin < -2 * error, check
        margin, error = of[f"Grad-CAM layer4 against {random}"]
        assert margin > 2 * error, check


def test_quotes_the_maps_of_the_other_network():
    other = read_log("maps-zero_last_scales-seed0-1000images")
    trust = other["trust"]
    assert passing(other) == ["Grad-CAM layer2", "Grad-CAM layer3", "Grad-CAM layer4"]
    assert {other["fails"][f"Grad-CAM++ layer{n}"] + other["unclear"][f"Grad-CAM++ layer{n}"] for n in (2, 3, 4)} == {
        "r, true class"
    }
    assert f"(`layer4` with {trust['pointing']['Grad-CAM layer4'][0]:.2f} on the right image)" in TRUST
    name = "Grad-CAM++ layer4"
    more = read_log("maps-notebook-seed0-1000images")
    zeros, ones = (r[name][0] for r in (trust["r, randomised"], other["r, randomised from last scales of 1"]))
    assert f"as this one's were at first (*r* = {zeros:.2f}), not of those where they are 1 ({ones:.2f})" in TRUST
    zeros, ones = (r[name][0] for r in (more["r, randomised from last scales of 0"], more["trust"]["r, randomised"]))
    assert f"in the first network *r* is {zeros:.2f} and {ones:.2f}" in TRUST


SEEDS = [RESULTS, *(read_log(f"maps-notebook-seed{seed}") for seed in (1, 2))]


def test_quotes_the_maps_of_the_other_seeds():
    name, repair = "Grad-CAM layer4", "repair by predicted"
    for other in SEEDS[1:]:
        assert passing(other) == ["Grad-CAM layer2", "Grad-CAM layer3"]
        assert not other["fails"][name] and other["unclear"][name] == repair
    assert "their {} and {} mistakes".format(*(other["errors"] for other in SEEDS[1:])) in TRUST
    marked, random = ([results["trust"][repair][map_][0] for results in SEEDS] for map_ in (name, "random 4x4"))
    figures = f"{marked[1]:.2f} and {marked[2]:.2f}"
    assert [f"{share:.2f}" for share in random[1:]] == ["0.23", "0.23"]
    assert f"repairs more mistakes, {figures}, than blurring random cells, 0.23 both times." in TEXT
    assert f"repairs {figures} of the mistakes, blurring random cells 0.23 both times" in TRUST
    assert f"In the published network it is {marked[0]:.2f} and {random[0]:.2f}." in TRUST
    _, mean, error = lead(marked, random)
    assert f"{mean:.3f} more, with a standard error over networks of {error:.3f}: within chance." in TRUST
    assert f"in the mean of three seeds the first is {mean:.3f} more than blurring random cells repairs" in TEXT
    assert mean < BEYOND_CHANCE * error


@pytest.mark.parametrize("other", [*SEEDS[1:], read_log("maps-zero_last_scales-seed0-1000images")])
def test_layer3_repairs_the_most_in_other_networks(other):
    repairs = other["trust"]["repair by predicted"]
    assert max(repairs, key=repairs.get) == "Grad-CAM layer3"
    assert "is first in the other networks, too." in TEXT


def test_quotes_by_how_much_blurring_what_layer4_marks_repairs_more():
    margins = [network["margins"]["repair by predicted"]["Grad-CAM layer4"] for network in SEEDS]
    (first, second), (error,) = (margin for margin, _ in margins[1:]), {f"{error:.3f}" for _, error in margins[1:]}
    assert f"which is {first:.3f} and {second:.3f} more (standard error {error} each)" in TRUST
    contrast = [network["margins"]["repair by contrast"]["Grad-CAM layer4"] for network in SEEDS]
    assert "Its contrast repairs {:.3f}, {:.3f} and {:.3f} more".format(*(margin for margin, _ in contrast)) in TRUST
    assert all(margin > 2 * error for margin, error in contrast)


def test_quotes_how_much_of_layer4_depends_on_the_class():
    same = [network["trust"]["r, true class"]["Grad-CAM layer4"][0] for network in SEEDS]
    assert "the true class is {:.2f}, {:.2f} and {:.2f} in seeds 0, 1 and 2".format(*same) in TRUST


def test_quotes_the_centre_blob_of_the_second_seed():
    deletion = SEEDS[1]["trust"]["deletion"]
    (level,) = {f"{deletion[name][0]:.2f}" for name in ("centre blob", "Grad-CAM++ layer4")}
    assert f"in seed 1 it is level with that of Grad-CAM++ in deletion ({level})." in TRUST
    assert deletion["centre blob"][0] > deletion["Grad-CAM layer4"][0]


@pytest.mark.parametrize(
    ("log", "correlations", "leads"),
    [
        (
            "maps-zero_last_scales-seed0-1000images",
            "for the true class ({:.2f} to {:.2f})",
            "the three lead by {:.3f} to {:.3f}",
        ),
        (
            "maps-notebook-seed1",
            "for the true class here, too ({:.2f} to {:.2f}",
            "`layer2` and `layer3` lead by {:.3f} to {:.3f} in seed 1",
        ),
        ("maps-notebook-seed2", "and {:.2f} to {:.2f})", "and by {:.3f} to {:.3f} in seed 2"),
    ],
)
def test_quotes_what_other_networks_have_in_common(log, correlations, leads):
    other = read_log(log)
    same = [r for name, (r, _) in other["trust"]["r, true class"].items() if name.startswith("Grad-CAM++")]
    assert correlations.format(min(same), max(same)) in TRUST
    assert all(list(maps) == passing(other) for maps in other["lead"].values())
    means = [mean for maps in other["lead"].values() for mean, _ in maps.values()]
    assert leads.format(min(means), max(means)) in TRUST


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
