import inspect
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.faults.train import small_model
from utils.data import eval_loader, train_loader
from utils.muon import Muon
from utils.standin import draw_shapes
from utils.training import (
    evaluate,
    find_misclassified,
    native_dtype,
    predict,
    score,
    take_step,
    train_one_epoch,
    uphill,
)

IMAGES, LABELS, _ = draw_shapes(200, seed=0)


def tiny_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))


def train(model, loader, rate=0.0, scaled=False, **options):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    return train_one_epoch(model, loader, optimizer, scaler, 0, torch.float32, **options)


def test_returns_the_mean_over_images_not_over_batches():
    loader = train_loader(IMAGES, LABELS, batch_size=64, seed=0)
    loader = torch.utils.data.DataLoader(
        loader.dataset, 64, sampler=loader.sampler, collate_fn=loader.collate_fn
    )  # with a short last batch
    model = tiny_model()
    loss, accuracy = train(model, loader)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert len(labels) == 200
    assert loss == pytest.approx(F.cross_entropy(model(images), labels).item(), rel=1e-5)
    assert accuracy == pytest.approx(100 * (model(images).argmax(1) == labels).float().mean().item())


def test_learns():
    model, loader = tiny_model(), train_loader(IMAGES, LABELS, batch_size=20, seed=0)
    first, _ = train(model, loader, rate=0.02)
    for _ in range(4):
        last, _ = train(model, loader, rate=0.02)
    assert last < first


def test_warms_up_in_the_first_epoch_only():
    model, loader = tiny_model(), train_loader(IMAGES, LABELS, batch_size=20, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=len(loader))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for epoch in (0, 1):
        train_one_epoch(model, loader, optimizer, scaler, epoch, torch.float32, warmup)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert warmup.last_epoch == len(loader)


def test_an_evaluation_does_not_stop_the_statistics_of_a_batch_norm():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    loader, scaler = train_loader(IMAGES, LABELS, batch_size=20, seed=0), torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    for epoch in (1, 2):
        train_one_epoch(model, loader, optimizer, scaler, epoch, torch.float32)
        assert model[0].num_batches_tracked == epoch * len(loader)
        evaluate(model, eval_loader(IMAGES, LABELS))
    assert model[0].num_batches_tracked == 2 * len(loader)


def test_the_average_takes_in_the_weights_of_every_step():
    model, loader = tiny_model(), train_loader(IMAGES, LABELS, batch_size=20, seed=0)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer, seen = torch.optim.SGD(model.parameters(), 0.1), []
    optimizer.register_step_post_hook(lambda *_: seen.append(model[3].weight.detach().clone()))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    train_one_epoch(model, loader, optimizer, scaler, 0, torch.float32, average=average)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.9 * expected + 0.1 * weight
    assert len(seen) == len(loader)
    torch.testing.assert_close(average.module[3].weight.detach(), expected)


def take_one_step(model, dtype, images, labels):
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.0), torch.amp.GradScaler("cpu", enabled=False)
    return take_step(model, optimizer, scaler, images, labels, dtype, smoothing=0.1, radius=0.0)


@pytest.mark.parametrize("dtype, sizes", [(torch.float32, [64, 64, 22]), (torch.bfloat16, [150])])
def test_only_float32_takes_a_batch_in_parts(dtype, sizes):
    model, seen = tiny_model(), []
    model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    take_one_step(model, dtype, torch.randn(150, 3, 32, 32), torch.arange(150) % 10)
    assert seen == sizes


def test_the_loss_is_taken_in_float32():
    with mock.patch.object(F, "cross_entropy", wraps=F.cross_entropy) as loss:
        take_one_step(tiny_model(), torch.bfloat16, torch.randn(8, 3, 32, 32), torch.arange(8))
    assert [call.args[0].dtype for call in loss.call_args_list] == [torch.float32]


def test_the_parts_give_the_loss_accuracy_and_gradient_of_the_whole_batch():
    model, images, labels = tiny_model(), torch.randn(150, 3, 32, 32), torch.arange(150) % 10
    logits = model(images)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    gradient = torch.autograd.grad(expected, model.parameters())
    loss, right = take_one_step(model, torch.float32, images, labels)
    torch.testing.assert_close(loss, expected.detach())
    assert right == (logits.argmax(1) == labels).sum()
    torch.testing.assert_close(tuple(weight.grad for weight in model.parameters()), gradient)


@pytest.mark.parametrize("scaled", [False, True], ids=["as it is", "scaled, as for float16"])
def test_a_sharpness_aware_step_takes_the_gradient_of_the_highest_loss_nearby(scaled):
    model, loader = tiny_model(), train_loader(IMAGES, LABELS, batch_size=200, seed=0)  # one step, the first
    loader.sampler.set_epoch(0)
    ((images, labels),) = loader
    weights = dict(model.named_parameters())

    def gradient(at):
        return torch.func.grad(lambda w: F.cross_entropy(torch.func.functional_call(model, w, images), labels))(at)

    up = gradient(weights)
    length = sum(part.square().sum() for part in up.values()).sqrt()
    there = gradient({name: weight + 0.5 * up[name] / length for name, weight in weights.items()})
    expected = {name: (weight - 0.1 * there[name]).detach() for name, weight in weights.items()}
    train(model, loader, rate=0.1, scaled=scaled, radius=0.5)
    torch.testing.assert_close(dict(model.state_dict()), expected)


