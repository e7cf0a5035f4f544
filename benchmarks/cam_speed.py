"""Time all maps of 20 images at once and one by one, in turn: python -m benchmarks.cam_speed"""

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchcam.methods import GradCAM
from torchcam.methods.gradient import GradCAMpp

from benchmarks.train_speed import time_in_turn
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
        return [grad_cam_pp_weights(self.hook_a[0], self.hook_g[0])]


def one_by_one(model: nn.Module, images: Tensor, classes: list[int]) -> dict[str, dict[str, Tensor]]:
    """Return what `compute_cams` does, by a forward and a backward pass of torchcam for each map."""
    cams = {"gradcam": {}, "gradcam++": {}}
    for layer in LAYERS:
        for method, extractor in (("gradcam", GradCAM), ("gradcam++", GradCAMPlusPlus)):
            with extractor(model, layer) as cam:
                maps = [cam(i, model(x[None]), normalized=False)[0] for i, x in zip(classes, images, strict=True)]
            cams[method][layer] = scale_to_unit(torch.cat(maps))
    return cams


def main(repeats: int = 5, count: int = 20) -> dict:
    """Measure both ways and save runs/cam_speed.json."""
    device, data = choose_device(), load_data()
    torch.manual_seed(0)
    model = ResNet18().to(device, memory_format=torch.channels_last).eval()
    inputs = model, normalize(data.test_images[:count]).to(device), data.test_labels[:count].tolist()
    ways = {"one_by_one": partial(one_by_one, *inputs), "compute_cams": partial(compute_cams, *inputs)}
    seconds = time_in_turn(ways, repeats)
    ratios = seconds["one_by_one"] / seconds["compute_cams"]
    results = {f"{name}_seconds": median for name, median in seconds.median().items()}
    results |= {"ratio": ratios.median(), "maps": 2 * len(LAYERS) * count}
    results |= {"data": data.name, "environment": describe_environment(device)}
    write_json(Path("runs/cam_speed.json"), results)
    return results


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
