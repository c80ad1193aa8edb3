"""All hospitals' rows in one place: every row is tested once a repeat, and inner folds stay inside training rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.errors import DataError
from federated_health.files import hash_file
from federated_health.studies.benefit.cohort import Cohort, HospitalSplit, read_cohort
from tests.support.cohorts import cohort_of, patients


@pytest.fixture(scope="module")
def cohort(hospitals_folder: Path) -> Cohort:
    return read_cohort(hospitals_folder)


def test_the_folds_of_a_seed_test_every_row_once(cohort: Cohort) -> None:
    splits = [cohort.split(folds=5, fold=fold, seed=7) for fold in range(5)]

    for name, rows in cohort.tables.items():
        assert sorted(np.concatenate([split[name].test for split in splits])) == list(range(len(rows)))
        for split in splits:
            assert sorted([*split[name].train, *split[name].test]) == list(range(len(rows)))


def test_folds_hold_as_many_of_each_class(cohort: Cohort) -> None:
    splits = [cohort.split(folds=5, fold=fold, seed=7) for fold in range(5)]

    for name in cohort.tables:
        positives = [cohort.labels(name)[split[name].test].sum() for split in splits]
        assert np.ptp(positives) <= 2  # of equal rows, which share a fold, there are a few


def test_another_seed_tests_other_rows_together(cohort: Cohort) -> None:
    first, same, other = (cohort.split(folds=5, fold=0, seed=seed) for seed in (7, 7, 8))

    for name in cohort.tables:
        assert first[name].test.tolist() == same[name].test.tolist()
        assert first[name].test.tolist() != other[name].test.tolist()


def test_inner_folds_divide_the_training_rows_alone(cohort: Cohort) -> None:
    outer = cohort.split(folds=5, fold=2, seed=7)

    inner = [cohort.split(folds=3, fold=fold, seed=7, within=outer) for fold in range(3)]

    for name, side in outer.items():
        assert sorted(np.concatenate([split[name].test for split in inner])) == side.train.tolist()
        for split in inner:
            assert sorted([*split[name].train, *split[name].test]) == side.train.tolist()
            assert not set(split[name].test) & set(side.test)


def test_a_hospital_has_the_rows_of_its_side() -> None:
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


def test_no_two_real_hospitals_have_a_patient_in_common(cohort: Cohort) -> None:
    """Else one could be trained on at one hospital and tested at another: folds are dealt hospital by hospital."""
    contents = [
        {row.tobytes() for row in rows.drop(columns="disease").to_numpy(np.float64)} for rows in cohort.tables.values()
    ]

    assert len(set.union(*contents)) == sum(map(len, contents))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two hospitals, written as create_dataset.py does, as far as it matters."""
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


def test_a_folder_is_read(folder: Path) -> None:
    cohort = read_cohort(folder)

    assert list(cohort.tables) == ["north", "south"]
    pd.testing.assert_series_equal(cohort.tables["south"]["age"], patients(30, seed=2)["age"])


def test_ledgers_beside_the_csvs_are_not_read(folder: Path) -> None:
    without = read_cohort(folder)
    for name in without.tables:
        (folder / f"egress-{name}.jsonl").write_text("not a table")
    assert read_cohort(folder).hashes == without.hashes


def test_one_hospital_is_not_enough(folder: Path) -> None:
    write_manifest(folder, ("north",))

    with pytest.raises(DataError, match="at least 2"):
        read_cohort(folder)


def test_a_hospital_that_may_not_join_is_in_no_study(folder: Path) -> None:
    patients(5, seed=1).to_csv(folder / "client_2.csv", index=False)

    with pytest.raises(DataError, match=r"client_2\.csv"):
        read_cohort(folder)
