"""Reading CSVs: how cells become numbers, and which files are refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.columns import Label
from federated_health.data.csv_reading import distinct_cells
from federated_health.data.patient_table import read_patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DataError
from tests.support.labels import DAYS, STAGES, VISITS, task_with

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


# Labels of other kinds


def read_labels(folder: Path, label: Label, *cells: str) -> list[float]:
    path = write(folder, f"age,sex,{label.name}", *(f"63,1,{cell}" for cell in cells))
    return [float(number) for number in read_patients(path, task_with(label), labelled=True)[1][label.name]]


@pytest.mark.parametrize(
    ("label", "cells", "numbers"),
    [
        (STAGES, ["0", "2", " 1.0"], [0, 2, 1]),
        (DAYS, ["0", "3.25", "1e2", "400"], [0, 3.25, 100, 400]),
        (VISITS, ["0", "7", "200.0"], [0, 7, 200]),
    ],
)
def test_a_label_of_each_kind_is_read(tmp_path: Path, label: Label, cells: list[str], numbers: list[float]) -> None:
    assert read_labels(tmp_path, label, *cells) == numbers


@pytest.mark.parametrize(
    ("label", "cell"),
    [
        *((STAGES, cell) for cell in ("3", "0.5", "mild", "", "NA", "inf", "-1")),
        *((DAYS, cell) for cell in ("-1", "400.5", "long", "", "nan", "inf", '"1,5"')),
        *((VISITS, cell) for cell in ("-1", "1.5", "201", "many", "", "none", "inf", "-inf")),
    ],
)
def test_a_cell_that_a_label_does_not_allow_is_named_by_column_row_and_rule(
    tmp_path: Path, label: Label, cell: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_labels(tmp_path, label, "1", cell)
    message = str(caught.value).removeprefix(str(tmp_path))
    assert f"column {label.name}, row 2: expected {label.rule}" in message
    assert caught.value.reason == f"its column {label.name} holds a value that is not {label.rule}"
    assert cell not in ("400.5", "201", "mild", "long", "many") or cell not in message.replace(label.rule, "")


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
    ("column", "cell"),
    [
        ("age", "sixty-three"),
        ("age", "271.25"),
        ("age", "-7.25"),
        ("trestbps", "49.75"),
        ("trestbps", "300.75"),
        ("oldpeak", "inf"),
        ("chol", "-infinity"),
        ("chol", "1e999"),
        ("chol", "2_86"),
        ("sex", "male?"),
        ("sex", "True"),
        ("thal", "5.75"),
        ("ca", "-9"),
        ("disease", ""),
        ("disease", "?"),
        ("disease", "4.75"),
        ("disease", "yes"),
    ],
)
def test_an_invalid_cell_is_named_by_column_row_and_rule_and_not_quoted(tmp_path: Path, column: str, cell: str) -> None:
    message = refusal(write(tmp_path, HEADER, FIRST, FIRST, with_cell(column, cell)))

    rule = next(declared.rule for declared in HEART_DISEASE.labelled_columns if declared.name == column)
    assert message.startswith(f"column {column}, row 3: expected {rule}")
    assert ("got text" in message) is (cell in ("sixty-three", "2_86", "male?", "True", "yes"))
    assert cell in ("", "?") or cell not in message


def test_further_invalid_cells_are_counted(tmp_path: Path) -> None:
    wrong = with_cell("chol", "9.75", with_cell("age", "271.25"))

    assert "2 more" in refusal(write(tmp_path, HEADER, FIRST, wrong, with_cell("age", "272.25")))
    assert "1 more" in refusal(write(tmp_path, HEADER, FIRST, wrong))
    assert "more" not in refusal(write(tmp_path, HEADER, FIRST, with_cell("age", "272.25")))


def test_the_bounds_of_a_rule_are_allowed(tmp_path: Path) -> None:
    numbers = read(write(tmp_path, HEADER, with_cell("chol", "50"), with_cell("chol", "1000"), with_cell("age", "120")))

    assert numbers["chol"].tolist() == [50, 1000, 286]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n", "is empty", id="a newline"),
        pytest.param(HEADER.encode(), "has no patients", id="header only"),
        pytest.param(f"{HEADER}\n\n".encode(), "has no patients", id="header and an empty line"),
        pytest.param(
            f"{HEADER}\n{FIRST}\n{SECOND},8.75\n".encode(),
            "wrong length: in row 2, expected 14 cells, got 15",
            id="ragged",
        ),
        pytest.param(f'{HEADER}\n{FIRST}\n"{SECOND}\n'.encode(), "not a well-formed CSV", id="open quote"),
        pytest.param(f"{HEADER},note\n{FIRST},é\n".encode("latin-1"), "is not UTF-8 text", id="Latin-1"),
        pytest.param(f"{HEADER}\n{FIRST}\n".encode("utf-16"), "is not UTF-8 text", id="UTF-16"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
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

    assert f"row 3, expected 14 cells, got {cells}" in message


@pytest.mark.parametrize("more", ["8", "8,9"])
def test_rows_that_are_all_longer_than_the_header_have_the_wrong_length(tmp_path: Path, more: str) -> None:
    message = refusal(write(tmp_path, HEADER, f"{FIRST},{more}", f"{SECOND},{more}"))

    assert f"row 1, expected 14 cells, got {14 + len(more.split(','))}" in message


def test_blank_lines_are_not_rows(tmp_path: Path) -> None:
    assert len(read(write(tmp_path, "", HEADER, "", FIRST, "", "", SECOND, ""))) == 2
    message = refusal(write(tmp_path, "", HEADER, "", FIRST, "", with_cell("age", "271.25")))
    assert message.startswith("column age, row 2: ")


def test_missing_columns_are_named_with_the_header_of_the_file(tmp_path: Path) -> None:
    header = HEADER.replace("thalach", "thalch").replace(",ca,", ",")

    message = refusal(write(tmp_path, header, FIRST.removesuffix(",0,6,0") + ",6,0"))

    assert "lacks the columns thalach, ca;" in message
    assert header.replace(",", ", ") in message


def test_a_missing_label_is_named(tmp_path: Path) -> None:
    assert "lacks the column disease" in refusal(write(tmp_path, HEADER.replace("disease", "num"), FIRST))


def test_a_repeated_column_is_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, f"{HEADER},chol", f"{FIRST},286"))

    assert "column chol more than once" in message


@pytest.mark.parametrize(("name", "reason"), [("nowhere.csv", "No such file"), (".", "Is a directory")])
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    assert f"cannot be read ({reason}" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "first", [FIRST, with_cell("age", "63.75", FIRST), ",".join(["63.75", *["?"] * 13]), ",".join([*["x"] * 13, " 1 "])]
)
def test_a_file_without_header_is_refused_without_quoting_its_first_patient(tmp_path: Path, first: str) -> None:
    message = refusal(write(tmp_path, first, SECOND))

    assert "has no header" in message
    assert not any(character.isdigit() for character in message)


def test_a_cell_longer_than_the_csv_module_reads_is_refused(tmp_path: Path) -> None:
    for lines in (
        (f"{HEADER},{'a' * 200_000}", f"{FIRST},a"),
        (f"{HEADER},note", f"{FIRST},{'a' * 200_000}"),
    ):
        assert "not a well-formed CSV" in refusal(write(tmp_path, *lines))


def test_a_rule_names_bounds_and_unit_or_codes() -> None:
    age, sex = (column.rule for column in HEART_DISEASE.columns[:2])

    assert all(word in age for word in ("0 to 120", "years", "empty"))
    assert all(word in sex for word in ("0 (female)", "1 (male)", "empty"))
    assert "empty" not in HEART_DISEASE.label.rule


def test_an_open_quote_hides_no_row(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(f'{HEADER},note\n{FIRST},"open\n{SECOND},x\n{SECOND},y\n')
    with pytest.raises(DataError, match="not a well-formed CSV"):
        read_patients(path, HEART_DISEASE, labelled=True)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_named_without_quoting_a_patient(tmp_path: Path, separator: str) -> None:
    message = refusal(write(tmp_path, FIRST.replace(",", separator), SECOND.replace(",", separator)))

    assert message.startswith("is not separated by commas")
    assert "has no header" in message
    assert "145" not in message


def test_a_header_is_quoted_only_where_it_looks_like_names(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "age,Mrs Smith (341),sex"))

    assert message.endswith("header is: age, sex, and 1 more")
    assert "Smith" not in message


@pytest.mark.parametrize("kind", ["str", "category"])
def test_each_row_s_cell_is_at_its_position_among_the_distinct_cells(kind: str) -> None:
    cells = pd.Series(["No", " yes ", "", "No", "b", "yes", "B "], dtype=kind)

    positions, distinct = distinct_cells(cells)

    assert distinct.iloc[positions].tolist() == ["no", "yes", "", "no", "b", "yes", "b"]
    assert len(distinct) == 6  # differently written cells stay apart: trimming them first would cost time
