"""The check of a hospital's CSV: its counts, its warnings, and that it never quotes a cell."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.data_check import DataCheck, check_data
from federated_health.data.data_check_page import DataCheckPage
from federated_health.data.hospital import load_hospital
from federated_health.data.labels import ClassLabel
from federated_health.data.patient_table import read_patients
from federated_health.data.sources.source import generate_readmission
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from tests.support.labels import DAYS, STAGES, VISITS, task_with

Spoil = Callable[[pd.DataFrame], pd.DataFrame]

WARNINGS = {
    "few": r"few patients: .* (\d+) rows",
    "rare": r"one class of (\w+) is rare",
    "one class": r"(\w+) is ([01]) in every row: the AUC is undefined",
    "repeats": r"(\d+) rows? .* equal to .* in every column",
    "missing": r"(\w+) is missing in every row",
    "constant": r"(\w+) has one value in all rows",
    "zeros": r"(\w+) is 0 in (\d+) rows?\b",
    "unit": r"(\w+) looks like (.+); the task's unit is (.+)",
    "below": r"the median of (\w+) is below .*\((.+)\)",
    "above": r"the median of (\w+) is above .*\((.+)\)",
    "extreme": r"the (?:lowest|highest) value of (\w+), in (\d+) rows, is far",
    "inverted": r"(\w+) may be inverted: .* opposite",
}
"""Kind of warning -> its key words, with the figures and names in groups."""


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    """Generated readmission records, as text."""
    return generate_readmission(4000, seed=1).table.astype(str).replace("nan", "")


def check(table: pd.DataFrame, folder: Path, task: Task = HEART_DISEASE) -> DataCheck:
    path = folder / "patients.csv"
    table.to_csv(path, index=False)
    return check_data(path, task)


def turn(cells: "pd.Series[str]", change: Callable[[float], float]) -> "pd.Series[str]":
    """Numbers, changed, as text with one decimal; what is missing stays so."""
    return cells.map(lambda cell: f"{change(float(cell)):.1f}" if cell else cell)


def counts_of(quality: DataCheck, column: str) -> tuple[object, object, list[int]]:
    """Missing cells of a column, zeros among them, and the numbers of its invalid rows."""
    row = DataCheckPage(quality).table()[column]
    invalid = [number for number, is_invalid in enumerate(quality.cells.invalid[column], start=1) if is_invalid]
    assert row["invalid"] == (len(invalid) or "")
    return row["missing"], row["recorded as 0"] or 0, invalid


def labels_of(quality: DataCheck) -> dict[int, int]:
    title = DataCheckPage(quality).title
    return {int(value): int(rows) for rows, value in re.findall(r"(\d+) with \w+ = ([01])", title)}


def warnings_of(quality: DataCheck) -> list[tuple[str, ...]]:
    """Kind of each warning, with its figures and names."""
    found = []
    for warning in quality.warnings:
        matches = {kind: match for kind, pattern in WARNINGS.items() if (match := re.match(pattern, warning))}
        ((kind, match),) = matches.items()
        found.append((kind, *match.groups()))
    return found


def text_of(quality: DataCheck) -> str:
    """Everything that may be shown or sent."""
    page = DataCheckPage(quality)
    words = [page.title, page.verdict, str(page.table()), *page.findings(), *quality.warnings]
    if quality.obstacle is not None:
        words += [str(quality.obstacle), quality.obstacle.reason]
    return "\n".join(words)


# Counts


def test_counts_of_a_spoiled_file_worked_by_hand(tmp_path: Path, patients: pd.DataFrame) -> None:
    patients.loc[0:2, "chol"] = ["0", "0.0", " -0 "]
    patients.loc[3:6, "chol"] = ["", "?", "n/a", " NULL "]
    patients.loc[7:9, "chol"] = ["high", "49.5", "1000.5"]
    patients.loc[0:1, "age"] = ["0", "0"]
    patients.loc[0:2, "sex"] = ["2", "F", ""]
    patients.loc[0:3, "disease"] = ["", "2", "no", "?"]
    valid = patients["disease"].iloc[4:]

    quality = check(patients, tmp_path)

    assert counts_of(quality, "chol") == (7, 3, [8, 9, 10])
    assert counts_of(quality, "age") == (0, 0, [])  # a zero is an age
    assert counts_of(quality, "sex") == (1, 0, [1, 2])
    assert counts_of(quality, "oldpeak") == (0, 0, [])
    assert counts_of(quality, "disease") == (0, 0, [1, 2, 3, 4])  # a label may not be missing
    assert labels_of(quality) == {1: int((valid == "1").sum()), 0: int((valid == "0").sum())}
    assert list(DataCheckPage(quality).table()) == [*HEART_DISEASE.column_names, "disease"]
    assert quality.numbers.shape == (303, 14)
    assert ("zeros", "age", "2") in warnings_of(quality)
    findings = DataCheckPage(quality).findings()
    invalid, warnings = findings[:3], findings[3:]
    columns = [("sex", "rows 1, 2 "), ("chol", "rows 8, 9, 10 "), ("disease", "rows 1, 2, 3, 4 ")]
    for finding, (column, rows) in zip(invalid, columns, strict=True):
        assert finding.startswith(f"{column} must be ")
        assert rows in finding
    assert [warning.removeprefix("warning: ") for warning in warnings] == list(quality.warnings)


@pytest.mark.parametrize(
    ("number", "labels", "missing"),
    [
        (1, {1: 139, 0: 164}, {"ca": 4, "thal": 2}),
        (3, {1: 115, 0: 8}, {"chol": 123, "fbs": 75, "trestbps": 2, "oldpeak": 6, "ca": 118, "thal": 52}),
    ],
)
def test_counts_of_a_real_hospital(
    hospitals_folder: Path, number: int, labels: dict[int, int], missing: dict[str, int]
) -> None:
    quality = check_data(hospitals_folder / f"client_{number}.csv", HEART_DISEASE)

    assert labels_of(quality) == labels
    assert {name: counts_of(quality, name)[0] for name in missing} == missing


def test_title_and_table_hold_rows_labels_counts_and_percentages(tmp_path: Path, patients: pd.DataFrame) -> None:
    patients["chol"] = ["0"] * 50 + [""] * 51 + ["-5"] + patients["chol"].tolist()[102:]

    quality = check(patients, tmp_path)

    page = DataCheckPage(quality)
    assert all(words in page.title for words in (f"{tmp_path}/patients.csv", "heart-disease", "303 patients"))
    assert labels_of(quality) == {1: 139, 0: 164}
    assert "check failed" in page.verdict
    table = page.table()
    assert list(table) == [*HEART_DISEASE.column_names, "disease"]
    assert table["chol"] == {"missing": 101, "missing %": "33", "recorded as 0": 50, "invalid": 1}
    assert table["age"] == {"missing": 0, "missing %": "0", "recorded as 0": "", "invalid": ""}


def test_the_numbers_are_those_that_the_hospital_trains_on(hospitals_folder: Path) -> None:
    for number in range(1, 5):
        path = hospitals_folder / f"client_{number}.csv"
        pd.testing.assert_frame_equal(
            check_data(path, HEART_DISEASE).numbers, read_patients(path, HEART_DISEASE, labelled=True)[1]
        )


# An independent count, in plain Python

SMALL = Task(
    name="small",
    columns=(
        Measurement(name="age", meaning="age", unit="years", low=0, high=120),
        Measurement(name="chol", meaning="cholesterol", unit="mg/dl", low=50, high=1000, zero_is_missing=True),
        Category(name="sex", meaning="sex", codes={0: "female", 1: "male"}),
    ),
    label=Label(name="disease", meaning="is ill"),
)
ALLOWED: dict[str, Callable[[float], bool]] = {
    "age": lambda number: 0 <= number <= 120,
    "chol": lambda number: 50 <= number <= 1000,
    "sex": lambda number: number in (0, 1),
    "disease": lambda number: number in (0, 1),
}
MARKS = ["", "?", "NA", "n/a", "NaN", "null", "None", " ", " na "]
GOOD = {
    "age": ["0", "7", "63.5", "120", "-0", "6.35e1"],
    "chol": ["0", "0.0", " 0", "50", "233", "1000", "-0.0"],
    "sex": ["0", "1", "1.0", " 0 "],
    "disease": ["0", "1", "1.0"],
}
BAD = ["-1", "1e9", "inf", "-inf", "word", "1,5", "0.5x", "49.9", "2", "-9", "yes"]


def cells_of(column: str) -> st.SearchStrategy[str]:
    good = st.sampled_from(GOOD[column])
    return st.one_of(good, good, good, st.sampled_from(MARKS), st.sampled_from(BAD))


ROW = st.tuples(*(cells_of(name) for name in ALLOWED))
CLEAN_ROW = st.tuples(*(st.sampled_from(GOOD[name] + ([] if name == "disease" else MARKS)) for name in ALLOWED))
TABLE = st.one_of(st.lists(ROW, min_size=1, max_size=30), st.lists(CLEAN_ROW, min_size=1, max_size=60))

MISSING, TEXT = None, "text"


def read_cell(column: str, cell: str) -> float | str | None:
    if cell.strip().lower() in ("", "?", "na", "n/a", "nan", "null", "none"):
        return MISSING
    try:
        number = float(cell)
    except ValueError:
        return TEXT
    return MISSING if column == "chol" and number == 0 else number


def is_invalid(column: str, cell: float | str | None) -> bool:
    if isinstance(cell, float):
        return not ALLOWED[column](cell)
    return cell == TEXT or column == "disease"


def expected_warnings(rows: list[dict[str, float | str | None]]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [("few", f"{len(rows)}")] if len(rows) < 50 else []
    labels = [row["disease"] for row in rows if not is_invalid("disease", row["disease"])]
    if len(set(labels)) == 1:
        found.append(("one class", "disease", f"{labels[0]:g}"))
    elif labels and min(labels.count(0.0), labels.count(1.0)) < 20:
        found.append(("rare", "disease"))
    readable = [tuple(row.values()) for row in rows if TEXT not in row.values()]
    if repeats := len(readable) - len(set(readable)):
        found.append(("repeats", f"{repeats}"))
    for name in ("age", "chol", "sex"):
        cells = [row[name] for row in rows]
        valid = [cell for cell in cells if cell is not MISSING and not is_invalid(name, cell)]
        if set(cells) == {MISSING}:
            found.append(("missing", name))
        elif len(valid) > 1 and len(set(valid)) == 1:
            found.append(("constant", name))
    return found


@settings(max_examples=120)
@given(TABLE)
def test_a_random_table_is_counted_as_plain_python_counts_it(table: list[tuple[str, ...]]) -> None:
    rows = [{name: read_cell(name, cell) for name, cell in zip(ALLOWED, row, strict=True)} for row in table]
    with tempfile.TemporaryDirectory() as folder:
        quality = check(pd.DataFrame(table, columns=list(ALLOWED)), Path(folder), SMALL)

    for name in ALLOWED:
        missing, _, invalid = counts_of(quality, name)
        assert invalid == [number for number, row in enumerate(rows, 1) if is_invalid(name, row[name])]
        assert missing == (0 if name == "disease" else sum(row[name] is MISSING for row in rows))
    zeros = [row[1].strip() in ("0", "0.0", "-0.0") for row in table]
    assert [counts_of(quality, name)[1] for name in ALLOWED] == [0, sum(zeros), 0, 0]
    assert labels_of(quality) == {value: sum(row["disease"] == value for row in rows) for value in (1, 0)}
    assert warnings_of(quality) == expected_warnings(rows)

    broken = [name for name in ALLOWED if any(is_invalid(name, row[name]) for row in rows)]
    different = len({(row["age"], row["chol"], row["sex"]) for row in rows})
    if broken:
        assert quality.obstacle is not None
        first = next(i for i, row in enumerate(rows, start=1) if is_invalid(broken[0], row[broken[0]]))
        assert f": column {broken[0]}, row {first}: expected " in str(quality.obstacle)
        assert f"its column {broken[0]} " in str(quality.obstacle.reason)
    elif different < 8:
        assert quality.obstacle is not None
        assert "fewer than 8 different patients" in quality.obstacle.reason
    else:
        assert quality.obstacle is None
    rules = {column.name: column.rule for column in (*SMALL.columns, SMALL.label)}
    findings = DataCheckPage(quality).findings()
    found = [line.split("; see row")[0] for line in findings if not line.startswith("warning: ")]
    assert found == [f"{name} must be {rules[name]}" for name in broken]


# Warnings


@pytest.mark.parametrize(
    ("number", "warnings"),
    [
        (1, []),
        (2, [("repeats", "1"), ("constant", "ca")]),
        (3, [("rare", "disease"), ("missing", "chol")]),
        (4, [("repeats", "1"), ("constant", "ca")]),
    ],
)
def test_warnings_of_a_real_hospital(hospitals_folder: Path, number: int, warnings: list[tuple[str, ...]]) -> None:
    quality = check_data(hospitals_folder / f"client_{number}.csv", HEART_DISEASE)

    assert warnings_of(quality) == warnings
    assert quality.obstacle is None
    quality.raise_obstacle()


@pytest.mark.parametrize("rows", [4000, 400])
def test_generated_records_raise_no_alarm(tmp_path: Path, records: pd.DataFrame, rows: int) -> None:
    quality = check(records.head(rows), tmp_path, READMISSION)

    assert (quality.warnings, quality.obstacle) == ((), None)


@pytest.mark.parametrize(("rows", "warned"), [(49, True), (50, False)])
def test_few_patients_are_fewer_than_fifty(tmp_path: Path, patients: pd.DataFrame, rows: int, warned: bool) -> None:
    assert (("few", f"{rows}") in warnings_of(check(patients.head(rows), tmp_path))) is warned


@pytest.mark.parametrize(("diseased", "warned"), [(0, False), (1, True), (19, True), (20, False), (139, False)])
@pytest.mark.parametrize("swap", [False, True])
def test_a_rare_class_has_fewer_than_twenty_patients(
    tmp_path: Path, patients: pd.DataFrame, diseased: int, warned: bool, swap: bool
) -> None:
    table = pd.concat([patients[patients["disease"] == "0"].head(130), patients[patients["disease"] == "1"][:diseased]])
    if swap:
        table = table.assign(disease=table["disease"].map({"0": "1", "1": "0"}))

    kinds = [kind for kind, *_ in warnings_of(check(table, tmp_path))]

    assert ("rare" in kinds) is warned
    assert ("one class" in kinds) is (diseased == 0)


def test_invalid_labels_are_not_classes(tmp_path: Path, patients: pd.DataFrame) -> None:
    """UCI's own label goes from 0 to 4: its rare 4 is not a rare class."""
    diseased = patients.index[patients["disease"] == "1"]
    patients.loc[diseased[:10], "disease"] = "4"

    quality = check(patients, tmp_path)

    assert labels_of(quality) == {1: 129, 0: 164}
    assert len(counts_of(quality, "disease")[2]) == 10
    assert quality.warnings == ()
    assert check(patients.assign(disease="2"), tmp_path).warnings == ()


