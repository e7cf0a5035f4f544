import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.small import SMALL, draw, loaders, small_model, small_training
from utils import training as module
from utils.data import eval_loader, train_loader
from utils.training import (
    RECIPE,
    evaluate,
    find_misclassified,
    metrics,
    native_precision,
    predict,
    run_epoch,
    sam_perturb,
    train_one_epoch,
    train_step,
)

IMAGES, LABELS = draw(200, seed=0)
BATCH = torch.randn(150, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(150) % 10
SGD = replace(SMALL, optimizer="SGD", lr=0.1, weight_decay=0.0, epochs=1)


def plain_sgd(recipe, **options):
    """Return a training whose step is w <- w - 0.1 gradient, at once at its full rate."""
    training = small_training(recipe, **options)
    training.optimizer = torch.optim.SGD(training.model.parameters(), 0.1)
    training.warmup = torch.optim.lr_scheduler.ConstantLR(training.optimizer, 1.0, total_iters=0)
    return training


def gradient(model, weights, images, labels, smoothing=0.1):
    def loss(at):
        return F.cross_entropy(torch.func.functional_call(model, at, images), labels, label_smoothing=smoothing)

    return torch.func.grad(loss)(weights)


def test_a_step_follows_the_gradient_of_the_smoothed_loss_and_reports_the_batch_before_it():
    training = plain_sgd(replace(SGD, sam_epochs=0))
    before, logits = copy.deepcopy(training.model), training.model(BATCH[0])
    loss, cross_entropy, correct = train_step(training, *BATCH, sam=False)
    weights = dict(before.named_parameters())
    down = gradient(before, weights, *BATCH)
    expected = {name: (weight - 0.1 * down[name]).detach() for name, weight in weights.items()}
    torch.testing.assert_close(dict(training.model.state_dict()), expected)
    torch.testing.assert_close(loss, F.cross_entropy(logits, BATCH[1], label_smoothing=0.1).detach())
    torch.testing.assert_close(cross_entropy, F.cross_entropy(logits, BATCH[1]).detach())
    torch.testing.assert_close(correct, (logits.argmax(1) == BATCH[1]).float().mean())


@pytest.mark.parametrize("scaled", [False, True], ids=["as it is", "scaled, as for float16"])
def test_sam_sums_the_gradients_uphill_of_each_micro_batch(scaled):
    training = plain_sgd(SGD)
    training.scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    model = copy.deepcopy(training.model)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    down = dict.fromkeys(weights, 0)
    for images, labels in zip(BATCH[0].split(64), BATCH[1].split(64), strict=True):
        up = gradient(model, weights, images, labels)
        length = sum(part.square().sum() for part in up.values()).sqrt()
        there = {name: weight + RECIPE.sam_rho * up[name] / length for name, weight in weights.items()}
        part = gradient(model, there, images, labels)
        down = {name: down[name] + len(images) / 150 * part[name] for name in weights}
    train_step(training, *BATCH, sam=True)
    expected = {name: weight - 0.1 * down[name] for name, weight in weights.items()}
    torch.testing.assert_close(dict(training.model.state_dict()), expected, atol=1e-6, rtol=1e-4)


def test_the_ema_takes_in_the_weights_and_statistics_of_every_step():
    training = small_training(build=lambda _: nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3072, 10)))
    expected = {name: value.clone() for name, value in training.model.state_dict().items()}
    for _ in range(3):
        train_step(training, *BATCH, sam=False)
        for name, value in training.model.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value if value.is_floating_point() else expected[name]
    torch.testing.assert_close(dict(training.ema.state_dict()), expected)


