"""Execute the notebook, show its progress in the terminal, and write it to runs/: python -m scripts.run_notebook"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("Python 3.11 or newer is needed: rm -rf .venv; make PYTHON=python3.11 run")

import os
import signal
import time
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter, preprocessors

from utils.files import NOTEBOOK, write_atomically
from utils.progress import over_line


class TerminalClient(NotebookClient):
    """A notebook client that shows text, new rows of the training table, and progress."""

    table_lines, next_progress = 0, 0.0

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        text = content.get("data", {}).get("text/plain", "")
        if content.get("metadata", {}).get("progress"):
            if sys.stdout.isatty():
                show(over_line(text))
            elif text and time.monotonic() > self.next_progress:
                show(f"{text}\n")
                self.next_progress = time.monotonic() + 30
            return None  # not for the notebook
        output = super().process_message(msg, cell, cell_index)  # what is shown is already kept
        if msg["msg_type"] == "stream":
            show(content["text"])
        elif msg["msg_type"] == "update_display_data":
            lines = text.splitlines()
            show("".join(f"{line}\n" for line in lines[self.table_lines :]))
            self.table_lines = len(lines)
        return output


def show(text: str) -> None:
    """Print `text` over the progress, or nowhere once the terminal or pipe is gone."""
    try:
        print("\033[K" * sys.stdout.isatty() + text, end="", flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")


def main() -> str | None:
    """Execute every cell, keep what was executed whatever happens, and return what failed."""
    sys.stdout.reconfigure(errors="replace")
    notebook, _ = preprocessors.ClearOutputPreprocessor().preprocess(nbformat.read(NOTEBOOK, as_version=4), {})
    client = TerminalClient(notebook, shutdown_kernel="immediate", extra_arguments=["--log-level=ERROR"])
    client.km = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))  # of this interpreter
    executed, failed = Path("runs") / NOTEBOOK.name, None
    client.on_cell_executed = lambda **_: write_atomically(executed, lambda name: nbformat.write(notebook, name))
    try:
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "markdown" and cell.source.startswith("#"):
                    show(f"\n{cell.source.splitlines()[0]}\n")
                client.execute_cell(cell, index, client.code_cells_executed + 1)
    except Exception as error:  # of a cell, or because the kernel died
        failed = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
    finally:
        client.on_cell_executed()
    show(f"\nThe executed notebook is '{executed}', ")
    try:
        page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)  # lab's has no alternative texts
        write_atomically(executed.with_suffix(".html"), lambda name: Path(name).write_text(page, encoding="utf-8"))
        show(f"as a page '{executed.with_suffix('.html')}'.\n")
    except Exception as error:
        show(f"but there is no page: {error}".splitlines()[0] + "\n")
    return failed and f"In [{client.code_cells_executed}] failed, {failed}"


def stop(number: int, _) -> None:
    """Leave `main` because of a signal; a second one changes nothing."""
    signal.signal(number, signal.SIG_IGN)
    show("\ninterrupted; `make run` continues from the last checkpoint\n")
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    sys.exit(main())
