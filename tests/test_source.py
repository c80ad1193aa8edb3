"""Sources: files of every known layout become one canonical table, and other files are refused.

Facts of the data: UCI Machine Learning Repository, dataset 45, doi 10.24432/C52P4X, licence CC BY 4.0 (Janosi,
Steinbrunn, Pfisterer and Detrano, 1988).
"""

import csv
import hashlib
import io
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.data.columns import Category, Label
from federated_health.data.examples import HEART_DISEASE_TABLE
from federated_health.data.labels import NumberLabel
from federated_health.data.sources.label_meaning import parse_label_meaning
from federated_health.data.sources.layouts import KAGGLE_HEART, KAGGLE_UCI, LAYOUTS, Layout
from federated_health.data.sources.source import Source, generate_readmission, read_source, read_uci
from federated_health.data.task_files import HEART_DISEASE, READMISSION, read_task_file
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from tests.conftest import PROJECT
from tests.support.labels import DAYS, STAGES, VISITS, task_with

TABLE = HEART_DISEASE_TABLE
RAW_TABLES = PROJECT.parent / "shared" / "data" / "uci-heart"
UCI_COLUMNS = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]
RAW_FILES = {
    "cleveland": "processed.cleveland.data",
    "hungary": "processed.hungarian.data",
    "switzerland": "processed.switzerland.data",
    "va-long-beach": "processed.va.data",
}
ZERO_IS_MISSING = {"trestbps", "chol", "thalach"}

needs_raw_tables = pytest.mark.skipif(
    not RAW_TABLES.is_dir(), reason=f"UCI's own tables are not in {RAW_TABLES}; the project does not carry them"
)


def carried_rows() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def figures(cells: list[str]) -> list[float | None]:
    """A row of UCI's as numbers, None for missing, read without any code of the project."""
    assert len(cells) == len(UCI_COLUMNS)
    numbers = [None if cell in ("?", "") else float(cell) for cell in cells]
    return [
        None if number == 0 and name in ZERO_IS_MISSING else number
        for name, number in zip(UCI_COLUMNS, numbers, strict=True)
    ]


@needs_raw_tables
@pytest.mark.parametrize("hospital", RAW_FILES)
def test_the_carried_rows_are_uci_s_figure_for_figure_and_in_order(hospital: str) -> None:
    raw = (RAW_TABLES / RAW_FILES[hospital]).read_text().splitlines()
    carried = [[row[name] for name in UCI_COLUMNS] for row in carried_rows() if row["hospital"] == hospital]

    assert [figures(cells) for cells in carried] == [figures(line.split(",")) for line in raw if line]


def test_each_hospital_has_as_many_rows_as_uci_says() -> None:
    counts = Counter(row["hospital"] for row in carried_rows())

    assert counts == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va-long-beach": 200}
    assert list(counts) == list(RAW_FILES)


@pytest.mark.parametrize(
    ("hospital", "counts"),
    [
        ("cleveland", [164, 55, 36, 35, 13]),
        ("hungary", [188, 106, 0, 0, 0]),
        ("switzerland", [8, 48, 32, 30, 5]),
        ("va-long-beach", [51, 56, 41, 42, 10]),
    ],
)
def test_each_diagnosis_is_as_frequent_as_uci_says(hospital: str, counts: list[int]) -> None:
    found = Counter(row["num"] for row in carried_rows() if row["hospital"] == hospital)

    assert [found[str(num)] for num in range(5)] == counts
    assert found.total() == sum(counts)


@pytest.mark.parametrize(
    ("hospital", "missing"),
    [
        ("cleveland", 6),
        ("hungary", 782),
        ("switzerland", 273 + 123),  # question marks, and cholesterols of 0
        ("va-long-beach", 698 + 49 + 1),  # question marks, cholesterols of 0 and one blood pressure of 0
    ],
)
def test_as_many_cells_are_missing_as_uci_has_marks_and_zeros_that_mean_missing(hospital: str, missing: int) -> None:
    rows = [row for row in carried_rows() if row["hospital"] == hospital]

    assert sum(row[name] == "" for row in rows for name in UCI_COLUMNS) == missing


