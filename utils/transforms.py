"""The assignment's augmentation, normalization with CIFAR-10's own statistics, and pictures from any file."""

import os
import warnings
from io import BytesIO
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # spares a network call on import

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402
from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: E402
from torch import Tensor  # noqa: E402

cv2.setNumThreads(0)  # 32x32 images are too small to share between threads
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are raised

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
    """Crop, cut out and rotate every image, uint8 (32, 32, 3); where asked, flip half of them first."""
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
    """Augment and normalize an image: uint8 (32, 32, 3) to a float tensor (3, 32, 32)."""
    return A.Compose([*augmentation().transforms, *eval_transform().transforms], strict=True)


def normalize(images: np.ndarray) -> Tensor:
    """Do what `eval_transform` does, for a batch: uint8 (N, H, W, 3), else ValueError, to float (N, 3, H, W)."""
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        got = f"{getattr(images, 'dtype', type(images).__name__)} {tuple(getattr(images, 'shape', ()))}"
        raise ValueError(f"pass a NumPy array of uint8 (0-255) and shape (N, H, W, 3), not {got}")
    pixels = torch.from_numpy(images.copy()).float() / 255  # a copy has no negative strides
    return ((pixels - torch.tensor(CIFAR10_MEAN)) / torch.tensor(CIFAR10_STD)).permute(0, 3, 1, 2)


def denormalize(images: Tensor) -> Tensor:
    """Undo `normalize` for display: float (..., 3, H, W) to floats in 0-1 of the same shape."""
    mean = torch.tensor(CIFAR10_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(CIFAR10_STD, device=images.device).view(3, 1, 1)
    return (images * std + mean).clamp(0, 1)


def load_image(path: str | Path) -> np.ndarray:
    """Read any picture's largest centered square, upright and over white, resized to uint8 (32, 32, 3).

    Raises:
        OSError, ValueError: if the file cannot be read, or is no picture or damaged; one line that names the file.
    """
    if not (data := Path(path).read_bytes()):
        raise ValueError(f"'{path}' is empty")
    try:
        with warnings.catch_warnings(action="ignore"):
            picture = decode(data).convert("RGBA")
    except Exception as error:  # broken files raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"'{path}' is damaged or no picture: {reason}") from error
    opaque = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return np.array(ImageOps.fit(opaque, (32, 32), Image.Resampling.LANCZOS))


def decode(data: bytes) -> Image.Image:
    """Decode the first frame of a file, upright, in 8 bits per channel."""
    try:
        picture = ImageOps.exif_transpose(Image.open(BytesIO(data)))
        return Image.fromarray(to_uint8(np.asarray(picture))) if picture.mode[0] in "IF" else picture
    except UnidentifiedImageError:  # Pillow reads no floats of three channels
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError("neither Pillow nor OpenCV knows its format") from None
        return Image.fromarray(to_uint8(pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]))


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scale 16 or 32 bits or floats to 0-255; a range that the type leaves open is the smallest usual one that fits."""
    if not np.isfinite(pixels).all():
        raise ValueError("it holds NaN or infinity")
    highest = pixels.max()
    ranges = (np.iinfo(pixels.dtype).max,) if pixels.dtype.kind == "u" else (1, 255, 65535, highest)
    white = next(white for white in ranges if highest <= 1.1 * white)  # resampling overshoots
    return (pixels / white * 255).clip(0, 255).round().astype(np.uint8)
