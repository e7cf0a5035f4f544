"""Time an epoch the assignment's way and this repository's way, in turn: python -m benchmarks.train_speed

On a GPU every repeat is a whole epoch. On a CPU it is a few steps, from which the epoch is extrapolated.
"""

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from models import ResNet18
from utils.data import load_data, train_loader
from utils.environment import describe_environment, worker_count
from utils.files import write_json
from utils.training import RECIPE, Training, native_precision, train_one_epoch
from utils.transforms import train_transform

TRANSFORM = train_transform()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def collate(pairs: list[tuple[np.ndarray, int]]) -> list[Tensor]:
    """Open, augment and normalize images one by one, as torchvision's CIFAR10 does with a transform."""
    return default_collate([(TRANSFORM(image=np.array(Image.fromarray(i)))["image"], label) for i, label in pairs])


class TimedLoader:
    """Hand out the batches that `count` images fill, start workers only once, and sum the seconds spent waiting."""

    def __init__(self, loader: DataLoader, count: int):
        self.sampler, self.steps, self.waited = loader.sampler, count // loader.batch_size, 0.0
        self.images = self.steps * loader.batch_size
        self.batches = (batch for _ in itertools.count() for batch in loader)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            start = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - start
            yield batch


def assignment_way(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[Callable, TimedLoader]:
    """Return an epoch of the assignment's, and its batches: float32 (TF32 where cuDNN has it), NCHW, two workers."""
    pairs, options = list(zip(images, labels, strict=True)), {"num_workers": 2, "pin_memory": DEVICE.type == "cuda"}
    loader = DataLoader(pairs, min(128, count), shuffle=True, drop_last=True, collate_fn=collate, **options)
    batches = TimedLoader(loader, count)
    model = ResNet18().to(DEVICE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train() -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            logits, targets = model(inputs.to(DEVICE)), targets.to(DEVICE)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            optimizer.step()
            loss.item(), (logits.argmax(1) == targets).sum().item()  # as it logs every step

    return train, batches


def repository_ways(images: np.ndarray, labels: np.ndarray, count: int) -> dict[str, tuple[Callable, TimedLoader]]:
    """Return an epoch of the recipe's and one with SAM, and their batches."""
    recipe = replace(RECIPE, precision=native_precision(DEVICE), batch_size=min(RECIPE.batch_size, count))
    loader = train_loader(images, labels, recipe.batch_size, seed=recipe.seed, workers=worker_count(DEVICE))
    batches = TimedLoader(loader, count)
    training = Training(recipe, DEVICE, len(batches))
    return {
        "repository": (lambda: train_one_epoch(training, batches, epoch=0), batches),
        "repository_sam": (lambda: train_one_epoch(training, batches, epoch=recipe.epochs - 1), batches),
    }


def measure(train: Callable[[], None], batches: TimedLoader) -> tuple[float, float]:
    """Return the seconds that all batches take, and those of them spent waiting for data."""
    batches.waited = 0.0  # on a GPU an upper bound: it may be computing meanwhile
    start = time.perf_counter()
    train()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, batches.waited


def summarize(measured: list[tuple[float, float]], images: int) -> dict[str, float]:
    """Return the medians over the repeats of (seconds, seconds waiting for data), each for `images` images."""
    rate = images / statistics.median(seconds for seconds, _ in measured)
    return {
        "seconds_per_epoch": RECIPE.train_images / rate,
        "images_per_second": rate,
        "data_wait_percent": statistics.median(100 * waited / seconds for seconds, waited in measured),
    }


def main(repeats: int = 5, cpu_images: int = 1_280) -> dict:
    """Measure all ways in turn, after one repeat of each that does not count; save runs/train_speed.json."""
    data = load_data()
    images, labels = data.train_images[: RECIPE.train_images], data.train_labels[: RECIPE.train_images]
    count = len(images) if DEVICE.type == "cuda" else cpu_images
    torch.manual_seed(0)
    ways = {"assignment": assignment_way(images, labels, count)} | repository_ways(images, labels, count)
    seen = {name: batches.images for name, (_, batches) in ways.items()}
    runs = [{name: measure(*way) for name, way in ways.items()} for _ in range(repeats + 1)][1:]
    results = {name: summarize([run[name] for run in runs], seen[name]) for name in ways}
    ratios = [run["assignment"][0] / run["repository"][0] * seen["repository"] / seen["assignment"] for run in runs]
    results |= {"ratio": statistics.median(ratios), "ratios": ratios, "images": seen, "data": data.name}
    results |= {"precision": native_precision(DEVICE), "cores": os.cpu_count()}
    results |= {"environment": describe_environment(DEVICE)}
    write_json(Path("runs/train_speed.json"), results)
    return results


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
