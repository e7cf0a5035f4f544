import errno
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from utils.check_weights import RESULTS, WEIGHTS
from utils.environment import choose_mode, output_folder

REAL, DRAWN = SimpleNamespace(name="CIFAR-10"), SimpleNamespace(name="drawn shapes, NOT CIFAR-10")


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "gpu, weights, data, mode",
    [
        (True, True, REAL, "full"),
        (True, False, REAL, "full"),
        (False, True, REAL, "explain"),
        (False, False, REAL, "preview"),
        (True, True, DRAWN, "preview"),
        (False, True, DRAWN, "preview"),
    ],
)
def test_the_mode_follows_from_what_is_at_hand(monkeypatch, gpu, weights, data, mode):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    if weights:
        for path in (WEIGHTS, RESULTS):
            path.parent.mkdir()
            path.touch()
    assert choose_mode(data)[0] == mode


@pytest.mark.parametrize("mode", ["preview", "full", "smoke"])
def test_a_variable_overrides_the_mode(monkeypatch, mode):
    monkeypatch.setenv("S8_MODE", mode)
    assert choose_mode(REAL)[0] == mode


@pytest.mark.parametrize(
    "mode, data, message",
    [
        ("fast", REAL, "one of full"),
        ("full", DRAWN, "needs CIFAR-10"),
        ("explain", REAL, "results.json"),
        ("explain", DRAWN, "needs CIFAR-10"),
    ],
)
def test_impossible_modes_are_refused(monkeypatch, mode, data, message):
    monkeypatch.setenv("S8_MODE", mode)
    with pytest.raises(ValueError, match=message):
        choose_mode(data)


def test_weights_without_their_results_are_not_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for path, mode in ((WEIGHTS, "preview"), (RESULTS, "explain")):
        path.parent.mkdir()
        path.touch()
        assert choose_mode(REAL)[0] == mode


def test_only_a_full_run_writes_to_images():
    folders = {mode: output_folder(mode).as_posix() for mode in ("full", "explain", "preview", "smoke")}
    assert folders == {"full": "images", "explain": "runs/explain", "preview": "runs/preview", "smoke": "runs/smoke"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "images").touch()
    with pytest.raises(OSError, match="cannot write to 'images'"):
        output_folder("full")


def test_a_read_only_folder_is_named(monkeypatch):
    refusal = PermissionError(errno.EACCES, "Permission denied")  # made up, as root may write everywhere
    monkeypatch.setattr("tempfile.TemporaryFile", Mock(side_effect=refusal))
    with pytest.raises(OSError, match="cannot write to 'images' .Permission denied"):
        output_folder("full")
