"""The benchmarks run, at their smallest, and report what they should."""

import json
import re
from pathlib import Path

import albumentations as A
import pytest
import torch
from torch import nn

from benchmarks import cam_speed, recipes, train_speed
from tests.faults.train import small_model
from tests.test_notebook import CODE
from utils import training


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Keep the results out of runs/, and draw the images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("S8_DATA", "standin")


def test_train_speed_times_both_ways(monkeypatch, tmp_path):
    monkeypatch.setattr(train_speed, "DEVICE", torch.device("cpu"))  # a GPU would take whole epochs
    monkeypatch.setitem(train_speed.BATCH_SIZES, "assignment", 3)
    results = train_speed.main(repeats=1, cpu_images=4)
    assert json.loads((tmp_path / "runs/train_speed.json").read_text()) == results
    for way in ("assignment", "repository"):
        assert 0 <= results[way]["waiting for data (%)"] < 100
    rates = [results[way]["images/s"] for way in ("repository", "assignment")]
    assert results["ratio"] == pytest.approx(rates[0] / rates[1])
    assert "3 and 4 images" in results["method"]
    assert "extrapolated" in results["method"] and "NOT CIFAR-10" in results["data"]


def test_cam_speed_compares_equal_maps(tmp_path):
    results = cam_speed.main(repeats=1, count=2)
    assert json.loads((tmp_path / "runs/cam_speed.json").read_text()) == results
    assert results["maps"] == 16 and results["largest difference"] < 1e-4


def test_recipes_start_from_the_notebooks():
    (cell,) = [cell for cell in CODE if "MUON_RATE = " in cell.source]
    names = {
        "batch size": "BATCH_SIZE",
        "rate": "MUON_RATE",
        "AdamW rate": "ADAMW_RATE",
        "weight decay": "WEIGHT_DECAY",
        "label smoothing": "SMOOTHING",
        "averaging": "AVERAGING",
        "sharpness-aware epochs": "SHARP_EPOCHS",
        "radius": "RADIUS",
    }
    for name, constant in names.items():
        (value,) = re.findall(rf"^{constant} = ([\d.e-]+)", cell.source, re.MULTILINE)
        assert float(value) == recipes.NOTEBOOK[name]
    assert f"FACTOR, PATIENCE = {recipes.NOTEBOOK['factor']}, {recipes.NOTEBOOK['patience']} " in cell.source


def test_a_shorter_run_keeps_its_shares():
    assert recipes.shorten(recipes.NOTEBOOK, 40, 45_000) == pytest.approx(recipes.NOTEBOOK)
    for epochs in (20, 40):
        assert recipes.shorten(recipes.NOTEBOOK, epochs, 49_000) == recipes.shorten(recipes.NOTEBOOK, epochs, 45_000)
    short = recipes.shorten(recipes.NOTEBOOK, 20, 4_500)
    assert short["averaging"] == pytest.approx(0.98)  # 50 of 340 steps, where a whole run averages over 1,000 of 7,000
    assert (short["sharpness-aware epochs"], short["patience"]) == (4, 1)


def test_more_images_leave_fewer_held_out(monkeypatch):
    monkeypatch.setattr(recipes, "build", lambda recipe: small_model())
    monkeypatch.setattr(recipes, "IMAGES", 5_000)
    monkeypatch.setattr(recipes, "train_one_epoch", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(recipes, "evaluate", lambda _, loader, *__: (float(len(loader.dataset)), 0.0))
    monkeypatch.setenv("RECIPE_EPOCHS", "1")
    for images, held in ((900, 5_000), (5_500, 500)):  # of the stand-in's 6,000
        monkeypatch.setenv("RECIPE_IMAGES", str(images))
        recipes.train("flip", seed=0)
        (log,) = Path("runs/recipes").glob(f"*x{images}.json")
        assert json.loads(log.read_text())["history"][0]["validation loss"] == held
    for images in (5_995, 6_000, 6_010):
        monkeypatch.setenv("RECIPE_IMAGES", str(images))
        with pytest.raises(SystemExit, match=f"{images} of the 6000 images .* leave {6_000 - images} to hold out"):
            recipes.train("flip", seed=0)


def test_zeros_in_the_last_scales_make_blocks_their_shortcuts():
    x = torch.rand(1, 64, 8, 8)
    for name, same in (("notebook", False), ("zero_last_scales", True)):
        block = recipes.build(recipes.NOTEBOOK | recipes.RECIPES[name]).layer1[0]
        assert torch.allclose(block(x), x) == same


def test_batch_normalisation_takes_the_place_of_every_norm():
    model = recipes.build(recipes.NOTEBOOK | recipes.RECIPES["batch_norm"])
    assert {type(module) for module in model.modules() if "Norm" in type(module).__name__} == {nn.BatchNorm2d}


def test_batch_normalisation_sees_whole_batches_in_float32_too(monkeypatch):
    monkeypatch.setattr(training, "MICRO_BATCH", training.MICRO_BATCH)  # put back after the test
    model, seen = small_model(), set()
    model.register_forward_hook(lambda _, inputs, __: seen.add(len(inputs[0])))
    monkeypatch.setattr(recipes, "build", lambda recipe: model)
    monkeypatch.setattr(recipes, "native_dtype", lambda _: torch.float32)
    monkeypatch.setattr(recipes, "evaluate", lambda *_: (0.0, 0.0))
    monkeypatch.setenv("RECIPE_EPOCHS", "1")
    monkeypatch.setenv("RECIPE_IMAGES", "260")
    recipes.train("batch_norm", seed=0)
    assert seen == {256}


def test_a_recipe_is_trained_and_logged(monkeypatch, tmp_path):
    loaders, make = [], recipes.train_loader
    monkeypatch.setattr(recipes, "train_loader", lambda *args: loaders.append(make(*args)) or loaders[-1])
    monkeypatch.setattr(recipes, "build", lambda recipe: small_model())
    monkeypatch.setenv("RECIPE_EPOCHS", "1")
    monkeypatch.setenv("RECIPE_IMAGES", "260")
    recipes.train("flip", seed=0)
    (loader,), (log,) = loaders, (tmp_path / "runs/recipes").glob("*.json")
    assert isinstance(loader.dataset.augment.transforms[0], A.HorizontalFlip)
    log = json.loads(log.read_text())
    assert log["recipe"]["flip"] and "NOT CIFAR-10" in log["recipe"]["data"] and len(log["history"]) == 1
    assert log["history"][0]["averaged accuracy"] > 0
    assert "test" not in log


@pytest.mark.parametrize(
    ("name", "images", "tested"),
    [("notebook", 270, True), ("notebook", 280, True), ("notebook", 260, False), ("flip", 270, False)],
)
def test_only_whole_runs_of_the_notebooks_recipe_are_tested(monkeypatch, tmp_path, name, images, tested):
    monkeypatch.setattr(recipes, "build", lambda recipe: small_model())
    monkeypatch.setattr(recipes, "EPOCHS", 1)
    monkeypatch.setattr(recipes, "IMAGES", 270)
    monkeypatch.setenv("RECIPE_IMAGES", str(images))
    for slow in ("train_one_epoch", "evaluate"):
        monkeypatch.setattr(recipes, slow, lambda *_: (0.0, 0.0))
    recipes.train(name, seed=0)
    (log,) = (tmp_path / "runs/recipes").glob("*.json")
    log = json.loads(log.read_text())
    assert 0 < log["test"]["accuracy"] < 100 if tested else "test" not in log
