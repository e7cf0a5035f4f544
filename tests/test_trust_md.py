"""What trust.md and the README say of the maps must be what results.json and the logs of other networks say."""

import re

import pytest

from tests.pages import BEYOND_CHANCE, README, RESULTS, TEXT, TRUST, lead, read_log


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
    assert kept[:2] == pytest.approx([1 / 3, 1 / 2], abs=0.05) and kept[2:] == pytest.approx([0.75] * 2, abs=0.05)
    assert "three quarters of `layer4`'s lead over random maps, and a third to a half of `layer3`'s, remain" in TEXT
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


FILLS = {"the notebook's blur": RESULTS} | {
    name: log for name, log in read_log("maps-notebook-seed0-fills").items() if name != "what"
}


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize("name", FILLS)
def test_tabulates_the_other_fills(name, layer):
    checks = ("deletion", "insertion", "repair by predicted", "repair by contrast")
    margins = [FILLS[name]["margins"][check][f"Grad-CAM {layer}"] for check in checks]
    cells = [f"{margin:+.3f} ({error:.3f}){'' if margin > 2 * error else '?'}" for margin, error in margins]
    assert f"| {name} | `{layer}` | {' | '.join(cells)} |" in TRUST
    unclear = [check for check, (margin, error) in zip(checks, margins, strict=True) if margin <= 2 * error]
    one = {"layer3": "deletion", "layer4": "repair by predicted"}[layer]
    assert unclear == ([one] if name == "mean colour" else [])


def test_quotes_what_the_mean_colour_repairs():
    log = FILLS["mean colour"]
    repairs = {name: f"{mean:.2f}" for name, (mean, _) in log["trust"]["repair by predicted"].items()}
    assert f"in place of the blur ({repairs['Grad-CAM layer4']} against {repairs['random 4x4']})." in TEXT
    assert max(repairs, key=repairs.get) == "Grad-CAM layer2"
    most = f"`layer2` repairs the most mistakes ({repairs['Grad-CAM layer2']}, `layer3` {repairs['Grad-CAM layer3']})."
    assert most in TRUST
    assert "is first in the other networks, too. (With the mean colour, not a blur, `layer2` is.)" in TEXT
    assert "with the mean colour it is unclear whether it passes deletion." in TEXT
    assert not passing(log)


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
    assert f"clearly repairs more than blurring random cells does ({marked[0]:.2f} against {random[0]:.2f});" in TEXT
    assert f"in seeds 1 and 2 that is unclear ({figures} against 0.23 both times)" in TEXT
    assert f"repairs {figures} of the mistakes, blurring random cells 0.23 both times" in TRUST
    assert f"In the published network it is {marked[0]:.2f} and {random[0]:.2f}." in TRUST
    _, mean, error = lead(marked, random)
    assert f"{mean:.3f} more, with a standard error over networks of {error:.3f}: within chance." in TRUST
    assert f"In the mean of three seeds it repairs {mean:.3f} more, within chance." in TEXT
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
