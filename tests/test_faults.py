"""What Colab, laptops and networks do: broken files, servers and numbers, full disks, interrupts.

The long part, a training killed at random moments, is `make test-faults`.
"""

import errno
import hashlib
import io
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import tarfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.datasets import CIFAR10

from models.resnet import ResNet
from tests.faults.train import identical, prepare, run
from utils import checkpoint, data
from utils.checkpoint import load_weights, resume, save_checkpoint, save_weights, write_json
from utils.data import DataError, broken_files, cifar10_root, fetch_cifar10, load_cifar10, load_data, train_loader
from utils.gradcam import compute_cams
from utils.plotting import plot_curves, save_figure
from utils.standin import draw_shapes
from utils.training import predict, train_one_epoch


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# Data


@pytest.fixture
def archive(monkeypatch) -> bytes:
    """Make an archive of CIFAR-10's layout with two images a file, and let its MD5 sums be the official ones."""
    arrays = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    names = [name for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]]
    files = {name: pickle.dumps(arrays | {"batch_label": name}) for name in names}
    files["batches.meta"] = pickle.dumps({"label_names": list(data.CLASSES)})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name in names[5:]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    return buffer.getvalue()


@pytest.fixture
def mirror(archive, monkeypatch):
    """Serve the archive on loopback, and return the URL of a mirror that behaves as it is named."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            fault = self.path.split("/")[1]
            if fault == "503":
                return self.send_error(503)
            if fault == "no-http":
                return self.wfile.write(b"who is there?\r\n")
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive[::-1] if fault == "wrong" else archive if fault == "good" else archive[:200])
            if fault == "stalls":
                self.wfile.flush()
                over.wait(10)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    with socket.socket() as unused:  # bound but not listening, so it refuses
        unused.bind(("127.0.0.1", 0))
        ports = {"refuses": unused.getsockname()[1]}
        yield lambda fault: f"http://127.0.0.1:{ports.get(fault, server.server_port)}/{fault}/{CIFAR10.filename}"
    over.set()
    server.shutdown()
    server.server_close()


FAULTS = {  # and what is reported of it
    "stalls": "timed out",
    "truncated": "corrupted",
    "wrong": "corrupted",
    "503": "503",
    "refuses": "refused",
    "no-http": "who is there",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_mirror_falls_to_the_next(fault, mirror, tmp_path):
    fetch_cifar10(tmp_path, (mirror(fault), mirror("good")), timeout=0.3)
    assert broken_files(tmp_path) == []
    assert socket.getdefaulttimeout() is None


def test_without_any_mirror_the_error_lists_what_each_answered(mirror, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch_cifar10(tmp_path, tuple(map(mirror, FAULTS)), timeout=0.3)
    answers = str(caught.value).split("; ")
    assert len(answers) == len(FAULTS)
    for answer, expected in zip(answers, FAULTS.values(), strict=True):
        assert "127.0.0.1" in answer and expected in answer


def test_without_any_mirror_comes_the_stand_in_or_the_error(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "fetch_cifar10", partial(fetch_cifar10, mirrors=(mirror("503"),), timeout=0.3))
    monkeypatch.setattr(data, "load_standin", lambda: "the stand-in")
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    monkeypatch.delenv("S8_DATA", raising=False)
    assert load_data() == "the stand-in"
    assert "NOT about CIFAR-10" in capsys.readouterr().out
    monkeypatch.setenv("S8_DATA", "cifar10")
    with pytest.raises(DataError, match="503"):
        load_data()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage, state", [(truncate, "damaged"), (corrupt, "damaged"), (Path.unlink, "missing")])
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_broken_files_are_named_and_fetched_again(name, damage, state, mirror, tmp_path, monkeypatch, capsys):
    fetch_cifar10(tmp_path, (mirror("good"),))
    (tmp_path / CIFAR10.filename).unlink()
    damage(tmp_path / CIFAR10.base_folder / name)
    assert broken_files(tmp_path) == [f"{name} is {state}"]
    with pytest.raises(DataError, match=f"{name} is {state}"):
        load_cifar10(tmp_path, download=False)
    monkeypatch.setattr(data, "fetch_cifar10", partial(fetch_cifar10, mirrors=(mirror("503"), mirror("good"))))
    assert len(load_cifar10(tmp_path).train_images) == 10
    assert f"{name} is {state}" in capsys.readouterr().out
    assert broken_files(tmp_path) == []


def test_a_partly_extracted_archive_is_extracted_again_without_the_network(mirror, tmp_path):
    fetch_cifar10(tmp_path, (mirror("good"),))
    for name in ("data_batch_5", "test_batch", "batches.meta"):
        (tmp_path / CIFAR10.base_folder / name).unlink()
    truncate(tmp_path / CIFAR10.base_folder / "data_batch_4")
    assert len(broken_files(tmp_path)) == 4
    fetch_cifar10(tmp_path, (mirror("refuses"),))
    assert broken_files(tmp_path) == []


@pytest.mark.usefixtures("cifar10")
def test_a_truncated_official_file_is_named(tmp_path):
    official = (cifar10_root() / CIFAR10.base_folder).resolve()
    copy = tmp_path / CIFAR10.base_folder
    copy.mkdir()
    for path in official.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "data_batch_2").unlink()
    (copy / "data_batch_2").write_bytes((official / "data_batch_2").read_bytes()[:-1])
    assert broken_files(tmp_path) == ["data_batch_2 is damaged"]


# Weights and checkpoints


def tiny_model() -> nn.Sequential:
    """Build a convolution and a norm."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4))


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
    path, model = tmp_path / "model.safetensors", tiny_model()
    save_weights(path, tiny_model())
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
    path, model = tmp_path / "run" / "checkpoint.pt", tiny_model()
    parts = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    save_checkpoint(path, {}, [], **parts)
    CHECKPOINT_FAULTS[fault](path)
    nn.init.ones_(model[0].weight)
    with pytest.raises(ValueError, match="is damaged or no checkpoint.*Delete .* to start afresh") as caught:
        resume(path, {}, **parts)
    assert str(path) in str(caught.value) and "weights_only" not in str(caught.value)
    assert (model[0].weight == 1).all()
    assert not list(tmp_path.rglob("ran"))


