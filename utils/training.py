"""One epoch of training, evaluation, and the misclassified images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_calibration_error

CHECK_EVERY = 50  # steps between looks at the losses and weights; each look waits for the GPU
MICRO_BATCH = 64  # images a CPU in float32 takes at once, as it is slower with more


def native_dtype(device: torch.device) -> torch.dtype:
    """Choose the precision for mixed-precision training that the device computes fastest.

    bfloat16 where it is native, float16 on older GPUs (with `torch.amp.GradScaler`), float32 on other CPUs.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def train_one_epoch(
    model, loader, optimizer, scaler, epoch, dtype, warmup=None, smoothing=0.0, average=None, radius=0.0
):
    """Train on all batches (N, 3, 32, 32) in `dtype`; return the mean loss and the accuracy in % over their images.

    The loss is the cross-entropy with labels smoothed by `smoothing`. In epoch 0, the first, `warmup`, a scheduler,
    steps with every batch. `average`, an AveragedModel, takes in the weights after every step. Every second step is
    sharpness-aware where there is a `radius`. Raises what `check_finite` does.
    """
    model.train()
    losses, correct, seen = [], 0, 0
    loader.sampler.set_epoch(epoch)
    for step, batch in enumerate(loader):
        loss, right = take_step(model, optimizer, scaler, *batch, dtype, smoothing, radius if step % 2 == 0 else 0.0)
        if average:
            average.update_parameters(model)
        if warmup and epoch == 0:
            warmup.step()
        losses.append(loss * len(batch[1]))
        correct, seen = correct + right, seen + len(batch[1])
        if len(losses) % CHECK_EVERY == 0 or len(losses) == len(loader):
            check_finite(losses, model, epoch, scaler.get_scale())
    return torch.stack(losses).sum().item() / seen, 100 * correct.item() / seen


def take_step(model, optimizer, scaler, images, labels, dtype, smoothing, radius) -> tuple[Tensor, Tensor]:
    """Update the parameters once; return the batch's loss before that, and how many of its images were right.

    With a radius the gradient is that of the weights `uphill` (Foret et al. 2021, arXiv:2010.01412). Float32, for CPUs,
    sums it over micro-batches: the same gradient, unless the model has a batch norm, which looks at all images at once.
    """
    device = next(model.parameters()).device
    images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    size = MICRO_BATCH if dtype == torch.float32 else len(images)

    def differentiate() -> tuple[Tensor, Tensor]:
        optimizer.zero_grad()  # here, not after the step: an interrupt may have left gradients behind
        total, right = 0.0, 0
        for part, targets in zip(images.split(size), labels.split(size), strict=True):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = model(part).float()  # else CUDA's autocast rounds their log-softmax
                loss = F.cross_entropy(logits, targets, label_smoothing=smoothing) * (len(part) / len(images))
            scaler.scale(loss).backward()  # which keeps gradients from underflow in float16
            total, right = total + loss.detach(), right + (logits.argmax(1) == targets).sum()
        return total, right

    loss, right = differentiate()
    if radius:
        with uphill(model, radius):
            differentiate()
    scaler.step(optimizer)
    scaler.update()
    return loss, right


@contextmanager
def uphill(model: nn.Module, radius: float) -> Iterator[None]:
    """Move the weights by `radius` along their gradient (Foret et al. 2021, eq. 2), and back when the context ends.

    The statistics of a batch norm are put back, too: they belong to the weights before.
    """
    norm = torch.stack([weight.grad.norm() for weight in model.parameters()]).norm()
    before = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(weight.grad * (radius / (norm + 1e-12)))  # also where the gradient is 0
        yield
    finally:
        with torch.no_grad():
            for tensor, old in before:
                tensor.copy_(old)


def check_finite(losses: list[Tensor], model: nn.Module, epoch: int, scale: float) -> None:
    """Stop at the first of an epoch's losses that is NaN or infinite, or where a gradient's NaN reached the weights.

    With float16 a NaN in every gradient shows in the loss scale alone: GradScaler skips each step and halves it.

    Raises:
        FloatingPointError: if there is one; it names epoch, step and the first layer whose weights are not finite.
    """
    finite = torch.stack(losses).isfinite().tolist()
    layers = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if layers or not all(finite) or scale < 1e-3:
        step = len(losses) if all(finite) else finite.index(False) + 1
        what = "a gradient is not finite" if all(finite) else f"the loss is {losses[step - 1].item()}"
        raise FloatingPointError(
            f"epoch {epoch + 1}, step {step}: {what}; "
            + (f"first weights that are not finite: {layers[0]}. " if layers else "all weights are finite. ")
            + "The last checkpoint is intact; start afresh with a lower learning rate"
        )


@torch.inference_mode()
def predict(model: nn.Module, loader: DataLoader, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return the logits (N, 10) as float32 and the labels (N,) of all images, in order, on the CPU.

    Raises:
        FloatingPointError: if a logit is not finite; it names the image.
    """
    model.eval()
    device = next(model.parameters()).device
    logits, labels = [], []
    for batch, batch_labels in loader:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits.append(model(batch.to(device, non_blocking=True)).float())
        labels.append(batch_labels)
    logits, labels = torch.cat(logits).cpu(), torch.cat(labels)
    if not (finite := logits.isfinite().all(1)).all():
        image = int(finite.int().argmin())
        raise FloatingPointError(f"the logits of image {image} are not finite; check the model's weights")
    return logits, labels


def evaluate(model: nn.Module, loader: DataLoader, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """Return the mean cross-entropy in nats and the accuracy in % over all images of the loader."""
    logits, labels = predict(model, loader, dtype)
    return F.cross_entropy(logits, labels).item(), accuracy(logits, labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of logits (N, 10) whose largest is at the label (N,)."""
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy in %, mean cross-entropy in nats, and the calibration error of logits (N, 10), labels (N,).

    The calibration error is Guo et al. 2017 (arXiv:1706.04599), eq. 3, over 15 bins of equal width.
    """
    calibration = multiclass_calibration_error(logits.softmax(1), labels, num_classes=10, n_bins=15)
    return {
        "accuracy": accuracy(logits, labels),
        "cross-entropy": F.cross_entropy(logits, labels).item(),
        "calibration error": calibration.item(),
    }


def find_misclassified(logits: Tensor, labels: Tensor, count: int = 20, seed: int = 0) -> tuple[Tensor, int]:
    """Draw `count` of all errors at random, or take all if there are fewer.

    Returns:
        sorted indices (count,) of the drawn images, and how many errors there are.
    """
    errors = torch.nonzero(logits.argmax(1) != labels).flatten()
    order = torch.randperm(len(errors), generator=torch.Generator().manual_seed(seed))
    return errors[order[:count]].sort().values, len(errors)
