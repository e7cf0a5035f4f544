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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from benchmarks.recipes import NOTEBOOK, make_optimizer
from models import ResNet18
from utils.checkpoint import write_json
from utils.data import load_data, train_loader
from utils.environment import describe_environment
from utils.training import native_dtype, train_one_epoch
from utils.transforms import train_transform

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPOCH_IMAGES = 45_000  # what the notebook trains on
BATCH_SIZES = {"assignment": 128, "repository": NOTEBOOK["batch size"]}
GFLOP_PER_IMAGE = 5.745  # 0.958 GMAC forward, twice that backward but for the stem's input, 2 FLOP a MAC


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
        self.sampler, self.batch_size, self.steps, self.waited = loader.sampler, loader.batch_size, steps, 0.0
        self.batches = (batch for _ in itertools.count() for batch in loader)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            start = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - start
            yield batch


def assignment_way(images: np.ndarray, labels: np.ndarray, batch_size: int) -> tuple[DataLoader, Callable]:
    """Return the loader and the epoch of the assignment: float32, NCHW, two workers, two looks at every step."""
    options = {"num_workers": 2, "shuffle": True, "drop_last": True, "pin_memory": DEVICE.type == "cuda"}
    loader = DataLoader(PILDataset(images, labels), batch_size, **options)
    model = ResNet18().to(DEVICE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train(batches: TimedLoader, epoch: int) -> None:
        losses, correct = [], 0
        for inputs, targets in batches:
            inputs, targets = inputs.to(DEVICE), targets.to(DEVICE)
            optimizer.zero_grad()
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            correct += (logits.argmax(1) == targets).sum().item()

    return loader, train


def repository_way(images: np.ndarray, labels: np.ndarray, batch_size: int) -> tuple[DataLoader, Callable]:
    """Return the loader and the epoch of the notebook, one without sharpness-aware steps."""
    workers, dtype = min(8, os.cpu_count()) if DEVICE.type == "cuda" else 0, native_dtype(DEVICE)
    loader = train_loader(images, labels, batch_size, seed=0, workers=workers)
    model = ResNet18().to(DEVICE, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, NOTEBOOK, dtype)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype == torch.float16)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(NOTEBOOK["averaging"]))
    return loader, lambda batches, epoch: train_one_epoch(
        model, batches, optimizer, scaler, epoch, dtype, smoothing=NOTEBOOK["label smoothing"], average=average
    )


def measure(train: Callable, batches: TimedLoader, epoch: int) -> tuple[float, float, float]:
    """Return the seconds of `len(batches)` steps, those of them spent waiting for data, and the peak memory in MB."""
    batches.waited = 0.0  # on a GPU an upper bound: it may be computing meanwhile
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    train(batches, epoch)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - start, batches.waited, torch.cuda.max_memory_allocated() / 1e6
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return time.perf_counter() - start, batches.waited, kilobytes * 1024 / 1e6


def summarize(seconds: list[float], waited: list[float], memory: list[float], images: int) -> dict[str, float]:
    """Return the medians over the repeats, each of which trained on `images` images."""
    rate = images / statistics.median(seconds)
    return {
        "seconds per epoch": EPOCH_IMAGES / rate,
        "images/s": rate,
        "waiting for data (%)": statistics.median(100 * w / s for w, s in zip(waited, seconds, strict=True)),
        "TFLOP/s": rate * GFLOP_PER_IMAGE / 1000,
        "peak memory (MB)": max(memory),
    }


def main(repeats: int = 5, cpu_images: int = 1_280) -> dict:
    """Measure both ways in turn, after one repeat of each that does not count; print and save runs/train_speed.json."""
    data = load_data()
    images, labels = data.train_images[:EPOCH_IMAGES], data.train_labels[:EPOCH_IMAGES]
    count = len(images) if DEVICE.type == "cuda" else cpu_images
    torch.manual_seed(0)
    ways = []
    for way, batch_size in zip((assignment_way, repository_way), BATCH_SIZES.values(), strict=True):
        loader, train = way(images, labels, min(batch_size, count))
        ways.append((train, TimedLoader(loader, max(1, count // batch_size))))
    runs = [[measure(*way, epoch) for way in ways] for epoch in range(repeats + 1)][1:]
    seen = [len(batches) * batches.batch_size for _, batches in ways]
    table = [summarize(*zip(*way, strict=True), n) for way, n in zip(zip(*runs, strict=True), seen, strict=True)]
    results = dict(zip(BATCH_SIZES, table, strict=True))
    print(pd.DataFrame(results).to_string(float_format="{:,.2f}".format))
    ratios = [slow[0] / seen[0] / (fast[0] / seen[1]) for slow, fast in runs]
    sizes = " and ".join(map(str, BATCH_SIZES.values()))
    method = f"medians of {repeats} repeats in turn, {seen[0]:,} and {seen[1]:,} images in batches of {sizes}"
    if count < EPOCH_IMAGES:
        method += f", extrapolated to {EPOCH_IMAGES:,} images"
    facts = {"ratio": statistics.median(ratios), "ratios": ratios, "method": method, "data": data.name}
    facts["memory"] = "GPU, with the other way's idle model" if DEVICE.type == "cuda" else "whole process, both ways"
    facts["compile seconds"] = 0.0  # nothing is compiled, see speed.md
    facts["precision"] = f"float32 (convolutions in TF32 where cuDNN has it) against {native_dtype(DEVICE)}"
    facts |= describe_environment(DEVICE) | {"cores": os.cpu_count(), "cpu": torch.backends.cpu.get_cpu_capability()}
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    write_json(Path("runs/train_speed.json"), results | facts)
    return results | facts


if __name__ == "__main__":
    main()
