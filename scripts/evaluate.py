"""Test the published weights and compare with the published metrics, no GPU needed: python -m scripts.evaluate"""

import sys

from models import ResNet18
from utils.checkpoint import load_weights
from utils.data import DataError, cifar10_root, eval_loader, load_cifar10
from utils.files import RESULTS, WEIGHTS, check_same_run, read_results
from utils.training import metrics, predict


def main() -> None:
    """Print the published and the measured metrics; exit 1 where they differ."""
    try:
        published, model = read_results(RESULTS)["test"], ResNet18()
        load_weights(WEIGHTS, model)
        data = load_cifar10(cifar10_root())
        batches = eval_loader(data.test_images, data.test_labels)
        measured = metrics(*predict(model, batches))
        print(f"{'':20}{'published':>12}{'measured':>12}")
        for name, figure in measured.items():
            print(f"{name:20}{published[name]:12.4f}{figure:12.4f}")
        check_same_run(measured, published)
    except (OSError, ValueError, DataError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
