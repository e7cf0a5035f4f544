"""Our maps beside those of other packages.

captum is among requirements-dev.txt. grad-cam needs another build of OpenCV, so it is only compared with where it is
installed: pip install scikit-learn; pip install --no-deps grad-cam ttach
"""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torchcam.methods import FinerCAM, GradCAM, GradCAMpp

from utils.gradcam import LAYERS, compute_cams, scale_to_unit

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLASSES, OTHERS = [3, 0, 9], [5, 1, 2]


def test_grad_cam_is_captums(model):
    for layer, ours in compute_cams(model, IMAGES, CLASSES)["gradcam"].items():
        theirs = LayerGradCam(model, model.get_submodule(layer)).attribute(IMAGES, CLASSES, relu_attributions=True)
        torch.testing.assert_close(ours, scale_to_unit(theirs[:, 0].detach()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("base, method, equal", [(GradCAM, "gradcam", True), (GradCAMpp, "gradcam++", False)])
def test_contrastive_maps_are_torchcams_but_for_its_grad_cam_pp(model, base, method, equal):
    """If GradCAMpp, too, is ours now, torchcam divides: say so where docstrings and pages say that it does not."""
    ours = compute_cams(model, IMAGES, CLASSES, against=OTHERS)[method]
    with FinerCAM(model, list(LAYERS), base_method=base, gamma=1.0) as cam:
        theirs = cam(CLASSES, model(IMAGES), [[other] for other in OTHERS], normalized=False)
    for layer, maps in zip(LAYERS, theirs, strict=True):
        assert ((scale_to_unit(maps) - ours[layer]).abs().max() < 1e-5) == equal


@pytest.mark.parametrize("name, method, scale", [("GradCAM", "gradcam", 1), ("GradCAMPlusPlus", "gradcam++", 1e5)])
def test_both_are_grad_cams_where_gradients_dwarf_its_epsilon(model, name, method, scale):
    """grad-cam 1.5.7 adds 1e-6 to a denominator of about 2 g^2, and our gradients g are about 1e-4."""
    package = pytest.importorskip("pytorch_grad_cam")
    targets = [package.utils.model_targets.ClassifierOutputTarget(index) for index in CLASSES]
    model.linear.weight.data *= scale
    for layer, maps in compute_cams(model, IMAGES, CLASSES)[method].items():
        with getattr(package, name)(model, [model.get_submodule(layer)]) as cam:
            theirs = torch.from_numpy(cam(IMAGES, targets))
        resized = F.interpolate(maps[:, None], (32, 32), mode="bilinear")[:, 0]
        assert (theirs - scale_to_unit(resized)).abs().max() < 1e-3