def test_repeated_rows_are_counted_without_the_first_of_them(tmp_path: Path, patients: pd.DataFrame) -> None:
    table = pd.concat([patients, patients.iloc[[5, 5, 7]]])

    assert warnings_of(check(table.sample(frac=1, random_state=1), tmp_path)) == [("repeats", "3")]


def test_rows_that_differ_in_a_cell_or_in_the_label_do_not_repeat(tmp_path: Path, patients: pd.DataFrame) -> None:
    other = patients.iloc[[0, 1]].copy()
    other.loc[0, "oldpeak"] = "0.05"
    other.loc[1, "disease"] = "0"  # of a patient who is diseased

    assert patients["disease"][1] == "1"

    assert check(pd.concat([patients, other]), tmp_path).warnings == ()


def test_rows_whose_difference_cannot_be_read_do_not_repeat(tmp_path: Path, patients: pd.DataFrame) -> None:
    women, men = (patients.assign(sex=letter) for letter in "FM")

    assert check(pd.concat([women, men]), tmp_path).warnings == ()


@pytest.mark.parametrize("mark", ["", "?", "0"])
def test_an_empty_column_is_a_warning(tmp_path: Path, patients: pd.DataFrame, mark: str) -> None:
    quality = check(patients.assign(chol=mark), tmp_path)

    assert warnings_of(quality) == [("missing", "chol")]
    assert quality.obstacle is None


