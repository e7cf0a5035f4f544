"""Train the recipe, or one that differs from it in one value: python -m benchmarks.recipes NAME SEED [NAME SEED ...]

NAME is a key of CHANGES; every pair is a process of its own, side by side. A run logs every epoch to runs/recipes/ and
continues from its checkpoint there; the published logs are in benchmarks/logs/. `--epochs` and `--images` shorten it.
The test set is for full runs of the notebook alone.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from utils.checkpoint import resume, save_checkpoint
from utils.data import eval_loader, load_data, split, train_loader
from utils.environment import choose_device, describe_environment, lock, worker_count
from utils.files import write_json
from utils.training import RECIPE, Recipe, Training, native_precision, run_epoch

CHANGES = {
    "recipe": {},
    "train_45000": {"train_images": 45_000, "validation_images": 5_000},
    "batch_norm": {"norm": "batch"},
    "flip": {"flip": True},
    "no_plateau": {"patience": 1_000},
    "adamw": {"optimizer": "AdamW", "lr": 1e-3},
    "sgd": {"optimizer": "SGD", "lr": 0.1, "weight_decay": 5e-4},
    "no_smoothing": {"label_smoothing": 0.0},
    "no_decay": {"weight_decay": 0.0},
    "no_sam": {"sam_epochs": 0},
    "zero_init_residual": {"zero_init_residual": True},
    "float16": {"precision": "float16"},
}


def shorten(recipe: Recipe, epochs: int, images: int) -> Recipe:
    """Return the recipe for fewer epochs and images, with 5,000 for validation.

    What it fixes in epochs or steps keeps its share of the run.
    """
    steps = epochs * images / (recipe.epochs * recipe.train_images)
    return replace(
        recipe,
        epochs=epochs,
        train_images=images,
        validation_images=5_000,
        ema_decay=max(0.0, 1 - (1 - recipe.ema_decay) / steps),
        sam_epochs=round(recipe.sam_epochs * epochs / recipe.epochs),
        patience=round(recipe.patience * epochs / recipe.epochs),
    )


def train(name: str, recipe: Recipe, folder: Path = Path("runs/recipes")) -> None:
    """Train by a recipe as the notebook does; log every epoch."""
    data, device = load_data(), choose_device()
    chosen, validation = split(data.train_labels, recipe.train_images, recipe.validation_images, seed=recipe.seed)
    train_batches = train_loader(
        data.train_images[chosen],
        data.train_labels[chosen],
        recipe.batch_size,
        seed=recipe.seed,
        workers=worker_count(device),
        flip=recipe.flip,
    )
    validation_batches = eval_loader(data.train_images[validation], data.train_labels[validation])
    training = Training(recipe, device, len(train_batches))

    config = recipe.config() | {"data": data.name}
    run = folder / f"{name}-seed{recipe.seed}-{recipe.epochs}x{recipe.train_images}"
    checkpoint, log_file = run / "checkpoint.pt", run.with_suffix(".json")
    run.mkdir(parents=True, exist_ok=True)
    lock(run)
    history = resume(checkpoint, config, **training.parts())
    log = {"config": config, "environment": describe_environment(device), "history": history}
    for epoch in range(len(history), recipe.epochs):
        history.append(run_epoch(training, train_batches, validation_batches, epoch=epoch))
        write_json(log_file, log)  # first, so that it never lacks an epoch
        save_checkpoint(checkpoint, config, history, **training.parts())
        accuracy = history[-1]["EMA validation accuracy"]
        print(f"{name} {recipe.seed}: epoch {epoch + 1}, validation accuracy of the EMA {accuracy:.2f} %", flush=True)


def main() -> None:
    """Train the pairs of name and seed given, several of them in processes side by side."""
    parser = argparse.ArgumentParser(description=f"Train recipes side by side. NAME is one of {', '.join(CHANGES)}.")
    parser.add_argument("pairs", nargs="+", metavar="NAME SEED", help="as in: recipe 0 no_sam 0")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--images", type=int, help="of training; the recipe's unless given")
    arguments = parser.parse_args()
    names, seeds = arguments.pairs[::2], arguments.pairs[1::2]
    if len(names) > len(seeds) or not set(names) <= set(CHANGES) or not all(map(str.isdigit, seeds)):
        parser.error(f"give name and seed in turn; the names are {', '.join(CHANGES)}")
    if len(names) > 1:
        load_data()  # fetched once, not by every process
        command = [sys.executable, "-m", "benchmarks.recipes", "--epochs", str(arguments.epochs)]
        command += ["--images", str(arguments.images)] if arguments.images else []
        processes = [subprocess.Popen([*command, *pair]) for pair in zip(names, seeds, strict=True)]
        sys.exit(any([process.wait() for process in processes]))
    recipe = replace(RECIPE, seed=int(seeds[0]), precision=native_precision(choose_device()))
    recipe = replace(recipe, **CHANGES[names[0]])
    if arguments.epochs != RECIPE.epochs or arguments.images:
        recipe = shorten(recipe, arguments.epochs, arguments.images or recipe.train_images)
    try:
        train(names[0], recipe)
    except ValueError as error:  # of a number of images, or of a checkpoint
        sys.exit(str(error))


if __name__ == "__main__":
    main()
