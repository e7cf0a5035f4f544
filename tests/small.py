"""A small training with the notebook's own steps; as a command it says what it does, so that a test can kill it."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.checkpoint import resume, save_checkpoint
from utils.data import draw_squares, eval_loader, train_loader
from utils.training import RECIPE, Recipe, Training, run_epoch

SMALL = replace(RECIPE, epochs=3, train_images=640, batch_size=64, precision="float32", ema_decay=0.9, sam_epochs=1)
draw = cache(draw_squares)


def small_model(*_) -> nn.Sequential:
    """Build two convolutions with group norm and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.GroupNorm(1, 8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.GroupNorm(1, 16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def small_training(recipe: Recipe = SMALL, steps: int = 10, build=small_model) -> Training:
    """Return the training of a small model, in its first state."""
    with mock.patch("utils.training.ResNet18", build):
        return Training(recipe, torch.device("cpu"), steps)


def loaders() -> tuple[DataLoader, DataLoader]:
    """Return ten batches of drawn squares to train on, and one to evaluate."""
    return train_loader(*draw(640, seed=0), 64, seed=0), eval_loader(*draw(200, seed=1))


def run(path: Path, training: Training, batches: tuple, epochs: int = 3, say=lambda _: None) -> list[dict]:
    """Train as the notebook's loop does, or continue from the checkpoint; return the history without times."""
    config = training.recipe.config()
    history = resume(path, config, **training.parts())
    for epoch in range(len(history), epochs):
        say("epoch")
        row = run_epoch(training, *batches, epoch=epoch)
        history.append(row | {"seconds": 0, "images/s": 0, "minutes left": 0})
        say("checkpoint")
        save_checkpoint(path, config, history, **training.parts())
    say("complete")
    return history


def identical(a, b) -> bool:
    """Compare nested containers bit by bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and a == b


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), small_training(), loaders(), say=lambda phase: print(phase, flush=True))
