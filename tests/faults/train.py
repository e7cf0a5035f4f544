"""A small training with the notebook's loop that says what it does next: python -m tests.faults.train FILE OPTIMIZER"""

import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from utils.checkpoint import resume, save_checkpoint
from utils.data import eval_loader, train_loader
from utils.muon import Muon
from utils.standin import draw_shapes
from utils.training import evaluate, train_one_epoch

OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True),
    "Muon": lambda model: Muon(model, 0.02, 3e-3, 0.05, torch.float32),
}


draw = cache(draw_shapes)


def small_model() -> nn.Sequential:
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


def prepare(name: str, scaled: bool = True, ballast: int = 0) -> tuple[dict, tuple[DataLoader, DataLoader]]:
    """Return new parts to train, in their first state, and the loaders of training and validation."""
    torch.manual_seed(0)
    train_batches = train_loader(*draw(640, seed=0)[:2], batch_size=64, seed=0)
    validation_batches = eval_loader(*draw(1_000, seed=1)[:2], batch_size=1_000)
    model = small_model()
    model.register_buffer("ballast", torch.rand(ballast))
    optimizer = OPTIMIZERS[name](model)
    parts = {
        "model": model,
        "optimizer": optimizer,
        "warmup": torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=len(train_batches)),
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", 0.3, 0),
        "scaler": torch.amp.GradScaler("cpu", enabled=scaled),
        "average": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    }
    return parts, (train_batches, validation_batches)


def run(path: Path, name: str, parts: dict, loaders: tuple, epochs: int, dtype: torch.dtype = torch.float32):
    """Train for `epochs`, or continue from the checkpoint; print every phase before it begins; return the history."""
    model, optimizer, warmup, scheduler, scaler, average = parts.values()
    train_batches, validation_batches = loaders
    history = resume(path, {"optimizer": name}, **parts)
    for epoch in range(len(history), epochs):
        print("step", flush=True)
        train = train_one_epoch(model, train_batches, optimizer, scaler, epoch, dtype, warmup, average=average)
        print("evaluation", flush=True)
        loss, accuracy = evaluate(model, validation_batches)
        row = {
            "epoch": epoch + 1,
            "learning rate": optimizer.param_groups[0]["lr"],
            "train loss": train[0],
            "train accuracy": train[1],
            "validation loss": loss,
            "validation accuracy": accuracy,
        }
        scheduler.step(loss)
        history.append(row)
        print("checkpoint", flush=True)
        save_checkpoint(path, {"optimizer": name}, history, **parts)
    print("complete", flush=True)
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
    heavy = prepare(sys.argv[2], ballast=4_000_000)  # writing 16 MB takes long enough to be killed meanwhile
    run(Path(sys.argv[1]), sys.argv[2], *heavy, epochs=8)
