"""Every figure of the notebook, the same whatever the user's matplotlibrc; `save_figure` writes one for display."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from IPython.display import Image as Picture
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from utils.files import write_atomically
from utils.gradcam import LAYERS, METHODS, place_on_image

COLORMAP = colormaps["inferno"]  # perceptually uniform: equal steps look equal
COLORS = ("#56B4E9", "#0072B2", "#D55E00", "black")  # of lines: Okabe & Ito 2008, for every kind of color vision
WIDTH = 8.3  # inches of 100 pixels: what GitHub shows of a README
TILE = 96  # pixels: images are enlarged to about this side
GAP = 8  # white pixels between tiles
OPACITY = 0.65  # of a map's colors over the gray image
default_style = style.context("default")  # settings count when figures are made and when saved


@default_style
def save_figure(figure: Figure, path: Path, alt: str = "") -> Picture:
    """Write the figure as a PNG of 64 levels a channel, whole or not at all; return it with `alt` for display."""
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight")
    picture = Image.open(buffer).convert("RGB").point(lambda level: round(round(level * 63 / 255) * 255 / 63))
    write_atomically(path, lambda name: picture.save(name, format="PNG", optimize=True))
    return Picture(filename=path, metadata={"alt": alt})  # Colab's IPython 7 knows no `alt`


@default_style
def plot_augmentation(originals: Tensor, augmented: Sequence[Tensor], names: Sequence[str], title: str) -> Figure:
    """Show each of K images (K, 3, H, W) above its augmented versions, all in 0-1."""
    labels = ["original", *["augmented"] * len(augmented)]
    return tile([to_rgb(originals), *map(to_rgb, augmented)], title, rows=labels, columns=names)


@default_style
def plot_misclassified(images: Tensor, titles: Sequence[str], caption: str, title: str) -> Figure:
    """Show images (N, 3, H, W) in 0-1, five a row, each under its title, and the caption below."""
    rows = -(-len(images) // 5)
    figure = Figure(figsize=(WIDTH, 2.1 * rows + 0.9), layout="constrained")
    for place, (image, text) in enumerate(zip(to_rgb(images), titles, strict=True), 1):
        axis = figure.add_subplot(rows, 5, place)
        axis.imshow(image, interpolation="nearest")
        axis.set_title(textwrap.fill(text, 22), fontsize=9)
        axis.axis("off")
    figure.suptitle(title)
    figure.supxlabel(caption, fontsize=9)
    return figure


@default_style
def plot_curves(history: list[dict], title: str) -> Figure:
    """Plot cross-entropy, accuracy and learning rate over the epochs of a history, leaving out what it lacks."""
    figure = Figure(figsize=(WIDTH, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[2].set_yscale("log")
    epochs = [row["epoch"] for row in history]
    panels = {  # not "train loss", whose labels are smoothed
        "cross-entropy (nats)": ("train cross-entropy", "validation loss", "EMA validation loss"),
        "accuracy (%)": ("train accuracy", "validation accuracy", "EMA validation accuracy"),
        "learning rate": (),
    }
    for axis, (heading, keys) in zip(axes, panels.items(), strict=True):
        lines = [[row.get(key) for row in history] for key in keys]
        plot_lines(axis, epochs, dict(zip(("training", "validation", "EMA"), lines, strict=False)))
        axis.set(title=heading, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes[2].step(epochs, [row["learning rate"] for row in history], where="mid", color="black", marker=".")
    figure.suptitle(title)
    return figure


@default_style
def plot_confusion(matrix: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Show how many images of each true class (row) were predicted as each class (column); matrix (10, 10)."""
    axis = Figure(figsize=(7.2, 6.4), layout="constrained").subplots()
    errors = matrix.clone().fill_diagonal_(0).numpy()
    axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, errors.max()))
    for (row, column), count in np.ndenumerate(matrix.numpy()):
        color = "white" if errors[row, column] > errors.max() / 2 else "black"
        axis.text(column, row, count, color=color, ha="center", va="center")
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    axis.set(title=title, xlabel="predicted", ylabel="true")
    return axis.figure


@default_style
def plot_cam_grid(image: Tensor, cams: dict[str, dict[str, Tensor]], title: str) -> Figure:
    """Show the assignment's grid of an image (3, H, W) in 0-1 with maps {method: {layer: (h, w)}}, a row a layer."""
    layers = {layer: tuple(cam.shape) for layer, cam in cams["gradcam"].items()}
    tiles = [
        [to_rgb(image), *(draw(image, cams[method][layer]) for draw in (heatmap, overlay) for method in METHODS)]
        for layer in layers
    ]
    columns = ["original", *(f"{name}\n{kind}" for kind in ("heatmap", "mask") for name in METHODS.values())]
    rows = [f"{layer}\n{shape}" for layer, shape in layers.items()]
    return tile(tiles, title, rows=rows, columns=columns, bar="heatmap: evidence for the class, each map scaled to 0-1")


@default_style
def plot_masks(images: Tensor, columns: dict[str, Tensor], titles: Sequence[str], title: str) -> Figure:
    """Show images (N, 3, H, W) in 0-1, a row each, and beside them under {column: maps (N, h, w)}."""
    tiles = [
        [to_rgb(image), *(overlay(image, maps[row]) for maps in columns.values())] for row, image in enumerate(images)
    ]
    rows = [textwrap.fill(text, 16) for text in titles]
    bar = "evidence for the class, each map scaled to 0-1, over the gray image"
    return tile(tiles, title, rows=rows, columns=["original", *columns], bar=bar)


