"""What this run may do and where it writes: mode, output folder, versions."""

import os
import platform
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from utils.data import ImageData
from utils.files import RESULTS, WEIGHTS

MODES = ("full", "explain", "preview", "smoke")
PACKAGES = ("torch", "torchvision", "albumentations", "torchcam", "numpy", "matplotlib")


def choose_device() -> torch.device:
    """Return the GPU where there is one, else the CPU, with float32 meaning float32; training has mixed precision."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    """Return the device, the versions and the commit that a result depends on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        kind = "AMX" if torch.cpu._is_amx_tile_supported() else torch.backends.cpu.get_cpu_capability()
        name = f"CPU, {torch.get_num_threads()} threads, {kind}"
    return {"device": name, "python": platform.python_version(), "commit": current_commit()} | {
        package: version(package) for package in PACKAGES
    }


def current_commit() -> str:
    """Return the commit that is checked out, with a + if files differ from it; "unknown" outside a clone."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def worker_count(device: torch.device) -> int:
    """Return how many processes augment images: none beside a CPU that trains, which needs every core itself."""
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, cores)  # what 8 hold ready fits in 64 MB of shared memory
