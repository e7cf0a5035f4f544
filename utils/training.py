"""The recipe, one epoch of training by it, evaluation, and the misclassified images."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, ReduceLROnPlateau
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_calibration_error

from models import GroupNorm, ResNet18
from utils.muon import Muon
from utils.progress import progress

CHECK_EVERY = 50  # steps between looks at the losses and weights; each look waits for the GPU
MICRO_BATCH = 64  # images a SAM step perturbs the weights for; a CPU in float32 is slower with more


def because(value, reason: str):
    """Declare a recipe's value and the reason for it, which the notebook lists."""
    return field(default=value, metadata={"reason": reason})


@dataclass(frozen=True)
class Recipe:
    """Every choice that training depends on; `dataclasses.replace` changes one."""

    seed: int = because(0, "of the split, the first weights, the order and augmentation of the images")
    epochs: int = because(40, "the assignment's")
    train_images: int = because(49_000, "nearly all: what limits the test accuracy is generalization")
    validation_images: int = because(1_000, "as many of every class, to watch the training; they decide nothing")
    batch_size: int = because(256, "learns as fast per image as 128, with half as many of Muon's matrix products")
    optimizer: str = because("Muon", "learns far faster than AdamW or SGD here, and without tuning")
    lr: float = because(0.03, "of the 19 convolutions inside the layers; a third less or more learns as fast")
    adamw_lr: float = because(2e-3, "of what Muon does not suit: the stem, scales, shifts and the classifier")
    weight_decay: float = because(0.05, "of the same convolutions: each step shrinks them by lr times this")
    label_smoothing: float = because(0.1, "a tenth of the target is shared by all classes, against overconfidence")
    ema_decay: float = because(0.999, "a step: the EMA, which is what is published, remembers 1,000 steps")
    sam_epochs: int = because(12, "the last ones: SAM finds flat minima, and need not start earlier (arXiv:2410.10373)")
    sam_rho: float = because(0.1, "how far SAM moves the weights uphill; twice as far ends at the same accuracy")
    lr_factor: float = because(0.7, "times both rates at each decay: many small decays rather than a few large ones")
    patience: int = because(0, "epochs without progress before a decay: the training loss hardly scatters")
    threshold: float = because(0.01, "progress is a training loss lower by 1 %; the default would never decay")
    min_lr: float = because(0.02, "of the first learning rates: where the decays end")
    norm: str = because("layer", "the assignment's; 'batch' is for comparison")
    zero_init_residual: bool = because(False, "residual branches from zero (arXiv:1706.02677) start slower with Muon")
    flip: bool = because(False, "the assignment has no flips")
    precision: str = because("bfloat16", "what the device computes fastest takes its place: see `native_precision`")

    def config(self) -> dict:
        """Return the values under their names in logs and results."""
        return {name.replace("_", " "): value for name, value in asdict(self).items()}


RECIPE = Recipe()


def native_precision(device: torch.device) -> str:
    """Name the fastest precision: bfloat16 where it is native, float16 on older GPUs, float32 on other CPUs."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


class Training:
    """All that changes while a network is trained: its weights, their EMA, and the state of what updates them."""

    def __init__(self, recipe: Recipe, device: torch.device, steps: int):
        """Build everything in its first state; over the first `steps`, an epoch, the learning rates rise."""
        self.recipe, self.dtype = recipe, getattr(torch, recipe.precision)
        torch.manual_seed(recipe.seed)
        model = ResNet18({"layer": GroupNorm, "batch": nn.BatchNorm2d}[recipe.norm])
        if recipe.zero_init_residual:
            for name, weight in model.named_parameters():
                if name.endswith("bn2.weight"):
                    nn.init.zeros_(weight)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = make_optimizer(self.model, recipe)
        lowest = [recipe.min_lr * group["lr"] for group in self.optimizer.param_groups]
        self.warmup = LinearLR(self.optimizer, 0.01, total_iters=steps)
        plateau = recipe.lr_factor, recipe.patience, recipe.threshold
        self.scheduler = ReduceLROnPlateau(self.optimizer, "min", *plateau, min_lr=lowest)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def parts(self) -> dict:
        """Return what a checkpoint must hold, by name; each part has a state_dict."""
        return {name: part for name, part in vars(self).items() if hasattr(part, "state_dict")}


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the recipe's optimizer; AdamW and SGD take `lr` and `weight_decay` for all parameters."""
    lr, decay = recipe.lr, recipe.weight_decay
    if recipe.optimizer == "Muon":
        return Muon(model, lr, recipe.adamw_lr, decay, getattr(torch, recipe.precision))
    if recipe.optimizer == "AdamW":
        return torch.optim.AdamW(model.parameters(), lr, weight_decay=decay)
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=decay)


