"""Train recipes that differ from the notebook's in one ingredient: python -m benchmarks.recipes NAME SEED [...]

NAME is a key of RECIPES; every pair is a process of its own, side by side. A run logs every epoch to runs/recipes/ and
continues from its checkpoint there; the published logs are in benchmarks/recipes/. The environment variables
`RECIPE_EPOCHS` and `RECIPE_IMAGES` shorten it; more than 45,000 images leave fewer than 5,000 held out. Only whole
runs of the notebook's own recipe look at the test set, after their last epoch.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models import ResNet18
from utils import training
from utils.checkpoint import resume, save_checkpoint, write_json
from utils.data import eval_loader, load_data, stratified_sample, train_loader
from utils.environment import describe_environment
from utils.muon import Muon
from utils.training import evaluate, native_dtype, predict, score, train_one_epoch
from utils.transforms import A  # albumentations, without its network call

EPOCHS, IMAGES = 40, 45_000  # of a whole run
NOTEBOOK = {
    "optimizer": "Muon",
    "rate": 0.03,
    "AdamW rate": 2e-3,
    "weight decay": 0.05,
    "label smoothing": 0.1,
    "averaging": 0.999,
    "sharpness-aware epochs": 7,
    "radius": 0.1,
    "batch size": 256,
    "factor": 0.5,
    "patience": 2,
    "norm": "layer",
    "zero-initialised last scales": False,
    "flip": False,
    "precision": "native",
}
RECIPES = {
    "notebook": {},
    "batch_norm": {"norm": "batch"},
    "flip": {"flip": True},
    "no_plateau": {"patience": 1_000},
    "adamw": {"optimizer": "AdamW", "rate": 1e-3},
    "sgd": {"optimizer": "SGD", "rate": 0.1, "weight decay": 5e-4},
    "no_smoothing": {"label smoothing": 0.0},
    "no_decay": {"weight decay": 0.0},
    "never_sharp": {"sharpness-aware epochs": 0},
    "zero_last_scales": {"zero-initialised last scales": True},
    "float16": {"precision": "float16"},
}


def shorten(recipe: dict, epochs: int, images: int) -> dict:
    """Return the recipe for fewer epochs and images: what it fixes in epochs or steps keeps its share of the run.

    More images change nothing.
    """
    steps = epochs * min(images, IMAGES) / (EPOCHS * IMAGES)
    return recipe | {
        "averaging": max(0.0, 1 - (1 - recipe["averaging"]) / steps),
        "sharpness-aware epochs": round(recipe["sharpness-aware epochs"] * epochs / EPOCHS),
        "patience": round(recipe["patience"] * epochs / EPOCHS),
    }


def build(recipe: dict) -> nn.Module:
    """Return the network with the recipe's normalisation and initialisation."""
    if recipe["norm"] == "batch":
        with mock.patch("models.resnet.GroupNorm", nn.BatchNorm2d):
            model = ResNet18()
    else:
        model = ResNet18()
    if recipe["zero-initialised last scales"]:  # blocks start as their shortcuts: Goyal et al. 2017
        for name, weight in model.named_parameters():
            if name.endswith("bn2.weight"):
                nn.init.zeros_(weight)
    return model


def make_optimizer(model: nn.Module, recipe: dict, dtype: torch.dtype) -> torch.optim.Optimizer:
    """Return the recipe's optimizer."""
    rate, decay = recipe["rate"], recipe["weight decay"]
    if recipe["optimizer"] == "Muon":
        return Muon(model, rate, recipe["AdamW rate"], decay, dtype)
    if recipe["optimizer"] == "AdamW":
        return torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay)