def test_no_zero_is_left_where_it_means_missing(uci: Source) -> None:
    assert not (uci.table[sorted(ZERO_IS_MISSING)] == 0).any(axis=None)
    assert uci.table.loc[uci.table["hospital"] == "switzerland", "chol"].isna().all()


def test_the_label_is_any_diagnosis_above_zero(uci: Source) -> None:
    label = uci.table["disease"]

    assert label.tolist() == [int(row["num"]) > 0 for row in carried_rows()]
    assert label.dtype == "int64"
    assert label.groupby(uci.table["hospital"], sort=False).sum().to_dict() == {
        "cleveland": 139,
        "hungary": 106,
        "switzerland": 115,
        "va-long-beach": 149,
    }


def test_the_canonical_table_is_hospital_columns_of_the_task_and_label(uci: Source) -> None:
    assert list(uci.table.columns) == ["hospital", *HEART_DISEASE.column_names, "disease"]
    assert all(pd.api.types.is_numeric_dtype(uci.table[name]) for name in HEART_DISEASE.column_names)


def test_a_source_names_its_files_and_the_hashes_of_their_bytes(uci: Source) -> None:
    assert (uci.name, uci.title) == ("uci", "UCI's heart disease table")
    assert uci.files == {"heart_disease.csv": hashlib.sha256(TABLE.read_bytes()).hexdigest()}
    assert uci.task is HEART_DISEASE
    assert uci.has_hospitals


# Kaggle's heart.csv: rows of that file, and the same patients in UCI's.

HEART_HEADER = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,target"
HEART_ROWS = [
    "63,1,3,145,233,1,0,150,0,2.3,0,0,1,1",
    "37,1,2,130,250,0,1,187,0,3.5,0,0,2,1",
    "41,0,1,130,204,0,0,172,0,1.4,2,0,2,1",
]
UCI_ROWS = [
    "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0",
    "37,1,3,130,250,0,0,187,0,3.5,3,0,3,0",
    "41,0,2,130,204,0,2,172,0,1.4,1,0,3,0",
]
TWICE = "38,1,2,138,175,0,1,173,0,0,2,4,2,1"
ABSENT = "60,0,4,158,305,0,2,161,0,0,1,0,3,1"

# UCI's codes -> Kaggle's, independent of the project's own table.
TO_KAGGLE = {
    "cp": {"4": "0", "2": "1", "3": "2", "1": "3"},
    "restecg": {"2": "0", "0": "1", "1": "2"},
    "slope": {"3": "0", "2": "1", "1": "2"},
    "ca": {"": "4", "0": "0", "1": "1", "2": "2", "3": "3"},
    "thal": {"": "0", "6": "1", "3": "2", "7": "3"},
}


def write(folder: Path, *lines: str, name: str = "heart.csv") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def rows_of(source: Source) -> list[list[float | None]]:
    """Rows of the task's columns and the label, None for missing."""
    table = source.table.drop(columns="hospital", errors="ignore")
    return [[None if pd.isna(cell) else float(cell) for cell in row] for row in table.to_numpy(dtype=object)]


def cleveland_in_kaggle_codes() -> list[str]:
    """302 patients and one of them a second time, in Kaggle's codes."""
    rows = []
    for row in carried_rows():
        if row["hospital"] == "cleveland" and ",".join(row[name] for name in UCI_COLUMNS) != ABSENT:
            coded = [TO_KAGGLE.get(name, {}).get(row[name], row[name]) for name in UCI_COLUMNS[:-1]]
            rows.append(",".join([*coded, "1" if row["num"] == "0" else "0"]))
    return [*rows, TWICE]


def test_rows_of_heart_csv_become_uci_s_rows_including_the_label(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, HEART_HEADER, *HEART_ROWS))

    assert rows_of(source) == [figures(row.split(",")) for row in UCI_ROWS]
    assert source.title == "Kaggle's heart.csv"
    assert not source.has_hospitals
    assert source.describe()["confirmation"]["in_uci_table"] == 3


