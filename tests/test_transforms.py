import numpy as np
import pytest
import torch
from scipy.ndimage import label

from utils.transforms import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    augmentation,
    denormalize,
    eval_transform,
    normalize,
    train_transform,
)

WHITE = np.full((32, 32, 3), 255, np.uint8)


def seeded(transform, seed=0):
    transform.set_random_seed(seed)
    return transform


def test_cuts_out_one_square_of_the_mean_color():
    transform = seeded(train_transform())
    for _ in range(50):
        image = transform(image=WHITE)["image"]
        assert image.shape == (3, 32, 32) and image.dtype == torch.float32
        hole = (image.abs() < 0.02).all(0).numpy()
        regions, _ = label(hole)
        largest = np.bincount(regions[hole]).max()
        assert 16 * 16 * 0.8 < largest <= 16 * 16 * 1.1  # rotation blurs its border
        assert hole.sum() - largest < 5  # black blurred into white passes through the mean


def test_pads_with_black_and_moves_by_up_to_four_pixels():
    transform = seeded(augmentation())
    transform.transforms = transform.transforms[:2]
    gradient = np.dstack([np.add.outer(7 * np.arange(1, 33), np.zeros(32))] * 3).astype(np.uint8)
    shifts = set()
    for _ in range(200):
        rows = transform(image=gradient)["image"][:, 16, 0].astype(int)
        inside = rows > 0
        shift = set(rows[inside] // 7 - 1 - np.flatnonzero(inside))
        assert len(shift) == 1
        shifts |= shift
    assert shifts == set(range(-4, 5))


@pytest.mark.parametrize("flip", [False, True])
def test_flips_only_where_asked(flip):
    left = np.zeros((32, 32, 3), np.uint8)
    left[:, :10] = 255
    transform = seeded(augmentation(flip))
    brightest = [transform(image=left)["image"][:, 17:].max() for _ in range(100)]
    assert (max(brightest) > 125) == flip  # else black, or the cutout's mean color


def test_rotates_by_up_to_five_degrees():
    transform = seeded(augmentation())
    transform.transforms = transform.transforms[3:]
    line = np.zeros((32, 32, 3), np.uint8)
    line[15:17] = 255
    angles = []
    for _ in range(100):
        image = transform(image=line)["image"][..., 0].astype(float)
        middle = (image * np.arange(32)[:, None]).sum(0) / image.sum(0)
        angles.append(np.degrees(np.arctan(np.polyfit(np.arange(6, 26), middle[6:26], 1)[0])))
    assert max(np.abs(angles)) < 5.3 and min(angles) < -3.5 and max(angles) > 3.5


def test_rotation_fills_corners_by_reflection():
    transform = seeded(augmentation())
    transform.transforms = transform.transforms[3:]
    assert all((transform(image=WHITE)["image"] == 255).all() for _ in range(20))


def test_normalizes_a_batch_as_eval_transform_does():
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3), dtype=np.uint8)
    mirrored = images[:, :, ::-1]
    assert torch.equal(normalize(mirrored), normalize(images).flip(3))
    expected = torch.stack([eval_transform()(image=image)["image"] for image in images])
    torch.testing.assert_close(normalize(images), expected, atol=1e-5, rtol=1e-5)
    assert normalize(images).is_contiguous(memory_format=torch.channels_last)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(denormalize(normalize(images)), pixels, atol=1e-5, rtol=1e-5)


def test_mean_and_std_are_those_of_the_training_pixels(cifar10):
    pixels = cifar10.train_images.reshape(-1, 3).T / np.float32(255)
    means, stds = zip(*((channel.mean(dtype=float), channel.std(dtype=float)) for channel in pixels), strict=True)
    np.testing.assert_allclose((means, stds), (CIFAR10_MEAN, CIFAR10_STD), atol=5e-5)


@pytest.mark.parametrize("images", [WHITE[None] / 255, WHITE, WHITE[None, ..., :1]])
def test_normalizes_only_batches_of_bytes(images):
    with pytest.raises(ValueError, match=r"uint8 .*\(N, H, W, 3\)"):
        normalize(images)
