"""A training interrupted at any moment ends as one that was not; killed ones are `make test-faults`."""

import multiprocessing
import os
import signal
import time

import pytest

from tests.faults.train import identical, prepare, run
from utils.data import train_loader
from utils.standin import draw_shapes


def test_two_runs_with_one_seed_are_identical(tmp_path):
    ends = []
    for name in ("one", "two"):
        parts, loaders = prepare("Muon")
        history = run(tmp_path / name / "checkpoint.pt", "Muon", parts, loaders, epochs=2)
        ends.append((history, parts["model"].state_dict()))
    assert identical(*ends)


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


def test_workers_survive_an_interrupt_of_the_whole_process_group():
    images, labels, _ = draw_shapes(128, seed=0)
    loader = train_loader(images, labels, 16, seed=0, workers=2)
    batches = iter(loader)
    next(batches), next(batches)  # one of each worker: both have started
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.3)
    assert len(list(loader)) == 8
