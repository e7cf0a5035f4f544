import fcntl
import os

import pytest
import torch
from torch import nn

from models import ResNet18
from utils.checkpoint import load_weights, resume, save_checkpoint, save_weights, write_json

CONFIG = {"seed": 0, "learning rate": 0.1}


def make_parts():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}


def step(model, optimizer, scheduler, **_):
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step(1.0)


def test_resuming_continues_bit_by_bit(tmp_path, capsys):
    path, parts = tmp_path / "runs" / "checkpoint.pt", make_parts()
    assert resume(path, CONFIG, **parts) == []
    step(**parts)
    save_checkpoint(path, CONFIG, [{"loss": 1.5}], **parts)
    step(**parts)

    again = make_parts()
    assert resume(path, CONFIG, **again) == [{"loss": 1.5}]
    assert "after epoch 1" in capsys.readouterr().out
    step(**again)
    for expected, found in zip(parts["model"].parameters(), again["model"].parameters(), strict=True):
        assert torch.equal(expected, found)
    assert parts["scheduler"].state_dict() == again["scheduler"].state_dict()


def test_an_interrupted_first_epoch_starts_from_the_first_weights(tmp_path):
    parts = make_parts()
    resume(tmp_path / "checkpoint.pt", CONFIG, **parts)
    step(**parts)
    resume(tmp_path / "checkpoint.pt", CONFIG, **parts)
    assert torch.equal(parts["model"].weight, make_parts()["model"].weight)


def test_another_configuration_names_what_differs(tmp_path):
    resume(tmp_path / "checkpoint.pt", CONFIG, **make_parts())
    with pytest.raises(
        ValueError, match=r"learning rate was 0.1, is 0.2.*Delete .* and restart the kernel to start afresh"
    ):
        resume(tmp_path / "checkpoint.pt", CONFIG | {"learning rate": 0.2}, **make_parts())


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
