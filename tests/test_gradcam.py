import statistics

import pytest
import torch

from models import ResNet18
from utils.check_weights import WEIGHTS
from utils.checkpoint import load_weights
from utils.gradcam import LAYERS, compute_cams, place_on_image, scale_to_unit
from utils.transforms import normalize
from utils.trust import reference_cams, torchcam_pp

CLASSES = [3, 0, 9, 7]


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_papers_equations(model, images, dtype):
    cams = compute_cams(model.to(dtype), images.to(dtype), CLASSES)
    for layer in LAYERS:
        for method, expected in reference_cams(model, images, CLASSES, layer).items():
            torch.testing.assert_close(cams[method][layer].double(), expected, atol=1e-5, rtol=0)


def test_torchcams_own_grad_cam_pp_is_something_else(model, images):
    """Say in README and notebook that torchcam divides by now, should this fail."""
    theirs, ours = torchcam_pp(model, images, CLASSES), compute_cams(model, images, CLASSES)["gradcam++"]
    assert all((theirs[layer] - ours[layer]).abs().max() > 0.01 for layer in LAYERS)


@pytest.mark.parametrize("layer, least, most", [("layer3", 10, 1_000), ("layer4", 0, 0)])
def test_second_derivatives_that_eq_19_leaves_out(cifar10, layer, least, most):
    """trust.md says tens of times g squared, but for layer4, which is followed by no normalisation."""
    model, kept, ratios = ResNet18(), [], []
    load_weights(WEIGHTS, model)
    model.double().get_submodule(layer).register_forward_hook(lambda _module, _input, output: kept.append(output))
    score = model(normalize(cifar10.test_images[:1]).double()).max()
    (g,) = torch.autograd.grad(score, kept[0], create_graph=True)
    positive = torch.nonzero((g * kept[0]).flatten() > 0).flatten()
    for cell in positive[:: len(positive) // 20].tolist():
        one = g.flatten()[cell]
        (second,) = torch.autograd.grad(one, kept[0], retain_graph=True, materialize_grads=True)
        ratios.append((second.flatten()[cell].abs() / one.detach() ** 2).item())
    assert least <= statistics.median(ratios) <= most


def test_maps_have_the_layers_resolution_and_span_0_to_1(model, images):
    cams = compute_cams(model, images, CLASSES)
    assert list(cams) == ["gradcam", "gradcam++"]
    for per_layer in cams.values():
        assert {layer: tuple(maps.shape) for layer, maps in per_layer.items()} == {
            "layer1": (4, 32, 32), "layer2": (4, 16, 16), "layer3": (4, 8, 8), "layer4": (4, 8, 8)
        }  # fmt: skip
        for maps in per_layer.values():
            assert torch.all(maps.amin((1, 2)) == 0) and set(maps.amax((1, 2)).tolist()) <= {0, 1}
            assert maps.max() == 1


def test_needs_one_forward_and_one_backward_pass(model, images):
    passes = {"forward": 0, "backward": 0}
    model.conv1.register_forward_hook(lambda *_: passes.update(forward=passes["forward"] + 1))
    model.linear.register_full_backward_hook(lambda *_: passes.update(backward=passes["backward"] + 1))
    compute_cams(model, images, CLASSES)
    assert passes == {"forward": 1, "backward": 1}


def test_leaves_the_model_as_it_was(model, images):
    model.requires_grad_(False)
    with torch.no_grad():
        before = model(images)
        compute_cams(model, images, CLASSES)
        assert torch.equal(model(images), before)
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layers": ("layer5",)}, r"unknown layers \['layer5'\]; the model has, .*layer4"),
        ({"layers": ("linear",)}, r"layers \['linear'\] have no feature maps"),
        ({"class_indices": [1, 2]}, "4 images need as many class indices, got 2"),
        ({"class_indices": [1, 2, 3, 10]}, r"0\.\.9"),
        ({"class_indices": [1, 2, 3, -1]}, r"0\.\.9"),
        ({"images": torch.full((4, 3, 32, 32), float("nan"))}, "NaN or infinity"),
        ({"images": torch.zeros(0, 3, 32, 32), "class_indices": []}, "at least one image"),
        ({"images": torch.zeros(3, 32, 32), "class_indices": [0, 0, 0]}, r"\(N, 3, 32, 32\)"),
    ],
)
def test_bad_input_gets_one_clear_error(model, images, change, message):
    with pytest.raises(ValueError, match=message):
        compute_cams(**{"model": model, "images": images, "class_indices": CLASSES} | change)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "broken, named",
    [
        ("bn1", "values of layer1"),
        ("layer3.1.bn2", "values of layer3"),
        ("layer4.1.bn2", "values of layer4"),
        ("linear", "gradients of layer1"),
    ],
)
def test_values_that_are_not_finite_name_their_layer(model, images, broken, named, value):
    """torchcam sums with nansum, which would turn NaN into an innocent map of zeros."""
    with torch.no_grad():
        model.get_submodule(broken).weight[0] = value
    with pytest.raises(FloatingPointError, match=f"the {named} are not finite"):
        compute_cams(model, images, CLASSES)


def test_a_constant_map_becomes_zero():
    assert torch.equal(scale_to_unit(torch.full((1, 2, 2), 3.0)), torch.zeros(1, 2, 2))


def test_the_contrast_is_the_gradient_of_the_difference(model, images):
    image, layer = images[:1], "layer3"
    contrast = compute_cams(model, image, [1], [layer], against=[2])["gradcam"][layer]
    with torch.no_grad():
        model.linear.weight[1] -= model.linear.weight[2]
    torch.testing.assert_close(contrast, compute_cams(model, image, [1], [layer])["gradcam"][layer])
    with pytest.raises(ValueError, match="as many class indices"):
        compute_cams(model, image, [1], [layer], against=[1, 2])


def test_cells_lie_on_the_centres_of_their_stride_2_windows():
    for size in (32, 16, 8):
        cam = torch.rand(size, size)
        placed, stride = place_on_image(cam[None], 32)[0], 32 // size
        torch.testing.assert_close(placed[::stride, ::stride], cam)


@pytest.mark.parametrize("size", [32, 16, 8])
def test_a_zoomed_map_lies_where_the_map_does(size):
    maps = torch.rand(1, size, size)
    torch.testing.assert_close(place_on_image(maps, 32, zoom=3)[:, 1::3, 1::3], place_on_image(maps, 32))
