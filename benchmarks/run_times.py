"""Compute run times on GPUs from what the work counts on a CPU: python -m benchmarks.run_times

Arithmetic, memory and launches are taken to follow one another, at 45 % and 60 % of a GPU's peaks
and 2.5 microseconds a launch. Measured epochs replace computed ones.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from utils.files import write_json
from utils.gradcam import compute_cams
from utils.training import RECIPE, Training, forward, train_step

LOGS = Path("benchmarks/logs")
# NVIDIA's data sheets: TFLOP/s in 16 bits (not sparse) and in float32, TB/s; the A100 of 40 GB
PEAKS = {"T4": (65, 8.1, 0.32), "L4": (121, 30.3, 0.3), "A100": (312, 19.5, 1.555), "H200": (989, 67, 4.8)}
PREDICTIONS, MAPS, RANKING = 247_000, 7_600, 12  # of the checks: images, images, seconds of a CPU


class Traffic(TorchDispatchMode):
    """Count operations other than views, and the bytes that they read and write."""

    bytes = launches = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(x.nbytes for x in leaves if isinstance(x, torch.Tensor))
            self.launches += 1
        return result


def count(work: Callable, *inputs, **options) -> list[float]:
    """Return the TFLOP, TB and kernel launches of a call."""
    with FlopCounterMode(display=False) as arithmetic, Traffic() as traffic:
        work(*inputs, **options)
    return [arithmetic.get_total_flops() / 1e12, traffic.bytes / 1e12, traffic.launches]


def make_row(device: str, counts: pd.DataFrame) -> dict:
    """Return the seconds of an epoch without and with SAM, and the minutes of a full run's parts."""
    *peaks, bandwidth = PEAKS[device]
    half, single = (counts.T @ [1 / 0.45 / peak, 1 / 0.6 / bandwidth, 2.5e-6] for peak in peaks)
    plain, sam = RECIPE.train_images // RECIPE.batch_size * half[["step", "sam_step"]]
    computed = True
    for path in LOGS.glob("train_speed*.json"):
        log = json.loads(path.read_text())
        if re.search(rf"\b{device}\b", log["environment"]["device"]):
            plain, sam = (log[way]["seconds_per_epoch"] for way in ("repository", "repository_sam"))
            computed = False
    training = (RECIPE.epochs - RECIPE.sam_epochs) * plain + RECIPE.sam_epochs * sam
    trust = RANKING + (PREDICTIONS * half["predictions"] + MAPS * single["maps"]) / RECIPE.batch_size
    row = {"device": device, "computed": computed, "epoch_seconds": plain, "sam_epoch_seconds": sam}
    return row | {"training_minutes": training / 60, "trust_minutes": trust / 60}


def main() -> None:
    """Count what a batch takes, print the table and save both."""
    training = Training(replace(RECIPE, precision="bfloat16"), torch.device("cpu"), steps=1)
    shape = (RECIPE.batch_size, 3, 32, 32)
    batch = torch.randn(shape).to(memory_format=torch.channels_last), torch.randint(10, shape[:1])
    with torch.no_grad():
        counts = {"predictions": count(forward, training, *batch)}
    counts["step"] = count(train_step, training, *batch, sam=False)
    counts["sam_step"] = count(train_step, training, *batch, sam=True)
    counts["maps"] = count(compute_cams, training.model.eval(), *batch)  # in float32
    counts = pd.DataFrame(counts, ["tflop", "tb", "launches"])
    rows = [make_row(device, counts) for device in PEAKS]
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    write_json(LOGS / "run_times.json", {"counts": counts.to_dict(), "rows": rows})


if __name__ == "__main__":
    main()