def test_heart_csv_is_302_of_cleveland_s_303_patients(tmp_path: Path, uci: Source) -> None:
    lines = cleveland_in_kaggle_codes()
    assert len(lines) == 303
    assert lines.count(TWICE) == 2  # the published file holds this patient twice
    assert all(row in lines for row in HEART_ROWS)

    source = read_source(write(tmp_path, HEART_HEADER, *lines))

    cleveland = uci.table[uci.table["hospital"] == "cleveland"].drop(columns="hospital")
    absent = pd.DataFrame([figures(ABSENT.split(","))], columns=cleveland.columns)
    expected = {tuple(row) for row in cleveland.fillna(-1).to_numpy().tolist()} - {
        tuple(row) for row in absent.fillna(-1).to_numpy().tolist()
    }
    found = [tuple(row) for row in source.table.fillna(-1).to_numpy().tolist()]
    assert len(found) == len(expected) == 302
    assert set(found) == expected
    assert source.dropped["exact repeats"] == 1
    confirmation = source.describe()["confirmation"]
    assert (confirmation["rows"], confirmation["in_uci_table"]) == (303, 303)
    categories = {"sex", "cp", "fbs", "restecg", "exang", "slope", "ca", "thal"}
    assert set(confirmation["compared"]) == {*categories, "disease"}
    assert confirmation["same_as_uci"] == confirmation["compared"]


def test_heart_csv_with_1025_rows_is_the_same_302_patients(tmp_path: Path) -> None:
    lines = cleveland_in_kaggle_codes()
    once = read_source(write(tmp_path, HEART_HEADER, *lines))
    repeated = [*lines, *lines, *lines, *lines[:116]]
    assert len(repeated) == 1025

    source = read_source(write(tmp_path, HEART_HEADER, *repeated))

    pd.testing.assert_frame_equal(source.table, once.table)
    assert source.dropped["exact repeats"] == 723


def test_codes_of_heart_csv_that_mean_missing_are_missing(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, HEART_HEADER, "50,1,0,120,240,0,1,150,0,1,1,4,0,0", *HEART_ROWS))

    first = source.table[:1]
    assert first[["ca", "thal"]].isna().all(axis=None)
    assert first[["cp", "disease"]].to_numpy().tolist() == [[4, 1]]


@pytest.mark.parametrize("rows", [1, 2])
def test_one_or_two_patients_of_uci_s_confirm_nothing(tmp_path: Path, rows: int) -> None:
    with pytest.raises(DataError, match=rf"only {rows} of {rows} rows have the measurements .* not confirmed"):
        read_source(write(tmp_path, HEART_HEADER, *HEART_ROWS[:rows]))


def test_fewer_than_half_of_the_patients_in_uci_s_table_confirm_nothing(tmp_path: Path) -> None:
    others = [f"{30 + place},1,0,120,240,0,1,150,0,1,1,0,2,0" for place in range(4)]

    with pytest.raises(DataError, match="only 3 of 7 rows"):
        read_source(write(tmp_path, HEART_HEADER, *HEART_ROWS, *others))
    assert len(read_source(write(tmp_path, HEART_HEADER, *HEART_ROWS, *others[:3])).table) == 6


def test_codes_that_no_patient_of_uci_s_has_are_reported(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, HEART_HEADER, *HEART_ROWS, "30,1,0,120,240,0,1,150,0,1,1,0,3,0"))

    unconfirmed = [line.partition(",")[0] for line in source.mapped if line.startswith("not confirmed: ")]
    assert [line.removeprefix("not confirmed: ") for line in unconfirmed] == ["cp 4", "slope 2", "thal 7"]


def test_labels_that_agree_with_uci_s_for_some_patients_only_are_refused(tmp_path: Path) -> None:
    lines = cleveland_in_kaggle_codes()
    mixed = [row[:-1] + str(1 - int(row[-1])) if place % 10 == 0 else row for place, row in enumerate(lines)]

    with pytest.raises(DataError, match=r"contradicts UCI's diagnosis in 31 of 303 rows"):
        read_source(write(tmp_path, HEART_HEADER, *mixed))


def test_a_decimal_comma_is_named(tmp_path: Path) -> None:
    rows = [row.replace("2.3", '"2,3"').replace("3.5", '"3,5"').replace("1.4", '"1,4"') for row in HEART_ROWS]

    with pytest.raises(DataError, match=r"column oldpeak, row 1: expected .*decimal comma.*3 of 3 rows") as refused:
        read_source(write(tmp_path, HEART_HEADER, *rows))
    assert "--drop-invalid" not in str(refused.value)


