import os

import pytest
import torch

from models import ResNet18
from utils.data import load_cifar10

torch.set_num_threads(2)
for variable in ("S8_MODE", "S8_SMOKE", "S8_DATA", "S8_DRIVE"):
    os.environ.pop(variable, None)  # the caller's: tests set their own, and keep off the caller's Drive


@pytest.fixture(scope="session")
def cifar10():
    """The official CIFAR-10, where `CIFAR10_ROOT` names a copy."""
    if not os.environ.get("CIFAR10_ROOT"):
        pytest.skip("CIFAR10_ROOT is not set")
    from utils.data import cifar10_root

    return load_cifar10(cifar10_root(), download=False)


@pytest.fixture
def model():
    """A ResNet18 whose scales and shifts are random, so that every branch counts."""
    torch.manual_seed(0)
    model = ResNet18().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.2, 1.0)
    return model