def test_a_column_of_text_is_not_called_missing(tmp_path: Path, patients: pd.DataFrame) -> None:
    quality = check(patients.assign(chol="unknown"), tmp_path)

    assert quality.warnings == ()
    assert counts_of(quality, "chol") == (0, 0, list(range(1, 304)))


@pytest.mark.parametrize("column", ["sex", "age", "chol"])
def test_a_constant_column_is_a_warning(tmp_path: Path, patients: pd.DataFrame, column: str) -> None:
    patients[column] = [""] * 5 + [patients[column][0]] * (len(patients) - 5)

    assert warnings_of(check(patients, tmp_path)) == [("constant", column)]


def test_a_single_value_is_not_called_constant(tmp_path: Path, patients: pd.DataFrame) -> None:
    patients.loc[1:, "chol"] = ""

    assert check(patients, tmp_path).warnings == ()


@pytest.mark.parametrize("rows", [1, 2])
def test_zeros_that_may_mean_missing_are_a_warning(tmp_path: Path, patients: pd.DataFrame, rows: int) -> None:
    for column in ("age", "oldpeak", "chol", "ca"):
        patients[column] = ["0"] * rows + patients[column].tolist()[rows:]

    assert warnings_of(check(patients, tmp_path)) == [("zeros", "age", f"{rows}")]


