"""The table that the project carries is UCI's, figure for figure.

Facts of the data: UCI Machine Learning Repository, dataset 45, doi 10.24432/C52P4X, licence CC BY 4.0 (Janosi,
Steinbrunn, Pfisterer and Detrano, 1988).
"""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from federated_health.errors import DataError
from federated_health.sources import Source, read_uci
from federated_health.tasks import HEART_DISEASE
from tests.conftest import PROJECT

TABLE = PROJECT / "data" / "full_dataset.csv"
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


def test_a_source_names_its_file_and_the_hash_of_its_bytes(uci: Source) -> None:
    assert (uci.name, uci.file) == ("uci", "full_dataset.csv")
    assert uci.sha256 == hashlib.sha256(TABLE.read_bytes()).hexdigest()
    assert uci.task is HEART_DISEASE


def test_a_table_that_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"full_dataset\.csv: cannot be read \(No such file"):
        read_uci(tmp_path / "full_dataset.csv")


def test_another_table_is_refused_with_the_columns_that_were_expected(tmp_path: Path) -> None:
    table = tmp_path / "heart.csv"
    table.write_text("age,sex,target\n63,1,1\n")

    with pytest.raises(DataError, match=r"heart\.csv: expected the columns hospital, age, .*, num; got age, sex"):
        read_uci(table)


CARRIED = TABLE.read_text().splitlines()


def damaged(folder: Path, *lines: str) -> Path:
    table = folder / "full_dataset.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n\n", id="blank lines"),
        pytest.param(
            "\n".join([*CARRIED[:3], CARRIED[3].replace("cleveland", "zürich")]).encode("latin-1"), id="Latin-1"
        ),
        pytest.param("\n".join(CARRIED[:3]).encode("utf-16"), id="UTF-16"),
        pytest.param(b"\x1f\x8b\x08\x00\xff\xfe\x00", id="compressed"),
        pytest.param("\n".join([*CARRIED[:3], CARRIED[3] + ",1"]).encode(), id="a long row"),
        pytest.param("\n".join([*CARRIED[:3], '"' + CARRIED[3]]).encode(), id="open quote"),
        pytest.param("\n".join([*CARRIED[:3], CARRIED[3].replace(",", ",old,", 1)[:-2]]).encode(), id="text"),
    ],
)
def test_a_file_that_is_not_the_table_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "full_dataset.csv"
    table.write_bytes(content)

    with pytest.raises(DataError, match=r"full_dataset\.csv: (is |row 3 has 16 cells)"):
        read_uci(table)


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_row_that_is_cut_off_is_a_data_error(tmp_path: Path, cut: int) -> None:
    table = damaged(tmp_path, *CARRIED[:3], ",".join(CARRIED[3].split(",")[:-cut]))

    with pytest.raises(DataError, match=rf"row 3 has {15 - cut} cells; expected 15"):
        read_uci(table)


@pytest.mark.parametrize("num", ["", "-1", "5", "0.5", "inf"])
def test_a_diagnosis_is_0_to_4_in_every_row(tmp_path: Path, num: str) -> None:
    table = damaged(tmp_path, *CARRIED[:3], f"{CARRIED[3].rpartition(',')[0]},{num}", *CARRIED[4:6])

    with pytest.raises(DataError, match=r"column num must hold 0 to 4"):
        read_uci(table)


def test_a_row_without_a_hospital_is_a_data_error(tmp_path: Path) -> None:
    table = damaged(tmp_path, *CARRIED[:3], CARRIED[3].removeprefix("cleveland"))

    with pytest.raises(DataError, match=r"column hospital a name, in every row$"):
        read_uci(table)


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    turned = [",".join([*line.split(",")[::-1]]) for line in CARRIED[:3]]

    with pytest.raises(DataError, match=r"expected the columns hospital, age, .*, num; got num, thal"):
        read_uci(damaged(tmp_path, *turned))
