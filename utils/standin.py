"""A stand-in for CIFAR-10 where it cannot be had: ten drawn color shapes whose masks are known."""

import numpy as np

SHAPES = ("disc", "ring", "square", "frame", "diamond", "triangle", "plus", "saltire", "stripes", "checkers")
SIZE = 32  # pixels


def shape_mask(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which of the points (x, y) lie in the shape of half-width 1 around the origin, y pointing down."""
    radius, box, diagonal = np.hypot(x, y), np.maximum(abs(x), abs(y)), abs(x) + abs(y)
    inside = box <= 1
    return {
        "disc": radius <= 1,
        "ring": (radius <= 1) & (radius >= 0.6),
        "square": inside,
        "frame": inside & (box >= 0.6),
        "diamond": diagonal <= 1,
        "triangle": inside & (abs(x) <= (y + 1) / 2),
        "plus": inside & (np.minimum(abs(x), abs(y)) <= 0.3),
        "saltire": inside & (abs(abs(x) - abs(y)) <= 0.35),
        "stripes": inside & (np.floor((y + 1) * 2.5) % 2 == 0),
        "checkers": inside & ((np.floor((x + 1) * 1.5) + np.floor((y + 1) * 1.5)) % 2 == 0),
    }[shape]


def draw_shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw `count` images, the ten shapes in turn, each in its own hue at a random place on noise.

    Returns:
        images uint8 (N, 32, 32, 3), labels int64 (N,), masks bool (N, 32, 32).
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(SHAPES)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    masks = np.empty((count, SIZE, SIZE), bool)
    for mask, label in zip(masks, labels, strict=True):
        half = rng.uniform(7, 11)
        center_x, center_y = rng.uniform(half, SIZE - half, 2)
        mask[:] = shape_mask(SHAPES[label], (columns - center_x) / half, (rows - center_y) / half)
    hues = (labels / len(SHAPES))[:, None] + np.array([0, 1 / 3, 2 / 3]) + rng.normal(0, 0.03, (count, 1))
    colors = 130 + 110 * np.cos(2 * np.pi * hues)
    backgrounds = rng.uniform(60, 180, (count, 1, 1, 1)) + rng.normal(0, 25, (count, SIZE, SIZE, 3))
    images = np.where(masks[..., None], colors[:, None, None], backgrounds) + rng.normal(0, 10, backgrounds.shape)
    return images.clip(0, 255).astype(np.uint8), labels, masks
