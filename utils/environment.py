"""What this run may do and where it writes: mode, output folder, versions."""

import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from utils.check_weights import RESULTS, WEIGHTS
from utils.data import ImageData

MODES = ("full", "explain", "preview", "smoke")
PACKAGES = ("torch", "torchvision", "albumentations", "torchcam", "numpy", "matplotlib")


def choose_mode(data: ImageData) -> tuple[str, str]:
    """Return the mode of this run and why: `S8_MODE` decides, else what is at hand.

    Raises:
        ValueError: if `S8_MODE` is unknown, or needs CIFAR-10 or weights that are not there.
    """
    real, trained = data.name == "CIFAR-10", WEIGHTS.exists() and RESULTS.exists()
    if chosen := os.environ.get("S8_MODE"):
        if chosen not in MODES:
            raise ValueError(f"S8_MODE={chosen!r} is unknown; use one of {', '.join(MODES)}")
        if chosen in ("full", "explain") and not real:
            raise ValueError(f"S8_MODE={chosen} needs CIFAR-10, not {data.name}: unset it, or get CIFAR-10")
        if chosen == "explain" and not trained:
            raise ValueError(f"S8_MODE=explain needs '{WEIGHTS}' and '{RESULTS}': unset S8_MODE")
        return chosen, f"S8_MODE={chosen}"
    if not real:
        return "preview", "there is no CIFAR-10"
    if torch.cuda.is_available():
        return "full", f"there is a GPU, {torch.cuda.get_device_name()}"
    if trained:
        return "explain", f"PyTorch finds no GPU, but there are trained weights, '{WEIGHTS}'"
    return "preview", "PyTorch finds no GPU, and there are no trained weights"


def output_folder(mode: str) -> Path:
    """Return the folder that figures and results go to, made and writable: images/ for a full run, else runs/MODE/.

    Raises:
        OSError: if it cannot be written to, before any time is spent on training.
    """
    folder = Path("images") if mode == "full" else Path("runs") / mode
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to '{folder}' ({error.strerror}): make it a writable folder") from error
    return folder


def describe_environment(device: torch.device) -> dict[str, str]:
    """Return the versions and the device that a result depends on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "python": platform.python_version()} | {package: version(package) for package in PACKAGES}