@default_style
def plot_trust(correlations: dict[str, dict[tuple, float]], curves: dict[tuple, Tensor], title: str) -> Figure:
    """Plot {stage: {key: rank correlation}}, deletion and insertion {key: (2, steps + 1, N)}; key: (method, layer)."""
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col")
    means = {key: curve.mean(2).numpy() for key, curve in curves.items()}
    random = np.stack([mean for (_, name), mean in means.items() if name.startswith("random")])
    share = np.linspace(0, 100, random.shape[2])
    for (method, name), (cascade, *others) in zip(METHODS.items(), axes, strict=True):
        cascade.set(ylim=(-1, 1.05), ylabel=f"{name}\nrank correlation")
        stages = {layer: [stage.get((method, layer)) for stage in correlations.values()] for layer in LAYERS}
        plot_lines(cascade, list(correlations), stages)
        for part, axis in enumerate(others):
            axis.set(ylim=(0, 1), ylabel="class probability")
            plot_lines(axis, share, {layer: means[method, layer][part] for layer in LAYERS})
            axis.plot(share, means["baseline", "center prior"][part], "--", color="0.5")
            axis.fill_between(share, random.min(0)[part], random.max(0)[part], color="0.85")
    headings = ("randomization\nnearer to 0 is better", "deletion\nlower is better", "insertion\nhigher is better")
    labels = ("randomized down to", "% of the pixels blurred", "% of the pixels kept")
    for top, bottom, heading, label in zip(*axes, headings, labels, strict=True):
        top.set(title=heading)
        bottom.set(xlabel=label)
    axes[1, 0].tick_params("x", rotation=90)
    figure.supxlabel("gray: random maps (band), center prior (dashed)", fontsize=10)
    figure.suptitle(title)
    return figure


def plot_lines(axis: Axes, x: Sequence, lines: dict[str, Sequence]) -> None:
    """Draw {label: values}, and each label beside its line's end, or as near as others allow."""
    ends = []
    for (label, values), color, marker in zip(lines.items(), COLORS, "os^D", strict=False):
        values, look = np.array(values, dtype=float), {"color": color, "marker": marker, "markersize": 4}
        axis.plot(x, values, lw=1.2, label=label, **look)
        if len(known := values[np.isfinite(values)]):
            ends.append((known[-1], known.mean(), label, look))
    low, high = axis.get_ylim()
    lowest = 0
    for above, (end, _, label, look) in zip(range(len(ends))[::-1], sorted(ends), strict=True):
        height = max(lowest, min((end - low) / (high - low), 1 - 0.09 * above))
        axis.plot(1.06, height, transform=axis.transAxes, clip_on=False, **look)
        axis.text(1.1, height, label, transform=axis.transAxes, fontsize=9, va="center")
        lowest = height + 0.09
    axis.grid(alpha=0.3)


def to_rgb(images: Tensor) -> np.ndarray:
    """Turn images (..., 3, H, W) in 0-1 into arrays (..., H, W, 3)."""
    return images.float().cpu().clamp(0, 1).movedim(-3, -1).numpy()


def heatmap(image: Tensor, cam: Tensor) -> np.ndarray:
    """Color each pixel of an image (3, H, W) as the nearest cell of a map (h, w) in 0-1: (H, W, 3)."""
    cells = torch.tensor(np.indices(cam.shape))
    rows, columns = (place_on_image(cells, image.shape[1:]) - 0.01).round().long()  # of two, the first
    return COLORMAP(cam.float().cpu()[rows, columns].numpy())[..., :3]


def overlay(image: Tensor, cam: Tensor) -> np.ndarray:
    """Blend the colored map (h, w) with the image (3, H, W) in gray, so that all color is the map's: (H, W, 3)."""
    placed = place_on_image(cam[None], image.shape[1:])[0].cpu().numpy()
    return (1 - OPACITY) * to_rgb(image).mean(-1, keepdims=True) + OPACITY * COLORMAP(placed)[..., :3]


def tile(tiles: Sequence, title: str, *, rows: Sequence[str], columns: Sequence[str], bar: str = "") -> Figure:
    """Draw rows of equal tiles (H, W, 3) pixel by pixel, enlarged, and a color bar if it has a label."""
    zoom = max(1, TILE // max(np.shape(tiles)[2:4]))
    pixels = np.array(tiles).repeat(zoom, axis=2).repeat(zoom, axis=3)
    pixels = np.pad(pixels, [(0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)], constant_values=1)
    height, width = pixels.shape[2:4]
    canvas = pixels.swapaxes(1, 2).reshape(len(rows) * height, len(columns) * width, 3)[:-GAP, :-GAP]
    figure = Figure(figsize=(canvas.shape[1] / 100, canvas.shape[0] / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), title=title)
    axes.imshow(canvas, interpolation="none")
    axes.set_xticks(np.arange(len(columns)) * width + (width - GAP) / 2, columns)
    axes.set_yticks(np.arange(len(rows)) * height + (height - GAP) / 2, rows)
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=len(rows) > 8)
    axes.spines[:].set_visible(False)
    if bar:
        below = (56 if len(rows) > 8 else 24) / len(canvas)
        place = axes.inset_axes((0, -below, 1, 14 / len(canvas)))
        figure.colorbar(ScalarMappable(cmap=COLORMAP), cax=place, orientation="horizontal", label=bar)
    return figure
