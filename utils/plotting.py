"""Every figure of the notebook and the table of its training; `save_figure` writes a figure and shows it."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Image as Picture
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from utils.checkpoint import write_atomically
from utils.gradcam import LAYERS, METHODS, place_on_image

COLORMAP = plt.get_cmap("inferno")  # perceptually uniform: equal steps look equal
ZOOM = 3  # screen pixels per image pixel
SHEET_ZOOM = 2  # on a sheet of many images
OPACITY = 0.65  # of a map's colours over the grey image
GAP = 8  # white pixels between tiles
DIGITS = {  # of the training table's columns
    "epoch": 0,
    "learning rate": 6,
    "train loss": 4,
    "train accuracy": 2,
    "validation loss": 4,
    "validation accuracy": 2,
    "images/s": 0,
    "minutes left": 1,
}


def save_figure(figure: Figure, path: Path) -> Picture:
    """Write the figure as a PNG, whole or not at all, and return it for display.

    64 levels per channel, not 256, make the file a third smaller, and move no colour by more than 2 of 255.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").point(lambda level: round(round(level * 63 / 255) * 255 / 63))
    write_atomically(path, lambda name: picture.save(name, format="PNG", optimize=True))
    return Picture(filename=path, metadata={"alt": path.stem})  # Colab's IPython 7 knows no `alt`


def history_table(history: list[dict]) -> pd.DataFrame:
    """Return the history as a table, a row an epoch."""
    return pd.DataFrame(history, columns=list(DIGITS)).round(DIGITS).set_index("epoch")


def plot_augmentation(originals: Tensor, augmented: Sequence[Tensor], names: Sequence[str], title: str) -> Figure:
    """Show each of K images (K, 3, 32, 32) above its augmented versions, all in 0-1."""
    figure, axes = tile([to_rgb(originals), *map(to_rgb, augmented)], title)
    set_labels(axes, names, ["original", *["augmented"] * len(augmented)])
    return figure


