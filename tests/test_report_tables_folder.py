"""The folder of a page's tables: unrounded figures in CSV and JSON, one name per table, and only its own files removed.

Expected values are made by hand, or read back by pandas and by Python's own parsers.
"""

import csv
import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from federated_health.errors import RunError, StorageError
from federated_health.ml.verdicts import Difference, Interval
from federated_health.report.cells import Cell, Marked, Noisy, Percent
from federated_health.report.page import Folded, Page, Section, Table, write_report
from federated_health.report.tables_folder import (
    csv_table,
    folder_of,
    json_table,
    name_tables,
    remove_tables,
    write_tables,
)

CELLS: tuple[tuple[Cell, ...], ...] = (
    ("north", 1234, 1 / 3, Interval(value=0.1, low=0.05, high=2 / 3), Marked(0.75), Noisy(0.9, 0.01), Percent(0.125)),
    ("south", 7, None, Interval(value=None, low=None, high=None), 0.5, Noisy(None, 0.02), Percent(None)),
    ("all", "", math.nan, Difference(value=-0.25, low=-0.5, high=-1e-300, p_value=0.01), Marked(None), 0.25, "words"),
)
TABLE = Table(
    caption="Figures (95 %)",
    columns=("hospital", "n", "F1", "AUC", "marked", "noisy", "share"),
    rows=CELLS,
    note="A note.",
    last=1,
)
PART = Section("How good", [TABLE])


def table(caption: str = "c", rows: Any = (("a", 1),), columns: tuple[str, ...] = ("x", "y")) -> Table:
    return Table(caption=caption, columns=columns, rows=rows)


def page_of(*tables: Table) -> Page:
    return Page(title="t", lead="l", sections=[Section("One", list(tables))])


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


# CSV


def test_a_csv_has_every_figure_unrounded_in_a_column_of_its_own() -> None:
    header, north, south, last = csv.reader(StringIO(csv_table(TABLE), newline=""))
    assert header == [
        *["hospital", "n", "F1", "AUC", "AUC low", "AUC high", "marked", "marked mark"],
        *["noisy", "noisy noise", "share"],
    ]
    assert north == ["north", "1234", repr(1 / 3), "0.1", "0.05", repr(2 / 3), "0.75", "*", "0.9", "0.01", "0.125"]
    assert south == ["south", "7", "", "", "", "", "0.5", "", "", "0.02", ""]
    assert last == ["all", "", "", "-0.25", "-0.5", "-1e-300", "", "", "0.25", "", "words"]


def test_pandas_reads_the_same_numbers_back() -> None:
    read = pd.read_csv(StringIO(csv_table(TABLE)), index_col="hospital")
    assert read["F1"].tolist()[0] == pytest.approx(1 / 3, rel=1e-15)
    assert read["AUC high"].tolist()[0] == pytest.approx(2 / 3, rel=1e-15)
    assert read["F1"].isna().tolist() == [False, True, True]
    assert read["noisy noise"].tolist()[:2] == [0.01, 0.02]


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", " =1", "\t=1", "\r=1", "\uff1d1"])
def test_text_that_a_spreadsheet_would_execute_gets_an_apostrophe(text: str) -> None:
    (row,) = list(csv.reader(StringIO(csv_table(table(rows=((text, text),), columns=(text, "y"))), newline="")))[1:]
    assert row == [f"'{text}"] * 2
    header = next(csv.reader(StringIO(csv_table(table(columns=(text, "y"))), newline="")))
    assert header[0].startswith("'")


@pytest.mark.parametrize("text", ["-0.5", "+1e-3", "a=b", "va-long-beach", "'", "", '"a",\nb'])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert list(csv.reader(StringIO(csv_table(table(rows=((text, 1),))), newline="")))[1] == [text, "1"]


# JSON


