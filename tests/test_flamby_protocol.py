"""FLamby's split of the heart data, and its figures for the majority class."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from flamby_protocol import (
    COLUMNS,
    DROPPED_COLUMNS,
    Split,
    every_patient_hospitals,
    every_patient_split,
    flamby_hospitals,
    flamby_split,
    keeps,
    majority_accuracy,
    without_twins,
)

from federated_health.data.sources.source import Source


@pytest.fixture(scope="module")
def table(uci: Source) -> pd.DataFrame:
    return uci.table


def test_flamby_keeps_740_patients(table: pd.DataFrame) -> None:
    patients = table[keeps(table)]
    sizes = {"cleveland": 303, "hungary": 261, "switzerland": 46, "va-long-beach": 130}
    assert patients["hospital"].value_counts().to_dict() == sizes
    # UCI's zeros are no `?`: Switzerland's cholesterol, 33 of VA Long Beach's and one of its blood pressures.
    empty = {"cleveland": (0, 0), "hungary": (0, 0), "switzerland": (0, 46), "va-long-beach": (1, 33)}
    for name, of_hospital in patients.groupby("hospital"):
        missing = of_hospital[COLUMNS].drop(columns=list(DROPPED_COLUMNS)).isna().sum()
        assert (missing["trestbps"], missing["chol"]) == empty[str(name)]
        assert missing.sum() == sum(empty[str(name)])


def test_the_split_is_flambys(table: pd.DataFrame) -> None:
    split = flamby_split(table)
    sizes = {name: (len(sides.train), len(sides.test)) for name, sides in split.items()}
    assert sizes == {"cleveland": (199, 104), "hungary": (172, 89), "switzerland": (30, 16), "va-long-beach": (85, 45)}
    rows = np.concatenate([np.concatenate([sides.train, sides.test]) for sides in split.values()])
    assert sorted(rows) == np.flatnonzero(keeps(table)).tolist()
    # Test rows of FLamby's own code on UCI's files, as positions in the whole table.
    assert {name: (*sides.test[:3].tolist(), int(sides.test.sum())) for name, sides in split.items()} == {
        "cleveland": (5, 13, 16, 16832),
        "hungary": (307, 311, 320, 40320),
        "switzerland": (616, 618, 620, 10515),
        "va-long-beach": (721, 725, 726, 36990),
    }


def test_the_majority_class_reaches_0_721(table: pd.DataFrame) -> None:
    accuracy = majority_accuracy(flamby_hospitals(table))
    assert accuracy == {
        "cleveland": 56 / 104,
        "hungary": 56 / 89,
        "switzerland": 15 / 16,
        "va-long-beach": 35 / 45,
    }
    assert round(sum(accuracy.values()) / 4, 3) == 0.721


def test_both_protocols_test_the_same_patients(table: pd.DataFrame) -> None:
    for name, split in flamby_split(table).items():
        np.testing.assert_array_equal(every_patient_split(table)[name].test, split.test)
    shown = [column not in DROPPED_COLUMNS for column in COLUMNS]
    for ten, all_columns in zip(flamby_hospitals(table), every_patient_hospitals(table), strict=True):
        assert ten.name == all_columns.name
        np.testing.assert_array_equal(ten.test.labels, all_columns.test.labels)
        np.testing.assert_array_equal(ten.test.values[:, shown], all_columns.test.values[:, shown])
        assert np.isnan(ten.test.values[:, ~np.array(shown)]).all()
        assert np.isnan(ten.train.values[:, ~np.array(shown)]).all()


@pytest.mark.parametrize(
    ("protocol", "rows"), [(flamby_split, (199, 172, 30, 84)), (every_patient_split, (199, 205, 107, 154))]
)
def test_no_test_patient_is_used_for_training(
    table: pd.DataFrame, protocol: Callable[[pd.DataFrame], dict[str, Split]], rows: tuple[int, ...]
) -> None:
    splits = without_twins(table, protocol(table))
    assert tuple(len(sides.train) for sides in splits.values()) == rows
    train, test = (
        {tuple(row) for row in table.iloc[np.concatenate(side)][COLUMNS].fillna(-99).to_numpy()}
        for side in zip(*((split.train, split.test) for split in splits.values()), strict=True)
    )
    assert not train & test


def test_twins_are_found_across_hospitals_and_labels() -> None:
    row = dict.fromkeys(COLUMNS, 1.0) | {"chol": np.nan}
    table = pd.DataFrame([row, row | {"age": 2.0}, row | {"age": 3.0}, row]).assign(disease=[0, 1, 0, 1])
    splits = without_twins(
        table, {"one": Split(np.array([0, 1]), np.array([2])), "other": Split(np.array([], dtype=int), np.array([3]))}
    )
    assert splits["one"].train.tolist() == [1]
