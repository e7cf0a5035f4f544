"""Time all maps of 20 images at once and one torchcam call a map, in turn: python -m benchmarks.cam_speed"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchcam.methods import GradCAM
from torchcam.methods.gradient import GradCAMpp

from models import ResNet18
from utils.data import load_data
from utils.environment import choose_device, describe_environment
from utils.files import write_json
from utils.gradcam import LAYERS, compute_cams, grad_cam_pp_weights, scale_to_unit
from utils.transforms import normalize


class GradCAMPlusPlus(GradCAMpp):
    """torchcam's extractor with the weights of the paper."""

    def _get_weights(self, class_idx, scores, **kwargs) -> list[Tensor]:
        self._backprop(scores, class_idx, **kwargs)
        return [grad_cam_pp_weights(a, g) for a, g in zip(self.hook_a, self.hook_g, strict=True)]


def one_by_one(model: nn.Module, images: Tensor, classes: list[int]) -> dict[str, dict[str, Tensor]]:
    """Return what `compute_cams` returns by one forward and one backward pass for each map."""
    cams = {"gradcam": {}, "gradcam++": {}}
    for layer in LAYERS:
        for method, extractor in zip(cams, (GradCAM, GradCAMPlusPlus), strict=True):
            with extractor(model, layer) as cam:
                maps = [cam(i, model(x[None]), normalized=False)[0] for i, x in zip(classes, images, strict=True)]
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
    """Measure both ways in turn, after one repeat of each that does not count; save runs/cam_speed.json."""
    device, data = choose_device(), load_data()
    torch.manual_seed(0)
    model = ResNet18().to(device, memory_format=torch.channels_last).eval()
    inputs = model, normalize(data.test_images[:count]).to(device), data.test_labels[:count].tolist()
    ways = {"one_by_one": one_by_one, "compute_cams": compute_cams}
    runs = [{name: measure(way, *inputs) for name, way in ways.items()} for _ in range(repeats + 1)][1:]
    ratios = [run["one_by_one"][0] / run["compute_cams"][0] for run in runs]
    expected, cams = (runs[0][name][1] for name in ways)
    pairs = [(cams[method][layer], maps) for method in cams for layer, maps in expected[method].items()]
    results = {f"{name}_seconds": statistics.median(run[name][0] for run in runs) for name in ways}
    results |= {"ratio": statistics.median(ratios), "ratios": ratios, "maps": sum(len(maps) for maps, _ in pairs)}
    results["largest_difference"] = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    results |= {"data": data.name, "environment": describe_environment(device)}
    write_json(Path("runs/cam_speed.json"), results)
    return results


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
