"""What recipes.md and the README say of recipes must be what the logs in benchmarks/recipes/ say."""

import json
import re
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from tests.pages import BEYOND_CHANCE, README, RECIPES, RESULTS, TEXT, lead, read_log

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
    sharp, plain = (whole_run(name, "averaged loss") for name in ("notebook", "never_sharp"))
    quoted = "{:.3f}, {:.3f} and {:.3f}, where plain steps end with {:.3f}, {:.3f} and {:.3f}."
    assert quoted.format(*sharp, *plain) in RECIPES


def test_quotes_how_far_batch_norm_was_ahead_in_a_lost_run():
    at = {"validation accuracy": (94.18, 94.04, 94.28), "averaged accuracy": (94.30, 94.46, 94.54)}
    layer = read_log("notebook-seed0-40x45000")["history"][33:36]
    leads = [lead(batch, [row[figure] for row in layer])[0] for figure, batch in at.items()]
    quoted = "{:.2f}, {:.2f} and {:.2f} points ahead of layer normalisation, by the average {:.2f}, {:.2f} and {:.2f}."
    assert quoted.format(*leads[0], *leads[1]) in RECIPES
    (last, *_), (average, *_) = (gains for gains, *_ in LEADS["batch_norm"])
    assert f"in small it was {last:.1f} and {average:.1f} points ahead in this seed." in RECIPES
    errors = [100 - row[figure] for figure in at for row in layer]
    shares = [round(100 * gain / wrong) for gain, wrong in zip(sum(leads, []), errors, strict=True)]
    small = [100 * gain / (100 - ends[0]) for gain, ends in zip((last, average), end_in_small("notebook"), strict=True)]
    quoted = f"errors the leads are {min(shares)} to {max(shares)} %, in small {{:.0f}} and {{:.0f}} %."
    assert quoted.format(*small) in RECIPES
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
    ("name", "signs", "quoted"),
    [
        ("no_smoothing", (-1, -1), "Without label smoothing the " + BEHIND + " ({9:.1f})"),
        ("zero_last_scales", (-1, -1), "With last scales of 0 the " + BEHIND + " ({9:.1f})"),
        (
            "flip",
            (-1, -1),
            "as many are ({3:.1f} points fewer, standard error {4:.1f}; by the average {8:.1f}, {9:.1f})",
        ),
        ("never_sharp", (-1, 1), BEHIND + " ahead ({9:.1f})"),
        ("no_decay", (-1, -1), EACH + "the average in two, and in the mean not ({8:.1f}, {9:.1f})."),
        ("no_plateau", (-1, -1), EACH + "the average in two, by {8:.1f} in the mean ({9:.1f}):"),
        ("batch_norm", (1, 1), EACH + "its average by {5:.1f}, {6:.1f} and {7:.1f} ({8:.1f}, {9:.1f})."),
    ],
)
def test_quotes_leads_in_small(name, signs, quoted):
    figures = []
    for sign, (gains, mean, error) in zip(signs, LEADS[name], strict=True):
        figures += [*(sign * gain for gain in gains), sign * mean, error]
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
    adamw, sgd = after_eight_epochs(*ADAMW), after_eight_epochs(*SGD)
    behind = bfloat16 - adamw[-1], float32 - max(adamw), bfloat16 - sgd[0], bfloat16 - max(sgd)
    quoted = "AdamW at 0.001 is {:.0f} points behind Muon, at the best rate tried {:.0f}; "
    quoted += "SGD at 0.1 is {:.0f} points behind, at the best rate tried {:.0f}."
    assert quoted.format(*behind) in TEXT
