"""How checkpoints, weights, figures and results are written and read, and what broken files and full disks do."""

import errno
import fcntl
import os
import pickle
import resource
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import nn

from models import ResNet18
from tests.faults.train import identical, small_model
from utils import checkpoint
from utils.checkpoint import load_weights, resume, save_checkpoint, save_weights, write_json
from utils.plotting import save_figure

CONFIG = {"seed": 0, "learning rate": 0.1}


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


def test_another_configuration_names_what_differs(tmp_path):
    resume(tmp_path / "checkpoint.pt", CONFIG, model=nn.Linear(3, 2))
    message = r"learning rate was 0.1, is 0.2.*Delete .* and restart the kernel to start afresh"
    with pytest.raises(ValueError, match=message):
        resume(tmp_path / "checkpoint.pt", CONFIG | {"learning rate": 0.2}, model=nn.Linear(3, 2))


def test_a_checkpoint_of_a_gpu_is_read_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.serialization.location_tag", lambda _: "cuda:7")
    save_checkpoint(tmp_path / "checkpoint.pt", {}, [{}], model=small_model())
    assert len(resume(tmp_path / "checkpoint.pt", {}, model=small_model())) == 1


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


def change_weights(change):
    """Return a damage that applies `change` to the tensors of a safetensors file."""

    def damage(path: Path) -> None:
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return damage


WEIGHT_FAULTS = {
    "missing": (Path.unlink, FileNotFoundError, "no weights"),
    "truncated": (truncate, ValueError, "damaged"),
    "cut in its header": (lambda path: path.write_bytes(path.read_bytes()[:20]), ValueError, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), ValueError, "damaged"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Touch(path.parent / "ran"))), ValueError, "safetensors"),
    "a checkpoint": (lambda path: torch.save({"0.weight": torch.zeros(1)}, path), ValueError, "safetensors"),
    "of a wrong shape": (change_weights(lambda w: w.update({"0.bias": torch.zeros(5)})), ValueError, "0.bias"),
    "without a tensor": (change_weights(lambda w: w.pop("1.bias")), ValueError, "1.bias"),
    "with one more": (change_weights(lambda w: w.update({"2.bias": torch.zeros(5)})), ValueError, "2.bias"),
    "of integers": (change_weights(lambda w: w.update({"0.bias": w["0.bias"].int()})), ValueError, "0.bias.*int32"),
    "with NaN": (change_weights(lambda w: w["0.bias"].fill_(torch.nan)), ValueError, "NaN.*0.bias"),
    "with infinity": (change_weights(lambda w: w["0.bias"].fill_(torch.inf)), ValueError, "infinity.*0.bias"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_broken_weights_give_one_clear_error_and_change_nothing(fault, tmp_path):
    damage, kind, words = WEIGHT_FAULTS[fault]
    path, model = tmp_path / "model.safetensors", small_model()
    save_weights(path, small_model())
    damage(path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(kind, match=words) as caught:
        load_weights(path, model)
    assert str(path) in str(caught.value)
    assert identical(before, model.state_dict())
    assert not (tmp_path / "ran").exists()


def test_the_pickle_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def change_checkpoint(change):
    """Return a damage that applies `change` to a checkpoint's content."""

    def damage(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return damage


CHECKPOINT_FAULTS = {
    "truncated": truncate,
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Touch(path.parent / "ran"), protocol=2)),
    "with an object": change_checkpoint(lambda c: c.update(config=Touch(Path(os.environ["RAN"])))),
    "without history": change_checkpoint(lambda c: c.pop("history")),
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
def full_disk(path: Path, monkeypatch):
    """Let every write beyond 30 bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failing(function: str, number: int):
    """Return a fault in which a function of `os` fails with this error number."""

    @contextmanager
    def fault(path: Path, monkeypatch):
        def fail(*args):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            yield

    return fault


@contextmanager
def read_only_folder(path: Path, monkeypatch):
    """Take the permission to write away, which does not bind root."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    path.parent.chmod(0o555)
    try:
        yield
    finally:
        path.parent.chmod(0o755)


def write_checkpoint(path: Path) -> None:
    save_checkpoint(path, {}, [], model=small_model())


def write_figure(path: Path) -> None:
    save_figure(Figure(figsize=(1, 1)), path)


WRITERS = {
    "checkpoint.pt": write_checkpoint,
    "model.safetensors": lambda path: save_weights(path, small_model()),
    "figure.png": write_figure,
    "results.json": lambda path: write_json(path, {"history": list(range(1000))}),
}


WRITE_FAULTS = {
    "full disk": full_disk,
    "full disk at sync": failing("fsync", errno.ENOSPC),
    "read-only disk at rename": failing("replace", errno.EROFS),
    "read-only folder": read_only_folder,
}


@pytest.mark.parametrize("fault", WRITE_FAULTS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_leaves_the_earlier_file(name, fault, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"the earlier file")
    with pytest.raises((OSError, RuntimeError, checkpoint.SafetensorError)), WRITE_FAULTS[fault](path, monkeypatch):
        WRITERS[name](path)
    assert path.read_bytes() == b"the earlier file"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != b"the earlier file"


def test_what_a_kill_left_is_removed_by_the_next_write(tmp_path):
    (tmp_path / ".results.json.123").write_bytes(b"half")
    write_json(tmp_path / "results.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