UNITS: list[tuple[Task, str, Callable[[float], float], str, str]] = [
    (HEART_DISEASE, "chol", lambda mg_dl: mg_dl / 38.67, "mmol/l", "mg/dl"),
    (HEART_DISEASE, "age", lambda years: years * 12, "months", "years"),
    (HEART_DISEASE, "thalach", lambda per_minute: per_minute / 60, "beats/s", "beats/min"),
    (READMISSION, "glucose", lambda mg_dl: mg_dl / 18.016, "mmol/l", "mg/dl"),
    # IFCC's master equation: NGSP = 0.09148 IFCC + 2.152
    (READMISSION, "hba1c", lambda percent: (percent - 2.152) / 0.09148, "mmol/mol", "%"),
    (READMISSION, "days_in_hospital", lambda days: days * 24, "hours", "days"),
    (READMISSION, "age", lambda years: years * 12, "months", "years"),
]


@pytest.mark.parametrize(
    ("task", "column", "change", "unit", "own"), UNITS, ids=[f"{row[1]} in {row[3]}" for row in UNITS]
)
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_a_column_in_another_unit_is_a_warning_with_both_units(
    tmp_path: Path,
    patients: pd.DataFrame,
    records: pd.DataFrame,
    task: Task,
    column: str,
    change: Callable[[float], float],
    unit: str,
    own: str,
    share: float,
) -> None:
    table = (patients if task is HEART_DISEASE else records.head(400)).copy()
    wrong = table.sample(frac=share, random_state=2).index
    table.loc[wrong, column] = turn(table.loc[wrong, column], change)

    assert warnings_of(check(table, tmp_path, task)) == [("unit", column, unit, own)]


