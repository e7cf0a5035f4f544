"""Explain pictures of your own by the published network, no GPU needed: python -m scripts.explain FILE ...

Prints the three most probable classes of each, and writes Grad-CAM grids of the most probable one to runs/pictures/.
"""

import argparse
import sys
from pathlib import Path

import torch

from models import ResNet18
from utils.checkpoint import load_weights
from utils.files import WEIGHTS
from utils.gradcam import compute_cams
from utils.plotting import plot_cam_grid, save_figure
from utils.transforms import CLASSES, denormalize, load_image, normalize


def explain(model: torch.nn.Module, path: str, grid: Path) -> str:
    """Write the grid of the most probable class; return the three most probable: 'cat 0.93, dog 0.04, frog 0.02'."""
    images = normalize(load_image(path)[None])
    with torch.no_grad():
        probabilities, classes = model(images)[0].softmax(0).topk(3)
    answer = ", ".join(f"{CLASSES[c]} {p:.2f}" for c, p in zip(classes, probabilities, strict=True))
    cams = compute_cams(model, images, classes[:1])
    first = {method: {layer: maps[0] for layer, maps in layers.items()} for method, layers in cams.items()}
    save_figure(plot_cam_grid(denormalize(images)[0], first, answer), grid, answer)
    return answer


def main() -> None:
    """Explain every file that can be read; exit 1 if one cannot, or if the weights cannot."""
    parser = argparse.ArgumentParser(prog="python -m scripts.explain", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE")
    files = parser.parse_args().files
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all letters of a file's name
    model = ResNet18().eval()
    try:
        load_weights(WEIGHTS, model)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    names, failed = set(), False
    for file in files:
        stem = Path(file).stem
        numbered = (f"{stem}-{number}" for number in range(2, len(files) + 1))
        name = next(name for name in (stem, *numbered) if name.casefold() not in names)
        names.add(name.casefold())
        try:
            print(f"{file}: {explain(model, file, Path('runs/pictures', f'{name}.png'))}")
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
