"""Checks of the explanations: are the maps computed right, do they depend on class and weights, do they matter?

Maps are dictionaries {"Grad-CAM layer1": (N, H, W), ...} on the pixel grid, so that baselines fit in beside them.
"""

import copy

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torchcam.methods.gradient import GradCAMpp
from torchvision.transforms.functional import gaussian_blur, rgb_to_grayscale

from models import ResNet18
from utils.gradcam import LAYERS, METHODS, compute_cams, place_on_image, scale_to_unit

Maps = dict[str, Tensor]
CORRELATIONS = ("r, true class", "r, randomised")
LOWER_IS_BETTER = (*CORRELATIONS, "deletion", "repair by true")
RANDOM = dict(zip(LAYERS, ("random 1x1", "random 2x2", "random 4x4", "random 4x4"), strict=True))  # in the same cells
BASELINES = ("random 1x1", "random 2x2", "random 4x4", "centre blob", "edges")
BATCH = 100  # images at a time; 250 are slower on a CPU, see benchmarks/speed.md
CASCADE = ("linear", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1")  # from the last to the first
UNTRAINED = 10  # networks that stand for all that have learned nothing
STEPS = 8  # of a deletion or insertion curve


def explain(model: nn.Module, images: Tensor, classes: Tensor, against: Tensor | None = None) -> Maps:
    """Return the maps of both methods and all layers for one class per image, against another class if given."""
    parts = []
    for chunk in torch.arange(len(images)).split(BATCH):
        other = None if against is None else against[chunk].tolist()
        parts.append(compute_cams(model, images[chunk], classes[chunk].tolist(), against=other))
    return {
        f"{name} {layer}": torch.cat([place_on_image(part[method][layer], images.shape[-1]) for part in parts])
        for method, name in METHODS.items()
        for layer in LAYERS
    }


def baselines(images: Tensor) -> Maps:
    """Return maps that know nothing of the model: noise, a blob in the centre, and the image's edges.

    The noise is in cells of 1, 2 and 4 pixels, as the layers have: blurring pixels here and there costs a model more
    than blurring as many side by side. It is always the same for as many images, so that `pixel_ranks` can repeat it.
    """
    count, _, height, width = images.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    gray = rgb_to_grayscale(images)[:, 0]
    edges = torch.stack(torch.gradient(gray, dim=(1, 2))).norm(dim=0)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand(count, height // cell, width // cell, generator=generator) for cell in (1, 2, 4)]
    blob = torch.exp(-2 * (rows**2 + columns**2)).expand(count, -1, -1)
    maps = [*(place_on_image(cells, height) for cells in noise), blob, scale_to_unit(edges)]
    return {name: map_.to(images.device) for name, map_ in zip(BASELINES, maps, strict=True)}


def reference_cams(model: nn.Module, images: Tensor, classes: list[int], layer: str) -> dict[str, Tensor]:
    """Compute both maps (N, h, w) in float64, an image at a time, term by term as the papers write them.

    Grad-CAM (Selvaraju et al. 2017, eq. 1-2): w_k = mean_ij dS/dA_ij;  Grad-CAM++ (Chattopadhay et al. 2018, eq. 5,
    19): w_k = sum_ij alpha_ij relu(dS/dA_ij);  both: relu(sum_k w_k A_k), here scaled to 0-1.
    """
    model, kept, maps = copy.deepcopy(model).double(), [], {method: [] for method in METHODS}
    model.get_submodule(layer).register_forward_hook(lambda _module, _input, output: kept.append(output))
    for image, class_index in zip(images.double(), classes, strict=True):
        score = model(image[None])[0, class_index]
        a = kept.pop()
        (g,) = torch.autograd.grad(score, a)
        denominator = 2 * g**2 + a.sum((2, 3), keepdim=True) * g**3
        alpha = torch.where(g != 0, g**2 / torch.where(g != 0, denominator, 1), 0)
        maps["gradcam"].append((g.mean((2, 3), keepdim=True) * a).sum(1).relu().detach())
        maps["gradcam++"].append(((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu().detach())
    return {method: scale_to_unit(torch.cat(parts)) for method, parts in maps.items()}


def torchcam_pp(model: nn.Module, images: Tensor, classes: list[int]) -> dict[str, Tensor]:
    """Return what torchcam itself calls Grad-CAM++: {layer: (N, h, w)}, scaled to 0-1."""
    with torch.enable_grad(), GradCAMpp(model, list(LAYERS)) as extractor:
        maps = extractor(classes, model(images.detach().requires_grad_()), normalized=False)
    return {layer: scale_to_unit(cams) for layer, cams in zip(LAYERS, maps, strict=True)}


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's rho = cov(R_a, R_b) / (sd R_a sd R_b) of the ranks R of two maps each (N, H, W): (N,).

    It is NaN where a map is constant.
    """
    ranks = [rankdata(maps.flatten(1).cpu().double().numpy(), axis=1) for maps in (first, second)]
    a, b = (torch.from_numpy(rank - rank.mean(1, keepdims=True)) for rank in ranks)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def randomization(model: nn.Module, images: Tensor, classes: Tensor, seed: int) -> dict[str, Maps]:
    """Return the maps as an untrained network takes the model's place from the last layer down (Adebayo et al. 2018).

    Args:
        seed: of the untrained network; another one than that which the model began from.

    Returns:
        {last randomised module: maps}; at the end of it no learned parameter is left.
    """
    torch.manual_seed(seed)
    model, untrained, maps = copy.deepcopy(model), ResNet18(), {}
    for name in CASCADE:
        model.get_submodule(name).load_state_dict(untrained.get_submodule(name).state_dict())
        maps[name] = explain(model, images, classes)
    return maps


def correlation_with_untrained(model: nn.Module, images: Tensor, classes: Tensor, seed: int) -> dict[str, Tensor]:
    """Return the mean rank correlation of the model's maps with those of each untrained network: {map: (UNTRAINED,)}.

    Every network is asked of its own share of the images, so that the standard error over networks is that of the
    images, too. Fewer images than UNTRAINED take as many networks.

    Args:
        seed: of the first untrained network, before those of the others; the model began from none of them.
    """
    means = []
    for share in torch.arange(len(images)).tensor_split(min(UNTRAINED, len(images))):
        torch.manual_seed(seed + len(means))
        untrained = ResNet18().eval().to(images.device)
        own, other = (explain(network, images[share], classes[share]) for network in (model, untrained))
        means.append({name: rank_correlation(own[name], other[name]).nanmean() for name in own})
    return {name: torch.stack([mean[name] for mean in means]) for name in means[0]}


def mosaics(images: Tensor, labels: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Lay four images of different classes side by side, `count` times, and ask for each of the four in turn.

    Returns:
        mosaics (4 count, 3, 2 H, 2 W), the class asked for (4 count,), and the quarter 0..3 that shows it (4 count,).

    Raises:
        ValueError: if the labels (N,) hold fewer than four classes.
    """
    rng = np.random.default_rng(seed)
    known = labels.unique().numpy()
    if len(known) < 4:
        raise ValueError(f"mosaics need images of four classes, got {len(known)}")
    picks = []
    for _ in range(count):
        chosen = rng.choice(known, 4, replace=False)
        picks.append([int(rng.choice(torch.nonzero(labels == label).flatten().numpy())) for label in chosen])
    picks = torch.tensor(picks)
    quarters = images[picks]  # (count, 4, 3, H, W)
    rows = [torch.cat([quarters[:, 2 * row], quarters[:, 2 * row + 1]], dim=-1) for row in (0, 1)]
    return torch.cat(rows, dim=-2).repeat_interleave(4, 0), labels[picks].flatten(), torch.arange(4).repeat(count)


def explain_mosaics(model: nn.Module, images: Tensor, classes: Tensor) -> Maps:
    """Return the maps of mosaics, which are larger than the 32x32 that the model asks for."""
    any_size = copy.copy(model)
    any_size.forward = model.classify
    return explain(any_size, images, classes)


def pointing_share(maps: Tensor, quarter: Tensor) -> Tensor:
    """Return the share of maps (4 N, 2 H, 2 W) inside their quarters, averaged over the four asked of a mosaic: (N,).

    A share is sum_{p in quarter} M_p / sum_p M_p (Böhle et al. 2021, the localisation metric) of a map M scaled to 0-1.
    Chance, and the share of a map of zeros, is 0.25.
    """
    height, width = maps.shape[1] // 2, maps.shape[2] // 2
    sums = maps.unflatten(1, (2, height)).unflatten(3, (2, width)).sum((2, 4)).flatten(1)  # (N, 4)
    total = sums.sum(1)
    inside = sums.gather(1, quarter[:, None].to(sums.device))[:, 0]
    return torch.where(total > 0, inside / total.clamp(min=1e-12), 0.25).view(-1, 4).mean(1).cpu()


def blur(images: Tensor) -> Tensor:
    """Blur images so that shapes are gone, but not colours: a Gaussian of 5 pixels."""
    return gaussian_blur(images, kernel_size=[21, 21], sigma=[5.0, 5.0])


def pixel_ranks(maps: Maps, images: Tensor) -> dict[str, Tensor]:
    """Rank the pixels of each map of images (N, 3, H, W) from 0 (highest) to just below 1: {map: (N, 1, H, W)}.

    Ties, as where Grad-CAM is zero, follow the random map that this one is judged by, so a constant map scores chance.
    """
    random, ranks = baselines(images), {}
    for name, map_ in maps.items():
        judge = random[RANDOM.get(name.split()[-1], "random 1x1")]
        keys = (random["random 1x1"], judge, map_)  # the last decides first
        order = np.lexsort([-values.flatten(1).cpu().numpy() for values in keys])
        ranks[name] = torch.from_numpy(order.argsort(1) / order.shape[1]).view(map_[:, None].shape).to(map_.device)
    return ranks


@torch.inference_mode()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Return the softmax (N, 10) of the model on images (N, 3, H, W)."""
    return torch.cat([model(chunk).softmax(1) for chunk in images.split(BATCH)])


def deletion_insertion(model: nn.Module, images: Tensor, classes: Tensor, maps: Maps) -> dict[str, Tensor]:
    """Return the class's probability as its top pixels are blurred, and as they alone are kept (Petsiuk et al. 2018).

    Deletion blurs, too; the paper sets pixels to a constant, which cut-out may have trained this model to overlook.

    Returns:
        {map: (2, STEPS + 1, N)}: deletion and insertion, from no pixel to all.
    """

    def probability(mixed: Tensor) -> Tensor:
        return probabilities(model, mixed).cpu().gather(1, classes[:, None])[:, 0]

    blurred = blur(images)
    first = torch.stack([probability(images), probability(blurred)])
    curves = {}
    for name, ranks in pixel_ranks(maps, images).items():
        tops = [ranks < step / STEPS for step in range(1, STEPS)]
        deleted = [probability(torch.where(top, blurred, images)) for top in tops]
        inserted = [probability(torch.where(top, images, blurred)) for top in tops]
        between = torch.stack([torch.stack(deleted), torch.stack(inserted)])
        curves[name] = torch.cat([first[:, None], between, first.flip(0)[:, None]], dim=1)
    return curves


def areas(curves: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the areas under deletion and insertion curves, the scores: {check: {map: (N,)}}."""
    return {
        check: {name: torch.trapezoid(curve[row], dx=1 / STEPS, dim=0) for name, curve in curves.items()}
        for row, check in enumerate(("deletion", "insertion"))
    }


def without_top_quarter(model: nn.Module, images: Tensor, maps: Maps) -> dict[str, Tensor]:
    """Return the softmax on images (N, 3, H, W) once the top quarter of a map is blurred: {map: (N, 10)}."""
    blurred = blur(images)
    return {
        name: probabilities(model, torch.where(ranks < 0.25, blurred, images)).cpu()
        for name, ranks in pixel_ranks(maps, images).items()
    }


def repaired(model: nn.Module, images: Tensor, labels: Tensor, maps: Maps) -> dict[str, Tensor]:
    """Return which images are classified as their label once the top quarter of a map is blurred: {map: (N,)}."""
    left = without_top_quarter(model, images, maps)
    return {name: (softmax.argmax(1) == labels).float() for name, softmax in left.items()}


def cell_offset(model: nn.Module, images: Tensor, layer: str) -> tuple[float, float]:
    """Measure how far (down, right) in pixels the receptive field of a cell lies from where upsampling draws it.

    The field's centre is the mean position of |d cell / d pixel| (Luo et al. 2016), averaged over the two cells on
    either side of the image's centre, because layer normalisation lets every cell see a little of the whole image.
    """
    kept, offsets = [], []
    handle = model.get_submodule(layer).register_forward_hook(lambda _module, _input, output: kept.append(output))
    pixels = images.detach().requires_grad_()
    model(pixels)
    handle.remove()
    features, size = kept[0], images.shape[-1]
    for cell in (features.shape[-1] // 2 - 1, features.shape[-1] // 2):
        (gradient,) = torch.autograd.grad(features[:, :, cell, cell].sum(), pixels, retain_graph=True)
        weight = gradient.abs().sum((0, 1)).cpu()
        drawn = (cell + 0.5) * size / features.shape[-1] - 0.5
        centre = [(weight.sum(dim) @ torch.arange(size, dtype=weight.dtype)) / weight.sum() for dim in (1, 0)]
        offsets.append(torch.stack(centre) - drawn)
    return tuple(torch.stack(offsets).mean(0).tolist())


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of the values that are not NaN, and its standard error, NaN where too few are left."""
    known = values[~values.isnan()].double()
    return known.mean().item(), (known.std() / len(known) ** 0.5).item() if len(known) > 1 else np.nan


def tabulate(values: dict[str, Tensor]) -> pd.DataFrame:
    """Tabulate {map: values (N,)} as mean, standard error and count, a row a map, NaN of constant maps left out."""
    table = {}
    for name, value in values.items():
        mean, error = mean_and_error(value)
        table[name] = (f"{mean:.3f}", f"{error:.3f}", str(int((~value.isnan()).sum())))
    return pd.DataFrame(table, index=["mean", "standard error", "counted"]).T


def is_cam(name: str) -> bool:
    """Tell the explanations' maps from the baselines."""
    return "CAM" in name


def merit(check: str, value: float | Tensor) -> float | Tensor:
    """Turn the value of a check, or a difference of two, into one that is better the higher it is."""
    sign = -1 if check in LOWER_IS_BETTER else 1
    return sign * (abs(value) if check == "r, randomised" else value)


def margins(measured: dict[str, dict[str, Tensor]], judged: list[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return by how much maps are on the right side of the limits of the checks `judged`, and the standard errors.

    A rank correlation is to be below 0.5 (with a randomised model of either sign), a score better than that of the
    RANDOM map. Scores are compared image by image, so the error is mostly smaller than theirs.

    Returns:
        {check: {map: (margin, standard error)}} of {check: {map: values (N,)}}, baselines left out.
    """
    result = {}
    for check in judged:
        values, result[check], correlates = measured[check], {}, check in CORRELATIONS
        for name in filter(is_cam, values):
            random = 0 if correlates else values[RANDOM[name.split()[-1]]]
            mean, error = mean_and_error(values[name] - random)
            result[check][name] = merit(check, mean) + (0.5 if correlates else 0), error
    return result


def summarize(measured: dict[str, dict[str, Tensor]], judged: list[str]) -> pd.DataFrame:
    """Tabulate {check: {map: values (N,)}} as mean ± standard error, the best map of a check marked *:
    the highest, or the lowest of LOWER_IS_BETTER, or the correlation with a randomised model that is nearest to 0.

    The last two columns name the checks of `judged` that a map fails, by the sign of its margin, and those where that
    is unclear: within two standard errors of the limit, on either side.
    """
    table = pd.DataFrame()
    for check, values in measured.items():
        known = {name: mean_and_error(value) for name, value in values.items()}
        merits = {name: merit(check, mean) for name, (mean, _) in known.items() if is_cam(name) and not np.isnan(mean)}
        best = max(merits, key=merits.get, default=None)
        for name, (mean, error) in known.items():
            table.loc[name, check] = f"{mean:.2f} ± {error:.2f}{' *' if name == best else ''}"
    table[["fails", "unclear"]] = ""
    for check, maps in margins(measured, judged).items():
        for name, (margin, error) in maps.items():
            if not margin > 2 * error:  # also where it is NaN
                column = "fails" if margin < -2 * error else "unclear"
                table.loc[name, column] += f"; {check}" if table.loc[name, column] else check
    return table


def verdict(summary: pd.DataFrame, empty: dict[str, int], count: int) -> str:
    """Say in Markdown which maps to read and which not, from a summary and how many of `count` maps are empty."""
    lines = []
    for name, row in summary[summary.index.map(is_cam)].iterrows():
        if "r, true class" in row["fails"]:
            advice = "is much the same map for the true class: do not read it as a reason for the predicted one"
        elif row["fails"] or row["unclear"]:
            advice = "is not to be relied on"
        else:
            advice = "may be read"
        details = [f"{column}: {row[column]}" for column in ("fails", "unclear") if row[column]]
        lines.append(f"- **{name}** {advice}" + (f" ({'. '.join(details)})." if details else "."))
        if name in empty:
            lines[-1] += f" It is empty in {empty[name]} of {count} images."
    return "\n".join(lines)