@pytest.mark.parametrize(
    ("median", "units"),
    [
        (11.0, "cm Hg"),  # 110 mm Hg; in kPa it would be 83
        (13.0, "cm Hg"),
        (14.0, "kPa or cm Hg"),  # 105 or 140 mm Hg: either is plausible
        (17.3, "kPa or cm Hg"),  # 130 or 173 mm Hg
        (19.0, "kPa"),  # 143 mm Hg; in cm Hg it would be 190
    ],
)
def test_a_blood_pressure_names_every_unit_that_it_may_be_in(
    tmp_path: Path, patients: pd.DataFrame, median: float, units: str
) -> None:
    pressure = [f"{median + (row % 5 - 2) / 10:.1f}" for row in range(len(patients))]

    quality = check(patients.assign(trestbps=pressure), tmp_path)

    assert warnings_of(quality) == [("unit", "trestbps", units, "mm Hg")]


@pytest.mark.parametrize(
    ("cell", "is_other_unit"),
    [
        ("31", False),  # 4.99 %
        ("32", True),  # 5.08 %
        ("35", True),  # 5.35 %
        ("96", True),  # 10.93 %
        ("98", False),  # 11.1 %
    ],
)
def test_a_unit_with_an_offset_is_converted_with_it(
    tmp_path: Path, records: pd.DataFrame, cell: str, is_other_unit: bool
) -> None:
    table = records.head(400).copy()
    table["hba1c"] = [cell] * 399 + ["99"]

    warning = ("unit", "hba1c", "mmol/mol", "%") if is_other_unit else ("above", "hba1c", "5 to 11 %")
    assert warnings_of(check(table, tmp_path, READMISSION)) == [warning]


@pytest.mark.parametrize(
    ("column", "cell", "side", "usual"),
    [
        ("chol", "60", "below", "120 to 350 mg/dl"),
        ("chol", "900", "above", "120 to 350 mg/dl"),
        ("chol", "1e308", "above", "120 to 350 mg/dl"),
        ("chol", "inf", "above", "120 to 350 mg/dl"),
        ("age", "12", "below", "30 to 90 years"),
        ("oldpeak", "-5", "below", "0 to 3 mm"),
    ],
)
def test_an_unusual_median_is_a_warning_with_its_side(
    tmp_path: Path, patients: pd.DataFrame, column: str, cell: str, side: str, usual: str
) -> None:
    patients.loc[:199, column] = cell

    warnings = [warning for warning in warnings_of(check(patients, tmp_path)) if warning[0] != "extreme"]

    assert warnings == [(side, column, usual)]


