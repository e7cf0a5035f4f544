import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from utils import plotting
from utils.gradcam import LAYERS, METHODS
from utils.plotting import COLORMAP, GAP, OPACITY, heatmap, overlay, save_figure, to_rgb

IMAGES, MAPS, WIDE = torch.rand(7, 3, 32, 32), torch.rand(7, 8, 8), torch.rand(3, 24, 48)
ROW = {"epoch": 1, "learning rate": 0.1, "train loss": 9.0, "validation loss": 2.0, "EMA validation loss": 3.0}
ROW |= {"train accuracy": 4.0, "validation accuracy": 5.0, "EMA validation accuracy": 6.0}
BASELINES = ("random 1x1", "random 2x2", "random 4x4", "center prior", "edges")
KEYS = [(method, layer) for method in METHODS for layer in LAYERS] + [("baseline", name) for name in BASELINES]
LEVELS = torch.stack([torch.zeros(9, 1), torch.full((9, 1), 0.3)])  # deletion, insertion
CURVES = {key: LEVELS + i / 20 for i, key in enumerate(KEYS)}
CAMS = {method: {"features.3": torch.rand(12, 24), "features.6": torch.rand(3, 6)} for method in METHODS}
FIGURES = {
    "augmentation": lambda: plotting.plot_augmentation(IMAGES, [IMAGES, IMAGES], "abcdefg", "title"),
    "misclassified": lambda: plotting.plot_misclassified(IMAGES, "abcdefg", "caption", "title"),
    "curves": lambda: plotting.plot_curves([ROW, ROW | {"epoch": 2, "train cross-entropy": 1.0}], "title"),
    "confusion": lambda: plotting.plot_confusion(torch.arange(100).view(10, 10), "abcdefghij", "title"),
    "grid": lambda: plotting.plot_cam_grid(WIDE, CAMS, "title"),
    "sheet": lambda: plotting.plot_masks(IMAGES, {"other": 1 - MAPS, "map": MAPS}, "abcdefg", "title"),
    "trust": lambda: plotting.plot_trust({"nothing": {("gradcam", "layer1"): 1.0}}, CURVES, "title"),
}


def tile_at(figure: Figure, row: int, column: int, like: np.ndarray) -> np.ndarray:
    """Return a tile of a figure without its enlargement, as large as the picture `like` that it should show."""
    zoom = 96 // max(like.shape)
    (height, width), canvas = np.multiply(like.shape[:2], zoom), figure.axes[0].images[0].get_array()
    return canvas[row * (height + GAP) :, column * (width + GAP) :][:height:zoom, :width:zoom]


@pytest.mark.parametrize("name", FIGURES)
def test_the_users_matplotlibrc_changes_no_figure(name, tmp_path):
    save_figure(FIGURES[name](), tmp_path / "plain.png")
    hostile = {
        "image.origin": "lower",
        "savefig.format": "pdf",
        "axes.grid": True,
        "text.usetex": True,
        "font.size": 30,
    }
    with matplotlib.rc_context(hostile | {"savefig.dpi": 30, "axes.facecolor": "red"}):
        save_figure(FIGURES[name](), tmp_path / "hostile.png")
        assert matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "hostile.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_a_saved_figure_is_a_small_png_that_says_what_is_seen(tmp_path):
    picture = save_figure(FIGURES["grid"](), tmp_path / "grid.png", "a car and its maps")
    assert picture.data == (tmp_path / "grid.png").read_bytes() and picture.metadata["alt"] == "a car and its maps"
    assert len(np.unique(Image.open(io.BytesIO(picture.data)))) <= 64


