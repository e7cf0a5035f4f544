"""The assignment's augmentation, normalization by CIFAR-10's statistics, pictures from any file."""

from io import BytesIO
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

cv2.setNumThreads(0)  # 32x32 images are too small to share between threads
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are raised

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # of all pixels of the 50,000 training images, scaled to 0-1
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


def augmentation(flip: bool = False) -> A.Compose:
    """Crop, cut out and rotate every image, uint8 (32, 32, 3); where asked, flip half of them first."""
    gray = tuple(round(255 * mean) for mean in CIFAR10_MEAN)  # 0 after normalization
    steps = [
        A.Pad(4),
        A.RandomCrop(32, 32),
        A.CoarseDropout((1, 1), (16, 16), (16, 16), fill=gray, p=1.0),  # one hole of 16 x 16 pixels
        A.Rotate(limit=5, border_mode=cv2.BORDER_REFLECT_101, p=1.0),
    ]
    if flip:
        steps.insert(0, A.HorizontalFlip(p=0.5))
    return A.Compose(steps, strict=True)  # else AlbumentationsX only warns of what it ignores


def eval_transform() -> A.Compose:
    """Normalize an image: uint8 (H, W, 3) to a float tensor (3, H, W)."""
    return A.Compose([A.Normalize(CIFAR10_MEAN, CIFAR10_STD), ToTensorV2()], strict=True)


def train_transform() -> A.Compose:
    """Augment and normalize an image: uint8 (32, 32, 3) to a float tensor (3, 32, 32)."""
    return A.Compose([*augmentation().transforms, *eval_transform().transforms], strict=True)


def normalize(images: np.ndarray) -> Tensor:
    """Do what `eval_transform` does, for a batch: uint8 (N, H, W, 3), else ValueError, to float (N, 3, H, W)."""
    images = np.array(images, order="C")  # a copy, as torch takes no negative strides
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"pass uint8 (0-255) of shape (N, H, W, 3), not {images.dtype} {images.shape}")
    pixels = torch.from_numpy(images).float() / 255
    normalized = (pixels - torch.tensor(CIFAR10_MEAN)) / torch.tensor(CIFAR10_STD)
    return normalized.permute(0, 3, 1, 2)


def denormalize(images: Tensor) -> Tensor:
    """Undo `normalize` for display: float (..., 3, H, W) to floats in 0-1 of the same shape."""
    mean = torch.tensor(CIFAR10_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(CIFAR10_STD, device=images.device).view(3, 1, 1)
    return (images * std + mean).clamp(0, 1)


def load_image(path: str | Path) -> np.ndarray:
    """Read a picture's largest centered square, upright and over white, as uint8 (32, 32, 3), or raise a line."""
    if not (data := Path(path).read_bytes()):
        raise ValueError(f"'{path}' is empty")
    try:
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
    except UnidentifiedImageError:  # Pillow reads no floats of three channels
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if pixels is None:
            raise ValueError("its format is unknown") from None
        return Image.fromarray(to_uint8(pixels[..., ::-1]))
    if picture.mode[0] in "IF":  # 16 or 32 bits
        return Image.fromarray(to_uint8(np.asarray(picture)))
    return picture


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scale integers or floats to 0-255; if the type leaves white open, it is the least usual one that fits."""
    if not np.isfinite(pixels).all():
        raise ValueError("it holds NaN or infinity")
    usual = next((white for white in (1, 255) if pixels.max() <= 1.1 * white), 65535)  # resampling overshoots
    white = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else usual
    return (pixels / white * 255).clip(0, 255).round().astype(np.uint8)