def test_infinite_cells_of_both_signs_raise_no_warning_of_numpy(tmp_path: Path, patients: pd.DataFrame) -> None:
    quality = check(patients.assign(chol=["inf", "-inf"] + [""] * 301), tmp_path)  # warnings are errors here

    assert counts_of(quality, "chol")[2] == [1, 2]


@pytest.mark.parametrize("task", [HEART_DISEASE, READMISSION], ids=lambda task: task.name)
def test_no_other_unit_s_usual_values_are_usual_in_the_task_s_unit(task: Task) -> None:
    """Otherwise a column in that unit would cause no warning."""
    for column in task.measurements:
        assert column.typical_median is not None
        low, high = column.typical_median
        assert column.low <= low < high <= column.high
        for unit, (factor, summand) in column.other_units.items():
            middle = ((low + high) / 2 - summand) / factor
            assert not low <= middle <= high, f"{column.name} in {unit}"


# Obstacles


@pytest.mark.parametrize(("rows", "may_join"), [(7, False), (8, True)])
def test_eight_different_patients_are_needed(tmp_path: Path, patients: pd.DataFrame, rows: int, may_join: bool) -> None:
    table = pd.concat([patients.head(rows)] * 9)

    quality = check(table, tmp_path)

    assert ("can join" in DataCheckPage(quality).verdict) is may_join
    if may_join:
        quality.raise_obstacle()
        return
    with pytest.raises(DataError, match="expected at least 8 different patients, got 7") as caught:
        quality.raise_obstacle()
    assert "fewer than 8 different patients" in caught.value.reason
    assert "7" not in caught.value.reason


def test_a_hospital_that_may_not_join_cannot_be_loaded(tmp_path: Path, patients: pd.DataFrame) -> None:
    patients.loc[4, "age"] = "old"
    quality = check(patients, tmp_path)

    with pytest.raises(DataError) as caught:
        load_hospital(tmp_path / "patients.csv", HEART_DISEASE, "a", 42)

    assert quality.obstacle is not None
    assert (str(caught.value), caught.value.reason) == (str(quality.obstacle), quality.obstacle.reason)


def test_remarks_of_a_hospital_are_its_row_counts_and_warnings(hospitals_folder: Path) -> None:
    hospital = load_hospital(hospitals_folder / "client_3.csv", HEART_DISEASE, "switzerland", 42)

    rows, *warnings = hospital.remarks()
    assert re.findall(r"\d+", rows) == ["92", "31"]
    assert [warning.removeprefix("warning: ") for warning in warnings] == list(hospital.warnings)
    assert len(warnings) == 2


NO_TABLES: dict[str, tuple[Callable[[pd.DataFrame], str | bytes | None], str]] = {
    "nowhere": (lambda _: None, "cannot be used"),
    "empty": (lambda _: "", "is empty"),
    "header only": (lambda table: table.head(0).to_csv(index=False), "has no patients"),
    "Latin-1": (lambda _: "é".encode("latin-1"), "is not UTF-8 text"),
    "semicolons": (
        lambda table: table.to_csv(index=False, sep=";"),
        "is not separated by commas",
    ),
    "no header": (lambda table: table.to_csv(index=False, header=False), "has no header"),
    "lacking": (
        lambda table: table.drop(columns=["chol", "disease"]).to_csv(index=False),
        "lacks the columns chol, disease",
    ),
    "twice": (
        lambda table: table.assign(again="8").rename(columns={"again": "sex"}).to_csv(index=False),
        "has the column sex more than once",
    ),
    "ragged": (
        lambda table: table.head(9).to_csv(index=False) + "1,2\n",
        "has a row of the wrong length",
    ),
    "open quote": (
        lambda table: table.head(9).to_csv(index=False) + '"1,2\n',
        "is not a well-formed CSV",
    ),
}


@pytest.mark.parametrize("kind", NO_TABLES)
def test_a_file_that_is_not_a_table_has_a_reason_that_may_be_sent(
    tmp_path: Path, patients: pd.DataFrame, kind: str
) -> None:
    spoil, reason = NO_TABLES[kind]
    path, content = tmp_path / "patients.csv", spoil(patients)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(DataError) as caught:
        check_data(path, HEART_DISEASE)

    assert caught.value.reason.endswith(reason)
    assert str(tmp_path) not in caught.value.reason
    assert str(caught.value).startswith(f"{path}: ")


# Cells are never quoted


