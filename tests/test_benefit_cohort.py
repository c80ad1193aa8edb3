"""The rows of all hospitals: each is held out once per repeat, and inner folds stay inside training rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.errors import DataError, SettingsError
from federated_health.files import hash_file
from federated_health.studies.benefit.cohort import Cohort, HospitalSplit, read_cohort
from tests.support.cohorts import cohort_of, patients


@pytest.fixture(scope="module")
def cohort(hospitals_folder: Path) -> Cohort:
    return read_cohort(hospitals_folder)


def test_the_folds_of_a_seed_hold_out_every_row_once(cohort: Cohort) -> None:
    splits = [cohort.split(folds=5, fold=fold, seed=7) for fold in range(5)]

    for name, rows in cohort.tables.items():
        assert sorted(np.concatenate([split[name].test for split in splits])) == list(range(len(rows)))
        for split in splits:
            assert sorted([*split[name].train, *split[name].test]) == list(range(len(rows)))


def test_the_fold_of_a_row_is_the_one_that_holds_it_out(cohort: Cohort) -> None:
    fold_of_rows = cohort.fold_of_rows(5, seed=7)

    for fold in range(5):
        for name, side in cohort.split(folds=5, fold=fold, seed=7).items():
            assert np.flatnonzero(fold_of_rows[name] == fold).tolist() == side.test.tolist()


def test_folds_are_stratified_by_class(cohort: Cohort) -> None:
    splits = [cohort.split(folds=5, fold=fold, seed=7) for fold in range(5)]

    for name in cohort.tables:
        positives = [cohort.labels(name)[split[name].test].sum() for split in splits]
        assert np.ptp(positives) <= 2  # not 1: a few equal rows share a fold


def test_another_seed_gives_other_folds(cohort: Cohort) -> None:
    first, same, other = (cohort.split(folds=5, fold=0, seed=seed) for seed in (7, 7, 8))

    for name in cohort.tables:
        assert first[name].test.tolist() == same[name].test.tolist()
        assert first[name].test.tolist() != other[name].test.tolist()


def test_inner_folds_divide_only_the_training_rows(cohort: Cohort) -> None:
    outer = cohort.split(folds=5, fold=2, seed=7)

    inner = [cohort.split(folds=3, fold=fold, seed=7, within=outer) for fold in range(3)]

    for name, side in outer.items():
        assert sorted(np.concatenate([split[name].test for split in inner])) == side.train.tolist()
        for split in inner:
            assert sorted([*split[name].train, *split[name].test]) == side.train.tolist()
            assert not set(split[name].test) & set(side.test)


def test_a_hospital_has_the_rows_of_its_split() -> None:
    table = patients(9, seed=1)
    cohort = cohort_of({"a": table, "b": patients(8, seed=2)})

    hospital = cohort.hospital("a", HospitalSplit(train=np.array([0, 7, 3]), test=np.array([8, 1])))

    assert (hospital.name, hospital.task) == ("a", cohort.task)
    assert hospital.train.values[:, 0].tolist() == table["age"].iloc[[0, 7, 3]].tolist()
    assert hospital.train.labels.tolist() == table["disease"].iloc[[0, 7, 3]].tolist()
    assert hospital.test.values[:, 0].tolist() == table["age"].iloc[[8, 1]].tolist()
    assert hospital.test.labels.tolist() == table["disease"].iloc[[8, 1]].tolist()
    assert cohort.labels("a").tolist() == table["disease"].tolist()


def test_real_hospitals_are_read_with_their_hashes(cohort: Cohort, hospitals_folder: Path) -> None:
    assert {name: len(rows) for name, rows in cohort.tables.items()} == {
        "cleveland": 303,
        "hungary": 294,
        "switzerland": 123,
        "va-long-beach": 200,
    }
    assert cohort.task.name == "heart-disease"
    assert cohort.hashes["hungary"] == hash_file(hospitals_folder / "client_2.csv")


def test_no_two_real_hospitals_share_a_patient(cohort: Cohort) -> None:
    """Folds are made per hospital: a shared patient could be a training row of one and held out at the other."""
    contents = [
        {row.tobytes() for row in rows.drop(columns="disease").to_numpy(np.float64)} for rows in cohort.tables.values()
    ]

    assert len(set.union(*contents)) == sum(map(len, contents))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two hospitals in the layout of create_dataset.py."""
    names = ("north", "south")
    for number in (1, 2):
        patients(30, seed=number).to_csv(tmp_path / f"client_{number}.csv", index=False)
    write_manifest(tmp_path, names)
    return tmp_path


def write_manifest(folder: Path, names: tuple[str, ...]) -> None:
    hospitals = [
        {"file": f"client_{number}.csv", "name": name, "sha256": ""} for number, name in enumerate(names, start=1)
    ]
    manifest = {"task": "heart-disease", "source": {"name": "made up"}, "hospitals": hospitals}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_folder_gives_the_tables_of_its_hospitals(folder: Path) -> None:
    cohort = read_cohort(folder)

    assert list(cohort.tables) == ["north", "south"]
    pd.testing.assert_series_equal(cohort.tables["south"]["age"], patients(30, seed=2)["age"])


def test_ledgers_in_the_folder_are_ignored(folder: Path) -> None:
    without = read_cohort(folder)
    for name in without.tables:
        (folder / f"egress-{name}.jsonl").write_text("not a table")
    assert read_cohort(folder).hashes == without.hashes


def test_a_study_needs_two_hospitals(folder: Path) -> None:
    write_manifest(folder, ("north",))

    with pytest.raises(DataError, match="at least 2"):
        read_cohort(folder)


def test_hospitals_with_too_few_patients_are_left_out_with_the_reason(folder: Path) -> None:
    patients(7, seed=1).to_csv(folder / "client_3.csv", index=False)
    patients(20, seed=1).to_csv(folder / "client_4.csv", index=False)
    write_manifest(folder, ("north", "south", "east", "west"))

    cohort = read_cohort(folder, folds=25)

    assert list(cohort.tables) == list(cohort.hashes) == ["north", "south"]
    assert list(cohort.left_out) == ["east", "west"]
    assert "25 folds, got 20" in cohort.left_out["west"]
    assert list(read_cohort(folder, folds=20).left_out) == ["east"]


def test_a_hospital_of_one_class_stays_as_in_a_run(folder: Path) -> None:
    patients(30, seed=1).assign(disease=1.0).to_csv(folder / "client_2.csv", index=False)

    assert list(read_cohort(folder, folds=5).tables) == ["north", "south"]


def test_folds_that_leave_no_two_hospitals_are_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="folds: expected at most 30"):
        read_cohort(folder, folds=31)


def test_a_csv_that_cannot_be_read_ends_a_study(folder: Path) -> None:
    (folder / "client_2.csv").write_text("age,sex\n1,2\n")

    with pytest.raises(DataError, match=r"client_2\.csv"):
        read_cohort(folder)
