"""The assignment's augmentation, and normalization with CIFAR-10's own statistics."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # spares a network call on import

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402
from torch import Tensor  # noqa: E402

cv2.setNumThreads(0)  # 32x32 images are too small to share between threads

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# What `pixel_statistics` returns for the 50,000 training images.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


def pixel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (3,) and standard deviation (3,) of all n pixels x of each channel, scaled to 0-1.

    mean = sum(x) / n,  std = sqrt(sum((x - mean)^2) / n),  from uint8 (N, H, W, 3), by counting each of the 256 levels.
    """
    levels = np.arange(256) / 255
    shares = np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)])
    shares = shares / shares.sum(1, keepdims=True)
    mean = shares @ levels
    return mean, np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(1))


def augmentation(flip: bool = False) -> A.Compose:
    """Crop, cut out and rotate an image: uint8 (32, 32, 3) to uint8 (32, 32, 3), every step on every image.

    Where asked, half of the images are flipped first.
    """
    return A.Compose(
        [
            *([A.HorizontalFlip(p=0.5)] if flip else []),
            A.Pad(4),
            A.RandomCrop(32, 32),
            A.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(16, 16),
                hole_width_range=(16, 16),
                fill=tuple(round(255 * mean) for mean in CIFAR10_MEAN),  # 0 after normalization
                p=1.0,
            ),
            A.Rotate(limit=5, border_mode=cv2.BORDER_REFLECT_101, p=1.0),
        ],
        strict=True,  # else another package of albumentations' import name only warns of what it ignores
    )


def eval_transform() -> A.Compose:
    """Normalize an image: uint8 (32, 32, 3) to a float tensor (3, 32, 32)."""
    return A.Compose([A.Normalize(CIFAR10_MEAN, CIFAR10_STD), ToTensorV2()])


def train_transform() -> A.Compose:
    """Augment and normalise an image: uint8 (32, 32, 3) to a float tensor (3, 32, 32)."""
    return A.Compose([*augmentation().transforms, *eval_transform().transforms])


def normalize(images: np.ndarray) -> Tensor:
    """Do what `eval_transform` does, for a batch: uint8 (N, 32, 32, 3) to float (N, 3, 32, 32), channels last."""
    pixels = torch.from_numpy(images).float() / 255
    return ((pixels - torch.tensor(CIFAR10_MEAN)) / torch.tensor(CIFAR10_STD)).permute(0, 3, 1, 2)


def denormalize(images: Tensor) -> Tensor:
    """Undo `normalize` for display: float (..., 3, H, W) to floats in 0-1 of the same shape."""
    mean = torch.tensor(CIFAR10_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(CIFAR10_STD, device=images.device).view(3, 1, 1)
    return (images * std + mean).clamp(0, 1)
