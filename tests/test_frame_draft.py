"""The task that is drafted from a DataFrame: what it guesses and tells, and what it refuses to guess."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.csv_reading import find_invalid_cell
from federated_health.data.data_frames import read_frame
from federated_health.data.exports.frame_draft import NO_UNIT, draft_task
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.task_files import parse_task
from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError

ROWS = 200


def table(**columns: Any) -> pd.DataFrame:
    """Patients with an age, a laboratory value, a code and an outcome; some columns added or replaced."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.integers(30, 90, ROWS),
            "lactate_mmol_l": random.gamma(3, 0.7, ROWS).round(1),
            "sex": random.integers(0, 2, ROWS),
            "died": random.random(ROWS) < 0.3,
            **columns,
        }
    )


def drafted(patients: pd.DataFrame, target: str = "died", **options: Any) -> tuple[Task, str]:
    """The task, and the line that says what to check."""
    with pytest.warns(UserWarning, match="check") as told:
        task = draft_task(patients, target, **options)
    (warning,) = told
    assert warning.filename == __file__
    line = str(warning.message)
    assert "\n" not in line
    return task, line


def column_of(task: Task, name: str) -> Measurement | Category:
    (column,) = (column for column in task.columns if column.name == name)
    return column


def measurement_of(patients: pd.DataFrame, name: str) -> Measurement:
    column = column_of(drafted(patients)[0], name)
    assert isinstance(column, Measurement)
    return column


@pytest.mark.parametrize("target", [None, 3])
def test_a_target_that_is_no_name_is_refused(target: Any) -> None:
    with pytest.raises(SettingsError, match="target: expected the name of a column"):
        draft_task(table(), target)


def test_columns_are_guessed_and_what_is_not_known_is_told() -> None:
    task, told = drafted(table())

    assert (task.name, task.label.name, task.label.meaning) == ("died", "died", "died")
    assert task.column_names == ("age", "lactate_mmol_l", "sex")
    age, lactate, sex = task.columns
    assert isinstance(age, Measurement)
    assert (age.low, age.high, age.unit) == (0, 120, NO_UNIT)
    assert isinstance(lactate, Measurement)
    assert lactate.unit == "mmol/l"
    assert isinstance(sex, Category)
    assert list(sex.codes) == [0, 1]
    assert "unit not stated: age" in told
    assert "meaning of codes not stated: sex" in told


