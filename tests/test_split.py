"""Which patients a hospital gets, and which of them it never trains on.

The table is divided among hospitals, one CSV each; then each hospital splits its own rows into training and test rows.
More cases are in test_partitions.py and test_split_properties.py.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.hospital import Hospital, Patients, load_hospital
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source
from federated_health.data.split import split_rows
from federated_health.data.task_files import HEART_DISEASE
from federated_health.hospital import handlers
from federated_health.ml.networks import weights_hash
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport

BY_HOSPITAL = Partition(by="hospital", seed=42)
IID = Partition(by="iid", seed=42, hospitals=7)
DIRICHLET = Partition(by="dirichlet", seed=42, hospitals=4, alpha=0.5)
SIZE = Partition(by="size", seed=42, ratios=(8, 4, 2, 1))
PARTITIONS = [pytest.param(partition, id=partition.by) for partition in (BY_HOSPITAL, IID, DIRICHLET, SIZE)]


def write_files(folder: Path, source: Source, partition: Partition) -> list[Path]:
    write_hospitals(folder, source, divide(source, partition), partition=partition.describe())
    return sorted(folder.glob("client_*.csv"))


def sizes_of(source: Source, partition: Partition) -> list[int]:
    return [len(rows) for rows in divide(source, partition).values()]


def load(folder: Path, number: int, seed: int = 42) -> Hospital:
    return load_hospital(folder / f"client_{number}.csv", HEART_DISEASE, f"hospital-{number}", seed)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_each_hospital_has_one_csv_and_each_row_is_in_exactly_one(
    tmp_path: Path, uci: Source, partition: Partition
) -> None:
    files = write_files(tmp_path, uci, partition)

    rows = [line for file in files for line in file.read_text().splitlines()[1:]]
    table = uci.table.drop(columns="hospital").to_csv(index=False, float_format="%.15g").splitlines()[1:]
    assert len(files) == len(divide(uci, partition))
    assert Counter(rows) == Counter(table)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_same_seed_gives_the_same_files(tmp_path: Path, uci: Source, partition: Partition) -> None:
    first, second, other = (
        [file.read_bytes() for file in write_files(tmp_path / name, uci, replace(partition, seed=seed))]
        for name, seed in (("first", 42), ("second", 42), ("other", 43))
    )

    assert first == second
    assert (first == other) is (partition is BY_HOSPITAL)  # whose hospitals are in the data


def test_a_partition_has_the_promised_sizes(uci: Source) -> None:
    assert sizes_of(uci, BY_HOSPITAL) == [303, 294, 123, 200]
    assert sizes_of(uci, IID) == [132, 132, 132, 131, 131, 131, 131]  # 920 = 7 x 131 + 3
    assert sizes_of(uci, SIZE) == [491, 245, 123, 61]  # 490 2/3, 245 1/3, 122 2/3 and 61 1/3, rounded to a sum of 920


def test_a_smaller_alpha_gives_more_skewed_hospitals(uci: Source) -> None:
    divisions = [divide(uci, replace(DIRICHLET, alpha=alpha)).values() for alpha in (0.1, 1.0, 1e6)]

    spreads = [np.std([rows["disease"].mean() for rows in hospitals]) for hospitals in divisions]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 0.2
    assert spreads[-1] < 0.01


# Healthy and diseased patients: 164 and 139 at hospital 1, of whom a quarter is 41 and 34.75; 8 and 115 at hospital 3.
@pytest.mark.parametrize(("number", "train", "test"), [(1, [123, 104], [41, 35]), (3, [6, 86], [2, 29])])
def test_a_quarter_of_each_class_is_held_out(hospitals_folder: Path, number: int, train: object, test: object) -> None:
    hospital = load(hospitals_folder, number)

    assert [np.bincount(side.labels.astype(int)).tolist() for side in (hospital.train, hospital.test)] == [train, test]


@pytest.mark.parametrize("seed", range(10))
def test_duplicate_rows_stay_on_one_side_of_the_split(seed: int) -> None:
    ages = [age for age in range(40, 60) for _ in range(3)]
    table = pd.DataFrame({"age": ages, "disease": [0, 1, 1] * 20})  # three rows per patient, not all with one label

    train, test = (table["age"].iloc[side] for side in split_rows(table, "disease", seed))

    assert set(train).isdisjoint(test)
    assert (len(train), len(test)) == (45, 15)  # of 20 patients, 5 are held out


@pytest.mark.usefixtures("server_identity")
def test_the_split_does_not_depend_on_the_server(hospitals_folder: Path) -> None:
    path = hospitals_folder / "client_1.csv"
    context = hospital_context("cleveland", {"data": str(path), "split-seed": 7})
    agreement = {"task": HEART_DISEASE.name, "schema": HEART_DISEASE.schema_hash}
    expected, other = (load(hospitals_folder, 1, seed).test.values for seed in (7, 42))

    for seed in (42, 43):
        config = ConfigRecord({**agreement, "seed": seed, "split-seed": seed})
        hospital = handlers.hospital_of(Message(RecordDict({"config": config}), 1, "train"), context)
        np.testing.assert_array_equal(hospital.test.values, expected)
        assert not np.array_equal(hospital.test.values, other, equal_nan=True)


@pytest.mark.slow  # imports TensorFlow
def test_test_rows_are_never_used_for_training(hospitals_folder: Path) -> None:
    settings = Settings(hospitals=2, min_hospitals=2, rounds=2, appraisal=False)

    def federate(hospitals: list[Hospital]) -> PlainRun:
        contexts = {hospital.name: handlers.InMemoryHospital(hospital) for hospital in hospitals}
        run = PlainRun(InProcessTransport(handlers.answer, contexts), settings)
        run.run()
        return run

    hospitals = [load(hospitals_folder, number) for number in (1, 2)]
    tests = [Patients(hospital.test.values[:40], 1 - hospital.test.labels[:40]) for hospital in hospitals]
    altered = [replace(hospital, test=test) for hospital, test in zip(hospitals, tests, strict=True)]
    run, other_run = federate(hospitals), federate(altered)

    assert weights_hash(run.weights) == weights_hash(other_run.weights)
    assert (run.normalisation, run.threshold) == (other_run.normalisation, other_run.threshold)
    assert run.history[-1].federation != other_run.history[-1].federation