# Numbers


def train_with(tmp_path: Path, prepare_fault, dtype: torch.dtype = torch.float32) -> str:
    """Train an epoch, then one with a fault; return the error's text after checking that the checkpoint is good."""
    path = tmp_path / "run" / "checkpoint.pt"
    parts, loaders = prepare("SGD", scaled=False)
    history = run(path, "SGD", parts, loaders, epochs=1)
    good = path.read_bytes()
    prepare_fault(parts["model"])
    with pytest.raises(FloatingPointError) as caught:
        run(path, "SGD", parts, loaders, epochs=2, dtype=dtype)
    assert path.read_bytes() == good
    again, _ = prepare("SGD", scaled=False)
    assert resume(path, {"optimizer": "SGD"}, **again) == history
    assert all(weight.isfinite().all() for weight in again["model"].parameters())
    return str(caught.value)


def poison(step: int, value: float):
    """Return a hook that multiplies its last argument by `value` at one step."""
    calls = iter(range(1, 1000))
    return lambda *args: args[-1] * (value if next(calls) == step else 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("step", [1, 4, 10])
def test_nan_in_a_loss_is_named(step, value, tmp_path):
    text = train_with(tmp_path, lambda model: model[8].register_forward_hook(poison(step, value)))
    assert f"epoch 2, step {step}: the loss is nan" in text or f"epoch 2, step {step}: the loss is inf" in text
    assert "first weights that are not finite: 0.weight" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step, named", [(4, "step 5: the loss is nan"), (10, "step 10: a gradient is not finite")])
def test_nan_in_a_gradient_is_named(step, named, dtype, tmp_path):
    text = train_with(tmp_path, lambda model: model[3].weight.register_hook(poison(step, torch.nan)), dtype=dtype)
    assert f"epoch 2, {named}" in text
    if step == 10:
        assert "first weights that are not finite: 3.weight" in text


def test_gradients_that_the_scaler_always_skips_are_named(tmp_path):
    parts, (train_batches, _) = prepare("SGD")
    model, optimizer, _, _, scaler, _ = parts.values()
    model[3].weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="epoch 3, step 10: a gradient is not finite; all weights are finite"):
        for epoch in range(3):
            train_one_epoch(model, train_batches, optimizer, scaler, epoch, torch.float32)


