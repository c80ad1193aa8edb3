"""What the data check reports of data that is valid: missing-value markers, inverted labels, repeated stays."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health.data.data_check import check_data
from federated_health.data.data_check_page import DataCheckPage
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source, generate_readmission
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.data.tasks import Task
from tests.conftest import PROJECT

CASES = PROJECT / "tests" / "cases"

NEW = "far from its|far from all|opposite|seems to identify|as the row before|codes that no row has"
"""Key words of the findings that this file tests."""


def findings(table: pd.DataFrame, folder: Path, task: Task = HEART_DISEASE) -> list[str]:
    path = folder / "patients.csv"
    table.to_csv(path, index=False)
    return select(DataCheckPage(check_data(path, task)).findings())


def select(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if re.search(NEW, line)]


def put(table: pd.DataFrame, column: str, cell: str, rows: int) -> pd.DataFrame:
    """A copy with a cell in some rows, apart from each other."""
    changed = table.copy()
    changed.loc[np.linspace(1, len(table) - 1, rows).astype(int), column] = cell
    return changed


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    """Generated readmission records of one hospital, as numbers."""
    return divide(generate_readmission(1000, seed=3), Partition(by="hospital", seed=3))["university"]


# Missing-value markers inside the range


@pytest.mark.parametrize(
    ("column", "cell", "rows"),
    [
        ("chol", "999", 2),
        ("chol", "999", 60),
        ("chol", "888", 7),
        ("oldpeak", "-9", 4),
        ("oldpeak", "9", 20),
        ("trestbps", "299", 6),  # no usual mark
        ("oldpeak", "-10", 5),
        ("thalach", "31", 9),
    ],
)
def test_a_repeated_value_far_from_the_others_is_reported_with_its_rows(
    tmp_path: Path, patients: pd.DataFrame, column: str, cell: str, rows: int
) -> None:
    if (column, cell) == ("thalach", "31"):
        patients = patients[patients["thalach"].astype(float) > 120].reset_index(drop=True)
    (finding,) = findings(put(patients, column, cell, rows), tmp_path)
    assert column in finding
    assert f"{rows} rows" in finding
    named = cell in {"999", "888", "-9", "9"}
    assert (re.search(rf"(?<!\d){cell}(?!\d)", finding.replace(f"{rows} rows", "")) is not None) is named


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("chol", ["999"]),  # once: perhaps a patient
        ("oldpeak", ["9"]),
        ("age", ["99", "99"]),
        ("chol", ["603", "600", "590", "580"]),  # different
        ("trestbps", ["200", "200", "200", "200", "200"]),  # near the others
        ("oldpeak", ["-2", "-2", "-1", "-1", "-1"]),
    ],
)
def test_rare_or_near_values_are_not_reported(
    tmp_path: Path, patients: pd.DataFrame, column: str, cells: list[str]
) -> None:
    patients.loc[: len(cells) - 1, column] = cells
    assert findings(patients, tmp_path) == []


def test_two_markers_in_one_column_are_both_reported(tmp_path: Path, patients: pd.DataFrame) -> None:
    patients.loc[:28, "chol"] = ["999"] * 20 + ["888"] * 9
    found = findings(patients, tmp_path)
    assert [re.findall(r"is (\d+) in (\d+) rows", finding) for finding in found] == [[("888", "9")], [("999", "20")]]


@pytest.mark.parametrize("rows", [50, 400])
def test_a_marker_at_the_end_of_a_long_tail_is_reported(tmp_path: Path, records: pd.DataFrame, rows: int) -> None:
    table = records.head(500).copy()
    table["glucose"] = 100 + 15 * np.sqrt(np.arange(500)) + np.repeat([0, 400], [480, 20])
    (finding,) = findings(put(table.astype({"glucose": object}), "glucose", "999", rows), tmp_path, READMISSION)
    assert "glucose is 999" in finding


def test_a_tail_of_counts_is_not_a_marker(tmp_path: Path, records: pd.DataFrame) -> None:
    table = records.copy()
    table["emergency_visits"] = np.resize([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 7, 9], len(table))
    assert not [line for line in findings(table, tmp_path, READMISSION) if "far" in line]


# Inverted labels and codes


def swap(table: pd.DataFrame, column: str, codes: dict[str, str]) -> pd.DataFrame:
    return table.assign(**{column: table[column].replace(codes)})


def test_a_label_that_is_inverted_is_reported_with_the_number_of_columns(
    tmp_path: Path, patients: pd.DataFrame
) -> None:
    (finding,) = findings(swap(patients, "disease", {"0": "1", "1": "0"}), tmp_path)
    assert "disease may be inverted" in finding
    assert "in 9 of 9 columns" in finding


@pytest.mark.parametrize("hospital", ["cleveland", "hungary", "va-long-beach"])
def test_a_real_hospital_s_label_is_reported_if_and_only_if_it_is_inverted(
    tmp_path: Path, uci: Source, hospital: str
) -> None:
    rows = divide(uci, Partition(by="hospital", seed=1))[hospital]
    assert findings(rows, tmp_path) == []
    (finding,) = findings(rows.assign(disease=1 - rows["disease"]), tmp_path)
    assert "inverted" in finding


@pytest.mark.parametrize(
    ("column", "codes"),
    [
        ("cp", {"1": "4", "2": "3", "3": "2", "4": "1"}),  # counted from the other end
        ("exang", {"0": "1", "1": "0"}),
        ("sex", {"0": "1", "1": "0"}),
        ("slope", {"1": "3", "3": "1"}),
    ],
)
def test_codes_of_one_column_that_are_swapped_are_reported(
    tmp_path: Path, patients: pd.DataFrame, column: str, codes: dict[str, str]
) -> None:
    found = findings(swap(patients, column, codes), tmp_path)
    assert [column in finding and "codes" in finding for finding in found] == [True][: len(found)]
    assert len(found) == (column != "slope")  # half of its codes stay: too little


def test_a_label_that_depends_on_nothing_is_not_reported(tmp_path: Path, patients: pd.DataFrame) -> None:
    for seed in range(10):
        shuffled = patients["disease"].sample(frac=1, random_state=seed).to_numpy()
        assert findings(patients.assign(disease=shuffled), tmp_path) == []


def test_a_code_that_no_row_has_is_a_neutral_line(tmp_path: Path, patients: pd.DataFrame) -> None:
    (finding,) = findings(patients[patients["restecg"] != "1"], tmp_path)
    assert finding.startswith("note: codes that no row has: restecg 1")


# Repeated stays


def stays(records: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """A share of patients twice, with the same age and sex; other columns are of other patients."""
    generator = np.random.default_rng(seed)
    times = 1 + (generator.random(len(records)) < share)
    rows = records.loc[np.repeat(records.index, times)].reset_index(drop=True)
    others = records.sample(len(rows), replace=True, random_state=seed).reset_index(drop=True)
    return others.assign(age=rows["age"], sex=rows["sex"], number=np.repeat(np.arange(len(records)), times))


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_adjacent_rows_of_the_same_patients_are_reported(tmp_path: Path, records: pd.DataFrame, share: float) -> None:
    (finding,) = findings(stays(records, share), tmp_path, READMISSION)
    assert "same age and sex as the row before" in finding
    assert "[patient]" in finding


@pytest.mark.parametrize(
    "by", [[], ["age"], ["sex"], ["sex", "age"], ["readmitted"], ["readmitted", "age"], ["glucose"], ["age", "glucose"]]
)
@pytest.mark.parametrize("rows", [40, 1000])
def test_a_sorted_file_is_not_taken_for_stays(tmp_path: Path, records: pd.DataFrame, by: list[str], rows: int) -> None:
    table = records.head(rows)
    assert findings(table.sort_values(by) if by else table, tmp_path, READMISSION) == []


def test_a_file_of_which_one_half_is_sorted_is_not_taken_for_stays(tmp_path: Path, records: pd.DataFrame) -> None:
    table = pd.concat([records.head(300).sort_values("age"), records.tail(300)])
    assert findings(table, tmp_path, READMISSION) == []


@pytest.mark.parametrize("name", ["patient", "Patient_ID", "patient_nbr", "MRN", "pid", "subject id", "PatientenNr"])
def test_an_ignored_column_that_identifies_patients_is_reported(
    tmp_path: Path, records: pd.DataFrame, name: str
) -> None:
    table = stays(records, 0.3).sort_values("glucose").rename(columns={"number": name})  # stays are not adjacent
    (finding,) = findings(table, tmp_path, READMISSION)
    assert f'column = "{name}"' in finding
    assert f"{len(table) - len(records)} rows" in finding


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("patient", lambda rows: range(rows)),  # each row is another patient
        ("subject", lambda rows: np.resize(["cardiology", "surgery"], rows)),
        ("encounter_id", lambda rows: np.arange(rows) // 2),
        ("patient", lambda rows: [""] * rows),
    ],
)
def test_other_ignored_columns_are_not_taken_for_patients(
    tmp_path: Path, records: pd.DataFrame, name: str, values: Callable[[int], Any]
) -> None:
    records = records.copy()
    records[name] = pd.Series(values(len(records)))
    assert findings(records, tmp_path, READMISSION) == []


# The cases, and healthy files


@pytest.mark.parametrize(
    ("case", "task", "words"),
    [
        ("999_and_minus9_inside_range", HEART_DISEASE, ["chol is 999 in 3 rows", "oldpeak is -9 in 2 rows"]),
        ("inverted_label", HEART_DISEASE, ["disease may be inverted"]),
        ("two_stays_per_patient", READMISSION, ["12 rows have the patient of an earlier row"]),
    ],
)
def test_each_case_gets_its_warnings(case: str, task: Task, words: list[str]) -> None:
    found = select(DataCheckPage(check_data(CASES / f"{case}.csv", task)).findings())
    assert len(found) == len(words)
    for finding, word in zip(found, words, strict=True):
        assert word in finding


def test_stays_of_the_case_are_reported_without_its_patient_column(tmp_path: Path) -> None:
    table = pd.read_csv(CASES / "two_stays_per_patient.csv").drop(columns="patient")
    (finding,) = findings(table, tmp_path, READMISSION)
    assert "as the row before" in finding


def test_healthy_files_get_none_of_these_warnings(hospitals_folder: Path, tmp_path: Path, uci: Source) -> None:
    for path in sorted(hospitals_folder.glob("client_*.csv")):
        assert select(DataCheckPage(check_data(path, HEART_DISEASE)).findings()) == []
    for rows in divide(generate_readmission(4000, seed=42), Partition(by="hospital", seed=42)).values():
        assert findings(rows, tmp_path, READMISSION) == []
    for seed in range(10):
        for rows in divide(uci, Partition(by="dirichlet", seed=seed, hospitals=5, alpha=0.5)).values():
            assert not [line for line in findings(rows, tmp_path) if "warning" in line]


@pytest.mark.parametrize(("values", "is_warned"), [(("1", "2"), True), (("yes", "no"), True), (("0", "1"), False)])
def test_a_label_of_two_other_values_needs_a_mapping_file(
    patients: pd.DataFrame, tmp_path: Path, values: tuple[str, str], is_warned: bool
) -> None:
    table = patients.assign(disease=[values[label == "1"] for label in patients["disease"]])
    table.to_csv(tmp_path / "patients.csv", index=False)
    found = DataCheckPage(check_data(tmp_path / "patients.csv", HEART_DISEASE)).findings()
    assert any("disease has two values" in line for line in found) is is_warned
