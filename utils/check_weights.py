"""Test the published weights and compare with the published figures, no GPU needed: python -m utils.check_weights"""

import json
import os
import sys
from pathlib import Path

from models import ResNet18
from utils.checkpoint import load_weights
from utils.data import DataError, eval_loader, load_cifar10
from utils.training import predict, score

WEIGHTS = Path("models/resnet18_layernorm_cifar10.safetensors")
RESULTS = Path("images/results.json")
TOLERANCE = {"accuracy": 0.05, "cross-entropy": 1e-3, "calibration error": 1e-3}  # between devices


def read_figures(path: Path) -> dict[str, float]:
    """Return the test figures of the published weights.

    Raises:
        FileNotFoundError, ValueError: if there are none, or they lack the test figures.
    """
    try:
        figures = json.loads(path.read_text())["published"]
        return {name: float(figures[name]) for name in TOLERANCE}
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no results at '{path}': check out the file again, or train with S8_MODE=full"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' holds no test figures ({error}): check out the file again") from error


def main() -> None:
    """Print both columns; exit 1 where they differ by more than rounding on another device explains."""
    try:
        published = read_figures(RESULTS)
        model = ResNet18()
        load_weights(WEIGHTS, model)
        data = load_cifar10(Path(os.environ.get("CIFAR10_ROOT", "data")))
    except (OSError, ValueError, DataError) as error:
        sys.exit(str(error))
    measured = score(*predict(model, eval_loader(data.test_images, data.test_labels)))
    print(f"{'':20}{'published':>12}{'measured':>12}")
    for name, figure in measured.items():
        print(f"{name:20}{published[name]:12.4f}{figure:12.4f}")
    if wrong := [name for name, figure in measured.items() if abs(figure - published[name]) > TOLERANCE[name]]:
        sys.exit(f"'{WEIGHTS}' and '{RESULTS}' are not of the same run: they differ in {', '.join(wrong)}")


if __name__ == "__main__":
    main()