def test_nan_in_logits_is_named():
    loader = data.eval_loader(*draw_shapes(20, seed=0)[:2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.constant_(model[1].bias, torch.nan)
    with pytest.raises(FloatingPointError, match="logits of image 0"):
        predict(model, loader)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("layer", ["layer1", "layer4"])
def test_nan_in_a_map_is_named(layer, value):
    model = ResNet((1, 1, 1, 1)).eval()
    nn.init.constant_(getattr(model, layer)[0].bn1.bias, value)
    with pytest.raises(FloatingPointError, match=f"the values of {layer} are not finite"):
        compute_cams(model, torch.zeros(1, 3, 32, 32), [0])


# Files


@contextmanager
def full_disk(path: Path, monkeypatch):
    """Let every write beyond 30 bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def full_disk_at_sync(path: Path, monkeypatch):
    """Let the disk turn out full when the written bytes are to reach it."""

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        yield


@contextmanager
def read_only_disk(path: Path, monkeypatch):
    """Let the disk become read-only before the rename."""

    def fail(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        yield


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
    save_checkpoint(path, {}, [], model=tiny_model())


def write_figure(path: Path) -> None:
    save_figure(Figure(figsize=(1, 1)), path)


WRITERS = {
    "checkpoint.pt": write_checkpoint,
    "model.safetensors": lambda path: save_weights(path, tiny_model()),
    "figure.png": write_figure,
    "results.json": lambda path: write_json(path, {"history": list(range(1000))}),
}


@pytest.mark.parametrize("fault", [full_disk, full_disk_at_sync, read_only_disk, read_only_folder])
@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_leaves_the_earlier_file(name, fault, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"the earlier file")
    with pytest.raises((OSError, RuntimeError, checkpoint.SafetensorError)), fault(path, monkeypatch):
        WRITERS[name](path)
    assert path.read_bytes() == b"the earlier file"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != b"the earlier file"


def test_what_a_kill_left_is_removed_by_the_next_write(tmp_path):
    (tmp_path / ".results.json.123").write_bytes(b"half")
    write_json(tmp_path / "results.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


# Determinism


def test_two_runs_with_one_seed_are_identical(tmp_path):
    ends = []
    for name in ("one", "two"):
        parts, loaders = prepare("Muon")
        history = run(tmp_path / name / "checkpoint.pt", "Muon", parts, loaders, epochs=2)
        lines = [
            line.get_xydata().tolist() for axes in plot_curves(history, "", history[-1]).axes for line in axes.lines
        ]
        ends.append((history, lines, parts["model"].state_dict()))
    assert identical(*ends)


# Interrupts


def states(parts: dict) -> tuple[dict, dict]:
    """Return the weights and their average."""
    return parts["model"].state_dict(), parts["average"].state_dict()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[bool, tuple[list[dict], dict, dict]]:
    """Train three epochs, without and with a gradient scaler."""
    ends = {}
    for scaled in (False, True):
        parts, loaders = prepare("Muon", scaled)
        path = tmp_path_factory.mktemp("whole") / "run" / "checkpoint.pt"
        ends[scaled] = run(path, "Muon", parts, loaders, epochs=3), *states(parts)
    return ends


INTERRUPTS = {  # after which call of what: in the second epoch of ten steps
    "in a forward pass": (lambda parts: parts["model"][3], "forward", 10 + 1 + 4),  # 1 in the evaluation
    "before a backward pass": (lambda parts: parts["scaler"], "scale", 14),
    "in an optimizer's step": (lambda parts: parts["optimizer"], "step", 14),
    "after an optimizer's step": (lambda parts: parts["scaler"], "step", 14),
    "after a scaler's update": (lambda parts: parts["scaler"], "update", 14),
    "in an evaluation": (lambda parts: parts["model"], "eval", 2),
    "while a checkpoint is written": (lambda parts: os, "fsync", 3),  # 1 at the start, 1 after the first epoch
    "after a checkpoint is written": (lambda parts: os, "replace", 3),
}


@pytest.mark.filterwarnings("ignore:Seems like .optimizer.step")
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("moment", INTERRUPTS)
def test_an_interrupted_run_continues_in_the_same_process(moment, scaled, uninterrupted, tmp_path, monkeypatch):
    path = tmp_path / "run" / "checkpoint.pt"
    parts, loaders = prepare("Muon", scaled)
    owner, method, call = INTERRUPTS[moment]
    original, calls = getattr(owner(parts), method), iter(range(1, 1000))

    def interrupted(*args, **kwargs):
        result = original(*args, **kwargs)
        if next(calls) == call:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner(parts), method, interrupted)
        run(path, "Muon", parts, loaders, epochs=3)
    history = run(path, "Muon", parts, loaders, epochs=3)
    assert identical((history, *states(parts)), uninterrupted[scaled])


@pytest.mark.parametrize("scaled", [False, True])
def test_a_lost_run_continues_with_new_parts(scaled, uninterrupted, tmp_path, capsys):
    path = tmp_path / "run" / "checkpoint.pt"
    run(path, "Muon", *prepare("Muon", scaled), epochs=1)
    parts, loaders = prepare("Muon", scaled)
    history = run(path, "Muon", parts, loaders, epochs=3)
    assert "after epoch 1" in capsys.readouterr().out
    assert identical((history, *states(parts)), uninterrupted[scaled])


def test_curves_so_far_can_be_plotted_after_an_interrupt(tmp_path):
    parts, loaders = prepare("Muon")
    history = run(tmp_path / "run" / "checkpoint.pt", "Muon", parts, loaders, epochs=1)
    assert plot_curves([], "before the first epoch", history[0]).axes
    assert plot_curves(history, "so far", history[0]).axes


def test_workers_survive_an_interrupt_of_the_whole_process_group():
    images, labels, _ = draw_shapes(128, seed=0)
    loader = train_loader(images, labels, 16, seed=0, workers=2)
    batches = iter(loader)
    next(batches), next(batches)  # one of each worker: both have started
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.3)
    assert len(list(loader)) == 8


# Google Drive


@pytest.fixture
def drive(tmp_path, monkeypatch) -> Path:
    """Make a folder and name it in S8_DRIVE."""
    folder = tmp_path / "drive"
    folder.mkdir()
    monkeypatch.setenv("S8_DRIVE", str(folder))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_drive_holds_the_last_two_checkpoints_and_brings_the_last_back(drive, tmp_path, capsys):
    path, model = tmp_path / "full" / "checkpoint.pt", tiny_model()
    for epochs in range(3):
        save_checkpoint(path, {}, [{}] * epochs, model=model)
        assert names(drive) == [f"full-epoch{kept:03}.pt" for kept in range(max(0, epochs - 1), epochs + 1)]
    content = path.read_bytes()
    path.unlink()
    again = tiny_model()
    assert len(resume(path, {}, model=again)) == 2
    assert identical(model.state_dict(), again.state_dict())
    assert path.read_bytes() == content
    assert f"{drive}/full-epoch*.pt" in capsys.readouterr().out


@pytest.mark.parametrize("uploaded", [0, 1000])
def test_an_upload_that_was_cut_short_is_passed_over(drive, tmp_path, uploaded):
    path, model = tmp_path / "full" / "checkpoint.pt", tiny_model()
    for epochs in (1, 2):
        save_checkpoint(path, {}, [{}] * epochs, model=model)
    os.truncate(drive / "full-epoch002.pt", uploaded)
    path.unlink()
    assert len(resume(path, {}, model=model)) == 1
    os.truncate(drive / "full-epoch001.pt", uploaded)
    path.unlink()
    with pytest.raises(ValueError, match=r"damaged.*the last of '.*full-epoch\*.pt', and restart .* to continue"):
        resume(path, {}, model=model)


def test_a_local_checkpoint_goes_before_the_one_on_drive(drive, tmp_path):
    path = tmp_path / "full" / "checkpoint.pt"
    save_checkpoint(path, {}, [{}] * 2, model=tiny_model())
    (drive / "full-epoch005.pt").write_bytes(b"of another machine")
    assert len(resume(path, {}, model=tiny_model())) == 2


def test_a_copy_that_is_further_is_never_lost(drive, tmp_path):
    (drive / "full-epoch030.pt").write_bytes(b"thirty epochs")
    (drive / "smoke-epoch001.pt").write_bytes(b"of another mode")
    (drive / ".full-epoch001.pt.123").write_bytes(b"left by a kill")
    save_checkpoint(tmp_path / "full" / "checkpoint.pt", {}, [{}] * 2, model=tiny_model())
    assert names(drive) == ["full-epoch002.pt", "full-epoch030.pt", "smoke-epoch001.pt"]


def test_without_the_folder_training_goes_on_with_a_warning(drive, tmp_path, recwarn):
    drive.rmdir()
    path, model = tmp_path / "full" / "checkpoint.pt", tiny_model()
    assert resume(path, {}, model=model) == []
    save_checkpoint(path, {}, [{}], model=model)
    assert len(resume(path, {}, model=model)) == 1
    assert {str(warning.message) for warning in recwarn} == {
        "S8_DRIVE fails (No such file or directory): checkpoints are neither copied there nor fetched"
    }
    assert not drive.exists()


def test_a_drive_that_drops_out_and_returns(drive, tmp_path, monkeypatch):
    path, model = tmp_path / "full" / "checkpoint.pt", tiny_model()
    save_checkpoint(path, {}, [{}], model=model)
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="Transport endpoint is not connected"):

        def fail(source, target):
            Path(target).write_bytes(b"half")
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

        patch.setattr("shutil.copyfile", fail)
        save_checkpoint(path, {}, [{}] * 2, model=model)
    assert len(resume(path, {}, model=model)) == 2
    assert names(drive) == ["full-epoch001.pt"]
    save_checkpoint(path, {}, [{}] * 3, model=model)
    assert names(drive) == ["full-epoch001.pt", "full-epoch003.pt"]