@pytest.mark.parametrize("secret", ["Brzęczyszczykiewicz", "-84713.90625"])
@pytest.mark.parametrize("rows", [1, 303])
@pytest.mark.parametrize("column", [*HEART_DISEASE.column_names, "disease", "note"])
def test_no_invalid_cell_is_quoted(tmp_path: Path, patients: pd.DataFrame, column: str, rows: int, secret: str) -> None:
    patients["note"] = "a note"
    patients.loc[: rows - 1, column] = secret

    quality = check(patients, tmp_path)

    for part in ("Brz", "84713", "90625"):
        assert part not in text_of(quality)
    verdict = DataCheckPage(quality).verdict
    assert ("can join" in verdict) is (column == "note")
    assert (f"its column {column} " in verdict) is (column != "note")


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("age", "73.8125"),
        ("chol", "73.8125"),
        ("trestbps", "73.8125"),
        ("thalach", "73.8125"),
        ("oldpeak", "7.38125"),
    ],
)
@pytest.mark.parametrize("rows", [1, 200, 303])
def test_no_valid_cell_is_quoted(tmp_path: Path, patients: pd.DataFrame, column: str, cell: str, rows: int) -> None:
    patients.loc[: rows - 1, column] = cell

    text = text_of(check(patients, tmp_path))

    assert "73.8" not in text
    assert "7.38" not in text


@pytest.mark.parametrize("task", [HEART_DISEASE, READMISSION], ids=lambda task: task.name)
@pytest.mark.parametrize("position", range(15))
def test_the_reason_for_the_server_names_column_and_rule_and_no_row(
    tmp_path: Path, patients: pd.DataFrame, records: pd.DataFrame, task: Task, position: int
) -> None:
    table = (patients if task is HEART_DISEASE else records.head(60)).copy()
    columns = (*task.columns, task.label)
    if position >= len(columns):
        return
    column = columns[position]
    table.loc[41:43, column.name] = "84713.90625"

    obstacle = check(table, tmp_path, task).obstacle

    assert obstacle is not None
    assert f"column {column.name} " in obstacle.reason
    assert obstacle.reason.endswith(column.rule)
    assert "row 42" in str(obstacle)
    assert "42" not in obstacle.reason
    assert str(tmp_path) not in obstacle.reason
    assert obstacle.reason.isascii()  # gRPC carries no other text


UNUSUAL = st.floats(allow_nan=False).map(repr).filter(lambda cell: len(re.sub(r"\D", "", cell).strip("0")) > 5)


@settings(max_examples=40)
@given(st.lists(UNUSUAL, min_size=9, max_size=12), st.sampled_from(["age", "chol", "sex", "disease"]))
def test_no_unusual_number_is_ever_quoted(cells: list[str], column: str) -> None:
    table = pd.DataFrame({"age": "63", "chol": "233", "sex": "1", "disease": "0"}, index=range(len(cells)))
    with tempfile.TemporaryDirectory() as folder:
        quality = check(table.assign(**{column: cells}), Path(folder), SMALL)

    text = text_of(quality).replace(str(quality.path), "")
    assert not any(cell.lstrip("-") in text for cell in cells)


def test_rare_cells_are_neither_none_nor_all_in_percent(tmp_path: Path, patients: pd.DataFrame) -> None:
    patients["chol"] = [""] * 302 + ["200"]
    patients.loc[0, "age"] = ""

    table = DataCheckPage(check(patients, tmp_path)).table()

    assert (table["chol"]["missing %"], table["age"]["missing %"], table["sex"]["missing %"]) == (">99", "<1", "0")


def test_ignored_columns_are_named_and_five_invalid_rows_at_most(tmp_path: Path, patients: pd.DataFrame) -> None:
    patients = patients.assign(patient_id="7", **{"12 Main Street": "x"})
    patients.loc[10:16, "age"] = "200"

    findings = DataCheckPage(check(patients, tmp_path)).findings()

    invalid, ignored = findings
    assert invalid.startswith("age must be ")
    assert "rows 11, 12, 13, 14, 15 and 2 more" in invalid
    assert "patient_id" in ignored
    assert "12 Main Street" not in ignored


def test_rows_without_a_valid_label_are_counted_in_the_title(tmp_path: Path, patients: pd.DataFrame) -> None:
    title = DataCheckPage(check(patients.assign(disease="2"), tmp_path)).title

    assert "0 with disease = 1, 0 with disease = 0, 303 without a valid label" in title


