"""Time all maps of 20 images at once and one torchcam call a map, in turn: python -m benchmarks.cam_speed"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchcam.methods import GradCAM
from torchcam.methods.gradient import GradCAMpp

from models import ResNet18
from utils.checkpoint import write_json
from utils.data import load_data
from utils.environment import describe_environment
from utils.gradcam import LAYERS, compute_cams, grad_cam_pp_weights, scale_to_unit
from utils.transforms import normalize


class GradCAMPlusPlus(GradCAMpp):
    """torchcam's extractor with the weights of the paper."""

    def _get_weights(self, class_idx, scores, **kwargs) -> list[Tensor]:
        self._backprop(scores, class_idx, **kwargs)
        return [grad_cam_pp_weights(a, g) for a, g in zip(self.hook_a, self.hook_g, strict=True)]


EXTRACTORS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}


def one_by_one(model: nn.Module, images: Tensor, classes: list[int]) -> dict[str, dict[str, Tensor]]:
    """Return what `compute_cams` returns by one forward and one backward pass for each map (h, w)."""
    cams = {method: {} for method in EXTRACTORS}
    for method, extractor in EXTRACTORS.items():
        for layer in LAYERS:
            with extractor(model, layer) as cam:
                maps = [
                    cam(i, model(image[None]), normalized=False)[0] for image, i in zip(images, classes, strict=True)
                ]
            cams[method][layer] = scale_to_unit(torch.cat(maps))
    return cams


def measure(explain: Callable, *inputs) -> tuple[float, dict[str, dict[str, Tensor]]]:
    """Return the seconds that `explain` takes, and the maps."""
    start = time.perf_counter()
    cams = explain(*inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, cams


def main(repeats: int = 5, count: int = 20) -> dict:
    """Measure both ways in turn, after one repeat of each that does not count; print and save runs/cam_speed.json."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # as in the notebook
    data = load_data()
    torch.manual_seed(0)
    model = ResNet18().to(device, memory_format=torch.channels_last).eval()
    images = normalize(data.test_images[:count]).to(device)
    inputs = model, images, data.test_labels[:count].tolist()
    runs = [[measure(way, *inputs) for way in (one_by_one, compute_cams)] for _ in range(repeats + 1)][1:]
    singly, together = (statistics.median(run[way][0] for run in runs) for way in (0, 1))
    ratios = [slow[0] / fast[0] for slow, fast in runs]
    expected, cams = (cams for _, cams in runs[0])
    results = {
        "seconds, one call a map": singly,
        "seconds, compute_cams": together,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "largest difference": max((cams[m][n] - expected[m][n]).abs().max().item() for m in EXTRACTORS for n in LAYERS),
        "maps": count * len(LAYERS) * len(EXTRACTORS),
        "data": data.name,
        "environment": describe_environment(device),
    }
    print(f"{results['maps']} maps of {count} images, {data.name}, {results['environment']['device']}:")
    print(f"{singly:.3f} s by one call a map, {together:.3f} s by compute_cams, medians of {repeats} repeats in turn")
    print(f"{results['ratio']:.1f} times as fast (from {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"largest difference between two maps: {results['largest difference']:.1e}")
    write_json(Path("runs/cam_speed.json"), results)
    return results


if __name__ == "__main__":
    main()
