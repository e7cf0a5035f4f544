"""Time the recipe's step on random images, and variants of it: python -m benchmarks.step_variants"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from models import GroupNorm
from utils.environment import choose_device, describe_environment
from utils.files import write_json
from utils.training import RECIPE, Training, native_precision, train_step

DEVICE = choose_device()
# float32_norm: as a GPU's autocast alone computes it
VARIANTS = ("as_is", "sam", "float16", "float32", "nchw", "cudnn_benchmark", "float32_norm", "compiled")


def time_variant(name: str, *, batch_size: int, steps: int, rounds: int) -> float:
    """Return the median milliseconds of a step, after one that does not count."""
    precision = name if name in ("float16", "float32") else native_precision(DEVICE)
    layout = torch.contiguous_format if name == "nchw" else torch.channels_last
    training = Training(replace(RECIPE, precision=precision), DEVICE, steps=1)
    model = training.model.train().to(memory_format=layout)
    for module in model.modules():
        if name == "float32_norm" and isinstance(module, GroupNorm):
            module.forward = partial(nn.GroupNorm.forward, module)
    if name == "compiled":
        model.compile()
    images = torch.randn(batch_size, 3, 32, 32).to(DEVICE, memory_format=layout)
    labels = torch.randint(10, (batch_size,)).to(DEVICE)
    tuned, times = name == "cudnn_benchmark", []
    # TF32 touches no 16 bits, but keeps apart what cuDNN remembers for the tuned variant.
    with torch.backends.cudnn.flags(enabled=True, benchmark=tuned, allow_tf32=tuned):
        for count in [1] + [steps] * rounds:
            start = time.perf_counter()
            for _ in range(count):
                loss = train_step(training, images, labels, sam=name == "sam")[0]
            loss.item()  # waits for a GPU
            times.append(1_000 * (time.perf_counter() - start) / count)
    return statistics.median(times[1:])


def main(names: Sequence[str], *, batch_size: int = RECIPE.batch_size, steps: int = 30, rounds: int = 3) -> None:
    """Time the variants and save runs/step_variants.json after each, as a limit may end it."""
    times, failed = {}, {}
    for name in names:
        try:
            times[name] = time_variant(name, batch_size=batch_size, steps=steps, rounds=rounds)
        except Exception as error:
            failed[name] = repr(error)[:300]
        print(f"{name}: {failed.get(name) or f'{times[name]:.2f} ms a step'}", flush=True)
        results = {"milliseconds": times, "failed": failed, "batch_size": batch_size}
        write_json(Path("runs/step_variants.json"), results | {"environment": describe_environment(DEVICE)})


if __name__ == "__main__":
    main(VARIANTS)
