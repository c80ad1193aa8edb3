"""A hospital's CSV: what is read, what is refused and in which words, and how patients are split."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.data.csv_reading import read_patients
from federated_health.data.hospital import Hospital, Patients, deal_folds, load_hospital, split_rows
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


def test_patients_without_a_label_are_read_where_no_label_is_asked_for(tmp_path: Path) -> None:
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
def test_a_wrong_cell_is_told_by_column_row_and_rule_and_not_by_value(
    tmp_path: Path, column: str, cell: str, rule: str
) -> None:
    message = refusal(write(tmp_path, HEADER, FIRST, FIRST, with_cell(column, cell)))

    assert message == f"column {column}, row 3: {rule}"
    assert cell in ("", "?") or cell not in message


def test_further_wrong_cells_are_counted(tmp_path: Path) -> None:
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
        pytest.param(HEADER.encode(), "has a header and no patients", id="header only"),
        pytest.param(f"{HEADER}\n\n".encode(), "has a header and no patients", id="header and an empty line"),
        pytest.param(
            f"{HEADER}\n{FIRST}\n{SECOND},8.75\n".encode(),
            "row 2 has 15 cells; expected 14, as in the header",
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
def test_a_row_that_is_not_as_long_as_the_header_is_told_by_its_number_and_cells(
    tmp_path: Path, row: str, cells: int
) -> None:
    message = refusal(write(tmp_path, HEADER, FIRST, SECOND, row, FIRST))

    assert message == f"row 3 has {cells} cells; expected 14, as in the header"


def test_rows_that_are_all_longer_than_the_header_are_ragged(tmp_path: Path) -> None:
    for more in ("8", "8,9"):
        message = refusal(write(tmp_path, HEADER, f"{FIRST},{more}", f"{SECOND},{more}"))
        assert message == f"row 1 has {14 + len(more.split(','))} cells; expected 14, as in the header"


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


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere.csv") == "cannot be read (No such file or directory)"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "cannot be read (Is a directory)"


@pytest.mark.parametrize(
    "first", [FIRST, with_cell("age", "63.75", FIRST), ",".join(["63.75", *["?"] * 13]), ",".join([*["x"] * 13, " 1 "])]
)
def test_a_file_without_header_is_refused_without_quoting_its_first_patient(tmp_path: Path, first: str) -> None:
    message = refusal(write(tmp_path, first, SECOND))

    assert message == "its first line holds numbers; expected a header with the names of the columns"


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
def test_a_rule_is_told_in_words(position: int, rule: str) -> None:
    assert HEART_DISEASE.columns[position].rule == rule
    assert HEART_DISEASE.label.rule == "0 or 1"


# How patients are split


def positions(table: pd.DataFrame, seed: int = 42) -> tuple[list[int], list[int]]:
    train, test = split_rows(table, "disease", seed)
    return train.tolist(), test.tolist()


def table_of(labels: list[int]) -> pd.DataFrame:
    """Rows that all differ."""
    return pd.DataFrame({"age": np.arange(len(labels), dtype=np.float64), "disease": np.array(labels, np.float64)})


# Patients of a class, and how many of them are held out: a quarter, halves rounded up, and one of two at least.
QUARTERS = {0: 0, 1: 0, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2, 9: 2, 10: 3, 13: 3, 14: 4, 18: 5, 96: 24, 98: 25}


@pytest.mark.parametrize("seed", [42, 7, -1])
@pytest.mark.parametrize("healthy", QUARTERS)
@pytest.mark.parametrize("diseased", QUARTERS)
def test_a_quarter_of_each_class_is_held_out_and_every_row_is_on_one_side(
    diseased: int, healthy: int, seed: int
) -> None:
    train, test = positions(table_of([1] * diseased + [0] * healthy), seed)

    assert sorted(train + test) == list(range(diseased + healthy))
    assert (train, test) == (sorted(train), sorted(test))
    assert sum(row < diseased for row in test) == QUARTERS[diseased]
    assert sum(row >= diseased for row in test) == QUARTERS[healthy]


def test_the_seed_alone_decides_the_split() -> None:
    table = table_of([0, 1] * 50)

    assert positions(table, 7) == positions(table.copy(), 7)
    assert len({str(positions(table, seed)) for seed in (7, 8, 0, -7, 2**64)}) == 5


def test_the_split_is_the_one_that_hospitals_have_always_had() -> None:
    """Patients who change sides between versions would be tested on after they were trained on."""
    assert positions(table_of([0, 1] * 8))[1] == [1, 4, 14, 15]


def test_every_patient_is_held_out_by_some_seed_about_as_often_as_others() -> None:
    table = table_of([0, 1] * 20)
    times = np.zeros(40)
    for seed in range(400):
        times[positions(table, seed)[1]] += 1

    assert times.sum() == 400 * 10
    assert times.min() > 60  # of 100 expected, with a deviation of less than 9
    assert times.max() < 140


CONTENT = st.tuples(st.sampled_from([40.0, 50.0, -0.0, 0.0, math.nan]), st.sampled_from([1.0, 2.0, math.nan]))
PATIENT = st.tuples(CONTENT, st.sampled_from([0, 1]))
SEED = st.integers(-(2**63), 2**63 - 1)
Rows = list[tuple[tuple[float, float], int]]


def table_from(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame([[*content, label] for content, label in rows], columns=["age", "cp", "disease"])


def text_of(content: tuple[float, float]) -> str:
    """Equal for equal contents, missing cells too."""
    return str(tuple(cell + 0.0 for cell in content))


def contents_on(side: list[int], rows: Rows) -> set[str]:
    return {text_of(rows[i][0]) for i in side}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(rows=st.lists(PATIENT, min_size=1, max_size=60), seed=SEED)
def test_rows_that_are_equal_but_for_the_label_land_on_the_same_side(rows: Rows, seed: int) -> None:
    train, test = positions(table_from(rows), seed)

    assert sorted(train + test) == list(range(len(rows)))
    assert not contents_on(train, rows) & contents_on(test, rows)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(rows=st.lists(PATIENT, min_size=1, max_size=60), seed=SEED)
def test_equal_rows_count_as_one_patient_who_is_diseased_where_any_of_them_is(rows: Rows, seed: int) -> None:
    _, test = positions(table_from(rows), seed)

    diseased = {text_of(content) for content, label in rows if label}
    healthy = {text_of(content) for content, _ in rows} - diseased
    held_out = contents_on(test, rows)
    assert len(held_out & diseased) == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3][len(diseased)]
    assert len(held_out & healthy) == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3][len(healthy)]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    rows=st.lists(PATIENT, min_size=1, max_size=40).flatmap(
        lambda rows: st.tuples(st.just(rows), st.permutations(rows))
    ),
    seed=SEED,
)
def test_the_order_of_the_file_moves_no_patient(rows: tuple[Rows, Rows], seed: int) -> None:
    (_, before), (_, after) = (positions(table_from(order), seed) for order in rows)

    assert contents_on(before, rows[0]) == contents_on(after, rows[1])


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(labels=st.lists(st.sampled_from([0, 1]), max_size=60), label=st.sampled_from([0, 1]), seed=SEED)
def test_a_new_patient_moves_at_most_one_old_one(labels: list[int], label: int, seed: int) -> None:
    before = set(positions(table_of(labels), seed)[1])
    after = set(positions(table_of([*labels, label]), seed)[1]) - {len(labels)}

    assert len(before ^ after) <= 1
    assert all(labels[row] == label for row in before ^ after)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(rows=st.lists(PATIENT, min_size=1, max_size=40), seed=SEED, data=st.data())
def test_a_patient_who_is_recorded_again_moves_nobody(rows: Rows, seed: int, data: st.DataObject) -> None:
    again = [*rows, data.draw(st.sampled_from(rows))]

    assert contents_on(positions(table_from(rows), seed)[1], rows) == contents_on(
        positions(table_from(again), seed)[1], again
    )


# Folds

FOLDS = st.integers(2, 12)


def folds_of(table: pd.DataFrame, folds: int, seed: int = 42) -> list[int]:
    return [int(fold) for fold in deal_folds(table, "disease", folds, seed)]


@given(labels=st.lists(st.sampled_from([0, 1]), min_size=1, max_size=80), folds=FOLDS, seed=SEED)
def test_folds_and_their_classes_are_of_the_same_size_give_or_take_one(
    labels: list[int], folds: int, seed: int
) -> None:
    """Also where there are more folds than patients."""
    fold_of = np.array(folds_of(table_of(labels), folds, seed))

    assert len(fold_of) == len(labels)
    for members in (fold_of, fold_of[np.array(labels) == 1], fold_of[np.array(labels) == 0]):
        sizes = np.bincount(members, minlength=folds)
        assert len(sizes) == folds
        assert np.ptp(sizes) <= 1


@given(rows=st.lists(PATIENT, min_size=1, max_size=60), folds=FOLDS, seed=SEED)
def test_rows_that_are_equal_but_for_the_label_share_a_fold(rows: Rows, folds: int, seed: int) -> None:
    fold_of = folds_of(table_from(rows), folds, seed)

    folds_by_content: dict[str, set[int]] = {}
    for (content, _), fold in zip(rows, fold_of, strict=True):
        folds_by_content.setdefault(text_of(content), set()).add(fold)
    assert all(len(those) == 1 for those in folds_by_content.values())
    sizes = np.bincount([fold for (fold,) in folds_by_content.values()], minlength=folds)
    assert np.ptp(sizes) <= 1  # of patients, however often they stand in the file


@given(
    rows=st.lists(PATIENT, min_size=1, max_size=40).flatmap(
        lambda rows: st.tuples(st.just(rows), st.permutations(rows))
    ),
    folds=FOLDS,
    seed=SEED,
)
def test_the_order_of_the_file_moves_no_patient_to_another_fold(rows: tuple[Rows, Rows], folds: int, seed: int) -> None:
    before, after = (
        {text_of(row[0]): fold for row, fold in zip(order, folds_of(table_from(order), folds, seed), strict=True)}
        for order in rows
    )

    assert before == after


def test_another_seed_deals_other_folds() -> None:
    table = table_of([0, 1] * 50)

    assert folds_of(table, 5, 1) == folds_of(table, 5, 1)
    same = np.mean(np.array(folds_of(table, 5, 1)) == folds_of(table, 5, 2))
    assert 0.05 < same < 0.4  # a fifth by chance


def test_each_pair_of_patients_shares_a_fold_about_as_often_as_others() -> None:
    """4 of one class in 2 folds: of the three ways to pair them each comes up as often."""
    table = table_of([1, 1, 1, 1])
    partners = [
        np.flatnonzero(np.array(fold_of[1:]) == fold_of[0])
        for fold_of in (folds_of(table, 2, seed) for seed in range(600))
    ]

    times = np.bincount(np.concatenate(partners), minlength=3)
    assert times.sum() == 600
    assert times.min() > 150  # of 200, with a deviation of 12


# A hospital


def load(path: Path, seed: int = 42) -> Hospital:
    return load_hospital(path, HEART_DISEASE, "a-hospital", seed)


def rows_of(hospital: Hospital) -> list[str]:
    sides = [np.column_stack([side.values, side.labels]) for side in (hospital.train, hospital.test)]
    return sorted(str(row.tolist()) for row in np.concatenate(sides))


@pytest.mark.parametrize(("number", "train", "test"), [(1, 227, 76), (2, 220, 74), (3, 92, 31), (4, 150, 50)])
def test_a_hospital_s_rows_are_those_of_its_file(hospitals_folder: Path, number: int, train: int, test: int) -> None:
    path = hospitals_folder / f"client_{number}.csv"
    hospital = load(path)

    assert (len(hospital.train), len(hospital.test)) == (train, test)
    assert hospital.train.values.shape == (train, 13)
    assert hospital.train.values.dtype == np.float64
    assert hospital.train.labels.dtype == np.float32
    assert rows_of(hospital) == sorted(str(row) for row in pd.read_csv(path).to_numpy(np.float64).tolist())


@pytest.mark.parametrize("number", [2, 4])
def test_the_identical_patients_of_the_real_hospitals_are_on_one_side(hospitals_folder: Path, number: int) -> None:
    for seed in range(10):
        hospital = load(hospitals_folder / f"client_{number}.csv", seed)
        rows = rows_of(hospital)
        (twice,) = {row for row in rows if rows.count(row) == 2}
        on_train = [str([*values, label]) for values, label in zip(*side_lists(hospital), strict=True)]
        assert on_train.count(twice) in (0, 2)


def side_lists(hospital: Hospital) -> tuple[list[list[float]], list[float]]:
    return hospital.train.values.tolist(), hospital.train.labels.tolist()


def test_a_hospital_is_read_and_split_once_a_process(hospitals_folder: Path) -> None:
    path = hospitals_folder / "client_1.csv"

    assert load(path) is load(path)
    assert load(path) is not load(path, 43)


def test_another_split_seed_holds_other_patients_out(hospitals_folder: Path) -> None:
    path = hospitals_folder / "client_1.csv"

    assert not np.array_equal(load(path).test.values, load(path, 43).test.values, equal_nan=True)
    assert rows_of(load(path)) == rows_of(load(path, 43))


def contents_of(side: Patients) -> list[str]:
    return sorted(
        str([*values, label]) for values, label in zip(side.values.tolist(), side.labels.tolist(), strict=True)
    )


@pytest.mark.parametrize("number", range(1, 5))
def test_the_order_of_a_real_file_moves_no_patient(tmp_path: Path, hospitals_folder: Path, number: int) -> None:
    header, *rows = (hospitals_folder / f"client_{number}.csv").read_text().splitlines()
    before = load(hospitals_folder / f"client_{number}.csv")

    for order in (rows[::-1], np.random.default_rng(number).permutation(rows).tolist()):
        path = write(tmp_path, header, *order)
        load_hospital.cache_clear()
        after = load(path)
        assert contents_of(after.test) == contents_of(before.test)
        assert contents_of(after.train) == contents_of(before.train)


@pytest.mark.parametrize(
    ("diseased", "train", "test"), [(0, 6, 2), (1, 6, 2), (2, 5, 3), (3, 6, 2), (4, 6, 2), (6, 5, 3), (8, 6, 2)]
)
def test_the_smallest_file_that_can_be_split_has_eight_different_patients(
    tmp_path: Path, diseased: int, train: int, test: int
) -> None:
    rows = [with_cell("age", str(40 + i), with_cell("disease", str(int(i < diseased)))) for i in range(8)]

    hospital = load(write(tmp_path, HEADER, *rows))

    assert (len(hospital.train), len(hospital.test)) == (train, test)


def test_a_file_of_seven_different_patients_is_refused_however_often_they_stand_in_it(tmp_path: Path) -> None:
    rows = [with_cell("age", str(age)) for age in range(40, 47)]
    notes = [f"{row},{i}" for i, row in enumerate([*rows, *rows, *(with_cell("disease", "0", row) for row in rows)])]
    path = write(tmp_path, f"{HEADER},note", *notes)

    with pytest.raises(DataError, match=re.escape(f"{path}: has 7 different patients; at least 8 are needed")):
        load(path)


def spoil_label(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(disease=table["disease"].replace("1", "2"))


def spoil_age(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(age="-" + table["age"])


@pytest.mark.parametrize("spoil", [spoil_label, spoil_age])
def test_a_spoiled_real_file_is_no_hospital(
    tmp_path: Path, patients: pd.DataFrame, spoil: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    spoil(patients).to_csv(tmp_path / "patients.csv", index=False)

    with pytest.raises(DataError, match=r"patients\.csv: column (age|disease), row \d+: expected .* more cells"):
        load(tmp_path / "patients.csv")


def test_an_open_quote_loses_no_patient_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(f'{HEADER},note\n{FIRST},"open\n{SECOND},x\n{SECOND},y\n')
    with pytest.raises(DataError, match="is not a well-formed CSV"):
        read_patients(path, HEART_DISEASE, labelled=True)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_told_without_quoting_a_patient(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(FIRST.replace(",", separator) + "\n" + SECOND.replace(",", separator) + "\n")
    with pytest.raises(DataError, match=r"its cells are not separated by commas"):
        read_patients(path, HEART_DISEASE, labelled=True)


def test_a_header_is_quoted_only_where_it_looks_like_names(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("age,Mrs Smith (341),sex\n")
    with pytest.raises(DataError, match=r"its header is: age, sex; create_dataset\.py --source reads"):
        read_patients(path, HEART_DISEASE, labelled=True)
