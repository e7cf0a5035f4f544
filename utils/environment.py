"""What this run may do and where it writes: variables, mode, sizes, folders, versions."""

import os
import platform
import re
import socket
import subprocess
import tempfile
from collections import namedtuple
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from utils.files import RESULTS, WEIGHTS

VARIABLES = ("S8_MODE", "S8_SMOKE", "S8_DATA", "S8_DRIVE")
ON, OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
PACKAGES = ("torch", "torchvision", "albumentations", "torchcam", "numpy", "matplotlib")
LOCKS = []  # held until this process ends


# How many test images a mode looks at, and on how many of them and of their errors it checks the maps
Sizes = namedtuple("Sizes", ("test_images", "trust_images", "trust_errors"))
SIZES = {
    "full": Sizes(10_000, 1_000, 5_000),
    "explain": Sizes(10_000, 60, 150),
    "preview": Sizes(10_000, 60, 150),
    "smoke": Sizes(200, 4, 20),
}


def read_variable(name: str) -> str:
    """Return an environment variable without spaces and quotes, `~` and `$NAME` expanded, "" where it is unset."""
    value = os.path.expandvars(os.path.expanduser(os.environ.get(name, "").strip(" \t\r\n'\"")))
    if value.startswith(("~", "$")):
        raise ValueError(f"{name}={value!r} cannot be expanded: give the whole path")
    return value


def read_choice(name: str, choices: Iterable[str]) -> str:
    """Return the choice that a variable names, in any case and with any hyphens, "" where it is unset; else raise."""
    value = read_variable(name)
    chosen = re.sub(r"[\s_-]", "", value).lower()
    if value and chosen not in choices:
        raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(choices)}")
    return chosen


def requested_mode() -> str:
    """Return the mode that `S8_MODE` or `S8_SMOKE` asks for, "" where neither does; raise where one is misspelled."""
    if unknown := [name for name in os.environ if name.startswith("S8_") and name not in VARIABLES]:
        raise ValueError(f"{unknown[0]}={os.environ[unknown[0]]!r} is unknown: there are {', '.join(VARIABLES)}")
    mode = read_choice("S8_MODE", SIZES)
    return "smoke" if read_choice("S8_SMOKE", ON + OFF) in ON else mode


def choose_mode(data_name: str) -> tuple[str, str]:
    """Return the mode of this run and why; raise a ValueError if the requested one needs what is not there."""
    possible, needed = {"preview", "smoke"}, f"CIFAR-10, '{WEIGHTS}' and '{RESULTS}'"
    if data_name == "CIFAR-10":
        possible |= {"full", "explain"} if WEIGHTS.exists() and RESULTS.exists() else {"full"}
    if mode := requested_mode():
        if mode not in possible:
            raise ValueError(f"S8_MODE={mode} needs {'CIFAR-10' if mode == 'full' else needed}: get that, or unset it")
        return mode, f"S8_MODE={mode}"
    if "full" in possible and torch.cuda.is_available():
        return "full", f"there is a GPU, {torch.cuda.get_device_name()}"
    if "explain" in possible:
        return "explain", f"PyTorch finds no GPU, but there are trained weights, '{WEIGHTS}'"
    return "preview", f"there is no GPU with CIFAR-10, nor all of {needed}"


def choose_device() -> torch.device:
    """Return the GPU where there is one, else the CPU; float32 means float32, as training has mixed precision."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def worker_count(device: torch.device) -> int:
    """Return how many processes augment images: none beside a CPU that trains, which needs every core itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 0 if device.type == "cpu" else min(8, cores)  # what 8 hold ready fits in 64 MB of shared memory


def check_writable(folder: Path) -> None:
    """Make the folder where it is missing; raise an OSError that names it where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to '{folder}' ({error.strerror}): make it a writable folder") from error


def output_folder(mode: str) -> Path:
    """Lock runs/MODE/; return it, or images/ for a full run, once every folder that the run needs is writable."""
    run, images = Path("runs", mode), Path("images")
    for folder in (run, images, WEIGHTS.parent) if mode == "full" else (run,):
        check_writable(folder)
    lock(run)
    if mode == "smoke":  # which always begins anew
        (run / "checkpoint.pt").unlink(missing_ok=True)
    return images if mode == "full" else run


def lock(folder: Path) -> None:
    """Keep other processes from the folder until this one ends; raise a RuntimeError that names who already does."""
    held, holder = FileLock(folder / ".lock", is_singleton=True), folder / ".holder"
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise RuntimeError(f"'{folder}' is in use by {holder.read_text()}: let it end, or stop it") from None
    holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    LOCKS.append(held)


def check_versions() -> None:
    """Raise a RuntimeError if albumentations is not 2.0.8: AlbumentationsX has its import name, but other ranges."""
    found = find_versions(("albumentations", "albumentationsx"))
    if found != {"albumentations": "2.0.8"}:
        advice = "pip uninstall -y albumentationsx albumentations && pip install albumentations==2.0.8"
        raise RuntimeError(f"albumentations 2.0.8 is needed, here is {found or 'none'}: {advice}, then restart")


def find_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, by name."""
    return {name: found.version for name in packages for found in reversed([*distributions(name=name)])}


def describe_environment(device: torch.device) -> dict[str, str]:
    """Return what a result depends on: the device, the versions, and the commit, with a + if files differ from it."""
    amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    kind = "AMX" if amx else torch.backends.cpu.get_cpu_capability()
    cpu = f"CPU, {torch.get_num_threads()} threads, {kind}"
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # without git, or outside a clone
        commit = "unknown"
    return {"device": name, "python": platform.python_version(), "commit": commit} | find_versions(PACKAGES)
