import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from utils.gradcam import LAYERS, METHODS
from utils.plotting import (
    COLORMAP,
    GAP,
    OPACITY,
    SHEET_ZOOM,
    heatmap,
    history_table,
    overlay,
    plot_cam_grid,
    plot_confusion,
    plot_curves,
    plot_masks,
    plot_misclassified,
    plot_trust,
    save_figure,
)

IMAGES = torch.rand(20, 3, 32, 32)
CAMS = {m: {layer: torch.rand(20, s, s) for layer, s in zip(LAYERS, (32, 16, 8, 8), strict=True)} for m in METHODS}
ROW = {"epoch": 1, "learning rate": 0.1} | {
    f"{part} {what}": 1.0 for part in ("train", "validation") for what in ("loss", "accuracy")
}


def test_a_map_of_zeros_darkens_the_image_evenly():
    darkened = overlay(IMAGES[0], torch.zeros(8, 8))
    gray = IMAGES[0].permute(1, 2, 0).mean(-1, keepdim=True).expand(-1, -1, 3)
    expected = (1 - OPACITY) * gray.repeat_interleave(3, 0).repeat_interleave(3, 1)
    np.testing.assert_allclose(darkened, expected, atol=0.01)


def test_figures_are_small_and_are_closed(tmp_path):
    plt.close("all")
    titles = ["cat → dog, 50%"] * 20
    one = {method: {layer: CAMS[method][layer][0] for layer in LAYERS} for method in METHODS}
    figures = {
        "grid": plot_cam_grid(IMAGES[0], one, "title"),
        "sheet": plot_masks(IMAGES, CAMS["gradcam"], titles, "title"),
        "curves": plot_curves([ROW, ROW | {"epoch": 2}], "title", ROW),
        "few": plot_misclassified(IMAGES[:3], titles[:3], "caption", "title"),
        "none": plot_misclassified(IMAGES[:0], [], "caption", "title"),
        "not trained": plot_curves([], "title", ROW),
        "one epoch": plot_curves([ROW], "title", ROW),
    }
    for name, figure in figures.items():
        path = tmp_path / f"{name}.png"
        assert save_figure(figure, path).data == path.read_bytes()
        assert len(np.unique(Image.open(path))) <= 64
    assert not plt.get_fignums()


def tile(figure, row: int, column: int, side: int) -> np.ndarray:
    """Return one of the pictures of `side` pixels that a grid or sheet is made of."""
    canvas = figure.axes[0].images[0].get_array()
    return canvas[row * (side + GAP) :, column * (side + GAP) :][:side, :side]


def test_heatmaps_are_upright():
    cam = torch.rand(8, 8)
    np.testing.assert_allclose(heatmap(cam)[::12, ::12], COLORMAP(cam.numpy())[..., :3])


def test_every_row_of_the_grid_is_its_layers():
    one = {method: {layer: cams[layer][0] for layer in LAYERS} for method, cams in CAMS.items()}
    figure = plot_cam_grid(IMAGES[0], one, "title")
    for row, layer in enumerate(LAYERS):
        np.testing.assert_allclose(tile(figure, row, 1, 96), heatmap(one["gradcam"][layer]))
        np.testing.assert_allclose(tile(figure, row, 4, 96), overlay(IMAGES[0], one["gradcam++"][layer]))


def test_every_row_of_the_sheet_is_its_images():
    figure = plot_masks(IMAGES[:3], CAMS["gradcam"], ["a", "b", "c"], "title")
    for row in range(3):
        expected = overlay(IMAGES[row], CAMS["gradcam"]["layer4"][row], SHEET_ZOOM)
        np.testing.assert_allclose(tile(figure, row, 4, 32 * SHEET_ZOOM), expected)


def test_every_misclassified_image_is_shown():
    for count in (0, 3, 7, 20):
        figure = plot_misclassified(IMAGES[:count], ["cat → dog, 50%"] * count, "caption", "title")
        assert sum(len(axis.images) for axis in figure.axes) == count


def test_rows_of_the_confusion_are_true_classes():
    figure = plot_confusion(torch.arange(100).view(10, 10), [*"abcdefghij"], "title")
    counts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert counts[3, 1] == "13" and figure.axes[0].get_xlabel() == "predicted"


def test_curves_show_what_their_labels_say():
    row = ROW | {"train accuracy": 2.0, "validation accuracy": 3.0}
    shown = {line.get_label(): line.get_ydata()[0] for line in plot_curves([row], "title", ROW).axes[1].lines}
    assert shown == {"train": 2, "validation": 3, "validation, averaged weights": 1}


def test_deletion_is_drawn_before_insertion():
    curves = {f"map {i}": torch.stack([torch.zeros(9, 2), torch.ones(9, 2)]) for i in range(13)}
    figure = plot_trust({"nothing": {"map 0": 1.0}}, curves, "title")
    for axis, heading, value in zip(figure.axes[1:], ("Deletion", "Insertion"), (0, 1), strict=True):
        assert axis.get_title().startswith(heading) and set(axis.lines[0].get_ydata().tolist()) == {value}


def test_the_table_of_epochs_keeps_its_digits():
    table = history_table([ROW | {"learning rate": 0.0305, "validation accuracy": 93.456}])
    assert table.loc[1, ["learning rate", "validation accuracy"]].tolist() == [0.0305, 93.46]
