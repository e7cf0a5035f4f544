"""The benchmarks run, at their smallest, and report what they should."""

import json

import pytest

from benchmarks import cam_speed, train_speed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Keep the results out of runs/, and draw the images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("S8_DATA", "standin")


def test_train_speed_times_both_ways(tmp_path):
    results = train_speed.main(repeats=1, cpu_images=4)
    assert json.loads((tmp_path / "runs/train_speed.json").read_text()) == results
    for way in ("assignment", "repository"):
        assert results[way]["images/s"] * results[way]["seconds per epoch"] == pytest.approx(train_speed.EPOCH_IMAGES)
        assert 0 <= results[way]["waiting for data (%)"] < 100
    assert "extrapolated" in results["method"] and "NOT CIFAR-10" in results["data"]


def test_cam_speed_compares_equal_maps(tmp_path):
    results = cam_speed.main(repeats=1, count=2)
    assert json.loads((tmp_path / "runs/cam_speed.json").read_text()) == results
    assert results["maps"] == 16 and results["largest difference"] < 1e-4
