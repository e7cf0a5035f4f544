import copy

import pytest
import torch
from torch import nn

from models import ResNet18
from utils.muon import Muon, orthogonalize


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, bias=False), nn.Flatten(), nn.Linear(16, 10))


def step(optimizer, model, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("shape", [(64, 576), (128, 64)], ids=["wide", "tall"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_orthogonalized_matrix_has_singular_values_near_1_and_the_same_singular_vectors(shape, dtype):
    torch.manual_seed(0)
    matrix = 1e-6 * torch.randn(shape)
    update = orthogonalize(matrix, dtype)
    assert update.dtype == torch.float32
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    in_their_basis = u.T @ update @ v.T
    values = in_their_basis.diag()
    assert 0.65 < values.min() and values.max() < 1.25
    assert (in_their_basis - values.diag()).abs().max() < (1e-4 if dtype == torch.float32 else 0.05)


def test_a_gradient_of_zeros_gives_an_update_of_zeros():
    assert torch.equal(orthogonalize(torch.zeros(4, 9), torch.float32), torch.zeros(4, 9))


def test_two_steps_follow_the_published_equations():
    model = small_model()
    weight = model[1].weight
    expected, momentum = weight.detach().clone(), torch.zeros(16, 72)
    optimizer = Muon(model, lr=0.02, adamw_lr=1e-3, weight_decay=0.1, dtype=torch.float32)
    for seed in (1, 2):
        step(optimizer, model, seed)
        generator = torch.Generator().manual_seed(seed)
        gradient = [torch.randn(parameter.shape, generator=generator) for parameter in model.parameters()][2].flatten(1)
        momentum = 0.95 * momentum + 0.05 * gradient
        update = orthogonalize(0.05 * gradient + 0.95 * momentum, torch.float32)
        expected = (1 - 0.02 * 0.1) * expected - 0.02 * update.view(16, 8, 3, 3)
        torch.testing.assert_close(weight.detach(), expected)


def test_everything_but_the_inner_convolution_gets_what_adamw_gives():
    model = small_model()
    twin = copy.deepcopy(model)
    muon = Muon(model, lr=0.02, adamw_lr=1e-3, weight_decay=0.1, dtype=torch.float32)
    adamw = torch.optim.AdamW(twin.parameters(), 1e-3, weight_decay=0.0)
    for seed in (1, 2):
        step(muon, model, seed)
        step(adamw, twin, seed)
    for (name, weight), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(weight, other) == (name != "1.weight"), name


def test_the_resnet_has_19_matrices_and_every_parameter_is_optimized():
    model = ResNet18()
    matrices, others = (group["params"] for group in Muon(model, 0.02, 1e-3, 0.1, torch.float32).param_groups)
    assert len(matrices) == 19 and all(weight.shape[1] >= 64 for weight in matrices)
    assert {id(weight) for weight in [*matrices, *others]} == {id(weight) for weight in model.parameters()}


def test_continues_from_its_state_as_if_uninterrupted():
    models = [small_model(), small_model()]
    first, second = (Muon(model, 0.02, 1e-3, 0.1, torch.float32) for model in models)
    step(first, models[0], 1)
    models[1].load_state_dict(models[0].state_dict())
    state = copy.deepcopy(first.state_dict())
    for group in state["param_groups"]:
        group.pop("decoupled_weight_decay", None)  # as in the state of an older torch
    second.load_state_dict(state)
    for optimizer, model in zip((first, second), models, strict=True):
        step(optimizer, model, 2)
    for weight, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(weight, other)
