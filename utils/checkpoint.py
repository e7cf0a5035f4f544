"""Checkpoints that survive an interruption at any moment, and the weights and logits that are published."""

import copy
from io import BytesIO
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.drive import check_drive, copy_from_drive, copy_to_drive, name_copy
from utils.environment import read_variable
from utils.files import write_atomically


def save_checkpoint(path: Path, config: dict, history: list[dict], **parts) -> None:
    """Save the state of every part (model=, optimizer=, scheduler=, ...), the history and what it was trained with."""
    state = {name: part.state_dict() for name, part in parts.items()}

    def write(name: str) -> None:
        with open(name, "wb") as file:  # which reports a full disk; given a name, torch 2.6 may not
            torch.save({"config": config, "history": history, "state": state}, file)

    write_atomically(path, write)
    if drive := read_variable("S8_DRIVE"):
        copy_to_drive(path, Path(drive), len(history))


def resume(path: Path, config: dict, **parts) -> list[dict]:
    """Load every part from the checkpoint at `path` and return the history so far; without one, save the start.

    A checkpoint that is damaged or of another configuration, and a Drive that cannot be used, raise a ValueError.
    """
    places = f"'{path}'"
    if drive := check_drive():
        places += f" and '{drive / name_copy(path, '???')}'"
        copy_from_drive(path, drive)
    afresh = f"Delete {places} and restart the kernel to start afresh"
    if not path.exists():
        save_checkpoint(path, config, [], **parts)
        return []
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before, history = saved["config"], saved["history"]
        state = {name: saved["state"][name] for name in parts}
    except PermissionError:  # says what is wrong; the checkpoint may be whole
        raise
    except Exception as error:  # torch.load raises many kinds, and some advise to load without weights_only
        fault = f"'{path}' is damaged or no checkpoint of this notebook ({type(error).__name__})"
        earlier = f"Delete '{path}' alone to continue from a whole copy on Drive, if there is one. " if drive else ""
        raise ValueError(f"{fault}. {earlier}{afresh}.") from None
    changed = {name: before.get(name) for name in sorted({*before, *config}) if before.get(name) != config.get(name)}
    if changed:
        values = "; ".join(f"{name} was {value!r}, is {config.get(name)!r}" for name, value in changed.items())
        if precision := changed.get("precision"):  # as another device computes another one fastest
            afresh += f", or to continue set replace(RECIPE, precision={precision!r}) in the configuration cell"
        raise ValueError(f"'{path}' holds another run: {values}. {afresh}, or restore the old values.")
    for name, part in parts.items():
        part.load_state_dict(state[name])
        getattr(part, "_per_optimizer_states", {}).clear()  # what an interrupted step leaves in a GradScaler
    print(f"Resumed from '{path}' after epoch {len(history)}. {afresh}.")
    if drive and not (drive / name_copy(path, len(history))).exists():  # its copying was interrupted
        copy_to_drive(path, drive, len(history))
    return history


def save_weights(path: Path, model: nn.Module) -> None:
    """Publish the model's weights as float16 safetensors."""
    weights = {name: weight.detach().half().cpu().contiguous() for name, weight in model.state_dict().items()}
    write_atomically(path, lambda name: save_file(weights, name))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load published weights into the model, in its own precision; raise a ValueError if anything in them is wrong."""
    try:
        weights = load_file(path)
        copy.deepcopy(model).load_state_dict(weights)  # which would keep what it loads before it finds a fault
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = shorten(str(error), 200)
        raise ValueError(f"'{path}' is missing, damaged or of another model: {reason}. Check it out again") from None
    for name, weight in weights.items():
        if not (weight.is_floating_point() and weight.isfinite().all()):
            raise ValueError(f"'{path}' holds NaN, infinity or integers in {name}: check it out again")
    model.load_state_dict(weights)


def save_logits(path: Path, logits: Tensor) -> None:
    """Publish the logits (N, 10) of the test images as float32."""
    buffer = BytesIO()  # as NumPy appends .npy to a name
    np.save(buffer, logits.float().numpy())
    write_atomically(path, lambda name: Path(name).write_bytes(buffer.getvalue()))


def load_logits(path: Path, count: int) -> Tensor:
    """Load published logits, float32 (count, 10); raise a ValueError if they are missing, damaged or others."""
    try:
        logits = torch.tensor(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"'{path}' is missing, damaged or no array ({error}): check it out again") from None
    if logits.shape != (count, 10) or logits.dtype != torch.float32 or not logits.isfinite().all():
        raise ValueError(f"'{path}' holds no finite float32 logits ({count}, 10): check it out again")
    return logits