def test_uci_s_codes_under_kaggle_s_header_are_read_as_uci_s(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, HEART_HEADER, *UCI_ROWS))

    assert rows_of(source) == [figures(row.split(",")) for row in UCI_ROWS]


@pytest.mark.parametrize(
    ("column", "cell", "rule"),
    [
        ("age", "300", "a number from 0 to 120"),
        ("chol", "-5", "a number from 50 to 1000"),
        ("cp", "9", "one of 0, 1, 2, 3, or empty"),
        ("cp", "4", "one of 0, 1, 2, 3, or empty"),
        ("thal", "7", "one of 0, 1, 2, 3, or empty"),
        ("ca", "5", "one of 0, 1, 2, 3, 4, or empty"),
        ("thalach", "abc", "a number from 30 to 250"),
    ],
)
def test_an_invalid_cell_is_named_and_its_row_can_be_dropped(tmp_path: Path, column: str, cell: str, rule: str) -> None:
    spoiled = HEART_ROWS[1].split(",")
    spoiled[HEART_HEADER.split(",").index(column)] = cell
    others = [row for row in cleveland_in_kaggle_codes()[10:15] if row not in HEART_ROWS]
    path = write(tmp_path, HEART_HEADER, HEART_ROWS[0], ",".join(spoiled), HEART_ROWS[2], *others)

    with pytest.raises(DataError) as refused:
        read_source(path)
    assert str(refused.value).startswith(f"{path}: column {column}, row 2: expected {rule}")
    assert ("got text" in str(refused.value)) is (cell == "abc")
    assert "--drop-invalid" in str(refused.value)

    source = read_source(path, drop_invalid=True)
    assert rows_of(source)[:2] == [figures(UCI_ROWS[0].split(",")), figures(UCI_ROWS[2].split(","))]
    assert len(source.table) == 2 + len(others)
    assert source.dropped["rows that break a rule"] == 1


def test_a_file_without_a_valid_row_is_refused_even_with_drop_invalid(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="drop every patient with disease 0"):
        read_source(write(tmp_path, OWN_HEADER, OWN_ROW.replace("63", "630")), drop_invalid=True)


# Kaggle's heart_disease_uci.csv.

DISEASE_IS_1 = parse_label_meaning("disease=1")
WORDS_HEADER = "id,age,sex,dataset,cp,trestbps,chol,fbs,restecg,thalch,exang,oldpeak,slope,ca,thal,num"


def test_words_are_read_as_codes_and_hospitals_get_names(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        WORDS_HEADER,
        "1,63,Male,Cleveland,typical angina,145,233,TRUE,lv hypertrophy,150,FALSE,2.3,downsloping,0,fixed defect,0",
        "2,41,Female,VA Long Beach,atypical angina,130,0,FALSE,normal,172,True,1.4,upsloping,,normal,2",
        "3,57,Male,Hungary,non-anginal,,,,st-t abnormality,,,,flat,3,reversable defect,4",
        "4,50,Female,Switzerland,asymptomatic,120,240,false,,150,true,-9,,-9,,1",
        name="heart_disease_uci.csv",
    )

    source = read_source(path, label_meaning=DISEASE_IS_1)

    assert rows_of(source) == [
        [63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 3, 0, 6, 0],
        [41, 0, 2, 130, None, 0, 0, 172, 1, 1.4, 1, None, 3, 1],
        [57, 1, 3, None, None, None, 1, None, None, None, 2, 3, 7, 1],
        [50, 0, 4, 120, 240, 0, None, 150, 1, None, None, None, None, 1],
    ]
    assert source.table["hospital"].tolist() == ["cleveland", "va-long-beach", "hungary", "switzerland"]
    assert "thalch is thalach" in source.mapped
    assert "chol: 0 -> missing, in 1 of 4 rows" in source.mapped


def test_equal_rows_of_other_files_than_heart_csv_are_kept(tmp_path: Path) -> None:
    row = "1,63,Male,Hungary,typical angina,145,233,TRUE,normal,150,FALSE,2.3,flat,0,normal,0"

    assert len(read_source(write(tmp_path, WORDS_HEADER, row, row), label_meaning=DISEASE_IS_1).table) == 2


