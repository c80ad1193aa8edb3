"""Tables in the terminal: at any width, and in a file, no name and no digit is lost."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from federated_health.cli import tables
from federated_health.cli.tables import choose_figures, print_figures
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import Difference, Interval
from federated_health.report.cells import Cell, Marked, Noisy
from tests.conftest import PROJECT
from tests.support.targets import task_of

Rows = Mapping[str, Mapping[str, Cell]]

LONG = "st-elsewhere-university-hospital-of-the-northern-territories-63"
NAMES = ("va-long-beach", LONG, "x")
FIGURES = (
    *("train_examples", "test_examples", "accuracy", "precision", "recall", "specificity", "f1"),
    *("average_precision", "calibration_slope", "brier", "roc_auc"),
)
PROGRAM = """
from federated_health.cli.tables import print_figures
rows = {{
    name: {{f"figure_{{k}}": (100 * row + k) / 7919 for k in range(12)}} for row, name in enumerate({names})
}}
print_figures("T", rows)
"""


def printed(rows: Rows, width: int, note: str = "") -> str:
    console = Console(width=width, highlight=False, emoji=False)
    with mock.patch.object(tables, "console", console), console.capture() as capture:
        print_figures("T", rows, note)
    return capture.get()


def blocks_of(text: str) -> list[list[tuple[str, list[str]]]]:
    """Rows of each block: the name, put together from its lines, and the words of the cells."""
    blocks: list[list[tuple[str, list[str]]]] = []
    lines = text.splitlines()
    rules = [place for place, line in enumerate(lines) if "\N{BOX DRAWINGS LIGHT HORIZONTAL}" in line]
    for rule in rules:
        rows: list[tuple[str, list[str]]] = []
        for line in lines[rule + 1 :]:
            if not line.strip():
                break
            name, *cells = line.split()
            if cells or not rows:
                rows.append((name, cells))
            else:
                rows[-1] = rows[-1][0] + name, rows[-1][1]
        blocks.append(rows)
    return blocks


def numbers(rows: int, columns: int) -> list[list[float]]:
    return [[(100 * row + column) / 7919 for column in range(columns)] for row in range(rows)]


@pytest.mark.parametrize("width", [40, 41, 60, 80, 120, 200])
def test_every_block_has_all_names_and_every_figure_is_in_one_of_them(width: int) -> None:
    values = numbers(3, len(FIGURES))
    rows = {name: dict(zip(FIGURES, row, strict=True)) for name, row in zip(NAMES, values, strict=True)}
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    blocks = blocks_of(text)
    assert [[name for name, _ in block] for block in blocks] == [list(NAMES)] * len(blocks)
    for place, row in enumerate(values):
        assert [cell for block in blocks for cell in block[place][1]] == [f"{value:.3f}" for value in row]


def test_a_table_that_fits_is_one_block() -> None:
    rows = {"va-long-beach": dict.fromkeys(FIGURES[:7], 0.5)}
    assert len(blocks_of(printed(rows, 80))) == 1
    assert len(blocks_of(printed(rows, 60))) == 2


def test_a_table_of_the_figures_of_a_run_is_one_block_at_80_columns() -> None:
    row: dict[str, Cell] = {
        "train_examples": 1500,
        "test_examples": 1500,
        **dict.fromkeys(FIGURES[2:7], 0.123),
        "brier": 0.1,
    }
    rows: Rows = {"va-long-beach": {**row, "roc_auc": Marked(0.759)}, "hospital mean": {"roc_auc": Marked(0.5)}}
    text = printed(rows, 80)
    assert text.count("va-long-beach") == 1
    assert "0.759*" in text
    assert max(map(len, text.splitlines())) <= 80


@given(
    names=st.lists(st.text("ab-", min_size=1, max_size=63), min_size=1, max_size=4, unique=True),
    columns=st.integers(1, 14),
    size=st.integers(1, 9),
    width=st.integers(30, 130),
)
def test_whole_numbers_of_any_size_are_printed_whole(names: list[str], columns: int, size: int, width: int) -> None:
    first = 10 ** (size - 1)
    rows = {
        name: {f"c{column}": first + 100 * row + column for column in range(columns)} for row, name in enumerate(names)
    }
    blocks = blocks_of(printed(rows, width))
    for place, name in enumerate(names):
        assert [block[place][0] for block in blocks] == [name] * len(blocks)
        assert [cell for block in blocks for cell in block[place][1]] == [str(n) for n in rows[name].values()]


@pytest.mark.parametrize("width", [40, 80])
def test_cells_of_several_parts_keep_every_digit(width: int) -> None:
    row: dict[str, Cell] = {
        "own": Interval(value=0.1234, low=0.0567, high=0.8901),
        "difference": Difference(value=-0.0359, low=-0.131, high=0.062, p_value=0.01),
        "noisy": Noisy(0.9123, 0.0456),
        "verdict": "too few patients to tell *",
        "none": None,
    }
    words = " ".join(printed({LONG: row}, width).split())
    for digits in ("0.123", "0.057", "0.890", "0.036", "0.131", "+0.062", "0.912", "0.046", "patients", "tell *"):
        assert digits in words
    assert re.search(r" -( |$)", words)  # the cell without a figure


def test_words_have_the_room_that_is_left() -> None:
    rows: Rows = {"weights": {"what it is": "the model's weights after local training", "times": 12}}
    assert "the model's weights after local training" in printed(rows, 80)
    narrow = printed(rows, 40)
    assert "local training" in " ".join(narrow.split())
    assert max(map(len, narrow.splitlines())) <= 40


def test_markup_in_names_and_cells_is_text() -> None:
    text = printed({"[red]a[/red]": {"[b]": "[i]x[/i]"}}, 80)
    assert "[red]a[/red]" in text
    assert "[b]" in text
    assert "[i]x[/i]" in text


@pytest.mark.parametrize(("columns", "width"), [("", 80), ("50", 50)])
def test_a_file_has_the_width_of_a_terminal_or_the_one_that_is_set(columns: str, width: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"COLUMNS": columns} if columns else {}
    with (tmp_path / "out").open("w") as file:
        program = [sys.executable, "-c", PROGRAM.format(names=NAMES)]
        subprocess.run(program, stdin=file, stdout=file, stderr=file, cwd=PROJECT, env=environment, check=True)
    check_program((tmp_path / "out").read_text(), width)


def check_program(text: str, width: int) -> None:
    blocks = blocks_of(text)
    assert max(map(len, text.splitlines())) <= width
    assert [[name for name, _ in block] for block in blocks] == [list(NAMES)] * len(blocks)
    for place, row in enumerate(numbers(3, 12)):
        assert [cell for block in blocks for cell in block[place][1]] == [f"{value:.3f}" for value in row]


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_has_its_own_width(width: int) -> None:
    main, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1"}
    program = [sys.executable, "-c", PROGRAM.format(names=NAMES)]
    process = subprocess.Popen(
        program, stdin=terminal, stdout=terminal, stderr=terminal, cwd=PROJECT, env=environment | {"TERM": "xterm"}
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux's end of a terminal whose programs have ended
            break
        if not part:
            break
        text += part
    os.close(main)
    assert process.wait() == 0
    check_program(re.sub(r"\x1b\[[0-9;]*m", "", text.decode()), width)


# Which figures, and what is said of them

BINARY = target_of(task_of("binary"))


def figures_of(**changed: Any) -> dict[str, Any]:
    figures = dict.fromkeys((*FIGURES, "calibration_intercept"), 0.8)
    return {**figures, "train_examples": 90, "test_examples": 30, "prevalence": 0.5, "small": False, **changed}


def test_a_roc_auc_of_few_patients_of_a_class_is_marked_and_the_mark_explained() -> None:
    rows, notes = choose_figures({"a": figures_of(small=True), "b": figures_of()}, figures_of(), BINARY)
    assert (rows["a"]["roc_auc"], rows["b"]["roc_auc"]) == (Marked(0.8), 0.8)
    assert "small" not in rows["a"]
    assert len([note for note in notes if note.startswith("* Fewer than 10")]) == 1
    assert choose_figures({"b": figures_of()}, figures_of(), BINARY)[1] == []


def test_a_roc_auc_that_is_not_defined_has_no_mark() -> None:
    rows, notes = choose_figures({"a": figures_of(small=True, roc_auc=None)}, figures_of(), BINARY)
    assert rows["a"]["roc_auc"] is None
    assert notes == []


def test_a_class_that_is_mostly_missed_is_named_with_its_numbers() -> None:
    # 50 rows, 37 of them positive; 1 of the 13 negative ones is recognised.
    weak = figures_of(test_examples=50, prevalence=0.74, specificity=1 / 13)
    _, (note,) = choose_figures({"va": weak, "b": figures_of(), "federation": weak}, figures_of(), BINARY)
    assert note == "At va the model recognises 1 of 13 held-out patients with ill = 0 (specificity 0.077)."


def test_the_federation_alone_has_the_sentence_where_hospitals_are_not_known() -> None:
    _, notes = choose_figures({"federation": figures_of(recall=0.2)}, figures_of(), BINARY)
    assert len(notes) == 1
    assert "3 of 15" in notes[0]
    assert "sensitivity 0.200" in notes[0]
