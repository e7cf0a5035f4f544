"""Time an epoch the assignment's way and this repository's way, in turn: python -m benchmarks.train_speed

On a GPU every repeat is a whole epoch. On a CPU it is a few steps, from which the epoch is extrapolated.
"""

import itertools
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models import ResNet18
from utils.checkpoint import write_json
from utils.data import load_data, train_loader
from utils.environment import describe_environment
from utils.training import native_dtype, train_one_epoch
from utils.transforms import train_transform

EPOCH_IMAGES = 45_000  # what the notebook trains on
GFLOP_PER_IMAGE = 5.745  # 0.958 GMAC forward, twice that backward, 2 FLOP a MAC
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05  # the notebook's


class PILDataset(Dataset):
    """Open, augment and normalise one image at a time, as torchvision's CIFAR10 does with a transform."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels, self.transform = images, labels.tolist(), train_transform()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index])
        return self.transform(image=np.array(image))["image"], self.labels[index]


class TimedLoader:
    """Hand out `steps` batches at a time and sum the seconds spent waiting for them.

    The iterator lives on between calls: a CPU's few steps must not pay for a start of workers that an epoch pays once.
    """

    def __init__(self, loader: DataLoader, steps: int):
        self.sampler, self.steps, self.waited = loader.sampler, steps, 0.0
        self.batches = (batch for _ in itertools.count() for batch in loader)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            start = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - start
            yield batch


def assignment_way(images: np.ndarray, labels: np.ndarray, batch_size: int, device: torch.device):
    """Return the loader and the epoch of the assignment: float32, NCHW, two workers, two looks at every step."""
    options = {"num_workers": 2, "shuffle": True, "drop_last": True, "pin_memory": device.type == "cuda"}
    loader = DataLoader(PILDataset(images, labels), batch_size, **options)
    model = ResNet18().to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)

    def train(batches: TimedLoader, epoch: int) -> None:
        model.train()
        losses, correct = [], 0
        for inputs, targets in batches:
            inputs, targets = inputs.to(device), targets.to(device)
            optimizer.zero_grad()
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            correct += (logits.argmax(1) == targets).sum().item()

    return loader, train


def repository_way(images: np.ndarray, labels: np.ndarray, batch_size: int, device: torch.device):
    """Return the loader and the epoch of the notebook."""
    workers = os.cpu_count() if device.type == "cuda" else 0
    loader = train_loader(images, labels, batch_size, seed=0, workers=workers)
    model = ResNet18().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    dtype = native_dtype(device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def train(batches: TimedLoader, epoch: int) -> None:
        train_one_epoch(model, batches, optimizer, scaler, epoch, dtype)

    return loader, train


def measure(train: Callable, batches: TimedLoader, epoch: int, device: torch.device) -> tuple[float, float, float]:
    """Return the seconds of `len(batches)` steps, those of them spent waiting for data, and the peak memory in MB."""
    batches.waited = 0.0  # on a GPU an upper bound: it may be computing meanwhile
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    train(batches, epoch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if device.type == "cuda":
        return seconds, batches.waited, torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return seconds, batches.waited, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def summarize(runs: list[tuple[float, float, float]], images: int) -> dict[str, float | None]:
    """Return the medians over the repeats, each of which trained on `images` images."""
    seconds = statistics.median(run[0] for run in runs)
    rate = images / seconds
    return {
        "seconds per epoch": EPOCH_IMAGES / rate,
        "images/s": rate,
        "waiting for data (%)": statistics.median(100 * run[1] / run[0] for run in runs),
        "TFLOP/s": rate * GFLOP_PER_IMAGE / 1000,
        "peak memory (MB)": max(run[2] for run in runs),
        "compile seconds": None,  # nothing is compiled
    }


def main(repeats: int = 5, cpu_steps: int = 3, batch_size: int = 128) -> dict:
    """Measure both ways in turn, after one repeat of each that does not count; print and save runs/train_speed.json."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = load_data()
    images, labels = data.train_images[:EPOCH_IMAGES], data.train_labels[:EPOCH_IMAGES]
    steps = len(images) // batch_size if device.type == "cuda" else cpu_steps
    extrapolated = steps < EPOCH_IMAGES // batch_size
    torch.manual_seed(0)
    ways = [way(images, labels, batch_size, device) for way in (assignment_way, repository_way)]
    ways = [(train, TimedLoader(loader, steps)) for loader, train in ways]
    runs = [[measure(*way, epoch, device) for way in ways] for epoch in range(repeats + 1)][1:]
    assignment, repository = (summarize(way, steps * batch_size) for way in zip(*runs, strict=True))
    ratios = [slow[0] / fast[0] for slow, fast in runs]
    print(pd.DataFrame({"assignment": assignment, "repository": repository}).to_string(float_format="{:,.2f}".format))
    facts = {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "method": f"medians of {repeats} repeats of {steps} steps of {batch_size} images, in turn"
        + f", extrapolated to {EPOCH_IMAGES:,} images" * extrapolated,
        "peak memory": "allocated on the GPU" if device.type == "cuda" else "of the process, so of both ways together",
        "precision": f"float32, {native_dtype(device)}",
        "data": data.name,
    }
    facts |= describe_environment(device) | {"cores": os.cpu_count(), "cpu": torch.backends.cpu.get_cpu_capability()}
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    results = {"assignment": assignment, "repository": repository} | facts
    write_json(Path("runs/train_speed.json"), results)
    return results


if __name__ == "__main__":
    main()
