"""What is read from a CSV, and what is refused with which message."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.csv_reading import read_patients
from federated_health.data.tasks import HEART_DISEASE
from federated_health.errors import DataError

HEADER = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,disease"
FIRST = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0"
SECOND = "67,1,4,160,286,0,2,108,1,1.5,2,3,3,1"
FIRST_NUMBERS = [63.0, 1.0, 1.0, 145.0, 233.0, 1.0, 2.0, 150.0, 0.0, 2.3, 3.0, 0.0, 6.0, 0.0]


def write(folder: Path, *lines: str) -> Path:
    path = folder / "patients.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path: Path) -> pd.DataFrame:
    return read_patients(path, HEART_DISEASE, labelled=True)[1]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def with_cell(column: str, cell: str, row: str = SECOND) -> str:
    cells = row.split(",")
    cells[HEADER.split(",").index(column)] = cell
    return ",".join(cells)


# What is read


def test_a_row_is_read_as_numbers_in_the_order_of_the_task(tmp_path: Path) -> None:
    shuffled = [2, 0, 1, *range(13, 2, -1)]
    header, row = HEADER.split(","), FIRST.split(",")
    path = write(tmp_path, ",".join(header[i] for i in shuffled), ",".join(row[i] for i in shuffled))

    text, numbers = read_patients(path, HEART_DISEASE, labelled=True)

    assert list(numbers.columns) == header
    assert numbers.iloc[0].tolist() == FIRST_NUMBERS
    assert set(numbers.dtypes) == {np.dtype("float64")}
    assert list(text.columns) == [header[i] for i in shuffled]
    assert text.loc[0, "oldpeak"] == "2.3"


@pytest.mark.parametrize("mark", ["", "?", "NA", "na", "N/A", "NaN", "null", "None", " ? ", "  "])
@pytest.mark.parametrize("column", ["trestbps", "oldpeak", "ca"])
def test_a_mark_for_missing_is_read_as_missing(tmp_path: Path, column: str, mark: str) -> None:
    numbers = read(write(tmp_path, HEADER, with_cell(column, mark)))

    assert numbers.columns[numbers.iloc[0].isna()].tolist() == [column]


@pytest.mark.parametrize(
    ("zero", "column", "is_missing"),
    [
        ("0", "chol", True),
        ("0.0", "trestbps", True),
        (" 0 ", "thalach", True),
        ("0", "oldpeak", False),
        ("0", "age", False),
        ("0", "ca", False),
    ],
)
def test_a_zero_is_missing_only_where_the_task_says_so(
    tmp_path: Path, zero: str, column: str, is_missing: bool
) -> None:
    cell = read(write(tmp_path, HEADER, with_cell(column, zero)))[column].iloc[0]

    assert bool(np.isnan(cell)) is is_missing
    assert is_missing or cell == 0


@pytest.mark.parametrize(
    ("column", "cell", "number"),
    [
        ("age", "63.0", 63.0),
        ("age", " 63 ", 63.0),
        ("oldpeak", ".7", 0.7),
        ("oldpeak", "-.1", -0.1),
        ("cp", "4.0", 4.0),
    ],
)
def test_numbers_are_read_however_they_are_spelt(tmp_path: Path, column: str, cell: str, number: float) -> None:
    assert read(write(tmp_path, HEADER, with_cell(column, cell)))[column].iloc[0] == number


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"\ufeff{HEADER}\n{FIRST}\n", id="byte-order mark"),
        pytest.param(f"{HEADER}\r\n{FIRST}\r\n", id="CRLF"),
        pytest.param(f"\ufeff{HEADER}\r\n{FIRST}", id="no newline at the end"),
        pytest.param(f"{HEADER.replace(',', ' , ')}\n{FIRST.replace(',', ' ,  ')}\n", id="spaces"),
        pytest.param(f'"{HEADER.replace(",", chr(34) + "," + chr(34))}"\n{FIRST}\n', id="quotes"),
    ],
)
def test_the_dialects_of_spreadsheets_are_read_alike(tmp_path: Path, content: str) -> None:
    path = tmp_path / "patients.csv"
    path.write_bytes(content.encode())

    assert read(path).to_numpy().tolist() == [FIRST_NUMBERS]


def test_columns_that_the_task_does_not_know_are_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, f"id,{HEADER},note,note", f"p-007,{FIRST},NA,zürich", f"p-008,{SECOND},,")

    text, numbers = read_patients(path, HEART_DISEASE, labelled=True)

    assert list(numbers.columns) == HEADER.split(",")
    assert text["id"].tolist() == ["p-007", "p-008"]
    assert text["note"].to_numpy().tolist() == [["NA", "zürich"], ["", ""]]


def test_patients_without_a_label_are_read_if_no_label_is_required(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER.removesuffix(",disease"), FIRST.removesuffix(",0"))

    numbers = read_patients(path, HEART_DISEASE, labelled=False)[1]

    assert list(numbers.columns) == list(HEART_DISEASE.column_names)
    assert numbers.iloc[0].tolist() == FIRST_NUMBERS[:-1]


@pytest.mark.parametrize("number", range(1, 5))
def test_every_real_hospital_is_read(hospitals_folder: Path, number: int) -> None:
    path = hospitals_folder / f"client_{number}.csv"

    expected = pd.read_csv(path).astype("float64")

    pd.testing.assert_frame_equal(read(path), expected, check_exact=True)


# What is refused


@pytest.mark.parametrize(
    ("column", "cell", "rule"),
    [
        ("age", "sixty-three", "expected a number from 0 to 120 (years), or empty; got text"),
        ("age", "271.25", "expected a number from 0 to 120 (years), or empty"),
        ("age", "-7.25", "expected a number from 0 to 120 (years), or empty"),
        ("trestbps", "49.75", "expected a number from 50 to 300 (mm Hg), or empty"),
        ("trestbps", "300.75", "expected a number from 50 to 300 (mm Hg), or empty"),
        ("oldpeak", "inf", "expected a number from -10 to 10 (mm), or empty"),
        ("chol", "-infinity", "expected a number from 50 to 1000 (mg/dl), or empty"),
        ("chol", "1e999", "expected a number from 50 to 1000 (mg/dl), or empty"),
        ("chol", "2_86", "expected a number from 50 to 1000 (mg/dl), or empty; got text"),
        ("sex", "male?", "expected one of 0 (female), 1 (male), or empty; got text"),
        ("sex", "True", "expected one of 0 (female), 1 (male), or empty; got text"),
        ("thal", "5.75", "expected one of 3 (normal), 6 (fixed defect), 7 (reversible defect), or empty"),
        ("ca", "-9", "expected one of 0 (none), 1 (one), 2 (two), 3 (three), or empty"),
        ("disease", "", "expected 0 or 1"),
        ("disease", "?", "expected 0 or 1"),
        ("disease", "4.75", "expected 0 or 1"),
        ("disease", "yes", "expected 0 or 1; got text"),
    ],
)
def test_an_invalid_cell_is_named_by_column_row_and_rule_and_not_quoted(
    tmp_path: Path, column: str, cell: str, rule: str
) -> None:
    message = refusal(write(tmp_path, HEADER, FIRST, FIRST, with_cell(column, cell)))

    assert message == f"column {column}, row 3: {rule}"
    assert cell in ("", "?") or cell not in message


def test_further_invalid_cells_are_counted(tmp_path: Path) -> None:
    wrong = with_cell("chol", "9.75", with_cell("age", "271.25"))

    message = refusal(write(tmp_path, HEADER, FIRST, wrong, with_cell("age", "272.25")))

    assert (
        message
        == "column age, row 2: expected a number from 0 to 120 (years), or empty (and 2 more cells that break a rule)"
    )


def test_the_bounds_themselves_are_allowed(tmp_path: Path) -> None:
    numbers = read(write(tmp_path, HEADER, with_cell("chol", "50"), with_cell("chol", "1000"), with_cell("age", "120")))

    assert numbers["chol"].tolist() == [50, 1000, 286]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n", "is empty", id="a newline"),
        pytest.param(HEADER.encode(), "has no patients, only a header", id="header only"),
        pytest.param(f"{HEADER}\n\n".encode(), "has no patients, only a header", id="header and an empty line"),
        pytest.param(
            f"{HEADER}\n{FIRST}\n{SECOND},8.75\n".encode(),
            "has a row of a wrong length: row 2 has 15 cells, expected 14",
            id="ragged",
        ),
        pytest.param(f'{HEADER}\n{FIRST}\n"{SECOND}\n'.encode(), "", id="open quote"),
        pytest.param(f"{HEADER},note\n{FIRST},é\n".encode("latin-1"), "is not UTF-8 text", id="Latin-1"),
        pytest.param(f"{HEADER}\n{FIRST}\n".encode("utf-16"), "is not UTF-8 text", id="UTF-16"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "patients.csv"
    path.write_bytes(content)

    message = refusal(path)

    assert words in message
    assert "63" not in message
    assert "8.75" not in message


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("63.75,1,1", 3),
        (FIRST.rpartition(",")[0], 13),
        (f"{FIRST},", 15),
        (f"{FIRST},8.75,9.75", 16),
        (" ", 1),
        (FIRST.replace(",", ";"), 1),
    ],
)
def test_a_row_of_a_wrong_length_is_named_with_its_number_of_cells(tmp_path: Path, row: str, cells: int) -> None:
    message = refusal(write(tmp_path, HEADER, FIRST, SECOND, row, FIRST))

    assert message == f"has a row of a wrong length: row 3 has {cells} cells, expected 14"


def test_rows_that_are_all_longer_than_the_header_are_ragged(tmp_path: Path) -> None:
    for more in ("8", "8,9"):
        message = refusal(write(tmp_path, HEADER, f"{FIRST},{more}", f"{SECOND},{more}"))
        assert message.endswith(f": row 1 has {14 + len(more.split(','))} cells, expected 14")


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    assert len(read(write(tmp_path, "", HEADER, "", FIRST, "", "", SECOND, ""))) == 2
    message = refusal(write(tmp_path, "", HEADER, "", FIRST, "", with_cell("age", "271.25")))
    assert message.startswith("column age, row 2: ")


def test_a_lacking_column_is_named_with_the_header_that_came(tmp_path: Path) -> None:
    header = HEADER.replace("thalach", "thalch").replace(",ca,", ",")

    message = refusal(write(tmp_path, header, FIRST.removesuffix(",0,6,0") + ",6,0"))

    assert message == f"lacks the columns thalach, ca; its header is: {header.replace(',', ', ')}"


def test_a_lacking_label_is_named(tmp_path: Path) -> None:
    assert "lacks the column disease" in refusal(write(tmp_path, HEADER.replace("disease", "num"), FIRST))


def test_a_repeated_column_is_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, f"{HEADER},chol", f"{FIRST},286"))

    assert message == "has the column chol more than once"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere.csv") == "cannot be read (No such file or directory)"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "cannot be read (Is a directory)"


@pytest.mark.parametrize(
    "first", [FIRST, with_cell("age", "63.75", FIRST), ",".join(["63.75", *["?"] * 13]), ",".join([*["x"] * 13, " 1 "])]
)
def test_a_file_without_header_is_refused_without_quoting_its_first_patient(tmp_path: Path, first: str) -> None:
    message = refusal(write(tmp_path, first, SECOND))

    assert message == "has no header: its first line holds numbers, not the names of the columns"


def test_a_file_that_the_csv_module_refuses_is_a_data_error(tmp_path: Path) -> None:
    for lines in (
        (f"{HEADER},{'a' * 200_000}", f"{FIRST},a"),
        (f"{HEADER},note", f"{FIRST},{'a' * 200_000}"),
    ):
        assert refusal(write(tmp_path, *lines)) == "is not a well-formed CSV"


@pytest.mark.parametrize(
    ("position", "rule"),
    [
        (0, "a number from 0 to 120 (years), or empty"),
        (1, "one of 0 (female), 1 (male), or empty"),
    ],
)
def test_a_column_describes_its_rule(position: int, rule: str) -> None:
    assert HEART_DISEASE.columns[position].rule == rule
    assert HEART_DISEASE.label.rule == "0 or 1"


def test_an_open_quote_loses_no_patient_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(f'{HEADER},note\n{FIRST},"open\n{SECOND},x\n{SECOND},y\n')
    with pytest.raises(DataError, match="is not a well-formed CSV"):
        read_patients(path, HEART_DISEASE, labelled=True)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_named_without_quoting_a_patient(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(FIRST.replace(",", separator) + "\n" + SECOND.replace(",", separator) + "\n")
    with pytest.raises(DataError, match="is not separated by commas"):
        read_patients(path, HEART_DISEASE, labelled=True)


def test_a_header_is_quoted_only_where_it_looks_like_names(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("age,Mrs Smith (341),sex\n")
    with pytest.raises(DataError, match=r"its header is: age, sex; create_dataset\.py --source reads"):
        read_patients(path, HEART_DISEASE, labelled=True)
