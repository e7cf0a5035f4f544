"""Test the published weights and compare with the published figures, no GPU needed: python -m utils.check_weights"""

import json
import sys
from pathlib import Path

from models import ResNet18
from utils.checkpoint import load_weights
from utils.data import DataError, cifar10_root, eval_loader, load_cifar10
from utils.training import predict, score

WEIGHTS = Path("models/resnet18_layernorm_cifar10.safetensors")
RESULTS = Path("images/results.json")
TOLERANCE = {"accuracy": 0.05, "cross-entropy": 1e-3, "calibration error": 1e-3}  # between devices


def read_results(path: Path) -> dict:
    """Return what the full run wrote about itself and the weights that it published.

    Raises:
        FileNotFoundError, ValueError: if there is nothing, or not all of it; both say what to do.
    """
    try:
        results = json.loads(path.read_text())
        results["published"] = {name: float(results["published"][name]) for name in TOLERANCE}
        return {name: results[name] for name in ("published", "held-out", "config", "trained", "history")}
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no results at '{path}': check out the file again, or train with S8_MODE=full"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' holds no full run ({error!r}): check out the file again") from error


def check_same_run(measured: dict[str, float], published: dict[str, float]) -> None:
    """Raise a ValueError where figures differ by more than rounding on another device explains."""
    if wrong := [name for name in TOLERANCE if not abs(measured[name] - published[name]) <= TOLERANCE[name]]:
        raise ValueError(
            f"'{WEIGHTS}' and '{RESULTS}' are not of the same run: they differ in {', '.join(wrong)}; "
            "check out both files again"
        )


def main() -> None:
    """Print the published and the measured figures; exit 1 where they differ."""
    try:
        published = read_results(RESULTS)["published"]
        model = ResNet18()
        load_weights(WEIGHTS, model)
        data = load_cifar10(cifar10_root())
        measured = score(*predict(model, eval_loader(data.test_images, data.test_labels)))
        print(f"{'':20}{'published':>12}{'measured':>12}")
        for name, figure in measured.items():
            print(f"{name:20}{published[name]:12.4f}{figure:12.4f}")
        check_same_run(measured, published)
    except (OSError, ValueError, DataError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