def test_an_unknown_word_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    row = "1,63,Mann,Hungary,typical angina,145,233,TRUE,normal,150,FALSE,2.3,flat,0,normal,0"

    with pytest.raises(DataError, match="column sex, row 1: expected one of male, female, or empty"):
        read_source(write(tmp_path, WORDS_HEADER, row), label_meaning=DISEASE_IS_1)


# UCI's own files.


def uci_folder(folder: Path, *names: str, end: str = "\n") -> Path:
    """UCI's four files with one row each, in their varying notation."""
    content = {
        "processed.cleveland.data": "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0",
        "processed.hungarian.data": "28,1,2,130,132,0,2,185,0,0,?,?,?,0",
        "processed.switzerland.data": "32,1,1,95,0,?,0,127,0,.7,1,?,?,1",
        "processed.va.data": "63,1,4,0,260,0,1,112,1,-.1,-9,-9.0,?,2",
        "new.data": "this is another file of the archive",
    }
    folder.mkdir(exist_ok=True)
    for name in names or content:
        (folder / name).write_bytes((content[name] + end).encode())
    return folder


UCI_EXPECTED = [
    [63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 3, 0, 6, 0],
    [28, 1, 2, 130, 132, 0, 2, 185, 0, 0, None, None, None, 0],
    [32, 1, 1, 95, None, None, 0, 127, 0, 0.7, 1, None, None, 1],
    [63, 1, 4, None, 260, 0, 1, 112, 1, -0.1, None, None, None, 1],
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", ""])
def test_a_folder_of_uci_s_files_is_four_hospitals(tmp_path: Path, end: str) -> None:
    source = read_source(uci_folder(tmp_path / "uci", end=end))

    assert rows_of(source) == UCI_EXPECTED
    assert source.table["hospital"].tolist() == ["cleveland", "hungary", "switzerland", "va-long-beach"]
    assert list(source.files) == list(RAW_FILES.values())


def test_a_zip_of_uci_s_files_is_four_hospitals(tmp_path: Path) -> None:
    folder = uci_folder(tmp_path / "uci")
    archive = tmp_path / "heart+disease.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for file in folder.iterdir():
            target.write(file, f"heart/{file.name}")

    assert rows_of(read_source(archive)) == UCI_EXPECTED


def test_one_of_uci_s_files_is_one_hospital(tmp_path: Path) -> None:
    folder = uci_folder(tmp_path / "uci", "processed.switzerland.data")

    for path in (folder, folder / "processed.switzerland.data"):
        source = read_source(path)
        assert any("missing files of UCI's four" in line for line in source.mapped)
        assert rows_of(source) == UCI_EXPECTED[2:3]
        assert source.table["hospital"].tolist() == ["switzerland"]


def test_a_zip_with_one_csv_is_read_as_that_csv(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("heart.csv", "\n".join([HEART_HEADER, *HEART_ROWS]))
        target.writestr("__MACOSX/._heart.csv", b"\0\1")

    source = read_source(archive)

    assert len(source.table) == 3
    assert list(source.files) == ["archive.zip", "heart.csv"]


@needs_raw_tables
def test_uci_s_own_folder_gives_the_table_that_the_project_carries(uci: Source) -> None:
    source = read_source(RAW_TABLES)

    pd.testing.assert_frame_equal(source.table, uci.table)
    assert "chol: 0 -> missing, in 172 of 920 rows" in source.mapped


def test_an_empty_file_of_uci_s_is_refused(tmp_path: Path) -> None:
    (tmp_path / "processed.va.data").write_bytes(b"")

    with pytest.raises(DataError, match=r"processed\.va\.data: (is empty|has no patients)"):
        read_source(tmp_path)


def test_an_invalid_row_of_uci_s_files_is_named_with_its_file(tmp_path: Path) -> None:
    folder = uci_folder(tmp_path / "uci")
    (folder / "processed.va.data").write_text(
        "63,1,4,140,260,0,1,112,1,3,2,?,?,2\n63,1,4,140,260,0,1,112,1,3,2,?,?,5\n"
    )

    with pytest.raises(DataError, match=r"uci/processed\.va\.data: column num, row 2: expected one of 0, 1, 2, 3, 4;"):
        read_source(folder)

    (folder / "processed.va.data").write_text("63,1,4,140\n")
    with pytest.raises(DataError, match=r"uci/processed\.va\.data: .*row 1, expected 14 cells, got 4"):
        read_source(folder)


# A hospital's own data, and the table that comes with the project.

OWN_HEADER = ",".join([*HEART_DISEASE.column_names, "disease"])
OWN_ROW = "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"{OWN_HEADER}\n{OWN_ROW}\n".encode("utf-8-sig"), id="byte-order mark"),
        pytest.param(f"{OWN_HEADER}\r\n{OWN_ROW}\r\n".encode(), id="CRLF"),
        pytest.param(f'"{OWN_HEADER.replace(",", chr(34) + "," + chr(34))}"\n{OWN_ROW}'.encode(), id="quotes"),
        pytest.param(f"{OWN_HEADER}\n\n{OWN_ROW}\n\n".encode(), id="blank lines"),
        pytest.param(f"note,{OWN_HEADER}\nx,{OWN_ROW}\n".encode(), id="a column more"),
        pytest.param(f"{OWN_HEADER}\n{OWN_ROW.replace('63,1,', '63.0, 1.00 ,')}\n".encode(), id="decimals and spaces"),
    ],
)
def test_canonical_columns_are_recognised_in_every_csv_dialect(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(content)

    source = read_source(path)

    assert rows_of(source) == [figures(OWN_ROW.split(","))]
    assert source.title == "the columns of the task heart-disease"
    assert not source.has_hospitals


def test_a_hospital_column_names_the_hospitals(tmp_path: Path) -> None:
    rows = [f"{name},{OWN_ROW}" for name in ("Sankt Jürgen", "North 2", "Sankt Jürgen")]

    source = read_source(write(tmp_path, f"hospital,{OWN_HEADER}", *rows))

    assert source.table["hospital"].tolist() == ["sankt-jurgen", "north-2", "sankt-jurgen"]


def test_two_hospitals_that_would_get_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two hospitals would both be called north-2"):
        read_source(write(tmp_path, f"hospital,{OWN_HEADER}", f"North 2,{OWN_ROW}", f"north-2,{OWN_ROW}"))


@pytest.mark.parametrize("name", ["", "   ", "???", "federation"])
def test_a_row_without_a_hospital_is_refused_or_dropped(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f"hospital,{OWN_HEADER}", f"a,{OWN_ROW}", f"{name},{OWN_ROW}")

    with pytest.raises(DataError, match="column hospital, row 2: expected a hospital's name"):
        read_source(path)
    assert read_source(path, drop_invalid=True).table["hospital"].tolist() == ["a"]


def test_the_uci_table_can_be_read_as_a_file(uci: Source) -> None:
    pd.testing.assert_frame_equal(read_source(TABLE).table, uci.table)


def test_records_of_the_second_task_are_recognised(tmp_path: Path) -> None:
    generated = generate_readmission(50, seed=1)
    path = tmp_path / "own.csv"
    generated.table.to_csv(path, index=False)

    source = read_source(path)

    assert source.task is READMISSION
    pd.testing.assert_frame_equal(source.table, generated.table, check_dtype=False)


def test_a_task_that_is_not_shipped_has_its_own_columns_only(tmp_path: Path) -> None:
    task = Task(name="falls", columns=HEART_DISEASE.columns[:3], label=Label("fell", "fell in the stay"))
    path = write(tmp_path, "age,sex,cp,fell", "70,1,2,0", "80,0,,1")

    source = read_source(path, task=task)

    assert source.task is task
    assert rows_of(source) == [[70, 1, 2, 0], [80, 0, None, 1]]
    with pytest.raises(DataError, match="the column fell is missing"):
        read_source(write(tmp_path, HEART_HEADER, *HEART_ROWS), task=task)


# Unknown files.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", r"is empty", id="empty"),
        pytest.param(b"\n\n", r"is empty", id="blank lines"),
        pytest.param(b"a,b\n1,2\n", r"no known layout.*expected such columns as age, .*got a, b", id="other header"),
        pytest.param(
            OWN_HEADER.replace("age,", "").encode(),
            r"closest is the columns of .* the column age is missing; got sex, cp",
            id="lacks one",
        ),
        pytest.param(OWN_HEADER.encode(), r"has no patients", id="header only"),
        pytest.param(f"age,{OWN_HEADER}\n1,{OWN_ROW}\n".encode(), r"column age more than once", id="twice"),
        pytest.param(OWN_ROW.encode(), r"only 1 of 1 rows .* meaning of its columns", id="no header"),
        pytest.param(OWN_ROW.partition(",")[2].encode(), r"has no header", id="no header and 13 columns"),
        pytest.param(f"{OWN_HEADER}\n{OWN_ROW},1\n".encode(), r"row 1, expected 14 cells, got 15", id="long row"),
        pytest.param(f'{OWN_HEADER}\n"{OWN_ROW}\n'.encode(), r"not a well-formed CSV", id="open quote"),
        pytest.param(OWN_HEADER.replace(",", ";").encode(), r"has no patients", id="semicolons, header only"),
        pytest.param(f"{OWN_HEADER}\nzürich".encode("latin-1"), r"is not UTF-8 text", id="Latin-1"),
        pytest.param(OWN_HEADER.encode("utf-16"), r"is not UTF-8 text", id="UTF-16"),
        pytest.param(b"PK\x03\x04 and no more", r"not a readable zip", id="broken zip"),
    ],
)
def test_an_unknown_file_is_refused_in_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(content)

    with pytest.raises(DataError, match=expected) as refused:
        read_source(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_header_that_may_be_a_patient_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not look like a header"):
        read_source(write(tmp_path, "name,Smith; Mary (born 1950 in a small town by the sea)", "a,b"))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"a.csv": "x", "b.csv": "y"},
        {"readme.txt": "x"},
        {"a/heart.csv": "x", "b/heart.csv": "y"},
        {"a/processed.va.data": "x", "b/processed.va.data": "y"},
    ],
)
def test_a_zip_without_one_csv_or_uci_s_files_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    archive = tmp_path / "some.zip"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as target:
        for name, text in {"note.md": "x", **files}.items():
            target.writestr(name, text)
    archive.write_bytes(content.getvalue())

    with pytest.raises(DataError, match=r"expected one CSV, or processed\.cleveland\.data"):
        read_source(archive)


