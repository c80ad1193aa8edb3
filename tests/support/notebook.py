"""The example notebook: executing it, and what of its outputs must not vary.

`python -m tests.support.notebook` executes it and saves its outputs.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from tests.support.scripts import PROJECT

NOTEBOOK = PROJECT / "examples" / "quickstart.ipynb"

SECONDS = 300
KERNEL_FILE = re.compile(r"\S*/ipykernel_\d+/\d+\.py:\d+: ")
"""Where a warning was raised, in a kernel's temporary file."""


def execute(folder: Path) -> Any:
    """A fresh execution of the notebook in a folder."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", record_timing=False, resources={"metadata": {"path": folder}}
    )
    client.execute(env=_environment())
    for output in outputs_of(notebook):
        if "text" in output:
            output["text"] = KERNEL_FILE.sub("", output["text"])
    return notebook


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def _environment() -> dict[str, str]:
    """The variables with which the kernel finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def save() -> None:
    """Execute the notebook, and write it with its outputs."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(Path(folder))
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, NOTEBOOK)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    save()
