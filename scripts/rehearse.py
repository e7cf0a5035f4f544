"""Rehearse a full run in small, and all that follows it, in a copy of the checkout: python -m scripts.rehearse

Needs CIFAR-10 where CIFAR10_ROOT or ./data has it. The checkout stays as it is.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from utils.data import cifar10_root
from utils.files import WEIGHTS

SMALL = {  # appended to modules of the copy; nothing else knows of it
    "utils/training.py": "RECIPE = Recipe(epochs=2, train_images=200, validation_images=100, batch_size=64)",
    "utils/environment.py": 'SIZES["full"] = Sizes(test_images=200, trust_images=4, trust_errors=20)',
}


def main() -> None:
    """Run the notebook, fill and publish the pages, and run the tests, in the copy; exit 1 where one of them fails."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, check=True)
    environment = os.environ | {"S8_MODE": "full", "S8_DRIVE": "", "CIFAR10_ROOT": str(cifar10_root().resolve())}
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(os.path.exists, listed.stdout.decode().split("\0")):
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, Path(folder, name))
        for name, line in SMALL.items():
            with open(Path(folder, name), "a") as module:
                module.write(f"\n\n{line}\n")
        for command in ("scripts.run_notebook", "scripts.pages --check", "scripts.publish", "pytest -q"):
            print(f"\n$ python -m {command}", flush=True)
            subprocess.run([sys.executable, "-m", *command.split()], cwd=folder, env=environment, check=True)
        ema = torch.load(Path(folder, "runs/full/checkpoint.pt"), weights_only=True)["state"]["ema"]
        saved = load_file(Path(folder, WEIGHTS))
        if not all(torch.equal(saved[name], ema[name].half()) for name in ema):
            sys.exit("the published weights are not the EMA's")
    print("\nA full run leaves pages, pictures, weights and results that agree.")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(map(str, error.cmd[2:]))}")
