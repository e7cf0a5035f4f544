"""How checkpoints, weights, logits and results are written and read, and what broken files and full disks do."""

import errno
import os
import pickle
import resource
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models import ResNet18
from tests.small import identical, small_model
from utils.checkpoint import load_logits, load_weights, resume, save_checkpoint, save_logits, save_weights
from utils.files import write_json

CONFIG = {"seed": 0, "lr": 0.1, "precision": "bfloat16"}


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_an_interrupted_first_epoch_starts_from_the_first_weights(tmp_path):
    model = nn.Linear(3, 2)
    first = model.weight.detach().clone()
    resume(tmp_path / "checkpoint.pt", CONFIG, model=model)
    nn.init.zeros_(model.weight)
    assert resume(tmp_path / "checkpoint.pt", CONFIG, model=model) == []
    assert torch.equal(model.weight, first)


@pytest.mark.parametrize(
    "name, value, advice",
    [("lr", 0.2, "or restore the old values"), ("precision", "float16", r"replace\(RECIPE, precision='bfloat16'\)")],
)
def test_another_configuration_names_what_differs(name, value, advice, tmp_path):
    resume(tmp_path / "checkpoint.pt", CONFIG, model=nn.Linear(3, 2))
    with pytest.raises(ValueError, match=f"run: {name} was {CONFIG[name]!r}, is {value!r}. Delete .*{advice}"):
        resume(tmp_path / "checkpoint.pt", CONFIG | {name: value}, model=nn.Linear(3, 2))


def test_a_checkpoint_of_a_gpu_is_read_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.serialization.location_tag", lambda _: "cuda:7")
    save_checkpoint(tmp_path / "checkpoint.pt", {}, [{}], model=small_model())
    assert len(resume(tmp_path / "checkpoint.pt", {}, model=small_model())) == 1


def test_published_weights_come_back_rounded_to_half_precision(tmp_path):
    model, other = ResNet18(), ResNet18()
    save_weights(tmp_path / "weights.safetensors", model)
    load_weights(tmp_path / "weights.safetensors", other)
    assert (tmp_path / "weights.safetensors").stat().st_size < 23e6
    for expected, found in zip(model.parameters(), other.parameters(), strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, expected.half().float())


def altering(load, save, change):
    """Return a damage that applies `change` to a file's content."""

    def damage(path: Path) -> None:
        content = load(path)
        change(content)
        save(content, path)

    return damage


change_weights = partial(altering, load_file, save_file)
change_checkpoint = partial(altering, torch.load, torch.save)
WEIGHT_FAULTS = {  # and what is said of them
    "missing": (Path.unlink, "missing"),
    "truncated": (truncate, "damaged"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Touch(path.parent / "ran"))), "safetensors"),
    "of a wrong shape": (change_weights(lambda w: w.update({"0.bias": torch.zeros(5)})), "0.bias"),
    "without a tensor": (change_weights(lambda w: w.pop("1.bias")), "1.bias"),
    "with one more": (change_weights(lambda w: w.update({"2.bias": torch.zeros(5)})), "2.bias"),
    "of integers": (change_weights(lambda w: w.update({"0.bias": w["0.bias"].int()})), "integers in 0.bias"),
    "with NaN": (change_weights(lambda w: w["0.bias"].fill_(torch.nan)), "NaN.*0.bias"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_broken_weights_give_one_clear_error_and_change_nothing(fault, tmp_path):
    damage, words = WEIGHT_FAULTS[fault]
    path, model = tmp_path / "model.safetensors", small_model()
    save_weights(path, small_model())
    damage(path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=words) as caught:
        load_weights(path, model)
    assert str(path) in str(caught.value)
    assert identical(before, model.state_dict())
    assert not (tmp_path / "ran").exists()


def test_logits_come_back_and_others_are_refused(tmp_path):
    path, logits = tmp_path / "logits.npy", torch.randn(5, 10)
    save_logits(path, logits)
    assert torch.equal(load_logits(path, 5), logits)
    content = path.read_bytes()
    for broken in (b"", content[:-1], content[:20], pickle.dumps(Touch(tmp_path / "ran"))):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"'{path}' is missing, damaged or no array"):
            load_logits(path, 5)
    for other in (np.zeros((4, 10), np.float32), np.zeros((5, 10)), np.full((5, 10), np.nan, np.float32)):
        np.save(path, other)
        with pytest.raises(ValueError, match=f"'{path}' holds no finite float32 logits"):
            load_logits(path, 5)
    assert not (tmp_path / "ran").exists()


CHECKPOINT_FAULTS = {
    "truncated": truncate,
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Touch(path.parent / "ran"), protocol=2)),
    "with an object": change_checkpoint(lambda c: c.update(config=Touch(Path(os.environ["RAN"])))),
    "without a part": change_checkpoint(lambda c: c["state"].pop("optimizer")),
    "a list": lambda path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("fault", CHECKPOINT_FAULTS)
def test_broken_checkpoints_give_one_clear_error_and_change_nothing(fault, tmp_path, monkeypatch):
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    path, model = tmp_path / "run" / "checkpoint.pt", small_model()
    parts = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    save_checkpoint(path, {}, [], **parts)
    CHECKPOINT_FAULTS[fault](path)
    nn.init.ones_(model[0].weight)
    with pytest.raises(ValueError, match="is damaged or no checkpoint.*Delete .* to start afresh") as caught:
        resume(path, {}, **parts)
    assert str(path) in str(caught.value) and "weights_only" not in str(caught.value)
    assert (model[0].weight == 1).all()
    assert not list(tmp_path.rglob("ran"))


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    model = small_model()
    resume(tmp_path / "checkpoint.pt", CONFIG, model=model)
    monkeypatch.setattr(torch, "load", mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(PermissionError):
        resume(tmp_path / "checkpoint.pt", CONFIG, model=model)


@contextmanager
def full_disk(monkeypatch):
    """Let every write beyond 30 bytes fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only_disk(monkeypatch):
    """Let every renaming fail, as root may write to read-only folders."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", mock.Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
        yield


WRITERS = {
    "checkpoint.pt": lambda path: save_checkpoint(path, {}, [], model=small_model()),
    "model.safetensors": lambda path: save_weights(path, small_model()),
    "results.json": lambda path: write_json(path, {"history": list(range(1000))}),
}


@pytest.mark.parametrize("fault", [full_disk, read_only_disk])
@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_leaves_the_earlier_file(name, fault, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"the earlier file")
    with pytest.raises((OSError, RuntimeError, SafetensorError)), fault(monkeypatch):
        WRITERS[name](path)
    assert path.read_bytes() == b"the earlier file"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != b"the earlier file"


def test_what_a_kill_left_is_removed_but_not_what_another_process_writes(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    for process in (dead.pid, os.getppid()):
        (tmp_path / f".results.json.{process}").write_bytes(b"half")
    write_json(tmp_path / "results.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", f".results.json.{os.getppid()}"}
