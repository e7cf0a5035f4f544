"""Checks of the maps: are they computed right, do they depend on class and weights, do they matter to the model?

Maps lie on the pixel grid, (N, H, W) in 0-1, under keys (method, layer) as ("gradcam", "layer1"); maps that know
nothing of the model fit in beside them under ("baseline", name).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torchcam.methods.gradient import GradCAMpp
from torchvision.transforms.functional import gaussian_blur, rgb_to_grayscale
from torchvision.utils import make_grid

from models import ResNet18
from utils.gradcam import LAYERS, METHODS, compute_cams, place_on_image, scale_to_unit
from utils.progress import progress
from utils.training import native_precision

Key = tuple[str, str]
Maps = dict[Key, Tensor]
BASELINES = tuple(("baseline", name) for name in ("random 1x1", "random 2x2", "random 4x4", "center prior", "edges"))
RANDOM_IN_CELLS_OF = dict(zip(LAYERS, (*BASELINES[:3], BASELINES[2]), strict=True))  # as large as the layer's own
CHUNK = 100  # images at a time; 250 are slower on a CPU
CASCADE = ("linear", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1")  # from the last to the first
UNTRAINED_NETWORKS = 10
CURVE_STEPS = 8  # of a deletion or insertion curve
blur = partial(gaussian_blur, kernel_size=[21, 21], sigma=[5.0, 5.0])  # shapes are gone, colors are not


@dataclass(frozen=True)
class Check:
    """A question that is put to every map, answered by one value an image (or network)."""

    name: str
    better: str  # "lower", "higher" or "near 0"
    limit: float | None = None  # what the mean must clear; None: that of the random map in cells as large
    judged: bool = True

    def margin(self, values: Maps, key: Key) -> tuple[float, float]:
        """Return by how much the mean of values (N,) is on the right side of the limit, and the standard error."""
        if self.limit is not None:
            mean, error = mean_and_error(values[key])
            return self.limit - (abs(mean) if self.better == "near 0" else mean), error
        mean, error = mean_and_error(values[key] - values[RANDOM_IN_CELLS_OF[key[1]]])  # image by image
        return mean if self.better == "higher" else -mean, error


CHECKS = (
    Check("class", "lower", limit=0.5),
    Check("weights", "near 0", limit=0.5),
    Check("pointing", "higher"),
    Check("deletion", "lower"),
    Check("insertion", "higher"),
    Check("fixed", "higher"),
    Check("fixed contrastive", "higher"),
    Check("fixed true", "lower", judged=False),
)


def outcome(margin: float, error: float) -> str:
    """Return "passes" or "fails" beyond two standard errors, else, or where either is NaN, "unclear"."""
    return "passes" if margin > 2 * error else "fails" if margin < -2 * error else "unclear"


def margins(measured: dict[str, Maps]) -> dict[str, dict[Key, tuple[float, float]]]:
    """Return {check: {key: (margin, standard error)}} of the checks that are judged, baselines left out."""
    return {
        check.name: {key: check.margin(measured[check.name], key) for key in measured[check.name] if key[0] in METHODS}
        for check in CHECKS
        if check.judged and check.name in measured
    }


def passing(margins: dict[str, dict[Key, tuple[float, float]]]) -> list[Key]:
    """Return the keys of the maps that pass every check."""
    keys = next(iter(margins.values()))
    return [key for key in keys if all(outcome(*maps[key]) == "passes" for maps in margins.values())]


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of the values that are not NaN, and its standard error, NaN where too few are left."""
    known = values[~values.isnan()].double()
    return known.mean().item(), (known.std() / len(known) ** 0.5).item() if len(known) > 1 else np.nan


def explain(model: nn.Module, images: Tensor, classes: Tensor, *, against: Tensor | None = None) -> Maps:
    """Return the maps of both methods and all layers for one class per image, against another class if given."""
    parts = []
    for chunk in progress(torch.arange(len(images)).split(CHUNK), "maps"):
        other = None if against is None else against[chunk].tolist()
        parts.append(compute_cams(model, images[chunk], classes[chunk].tolist(), against=other))
    return {
        (method, layer): torch.cat([place_on_image(part[method][layer], images.shape[-1]) for part in parts])
        for method in METHODS
        for layer in LAYERS
    }


