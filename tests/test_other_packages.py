"""Our maps beside those of two other packages.

captum is among requirements-dev.txt. grad-cam needs another build of OpenCV, so it is only compared with where it is
installed: pip install scikit-learn; pip install --no-deps grad-cam ttach
"""

import cv2
import pytest
import torch
from captum.attr import LayerGradCam

from utils.gradcam import LAYERS, compute_cams, scale_to_unit

CLASSES = [3, 0, 9]


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_is_captums(model, images, layer):
    theirs = LayerGradCam(model, model.get_submodule(layer)).attribute(images, CLASSES, relu_attributions=True)
    ours = compute_cams(model, images, CLASSES, [layer])["gradcam"][layer]
    torch.testing.assert_close(ours, scale_to_unit(theirs[:, 0].detach()), atol=1e-5, rtol=0)


def difference_to_grad_cam(name, model, images, layer, ours):
    """Return the largest difference after resizing our maps as grad-cam does."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(index) for index in CLASSES]
    with getattr(pytorch_grad_cam, name)(model, [model.get_submodule(layer)]) as extractor:
        theirs = torch.from_numpy(extractor(images, targets))
    resized = torch.stack([torch.from_numpy(cv2.resize(cam.numpy(), (32, 32))) for cam in ours])
    return (theirs - scale_to_unit(resized)).abs().max()


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_is_grad_cams(model, images, layer):
    ours = compute_cams(model, images, CLASSES, [layer])["gradcam"][layer]
    assert difference_to_grad_cam("GradCAM", model, images, layer, ours) < 1e-4


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_pp_is_grad_cams_where_gradients_dwarf_its_epsilon(model, images, layer):
    """grad-cam 1.5.7 adds 1e-6 to a denominator of about 2 g^2, and our gradients g are about 1e-4."""
    ours = compute_cams(model, images, CLASSES, [layer])["gradcam++"][layer]
    assert difference_to_grad_cam("GradCAMPlusPlus", model, images, layer, ours) > 0.05
    with torch.no_grad():
        model.linear.weight *= 1e5
    ours = compute_cams(model, images, CLASSES, [layer])["gradcam++"][layer]
    assert difference_to_grad_cam("GradCAMPlusPlus", model, images, layer, ours) < 1e-3
