"""Time an epoch the assignment's way and this repository's, in turn: python -m benchmarks.train_speed"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from models import ResNet18
from utils.data import load_data, train_loader
from utils.environment import choose_device, describe_environment, worker_count
from utils.files import write_json
from utils.training import RECIPE, Training, native_precision, train_one_epoch
from utils.transforms import train_transform

TRANSFORM = train_transform()
DEVICE = choose_device()


def collate(pairs: list[tuple[np.ndarray, int]]) -> tuple[Tensor, Tensor]:
    """Open, augment and normalize images one by one, as torchvision's CIFAR10 does."""
    images = [TRANSFORM(image=np.array(Image.fromarray(image)))["image"] for image, _ in pairs]
    return torch.stack(images), torch.tensor([label for _, label in pairs])


def assignment_way(images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """Return an epoch in float32 (TF32 where cuDNN has it), NCHW, with two workers."""
    options = {"shuffle": True, "drop_last": True, "num_workers": 2, "persistent_workers": True}
    pairs, pin = list(zip(images, labels.tolist(), strict=True)), DEVICE.type == "cuda"
    loader = DataLoader(pairs, min(128, len(pairs)), collate_fn=collate, pin_memory=pin, **options)
    model = ResNet18().to(DEVICE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train() -> None:
        for inputs, targets in loader:
            optimizer.zero_grad()
            logits, targets = model(inputs.to(DEVICE)), targets.to(DEVICE)
            loss = F.cross_entropy(logits, targets)
            loss.backward()
            optimizer.step()
            loss.item(), (logits.argmax(1) == targets).sum().item()  # as it logs every step

    return train


def time_in_turn(ways: dict[str, Callable], repeats: int) -> pd.DataFrame:
    """Return the seconds of each way, a row a repeat, after one that does not count."""
    rows = []
    for _ in range(repeats + 1):
        rows.append({})
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            rows[-1][name] = time.perf_counter() - start
    return pd.DataFrame(rows[1:])


def main(repeats: int = 5, cpu_images: int = 1_280) -> dict:
    """Measure all ways, a CPU on few images, and save runs/train_speed.json."""
    data = load_data()
    count = RECIPE.train_images if DEVICE.type == "cuda" else cpu_images
    images, labels = data.train_images[:count], data.train_labels[:count]
    torch.manual_seed(0)
    recipe = replace(RECIPE, precision=native_precision(DEVICE), batch_size=min(RECIPE.batch_size, count))
    loader = train_loader(images, labels, recipe.batch_size, seed=0, workers=worker_count(DEVICE))
    training = Training(recipe, DEVICE, len(loader))
    ways = {
        "assignment": assignment_way(images, labels),
        "repository": partial(train_one_epoch, training, loader, epoch=0),
        "repository_sam": partial(train_one_epoch, training, loader, epoch=recipe.epochs - 1),
    }
    epochs = time_in_turn(ways, repeats) * RECIPE.train_images / count
    ratios = epochs["assignment"] / epochs["repository"]
    results = {name: {"seconds_per_epoch": seconds} for name, seconds in epochs.median().items()}
    results |= {"ratio": ratios.median(), "data": data.name, "environment": describe_environment(DEVICE)}
    write_json(Path("runs/train_speed.json"), results)
    return results


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