def test_a_zero_next_to_other_values_is_no_warning(tmp_path: Path) -> None:
    """A score that begins with 0, although the medians of hospitals are higher."""
    task = Task(
        name="score",
        columns=(Measurement("points", "points", "points", low=0, high=42, typical_median=(2, 15)),),
        label=Label("ill", "is ill"),
    )
    points = np.repeat(np.arange(12), 5)
    table = pd.DataFrame({"points": points, "ill": points % 2})
    assert "zeros" not in {kind for kind, *_ in warnings_of(check(table, tmp_path, task))}
    table["points"] = np.where(points == 0, 0, points + 30)
    assert ("zeros", "points", "5") in warnings_of(check(table, tmp_path, task))


# Labels of other kinds


def labelled(label: Label, labels: list[float]) -> pd.DataFrame:
    """Rows that all differ."""
    return pd.DataFrame(
        {"age": 20 + np.arange(len(labels)) % 100, "sex": np.arange(len(labels)) // 100, label.name: labels}
    )


def lines_of(folder: Path, label: Label, labels: list[float]) -> list[str]:
    quality = check(labelled(label, labels), folder, task_with(label))
    assert quality.obstacle is None
    return DataCheckPage(quality).findings()


def test_the_title_counts_each_class_or_the_patients_only(tmp_path: Path) -> None:
    stages = check(labelled(STAGES, [0, 2, 2, 5] * 10), tmp_path, task_with(STAGES))
    assert DataCheckPage(stages).title.endswith(
        "40 patients, 10 with stage = 0, 0 with stage = 1, 20 with stage = 2, 10 without a valid label"
    )
    days = check(labelled(DAYS, [0, 2.5, 2, 5] * 10), tmp_path, task_with(DAYS))
    assert DataCheckPage(days).title.endswith("40 patients")


@pytest.mark.parametrize(
    ("labels", "key_words"),
    [
        ([0, 1, 2] * 20, []),
        ([0, 1] * 30, ["no row has stage 2:"]),
        ([0] * 60, ["stage has one value in every row"]),
        ([0] * 40 + [1] * 19 + [2] * 1, ["few rows have stage 1, 2:"]),
        ([0] * 40 + [2] * 19, ["no row has stage 1:", "few rows have stage 2:"]),
    ],
)
def test_classes_without_or_with_few_patients_are_reported(
    tmp_path: Path, labels: list[float], key_words: list[str]
) -> None:
    lines = [line for line in lines_of(tmp_path, STAGES, labels) if "stage" in line]
    assert len(lines) == len(key_words)
    assert all(key_word in line for key_word, line in zip(key_words, lines, strict=True))


@pytest.mark.parametrize("label", [DAYS, VISITS])
def test_a_quantity_is_reported_if_it_is_constant_or_holds_a_missing_value_marker(tmp_path: Path, label: Label) -> None:
    generator = np.random.default_rng(4)
    usual = [*generator.poisson(3, 90).astype(float), *[0.0] * 60]  # many zeros are nothing to report
    assert not [line for line in lines_of(tmp_path, label, usual) if label.name in line]

    [line] = [line for line in lines_of(tmp_path, label, [*usual, *[99.0] * 4]) if label.name in line]
    assert f"{label.name} is 99 in 4 rows" in line

    [line] = [line for line in lines_of(tmp_path, label, [17.0] * 60) if label.name in line]
    assert f"{label.name} has one value" in line
    assert "17" not in line


def test_words_for_classes_are_reported_with_what_to_do(tmp_path: Path) -> None:
    words = labelled(STAGES, [0, 1, 2] * 20).replace({"stage": {0: "none", 1: "mild", 2: "severe"}})
    quality = check(words, tmp_path, task_with(STAGES))
    assert quality.obstacle is not None
    assert [line for line in DataCheckPage(quality).findings() if "mapping file" in line]


@pytest.mark.parametrize(("codes", "patients"), [(3, 9), (8, 9), (9, 10), (20, 21)])
def test_each_side_of_the_split_has_enough_patients_of_several_classes(
    tmp_path: Path, codes: int, patients: int
) -> None:
    """In the worst cases for training and for held-out rows: two patients, or one, of each class."""
    label = ClassLabel("stage", "stage", {code: f"stage {code}" for code in range(codes)})
    for labels in ([row % codes for row in range(patients)], [row // 2 % codes for row in range(patients)]):
        table = labelled(label, list(map(float, labels)))
        assert check(table[:-1], tmp_path, task_with(label)).obstacle is not None
        check(table, tmp_path, task_with(label)).raise_obstacle()
        for seed in range(5):
            hospital = load_hospital(tmp_path / "patients.csv", task_with(label), f"h{seed}{labels[-1]}", seed)
            assert len(hospital.train) >= 5
            assert len(hospital.test) >= 1
