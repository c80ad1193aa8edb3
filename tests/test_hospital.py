"""A hospital's CSV as training and test patients."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.hospital import Hospital, Patients, load_hospital
from federated_health.data.tasks import HEART_DISEASE
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


def test_a_hospital_is_read_and_split_once_per_process(hospitals_folder: Path) -> None:
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
    rows = [row(40 + i, disease=int(i < diseased)) for i in range(8)]

    hospital = load(write(tmp_path, HEADER, *rows))

    assert (len(hospital.train), len(hospital.test)) == (train, test)


def test_a_file_of_seven_different_patients_is_refused_however_often_they_stand_in_it(tmp_path: Path) -> None:
    patients = [*range(40, 47), *range(40, 47)]
    rows = [*(row(age) for age in patients), *(row(age, disease=0) for age in range(40, 47))]
    notes = [f"{cells},{i}" for i, cells in enumerate(rows)]
    path = write(tmp_path, f"{HEADER},note", *notes)

    with pytest.raises(DataError, match=re.escape(f"{path}: expected at least 8 different patients, got 7")):
        load(path)


def spoil_label(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(disease=table["disease"].replace("1", "2"))


def spoil_age(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(age="-" + table["age"])


@pytest.mark.parametrize("spoil", [spoil_label, spoil_age])
def test_a_real_file_with_invalid_cells_is_refused(
    tmp_path: Path, patients: pd.DataFrame, spoil: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    spoil(patients).to_csv(tmp_path / "patients.csv", index=False)

    with pytest.raises(
        DataError, match=r"patients\.csv: column (age|disease), row \d+: expected .* more invalid cells"
    ):
        load(tmp_path / "patients.csv")
