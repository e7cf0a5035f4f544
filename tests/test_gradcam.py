import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18, squeezenet1_1
from torchvision.ops import StochasticDepth

from utils.gradcam import LAYERS, compute_cams, place_on_image, scale_to_unit

CLASSES = [3, 0, 9, 7]


def small_cnn(**end):
    """A CNN in eval mode, for images of any size, with ReLUs in place, and modules at its end."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
    layers = {"conv1": first, "relu1": nn.ReLU(inplace=True), "conv2": second}
    head = {"relu2": nn.ReLU(inplace=True), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(layers | head | {"linear": nn.Linear(8, 10)} | end)).eval()


class Lambda(nn.Module):
    """A function as a module, beside a layer that is not called."""

    def __init__(self, function):
        super().__init__()
        self.forward, self.spare = function, nn.Conv2d(3, 3, 3)


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def the_papers_cams(model, images, classes, layer):
    """Both maps in float64, an image at a time, term by term, no ReLU in place.

    Grad-CAM (Selvaraju et al. 2017, eq. 1-2): w_k = mean_ij dS/dA_ij;  Grad-CAM++ (Chattopadhay et al. 2018, eq. 5,
    19): w_k = sum_ij alpha_ij relu(dS/dA_ij);  both: relu(sum_k w_k A_k), here scaled to 0-1.
    """
    model, kept, maps = copy.deepcopy(model).double(), [], {"gradcam": [], "gradcam++": []}
    for module in model.modules():
        module.inplace = False
    model.get_submodule(layer).register_forward_hook(lambda _module, _input, output: kept.append(output))
    for image, class_index in zip(images.double(), classes, strict=True):
        score = model(image[None])[0, class_index]
        a = kept.pop()
        (g,) = torch.autograd.grad(score, a)
        denominator = 2 * g**2 + a.sum((2, 3), keepdim=True) * g**3
        alpha = torch.where(g != 0, g**2 / torch.where(g != 0, denominator, 1), 0)
        weights = {"gradcam": g.mean((2, 3)), "gradcam++": (alpha * g.relu()).sum((2, 3))}
        for method, w in weights.items():
            maps[method].append((w[..., None, None] * a).sum(1).relu().detach())
    return {method: scale_to_unit(torch.cat(parts)) for method, parts in maps.items()}


def assert_the_papers(cams, model, images, classes):
    for layer in cams["gradcam"]:
        found = {method: per_layer[layer].double() for method, per_layer in cams.items()}
        torch.testing.assert_close(found, the_papers_cams(model, images, classes, layer), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_papers_equations(model, images, dtype):
    cams = compute_cams(model.to(dtype), images[:2].to(dtype), CLASSES[:2])
    assert [list(layers) for layers in cams.values()] == [list(LAYERS)] * 2
    assert_the_papers(cams, model, images[:2], CLASSES[:2])


def test_a_relu_in_place_is_another_layer(images):
    cnn, images = small_cnn(), images[..., :20]
    cams = compute_cams(cnn, images, CLASSES, ["conv1", "relu1", "conv2", "relu2"])
    assert_the_papers(cams, cnn, images, CLASSES)


@pytest.mark.parametrize(
    "build, layer", [(resnet18, "layer4"), (squeezenet1_1, "features.12"), (mobilenet_v3_small, "features.12")]
)
def test_explains_torchvisions_networks(build, layer):
    torch.manual_seed(0)
    model, images = build(num_classes=10).eval(), torch.randn(2, 3, 96, 64)
    cams = compute_cams(model, images, [1, 2], layer)
    assert_the_papers(cams, model, images, [1, 2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_mode_and_kind_of_classes_change_nothing(images, mode):
    cnn = small_cnn()
    expected = compute_cams(cnn, images, CLASSES, ["conv2"])
    with mode():
        cams = compute_cams(cnn, images.clone(), torch.tensor(CLASSES, dtype=torch.uint8), "conv2")
    assert all(torch.equal(cams[method]["conv2"], maps["conv2"]) for method, maps in expected.items())


@pytest.mark.parametrize("in_place", [False, True])
def test_explains_compiled_models_by_the_original(images, in_place):
    torch.compiler.reset()
    cnn, graphs = small_cnn(), []
    expected = compute_cams(cnn, images, CLASSES, ["conv2"])["gradcam"]["conv2"]
    options = {"backend": lambda graph, _inputs: graphs.append(graph) or graph}
    compiled = cnn if in_place else torch.compile(cnn, **options)
    if in_place:
        cnn.compile(**options)
    with torch.no_grad():
        compiled(images)
    before = len(graphs)
    assert torch.equal(compute_cams(compiled, images, CLASSES, ["conv2"])["gradcam"]["conv2"], expected)
    assert len(graphs) == before


def test_needs_one_forward_and_one_backward_pass(model, images):
    passes = {"forward": 0, "backward": 0}
    model.conv1.register_forward_hook(lambda *_: passes.update(forward=passes["forward"] + 1))
    model.linear.register_full_backward_hook(lambda *_: passes.update(backward=passes["backward"] + 1))
    compute_cams(model, images, CLASSES)
    assert passes == {"forward": 1, "backward": 1}


@pytest.mark.parametrize("classes", [CLASSES, [0, 0, 0, 10]])
def test_leaves_the_model_and_images_as_they_were(images, classes):
    model = small_cnn(norm=nn.BatchNorm1d(10)).requires_grad_(False)
    state, before = copy.deepcopy(model.state_dict()), images.clone()
    try:
        compute_cams(model, images, classes, ["conv2"])
    except ValueError:
        assert classes != CLASSES
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(images, before) and not images.requires_grad
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())
    assert not any(module._forward_hooks or module.training for module in model.modules())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layers": ["conv1", "layer5"]}, r"unknown layers .*'layer5'.*conv2"),
        ({"layers": []}, "unknown layers"),
        ({"layers": ["pool"]}, "'pool' returns no .* larger than 1x1"),
        ({"class_indices": [1, 2]}, "4 class indices"),
        ({"class_indices": [1, 2, 3, 10]}, r"0\.\.9"),
        ({"class_indices": [1, 2, 3, -1]}, r"0\.\.9"),
        ({"class_indices": torch.rand(4)}, "class indices"),
        ({"against": [1, 2]}, "4 class indices"),
        ({"images": torch.full((4, 3, 32, 32), float("nan"))}, "NaN or infinity"),
        ({"images": torch.zeros(0, 3, 32, 32), "class_indices": []}, r"\(N, 3, H, W\)"),
        ({"images": torch.zeros(4, 3, 32, 32, dtype=torch.uint8)}, "normalized .*uint8"),
        ({"model": small_cnn(end=nn.BatchNorm1d(10)).train()}, r"'end' is in train mode.*model\.eval\(\)"),
        ({"model": small_cnn(end=nn.Dropout(0.5)).train()}, "'end' is in train mode"),
        ({"model": small_cnn(end=StochasticDepth(0.5, "row")).train()}, "'end' is in train mode"),
        ({"model": small_cnn(end=Lambda(lambda x: (x, x))), "layers": ["end"]}, "'end' returns no"),
        ({"model": small_cnn(end=Lambda(lambda x: (x, x)))}, r"scores \(N, classes\)"),
        ({"model": small_cnn(end=Lambda(torch.Tensor.detach))}, r"scores \(N, classes\)"),
        ({"model": small_cnn(end=nn.Unflatten(1, (10, 1, 1)))}, r"scores \(N, classes\)"),
        ({"model": small_cnn(end=Lambda(lambda x: x)), "layers": ["end.spare"]}, r"not call .*'end\.spare'"),
    ],
)
def test_what_cannot_be_explained_gets_one_clear_error(images, change, message):
    request = {"model": small_cnn(), "images": images, "class_indices": CLASSES, "layers": ["conv2"]} | change
    with pytest.raises(ValueError, match=message):
        compute_cams(**request)
    assert all(not module._forward_hooks for module in request["model"].modules())


@pytest.mark.parametrize(
    "broken, value, named",
    [
        ("layer3.1.bn2", float("nan"), "values of layer3"),
        ("layer4.1.bn2", float("inf"), "values of layer4"),
        ("linear", float("nan"), "gradients of layer1"),
    ],
)
def test_values_that_are_not_finite_name_their_layer(model, images, broken, value, named):
    """torchcam sums with nansum, which would turn NaN into an innocent map of zeros."""
    with torch.no_grad():
        model.get_submodule(broken).weight[0] = value
    with pytest.raises(FloatingPointError, match=f"the {named} are not finite"):
        compute_cams(model, images, CLASSES)


def test_maps_span_0_to_1_and_constant_ones_become_zero():
    maps = torch.tensor([[[3.0, 3.0], [3.0, 3.0]], [[1.0, 2.0], [3.0, 5.0]]])
    assert scale_to_unit(maps).tolist() == [[[0, 0], [0, 0]], [[0, 0.25], [0.5, 1]]]


def test_contrastive_maps_are_of_the_difference_of_two_scores(model, images):
    contrastive = compute_cams(model, images[:1], [1], against=[2])
    with torch.no_grad():
        model.linear.weight[1] -= model.linear.weight[2]
    assert_the_papers(contrastive, model, images[:1], [1])


@pytest.mark.parametrize("cells, zoom", [((32, 32), 1), ((16, 8), 3), ((8, 16), 1), ((2, 1), 3)])
def test_cells_lie_on_the_centers_of_their_stride_2_windows(cells, zoom):
    maps, size = torch.rand(2, *cells), (32, 64)
    placed = place_on_image(maps, size, zoom)
    assert placed.shape == (2, 32 * zoom, 64 * zoom)
    rows, columns = (pixels * zoom // count for pixels, count in zip(size, cells, strict=True))
    torch.testing.assert_close(placed[:, zoom // 2 :: rows, zoom // 2 :: columns], maps)