def test_a_json_file_has_the_values_and_the_words_of_a_table() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(json_table(PART, TABLE), parse_constant=refuse)
    assert content["section"] == "How good"
    assert content["caption"] == "Figures (95 %)"
    assert content["note"] == "A note."
    assert content["columns"] == list(TABLE.columns)
    assert content["summary_rows"] == 1
    north, south, last = content["rows"]
    assert north == [
        *["north", 1234, 1 / 3],
        {"value": 0.1, "low": 0.05, "high": 2 / 3},
        {"value": 0.75, "mark": "*"},
        {"value": 0.9, "noise": 0.01},
        0.125,
    ]
    nothing = {"value": None, "low": None, "high": None}
    assert south == ["south", 7, None, nothing, 0.5, {"value": None, "noise": 0.02}, None]
    assert last[2:4] == [None, {"value": -0.25, "low": -0.5, "high": -1e-300}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_are_no_number_are_not_defined(value: float) -> None:
    odd = table(rows=(("a", value), ("b", Interval(value=value, low=value, high=1.0)), ("c", Noisy(0.5, value))))
    assert [row[1] for row in json.loads(json_table(PART, odd))["rows"]] == [
        None,
        {"value": None, "low": None, "high": 1.0},
        {"value": 0.5, "noise": None},
    ]
    assert [row[1] for row in odd.shown_rows][:2] == ["\N{EN DASH}"] * 2
    assert "nan" not in csv_table(odd)
    assert "inf" not in csv_table(odd)


# Names


def test_files_are_named_by_the_caption_and_by_the_section_only_where_captions_are_equal() -> None:
    first = Section("First part", [table("ROC-AUC (95 % interval)"), table("Same"), "text", table("Same")])
    second = Section("Second", [table("Same"), table("東京"), table("Index")])
    page = Page(title="t", lead="l", sections=[first, second])
    assert list(name_tables(page)) == [
        *["roc-auc-95-interval", "first-part-same", "first-part-same-2", "second-same", "table", "index-2"],
    ]


def test_a_long_caption_gives_a_name_that_file_systems_take() -> None:
    names = list(name_tables(page_of(table("a" * 300), table("a" * 299))))
    assert len(set(names)) == 2
    assert all(len(name) < 100 for name in names)


def test_the_folder_is_beside_the_page() -> None:
    assert folder_of(Path("run/report.html")) == Path("run/tables")
    assert folder_of(Path("run/north.html")) == Path("run/north-tables")


# Files


def test_a_page_is_written_with_all_its_tables_and_says_so(tmp_path: Path) -> None:
    many = table("Many", rows=tuple((f"h{number}", number / 7) for number in range(100)))
    write_report(tmp_path / "report.html", lambda: page_of(many, TABLE))
    files = contents(tmp_path / "tables")
    assert files.keys() == {
        "index.json",
        *(f"{name}.{extension}" for name in ("many", "figures-95") for extension in ("csv", "tex", "json")),
    }
    assert files["figures-95.csv"] == csv_table(TABLE).replace("\r\n", "\n")  # as text is read
    assert json.loads(files["index.json"])["tables"] == [
        {"name": "many", "section": "One", "caption": "Many"},
        {"name": "figures-95", "section": "One", "caption": "Figures (95 %)"},
    ]
    html = (tmp_path / "report.html").read_text()
    assert "60 more" in html
    assert "h99" not in html
    assert "folder tables" in html
    assert "h99" in files["many.csv"]
    assert "h99" in files["many.tex"]
    assert "h99" in files["many.json"]


def test_tables_in_folded_parts_have_files_too(tmp_path: Path) -> None:
    folded = Folded("More", [table("Inner"), Folded("Most", [table("Innermost")])])
    write_tables(tmp_path / "tables", Page(title="t", lead="l", sections=[Section("s", [folded], folded=True)]))
    assert {"inner.csv", "innermost.tex"} <= contents(tmp_path / "tables").keys()


def test_a_page_without_tables_has_no_folder(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", lambda: page_of())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "folder tables" not in (tmp_path / "report.html").read_text()


def test_tables_of_an_earlier_page_go_and_files_of_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    write_tables(folder, page_of(table("Old"), table("Kept")))
    (folder / "mine.csv").write_text("mine")
    (folder / "old.txt").write_text("mine")
    write_tables(folder, page_of(table("Kept"), table("New")))
    assert contents(folder).keys() == {
        *("index.json", "mine.csv", "old.txt"),
        *(f"{name}.{extension}" for name in ("kept", "new") for extension in ("csv", "tex", "json")),
    }
    remove_tables(folder)
    assert contents(folder) == {"mine.csv": "mine", "old.txt": "mine"}


def test_the_folder_goes_with_its_last_table(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", page_of(TABLE))
    write_tables(tmp_path / "tables", page_of())
    assert list(tmp_path.iterdir()) == []
    remove_tables(tmp_path / "tables")


@pytest.mark.parametrize(
    "index",
    [
        '{"tables": [{"name": "../secret"}]}',
        '{"tables": [{"name": "/etc/passwd"}, {"name": ""}]}',
        '{"tables": 5}',
        "[1]",
        '{"tables": [{"name": 5}]}',
        '{"tables": ["mine"]}',
        "\xff{",
        "",
        "[" * 100_000,
    ],
)
def test_an_index_of_something_else_removes_nothing(index: str, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("mine")
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "mine.csv").write_text("mine")
    (folder / "index.json").write_text(index)
    write_tables(folder, page_of(TABLE))
    assert (tmp_path / "secret.csv").read_text() == (folder / "mine.csv").read_text() == "mine"
    assert json.loads((folder / "index.json").read_text())["tables"][0]["name"] == "figures-95"


def test_a_crash_while_tables_are_replaced_forgets_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tables"
    write_tables(folder, page_of(table("Old")))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("federated_health.report.tables_folder.write_text", fail)
        with pytest.raises(KeyboardInterrupt):
            write_tables(folder, page_of(table("New")))
    assert "old.csv" in contents(folder)
    write_tables(folder, page_of(table("Third")))
    assert contents(folder).keys() == {"index.json", "third.csv", "third.tex", "third.json"}


def test_a_folder_that_cannot_be_made_is_one_error_and_the_page_is_there(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("a file")
    with pytest.raises(StorageError, match="tables: cannot be written to"):
        write_report(tmp_path / "report.html", lambda: page_of(TABLE))
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "tables").read_text() == "a file"


def test_an_error_in_a_table_names_no_value(tmp_path: Path) -> None:
    class Odd:
        def __repr__(self) -> str:
            return "a secret value"

    with pytest.raises(RunError) as raised:
        write_report(tmp_path / "report.html", lambda: page_of(table(rows=(("a", Odd()),))))
    assert "secret" not in str(raised.value)
