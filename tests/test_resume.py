"""A training interrupted at any moment ends as one that was not."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.small import SMALL, draw, identical, loaders, run, small_training
from utils.data import train_loader


def end(path: Path) -> dict:
    """Return all that a finished training's checkpoint holds."""
    return torch.load(path, weights_only=True)


def scaled_training():
    training = small_training(SMALL)
    training.scaler = torch.amp.GradScaler("cpu")
    return training


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    """Train three epochs with a gradient scaler, which has most to lose; the last is one of SAM."""
    path = tmp_path_factory.mktemp("whole") / "run" / "checkpoint.pt"
    run(path, scaled_training(), loaders())
    return end(path)


INTERRUPTS = {  # after which call of what: in the second epoch of ten steps
    "in a forward pass": (lambda training: training.model[3], "forward", 10 + 1 + 4),  # 1 in the evaluation
    "before a backward pass": (lambda training: training.scaler, "scale", 14),
    "in an optimizer's step": (lambda training: training.optimizer, "step", 14),
    "after a scaler's update": (lambda training: training.scaler, "update", 14),
    "in an evaluation": (lambda training: training.ema, "eval", 2),
    "while a checkpoint is written": (lambda training: os, "fsync", 3),  # 1 at the start, 1 after the first epoch
    "after a checkpoint is written": (lambda training: os, "replace", 3),
}


@pytest.mark.parametrize("moment", INTERRUPTS)
def test_an_interrupted_run_continues_in_the_same_process(moment, uninterrupted, tmp_path, monkeypatch):
    path, training, batches = tmp_path / "run" / "checkpoint.pt", scaled_training(), loaders()
    owner, method, call = INTERRUPTS[moment]
    original, calls = getattr(owner(training), method), iter(range(1, 1000))

    def interrupted(*args, **kwargs):
        result = original(*args, **kwargs)
        if next(calls) == call:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner(training), method, interrupted)
        run(path, training, batches)
    run(path, training, batches)
    assert identical(end(path), uninterrupted)


def test_a_lost_run_continues_in_a_new_process(uninterrupted, tmp_path, capsys):
    path = tmp_path / "run" / "checkpoint.pt"
    run(path, scaled_training(), loaders(), epochs=1)
    run(path, scaled_training(), loaders())
    assert "after epoch 1" in capsys.readouterr().out
    assert identical(end(path), uninterrupted)


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path):
    rng, kills, path = random.Random(0), 0, tmp_path / "killed" / "checkpoint.pt"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes
    run(tmp_path / "whole" / "checkpoint.pt", small_training(), loaders())
    torch.set_num_threads(threads)
    for target in ("epoch", "checkpoint", "epoch", "complete"):
        command = [sys.executable, "-m", "tests.small", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                if line.strip() == target != "complete":
                    time.sleep(rng.uniform(0, 0.05))
                    child.kill()
        kills += child.returncode == -signal.SIGKILL
    assert kills >= 2 and child.returncode == 0
    assert identical(end(path), end(tmp_path / "whole" / "checkpoint.pt"))
    assert [left.name for left in path.parent.iterdir() if left.name.startswith(".check")] == []


def test_workers_survive_an_interrupt_of_the_whole_process_group():
    loader = train_loader(*draw(128, seed=0), 16, seed=0, workers=2)
    batches = iter(loader)
    next(batches), next(batches)  # one of each worker: both have started
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.3)
    assert len(list(loader)) == 8
