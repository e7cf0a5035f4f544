"""The benchmarks run, at their smallest, and report what they should."""

import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from benchmarks import cam_speed, recipes, train_speed
from tests.faults.train import draw, small_model
from tests.test_notebook import CODE
from utils import training
from utils.data import ImageData
from utils.standin import SHAPES


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Keep the results out of runs/, and draw the images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("S8_DATA", "standin")
    monkeypatch.setattr("utils.data.draw_shapes", draw)  # once for all tests


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


def test_speeds_are_those_of_the_definitions():
    results = train_speed.summarize([2.0], [1.0], [3.0], images=90)
    assert (results["images/s"], results["seconds per epoch"], results["waiting for data (%)"]) == (45, 1_000, 50)
    assert results["TFLOP/s"] == pytest.approx(45 * 5.745e9 / 1e12)


def test_waiting_starts_at_zero_and_memory_is_in_megabytes(monkeypatch):
    monkeypatch.setattr(train_speed, "DEVICE", torch.device("cpu"))
    _, waited, memory = train_speed.measure(lambda *_: None, SimpleNamespace(waited=9.0), 0)
    assert waited == 0 and 50 < memory < 50_000


def test_cam_speed_compares_equal_maps(tmp_path):
    results = cam_speed.main(repeats=1, count=2)
    assert json.loads((tmp_path / "runs/cam_speed.json").read_text()) == results
    assert results["maps"] == 16 and results["largest difference"] < 1e-4
    assert results["ratio"] == pytest.approx(results["seconds, one call a map"] / results["seconds, compute_cams"])


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


def test_a_seed_decides_weights_and_split_and_nothing_held_out_is_trained_on(monkeypatch):
    weights, trained, held = [], [], []

    def train(model, batches, *_):
        weights.append(model[0].weight.detach().clone())
        trained.append({image.tobytes() for image in batches.dataset.images})
        return 0.0, 0.0

    def evaluate(model, loader, dtype):
        held.append({image.tobytes() for image in loader.dataset.images})
        return 0.0, 0.0

    for name, stub in (("build", lambda _: small_model()), ("train_one_epoch", train), ("evaluate", evaluate)):
        monkeypatch.setattr(recipes, name, stub)
    monkeypatch.setenv("RECIPE_EPOCHS", "1")
    monkeypatch.setenv("RECIPE_IMAGES", "5000")
    for seed in (0, 1):
        recipes.train("flip", seed)
    assert not torch.equal(*weights) and held[0] != held[-1]
    assert trained[0].isdisjoint(held[0]) and trained[1].isdisjoint(held[-1])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizers_get_the_recipes_rate_and_decay(name):
    recipe = recipes.NOTEBOOK | recipes.RECIPES[name]
    (group,) = recipes.make_optimizer(small_model(), recipe, torch.float32).param_groups
    assert (group["lr"], group["weight_decay"]) == (recipe["rate"], recipe["weight decay"])


def test_one_failed_run_of_two_is_a_failure(monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipes", "flip", "0", "flip", "1"])
    monkeypatch.setattr("subprocess.Popen", lambda command: SimpleNamespace(wait=lambda: int(command[-1])))
    with pytest.raises(SystemExit) as caught:
        recipes.main()
    assert caught.value.code


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
    assert isinstance(loader.dataset.augment.transforms[0], recipes.A.HorizontalFlip)
    log = json.loads(log.read_text())
    assert log["recipe"]["flip"] and "NOT CIFAR-10" in log["recipe"]["data"] and len(log["history"]) == 1
    assert log["history"][0]["averaged accuracy"] > 0
    assert "test" not in log


@pytest.fixture
def small(monkeypatch) -> dict:
    """Let the script train a small model on 520 drawn images for 5 epochs; return what the notebook would need."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where runs are the same to the last bit
    monkeypatch.setenv("RECIPE_EPOCHS", "5")
    monkeypatch.setenv("RECIPE_IMAGES", "520")
    data = ImageData("drawn shapes, NOT CIFAR-10", SHAPES, *draw(1_020, seed=0)[:2], *draw(50, seed=1)[:2])

    def judge(model, loader, dtype):
        return next(model.parameters()).sum().item(), len(loader.dataset)  # now up, now down, for the plateau

    stubs = {"load_data": lambda download=True: data, "evaluate": judge}
    for name, stub in (stubs | {"build": lambda recipe: small_model()}).items():
        monkeypatch.setattr(recipes, name, stub)
    return stubs | {"ResNet18": small_model, "display": Mock()}


LOG = Path("runs/recipes/notebook-seed0-5x520.json")


def read_history() -> list[dict]:
    """Return the log of the small run without its seconds."""
    return [row | {"seconds": 0} for row in json.loads(LOG.read_text())["history"]]


def test_recipes_train_by_the_notebooks_own_steps(monkeypatch, small):
    monkeypatch.setenv("S8_MODE", "preview")
    short, notebook = recipes.shorten(recipes.NOTEBOOK, 5, 520), {}
    settings = {"EPOCHS": 5, "TRAIN_IMAGES": 520, "VALIDATION_IMAGES": 500, "BATCH_SIZE": short["batch size"]}
    settings |= {"AVERAGING": short["averaging"], "SHARP_EPOCHS": short["sharpness-aware epochs"]}
    changes = {"from models import": small, "FULL = ": settings | {"PATIENCE": short["patience"]}}
    for cell in itertools.takewhile(lambda cell: "plot_curves(" not in cell.source, CODE):
        if "plot_augmentation(" not in cell.source and "torchinfo.summary(" not in cell.source:
            exec(cell.source, notebook)
            notebook |= next((change for start, change in changes.items() if start in cell.source), {})
    recipes.train("notebook", seed=0)
    logged = read_history()
    shared = logged[0].keys() & notebook["history"][0].keys() - {"seconds"}
    assert len(shared) == 6 and len(logged) == len(notebook["history"]) == 5
    for one, other in zip(logged, notebook["history"], strict=True):
        assert {name: one[name] for name in shared} == {name: other[name] for name in shared}
    assert logged[-1]["averaged loss"] == notebook["held_out"]["average"]["validation loss"]
    assert logged[-1]["learning rate"] < logged[0]["learning rate"]


@pytest.mark.usefixtures("small")
def test_an_interrupted_recipe_continues_and_its_log_has_every_epoch(monkeypatch):
    recipes.train("notebook", seed=0)
    whole, save = read_history(), recipes.save_checkpoint
    shutil.rmtree("runs")

    def interrupt(path, config, history, **parts):
        save(path, config, history, **parts)
        if len(history) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipes, "save_checkpoint", interrupt)
        recipes.train("notebook", seed=0)
    assert len(read_history()) == 3
    steps = Mock(wraps=recipes.train_one_epoch)
    monkeypatch.setattr(recipes, "train_one_epoch", steps)
    recipes.train("notebook", seed=0)
    assert [call.args[4] for call in steps.call_args_list] == [3, 4]
    assert read_history() == whole


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
    predict = Mock(wraps=recipes.predict)
    monkeypatch.setattr(recipes, "predict", predict)
    recipes.train(name, seed=0)
    assert [type(call.args[0]) for call in predict.call_args_list] == [AveragedModel] * tested
    (log,) = (tmp_path / "runs/recipes").glob("*.json")
    log = json.loads(log.read_text())
    assert 0 < log["test"]["accuracy"] < 100 if tested else "test" not in log
