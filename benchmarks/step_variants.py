"""Time a training step in variants, in turn, on the device at hand: python -m benchmarks.step_variants [NAME ...]

Each variant is the recipe's own step on random images; only what its name says differs. One that fails is reported.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import GroupNorm
from utils.environment import choose_device, describe_environment
from utils.files import write_json
from utils.training import RECIPE, Training, native_precision, train_step

DEVICE = choose_device()


def channels_last_norm(norm: GroupNorm, x: Tensor) -> Tensor:
    """Normalize x (N, C, H, W) as `norm` does, in the precision of x, without leaving channels_last."""
    values, scale, shift = x.permute(0, 2, 3, 1), norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    with torch.autocast(DEVICE.type, enabled=False):
        return torch.addcmul(shift, F.layer_norm(values, values.shape[1:], eps=norm.eps), scale).permute(0, 3, 1, 2)


VARIANTS = {
    "as_is": {},
    "sam": {"sam": True},
    "float16": {"precision": "float16"},
    "float32": {"precision": "float32"},
    "nchw": {"layout": torch.contiguous_format},
    "cudnn_benchmark": {"cudnn_benchmark": True},
    "float32_norm": {"norm": nn.GroupNorm.forward},  # what a GPU's autocast alone makes of it
    "channels_last_norm": {"norm": channels_last_norm},
    "compiled": {"compiled": True},
    "compiled_channels_last_norm": {"compiled": True, "norm": channels_last_norm},
}


def make_steps(batch_size: int, *, sam: bool = False, cudnn_benchmark: bool = False, **options) -> Callable:
    """Build a variant; return a function that takes so many steps and returns the milliseconds of one."""
    recipe = replace(RECIPE, precision=options.get("precision", native_precision(DEVICE)))
    training, layout = Training(recipe, DEVICE, steps=1), options.get("layout", torch.channels_last)
    model = training.model.train().to(memory_format=layout)
    for module in model.modules():
        if "norm" in options and isinstance(module, GroupNorm):
            module.forward = partial(options["norm"], module)
    if "compiled" in options:
        model.compile()
    images = torch.randn(batch_size, 3, 32, 32).to(DEVICE, memory_format=layout)
    labels = torch.randint(10, (batch_size,)).to(DEVICE)

    def take(steps: int) -> float:
        start = time.perf_counter()
        # TF32 does not touch 16 bits, but keeps what cuDNN remembers for this variant apart from the others'.
        with torch.backends.cudnn.flags(enabled=True, benchmark=cudnn_benchmark, allow_tf32=cudnn_benchmark):
            for _ in range(steps):
                loss = train_step(training, images, labels, sam=sam)[0]
            loss.item()  # waits for a GPU
        return 1_000 * (time.perf_counter() - start) / steps

    return take


def main(names: list[str], *, batch_size: int = RECIPE.batch_size, steps: int = 30, rounds: int = 3) -> None:
    """Time the variants in turn, after one step of each that does not count; save runs/step_variants.json."""
    variants, times, failed = {}, {name: [] for name in names}, {}
    for turn in range(rounds + 1):
        for name in [name for name in names if name not in failed]:
            try:
                variants[name] = variants.get(name) or make_steps(batch_size, **VARIANTS[name])
                times[name].append(variants[name](steps if turn else 1))
            except Exception as error:
                failed[name] = repr(error)[:300]
            print(f"{name}: {failed.get(name) or f'{times[name][-1]:.2f} ms a step'}", flush=True)
        medians = {name: statistics.median(times[name][1:] or times[name]) for name in names if name not in failed}
        results = {"milliseconds": medians, "times": times, "failed": failed, "batch_size": batch_size}
        results["environment"] = describe_environment(DEVICE)
        write_json(Path("runs/step_variants.json"), results)  # after every round, as a limit may end it


if __name__ == "__main__":
    main(sys.argv[1:] or list(VARIANTS))