def test_the_table_is_valid_for_its_own_task_and_stays_as_it_was() -> None:
    patients = table(note="", lactate_mmol_l=pd.array([1.5, None] * (ROWS // 2), dtype="Float64"))
    before = patients.copy(deep=True)

    task, _ = drafted(patients)

    assert find_invalid_cell("a", task.labelled_columns, read_frame(patients, "a", task)) is None
    pd.testing.assert_frame_equal(patients, before)


def test_the_task_is_the_one_of_its_task_file() -> None:
    task, _ = drafted(table(), name="stay", meaning="death in hospital")

    assert (task.name, task.label.meaning) == ("stay", "death in hospital")
    assert parse_task(write_task(task).encode(), "a").agreement == task.agreement


def test_one_patient_changes_no_range() -> None:
    patients = table()
    others = patients.copy()
    others.loc[patients["lactate_mmol_l"].idxmax(), "lactate_mmol_l"] = patients["lactate_mmol_l"].max() - 0.1

    assert drafted(patients)[0].agreement == drafted(others)[0].agreement


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ([0.5, 2, 7], 0, 10),
        ([0.5, 2, 10], 0, 100),
        ([-3.5, 2, 7], -10, 10),
        ([120, 130, 140.5], 0, 1000),
    ],
)
def test_a_range_of_few_values_ends_at_a_power_of_ten_above_them(cells: list[float], low: float, high: float) -> None:
    score = measurement_of(table(score=np.resize(cells, ROWS)), "score")

    assert (score.low, score.high) == (low, high)


def test_a_value_far_from_all_others_is_within_the_range() -> None:
    cells = np.random.default_rng(1).normal(100, 5, ROWS).round(1)
    cells[0] = 123_456

    pressure = measurement_of(table(pressure=cells), "pressure")

    assert (pressure.low, pressure.high) == (0, 1_000_000)


def test_a_zero_far_from_all_others_is_read_as_missing_and_told() -> None:
    cells = np.random.default_rng(1).normal(200, 20, ROWS).round()
    cells[:10] = 0

    task, told = drafted(table(chol=cells))

    column = column_of(task, "chol")
    assert isinstance(column, Measurement)
    assert column.zero_is_missing
    assert "0 is read as missing: chol" in told


def test_codes_in_few_rows_are_declared_only_between_others() -> None:
    between, outside = np.resize([1, 2, 4], ROWS), np.resize([1, 2, 3], ROWS)
    between[0], outside[0] = 3, 5

    task, _ = drafted(table(between=between, outside=outside))

    column = column_of(task, "between")
    assert isinstance(column, Category)
    assert list(column.codes) == [1, 2, 3, 4]
    other = column_of(task, "outside")
    assert isinstance(other, Measurement)  # as a code, 5 would be that of a single patient
    assert (other.low, other.high) == (0, 10)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("note", [f"seen by {number}" for number in range(ROWS)]),
        ("ward", ["a", "b"] * (ROWS // 2)),
        ("admitted", pd.date_range("2024-01-01", periods=ROWS)),
        ("empty", None),
        ("mixed", ["1", "2.5", "unknown", "4"] * (ROWS // 4)),
        ("heart rate", list(range(ROWS))),
        ("risk", [0.5, 1.5] * (ROWS // 2)),
        ("hospital", [1, 2] * (ROWS // 2)),
        ("size", [np.inf, 1.0] * (ROWS // 2)),
    ],
)
def test_a_column_that_cannot_be_an_input_is_left_out_and_told(name: str, cells: object) -> None:
    task, told = drafted(table(**{name: cells}))

    assert name not in task.column_names
    assert f"left out: {name} (" in told


def test_a_column_that_gives_the_outcome_away_is_left_out() -> None:
    patients = table()
    patients["days_to_death"] = np.where(patients["died"], 3, np.nan)
    patients["deceased"] = patients["died"].astype(int)

    task, told = drafted(patients)

    assert "deceased" not in task.column_names
    assert "deceased (gives the label" in told


def test_the_patient_s_identifier_is_found() -> None:
    task, told = drafted(table(patient_id=[f"p{number // 2}" for number in range(ROWS)]))

    assert task.patient == "patient_id"
    assert "patient_id" not in task.column_names
    assert "rows with the same patient_id count as one patient" in told


@pytest.mark.parametrize(
    ("target", "cells", "problem"),
    [
        ("dead", None, "lacks the target dead"),
        ("died", ["no", "yes"] * (ROWS // 2), "expected numbers, got text"),
        ("died", [1, 2] * (ROWS // 2), "expected 0 and 1, got 2 different values"),
        ("died", [0, 0] * (ROWS // 2), "expected different values, got 1"),
        ("died", list(range(ROWS)), 'kind="number" or kind="count"'),
    ],
)
def test_a_target_that_cannot_be_a_label_is_refused(target: str, cells: object, problem: str) -> None:
    patients = table() if cells is None else table(died=cells)

    with pytest.raises(DataError, match=problem) as refused:
        draft_task(patients, target)
    assert "\n" not in str(refused.value)


KINDS: dict[str, tuple[list[float], str | None, Label]] = {
    "classes": ([0, 1, 2, 3], None, ClassLabel("y", "y", {code: f"code {code}" for code in range(4)})),
    "number": ([4.5 + step / 10 for step in range(100)], None, NumberLabel("y", "y", NO_UNIT, low=0, high=25)),
    "count": (list(range(20)), "count", CountLabel("y", "y", high=100)),
    "a number of few values": ([1, 2, 3], "number", NumberLabel("y", "y", NO_UNIT, low=0, high=10)),
    "counts of few values": ([0, 1], "count", CountLabel("y", "y", high=10)),
}


@pytest.mark.parametrize(("cells", "kind", "label"), KINDS.values(), ids=KINDS)
def test_labels_of_other_kinds_are_guessed_or_stated(cells: list[float], kind: Any, label: Label) -> None:
    task, told = drafted(table(y=np.resize(cells, ROWS)), "y", kind=kind)

    assert task.label == label
    assert f"label of the kind {label.kind}" in told


@pytest.mark.parametrize(
    ("cells", "kind", "problem"),
    [
        ([0, 1], "classes", "3 to 100 classes"),
        ([0, 1, 2.5], "classes", "3 to 100 classes"),
        ([0, 1, 2, 3], "binary", "expected 0 and 1, got 4 different values"),
        ([0, 1, -2, 3], "count", "whole numbers from 0"),
        ([0, 1.5, 2, 3], "count", "whole numbers from 0"),
        ([0, 1, 2, 20_000], "count", "whole numbers from 0 to 10,000"),
    ],
)
def test_a_target_of_another_kind_than_stated_is_refused(cells: list[float], kind: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        draft_task(table(y=np.resize(cells, ROWS)), "y", kind=kind)


def test_a_class_in_few_rows_is_refused() -> None:
    classes = np.resize([0, 1, 2], ROWS)
    classes[0] = 4

    with pytest.raises(DataError, match="join rare ones"):
        draft_task(table(y=classes), "y", kind="classes")


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_a_column_that_gives_another_label_away_is_left_out(kind: Any) -> None:
    stage = np.resize([0, 1, 2, 3], ROWS)

    task, told = drafted(table(y=stage, stage_again=2 * stage + 1), "y", kind=kind)

    assert "stage_again (gives the label" in told
    assert "age" in task.column_names


def test_a_misspelt_target_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="did you mean died"):
        draft_task(table(), "dieed")


def test_a_number_that_probably_means_missing_is_refused_with_a_fix() -> None:
    patients = table()
    patients.loc[:9, "lactate_mmol_l"] = 999

    with pytest.raises(DataError, match="999 seems to mean missing") as refused:
        draft_task(patients, "died")

    fix = str(refused.value).partition("cells: ")[2]
    patients["lactate_mmol_l"] = eval(fix, {"table": patients, "float": float})
    drafted(patients)


@pytest.mark.parametrize("options", [{"name": "My Task"}, {"kind": "survival"}])
def test_a_wrong_name_or_kind_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        draft_task(table(), "died", **options)


def test_a_table_without_inputs_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected a column that can be an input; .*left out: ward"):
        draft_task(table()[["died"]].assign(ward="a"), "died")
