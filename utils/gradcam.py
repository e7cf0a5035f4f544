"""Grad-CAM and Grad-CAM++ for a batch of images and several layers at once, on torchcam."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchcam.methods import GradCAM
from torchvision.ops import StochasticDepth

LAYERS = ("layer1", "layer2", "layer3", "layer4")
METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}
EVAL_ONLY = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, StochasticDepth)


def grad_cam_pp_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM++'s weights (N, K) of feature maps A (N, K, h, w): Chattopadhay et al. 2018, eq. 19.

    w_k = sum_ij alpha_ij relu(g)  with  alpha_ij = g^2 / (2 g^2 + g^3 sum_ab A_ab)  and  g = dS/dA_ij,
    for a class score S that is piecewise linear in A. So it is for layer4, which is averaged and classified;
    the second derivatives by normalization between A and S are left out, here as everywhere.
    torchcam 0.5.0 never divides (`alpha[mask].div_` changes a copy): its weights are sum_ij relu(g)^3.
    """
    positive = gradients.relu()
    denominator = 2 + positive * activations.sum((2, 3), keepdim=True)  # alpha, reduced by g^2
    return (positive / denominator).sum((2, 3))


@torch.compiler.set_stance("force_eager")  # compiled code may skip hooks
def compute_cams(
    model: nn.Module,
    images: Tensor,
    class_indices: Sequence[int],
    layers: str | Sequence[str] = LAYERS,
    against: Sequence[int] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Explain one class per image by Grad-CAM (arXiv:1610.02391, eq. 1-2) and Grad-CAM++ (1710.11063).

    In eval mode no image touches another, so the gradient of the summed scores is each image's own,
    and one forward and one backward pass serve both methods and all layers. The model stays as it was.

    Args:
        model: any CNN that returns scores (N, classes).
        images: normalized, (N, 3, H, W), on the model's device.
        class_indices: the N classes to explain.
        layers: names of modules that return feature maps.
        against: N other classes, for contrastive maps of the scores' difference (Finer-CAM, arXiv:2501.11309).

    Returns {"gradcam": {layer: (N, h, w)}, "gradcam++": {...}}, in the layer's resolution and scaled to 0-1. Raises a
    ValueError that says what to change, or a FloatingPointError for values, gradients or maps that are not finite.
    """
    model = getattr(model, "_orig_mod", model)  # which torch.compile wraps
    layers = [layers] if isinstance(layers, str) else list(layers)
    check_request(model, images, layers)
    with torch.inference_mode(False), torch.enable_grad(), GradCAM(model, layers) as cam:
        for layer in layers:
            module, hook = model.get_submodule(layer), partial(copy_output, layer)
            for first in (True, False):  # around torchcam's: nothing in place reaches what it keeps
                cam.hook_handles.append(module.register_forward_hook(hook, prepend=first))
        scores = model(images.detach() + images.new_zeros((), requires_grad=True))  # weights may be frozen
        fits = isinstance(scores, Tensor) and scores.shape[:-1] == images.shape[:1]
        if not fits or not scores.requires_grad:
            raise ValueError("the model must return differentiable scores (N, classes), nothing else")
        if unused := [layer for layer, values in zip(layers, cam.hook_a, strict=True) if values is None]:
            raise ValueError(f"the model does not call its layers {unused}; choose others")
        score = select(scores, class_indices)
        if against is not None:
            score = score - select(scores, against)
        maps = {"gradcam": cam(0, score, normalized=False)}
        weights = map(grad_cam_pp_weights, cam.hook_a, cam.hook_g)
        maps["gradcam++"] = [(w[..., None, None] * a).sum(1).relu() for w, a in zip(weights, cam.hook_a, strict=True)]
        for kind, tensors in ({"values": cam.hook_a, "gradients": cam.hook_g} | maps).items():  # torchcam hides NaN
            if bad := [layer for layer, t in zip(layers, tensors, strict=True) if not t.isfinite().all()]:
                raise FloatingPointError(f"the {kind} of {bad[0]} are not finite; check the weights")
    return {method: dict(zip(layers, map(scale_to_unit, cams), strict=True)) for method, cams in maps.items()}


def check_request(model: nn.Module, images: Tensor, layers: list[str]) -> None:
    """Raise a ValueError that says what to change if `compute_cams` cannot explain this."""
    modules = dict(model.named_modules())
    if not layers or not modules.keys() >= set(layers):
        known = [name for name, _ in model.named_children()]
        raise ValueError(f"unknown layers {layers}; the model has, among others, {known}")
    for name, module in modules.items():
        if module.training and isinstance(module, EVAL_ONLY):
            raise ValueError(f"'{name}' is in train mode, where maps vary; call model.eval()")
    if images.ndim != 4 or len(images) == 0 or not torch.is_tensor(images) or not images.is_floating_point():
        raise ValueError(f"expected normalized image tensors (N, 3, H, W), got {images.shape} {images.dtype}")
    if not images.isfinite().all():
        raise ValueError("the images hold NaN or infinity; normalize finite pixels")


def copy_output(layer: str, _module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    """Return a copy of a layer's feature maps (N, K, h, w), or raise a ValueError if they are none."""
    fits = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1
    if not fits or not output.requires_grad:
        raise ValueError(f"'{layer}' returns no differentiable maps larger than 1x1; choose another layer")
    return output.clone()


def select(scores: Tensor, class_indices: Sequence[int]) -> Tensor:
    """Return each image's score (N, 1) of its class, or raise a ValueError if the classes do not fit."""
    classes = torch.as_tensor(class_indices, device=scores.device)
    fits = classes.shape == scores.shape[:1] and not classes.is_floating_point()
    if not fits or classes.min() < 0 or classes.max() >= scores.shape[1]:
        raise ValueError(f"expected {len(scores)} class indices in 0..{scores.shape[1] - 1}, got {class_indices}")
    return scores.gather(1, classes.long()[:, None])


def scale_to_unit(maps: Tensor) -> Tensor:
    """Scale each map (N, h, w) to 0-1; a constant map becomes 0 everywhere."""
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = highest - lowest
    return (maps - lowest) / torch.where(spread > 0, spread, torch.ones_like(spread))


def place_on_image(maps: Tensor, size: int | tuple[int, int], zoom: int = 1) -> Tensor:
    """Interpolate maps (N, h, w) bilinearly at every pixel of an image (H, W): (N, H zoom, W zoom).

    Cell i of a layer with total stride s = H / h is computed around pixel s i, the center of its stride-2
    windows, which is (s - 1) / 2 pixels up and left of where plain upsampling draws it.
    """
    sizes, grids = (size, size) if isinstance(size, int) else size, []
    for cells, pixels in zip(maps.shape[1:], sizes, strict=True):
        positions = ((torch.arange(pixels * zoom, device=maps.device) + 0.5) / zoom - 0.5) * cells / pixels
        grids.append(2 * positions / max(cells - 1, 1) - 1)
    y, x = torch.meshgrid(*grids, indexing="ij")
    points = torch.stack((x, y), dim=-1).expand(len(maps), -1, -1, -1)
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    return F.grid_sample(maps[:, None].float(), points, **options)[:, 0]
