"""Checkpoints that survive an interruption at any moment, and the weights that are published."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from utils.drive import copy_from_drive, copy_to_drive, name_copy, warning_of_drive
from utils.files import write_atomically


def save_checkpoint(path: Path, config: dict, history: list[dict], **parts) -> None:
    """Save the state of every part (model=, optimizer=, scheduler=, ...), the history and what it was trained with."""
    state = {name: part.state_dict() for name, part in parts.items()}

    def write(name: str) -> None:
        with open(name, "wb") as file:  # which reports a full disk; given a name, torch 2.6 may not
            torch.save({"config": config, "history": history, "state": state}, file)

    write_atomically(path, write)
    if drive := os.environ.get("S8_DRIVE"):
        with warning_of_drive():
            copy_to_drive(path, Path(drive), len(history))


def resume(path: Path, config: dict, **parts) -> list[dict]:
    """Load every part from the checkpoint at `path` and return the history so far; without one, save the start.

    Raises:
        ValueError: if the checkpoint cannot be read, or was trained with another configuration (it names the values).
    """
    mend = afresh = f"Delete '{path}' and restart the kernel to start afresh"
    if drive := os.environ.get("S8_DRIVE"):
        copies = f"'{drive}/{path.parent.name}-epoch*.pt'"
        afresh = f"Delete '{path}' and {copies}, then restart the kernel to start afresh"
        mend = f"Delete '{path}', and if that does not help the last of {copies}, and restart the kernel to continue"
        with warning_of_drive():
            copy_from_drive(path, Path(drive))
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
        kind = type(error).__name__
        raise ValueError(f"'{path}' is damaged or no checkpoint of this notebook ({kind}). {mend}.") from None
    changed = [
        f"{name} was {before.get(name)!r}, is {config.get(name)!r}"
        for name in sorted({*before, *config})
        if before.get(name) != config.get(name)
    ]
    if changed:
        raise ValueError(f"'{path}' holds another run: {'; '.join(changed)}. {afresh}, or restore the old values.")
    for name, part in parts.items():
        part.load_state_dict(state[name])
        getattr(part, "_per_optimizer_states", {}).clear()  # what an interrupted step leaves in a GradScaler
    print(f"Resumed from '{path}' after epoch {len(history)}. {afresh}.")
    if drive:
        with warning_of_drive():
            if not name_copy(path, Path(drive), len(history)).exists():  # its copying was interrupted
                copy_to_drive(path, Path(drive), len(history))
    return history


def save_weights(path: Path, model: nn.Module) -> None:
    """Publish the model's weights as float16 safetensors."""
    weights = {name: weight.detach().half().cpu().contiguous() for name, weight in model.state_dict().items()}
    write_atomically(path, lambda name: save_file(weights, name))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load published weights into the model, in the model's own precision.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no complete safetensors file, or its weights do not fit the model or are not finite.
    """
    if not path.exists():
        raise FileNotFoundError(f"no weights at '{path}': check out the file again, or train with S8_MODE=full")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"'{path}' is damaged or not safetensors ({error}): check out the file again") from error
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        name = next(name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name))
        raise ValueError(
            f"'{path}' is of another model: {name} should be {expected.get(name)}, is {found.get(name)}; "
            "check out the file again"
        )
    if wrong := [name for name, weight in weights.items() if not weight.is_floating_point()]:
        raise ValueError(
            f"'{path}' holds {wrong[0]} as {weights[wrong[0]].dtype}, not floating point: check out the file again"
        )
    if wrong := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise ValueError(f"'{path}' holds NaN or infinity in {wrong[0]}: check out the file again")
    model.load_state_dict(weights)
