"""A column that identifies patients: all rows of one patient stay together, and the identifiers stay in the file."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated_health.cli.create_dataset import describe_patients
from federated_health.data.associations import measure_associations
from federated_health.data.columns import Label, Measurement
from federated_health.data.csv_reading import check_cells, parse_csv, read_cells
from federated_health.data.data_check import check_data, check_table
from federated_health.data.data_check_page import DataCheckPage
from federated_health.data.hospital import Hospital, Patients, load_hospital
from federated_health.data.partitions import Partition, count_patients, divide
from federated_health.data.patient_table import read_patients
from federated_health.data.sources.source import Source
from federated_health.data.split import split_rows
from federated_health.data.task_files import READMISSION, TASKS
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from federated_health.ml.normalisation import column_sums
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.ml.scores import microaggregate
from federated_health.privacy.budget import PrivacyBudget
from federated_health.privacy.message_checks import agree_on_plan
from federated_health.studies import study
from federated_health.studies.benefit.cohort import Cohort, read_cohort
from federated_health.studies.benefit.folds import assign_folds
from federated_health.studies.benefit.training_setups import Fit, TrainingSetup, training_hospitals
from federated_health.transport.app_calls import hospital_context
from tests.support.audits import plan_of
from tests.support.scripts import PROJECT

TASK = replace(READMISSION, patient="patient")
STAYS = PROJECT / "tests" / "cases" / "two_stays_per_patient.csv"
SEEDS = range(20)


@pytest.fixture
def stays() -> pd.DataFrame:
    """Two stays of each patient, which differ in their columns."""
    return pd.read_csv(STAYS, dtype=str, keep_default_na=False)


def write(folder: Path, table: pd.DataFrame) -> Path:
    path = folder / "stays.csv"
    table.to_csv(path, index=False)
    return path


def ids_of(numbers: pd.DataFrame, rows: "np.typing.NDArray[np.intp]") -> set[str]:
    return set(numbers["patient"].iloc[rows])


# Reading


def test_the_column_of_patients_is_no_column_of_the_model(tmp_path: Path, stays: pd.DataFrame) -> None:
    cells = read_cells(write(tmp_path, stays), TASK)

    assert list(cells.numbers.columns) == [column.name for column in TASK.labelled_columns]
    assert cells.patients is not None
    pairs = set(zip(cells.patients, stays["patient"], strict=True))
    assert len(pairs) == len(set(cells.patients)) == 12


def test_an_identifier_is_read_as_text_without_the_spaces_around_it() -> None:
    table = parse_csv(b"patient\nA1\n A1 \na1\n01\n1\n", "a")

    patients = check_cells(table, [], patient="patient").patients

    assert patients is not None
    assert patients[0] == patients[1]
    assert len(set(patients)) == 4


def test_a_file_without_the_column_of_patients_is_refused(tmp_path: Path, stays: pd.DataFrame) -> None:
    path = write(tmp_path, stays.drop(columns="patient"))

    with pytest.raises(DataError, match="lacks the column patient"):
        check_data(path, TASK)
    assert len(read_patients(path, TASK, labelled=False)[1]) == 24  # scoring needs no identifiers


@pytest.mark.parametrize("cell", ["", " ", "NA", "?"])
def test_a_missing_identifier_is_an_invalid_cell(tmp_path: Path, stays: pd.DataFrame, cell: str) -> None:
    stays.loc[[4, 9], "patient"] = cell

    check = check_data(write(tmp_path, stays), TASK)

    assert check.obstacle is not None
    assert "column patient, row 5: expected an identifier" in str(check.obstacle)
    assert "1 more invalid cell" in str(check.obstacle)
    assert check.obstacle.reason.startswith("its column patient holds a value that is not an identifier")
    page = DataCheckPage(check)
    assert any("patient must be" in line and "rows 5, 10" in line for line in page.findings())
    assert "patient" not in page.table()


def test_a_check_counts_rows_and_patients(tmp_path: Path, stays: pd.DataFrame) -> None:
    page = DataCheckPage(check_data(write(tmp_path, stays), TASK))
    assert "24 rows of 12 patients, 6 with readmitted = 1" in page.title


def test_the_smallest_number_of_patients_counts_patients(tmp_path: Path, stays: pd.DataFrame) -> None:
    few = check_data(write(tmp_path, stays[stays["patient"].astype(int) <= 7]), TASK)
    assert few.obstacle is not None
    assert "8 different patients, got 7" in str(few.obstacle)
    assert check_data(write(tmp_path, stays[stays["patient"].astype(int) <= 8]), TASK).obstacle is None


# The split


@pytest.mark.parametrize("seed", SEEDS)
def test_all_rows_of_a_patient_land_on_one_side(stays: pd.DataFrame, seed: int) -> None:
    cells = check_cells(stays, TASK.labelled_columns, patient="patient")

    train, test = split_rows(cells.numbers, "readmitted", seed, cells.patients)

    assert sorted([*train, *test]) == list(range(24))
    assert ids_of(stays, train).isdisjoint(ids_of(stays, test))
    # Of 6 patients with a readmission and 6 without, 2 each are held out: 1.5, rounded up.
    held_out = stays.iloc[test].groupby("patient")["readmitted"].max().astype(int)
    assert held_out.value_counts().to_dict() == {0: 2, 1: 2}


def test_identifiers_decide_the_split_and_not_the_rows(stays: pd.DataFrame) -> None:
    cells = check_cells(stays, TASK.labelled_columns, patient="patient")
    order = np.random.default_rng(1).permutation(24)
    changed = cells.numbers.iloc[order].assign(age=50.0)
    assert cells.patients is not None

    _, test = split_rows(cells.numbers, "readmitted", 3, cells.patients)
    _, test_of_changed = split_rows(changed, "readmitted", 3, cells.patients[order])

    assert ids_of(stays, test) == ids_of(stays.iloc[order], test_of_changed)


def test_the_split_depends_on_the_seed(stays: pd.DataFrame) -> None:
    cells = check_cells(stays, TASK.labelled_columns, patient="patient")

    splits = {tuple(split_rows(cells.numbers, "readmitted", seed, cells.patients)[1]) for seed in SEEDS}

    assert len(splits) > 10


ROWS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


@given(rows=ROWS, folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_all_rows_of_a_patient_are_in_one_fold_and_folds_have_equal_numbers_of_patients(
    rows: list[tuple[int, float]], folds: int, seed: int
) -> None:
    numbers = pd.DataFrame({"age": np.arange(len(rows)), "readmitted": [label for _, label in rows]})
    patients = np.array([patient for patient, _ in rows])

    fold_of = assign_folds(numbers, "readmitted", folds, seed, patients)

    folds_by_patient = {patient: set(fold_of[patients == patient].tolist()) for patient in patients.tolist()}
    assert all(len(found) == 1 for found in folds_by_patient.values())
    sizes = np.bincount([fold for (fold,) in folds_by_patient.values()], minlength=folds)
    assert np.ptp(sizes) <= 1


def test_a_hospital_keeps_its_patients_apart(tmp_path: Path, stays: pd.DataFrame) -> None:
    hospital = load_hospital(write(tmp_path, stays), TASK, "a", 42)

    assert (len(hospital.train), len(hospital.test)) == (16, 8)
    assert hospital.train.ids is not None
    assert hospital.test.ids is not None
    assert set(hospital.train.ids).isdisjoint(hospital.test.ids)
    assert Counter(hospital.train.ids.tolist()).most_common()[0][1] == 2
    # The identifiers are numbers of one to two digits; only hashes of them are kept.
    assert min(hospital.train.ids) > 12


# Studies


def test_a_cohort_keeps_patients_in_one_fold(stays: pd.DataFrame) -> None:
    cells = check_cells(stays, TASK.labelled_columns, patient="patient")
    assert cells.patients is not None
    cohort = Cohort(TASK, {"a": cells.numbers}, {"a": ""}, ids={"a": cells.patients})

    for fold in range(4):
        outer = cohort.split(folds=4, fold=fold, seed=7)
        inner = cohort.split(folds=3, fold=0, seed=7, within=outer)
        for split in (outer["a"], inner["a"]):
            assert ids_of(stays, split.train).isdisjoint(ids_of(stays, split.test))


def test_patients_of_a_study_are_counted_by_their_ids(stays: pd.DataFrame) -> None:
    stays["age"] = "50"

    known = check_table("a.csv", TASK, check_cells(stays, TASK.labelled_columns, patient="patient"))
    unknown = check_table("a.csv", TASK, check_cells(stays, TASK.labelled_columns))

    assert study.count_patients(known) == 12
    assert study.count_patients(unknown) == len(stays[list(TASK.column_names)].drop_duplicates()) != 12


def test_a_cohort_reads_the_identifiers(tmp_path: Path, stays: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, stays)
    hospitals = {"a": path, "b": path}
    monkeypatch.setattr("federated_health.studies.benefit.cohort.find_hospitals", lambda *_: (TASK, None, hospitals))

    cohort = read_cohort(tmp_path)

    assert [len(set(cohort.ids[name])) for name in hospitals] == [12, 12]


def test_shadow_runs_draw_patients() -> None:
    plan = plan_of()
    ids = np.arange(20) // 2
    plan = replace(
        plan,
        hospitals={
            name: replace(hospital, train=replace(hospital.train, ids=ids)) if name == "small" else hospital
            for name, hospital in plan.hospitals.items()
        },
    )

    members = plan.members()[:, plan.slices()["small"]]

    assert (members[:, ::2] == members[:, 1::2]).all()
    assert (members.sum(axis=1) == 10).all()  # 5 of 10 patients, two rows each


def rows_of(ids: list[int] | None, rows: int = 0) -> Patients:
    rows = rows if ids is None else len(ids)
    return Patients(np.zeros((rows, 1)), np.zeros(rows, np.float32), None if ids is None else np.array(ids))


def test_equal_ids_at_two_hospitals_are_different_patients() -> None:
    parts = [rows_of([7, 7, 5]), rows_of([]), rows_of([5, 9, 5])]

    numbers = Patients.concatenate(parts).number_patients().tolist()

    assert numbers == [1, 1, 0, 2, 3, 2]


def test_each_row_without_an_id_is_a_patient_of_its_own() -> None:
    assert Patients.concatenate([rows_of([3, 3]), rows_of(None, 2)]).number_patients().tolist() == [0, 0, 1, 2]
    assert Patients.concatenate([rows_of(None, 2), rows_of(None, 2)]).ids is None


def test_the_hospitals_of_a_fold_and_the_pooled_one_know_their_patients(stays: pd.DataFrame) -> None:
    cells = check_cells(stays, TASK.labelled_columns, patient="patient")
    assert cells.patients is not None
    cohort = Cohort(
        TASK, dict.fromkeys("ab", cells.numbers), dict.fromkeys("ab", ""), ids=dict.fromkeys("ab", cells.patients)
    )
    split = cohort.split(folds=4, fold=0, seed=7)

    (pooled,) = training_hospitals(Fit(repeat=0, fold=0, setup=TrainingSetup.POOLED), split, cohort).values()

    for name in "ab":
        np.testing.assert_array_equal(cohort.hospital(name, split[name]).train.ids, cells.patients[split[name].train])
    assert pooled.train.most_rows == 2
    assert len(set(pooled.train.number_patients())) + len(set(pooled.test.number_patients())) == 24


# Partitions


def source_of(patients: list[int], labels: list[int], hospitals: list[str] | None = None) -> Source:
    table = pd.DataFrame({name: np.ones(len(patients)) for name in TASK.column_names})
    table["age"] = np.arange(len(patients)) % 100
    table = table.assign(readmitted=labels, patient=patients)
    if hospitals is not None:
        table.insert(0, "hospital", hospitals)
    return Source(name="file", task=TASK, title="stays of a test", table=table)


def partitions() -> list[Partition]:
    return [
        Partition(by="iid", seed=1, hospitals=4),
        Partition(by="size", seed=1, ratios=(4, 2, 2)),
        Partition(by="dirichlet", seed=1, hospitals=4, alpha=1.0),
    ]


@pytest.mark.parametrize("partition", partitions(), ids=lambda partition: partition.by)
def test_a_patient_of_many_rows_is_at_one_hospital(partition: Partition) -> None:
    numbers = [patient for patient in range(40) for _ in range(1 + patient % 9)]
    source = source_of(numbers, [patient % 2 for patient in numbers])

    hospitals = divide(source, partition)

    owners = Counter(patient for rows in hospitals.values() for patient in set(rows["patient"]))
    assert set(owners.values()) == {1}
    assert len(owners) == 40
    assert sum(map(len, hospitals.values())) == len(numbers)


def test_sizes_count_patients() -> None:
    numbers = [patient for patient in range(40) for _ in range(1 + patient % 9)]
    source = source_of(numbers, [0] * len(numbers))

    hospitals = divide(source, Partition(by="size", seed=1, ratios=(4, 2, 2)))

    assert [rows["patient"].nunique() for rows in hospitals.values()] == [20, 10, 10]
    assert [count_patients(rows, TASK) for rows in hospitals.values()] == [20, 10, 10]


def test_equal_rows_of_different_patients_are_different_patients() -> None:
    source = source_of(list(range(6)), [0] * 6)
    source.table["age"] = 50

    assert count_patients(source.table, TASK) == 6
    assert [len(rows) for rows in divide(source, Partition(by="iid", seed=1, hospitals=3)).values()] == [2, 2, 2]


def test_more_hospitals_than_patients_are_refused() -> None:
    with pytest.raises(DataError, match=r"one per patient \(2\), got 3"):
        divide(source_of([1, 1, 2, 2], [0, 1, 0, 1]), Partition(by="iid", seed=1, hospitals=3))


def test_patients_at_several_hospitals_are_counted() -> None:
    source = source_of([1, 1, 2, 3, 3, 4], [0] * 6, ["n", "s", "n", "n", "s", "s"])

    facts, notes = describe_patients(source, Partition(by="hospital", seed=1))

    assert facts == {"patients_at_several_hospitals": 2}
    assert len(notes) == 1
    assert describe_patients(source, Partition(by="iid", seed=1, hospitals=2)) == ({}, [])


# The smallest number of patients of a hospital


def test_small_hospitals_of_the_data_are_left_out_and_named() -> None:
    source = source_of([1, 1, 1, 2, 3, 4], [0] * 6, ["n", "n", "n", "s", "s", "s"])
    partition = Partition(by="hospital", seed=1, min_patients=2)

    assert list(divide(source, partition)) == ["s"]
    facts, notes = describe_patients(source, partition)
    assert facts["left_out"] == {"n": 3}
    assert "n (3 rows)" in notes[0]
    with pytest.raises(DataError, match="no hospital of the data has 4"):
        divide(source, replace(partition, min_patients=4))


def test_shares_are_drawn_until_every_hospital_has_enough_patients() -> None:
    numbers = [patient for patient in range(60) for _ in range(2)]
    source = source_of(numbers, [patient % 2 for patient in numbers])

    for seed in range(10):
        partition = Partition(by="dirichlet", seed=seed, hospitals=4, alpha=0.5, min_patients=8)
        assert min(count_patients(rows, TASK) for rows in divide(source, partition).values()) >= 8
    with pytest.raises(DataError, match=r"--alpha 0\.5: .*fewer than 15 patients"):
        divide(source, Partition(by="dirichlet", seed=1, hospitals=4, alpha=0.5, min_patients=15))


@pytest.mark.parametrize(
    "partition", [Partition(by="iid", seed=1, hospitals=3), Partition(by="size", seed=1, ratios=(1, 1, 1))]
)
def test_a_partition_of_too_small_hospitals_is_refused(partition: Partition) -> None:
    source = source_of(list(range(25)), [0, 1] * 12 + [0])

    assert len(divide(source, replace(partition, min_patients=8))) == 3
    with pytest.raises(DataError, match=r"--min-patients: expected at least 9 .*got 8"):
        divide(source, replace(partition, min_patients=9))


# What leaves a hospital


def test_the_most_rows_of_a_patient_are_counted() -> None:
    rows = Patients(np.zeros((5, 1)), np.zeros(5, np.float32), np.array([7, 8, 7, 7, 9]))
    assert rows.most_rows == 3
    assert rows.take(np.array([0, 1])).most_rows == 1
    assert replace(rows, ids=None).most_rows == 1


def test_score_groups_and_sums_are_of_five_patients_also_where_each_has_three_rows() -> None:
    scores, patients = np.arange(45.0), np.repeat(np.arange(15), 3)
    assert microaggregate(scores[:14], patients[:14]).shape == (0, 3)
    assert microaggregate(scores, patients)[:, 0].tolist() == [15, 15, 15]
    assert column_sums(scores[:14, None], most_rows=3).count.tolist() == [0]
    assert column_sums(scores[:15, None], most_rows=3).count.tolist() == [15]


def test_a_correlation_is_of_five_patients_of_each_class() -> None:
    task = Task(name="any", columns=(Measurement("x", "x", "g", low=0, high=100),), label=Label("y", "y"))
    values, labels = np.arange(40.0)[:, None], (np.arange(40) < 14).astype(np.float32)
    assert measure_associations(values, labels, task, most_rows=3).tolist() == [0]
    labels[14] = 1
    assert measure_associations(values, labels, task, most_rows=3)[0] < -0.5


def test_a_patient_with_several_training_rows_joins_a_run_with_differential_privacy() -> None:
    labels = (np.arange(20) % 2).astype(np.float32)
    plan = PrivacyPlan(
        epsilon=2.0,
        delta=1e-5,
        clip=1.0,
        sampling_rate=0.5,
        steps=1,
        learning_rate=1.0,
        rounds=1,
        run="0123456789abcdef",
    )
    rows = Patients(np.zeros((20, 1)), labels, np.arange(20) // 2)
    hospital = Hospital("any", TASKS["heart-disease"], rows, rows)
    assert agree_on_plan(hospital_context("any", {}), plan.to_config(), PrivacyBudget(), hospital) == plan