def run_epoch(training: Training, train_batches: DataLoader, validation_batches: DataLoader, *, epoch: int) -> dict:
    """Train one epoch, counted from 0, evaluate the weights and their EMA, and step the scheduler by the training loss.

    Returns a row of the history: losses in nats, accuracies in %.
    """
    start, recipe = time.perf_counter(), training.recipe
    row = {"epoch": epoch + 1} | train_one_epoch(training, train_batches, epoch=epoch)
    seconds = time.perf_counter() - start
    row["learning rate"] = training.optimizer.param_groups[0]["lr"]
    for prefix, model in (("", training.model), ("EMA ", training.ema)):
        measured = evaluate(model, validation_batches, training.dtype)
        row[f"{prefix}validation loss"] = measured["cross-entropy"]
        row[f"{prefix}validation accuracy"] = measured["accuracy"]
    training.scheduler.step(row["train loss"])
    cost = [2 if uses_sam(recipe, later) else 1 for later in range(recipe.epochs)]
    left = (time.perf_counter() - start) / cost[epoch] * sum(cost[epoch + 1 :])
    images = len(train_batches) * recipe.batch_size
    return row | {"seconds": seconds, "images/s": round(images / seconds), "minutes left": left / 60}


def uses_sam(recipe: Recipe, epoch: int) -> bool:
    """Tell whether the steps of this epoch, counted from 0, are those of SAM."""
    return epoch >= recipe.epochs - recipe.sam_epochs


def train_one_epoch(training: Training, batches: DataLoader, *, epoch: int) -> dict[str, float]:
    """Train on all batches (N, 3, 32, 32); return means over their images, measured before each step.

    "train loss" is the cross-entropy with smoothed labels, "train cross-entropy" that with the labels alone, both in
    nats, "train accuracy" in %. Raises what `check_finite` does.
    """
    training.model.train()
    batches.sampler.set_epoch(epoch)
    sam, losses, sums, seen = uses_sam(training.recipe, epoch), [], 0, 0
    for images, labels in progress(batches, f"epoch {epoch + 1}"):
        measured = train_step(training, images, labels, sam=sam)
        losses.append(measured[0])
        sums, seen = sums + measured * len(labels), seen + len(labels)
        if len(losses) % CHECK_EVERY == 0 or len(losses) == len(batches):
            check_finite(losses, training, epoch)
    loss, cross_entropy, correct = (sums / seen).tolist()
    return {"train loss": loss, "train cross-entropy": cross_entropy, "train accuracy": 100 * correct}


def train_step(training: Training, images: Tensor, labels: Tensor, *, sam: bool) -> Tensor:
    """Update the weights and their EMA once; return (3,) means of the batch before that, as `forward` does.

    SAM (Foret et al. 2021, arXiv:2010.01412) takes the gradient of the weights uphill, here for MICRO_BATCH images at
    a time; the gradients add up. With layer normalization each image's is exact, as no image touches another.
    """
    model, scaler = training.model, training.scaler
    device = next(model.parameters()).device
    images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    in_parts = sam or device.type == "cpu" and training.dtype == torch.float32 and training.recipe.norm == "layer"
    size, means = MICRO_BATCH if in_parts else len(images), 0
    training.optimizer.zero_grad()  # here, not after the step: an interrupt may have left gradients behind
    for part, targets in zip(images.split(size), labels.split(size), strict=True):
        share = len(part) / len(images)
        loss, measured = forward(training, part, targets)
        means = means + share * measured
        if sam:
            gradient = torch.autograd.grad(scaler.scale(loss), list(model.parameters()))
            with sam_perturb(model, gradient, training.recipe.sam_rho):
                scaler.scale(share * forward(training, part, targets)[0]).backward()
        else:
            scaler.scale(share * loss).backward()  # which keeps gradients from underflow in float16
    optimizer_step(training)
    update_ema(training.ema, model, training.recipe.ema_decay)
    return means