def train(name: str, seed: int) -> None:
    """Train one recipe as the notebook does and log every epoch; a short run scores its average after the last only."""
    epochs, count = int(os.environ.get("RECIPE_EPOCHS", EPOCHS)), int(os.environ.get("RECIPE_IMAGES", IMAGES))
    recipe, data = shorten(NOTEBOOK | RECIPES[name], epochs, count), load_data()
    whole = epochs == EPOCHS and count >= IMAGES
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # as in the notebook
    dtype = native_dtype(device) if recipe["precision"] == "native" else getattr(torch, recipe["precision"])
    workers = min(5, os.cpu_count()) if device.type == "cuda" else 0  # of each process, so that three fit side by side
    held = min(5_000, len(data.train_labels) - count)
    if held <= 0 or held % 10:
        sys.exit(
            f"{count} of the {len(data.train_labels)} images ({data.name}) leave {held} to hold out, which must be "
            "some, and the same number of every class: choose another RECIPE_IMAGES"
        )
    validation = stratified_sample(data.train_labels, held, seed)
    rest = np.setdiff1d(np.arange(len(data.train_labels)), validation)
    chosen = rest[stratified_sample(data.train_labels[rest], count, seed)]
    batches = train_loader(data.train_images[chosen], data.train_labels[chosen], recipe["batch size"], seed, workers)
    if recipe["flip"]:
        batches.dataset.augment = A.Compose([A.HorizontalFlip(), *batches.dataset.augment.transforms])
    held_out = eval_loader(data.train_images[validation], data.train_labels[validation])

    if recipe["norm"] == "batch":
        training.MICRO_BATCH = recipe["batch size"]  # else its statistics in float32 are those of parts
    torch.manual_seed(seed)
    model = build(recipe).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe, dtype)
    follow = get_ema_multi_avg_fn(recipe["averaging"])
    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)  # batch norm has buffers
    warmup = LinearLR(optimizer, 0.01, total_iters=len(batches))
    scheduler = ReduceLROnPlateau(optimizer, "min", recipe["factor"], recipe["patience"])
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    parts |= {"warmup": warmup, "scheduler": scheduler, "scaler": scaler}

    config = recipe | {
        "data": data.name,
        "seed": seed,
        "epochs": epochs,
        "train images": count,
        "precision": str(dtype),
    }
    run = Path(f"runs/recipes/{name}-seed{seed}-{epochs}x{count}")
    checkpoint, log_file = run / "checkpoint.pt", run.with_suffix(".json")
    history = resume(checkpoint, config, **parts)
    log = {"recipe": config, "environment": describe_environment(device), "history": history}
    for epoch in range(len(history), epochs):
        start = time.perf_counter()
        radius = recipe["radius"] if epoch >= epochs - recipe["sharpness-aware epochs"] else 0.0
        loss, accuracy = train_one_epoch(
            model, batches, optimizer, scaler, epoch, dtype, warmup, recipe["label smoothing"], average, radius
        )
        row = {"epoch": epoch + 1, "learning rate": optimizer.param_groups[0]["lr"]}
        row |= {"train loss": loss, "train accuracy": accuracy}
        row["validation loss"], row["validation accuracy"] = evaluate(model, held_out, dtype)
        if whole or epoch + 1 == epochs:
            row["averaged loss"], row["averaged accuracy"] = evaluate(average, held_out, dtype)
        history.append(row | {"seconds": time.perf_counter() - start})
        scheduler.step(row["validation loss"])
        write_json(log_file, log)  # first, so that it never lacks an epoch
        save_checkpoint(checkpoint, config, history, **parts)
        print(f"{name} {seed}: epoch {epoch + 1}, held-out accuracy {row['validation accuracy']:.2f} %", flush=True)
    if whole and name == "notebook":
        log["test"] = score(*predict(average, eval_loader(data.test_images, data.test_labels)))
        write_json(log_file, log)


def main() -> None:
    """Train the pairs of name and seed given, several of them in processes side by side."""
    names, seeds = sys.argv[1::2], sys.argv[2::2]
    if not names or len(names) > len(seeds) or not set(names) <= set(RECIPES) or not all(map(str.isdigit, seeds)):
        sys.exit(f"name recipe and seed, as in 'notebook 0'; the recipes are {', '.join(RECIPES)}")
    pairs = list(zip(names, map(int, seeds), strict=True))
    if len(pairs) == 1:
        return train(*pairs[0])
    load_data()  # fetched once, not by every process
    command = [sys.executable, "-m", "benchmarks.recipes"]
    processes = [subprocess.Popen([*command, name, str(seed)]) for name, seed in pairs]
    sys.exit(any([process.wait() for process in processes]))


if __name__ == "__main__":
    main()
