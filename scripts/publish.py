"""Put the executed notebook of a full run in the committed one's place: python -m scripts.publish"""

import sys
from pathlib import Path

import nbformat

from utils.files import NOTEBOOK, write_atomically


def problem(notebook: nbformat.NotebookNode) -> str | None:
    """Say why a notebook is not the record of a whole full run, None if it is."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        return "not every cell was executed, once and in order"
    outputs = [output for cell in cells for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        return "a cell failed"
    if not any(output.get("text", "").startswith("Mode: full,") for output in outputs):
        return "it was no full run"
    return None


def main() -> None:
    """Copy runs/NOTEBOOK over the committed notebook, or exit 1 and say why not."""
    executed = Path("runs") / NOTEBOOK
    if not executed.exists():
        sys.exit(f"There is no '{executed}': execute the notebook first, S8_MODE=full make run")
    notebook = nbformat.read(executed, as_version=4)
    if why := problem(notebook):
        sys.exit(f"'{executed}' is not published: {why}. Execute it again: S8_MODE=full make run")
    write_atomically(NOTEBOOK, lambda name: nbformat.write(notebook, name))
    print(f"'{NOTEBOOK}' is now the executed notebook. `git checkout .` brings everything published back.")


if __name__ == "__main__":
    main()