def forward(training: Training, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and (3,) without gradient: loss and cross-entropy in nats, accuracy from 0 to 1."""
    with torch.autocast(images.device.type, training.dtype, enabled=training.dtype != torch.float32):
        logits = training.model(images).float()  # else CUDA's autocast rounds their log-softmax
    loss = F.cross_entropy(logits, labels, label_smoothing=training.recipe.label_smoothing)
    with torch.no_grad():
        correct = (logits.argmax(1) == labels).float().mean()
        return loss, torch.stack([loss, F.cross_entropy(logits, labels), correct])


def optimizer_step(training: Training) -> None:
    """Step the optimizer, and the warm-up while it lasts, unless float16 overflowed and the step was skipped."""
    optimizer, scaler, warmup = training.optimizer, training.scaler, training.warmup
    warming = warmup.last_epoch < warmup.total_iters
    scale = scaler.get_scale() if warming else None  # asked for no longer than needed: with float16 it waits
    scaler.step(optimizer)
    scaler.update()
    if warming and scaler.get_scale() >= scale:
        warmup.step()


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move every weight and statistic of the EMA: e <- decay e + (1 - decay) w, without a wait for the GPU."""
    old, new = ([x for x in m.state_dict().values() if x.is_floating_point()] for m in (ema, model))
    torch._foreach_lerp_(old, new, 1 - decay)


@contextmanager
def sam_perturb(model: nn.Module, gradient: Sequence[Tensor], rho: float) -> Iterator[None]:
    """Move the weights by `rho` along their gradient (Foret et al. 2021, eq. 2), and back when the context ends."""
    weights = list(model.parameters())
    tensors = [*weights, *model.buffers()]  # a batch norm's statistics belong to the weights before
    before = [tensor.detach().clone() for tensor in tensors]
    norm = torch.stack(torch._foreach_norm(gradient)).norm()
    try:
        with torch.no_grad():
            torch._foreach_add_(weights, torch._foreach_mul(gradient, rho / (norm + 1e-12)))  # also for a norm of 0
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(tensors, before)


def check_finite(losses: list[Tensor], training: Training, epoch: int) -> None:
    """Raise a FloatingPointError if one of an epoch's losses or weights is NaN or infinite; it names the first.

    With float16 a NaN in every gradient shows in the loss scale alone: GradScaler skips each step and halves it.
    """
    finite = torch.stack(losses).isfinite().tolist()
    layers = [name for name, weight in training.model.named_parameters() if not weight.isfinite().all()]
    if layers or not all(finite) or training.scaler.get_scale() < 1e-3:
        step = len(finite) if all(finite) else finite.index(False) + 1
        what = "a gradient is not finite" if all(finite) else f"the loss is {losses[step - 1].item()}"
        where = f"first weights that are not finite: {layers[0]}" if layers else "all weights are finite"
        advice = "The last checkpoint is intact; start afresh with a lower learning rate"
        raise FloatingPointError(f"epoch {epoch + 1}, step {step}: {what}; {where}. {advice}")


@torch.inference_mode()
def predict(model: nn.Module, loader: DataLoader, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return the logits (N, 10) as float32 and the labels (N,) of all images, in order, on the CPU.

    Raises a FloatingPointError that names the first image with a logit that is not finite.
    """
    model.eval()
    device = next(model.parameters()).device
    logits, labels = [], []
    for batch, batch_labels in progress(loader, "evaluation"):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits.append(model(batch.to(device, non_blocking=True)).float())
        labels.append(batch_labels)
    logits, labels = torch.cat(logits).cpu(), torch.cat(labels)
    if broken := torch.nonzero(~logits.isfinite().all(1)).tolist():
        raise FloatingPointError(f"the logits of image {broken[0][0]} are not finite; check the model's weights")
    return logits, labels


def evaluate(model: nn.Module, loader: DataLoader, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Return the `metrics` over all images of the loader."""
    return metrics(*predict(model, loader, dtype))


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy in %, mean cross-entropy in nats, and the ECE from 0 to 1 of logits (N, 10), labels (N,).

    The ECE, the expected calibration error, is Guo et al. 2017 (arXiv:1706.04599), eq. 3, over 15 bins of equal width.
    """
    probabilities = logits.softmax(1).clamp(max=1 - 1e-6)  # torchmetrics gives 1 a bin of its own (its issue 3510)
    ece = multiclass_calibration_error(probabilities, labels, num_classes=10, n_bins=15)
    return {
        "accuracy": 100 * (logits.argmax(1) == labels).double().mean().item(),
        "cross-entropy": F.cross_entropy(logits, labels).item(),
        "ECE": ece.item(),
    }


def find_misclassified(logits: Tensor, labels: Tensor, count: int = 20, seed: int = 0) -> tuple[Tensor, int]:
    """Draw `count` of all errors, or take all of fewer; return sorted indices (count,), and how many there are."""
    errors = torch.nonzero(logits.argmax(1) != labels).flatten()
    order = torch.randperm(len(errors), generator=torch.Generator().manual_seed(seed))
    return errors[order[:count]].sort().values, len(errors)