def baselines(images: Tensor) -> Maps:
    """Return maps that know nothing of the model: noise, a center prior, and the image's edges.

    The noise, the same in every call, is in cells of 1, 2 and 4 pixels, as the layers have: blurring pixels here and
    there costs a model more than blurring as many side by side.
    """
    count, _, height, width = images.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    gray = rgb_to_grayscale(images)[:, 0]
    edges = torch.stack(torch.gradient(gray, dim=(1, 2))).norm(dim=0)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand(count, height // cell, width // cell, generator=generator) for cell in (1, 2, 4)]
    center = torch.exp(-2 * (rows**2 + columns**2)).expand(count, -1, -1)
    maps = [*(place_on_image(cells, height) for cells in noise), center, scale_to_unit(edges)]
    return {key: map_.to(images.device) for key, map_ in zip(BASELINES, maps, strict=True)}


def reference_cams(model: nn.Module, images: Tensor, classes: list[int]) -> dict[str, dict[str, Tensor]]:
    """Compute all maps (N, h, w) in float64, an image at a time, term by term as the papers write them.

    Grad-CAM (Selvaraju et al. 2017, eq. 1-2): w_k = mean_ij dS/dA_ij;  Grad-CAM++ (Chattopadhay et al. 2018, eq. 5,
    19): w_k = sum_ij alpha_ij relu(dS/dA_ij);  both: relu(sum_k w_k A_k), here scaled to 0-1.
    """
    model, kept = copy.deepcopy(model).double(), {}
    maps = {method: {layer: [] for layer in LAYERS} for method in METHODS}
    for layer in LAYERS:
        model.get_submodule(layer).register_forward_hook(lambda *call, layer=layer: kept.update({layer: call[2]}))
    for image, index in zip(progress(images.double(), "reference maps"), classes, strict=True):
        score = model(image[None].requires_grad_())[0, index]
        for layer, g in zip(LAYERS, torch.autograd.grad(score, [kept[layer] for layer in LAYERS]), strict=True):
            a = kept[layer].detach()
            denominator = 2 * g**2 + a.sum((2, 3), keepdim=True) * g**3
            alpha = torch.where(g != 0, g**2 / torch.where(g != 0, denominator, 1), 0)
            maps["gradcam"][layer].append((g.mean((2, 3), keepdim=True) * a).sum(1).relu())
            maps["gradcam++"][layer].append(((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu())
    return {
        method: {layer: scale_to_unit(torch.cat(parts)) for layer, parts in layers.items()}
        for method, layers in maps.items()
    }


def torchcam_pp(model: nn.Module, images: Tensor, classes: list[int]) -> dict[str, Tensor]:
    """Return what torchcam itself calls Grad-CAM++: {layer: (N, h, w)}, scaled to 0-1."""
    with torch.enable_grad(), GradCAMpp(model, list(LAYERS)) as extractor:
        maps = extractor(classes, model(images.detach().requires_grad_()), normalized=False)
    return {layer: scale_to_unit(cams) for layer, cams in zip(LAYERS, maps, strict=True)}


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's rho = cov(R_a, R_b) / (sd R_a sd R_b) of the ranks R of maps (N, H, W), NaN if constant."""
    ranks = [rankdata(maps.flatten(1).cpu().double().numpy(), axis=1) for maps in (first, second)]
    a, b = (torch.from_numpy(rank - rank.mean(1, keepdims=True)) for rank in ranks)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def randomize(model: nn.Module, images: Tensor, classes: Tensor, *, seed: int) -> Iterator[tuple[str, Maps]]:
    """Yield (last randomized module, maps) as an untrained network takes the model's place from the last layer down.

    That is the model randomization test of Adebayo et al. 2018 (arXiv:1810.03292). The model must not have begun from
    the untrained network's seed.
    """
    torch.manual_seed(seed)
    model, untrained = copy.deepcopy(model), ResNet18()
    for name in progress(CASCADE, "randomized layers"):
        model.get_submodule(name).load_state_dict(untrained.get_submodule(name).state_dict())
        yield name, explain(model, images, classes)


def correlation_with_untrained(model: nn.Module, images: Tensor, classes: Tensor, *, seed: int) -> Maps:
    """Return the mean rank correlation of the model's maps with those of each untrained network: {key: (networks,)}.

    Every network gets its own share of the images, so that the standard error over networks is that of the images,
    too. Their seeds are `seed` and what follows; the model must have begun from none of them.
    """
    means = []
    for share in progress(torch.arange(len(images)).tensor_split(min(UNTRAINED_NETWORKS, len(images))), "networks"):
        torch.manual_seed(seed + len(means))
        untrained = ResNet18().eval().to(images.device)
        own, other = (explain(network, images[share], classes[share]) for network in (model, untrained))
        means.append({key: rank_correlation(own[key], other[key]).nanmean() for key in own})
    return {key: torch.stack([mean[key] for mean in means]) for key in means[0]}


def mosaics(
    images: Tensor, labels: Tensor, correct: Tensor, *, count: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay four images of different classes side by side, `count` times, to explain each of the four classes in turn.

    They are images that the model classifies correctly, `correct` (N,), unless it does so in fewer than four classes.
    Returns mosaics (4 count, 3, 2 H, 2 W), the classes to explain (4 count,) and the quarters 0..3 that show them.
    """
    if len(labels[correct].unique()) >= 4:
        images, labels = images[correct], labels[correct]
    rng, picks = np.random.default_rng(seed), []
    for _ in range(count):
        chosen = rng.choice(labels.unique().numpy(), 4, replace=False)
        picks.append([int(rng.choice(torch.nonzero(labels == label).flatten().numpy())) for label in chosen])
    grids = torch.stack([make_grid(images[four], nrow=2, padding=0) for four in picks])
    return grids.repeat_interleave(4, 0), labels[torch.tensor(picks).flatten()], torch.arange(4).repeat(count)


def explain_mosaics(model: nn.Module, images: Tensor, classes: Tensor) -> Maps:
    """Return the maps of mosaics, which are larger than the 32x32 that the model's forward takes."""
    any_size = copy.copy(model)
    any_size.forward = model.classify
    return explain(any_size, images, classes)


def pointing_share(maps: Tensor, quarter: Tensor) -> Tensor:
    """Return the share of maps (4 N, 2 H, 2 W) inside their quarters, averaged over a mosaic's four classes: (N,).

    A share is sum_{p in quarter} M_p / sum_p M_p (Böhle et al. 2021, the localization metric) of a map M scaled to 0-1.
    Chance, and the share of a map of zeros, is 0.25.
    """
    sums = maps.unflatten(1, (2, -1)).unflatten(3, (2, -1)).sum((2, 4)).flatten(1)  # (4 N, 4)
    inside = sums.gather(1, quarter[:, None].to(sums.device))[:, 0]
    return (inside / sums.sum(1)).nan_to_num(0.25).view(-1, 4).mean(1).cpu()


def pixel_ranks(maps: Maps, images: Tensor) -> Maps:
    """Rank the pixels of each map of images (N, 3, H, W) from 0 (highest) to just below 1: {key: (N, 1, H, W)}.

    Ties, as where Grad-CAM is zero, follow the random map that this one is judged by, so a constant map scores chance.
    """
    random, ranks = baselines(images), {}
    for key, map_ in maps.items():
        judge = random[RANDOM_IN_CELLS_OF.get(key[1], BASELINES[0])]
        order = np.lexsort([-values.flatten(1).cpu().numpy() for values in (random[BASELINES[0]], judge, map_)])
        ranks[key] = torch.from_numpy(order.argsort(1) / order.shape[1]).view(map_[:, None].shape).to(map_.device)
    return ranks


@torch.inference_mode()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Return the softmax (N, 10) on the CPU of the model on images (N, 3, H, W), in the device's native precision."""
    dtype = getattr(torch, native_precision(images.device))
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return torch.cat([model(chunk).float().softmax(1) for chunk in images.split(CHUNK)]).cpu()


def deletion_insertion(model: nn.Module, images: Tensor, classes: Tensor, maps: Maps) -> Maps:
    """Return the class's probability as its top pixels are blurred, and as they alone are kept (Petsiuk et al. 2018).

    Deletion blurs, too; the paper sets pixels to a constant, which cutout may have trained this model to overlook.
    Returns {key: (2, CURVE_STEPS + 1, N)}: deletion and insertion, from no pixel to all.
    """

    def probability(mixed: Tensor) -> Tensor:
        return probabilities(model, mixed).gather(1, classes[:, None])[:, 0]

    blurred = blur(images)
    first = torch.stack([probability(images), probability(blurred)])
    curves = {}
    for key, ranks in progress(pixel_ranks(maps, images).items(), "deletion and insertion"):
        tops = [ranks < step / CURVE_STEPS for step in range(1, CURVE_STEPS)]
        deleted = [probability(torch.where(top, blurred, images)) for top in tops]
        inserted = [probability(torch.where(top, images, blurred)) for top in tops]
        between = torch.stack([torch.stack(deleted), torch.stack(inserted)])
        curves[key] = torch.cat([first[:, None], between, first.flip(0)[:, None]], dim=1)
    return curves


def areas(curves: Maps) -> dict[str, Maps]:
    """Return the areas under deletion and insertion curves, the scores: {check: {key: (N,)}}."""
    return {
        check: {key: torch.trapezoid(curve[row], dx=1 / CURVE_STEPS, dim=0) for key, curve in curves.items()}
        for row, check in enumerate(("deletion", "insertion"))
    }


def without_top_quarter(model: nn.Module, images: Tensor, maps: Maps) -> Maps:
    """Return the softmax on images (N, 3, H, W) once the top quarter of a map is blurred: {key: (N, 10)}."""
    blurred = blur(images)
    return {
        key: probabilities(model, torch.where(ranks < 0.25, blurred, images))
        for key, ranks in progress(pixel_ranks(maps, images).items(), "blurred images")
    }


def errors_fixed(model: nn.Module, images: Tensor, labels: Tensor, maps: Maps) -> Maps:
    """Return which images are classified as their label once the top quarter of a map is blurred: {key: (N,)}."""
    left = without_top_quarter(model, images, maps)
    return {key: (softmax.argmax(1) == labels).float() for key, softmax in left.items()}
