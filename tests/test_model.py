from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import ResNet18


def test_prints_the_assignments_model():
    assert str(ResNet18()) == Path("tests/assignment_model.txt").read_text().rstrip("\n")


def test_has_the_assignments_parameters():
    assert sum(weight.numel() for weight in ResNet18().parameters()) == 11_173_962


def test_normalizes_each_image_over_channels_rows_and_columns(model):
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    assert len(norms) == 20 and all(isinstance(norm, nn.GroupNorm) and norm.num_groups == 1 for norm in norms)
    for norm in norms:
        x = torch.randn(3, norm.num_channels, 5, 7)
        expected = F.layer_norm(x, x.shape[1:]) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        torch.testing.assert_close(norm(x), expected)


def test_feature_maps_shrink_to_8x8(model):
    shapes = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: out.shape[1:]}))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    expected = {"layer1": (64, 32, 32), "layer2": (128, 16, 16), "layer3": (256, 8, 8), "layer4": (512, 8, 8)}
    assert shapes == expected


def test_no_image_touches_another(model):
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 28, 28), (1, 32, 32, 3)])
def test_names_the_shape_it_needs(model, shape):
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\)"):
        model(torch.zeros(shape))
