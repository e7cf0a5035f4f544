"""Execute the notebook and show its progress in the terminal: python -m utils.run_notebook

Writes the executed notebook and an HTML page to runs/; the committed notebook stays as it is.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

from utils.checkpoint import write_atomically

NOTEBOOK = Path("S8_ResNet18_LayerNorm.ipynb")


class VerboseClient(NotebookClient):
    """A notebook client that prints headings as it reaches them, and text as the kernel sends it."""

    columns_shown = False

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        if msg["msg_type"] == "stream":
            print(content["text"], end="", flush=True)
        elif msg["msg_type"] == "update_display_data":  # one more row of the training table
            lines = content["data"]["text/plain"].splitlines()
            print(lines[-1] if self.columns_shown else f"{lines[0]}\n{lines[-1]}", flush=True)
            self.columns_shown = True
        return super().process_message(msg, cell, cell_index)


def print_heading(cell, cell_index: int) -> None:
    """Print the heading of a Markdown cell."""
    if cell.cell_type == "markdown" and cell.source.startswith("#"):
        print(f"\n{cell.source.splitlines()[0]}", flush=True)


def main() -> None:
    """Execute every cell; keep what was executed even if a cell fails or the kernel dies, and exit 1 then."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = VerboseClient(
        notebook, timeout=None, kernel_name="python3", record_timing=False, on_cell_start=print_heading
    )
    failed = None
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        failed = error
    page, _ = HTMLExporter().from_notebook_node(notebook)
    executed = Path("runs") / NOTEBOOK.name
    write_atomically(executed, lambda name: nbformat.write(notebook, name))
    write_atomically(executed.with_suffix(".html"), lambda name: Path(name).write_text(page, encoding="utf-8"))
    print(f"\nThe executed notebook is '{executed}', as a page '{executed.with_suffix('.html')}'.")
    if failed:
        sys.exit(str(failed))


if __name__ == "__main__":
    main()
