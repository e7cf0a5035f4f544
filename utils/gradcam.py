"""Grad-CAM and Grad-CAM++ for a batch of images and several layers at once, on torchcam."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchcam.methods import GradCAM

LAYERS = ("layer1", "layer2", "layer3", "layer4")
METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}


def grad_cam_pp_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM++'s weights (N, K) of feature maps A (N, K, h, w): Chattopadhay et al. 2018, eq. 19.

    With g = dS/dA_ij for the class score S, which the paper passes through an exponential,
    alpha_ij = g^2 / (2 g^2 + g^3 sum_ab A_ab)  and  w_k = sum_ij alpha_ij relu(g), to which only g > 0 contributes.
    torchcam 0.5.0 never divides (`alpha[mask].div_` changes a copy), so its weights are sum_ij relu(g)^3.
    Eq. 19 takes S as piecewise linear in A. So it is for layer4, which is averaged and classified, but layer
    normalization between A and S adds second derivatives, which are left out here as everywhere.
    """
    positive = gradients.relu()
    denominator = 2 + positive * activations.sum((2, 3), keepdim=True)  # both sides of alpha divided by g^2
    return (positive / denominator).sum((2, 3))


def compute_cams(
    model: nn.Module,
    images: Tensor,
    class_indices: Sequence[int],
    layers: Sequence[str] = LAYERS,
    against: Sequence[int] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Explain the score of one class per image by Grad-CAM (arXiv:1610.02391, eq. 1-2) and Grad-CAM++ (1710.11063).

    Without batch statistics no image touches another, so the gradient of the summed scores is each image's own, and
    both methods weigh the same gradients: all layers and images take one forward and one backward pass.

    Args:
        images: normalized, (N, 3, 32, 32), on the model's device.
        class_indices: the N classes to explain.
        against: N other classes; then the difference of the two scores is explained, the contrast between them.

    Returns:
        {"gradcam": {layer: (N, h, w)}, "gradcam++": {...}}: maps in the layer's resolution, each scaled to 0-1.

    Raises:
        ValueError: for no or non-finite images, an unknown layer, or classes that do not fit.
        FloatingPointError: if a layer's values or gradients are not finite, which torchcam's nansum would hide.
    """
    classes = [int(index) for index in class_indices]
    others = classes if against is None else [int(index) for index in against]
    check_request(model, images, (classes, others), layers)
    with torch.enable_grad(), GradCAM(model, list(layers)) as cam:
        scores = model(images.detach().requires_grad_())
        for asked in (classes, others):
            if not all(0 <= index < scores.shape[1] for index in asked):
                raise ValueError(f"class indices must lie in 0..{scores.shape[1] - 1}, got {asked}")
        if flat := [layer for layer, values in zip(layers, cam.hook_a, strict=True) if values.ndim != 4]:
            raise ValueError(f"layers {flat} have no feature maps (N, K, h, w)")
        if against is not None:
            scores = scores - scores.gather(1, torch.tensor(others, device=scores.device)[:, None])
        maps = {"gradcam": cam(classes, scores, normalized=False)}
        maps["gradcam++"] = [
            (grad_cam_pp_weights(a, g)[..., None, None] * a).sum(1).relu()
            for a, g in zip(cam.hook_a, cam.hook_g, strict=True)
        ]
        for kind, per_layer in (("values", cam.hook_a), ("gradients", cam.hook_g)):
            for layer, tensor in zip(layers, per_layer, strict=True):
                if not tensor.isfinite().all():
                    raise FloatingPointError(f"the {kind} of {layer} are not finite; check the model's weights")
    return {
        method: {layer: scale_to_unit(cams) for layer, cams in zip(layers, per_layer, strict=True)}
        for method, per_layer in maps.items()
    }


def check_request(model: nn.Module, images: Tensor, requests: Sequence[list[int]], layers: Sequence[str]) -> None:
    """Raise a ValueError that says what to change if `compute_cams` cannot explain this."""
    known = [name for name, _ in model.named_modules() if name]
    if unknown := [layer for layer in layers if layer not in known]:
        raise ValueError(f"unknown layers {unknown}; the model has, among others, {[n for n in known if '.' not in n]}")
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"expected at least one image, (N, 3, 32, 32), got {tuple(images.shape)}")
    for classes in requests:
        if len(classes) != len(images):
            raise ValueError(f"{len(images)} images need as many class indices, got {len(classes)}")
    if not images.isfinite().all():
        raise ValueError("the images hold NaN or infinity; normalize finite pixels")


def scale_to_unit(maps: Tensor) -> Tensor:
    """Scale each map (N, h, w) to 0-1; a constant map becomes 0 everywhere."""
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = highest - lowest
    return (maps - lowest) / torch.where(spread > 0, spread, torch.ones_like(spread))


def place_on_image(maps: Tensor, size: int, zoom: int = 1) -> Tensor:
    """Interpolate maps (N, h, w) bilinearly at every pixel of the image: (N, size zoom, size zoom).

    Cell i of a layer with total stride s is computed around pixel s i, the centre of its stride-2 windows, which is
    (s - 1) / 2 pixels up and left of where plain upsampling draws it.
    """
    cells = maps.shape[-1]
    positions = ((torch.arange(size * zoom, device=maps.device) + 0.5) / zoom - 0.5) * cells / size
    grid = 2 * positions / (cells - 1) - 1
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1).expand(len(maps), -1, -1, -1)
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    return F.grid_sample(maps[:, None].float(), points, **options)[:, 0]