def test_a_map_of_zeros_darkens_the_image_evenly():
    gray = IMAGES[0].permute(1, 2, 0).mean(-1, keepdim=True).expand(-1, -1, 3)
    np.testing.assert_allclose(overlay(IMAGES[0], torch.zeros(8, 8)), (1 - OPACITY) * gray, atol=0.01)


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (224, 16)])
def test_heatmap_and_mask_show_cell_i_of_stride_s_at_pixel_s_i(size):
    image, cam = torch.zeros(3, *size), torch.rand(size[0] // 4, size[1] // 8)
    nearest = [np.abs(np.arange(n)[:, None] - np.arange(0, n, s)).argmin(1) for n, s in zip(size, (4, 8), strict=True)]
    np.testing.assert_allclose(heatmap(image, cam), COLORMAP(cam.numpy()[np.ix_(*nearest)])[..., :3])
    np.testing.assert_allclose(overlay(image, cam)[::4, ::8], OPACITY * COLORMAP(cam.numpy())[..., :3], atol=0.01)


def test_a_grid_has_a_row_a_layer():
    for row, layer in enumerate(CAMS["gradcam"]):
        draws = (to_rgb(WIDE), heatmap(WIDE, CAMS["gradcam"][layer]), overlay(WIDE, CAMS["gradcam++"][layer]))
        for column, expected in zip((0, 1, 4), draws, strict=True):
            np.testing.assert_allclose(tile_at(FIGURES["grid"](), row, column, expected), expected)


def test_a_sheet_has_a_row_an_image():
    for row, (image, cam) in enumerate(zip(IMAGES, MAPS, strict=True)):
        np.testing.assert_allclose(tile_at(FIGURES["sheet"](), row, 2, to_rgb(image)), overlay(image, cam))


@pytest.mark.parametrize("count", [0, 3, 7])
def test_every_misclassified_image_is_shown(count):
    figure = plotting.plot_misclassified(IMAGES[:count], ["cat, predicted dog"] * count, "caption", "title")
    assert [len(axis.images) for axis in figure.axes] == [1] * count


def test_rows_of_the_confusion_are_true_classes():
    (axis,) = FIGURES["confusion"]().axes
    counts = {text.get_position(): text.get_text() for text in axis.texts}
    assert counts[3, 1] == "13" and axis.images[0].get_array()[1, 3] == 13 and axis.get_xlabel() == "predicted"


def test_curves_show_what_their_labels_say_and_leave_out_what_is_not_known(tmp_path):
    figure = plotting.plot_curves([ROW], "title")
    shown = [{line.get_label(): line.get_ydata()[0] for line in axis.lines[:3]} for axis in figure.axes[:2]]
    expected = [dict(zip(("training", "validation", "EMA"), y, strict=True)) for y in ((np.nan, 2, 3), (4, 5, 6))]
    np.testing.assert_equal(shown, expected)
    assert {text.get_text() for text in figure.axes[0].texts} == {"validation", "EMA"}
    save_figure(plotting.plot_curves([], "title"), tmp_path / "not trained.png")


def test_deletion_is_drawn_before_insertion_beside_the_range_of_random_maps():
    for axis, start in zip(FIGURES["trust"]().axes[1:3], (0, 0.3), strict=True):
        shown = {line.get_label(): line.get_ydata()[0] for line in axis.lines}
        np.testing.assert_allclose([shown[layer] for layer in LAYERS], start + np.arange(4) / 20)
        band = axis.collections[0].get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([band.min(), band.max()], [start + 0.4, start + 0.5])


def test_labels_lie_apart_where_lines_end_together(tmp_path):
    stages = {"nothing": dict.fromkeys(KEYS[:8], 1.0), "linear": dict.fromkeys(KEYS[:3], 1.0) | {KEYS[3]: np.nan}}
    heights = sorted(text.get_position()[1] for text in plotting.plot_trust(stages, CURVES, "title").axes[0].texts)
    assert len(heights) == 4 and min(np.diff(heights)) > 0.08 and 0 <= heights[0] and heights[-1] <= 1
    save_figure(plotting.plot_trust({}, CURVES, "title"), tmp_path / "no cascade.png")
