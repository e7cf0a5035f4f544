"""Where the published files lie, what the full run said, and writing that never leaves half a file."""

import json
import os
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import psutil

NOTEBOOK = Path("S8_ResNet18_LayerNorm.ipynb")
WEIGHTS = Path("models/resnet18_layernorm_cifar10.safetensors")
LOGITS = Path("models/test_logits.npy")
RESULTS = Path("images/results.json")
TOLERANCE = {"accuracy": 0.05, "cross-entropy": 1e-3, "ECE": 1e-3}  # between devices


def write_atomically(path: Path, write: Callable[[str], None]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`: readers see the old file or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):
        process = left.suffix[1:]
        if process.isdecimal() and not psutil.pid_exists(int(process)):  # it was killed
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(str(temporary))
        with open(temporary, "r+b") as written:  # Windows flushes only what may be written
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_atomically(path, lambda name: Path(name).write_text(json.dumps(content, indent=1)))


def read_results(path: Path) -> dict:
    """Return what a full run wrote: "test" (metrics of its published weights), "config", "history", "trained", more."""
    try:
        results = json.loads(path.read_text())
        itemgetter("config", "history", "trained")(results), itemgetter(*TOLERANCE)(results["test"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' holds no full run ({error!r}): check it out again") from None
    return results


def check_same_run(measured: dict, published: dict) -> None:
    """Raise a ValueError where metrics differ by more than rounding on another device explains."""
    if wrong := [name for name, limit in TOLERANCE.items() if not abs(measured[name] - published[name]) <= limit]:
        names = ", ".join(wrong)
        raise ValueError(f"'{WEIGHTS}' and '{RESULTS}' are of different runs, by {names}: check both out again")
