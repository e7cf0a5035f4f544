"""Each measurement on cases whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from models import ResNet18
from utils import trust
from utils.gradcam import LAYERS, place_on_image

GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    GENERATOR.manual_seed(0)


class TopLeftBrightness(nn.Module):
    """Class 1 is a bright top left quarter, and nothing else matters."""

    def forward(self, images):
        evidence = 4 * images[:, :, :16, :16].mean((1, 2, 3))
        return torch.stack([-evidence, evidence], 1)


@pytest.fixture
def evidence():
    maps = torch.zeros(6, 32, 32)
    maps[:, :16, :16] = 1
    return maps


@pytest.fixture
def bright():
    """Images (6, 3, 32, 32) of class 1, whose surroundings are dark, so that blurring removes the evidence."""
    images = torch.full((6, 3, 32, 32), -3.0)
    images[:, :, :16, :16] = torch.rand(6, 3, 16, 16, generator=GENERATOR)
    return images


def test_rank_correlation_is_spearmans():
    a, b = torch.rand(2, 3, 8, 8, generator=GENERATOR).round(decimals=1)
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(trust.rank_correlation(a, b), expected, atol=1e-7)


def test_a_class_blind_map_is_caught():
    maps = torch.rand(3, 8, 8, generator=GENERATOR)
    torch.testing.assert_close(trust.rank_correlation(maps, maps), torch.ones(3).double())
    assert trust.rank_correlation(maps, torch.ones(3, 8, 8)).isnan().all()


def test_more_images_than_a_batch_keep_their_own_classes(model, monkeypatch):
    images = torch.randn(3, 3, 32, 32, generator=GENERATOR)
    classes, others = torch.tensor([3, 0, 9]), torch.tensor([1, 2, 4])
    whole = trust.explain(model, images, classes, others)
    monkeypatch.setattr(trust, "BATCH", 2)
    torch.testing.assert_close(trust.explain(model, images, classes, others), whole, atol=1e-2, rtol=0)
    assert trust.probabilities(model, images).shape == (3, 10)


def test_randomisation_replaces_the_parameters_from_the_last_layer_down(model):
    images = torch.randn(3, 3, 32, 32, generator=GENERATOR)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    stages = trust.randomization(model, images, torch.zeros(3, dtype=torch.long), seed=1)
    assert list(stages) == ["linear", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    original = trust.explain(model, images, torch.zeros(3, dtype=torch.long))
    for stage in ("linear", "conv1"):
        assert trust.rank_correlation(original["Grad-CAM layer4"], stages[stage]["Grad-CAM layer4"]).nanmean() < 0.9
    torch.manual_seed(1)
    untrained = trust.explain(ResNet18().eval(), images, torch.zeros(3, dtype=torch.long))
    assert all(torch.equal(maps, untrained[name]) for name, maps in stages["conv1"].items())


def test_each_untrained_network_draws_maps_of_its_own_share_of_the_images(monkeypatch):
    monkeypatch.setattr(trust, "UNTRAINED", 3)
    images, classes = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    torch.manual_seed(8)
    model = ResNet18().eval()  # the second of the untrained networks is the model itself
    with_untrained = trust.correlation_with_untrained(model, images, classes, seed=7)
    torch.manual_seed(7)
    pair = [trust.explain(network, images[:2], classes[:2]) for network in (model, ResNet18().eval())]
    for name, means in with_untrained.items():
        assert len(means) == 3 and means[1] == pytest.approx(1) and means[[0, 2]].nan_to_num().abs().max() < 0.99
        first = trust.rank_correlation(*(maps[name] for maps in pair)).nanmean()
        torch.testing.assert_close(means[0], first, equal_nan=True)
    for count, networks in ((2, 2), (4, 3)):
        few = trust.correlation_with_untrained(model, images[:count], classes[:count], seed=7)
        assert len(few["Grad-CAM layer4"]) == networks


def test_mosaics_show_the_class_asked_for_in_its_quarter():
    labels = torch.arange(40) % 10
    images = labels[:, None, None, None].expand(-1, 3, 32, 32).float()
    mosaics, classes, quarters = trust.mosaics(images, labels, count=5)
    assert mosaics.shape == (20, 3, 64, 64)
    for mosaic, label, quarter in zip(mosaics, classes, quarters, strict=True):
        row, column = divmod(int(quarter), 2)
        part = mosaic[:, 32 * row :, 32 * column :][:, :32, :32]
        assert (part == label).all() and len(mosaic.unique()) == 4


def test_mosaics_need_four_classes():
    with pytest.raises(ValueError, match="four classes, got 3"):
        trust.mosaics(torch.zeros(6, 3, 32, 32), torch.arange(6) % 3, count=1)


def test_mosaics_are_explained_in_their_own_size(model):
    maps = trust.explain_mosaics(model, torch.randn(2, 3, 64, 64, generator=GENERATOR), torch.tensor([0, 1]))
    assert {tuple(m.shape) for m in maps.values()} == {(2, 64, 64)}
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 64, 64))


def test_pointing_rewards_the_evidence_and_gives_constant_maps_chance():
    quarter = torch.arange(4).repeat(2)
    evidence = torch.zeros(8, 64, 64)
    for row, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        evidence[row, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32] = 1  # of the first mosaic
    evidence[4:, :32, :32] = 1  # of the second, always the first quarter
    assert trust.pointing_share(evidence, quarter).tolist() == [1, 0.25]
    assert trust.pointing_share(torch.ones(8, 64, 64), quarter).tolist() == [0.25] * 2
    assert trust.pointing_share(torch.zeros(8, 64, 64), quarter).tolist() == [0.25] * 2


def test_ranks_follow_the_map_and_scatter_ties():
    maps = torch.rand(2, 8, 8, generator=GENERATOR)
    ranks = trust.pixel_ranks({"map": maps}, torch.zeros(2, 3, 8, 8))["map"]
    assert ranks.shape == (2, 1, 8, 8) and ranks.flatten(1).argmin(1).tolist() == maps.flatten(1).argmax(1).tolist()
    first_half = trust.pixel_ranks({"map": torch.zeros(1, 32, 32)}, torch.zeros(1, 3, 32, 32))["map"][0, 0] < 0.5
    assert first_half.sum() == 512 and 180 < first_half[:16].sum() < 330


@pytest.mark.parametrize("layer, random", trust.RANDOM.items())
def test_ties_rank_as_the_random_map_does_that_the_map_is_judged_by(layer, random):
    images = torch.zeros(2, 3, 32, 32)
    chance, maps = trust.baselines(images)[random], torch.zeros(2, 32, 32)
    maps[:, :16] = 1  # half of the map is empty
    name = f"Grad-CAM {layer}"
    ranks = trust.pixel_ranks({name: maps, random: chance, "constant " + layer: torch.zeros(2, 32, 32)}, images)
    assert torch.equal(ranks["constant " + layer], ranks[random])
    assert ranks[name][:, :, :16].max() < 0.5 <= ranks[name][:, :, 16:].min()
    for half in (slice(16), slice(16, 32)):
        order = ranks[name][:, 0, half].flatten(1).argsort(1)
        assert (chance[:, half].flatten(1).gather(1, order).diff(dim=1) <= 0).all()


def test_an_empty_map_scores_chance_and_neither_passes_nor_fails(bright):
    classes, wrong, model = torch.ones(6, dtype=torch.long), torch.zeros(6, dtype=torch.long), TopLeftBrightness()
    maps = {"Grad-CAM layer3": torch.zeros(6, 32, 32)} | trust.baselines(bright)
    curves = trust.deletion_insertion(model, bright, classes, maps)
    assert torch.equal(curves["Grad-CAM layer3"], curves["random 4x4"])
    measured = {"deletion": {name: curve[0].mean(0) for name, curve in curves.items()}}
    measured["repair by predicted"] = trust.repaired(model, bright, wrong, maps)
    table = trust.summarize(measured, judged=list(measured))
    assert table.loc["Grad-CAM layer3", ["fails", "unclear"]].tolist() == ["", "deletion; repair by predicted"]


def test_deletion_and_insertion_reward_the_evidence(bright, evidence):
    classes, model = torch.ones(6, dtype=torch.long), TopLeftBrightness()
    maps = {"good": evidence, "bad": -evidence, "chance": trust.baselines(bright)["random 1x1"]}
    curves = trust.deletion_insertion(model, bright, classes, maps)
    good, bad, chance = (curves[name].mean((1, 2)) for name in maps)
    assert good[0] < chance[0] < bad[0] and good[1] > chance[1] > bad[1]
    assert curves["good"].shape == (2, 9, 6)
    whole, blurred = (model(images).softmax(1)[:, 1] for images in (bright, trust.blur(bright)))
    for deletion, insertion in curves.values():
        assert torch.equal(deletion[0], whole) and torch.equal(insertion[-1], whole)
        assert torch.equal(deletion[-1], blurred) and torch.equal(insertion[0], blurred)


def test_scores_are_the_areas_under_the_curves():
    straight = torch.stack([torch.linspace(1, 0, trust.STEPS + 1), torch.linspace(0, 0.5, trust.STEPS + 1)])
    scores = trust.areas({"map": straight[:, :, None]})
    assert scores == {"deletion": {"map": torch.tensor([0.5])}, "insertion": {"map": torch.tensor([0.25])}}


def test_blurring_the_evidence_of_a_mistake_repairs_it(bright, evidence):
    wrongly_called_1 = torch.zeros(6, dtype=torch.long)
    right = trust.repaired(TopLeftBrightness(), bright, wrongly_called_1, {"good": evidence, "bad": -evidence})
    assert right["good"].mean() == 1 and right["bad"].mean() == 0


def test_no_more_than_a_quarter_is_blurred(bright, evidence):
    second = {"another quarter first": evidence + 2 * evidence.flip(1, 2)}
    right = trust.repaired(TopLeftBrightness(), bright, torch.zeros(6, dtype=torch.long), second)
    assert right["another quarter first"].mean() == 0


def test_baselines_are_noise_in_cells_a_blob_in_the_centre_and_edges():
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, :, 16:] = 1
    maps = trust.baselines(images)
    assert {name: tuple(m.shape) for name, m in maps.items()} == dict.fromkeys(trust.BASELINES, (2, 32, 32))
    for cell in (1, 2, 4):
        cells = maps[f"random {cell}x{cell}"][:, ::cell, ::cell]
        torch.testing.assert_close(place_on_image(cells, 32), maps[f"random {cell}x{cell}"])
    assert maps["edges"][0].max(0).values.argmax() in (15, 16)
    assert maps["centre blob"][0].argmax() in (495, 496, 527, 528)


def test_stride_2_cells_lie_up_and_left_of_where_upsampling_draws_them(model):
    images = torch.randn(8, 3, 32, 32, generator=GENERATOR)
    offsets = {layer: trust.cell_offset(model, images, layer) for layer in LAYERS}
    for layer, expected, exact in zip(LAYERS, (0, -0.5, -1.5, -1.5), (0.2, 0.2, 0.6, 0.6), strict=True):
        assert offsets[layer] == pytest.approx((expected, expected), abs=exact)


def test_offsets_are_down_and_right():
    model = nn.Sequential(nn.Conv2d(3, 1, (1, 3), padding=(0, 1)))
    with torch.no_grad():
        model[0].weight[..., :2] = 0  # sees the pixel on its right alone
    assert trust.cell_offset(model, torch.rand(1, 3, 32, 32), "0") == pytest.approx((0, 1), abs=1e-3)


def test_the_summary_marks_the_best_and_names_what_fails():
    noise = 0.01 * torch.randn(50, generator=GENERATOR)
    good, blind, constant = "Grad-CAM layer4", "Grad-CAM++ layer4", "Grad-CAM layer1"
    measured = {
        "r, true class": {good: 0.3 + noise, blind: 0.9 + noise, constant: noise * torch.nan},
        "pointing": {good: 0.6 + noise, blind: 0.2 + noise, constant: 0.25 + noise},
        "deletion": {good: 0.2 + noise, blind: 0.4 + noise, constant: 0.4 + 9 * noise},
    }
    chance = {"r, true class": torch.ones(50), "pointing": 0.25 + noise, "deletion": 0.401 - noise}
    for check, values in chance.items():
        measured[check] |= {"random 1x1": values, "random 4x4": values}
    table = trust.summarize(measured, judged=list(measured))
    assert table.loc[good, "r, true class"] == "0.30 ± 0.00 *"
    assert table.loc[good, ["fails", "unclear"]].tolist() == ["", ""]
    assert table.loc[blind, ["fails", "unclear"]].tolist() == ["r, true class; pointing", "deletion"]
    assert table.loc[constant, ["fails", "unclear"]].tolist() == ["", "r, true class; pointing; deletion"]
    assert table.loc["random 4x4", ["fails", "unclear"]].tolist() == ["", ""]
    lines = trust.verdict(table, {good: 3}, 50).splitlines()
    assert lines[0] == f"- **{good}** may be read. It is empty in 3 of 50 images."
    assert "do not read it as a reason" in lines[1]
    assert lines[2] == f"- **{constant}** is not to be relied on (unclear: r, true class; pointing; deletion)."
    table = trust.summarize(measured, judged=["deletion"])
    assert not table.loc[blind, "fails"]
    assert trust.verdict(table, {}, 50).splitlines()[1] == f"- **{blind}** is not to be relied on (unclear: deletion)."


@pytest.mark.parametrize(
    "differences, fails, unclear",  # 2.5 and 1.5 standard errors on either side
    [
        ([0.3, 0.7], "", ""),
        ([0.1, 0.5], "", "pointing"),
        ([-0.1, -0.5], "", "pointing"),
        ([-0.3, -0.7], "pointing", ""),
    ],
)
def test_unclear_is_within_two_standard_errors(differences, fails, unclear):
    values = {"Grad-CAM layer4": torch.tensor(differences), "random 4x4": torch.zeros(2)}
    table = trust.summarize({"pointing": values}, judged=["pointing"])
    assert table.loc["Grad-CAM layer4", ["fails", "unclear"]].tolist() == [fails, unclear]


def test_no_map_is_best_where_all_are_constant():
    constant = torch.full((4,), torch.nan)
    table = trust.summarize({"r, true class": {"Grad-CAM layer3": constant, "Grad-CAM layer4": constant}}, [])
    assert table["r, true class"].tolist() == ["nan ± nan", "nan ± nan"]


def test_margins_are_those_of_differences_image_by_image():
    chance = torch.rand(50, generator=GENERATOR)
    scores = {"Grad-CAM layer4": chance + 0.1, "random 4x4": chance}
    signs = {"Grad-CAM layer4": torch.full((4,), -0.7), "random 4x4": torch.ones(4)}
    measured = {"insertion": scores, "deletion": scores, "r, true class": signs, "r, randomised": signs}
    margins = {check: maps["Grad-CAM layer4"] for check, maps in trust.margins(measured, list(measured)).items()}
    expected = {"insertion": 0.1, "deletion": -0.1, "r, true class": 1.2, "r, randomised": -0.2}
    assert {check: margin for check, (margin, _) in margins.items()} == pytest.approx(expected)
    assert max(error for _, error in margins.values()) < 1e-6


def test_a_map_is_judged_by_random_ones_in_cells_as_large():
    noise = 0.01 * torch.randn(50, generator=GENERATOR)
    chance = {"random 1x1": 0.1 + noise, "random 2x2": 0.3 + noise, "random 4x4": 0.5 + noise}
    maps = {f"Grad-CAM {layer}": torch.full((50,), 0.2) for layer in LAYERS}
    table = trust.summarize({"pointing": maps | chance}, judged=["pointing"])
    assert table["fails"].tolist() == ["", "pointing", "pointing", "pointing", "", "", ""]


def test_a_map_without_any_correlation_depends_most_on_what_was_learned():
    values = {"Grad-CAM layer3": -0.3, "Grad-CAM layer4": 0.1, "random": 1.0}
    measured = {"r, randomised": {name: torch.full((4,), value) for name, value in values.items()}}
    table = trust.summarize(measured, judged=["r, randomised"])
    assert table["r, randomised"].tolist() == ["-0.30 ± 0.00", "0.10 ± 0.00 *", "1.00 ± 0.00"]
    assert table["fails"].tolist() == ["", "", ""]
    measured["r, randomised"]["Grad-CAM layer3"] -= 0.3  # the same map, inverted
    assert trust.summarize(measured, judged=["r, randomised"])["fails"].tolist() == ["r, randomised", "", ""]


def test_the_table_counts_constant_maps_out():
    table = trust.tabulate({"map": torch.tensor([1.0, torch.nan, 3.0])})
    assert table.loc["map"].tolist() == ["2.000", "1.000", "2"]
