import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from utils.gradcam import LAYERS, METHODS
from utils.plotting import (
    OPACITY,
    overlay,
    plot_cam_grid,
    plot_curves,
    plot_masks,
    plot_misclassified,
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