@pytest.mark.parametrize("radius", [0.0, 0.1])
def test_float16_skips_steps_that_overflow_and_then_learns(radius):
    torch.manual_seed(0)
    model, ((images, labels),) = small_model(), train_loader(IMAGES, LABELS, batch_size=200, seed=0)
    optimizer = Muon(model, 0.02, 3e-3, 0.05, torch.float16)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = model[3].weight.detach().clone()
    losses = []
    while len(losses) < 60:
        scale = scaler.get_scale()
        losses.append(take_step(model, optimizer, scaler, images, labels, torch.float16, 0.1, radius)[0].item())
        assert torch.equal(model[3].weight, before) == (scaler.get_scale() < scale)
        before = model[3].weight.detach().clone()
    assert losses[0] == losses[10] > losses[-1] + 0.1


@pytest.mark.parametrize("radius, passes", [(0.0, 10), (0.5, 15)])
def test_every_second_step_is_sharpness_aware(radius, passes):
    model, seen = tiny_model(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    train(model, train_loader(IMAGES, LABELS, batch_size=20, seed=0), radius=radius)
    assert len(seen) == passes


def test_weights_and_statistics_come_back_from_uphill_after_an_interrupt():
    norm = nn.BatchNorm1d(2)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm.weight.grad, norm.bias.grad = torch.tensor([0.0, 3.0]), torch.tensor([4.0, 0.0])
    with pytest.raises(KeyboardInterrupt), uphill(norm, 10.0):
        torch.testing.assert_close(norm.weight.detach(), torch.tensor([1.0, 7.0]))
        torch.testing.assert_close(norm.bias.detach(), torch.tensor([8.0, 0.0]))
        norm(torch.full((4, 2), torch.nan))
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_weights_without_a_gradient_do_not_move_uphill():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    (0 * model(torch.ones(1, 2))).sum().backward()
    with uphill(model, 0.1):
        assert torch.equal(model.weight, before)


def test_weights_come_back_from_an_interrupt_on_the_way_uphill(monkeypatch):
    model, add = nn.Linear(2, 2), torch.Tensor.add_
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.weight.grad, model.bias.grad = torch.ones(2, 2), torch.ones(2)

    def add_until_the_bias(weight, step):
        if weight is model.bias:
            raise KeyboardInterrupt
        return add(weight, step)

    monkeypatch.setattr(torch.Tensor, "add_", add_until_the_bias)
    with pytest.raises(KeyboardInterrupt), uphill(model, 1.0):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluates_every_image_once_and_in_order():
    model, loader = tiny_model(), eval_loader(IMAGES, LABELS, batch_size=64)
    logits, labels = predict(model, loader)
    images = torch.cat([images for images, _ in loader])
    torch.testing.assert_close(logits, model(images).detach())
    assert np.array_equal(labels, LABELS)
    loss, accuracy = evaluate(model, loader)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item())
    assert accuracy == pytest.approx(100 * np.mean(logits.argmax(1).numpy() == LABELS))


def test_logits_are_float32():
    assert predict(tiny_model(), eval_loader(IMAGES, LABELS), torch.bfloat16)[0].dtype == torch.float32


@pytest.mark.parametrize("errors", [0, 3, 20, 150])
def test_draws_misclassified_images_only_and_all_if_few(errors):
    labels = torch.arange(200) % 10
    logits = F.one_hot(torch.where(torch.arange(200) < errors, labels + 1, labels) % 10, 10).float()
    chosen, count = find_misclassified(logits, labels, count=20, seed=0)
    assert count == errors and len(chosen) == min(20, errors)
    assert (chosen < errors).all() and (chosen.diff() > 0).all()
    assert torch.equal(chosen, find_misclassified(logits, labels, count=20, seed=0)[0])


def test_another_seed_draws_other_errors():
    logits, labels = torch.zeros(200, 10), torch.ones(200, dtype=torch.long)
    assert not torch.equal(find_misclassified(logits, labels, seed=0)[0], find_misclassified(logits, labels, seed=1)[0])


@pytest.mark.parametrize("native, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_mixed_precision_on_a_cpu_is_bfloat16_where_native(monkeypatch, native, dtype):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    assert native_dtype(torch.device("cpu")) == dtype


@pytest.mark.parametrize("native, dtype", [(True, torch.bfloat16), (False, torch.float16)])
def test_mixed_precision_on_a_gpu_is_float16_where_bfloat16_is_emulated(monkeypatch, native, dtype):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert native_dtype(torch.device("cuda")) == dtype


def test_scores_are_those_of_the_definitions():
    logits = torch.tensor([[2.4, 0.0], [0.0, 1.0], [3.0, 0.0]]).log_softmax(1)  # two share one of 10 bins, none of 15
    figures = score(F.pad(logits, (0, 8), value=-50.0), torch.tensor([0, 1, 1]))
    probabilities = logits.exp().numpy()
    assert figures["accuracy"] == pytest.approx(200 / 3)
    assert figures["cross-entropy"] == pytest.approx(-np.log(probabilities[[0, 1, 2], [0, 1, 1]]).mean(), rel=1e-5)
    confidence, right = probabilities.max(1), np.array([1, 1, 0])  # each alone in its bin
    assert figures["calibration error"] == pytest.approx(np.abs(confidence - right).mean(), rel=1e-4)


@pytest.mark.parametrize("function", [train_one_epoch, evaluate])
def test_training_functions_fit_one_screen(function):
    assert len(inspect.getsource(function).splitlines()) <= 25
