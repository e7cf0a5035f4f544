"""Each measurement on cases whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from models import ResNet18
from utils import trust
from utils.gradcam import LAYERS, METHODS, compute_cams, place_on_image

GENERATOR = torch.Generator()
LAYER3, LAYER4, RANDOM4 = ("gradcam", "layer3"), ("gradcam", "layer4"), ("baseline", "random 4x4")
GOOD, BAD = ("gradcam", "layer1"), ("gradcam++", "layer1")  # maps of a known model


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
    whole = trust.explain(model, images, classes, against=others)
    monkeypatch.setattr(trust, "CHUNK", 2)
    torch.testing.assert_close(trust.explain(model, images, classes, against=others), whole, atol=1e-2, rtol=0)
    assert trust.probabilities(model, images).shape == (3, 10)


def test_randomization_replaces_the_parameters_from_the_last_layer_down(model):
    images = torch.randn(3, 3, 32, 32, generator=GENERATOR)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    stages = dict(trust.randomize(model, images, torch.zeros(3, dtype=torch.long), seed=1))
    assert list(stages) == ["linear", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    original = trust.explain(model, images, torch.zeros(3, dtype=torch.long))
    for stage in ("linear", "conv1"):
        assert trust.rank_correlation(original[LAYER4], stages[stage][LAYER4]).nanmean() < 0.9
    torch.manual_seed(1)
    untrained = trust.explain(ResNet18().eval(), images, torch.zeros(3, dtype=torch.long))
    assert all(torch.equal(maps, untrained[name]) for name, maps in stages["conv1"].items())


def test_each_untrained_network_draws_maps_of_its_own_share_of_the_images(monkeypatch):
    monkeypatch.setattr(trust, "UNTRAINED_NETWORKS", 3)
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
        assert len(few[LAYER4]) == networks


def test_mosaics_show_the_class_to_explain_in_its_quarter():
    labels = torch.arange(40) % 10
    images = labels[:, None, None, None].expand(-1, 3, 32, 32).float()
    mosaics, classes, quarters = trust.mosaics(images, labels, labels < 10, count=5)
    assert mosaics.shape == (20, 3, 64, 64)
    for mosaic, label, quarter in zip(mosaics, classes, quarters, strict=True):
        row, column = divmod(int(quarter), 2)
        part = mosaic[:, 32 * row :, 32 * column :][:, :32, :32]
        assert (part == label).all() and len(mosaic.unique()) == 4


def test_mosaics_are_explained_in_their_own_size(model):
    maps = trust.explain_mosaics(model, torch.randn(2, 3, 64, 64, generator=GENERATOR), torch.tensor([0, 1]))
    assert {tuple(m.shape) for m in maps.values()} == {(2, 64, 64)}
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 64, 64))


def test_mosaics_take_misclassified_images_only_where_few_classes_have_correct_ones():
    labels = torch.arange(40) % 10
    images = torch.arange(40.0)[:, None, None, None].expand(-1, 3, 32, 32)
    first = torch.arange(40) < 10  # one of each class
    assert trust.mosaics(images, labels, first, count=9)[0].max() < 10
    assert trust.mosaics(images, labels, first & (labels < 3), count=9)[0].max() >= 10


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
    ranks = trust.pixel_ranks({("any", "map"): maps}, torch.zeros(2, 3, 8, 8))["any", "map"]
    assert ranks.shape == (2, 1, 8, 8) and ranks.flatten(1).argmin(1).tolist() == maps.flatten(1).argmax(1).tolist()
    empty = {("any", "map"): torch.zeros(1, 32, 32)}
    first_half = trust.pixel_ranks(empty, torch.zeros(1, 3, 32, 32))["any", "map"][0, 0] < 0.5
    assert first_half.sum() == 512 and 180 < first_half[:16].sum() < 330


@pytest.mark.parametrize("layer, random", trust.RANDOM_IN_CELLS_OF.items())
def test_ties_rank_as_the_random_map_does_that_the_map_is_judged_by(layer, random):
    images = torch.zeros(2, 3, 32, 32)
    chance, maps = trust.baselines(images)[random], torch.zeros(2, 32, 32)
    maps[:, :16] = 1  # half of the map is empty
    name, constant = ("gradcam", layer), ("constant", layer)
    ranks = trust.pixel_ranks({name: maps, random: chance, constant: torch.zeros(2, 32, 32)}, images)
    assert torch.equal(ranks[constant], ranks[random])
    assert ranks[name][:, :, :16].max() < 0.5 <= ranks[name][:, :, 16:].min()
    for half in (slice(16), slice(16, 32)):
        order = ranks[name][:, 0, half].flatten(1).argsort(1)
        assert (chance[:, half].flatten(1).gather(1, order).diff(dim=1) <= 0).all()


def test_an_empty_map_scores_chance_and_neither_passes_nor_fails(bright):
    classes, wrong, model = torch.ones(6, dtype=torch.long), torch.zeros(6, dtype=torch.long), TopLeftBrightness()
    maps = {LAYER3: torch.zeros(6, 32, 32)} | trust.baselines(bright)
    curves = trust.deletion_insertion(model, bright, classes, maps)
    assert torch.equal(curves[LAYER3], curves[RANDOM4])
    measured = trust.areas(curves) | {"fixed": trust.errors_fixed(model, bright, wrong, maps)}
    outcomes = {check: trust.outcome(*maps[LAYER3]) for check, maps in trust.margins(measured).items()}
    assert outcomes == {"deletion": "unclear", "insertion": "unclear", "fixed": "unclear"}


def test_deletion_and_insertion_reward_the_evidence(bright, evidence):
    classes, model = torch.ones(6, dtype=torch.long), TopLeftBrightness()
    maps = {GOOD: evidence, BAD: -evidence, trust.BASELINES[0]: trust.baselines(bright)[trust.BASELINES[0]]}
    curves = trust.deletion_insertion(model, bright, classes, maps)
    good, bad, chance = (curves[key].mean((1, 2)) for key in maps)
    assert good[0] < chance[0] < bad[0] and good[1] > chance[1] > bad[1]
    assert curves[GOOD].shape == (2, 9, 6)
    whole, blurred = (model(images).softmax(1)[:, 1] for images in (bright, trust.blur(bright)))
    for deletion, insertion in curves.values():
        assert torch.equal(deletion[0], whole) and torch.equal(insertion[-1], whole)
        assert torch.equal(deletion[-1], blurred) and torch.equal(insertion[0], blurred)


def test_scores_are_the_areas_under_the_curves():
    straight = torch.stack([torch.linspace(1, 0, trust.CURVE_STEPS + 1), torch.linspace(0, 0.5, trust.CURVE_STEPS + 1)])
    scores = trust.areas({GOOD: straight[:, :, None]})
    assert scores == {"deletion": {GOOD: torch.tensor([0.5])}, "insertion": {GOOD: torch.tensor([0.25])}}


def test_blurring_the_evidence_of_an_error_fixes_it(bright, evidence):
    wrongly_called_1 = torch.zeros(6, dtype=torch.long)
    fixed = trust.errors_fixed(TopLeftBrightness(), bright, wrongly_called_1, {GOOD: evidence, BAD: -evidence})
    assert fixed[GOOD].mean() == 1 and fixed[BAD].mean() == 0


def test_no_more_than_a_quarter_is_blurred(bright, evidence):
    second = {BAD: evidence + 2 * evidence.flip(1, 2)}
    fixed = trust.errors_fixed(TopLeftBrightness(), bright, torch.zeros(6, dtype=torch.long), second)
    assert fixed[BAD].mean() == 0


def test_baselines_are_noise_in_cells_a_center_prior_and_edges():
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, :, 16:] = 1
    maps = trust.baselines(images)
    assert {name: tuple(m.shape) for name, m in maps.items()} == dict.fromkeys(trust.BASELINES, (2, 32, 32))
    for cell in (1, 2, 4):
        noise = maps["baseline", f"random {cell}x{cell}"]
        torch.testing.assert_close(place_on_image(noise[:, ::cell, ::cell], 32), noise)
    assert maps["baseline", "edges"][0].max(0).values.argmax() in (15, 16)
    assert maps["baseline", "center prior"][0].argmax() in (495, 496, 527, 528)


def test_reference_maps_are_those_of_compute_cams(model):
    images, classes = torch.randn(2, 3, 32, 32, generator=GENERATOR), [3, 8]
    reference, cams = trust.reference_cams(model, images, classes), compute_cams(model, images, classes)
    own = trust.torchcam_pp(model, images, classes)
    for layer in LAYERS:
        for method in METHODS:
            torch.testing.assert_close(reference[method][layer].float(), cams[method][layer], atol=1e-3, rtol=0)
        assert (own[layer] - reference["gradcam++"][layer]).abs().max() > 0.01


@pytest.mark.parametrize(
    "differences, expected",  # 2.5 and 1.5 standard errors on either side
    [([0.3, 0.7], "passes"), ([0.1, 0.5], "unclear"), ([-0.1, -0.5], "unclear"), ([-0.3, -0.7], "fails")],
)
def test_unclear_is_within_two_standard_errors(differences, expected):
    margins = trust.margins({"pointing": {LAYER4: torch.tensor(differences), RANDOM4: torch.zeros(2)}})
    assert trust.outcome(*margins["pointing"][LAYER4]) == expected


def test_margins_are_those_of_differences_image_by_image():
    chance = torch.rand(50, generator=GENERATOR)
    scores = {LAYER4: chance + 0.1, RANDOM4: chance}
    correlations = {LAYER4: torch.full((4,), -0.7)}
    measured = {"insertion": scores, "deletion": scores, "class": correlations, "weights": correlations}
    margins = {check: maps[LAYER4] for check, maps in trust.margins(measured | {"fixed true": scores}).items()}
    expected = {"insertion": 0.1, "deletion": -0.1, "class": 1.2, "weights": -0.2}
    assert {check: margin for check, (margin, _) in margins.items()} == pytest.approx(expected)
    assert max(error for _, error in margins.values()) < 1e-6


def test_a_map_is_judged_by_random_ones_in_cells_as_large():
    noise = 0.01 * torch.randn(50, generator=GENERATOR)
    chance = {
        ("baseline", f"random {cell}"): level + noise for cell, level in (("1x1", 0.1), ("2x2", 0.3), ("4x4", 0.5))
    }
    maps = {("gradcam", layer): torch.full((50,), 0.2) for layer in LAYERS}
    margins = trust.margins({"pointing": maps | chance})["pointing"]
    assert [trust.outcome(*margin) for margin in margins.values()] == ["passes", "fails", "fails", "fails"]


def test_a_map_passes_only_if_it_passes_every_check_and_constant_maps_do_not():
    margins = {"class": {LAYER3: (0.5, 0.1), LAYER4: (0.5, 0.1)}, "pointing": {LAYER3: (0.5, 0.1), LAYER4: (0.1, 0.1)}}
    assert trust.passing(margins) == [LAYER3]
    constant = trust.margins({"class": {LAYER3: torch.full((4,), torch.nan)}})
    assert trust.passing(constant) == []


def test_values_of_constant_maps_are_counted_out():
    assert trust.mean_and_error(torch.tensor([1.0, torch.nan, 3.0])) == (2, 1)
