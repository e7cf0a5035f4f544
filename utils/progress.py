"""Progress of a loop: done, total and time left, in a cell's one display or in one line of a terminal."""

import functools
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import length_hint

from IPython import display, get_ipython

DELAY, INTERVAL = 2, 1  # seconds until a loop's progress is first shown, and between updates
MARK = {"progress": True}  # metadata of the messages


def progress(iterable: Iterable, label: str, total: int | None = None) -> Iterator:
    """Yield from `iterable`, and show the progress of a long loop until it ends; nested loops share the place."""
    total, start = total or length_hint(iterable), time.monotonic()
    due = first = start + DELAY
    try:
        for done, item in enumerate(iterable):
            if done and (now := time.monotonic()) >= due:
                minutes, seconds = divmod(round((now - start) / done * (total - done)), 60)
                show(f"{label}: {done}/{total}, {minutes}:{seconds:02} left" if total else f"{label}: {done}")
                due = now + INTERVAL
            yield item
    finally:
        if due > first:
            show("")


def show(text: str) -> None:
    """Show `text` in place of the one before; where that fails the loop goes on without."""
    with suppress(Exception):
        if hasattr(shell := get_ipython(), "kernel"):
            cell_display(shell.execution_count).update({"text/plain": text}, raw=True, metadata=MARK)
        elif sys.stderr.isatty():
            print(over_line(text), end="", file=sys.stderr, flush=True)


@functools.cache
def cell_display(execution_count: int) -> display.DisplayHandle:
    """Make the display that all loops of a cell share."""
    return display.display({"text/plain": ""}, raw=True, metadata=MARK, display_id=True)


def over_line(text: str) -> str:
    """Return what shows `text`, cut to the terminal's width, and lets whatever comes next replace it."""
    return f"\033[K{text[: shutil.get_terminal_size().columns - 1]}\r"
