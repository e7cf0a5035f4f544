"""Nothing mixes tensors of GPU and CPU: checked without a GPU, by tensors that only claim to be on one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import ResNet18
from tests.faults.train import prepare, run
from utils import trust
from utils.checkpoint import load_weights, save_weights
from utils.gradcam import compute_cams
from utils.standin import draw_shapes
from utils.training import evaluate, take_step
from utils.transforms import normalize

MAY_MIX = ("copy_", "__set__", "_has_compatible_shallow_copy_type")  # and a GPU's tensor indexed by one of the CPU
SHAPES, CLASSES, _ = draw_shapes(4, seed=1)
IMAGES, LABELS = normalize(SHAPES), torch.from_numpy(CLASSES)


class ClaimedGPU(TorchFunctionMode):
    """Compute everything on the CPU, but mark what is moved to "cuda" and what comes of it; raise where CUDA would.

    What happens inside PyTorch's own functions and in backward passes is not seen.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.__name__
        if function == Tensor.device.__get__:
            return torch.device("cuda", 0) if claims_gpu(args[0]) else function(*args)
        if name in ("numpy", "__array__") and claims_gpu(args[0]):
            raise TypeError("a GPU's tensor cannot become a NumPy array")
        if name in ("to", "cpu"):
            devices = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, (str, torch.device))]
            moved = function(*map(on_cpu, args), **{key: on_cpu(value) for key, value in kwargs.items()})
            on_gpu = "cuda" in str(devices[0]) if devices else name == "to" and claims_gpu(args[0])
            return claim(moved.view_as(moved), on_gpu)
        if name == "register_hook":
            tensor, hook = args
            return function(tensor, lambda gradient: hook(claim(gradient, claims_gpu(tensor))))
        used = list(tensors((args, *kwargs.values())))
        gpu = any(map(claims_gpu, used))
        may_mix = name in MAY_MIX or name == "__getitem__" and claims_gpu(args[0])
        if gpu and not may_mix and any(tensor.ndim and not claims_gpu(tensor) for tensor in used):
            raise RuntimeError(f"{name} mixes tensors of the GPU and the CPU")
        result = function(*args, **{key: on_cpu(value) for key, value in kwargs.items()})
        if name == "copy_":
            return result
        if function == Tensor.data.__set__:
            return claim(args[0], claims_gpu(args[1]))
        for tensor in tensors(result):
            claim(tensor, gpu or "cuda" in str(kwargs.get("device")))
        return result


def claims_gpu(tensor: Tensor) -> bool:
    return tensor.__dict__.get("on_gpu", False)


def claim(tensor: Tensor, on_gpu: bool) -> Tensor:
    tensor.__dict__["on_gpu"] = on_gpu
    return tensor


def on_cpu(value: object) -> object:
    return "cpu" if isinstance(value, (str, torch.device)) and "cuda" in str(value) else value


def tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    new = nn.Parameter.__new__

    def parameter(cls, data=None, requires_grad=True):
        return claim(new(cls, data, requires_grad), claims_gpu(data))

    monkeypatch.setattr(nn.Parameter, "__new__", parameter)
    with ClaimedGPU():
        yield


def network() -> nn.Module:
    torch.manual_seed(0)
    return ResNet18().to("cuda", memory_format=torch.channels_last).eval()


def test_the_claim_is_kept_and_mixing_noticed():
    ours, theirs = network(), IMAGES
    assert {weight.device.type for weight in ours.parameters()} == {"cuda"} and theirs.device.type == "cpu"
    assert ours(theirs.to("cuda")).device.type == "cuda"
    with pytest.raises(RuntimeError, match="mixes"):
        ours(theirs)
    with pytest.raises(TypeError, match="NumPy"):
        theirs.to("cuda").numpy()


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_training_evaluation_and_checkpoints(tmp_path):
    def prepare_on_gpu() -> tuple[dict, tuple]:
        parts, loaders = prepare("Muon", scaled=False)
        parts["model"].to("cuda"), parts["average"].to("cuda")
        return parts, loaders

    uninterrupted = run(tmp_path / "whole.pt", "Muon", *prepare_on_gpu(), epochs=2)
    run(tmp_path / "checkpoint.pt", "Muon", *prepare_on_gpu(), epochs=1)
    parts, (batches, held_out) = prepare_on_gpu()
    assert run(tmp_path / "checkpoint.pt", "Muon", parts, (batches, held_out), epochs=2) == uninterrupted
    model, optimizer, average = (parts[name] for name in ("model", "optimizer", "average"))
    take_step(model, optimizer, parts["scaler"], *next(iter(batches)), torch.float32, smoothing=0.1, radius=0.1)
    save_weights(tmp_path / "weights.safetensors", average.module)
    load_weights(tmp_path / "weights.safetensors", model)
    assert evaluate(model, held_out) == pytest.approx(evaluate(average, held_out), abs=0.01)


def test_every_check_of_the_maps():
    model, images, classes = network(), IMAGES.to("cuda"), LABELS.tolist()
    cams, maps = compute_cams(model, images, classes), trust.explain(model, images, LABELS, against=LABELS.roll(1))
    reference = trust.reference_cams(model, images, classes, "layer3")
    assert (cams["gradcam"]["layer3"] - reference["gradcam"]).abs().max().item() < 1e-3
    own = trust.torchcam_pp(model, images, classes)
    assert (own["layer3"] - reference["gradcam++"]).abs().max().item() > 1e-3
    every = maps | trust.baselines(images)
    mosaics, asked, quarter = trust.mosaics(IMAGES, LABELS, 2)
    mosaics = mosaics.to("cuda")
    mosaic_maps = trust.explain_mosaics(model, mosaics, asked) | trust.baselines(mosaics)
    cascade = trust.randomization(model, images, LABELS, seed=1)["conv1"]
    measured = {
        "r, true class": {name: trust.rank_correlation(map_, cascade[name]) for name, map_ in maps.items()},
        "r, randomised": trust.correlation_with_untrained(model, images, LABELS, seed=1),
        "pointing": {name: trust.pointing_share(map_, quarter) for name, map_ in mosaic_maps.items()},
        "repair by predicted": trust.repaired(model, images, LABELS, every),
        **trust.areas(trust.deletion_insertion(model, images, LABELS, every)),
    }
    assert not any(map(claims_gpu, tensors([list(values.values()) for values in measured.values()])))
    assert "may be read" in trust.verdict(trust.summarize(measured, []), {}, len(IMAGES))
    assert trust.cell_offset(model, images, "layer3")[0] < 0
