"""Compute run times on Colab's GPUs and an H200 from what the work counts: python -m benchmarks.run_times

A CPU counts arithmetic, bytes and kernel launches, assumed to follow one another, at 45 % of a GPU's peak arithmetic,
60 % of its peak bandwidth and 2.5 microseconds a launch. Logs of train_speed replace the times of training.
"""

import json
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
# Peaks by NVIDIA's data sheets: TFLOP/s in 16 bits (not sparse) and in float32, TB/s; Colab's A100 is that of 40 GB.
PEAKS = {"T4": (65, 8.1, 0.32), "L4": (121, 30.3, 0.3), "A100": (312, 19.5, 1.555), "H200": (989, 67, 4.8)}
PREDICTIONS, MAPS, RANKING = 247_000, 7_600, 12  # of the full mode's checks: images, images, seconds of a CPU


class Traffic(TorchDispatchMode):
    """Count operations other than views, and the bytes that they read and write."""

    bytes = launches = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            self.bytes += sum(x.nbytes for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor))
            self.launches += 1
        return result


def count(work: Callable, *inputs, **options) -> list[float]:
    """Return the TFLOP, TB and kernel launches of a call."""
    with FlopCounterMode(display=False) as arithmetic, Traffic() as traffic:
        work(*inputs, **options)
    return [arithmetic.get_total_flops() / 1e12, traffic.bytes / 1e12, traffic.launches]


def make_row(device: str, counts: pd.DataFrame) -> dict:
    """Return the seconds of an epoch and of one with SAM, the minutes of all epochs and of the checks of the maps."""
    *peaks, bandwidth = PEAKS[device]
    half, single = (counts.mul([1 / 0.45 / peak, 1 / 0.6 / bandwidth, 2.5e-6], axis=0).sum() for peak in peaks)
    plain, sam = RECIPE.train_images // RECIPE.batch_size * half[["step", "sam_step"]]
    logs = [json.loads(path.read_text()) for path in LOGS.glob("train_speed*.json")]
    measured = [log for log in logs if device in log["environment"]["device"].replace("-", " ").split()]
    for log in measured:
        plain, sam = (log[way]["seconds_per_epoch"] for way in ("repository", "repository_sam"))
    training = (RECIPE.epochs - RECIPE.sam_epochs) * plain + RECIPE.sam_epochs * sam
    trust = RANKING + (PREDICTIONS * half["predictions"] + MAPS * single["maps"]) / RECIPE.batch_size
    row = {"device": device, "computed": not measured, "epoch_seconds": plain, "sam_epoch_seconds": sam}
    return row | {"training_minutes": training / 60, "trust_minutes": trust / 60}


def main() -> None:
    """Count what a batch takes, print the table and save both as benchmarks/logs/run_times.json."""
    training = Training(replace(RECIPE, precision="bfloat16"), torch.device("cpu"), steps=1)
    shape = (RECIPE.batch_size, 3, 32, 32)
    batch = torch.randn(shape).to(memory_format=torch.channels_last), torch.randint(10, shape[:1])
    with torch.no_grad():
        counts = {"predictions": count(forward, training, *batch)}
    counts |= {name: count(train_step, training, *batch, sam=name == "sam_step") for name in ("step", "sam_step")}
    counts["maps"] = count(compute_cams, training.model.eval(), *batch)  # in float32; all others in 16 bits
    counts = pd.DataFrame(counts, ["tflop", "terabytes", "launches"])
    rows = [make_row(device, counts) for device in PEAKS]
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    write_json(LOGS / "run_times.json", {"counts": counts.to_dict(), "rows": rows})


if __name__ == "__main__":
    main()
