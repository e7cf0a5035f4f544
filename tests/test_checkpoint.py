import fcntl
import os

import pytest
import torch
from torch import nn

from models import ResNet18
from utils.checkpoint import load_weights, resume, save_weights, write_json

CONFIG = {"seed": 0, "learning rate": 0.1}


def test_an_interrupted_first_epoch_starts_from_the_first_weights(tmp_path):
    model = nn.Linear(3, 2)
    first = model.weight.detach().clone()
    resume(tmp_path / "checkpoint.pt", CONFIG, model=model)
    nn.init.zeros_(model.weight)
    assert resume(tmp_path / "checkpoint.pt", CONFIG, model=model) == []
    assert torch.equal(model.weight, first)


def test_another_configuration_names_what_differs(tmp_path):
    resume(tmp_path / "checkpoint.pt", CONFIG, model=nn.Linear(3, 2))
    message = r"learning rate was 0.1, is 0.2.*Delete .* and restart the kernel to start afresh"
    with pytest.raises(ValueError, match=message):
        resume(tmp_path / "checkpoint.pt", CONFIG | {"learning rate": 0.2}, model=nn.Linear(3, 2))


def test_what_is_written_is_flushed_through_a_file_open_for_writing_as_windows_asks(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    write_json(tmp_path / "results.json", {})
    assert flushed == [os.O_RDWR]


def test_published_weights_come_back_rounded_to_half_precision(tmp_path):
    model, other = ResNet18(), ResNet18()
    save_weights(tmp_path / "weights.safetensors", model)
    load_weights(tmp_path / "weights.safetensors", other)
    assert (tmp_path / "weights.safetensors").stat().st_size < 23e6
    for expected, found in zip(model.parameters(), other.parameters(), strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, expected.half().float())
