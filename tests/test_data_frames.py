"""A DataFrame is read as the CSV with the same content: the same numbers, the same errors, and it stays as it was."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.csv_reading import find_invalid_cell, read_cells
from federated_health.data.data_check import check_data, check_table
from federated_health.data.data_frames import read_frame, text_table
from federated_health.data.hospital import load_hospital, split_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.errors import DataError

TASK = Task(
    name="stay",
    columns=(
        Measurement("age", "age", "years", low=0, high=120),
        Category("sex", "sex", {0: "female", 1: "male"}),
    ),
    label=Label("died", "death"),
)


def frame(**columns: Any) -> pd.DataFrame:
    """Three patients, with some columns replaced."""
    return pd.DataFrame({"age": [61.5, 70, 44], "sex": [0, 1, 1], "died": [0, 0, 1], **columns})


def refusal(table: pd.DataFrame, task: Task = TASK) -> DataError:
    """The error of a table that cannot be used."""
    try:
        error = find_invalid_cell("north", task.labelled_columns, read_frame(table, "north", task))
    except DataError as raised:
        return raised
    assert error is not None
    return error


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_hospital_s_frame_gives_the_rows_and_warnings_of_its_csv(hospitals_folder: Path, number: int) -> None:
    path = hospitals_folder / f"client_{number}.csv"
    table = pd.read_csv(path)
    shuffled_index = table.set_axis(np.arange(len(table))[::-1], axis="index")

    hospital = split_hospital(
        check_table("a", HEART_DISEASE, read_frame(shuffled_index, "a", HEART_DISEASE)), "a", split_seed=7
    )

    expected = load_hospital(path, HEART_DISEASE, "a", 7)
    for rows, expected_rows in ((hospital.train, expected.train), (hospital.test, expected.test)):
        np.testing.assert_array_equal(rows.values, expected_rows.values)
        np.testing.assert_array_equal(rows.labels, expected_rows.labels)
    assert hospital.warnings == expected.warnings


@pytest.mark.parametrize("digits", [1, 3, 6, 14])
def test_decimals_are_read_to_the_bit_as_in_a_csv(tmp_path: Path, digits: int) -> None:
    random = np.random.default_rng(digits)
    cells = [f"{age:.{digits}f}" for age in random.uniform(0, 120, 2000)]
    text = "age,sex,died\n" + "".join(f"{cell},0,1\n" for cell in cells)
    (tmp_path / "a.csv").write_text(text)

    numbers = read_frame(pd.read_csv(StringIO(text)), "a", TASK).numbers

    pd.testing.assert_frame_equal(numbers, read_cells(tmp_path / "a.csv", TASK).numbers, check_exact=True)


COLUMNS: dict[str, Any] = {
    "float": [0.0, 1.0, np.nan],
    "float32": np.array([0, 1, np.nan], dtype=np.float32),
    "object": [0, "1 ", None],
    "text": ["0", "1", "NA"],
    "Int64": pd.array([0, 1, None], dtype="Int64"),
    "Float64": pd.array([0, 1, None], dtype="Float64"),
    "boolean": pd.array([False, True, None], dtype="boolean"),
    "truth and None": [False, True, None],
    "string": pd.array(["0", "1", None], dtype="string"),
    "codes": pd.Categorical([0, 1, None]),
    "words of codes": pd.Categorical(["0", "1", "?"]),
    "truth as categories": pd.Categorical([False, True, None]),
    "sparse": pd.arrays.SparseArray([0.0, 1.0, np.nan]),
}


@pytest.mark.parametrize("cells", COLUMNS.values(), ids=COLUMNS)
def test_every_dtype_is_read_as_numbers_and_left_as_it_was(cells: Any) -> None:
    table = frame(sex=cells)
    before = table.copy(deep=True)

    read = read_frame(table, "north", TASK)

    assert read.numbers["sex"].tolist()[:2] == [0, 1]
    assert np.isnan(read.numbers["sex"].iloc[2])
    assert not read.invalid.to_numpy().any()
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("table", "column", "row"),
    [
        (frame(age=[61, 700, 44]), "age", 2),
        (frame(age=[61, 70, np.inf]), "age", 3),
        (frame(sex=["f", "m", "m"]), "sex", 1),
        (frame(sex=[0, 1.5, 1]), "sex", 2),
        (frame(died=[0, None, 1]), "died", 2),
        (frame(died=["no", "no", "yes"]), "died", 1),
        (frame(age=pd.to_datetime(["1960-03-01"] * 3)), "age", 1),
    ],
    ids=["range", "infinite", "words", "between codes", "no label", "words of a label", "date"],
)
def test_an_invalid_cell_is_named_by_hospital_column_and_row(table: pd.DataFrame, column: str, row: int) -> None:
    message = str(refusal(table))

    assert message.startswith(f"north: column {column}, row {row}: expected ")
    assert not any(str(cell) in message.replace("male", "") for cell in ("700", "inf", "1.5", "1960", "'f'", "yes"))


def test_the_error_of_a_frame_is_that_of_its_csv_but_for_the_name(tmp_path: Path) -> None:
    table = frame(age=[61, 700, -1])
    table.to_csv(tmp_path / "a.csv", index=False)

    check = check_data(tmp_path / "a.csv", TASK)

    assert check.obstacle is not None
    assert str(refusal(table)) == str(check.obstacle).replace(str(tmp_path / "a.csv"), "north")


SPOILED: dict[str, tuple[Callable[[pd.DataFrame], object], str]] = {
    "a missing column": (lambda table: table.drop(columns="sex"), "lacks the column sex"),
    "another case": (lambda table: table.rename(columns={"sex": "Sex"}), "Sex is not sex"),
    "a repeated column": (lambda table: pd.concat([table, table[["sex"]]], axis=1), "more than once"),
    "no rows": (lambda table: table.head(0), "no patients"),
    "an empty row": (lambda table: table.astype(float).reindex([0, 1, 2, 3]), "rows of empty cells only: row 4"),
    "no frame": (lambda table: table["age"], "expected a pandas DataFrame, got Series"),
}


@pytest.mark.parametrize(("spoil", "problem"), SPOILED.values(), ids=SPOILED)
def test_what_is_no_table_of_the_task_is_refused(spoil: Callable[[pd.DataFrame], pd.DataFrame], problem: str) -> None:
    message = str(refusal(spoil(frame())))

    assert message.startswith("north: ")
    assert problem in message


def test_names_of_columns_that_are_no_text_are_allowed() -> None:
    assert list(text_table(pd.DataFrame({0: [1], ("a", 1): [2], " b ": [3]}), "a").columns) == ["0", "('a', 1)", "b"]


def test_rows_of_one_patient_have_the_same_number() -> None:
    task = Task(name="stay", columns=TASK.columns, label=TASK.label, patient="pid")

    patients = read_frame(frame(pid=["x1", "x2", "x1"]), "north", task).patients

    assert patients is not None
    assert patients[0] == patients[2] != patients[1]
    assert "column pid, row 2" in str(refusal(frame(pid=["x1", None, "x1"]), task))
