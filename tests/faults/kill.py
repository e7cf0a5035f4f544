"""Kill small trainings with SIGKILL at random moments and compare how they end: make test-faults

Each is killed and restarted until it is complete. The child says which phase it enters; the kill follows after a
random part of that phase's usual time, and counts for the last phase that the child entered.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.faults.train import identical

KILLS = 36
PHASES = {"step": "in a training step", "evaluation": "in an evaluation", "checkpoint": "while a checkpoint is written"}
RUNS = (
    ("SGD", False),
    ("Muon", False),
    ("Muon", True),
)  # optimizer, and whether each kill loses the local files, so that S8_DRIVE brings them back


def start(path: Path, optimizer: str) -> subprocess.Popen:
    """Start or continue the training whose checkpoint is `path`."""
    command = [sys.executable, "-m", "tests.faults.train", str(path), optimizer]
    drive = path.parents[1] / "drive"
    environment = os.environ | {"S8_DRIVE": str(drive) if drive.is_dir() else ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def run_whole(path: Path, optimizer: str) -> tuple[dict, dict[str, float]]:
    """Train without interruption; return the last checkpoint and the usual seconds of each phase."""
    lasted, phase, since = {name: [] for name in PHASES}, None, time.perf_counter()
    with start(path, optimizer) as child:
        for line in child.stdout:
            if phase in PHASES:
                lasted[phase].append(time.perf_counter() - since)
            phase, since = line.strip(), time.perf_counter()
    assert child.returncode == 0, "the uninterrupted run failed"
    return load(path), {name: sorted(seconds)[len(seconds) // 2] for name, seconds in lasted.items()}


def kill_once(path: Path, optimizer: str, target: str, occurrence: int, delay: float) -> str | None:
    """Continue a training and kill it `delay` seconds after it enters `target`; return the phase it died in.

    None if it was complete before.
    """
    with start(path, optimizer) as child:
        phases = []
        for line in child.stdout:
            phases.append(line.strip())
            if phases[-1] == target and phases.count(target) == occurrence:
                time.sleep(delay)
                child.kill()
        child.wait()
    assert child.returncode in (0, -9), f"the training failed with {child.returncode} after {phases}"
    return None if phases[-1] == "complete" else phases[-1]


def load(path: Path) -> dict:
    """Read a checkpoint."""
    return torch.load(path, weights_only=True)


def main() -> None:
    """Kill trainings `KILLS` times, let the last one finish and print the table; exit 1 if any ended otherwise."""
    rng, began = random.Random(0), time.perf_counter()
    counts = {phase: {"kills": 0, "half": 0, "intact": 0, "identical": 0} for phase in PHASES}
    complete, kills = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = {name: run_whole(Path(folder, name, "run", "checkpoint.pt"), name) for name in ("SGD", "Muon")}
        while kills < KILLS:
            optimizer, lose = RUNS[complete % len(RUNS)]
            reference, lasts = whole[optimizer]
            path = Path(folder, str(complete), "run", "checkpoint.pt")
            drive = path.parents[1] / "drive"
            path.parent.mkdir(parents=True)
            if lose:
                drive.mkdir()
            died, halves = [], set()
            while True:
                target = list(PHASES)[kills % len(PHASES)]
                delay = rng.uniform(0, lasts[target])
                phase = kill_once(path, optimizer, target, rng.randint(1, 2) if kills < KILLS else 0, delay)
                if phase is None:
                    break
                kills += 1
                died.append(phase)
                counts[phase]["kills"] += 1
                counts[phase]["half"] += bool(set(path.parents[1].glob("*/.*")) - halves)
                halves |= set(path.parents[1].glob("*/.*"))
                state = load(path)
                counts[phase]["intact"] += identical(state["history"], reference["history"][: len(state["history"])])
                if lose:
                    path.unlink()
            complete += 1
            same, left = identical(load(path), reference), list(path.parents[1].glob("*/.*"))
            source = "Drive" if lose else "disk"
            print(
                f"run {complete}: {optimizer}, killed {len(died)} times, resumed from {source}, identical: {same}",
                flush=True,
            )
            assert not left, f"temporary files are left: {left}"
            for phase in died:
                counts[phase]["identical"] += same
    print(f"\n{kills} kills in {complete} trainings, {time.perf_counter() - began:.0f} s\n")
    print("| killed | times | a half-written temporary file | checkpoint intact | ended bit-identical |")
    print("| --- | --- | --- | --- | --- |")
    for phase, words in PHASES.items():
        print(f"| {words} | " + " | ".join(map(str, counts[phase].values())) + " |")
    sys.exit(any(not row["kills"] == row["intact"] == row["identical"] for row in counts.values()))


if __name__ == "__main__":
    main()
