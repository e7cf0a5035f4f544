"""The benchmarks run, at their smallest, and report what they should."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from benchmarks import cam_speed, recipes, run_times, step_variants, train_speed
from models import ResNet18
from tests.small import draw, small_model
from utils.data import ImageData
from utils.gradcam import compute_cams
from utils.training import RECIPE

SMALL = replace(RECIPE, epochs=3, train_images=520, validation_images=500, sam_epochs=1, precision="float32")
LOG = Path("runs/recipes/recipe-seed0-3x520.json")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Train a small model on few drawn images, on the CPU, and keep the results out of runs/."""
    data = ImageData("drawn squares, NOT CIFAR-10", ("one of ten",) * 10, *draw(1_020, seed=0), *draw(50, seed=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (train_speed, step_variants):
        monkeypatch.setattr(module, "DEVICE", torch.device("cpu"))
    for module in (train_speed, cam_speed, recipes):
        monkeypatch.setattr(module, "load_data", lambda: data)
    for module in ("utils.training", "benchmarks.train_speed"):
        monkeypatch.setattr(f"{module}.ResNet18", small_model)


def test_train_speed_times_every_way():
    results = train_speed.main(repeats=1, cpu_images=130)
    assert json.loads(Path("runs/train_speed.json").read_text()) == results
    seconds = {way: results[way]["seconds_per_epoch"] for way in ("assignment", "repository", "repository_sam")}
    assert min(seconds.values()) > 0
    assert results["ratio"] == pytest.approx(seconds["assignment"] / seconds["repository"])


def test_ways_are_timed_in_turn_and_the_first_repeat_does_not_count():
    calls = []
    times = train_speed.time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == list("ababab") and times.shape == (2, 2) and (times > 0).all(axis=None)


def test_cam_speed_compares_equal_maps():
    torch.manual_seed(0)
    model, images = ResNet18().double().eval(), torch.randn(2, 3, 32, 32).double()  # float32 may flip a ReLU
    cams = compute_cams(model, images, [1, 2])
    torch.testing.assert_close(cam_speed.one_by_one(model, images, [1, 2]), cams, atol=1e-9, rtol=0)


def test_cam_speed_times_both_ways():
    results = cam_speed.main(repeats=1, count=2)
    assert json.loads(Path("runs/cam_speed.json").read_text()) == results and results["maps"] == 16
    assert results["ratio"] == pytest.approx(results["one_by_one_seconds"] / results["compute_cams_seconds"])


def test_a_variant_that_fails_is_reported_and_the_others_go_on(monkeypatch):
    def broken(_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    step_variants.main(["compiled", "as_is", "sam"], batch_size=2, steps=1, rounds=1)
    results = json.loads(Path("runs/step_variants.json").read_text())
    assert results["milliseconds"].keys() == {"as_is", "sam"} and "no compiler" in results["failed"]["compiled"]


def test_work_is_counted_without_views():
    a, b = torch.rand(2, 3), torch.rand(4, 3)
    assert run_times.count(lambda: a @ b.T) == [2 * 2 * 3 * 4 / 1e12, 4 * (6 + 12 + 8) / 1e12, 1]


def test_measured_epochs_replace_computed_ones_of_the_same_device():
    second = {"tflop": 0, "tb": 0.6 * 0.3, "launches": 0}  # of an L4's memory
    counts = pd.DataFrame({"step": second, "sam_step": second, "predictions": second, "maps": second})
    row = run_times.make_row("L4", counts)
    assert row["computed"] and row["epoch_seconds"] == pytest.approx(RECIPE.train_images // RECIPE.batch_size)
    run_times.LOGS.mkdir(parents=True)
    log = {"repository": {"seconds_per_epoch": 60}, "repository_sam": {"seconds_per_epoch": 120}}
    for device, computed in (("NVIDIA L40S", True), ("NVIDIA L4", False)):
        (run_times.LOGS / "train_speed.json").write_text(json.dumps(log | {"environment": {"device": device}}))
        row = run_times.make_row("L4", counts)
        assert row["computed"] == computed
    assert row["training_minutes"] == RECIPE.epochs + RECIPE.sam_epochs


def test_every_name_is_a_recipe_of_its_own():
    made = [replace(RECIPE, **changes) for changes in recipes.CHANGES.values()]
    assert len(set(made)) == len(made) and made[0] == RECIPE


def test_a_seed_decides_weights_and_split_and_no_validation_image_is_trained_on(monkeypatch):
    weights, images = [], []

    def run_epoch(training, *loaders, epoch):
        weights.append(next(training.model.parameters()).detach().clone())
        images.append([{image.tobytes() for image in loader.dataset.images} for loader in loaders])
        return {"EMA validation accuracy": 0.0}

    monkeypatch.setattr(recipes, "run_epoch", run_epoch)
    for seed in (0, 1):
        recipes.train("recipe", replace(SMALL, seed=seed, epochs=1))
    assert not torch.equal(*weights) and images[0][1] != images[1][1]
    assert all(train.isdisjoint(validation) for train, validation in images)


def read_history() -> list[dict]:
    """Return the log's history without times."""
    times = ("seconds", "images/s", "minutes left")
    return [{key: row[key] for key in row if key not in times} for row in json.loads(LOG.read_text())["history"]]


def test_an_interrupted_recipe_continues_and_its_log_has_every_epoch(monkeypatch):
    recipes.train("recipe", SMALL)
    uninterrupted, save = read_history(), recipes.save_checkpoint
    shutil.rmtree("runs")

    def interrupt(path, config, history, **parts):
        save(path, config, history, **parts)
        if len(history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipes, "save_checkpoint", interrupt)
        recipes.train("recipe", SMALL)
    assert len(read_history()) == 2
    recipes.train("recipe", SMALL)
    assert read_history() == uninterrupted and len(uninterrupted) == 3


def test_one_failed_run_of_two_is_a_failure(monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipes", "flip", "0", "flip", "1"])
    monkeypatch.setattr("subprocess.Popen", lambda command: SimpleNamespace(wait=lambda: int(command[-1])))
    with pytest.raises(SystemExit) as caught:
        recipes.main()
    assert caught.value.code
