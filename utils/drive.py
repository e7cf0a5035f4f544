"""Copies of checkpoints on a mounted Google Drive, so that a lost Colab session continues."""

import fnmatch
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.environment import read_variable
from utils.files import write_atomically


def check_drive() -> Path | None:
    """Return the folder that `S8_DRIVE` names, None where it is unset; raise a ValueError if it cannot be used."""
    if not (drive := read_variable("S8_DRIVE")):
        return None
    try:
        tempfile.TemporaryFile(dir=drive).close()
    except OSError as error:
        reason = f"S8_DRIVE={drive!r} cannot be written to ({error.strerror})"
        raise ValueError(f"{reason}: mount Drive, make the folder, or unset S8_DRIVE") from None
    return Path(drive)


@contextmanager
def warning_of_drive() -> Iterator[None]:
    """Turn a failure of Google Drive into a warning."""
    try:
        yield
    except OSError as error:
        name = f"S8_DRIVE={read_variable('S8_DRIVE')!r}"
        message = f"{name} fails ({error.strerror or error}): checkpoints are neither copied there nor fetched"
        warnings.warn(message, stacklevel=1)  # Python shows what comes from one line, this one, once


def name_copy(path: Path, epochs: int | str) -> str:
    """Return the name that the checkpoint's copy after so many epochs has on Drive; "???" stands for any number."""
    return f"{path.parent.name}-epoch{epochs:0>3}.pt"


@warning_of_drive()
def copy_to_drive(path: Path, drive: Path, epochs: int) -> None:
    """Copy the checkpoint, then delete the copies of fewer epochs, except the newest of them.

    Drive may not have uploaded this one yet. Copies of more epochs are never deleted.
    """
    os.stat(drive)  # which fails where Drive is gone, before writing makes a folder in its place
    pattern, copy = name_copy(path, "???"), name_copy(path, epochs)
    write_atomically(drive / copy, lambda name: shutil.copyfile(path, name))
    names = os.listdir(drive)
    earlier = sorted(name for name in fnmatch.filter(names, pattern) if name < copy)
    for name in earlier[:-1] + fnmatch.filter(names, f".{pattern}.*"):  # and what a kill left of one
        os.truncate(drive / name, 0)  # Drive's trash keeps what is deleted, and counts its bytes
        (drive / name).unlink()


@warning_of_drive()
def copy_from_drive(path: Path, drive: Path) -> None:
    """Fetch the copy of most epochs where there is no checkpoint at `path`; pass over uploads that were cut short."""
    copies = sorted(fnmatch.filter(os.listdir(drive), name_copy(path, "???")))
    if copies and not path.exists():
        whole = [name for name in copies if zipfile.is_zipfile(drive / name)]  # as torch.save writes zip files
        write_atomically(path, lambda name: shutil.copyfile(drive / (whole or copies)[-1], name))
