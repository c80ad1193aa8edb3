"""The example notebook: its saved outputs are those of a fresh execution, and hold nothing of a machine."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.notebook import NOTEBOOK, execute, outputs_of

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NUMBER = re.compile(r"-?\d+\.\d+")

TOLERANCE = 0.05
"""Another processor may round differently, which moves a figure of few patients."""


def texts_of(cell: Any) -> list[tuple[str, str]]:
    """Kind and plain text of each output of a cell."""
    return [
        (output.output_type, output.text if "text" in output else output.data["text/plain"]) for output in cell.outputs
    ]


def words_of(cell: Any) -> list[tuple[str, list[str]]]:
    """Kind and words of each output of a cell, whatever its decimals are."""
    return [(kind, NUMBER.sub("NUMBER", text).split()) for kind, text in texts_of(cell)]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that start a kernel
def test_the_saved_outputs_are_those_of_an_execution(tmp_path: Path) -> None:
    saved, executed = nbformat.read(NOTEBOOK, as_version=4), execute(tmp_path)

    for cell, again in zip(code_cells(saved), code_cells(executed), strict=True):
        assert words_of(cell) == words_of(again)
        figures = [
            [float(number) for _, text in texts_of(one) for number in NUMBER.findall(text)] for one in (cell, again)
        ]
        assert figures[0] == pytest.approx(figures[1], abs=TOLERANCE)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "model.keras", "tables"}


def test_the_saved_notebook_is_whole_and_of_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == [*range(1, len(code_cells(notebook)) + 1)]
    assert len(outputs_of(notebook)) > 8
    assert not any(output.output_type == "error" for output in outputs_of(notebook))
    assert not re.search(r"/tmp/|/home/|/root/|/work/|site-packages|ipykernel_", NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 150_000