def test_an_excel_file_is_refused_by_its_format(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "heart.xlsx", "w") as target:
        target.writestr("xl/workbook.xml", "<workbook/>")

    with pytest.raises(DataError, match=r"heart\.xlsx: .*Excel.*CSV UTF-8"):
        read_source(tmp_path / "heart.xlsx")


def test_a_folder_without_uci_s_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected processed\.cleveland\.data, .* folder"):
        read_source(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"heart\.csv: cannot be read \(No such file"):
        read_source(tmp_path / "heart.csv")


# Code maps.


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_every_code_of_a_layout_becomes_an_allowed_code(layout: Layout) -> None:
    for column in layout.task.labelled_columns:
        if column.name in layout.codes:
            allowed = {str(code) for code in column.codes} | {""} if isinstance(column, Category) else {"0", "1"}
            assert set(layout.codes[column.name].values()) <= allowed, column.name
            if isinstance(column, Category):
                assert set(layout.codes[column.name].values()) >= {str(code) for code in column.codes}, column.name


heart_rows = st.tuples(
    st.integers(28, 77),
    st.integers(0, 1),
    st.integers(0, 3),
    st.integers(94, 200),
    st.integers(126, 564),
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(71, 202),
    st.integers(0, 1),
    st.integers(0, 62).map(lambda tenths: tenths / 10),
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 1),
)