def test_an_epoch_reports_means_over_images_not_over_batches():
    training = plain_sgd(replace(SGD, lr=0.0, sam_epochs=0))
    training.optimizer.param_groups[0]["lr"] = 0.0
    loader = train_loader(IMAGES, LABELS, 64, seed=0)
    loader = torch.utils.data.DataLoader(
        loader.dataset, 64, sampler=loader.sampler, collate_fn=loader.collate_fn
    )  # with a short last batch
    row = train_one_epoch(training, loader, epoch=0)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    logits = training.model(images)
    assert len(labels) == 200
    assert row["train cross-entropy"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert row["train accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean().item())


def test_an_epoch_steps_the_plateau_with_the_training_loss_and_sam_comes_last(monkeypatch):
    training, batches, seen, steps = small_training(), loaders(), [], []
    monkeypatch.setattr(training.scheduler, "step", seen.append)
    step = module.train_step
    monkeypatch.setattr(module, "train_step", lambda *a, sam: steps.append(sam) or step(*a, sam=sam))
    rows = [run_epoch(training, *batches, epoch=epoch) for epoch in range(3)]
    assert seen == [row["train loss"] for row in rows] and rows[-1]["train loss"] < rows[0]["train loss"]
    assert steps == [False] * 20 + [True] * 10
    assert rows[0]["learning rate"] == pytest.approx(RECIPE.lr) and rows[2]["minutes left"] == 0
    last = evaluate(training.ema, batches[1])
    expected = last["cross-entropy"], last["accuracy"]
    assert (rows[2]["EMA validation loss"], rows[2]["EMA validation accuracy"]) == expected


def test_rates_rise_within_the_first_epoch_and_end_at_a_share_of_the_first():
    training, rates = small_training(), []
    for _ in range(12):
        rates.append([group["lr"] for group in training.optimizer.param_groups])
        train_step(training, *BATCH, sam=False)
    np.testing.assert_allclose(rates[0], [RECIPE.lr / 100, RECIPE.adamw_lr / 100])
    np.testing.assert_allclose(rates[10:], [[RECIPE.lr, RECIPE.adamw_lr]] * 2)
    for _ in range(60):
        training.scheduler.step(1.0)
    lowest = [group["lr"] for group in training.optimizer.param_groups]
    np.testing.assert_allclose(lowest, [RECIPE.min_lr * RECIPE.lr, RECIPE.min_lr * RECIPE.adamw_lr], rtol=1e-6)


@pytest.mark.filterwarnings("error:Detected call of:UserWarning")
def test_float16_skips_steps_that_overflow_which_do_not_count_for_the_warm_up():
    training = small_training(replace(SMALL, precision="float16"))
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before, losses, taken = training.model[3].weight.detach().clone(), [], 0
    while len(losses) < 60:
        scale = training.scaler.get_scale()
        losses.append(train_step(training, *BATCH, sam=len(losses) > 40)[0].item())
        skipped = training.scaler.get_scale() < scale
        assert torch.equal(training.model[3].weight, before) == skipped
        taken += not skipped
        assert training.warmup.last_epoch == min(taken, 10)
        before = training.model[3].weight.detach().clone()
    assert losses[0] == losses[10] > losses[-1] + 0.1


@pytest.mark.parametrize(
    ("precision", "norm", "sizes"),
    [("float32", "layer", [64, 64, 22]), ("float32", "batch", [150]), ("bfloat16", "layer", [150])],
)
def test_only_float32_on_a_cpu_takes_a_batch_in_parts_and_never_with_batch_normalization(precision, norm, sizes):
    training, seen = small_training(replace(SMALL, precision=precision, norm=norm)), []
    training.model.register_forward_hook(lambda _, inputs, output: seen.append((len(inputs[0]), output.dtype)))
    train_step(training, *BATCH, sam=False)
    assert [size for size, _ in seen] == sizes
    assert {dtype for _, dtype in seen} == {getattr(torch, precision)}


def test_weights_and_statistics_come_back_from_uphill_after_an_interrupt():
    norm = nn.BatchNorm1d(2)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), sam_perturb(norm, (torch.tensor([0.0, 3.0]), torch.tensor([4.0, 0.0])), 10):
        torch.testing.assert_close(norm.weight.detach(), torch.tensor([1.0, 7.0]))
        torch.testing.assert_close(norm.bias.detach(), torch.tensor([8.0, 0.0]))
        norm(torch.full((4, 2), torch.nan))
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_weights_without_a_gradient_do_not_move_uphill():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    with sam_perturb(model, (torch.zeros(1, 2), torch.zeros(1)), 0.1):
        assert torch.equal(model.weight, before)


def test_recipes_change_the_network():
    x = torch.rand(1, 64, 8, 8)
    for zero in (False, True):
        training = module.Training(replace(RECIPE, zero_init_residual=zero), torch.device("cpu"), 1)
        assert torch.allclose(training.model.layer1[0](x), x) == zero
    training = module.Training(replace(RECIPE, norm="batch"), torch.device("cpu"), 1)
    norms = {type(layer) for layer in training.model.modules() if "Norm" in type(layer).__name__}
    assert norms == {nn.BatchNorm2d}


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_other_optimizers_get_the_recipes_rate_and_decay(name):
    training = small_training(replace(SMALL, optimizer=name, lr=0.25, weight_decay=0.5))
    (group,) = training.optimizer.param_groups
    assert (type(training.optimizer).__name__, group["initial_lr"], group["weight_decay"]) == (name, 0.25, 0.5)


def test_evaluates_every_image_once_and_in_order():
    model, loader = small_model(), eval_loader(IMAGES, LABELS, batch_size=64)
    logits, labels = predict(model, loader)
    images = torch.cat([images for images, _ in loader])
    torch.testing.assert_close(logits, model(images).detach())
    assert np.array_equal(labels, LABELS)
    measured = evaluate(model, loader)
    assert measured["cross-entropy"] == pytest.approx(F.cross_entropy(logits, labels).item())
    assert measured["accuracy"] == pytest.approx(100 * np.mean(logits.argmax(1).numpy() == LABELS))
    assert predict(model, loader, torch.bfloat16)[0].dtype == torch.float32


@pytest.mark.parametrize("errors", [0, 3, 20, 150])
def test_draws_misclassified_images_only_and_all_if_few(errors):
    labels = torch.arange(200) % 10
    logits = F.one_hot(torch.where(torch.arange(200) < errors, labels + 1, labels) % 10, 10).float()
    chosen, count = find_misclassified(logits, labels, count=20, seed=0)
    assert count == errors and len(chosen) == min(20, errors)
    assert (chosen < errors).all() and (chosen.diff() > 0).all()
    assert torch.equal(chosen, find_misclassified(logits, labels, count=20, seed=0)[0])
    assert errors < 21 or not torch.equal(chosen, find_misclassified(logits, labels, count=20, seed=1)[0])


@pytest.mark.parametrize(
    ("device", "native", "precision"),
    [("cpu", True, "bfloat16"), ("cpu", False, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float16")],
)
def test_the_native_precision_is_never_an_emulated_one(monkeypatch, device, native, precision):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert native_precision(torch.device(device)) == precision


def test_metrics_are_those_of_the_definitions_also_for_a_confidence_of_exactly_one():
    logits = torch.tensor([[2.4, 0.0], [0.0, 1.0], [3.0, 0.0]]).log_softmax(1)  # two share one of 10 bins, none of 15
    figures = metrics(F.pad(logits, (0, 8), value=-50.0), torch.tensor([0, 1, 1]))
    probabilities = logits.exp().numpy()
    assert figures["accuracy"] == pytest.approx(200 / 3)
    assert figures["cross-entropy"] == pytest.approx(-np.log(probabilities[[0, 1, 2], [0, 1, 1]]).mean(), rel=1e-5)
    confidence, correct = probabilities.max(1), np.array([1, 1, 0])  # each alone in its bin
    assert figures["ECE"] == pytest.approx(np.abs(confidence - correct).mean(), rel=1e-4)
    certain = F.one_hot(torch.zeros(40, dtype=torch.long), 10) * 1000.0  # confidence 1, half of the time correct
    almost = F.one_hot(torch.zeros(40, dtype=torch.long), 10) * 5.5  # about 0.96, in the same bin, always correct
    labels = torch.tensor([0, 1] * 20 + [0] * 40)
    logits = torch.cat([certain, almost])
    gap = logits.softmax(1).max(1).values.mean() - 60 / 80
    assert metrics(logits, labels)["ECE"] == pytest.approx(gap.item(), rel=1e-4)
