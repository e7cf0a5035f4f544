"""What NaN and infinity do, in a loss, a gradient or logits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.faults.train import prepare, run
from utils import training
from utils.checkpoint import resume
from utils.data import eval_loader
from utils.standin import draw_shapes
from utils.training import predict, train_one_epoch


def train_with(tmp_path: Path, prepare_fault, dtype: torch.dtype = torch.float32) -> str:
    """Train an epoch, then one with a fault; return the error's text after checking that the checkpoint is good."""
    path = tmp_path / "run" / "checkpoint.pt"
    parts, loaders = prepare("SGD", scaled=False)
    history = run(path, "SGD", parts, loaders, epochs=1)
    good = path.read_bytes()
    prepare_fault(parts["model"])
    with pytest.raises(FloatingPointError) as caught:
        run(path, "SGD", parts, loaders, epochs=2, dtype=dtype)
    assert path.read_bytes() == good
    again, _ = prepare("SGD", scaled=False)
    assert resume(path, {"optimizer": "SGD"}, **again) == history
    assert all(weight.isfinite().all() for weight in again["model"].parameters())
    return str(caught.value)


def poison(step: int, value: float):
    """Return a hook that multiplies its last argument by `value` at one step."""
    calls = iter(range(1, 1000))
    return lambda *args: args[-1] * (value if next(calls) == step else 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("step", [1, 4, 10])
def test_nan_in_a_loss_is_named(step, value, tmp_path):
    text = train_with(tmp_path, lambda model: model[8].register_forward_hook(poison(step, value)))
    assert f"epoch 2, step {step}: the loss is nan" in text or f"epoch 2, step {step}: the loss is inf" in text
    assert "first weights that are not finite: 0.weight" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step, named", [(4, "step 5: the loss is nan"), (10, "step 10: a gradient is not finite")])
def test_nan_in_a_gradient_is_named(step, named, dtype, tmp_path):
    text = train_with(tmp_path, lambda model: model[3].weight.register_hook(poison(step, torch.nan)), dtype=dtype)
    assert f"epoch 2, {named}" in text
    if step == 10:
        assert "first weights that are not finite: 3.weight" in text


def test_gradients_that_the_scaler_always_skips_are_named(tmp_path):
    parts, (train_batches, _) = prepare("SGD")
    model, optimizer, _, _, scaler, _ = parts.values()
    model[3].weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="epoch 3, step 10: a gradient is not finite; all weights are finite"):
        for epoch in range(3):
            train_one_epoch(model, train_batches, optimizer, scaler, epoch, torch.float32)


def test_nan_ends_the_epoch_early(monkeypatch):
    monkeypatch.setattr(training, "CHECK_EVERY", 2)
    parts, (train_batches, _) = prepare("SGD", scaled=False)
    model, passes = parts["model"], []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    model[8].register_forward_hook(poison(3, torch.nan))
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan"):
        train_one_epoch(model, train_batches, parts["optimizer"], parts["scaler"], 0, torch.float32)
    assert len(passes) == 4  # of 10


def test_nan_in_logits_is_named():
    loader = eval_loader(*draw_shapes(20, seed=0)[:2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.constant_(model[1].bias, torch.nan)
    with pytest.raises(FloatingPointError, match="logits of image 0"):
        predict(model, loader)