@settings(max_examples=25)
@given(st.lists(heart_rows, min_size=1, max_size=20, unique=True))
def test_any_heart_csv_maps_one_to_one(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]]) -> None:
    folder = tmp_path_factory.mktemp("heart")
    lines = [",".join(f"{cell:g}" for cell in row) for row in rows]
    known = cleveland_in_kaggle_codes()[:30]  # confirm the layout
    source = read_source(write(folder, HEART_HEADER, *known, *lines))
    back = {name: {after: before for before, after in KAGGLE_HEART.codes[name].items()} for name in KAGGLE_HEART.codes}
    found = set()
    for row in rows_of(source)[30:]:
        cells = dict(zip([*HEART_DISEASE.column_names, "disease"], row, strict=True))
        written = {name: "" if cell is None else f"{cell:g}" for name, cell in cells.items()}
        found.add(tuple(float(back[name][cell] if name in back else cell) for name, cell in written.items()))
    assert found == {tuple(float(cell) for cell in row) for row in rows} - {
        tuple(float(cell) for cell in row.split(",")) for row in known
    }


def test_the_two_kaggle_files_agree_on_one_patient(tmp_path: Path) -> None:
    words = "1,63,Male,Cleveland,typical angina,145,233,TRUE,lv hypertrophy,150,FALSE,2.3,downsloping,0,fixed defect,0"
    from_words = read_source(write(tmp_path, WORDS_HEADER, words), label_meaning=DISEASE_IS_1)
    from_codes = read_source(write(tmp_path, HEART_HEADER, *HEART_ROWS))

    np.testing.assert_array_equal(rows_of(from_words), rows_of(from_codes)[:1])
    assert KAGGLE_UCI.task is KAGGLE_HEART.task