def plot_misclassified(images: Tensor, titles: Sequence[str], caption: str, title: str) -> Figure:
    """Show images (N, 3, 32, 32) in 0-1, five a row, each under its title, and the caption below."""
    rows = max(1, -(-len(images) // 5))
    figure, axes = plt.subplots(rows, 5, figsize=(9, 2.15 * rows + 0.9), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, text in zip(axes.flat, to_rgb(images, zoom=1), titles, strict=False):
        axis.imshow(image)
        axis.set_title(text, fontsize=9)
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(caption, fontsize=9)
    return figure


def plot_curves(history: list[dict], title: str, average: dict[str, float]) -> Figure:
    """Plot loss, accuracy and learning rate over the epochs of a history, and a star where the average ends."""
    figure, (loss, accuracy, rate) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for part, style in (("train", "--"), ("validation", "-")):
        smoothed = ", smoothed labels" if part == "train" else ""
        loss.plot(epochs, [row[f"{part} loss"] for row in history], style, marker=".", label=part + smoothed)
        accuracy.plot(epochs, [row[f"{part} accuracy"] for row in history], style, marker=".", label=part)
    if history:
        for axis, what in ((loss, "loss"), (accuracy, "accuracy")):
            axis.plot(epochs[-1], average[f"validation {what}"], "k*", label="validation, averaged weights", zorder=3)
    rate.step(epochs, [row["learning rate"] for row in history], where="mid", marker=".")
    rate.set_yscale("log")
    steps = sorted({row["learning rate"] for row in history})
    rate.set_yticks(steps, [f"{step:.3g}" for step in steps])
    rate.minorticks_off()
    loss.legend()
    accuracy.legend()
    labels = ("cross-entropy (nats)", "accuracy (%)", "learning rate")
    for axis, label in zip((loss, accuracy, rate), labels, strict=True):
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def plot_confusion(matrix: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Show how many images of each true class (row) were predicted as each class (column); matrix (10, 10)."""
    figure, axis = plt.subplots(figsize=(7.2, 6.4), layout="constrained")
    errors = matrix.clone().fill_diagonal_(0).numpy()
    axis.imshow(errors, cmap="Reds", vmin=0, vmax=max(1, int(errors.max())))
    for (row, column), count in np.ndenumerate(matrix.numpy()):
        dark = row != column and count > errors.max() / 2
        weight = "bold" if row == column else "normal"
        axis.text(column, row, count, ha="center", va="center", color="white" if dark else "black", weight=weight)
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    axis.set(xlabel="predicted", ylabel="true")
    figure.suptitle(title)
    return figure


def plot_cam_grid(image: Tensor, cams: dict[str, dict[str, Tensor]], title: str) -> Figure:
    """Show the assignment's grid for one image (3, 32, 32) in 0-1 with maps {method: {layer: (h, w)}}.

    Four rows, layer1 to layer4; columns: original, both heatmaps with their real cells, both masks over the image.
    """
    original = to_rgb(image[None])[0]
    rows = [
        [original]
        + [heatmap(cams[method][layer]) for method in METHODS]
        + [overlay(image, cams[method][layer]) for method in METHODS]
        for layer in LAYERS
    ]
    figure, axes = tile(rows, title, "heatmaps: evidence for the predicted class, each map scaled to 0-1")
    names = list(METHODS.values())
    columns = ["original", *[f"{name}\nheatmap" for name in names], *[f"{name}\nmask" for name in names]]
    set_labels(axes, columns, [f"{layer}\n{tuple(cams['gradcam'][layer].shape)}" for layer in LAYERS])
    return figure


def plot_masks(images: Tensor, columns: dict[str, Tensor], titles: Sequence[str], title: str) -> Figure:
    """Show images (N, 3, 32, 32) in 0-1, a row each, and beside them under {column: maps (N, h, w)}."""
    rows = [
        [to_rgb(image[None], SHEET_ZOOM)[0]] + [overlay(image, maps[row], SHEET_ZOOM) for maps in columns.values()]
        for row, image in enumerate(images)
    ]
    figure, axes = tile(rows, title, "evidence for the class, each map scaled to 0-1", OPACITY)
    set_labels(axes, ["original", *columns], titles)
    return figure


def plot_trust(correlations: dict[str, dict[str, float]], curves: dict[str, Tensor], title: str) -> Figure:
    """Plot {stage: {map: rank correlation}} and deletion and insertion curves {map: (2, steps + 1, N)}."""
    figure, (left, *others) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    others[0].sharey(others[1])
    styles = {name: {"color": f"C{i % 4}", "ls": "-" if i < 4 else "--"} for i, name in enumerate(curves)}
    baselines = (("gray", ":"), ("gray", "--"), ("gray", "-"), ("black", "-."), ("black", "-"))
    styles |= {
        name: {"color": color, "ls": dashes} for name, (color, dashes) in zip(list(curves)[8:], baselines, strict=True)
    }
    for name in next(iter(correlations.values())):
        left.plot(list(correlations), [stage[name] for stage in correlations.values()], marker=".", **styles[name])
    left.set(xlabel="randomised from the last layer down to", ylabel="rank correlation with the original map")
    left.set_title("Randomisation: nearer to 0 is better", fontsize=10)
    left.tick_params(axis="x", rotation=30)
    names = ("blurred", "kept"), ("Deletion: lower is better", "Insertion: higher is better")
    for row, (axis, kind, heading) in enumerate(zip(others, *names, strict=True)):
        for name, curve in curves.items():
            share, mean = torch.linspace(0, 100, curve.shape[1]), curve[row].mean(1)
            (line,) = axis.plot(share, mean, label=name, **styles[name])
            if name == "random 4x4":
                error = curve[row].std(1) / curve.shape[2] ** 0.5
                axis.fill_between(share, mean - error, mean + error, color="black", alpha=0.2, lw=0)
                line.set_label(f"{name} ± standard error")
        axis.set(xlabel=f"% of the pixels {kind}, highest first", ylabel="probability of the predicted class")
        axis.set_title(heading, fontsize=10)
    for axis in (left, *others):
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(title)
    return figure


def to_rgb(images: Tensor, zoom: int = ZOOM) -> np.ndarray:
    """Turn images (N, 3, H, W) in 0-1 into arrays (N, zoom H, zoom W, 3), every pixel a square."""
    return F.interpolate(images.float().cpu(), scale_factor=zoom, mode="nearest").permute(0, 2, 3, 1).numpy()


def heatmap(cam: Tensor) -> np.ndarray:
    """Colour a map (h, w) in 0-1, its cells drawn as squares: (96, 96, 3)."""
    cells = F.interpolate(cam[None, None].float().cpu(), size=(32 * ZOOM, 32 * ZOOM), mode="nearest")
    return COLORMAP(cells[0, 0].numpy())[..., :3]


def overlay(image: Tensor, cam: Tensor, zoom: int = ZOOM) -> np.ndarray:
    """Blend the coloured map (h, w) with the image (3, 32, 32) in grey, so that all colour is the map's."""
    colours = COLORMAP(place_on_image(cam[None], 32, zoom)[0].cpu().numpy())[..., :3]
    return (1 - OPACITY) * to_rgb(image[None], zoom)[0].mean(-1, keepdims=True) + OPACITY * colours


def tile(rows: Sequence, title: str, colorbar: str = "", opacity: float = 1.0) -> tuple[Figure, plt.Axes]:
    """Draw rows of equal tiles (H, W, 3), with gaps between them, pixel by pixel, as one image.

    The colour bar, if it has a label, shows the colours as they are over mid-grey with this opacity.
    """
    height, width = np.shape(rows[0][0])[:2]
    canvas = np.ones((len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP, 3))
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            canvas[r * (height + GAP) :][:height, c * (width + GAP) :][:, :width] = cell
    figure = plt.figure(figsize=(canvas.shape[1] / 100, canvas.shape[0] / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="none")
    axes.set_xticks((np.arange(len(rows[0])) + 0.5) * (width + GAP) - GAP / 2)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * (height + GAP) - GAP / 2)
    axes.tick_params(length=0, labelsize=9 if width > 90 else 7, labeltop=True, labelbottom=len(rows) > 8)
    axes.spines[:].set_visible(False)
    if colorbar:
        bar_height = min(0.8 * canvas.shape[0], 320) / canvas.shape[0]
        place = axes.inset_axes((1 + 24 / canvas.shape[1], 1 - bar_height, 16 / canvas.shape[1], bar_height))
        colours = ListedColormap(0.5 * (1 - opacity) + opacity * COLORMAP(np.linspace(0, 1, 256))[:, :3])
        bar = figure.colorbar(ScalarMappable(cmap=colours), cax=place)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(colorbar, fontsize=8)
    axes.set_title(title, fontsize=12)
    return figure, axes


def set_labels(axes: plt.Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Label the columns and rows of tiles."""
    axes.set_xticklabels(columns)
    axes.set_yticklabels(rows)
