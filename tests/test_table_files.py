"""Excel workbooks and Parquet files: their cells become the text that a CSV would hold."""

import datetime
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.exports.mappings import read_mapping
from federated_health.data.exports.table_files import read_table_file
from federated_health.data.patient_table import read_patients
from federated_health.data.sources.source import Source
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.errors import DataError, MissingLibraryError
from tests.support.exports import GERMAN, STROKE, write_mapping

BIRTH, ADMISSION = datetime.date(1950, 3, 1), datetime.date(2020, 2, 29)


def write_workbook(path: Path, *sheets: tuple[str, list[list[object]]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets:
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def write_parquet(path: Path, table: pd.DataFrame) -> Path:
    pytest.importorskip("pyarrow")
    table.to_parquet(path)
    return path


def texts(table: pd.DataFrame) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in table.to_numpy()]


def test_the_cells_of_a_workbook_are_what_the_sheet_holds(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["Größe (cm)", "n", "day", "time", "flag", "text", "mixed"],
        [5.3, 3, BIRTH, datetime.datetime(2020, 1, 2, 10, 30), True, " a ", 1],
        [0.3, 2.0, datetime.datetime(2020, 1, 2), datetime.datetime(2020, 1, 2), False, None, True],
        [None, -1e-7, None, None, None, "#N/A", "1"],
    ]

    table = read_table_file(write_workbook(tmp_path / "a.xlsx", ("Export", rows)))

    assert list(table.columns) == rows[0]
    assert texts(table) == [
        ["5.3", "3", "1950-03-01", "2020-01-02 10:30:00", "true", "a", "1"],
        ["0.3", "2", "2020-01-02", "2020-01-02 00:00:00", "false", "", "true"],
        ["", "-1e-07", "", "", "", "#N/A", "1"],
    ]


def test_the_first_sheet_is_read_unless_one_is_named(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", ("First", [["a"], [1]]), ("Second", [["b"], [2]]))

    assert texts(read_table_file(path)) == [["1"]]
    assert texts(read_table_file(path, sheet="Second")) == [["2"]]
    with pytest.raises(DataError, match="First, Second"):
        read_table_file(path, sheet="Third")


def test_rows_and_columns_without_cells_are_left_out(tmp_path: Path) -> None:
    rows = [[None, None, None], ["a", "b", None], [1, None, None], [None, None, None], [2, 3, None], [None]]

    table = read_table_file(write_workbook(tmp_path / "a.xlsx", ("Export", rows)))  # type: ignore[arg-type]

    assert (list(table.columns), texts(table)) == (["a", "b"], [["1", ""], ["2", "3"]])


def test_an_unused_column_of_a_parquet_file_may_hold_tables_and_lists(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, 2], "b": [{"c": 3}, {"c": 4}], "d": [[1, 2], [3]]})
    read = read_table_file(write_parquet(tmp_path / "x.parquet", table))
    assert read["a"].tolist() == ["1", "2"]


def test_the_cells_of_a_parquet_file_are_written_exactly(tmp_path: Path) -> None:
    written = pd.DataFrame(
        {
            "float": [5.3, 0.1 + 0.2, np.nan],
            "single": np.array([5.3, 1, np.nan], dtype=np.float32),
            "integer": pd.array([1, 2, None], dtype="Int64"),
            "text": ["a", None, "c"],
            "word": pd.Categorical(["x", "y", None]),
            "day": [BIRTH, None, ADMISSION],
            "time": pd.to_datetime(["2020-01-02 10:30", "", "2020-01-02"], format="mixed"),
            "flag": pd.array([True, False, None], dtype="boolean"),
        }
    )

    table = read_table_file(write_parquet(tmp_path / "a.parquet", written))

    assert list(table.columns) == list(written.columns)
    assert texts(table) == [
        ["5.3", "5.3", "1", "a", "x", "1950-03-01", "2020-01-02 10:30:00", "true"],
        ["0.30000000000000004", "1", "2", "", "y", "", "", "false"],
        ["", "", "", "c", "", "2020-02-29", "2020-01-02 00:00:00", ""],
    ]


def test_numbers_are_written_with_the_stated_decimal_mark(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", ("Export", [["a"], [5.3], ["5,4"]]))

    assert texts(read_table_file(path, decimal=",")) == [["5,3"], ["5,4"]]


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"age;sex\n1;2\n", b"PK\x03\x04 Zzyzx", b"PAR1 Zzyzx PAR1"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    pytest.importorskip({".xlsx": "openpyxl", ".parquet": "pyarrow"}[suffix])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_table_file(path)

    assert str(path) in str(caught.value)
    assert "Zzyzx" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sheet_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        read_table_file(write_workbook(tmp_path / "a.xlsx", ("Export", [])))


@pytest.mark.parametrize(
    ("suffix", "module", "extra"), [(".xlsx", "openpyxl", "xlsx"), (".parquet", "pyarrow", "parquet")]
)
def test_without_its_library_a_file_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, module: str, extra: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingLibraryError) as caught:
        read_table_file(path)

    assert f"pip install {module}" in str(caught.value)
    assert f"extra {extra!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_a_mapping_is_applied_to_it(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame(
        {
            "Geb.-Datum": [BIRTH, BIRTH],
            "Aufnahme": [ADMISSION, ADMISSION],
            "Entlassung": [datetime.date(2020, 3, 5), None],
            "Geschlecht": ["m", "w"],
            "BZ (mmol/l)": [5.5, -99],
            "Temp.": [37.2, np.nan],
            "überlebt?": ["ja", "nein"],
        }
    )
    if suffix == ".xlsx":
        rows = [list(table.columns), *table.astype(object).where(table.notna(), None).to_numpy().tolist()]
        export = write_workbook(tmp_path / "a.xlsx", ("Export", rows))
    else:
        export = write_parquet(tmp_path / "a.parquet", table)
    mapping = write_mapping(tmp_path, GERMAN.replace("%d.%m.%Y", "%Y-%m-%d"))

    numbers = read_patients(export, STROKE, labelled=True, mapping=mapping)[1]

    expected = [[69, 1, 5.5 * 18.016, 37.2, 5, np.nan, 0], [69, 0, np.nan, np.nan, np.nan, np.nan, 1]]
    np.testing.assert_array_equal(numbers.to_numpy(), expected)
    assert read_mapping(mapping, STROKE).read_export(export).shape == table.shape


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_without_a_mapping_it_is_read_if_it_has_the_tasks_own_columns(tmp_path: Path, uci: Source, suffix: str) -> None:
    table = uci.table.drop(columns="hospital").head(40)
    path = tmp_path / f"patients{suffix}"
    if suffix == ".xlsx":
        write_workbook(
            path, ("Export", [list(table.columns), *table.astype(object).where(table.notna(), None).values.tolist()])
        )
    else:
        write_parquet(path, table)

    numbers = read_patients(path, HEART_DISEASE, labelled=True)[1]

    pd.testing.assert_frame_equal(numbers, table.astype(float), check_exact=True)
    with pytest.raises(DataError, match="lacks the columns"):
        read_patients(path, READMISSION, labelled=True)


def test_a_formula_without_a_value_is_refused(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", ("Export", [["a", "b"], [1, "=A2+1"]]))  # as programs write formulas

    with pytest.raises(DataError, match="formulas"):
        read_table_file(path)

    computed = tmp_path / "computed.xlsx"
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(computed, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(b"<v></v>", b"<v>2</v>").replace(b"<v />", b"<v>2</v>"))
    assert texts(read_table_file(computed)) == [["1", "2"]]