# Another column of UCI's table as the label

SEVERITY = read_task_file(PROJECT / "examples" / "heart_severity" / "heart-severity.toml")


def test_the_diagnosis_of_each_patient_can_be_the_label(uci: Source) -> None:
    source = read_uci(SEVERITY)
    names = ["hospital", *HEART_DISEASE.column_names]
    pd.testing.assert_frame_equal(source.table[names], uci.table[names])
    assert source.table["num"].tolist() == [int(row["num"]) for row in carried_rows()]
    assert source.table["num"].dtype == np.int64
    assert ((source.table["num"] > 0) == (uci.table["disease"] == 1)).all()


@needs_raw_tables
def test_uci_s_own_folder_gives_the_diagnosis_too() -> None:
    pd.testing.assert_frame_equal(read_source(RAW_TABLES, task=SEVERITY).table, read_uci(SEVERITY).table)


def test_one_of_uci_s_files_is_read_for_a_task_with_some_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "processed.va.data"
    path.write_text("63,1,4,140,260,0,1,112,1,3,2,?,?,2\n44,1,4,130,209,0,1,127,0,0,?,?,?,0\n")
    columns = tuple(column for column in SEVERITY.columns if column.name in ("age", "sex"))
    age = read_source(path, task=replace(SEVERITY, columns=columns)).table
    assert age.to_dict("list") == {"hospital": ["va-long-beach"] * 2, "age": [63, 44], "sex": [1, 1], "num": [2, 0]}
    rate = NumberLabel("thalach", "maximum heart rate", "beats/min", low=30, high=250)
    assert read_source(path, task=replace(SEVERITY, columns=columns, label=rate)).table["thalach"].tolist() == [
        112,
        127,
    ]


def test_a_patient_without_the_label_is_refused_without_a_traceback_or_value() -> None:
    chol = NumberLabel("chol", "serum cholesterol", "mg/dl", low=50, high=1000)
    columns = tuple(column for column in SEVERITY.columns if column.name != "chol")
    with pytest.raises(DataError, match="202 of 920 rows have no valid label"):
        read_uci(replace(SEVERITY, columns=columns, label=chol))


@pytest.mark.parametrize("label", [STAGES, DAYS, VISITS])
def test_labels_of_each_kind_are_read_from_a_file(tmp_path: Path, label: Label) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"age,sex,{label.name}\n50,1,2\n60,0,0\n70,1,1\n")
    labels = read_source(path, task=task_with(label)).table[label.name]
    assert labels.tolist() == [2, 0, 1]
    assert labels.dtype == (np.float64 if label is DAYS else np.int64)
    with pytest.raises(DataError, match="binary label"):
        read_source(path, task=task_with(label), label_meaning=parse_label_meaning(f"{label.name}=1"))
    path.write_text(f"age,sex,{label.name}\n50,1,2\n60,0,bad\n")
    with pytest.raises(DataError, match=f"column {label.name}, row 2: expected .*mapping"):
        read_source(path, task=task_with(label), drop_invalid=True)


def test_dropping_rows_may_lose_a_class_but_a_quantity_has_none(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    for label in (STAGES, DAYS):
        path.write_text(f"age,sex,{label.name}\n50,1,2\n60,0,0\n700,1,1\n")
        if label is DAYS:
            assert read_source(path, task=task_with(label), drop_invalid=True).table["days"].tolist() == [2, 0]
            continue
        with pytest.raises(DataError, match="would drop every patient with stage 1:"):
            read_source(path, task=task_with(label), drop_invalid=True)
