"""Where the published files lie, and writing that never leaves half a file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

WEIGHTS = Path("models/resnet18_layernorm_cifar10.safetensors")
RESULTS = Path("images/results.json")


def write_atomically(path: Path, write: Callable[[str], None]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`: readers see the old file or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):  # by a kill
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(str(temporary))
        with open(temporary, "r+b") as written:  # Windows flushes only what may be written
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_atomically(path, lambda name: Path(name).write_text(json.dumps(content, indent=1)))
