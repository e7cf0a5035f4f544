"""What NaN and infinity do, in a loss, a gradient or logits."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.small import SMALL, draw, identical, loaders, run, small_training
from utils import training as module
from utils.data import eval_loader
from utils.training import predict, train_one_epoch


def poison(step: int, value: float):
    """Return a hook that multiplies its last argument by `value` at one step."""
    calls = iter(range(1, 1000))
    return lambda *args: args[-1] * (value if next(calls) == step else 1)


FAULTS = {  # step of the second epoch, what is hooked, what the error names
    "a loss": (4, lambda model, hook: model[8].register_forward_hook(hook), "step 4: the loss is nan"),
    "a gradient": (4, lambda model, hook: model[3].weight.register_hook(hook), "step 5: the loss is nan"),
    "the last gradient": (10, lambda model, hook: model[3].weight.register_hook(hook), "step 10: a gradient is not"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nan_in_training_is_named_and_the_checkpoint_stays_good(fault, tmp_path):
    step, place, named = FAULTS[fault]
    recipe, path = replace(SMALL, sam_epochs=0), tmp_path / "run" / "checkpoint.pt"
    training, batches = small_training(recipe), loaders()
    history = run(path, training, batches, epochs=1)
    good = path.read_bytes()
    place(training.model, poison(step, torch.nan))
    with pytest.raises(FloatingPointError, match=f"epoch 2, {named}.*first weights that are not finite"):
        run(path, training, batches, epochs=2)
    assert path.read_bytes() == good
    again = small_training(recipe)
    assert identical(run(path, again, batches, epochs=1), history)
    assert all(weight.isfinite().all() for weight in again.model.parameters())


def test_gradients_that_the_scaler_always_skips_are_named():
    training, (batches, _) = small_training(), loaders()
    training.scaler = torch.amp.GradScaler("cpu")
    training.model[3].weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="epoch 3, step 10: a gradient is not finite; all weights are finite"):
        for epoch in range(3):
            train_one_epoch(training, batches, epoch=epoch)


def test_nan_ends_the_epoch_early(monkeypatch):
    monkeypatch.setattr(module, "CHECK_EVERY", 2)
    training, (batches, _), passes = small_training(), loaders(), []
    training.model.register_forward_pre_hook(lambda *_: passes.append(1))
    training.model[8].register_forward_hook(poison(3, torch.nan))
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan"):
        train_one_epoch(training, batches, epoch=0)
    assert len(passes) == 4  # of 10


def test_nan_in_logits_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.constant_(model[1].bias, torch.nan)
    with pytest.raises(FloatingPointError, match="logits of image 0"):
        predict(model, eval_loader(*draw(20, seed=0)))
