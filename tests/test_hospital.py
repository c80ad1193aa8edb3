"""A hospital's CSV as training rows and held-out rows."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.hospital import Hospital, Patients, load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DataError

HEADER = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,disease"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "patients.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def row(age: int, disease: int = 1) -> str:
    return f"{age},1,4,160,286,0,2,108,1,1.5,2,3,3,{disease}"


def load(path: Path, seed: int = 42) -> Hospital:
    return load_hospital(path, HEART_DISEASE, "a-hospital", seed)


def rows_of(hospital: Hospital) -> list[str]:
    sides = [np.column_stack([side.values, side.labels]) for side in (hospital.train, hospital.test)]
    return sorted(str(row.tolist()) for row in np.concatenate(sides))


def contents_of(side: Patients) -> list[str]:
    return sorted(
        str([*values, label]) for values, label in zip(side.values.tolist(), side.labels.tolist(), strict=True)
    )


@pytest.mark.parametrize(("number", "train", "test"), [(1, 227, 76), (2, 220, 74), (3, 92, 31), (4, 150, 50)])
def test_a_hospital_has_the_rows_of_its_file(hospitals_folder: Path, number: int, train: int, test: int) -> None:
    path = hospitals_folder / f"client_{number}.csv"
    hospital = load(path)

    assert (len(hospital.train), len(hospital.test)) == (train, test)
    assert hospital.train.values.shape == (train, 13)
    assert hospital.train.values.dtype == np.float64
    assert hospital.train.labels.dtype == np.float32
    assert rows_of(hospital) == sorted(str(row) for row in pd.read_csv(path).to_numpy(np.float64).tolist())


@pytest.mark.parametrize("number", [2, 4])
def test_identical_rows_of_real_hospitals_stay_on_one_side_of_the_split(hospitals_folder: Path, number: int) -> None:
    for seed in range(10):
        hospital = load(hospitals_folder / f"client_{number}.csv", seed)
        rows = rows_of(hospital)
        (duplicate,) = {row for row in rows if rows.count(row) == 2}
        assert contents_of(hospital.train).count(duplicate) in (0, 2)


def test_a_hospital_is_read_and_split_once_per_process(hospitals_folder: Path) -> None:
    path = hospitals_folder / "client_1.csv"

    assert load(path) is load(path)
    assert load(path) is not load(path, 43)


def test_another_split_seed_holds_out_other_rows(hospitals_folder: Path) -> None:
    path = hospitals_folder / "client_1.csv"

    assert not np.array_equal(load(path).test.values, load(path, 43).test.values, equal_nan=True)
    assert rows_of(load(path)) == rows_of(load(path, 43))


@pytest.mark.parametrize("number", range(1, 5))
def test_the_split_does_not_depend_on_the_order_of_rows(tmp_path: Path, hospitals_folder: Path, number: int) -> None:
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
def test_eight_different_rows_can_be_split(tmp_path: Path, diseased: int, train: int, test: int) -> None:
    rows = [row(40 + i, disease=int(i < diseased)) for i in range(8)]

    hospital = load(write(tmp_path, HEADER, *rows))

    assert (len(hospital.train), len(hospital.test)) == (train, test)


def test_seven_different_rows_are_refused_however_often_they_are_repeated(tmp_path: Path) -> None:
    patients = [*range(40, 47), *range(40, 47)]
    rows = [*(row(age) for age in patients), *(row(age, disease=0) for age in range(40, 47))]
    notes = [f"{cells},{i}" for i, cells in enumerate(rows)]
    path = write(tmp_path, f"{HEADER},note", *notes)

    with pytest.raises(DataError, match=re.escape(f"{path}: expected at least 8 different patients, got 7")):
        load(path)


@pytest.mark.parametrize(("column", "cell"), [("disease", "2"), ("age", "-1")])
def test_a_real_file_with_an_invalid_cell_is_refused(
    tmp_path: Path, patients: pd.DataFrame, column: str, cell: str
) -> None:
    patients.loc[2, column] = cell
    patients.to_csv(tmp_path / "patients.csv", index=False)

    with pytest.raises(DataError, match=rf"patients\.csv: column {column}, row 3: "):
        load(tmp_path / "patients.csv")
