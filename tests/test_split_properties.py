"""Properties of the split and of folds on arbitrary tables. test_split.py shows the split of real hospitals."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.data.split import split_rows
from federated_health.studies.benefit.folds import assign_folds


def positions(table: pd.DataFrame, seed: int = 42) -> tuple[list[int], list[int]]:
    train, test = split_rows(table, "disease", seed)
    return train.tolist(), test.tolist()


def table_of(labels: Sequence[float]) -> pd.DataFrame:
    """Rows that all differ."""
    return pd.DataFrame({"age": np.arange(len(labels), dtype=np.float64), "disease": np.array(labels, np.float64)})


# Patients of a class -> how many of them are held out: a quarter, halves rounded up, and at least one of two.
QUARTERS = {0: 0, 1: 0, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2, 9: 2, 10: 3, 13: 3, 14: 4, 18: 5, 96: 24, 98: 25}


@pytest.mark.parametrize("diseased", QUARTERS)
def test_a_quarter_of_each_class_is_held_out_and_every_row_is_on_one_side(diseased: int) -> None:
    for healthy, seed in product(QUARTERS, (42, 7, -1)):
        train, test = positions(table_of([1] * diseased + [0] * healthy), seed)

        assert sorted(train + test) == list(range(diseased + healthy))
        assert (train, test) == (sorted(train), sorted(test))
        assert sum(row < diseased for row in test) == QUARTERS[diseased]
        assert sum(row >= diseased for row in test) == QUARTERS[healthy]


def test_the_seed_alone_decides_the_split() -> None:
    table = table_of([0, 1] * 50)

    assert positions(table, 7) == positions(table.copy(), 7)
    assert len({str(positions(table, seed)) for seed in (7, 8, 0, -7, 2**64)}) == 5


def test_the_split_is_the_same_in_every_version() -> None:
    """Otherwise patients of a training set would become test patients of a later version."""
    assert positions(table_of([0, 1] * 8))[1] == [1, 4, 14, 15]


def test_every_patient_is_held_out_about_equally_often_over_seeds() -> None:
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
def test_a_repeated_row_moves_no_patient(rows: Rows, seed: int, data: st.DataObject) -> None:
    again = [*rows, data.draw(st.sampled_from(rows))]

    assert contents_on(positions(table_from(rows), seed)[1], rows) == contents_on(
        positions(table_from(again), seed)[1], again
    )


# Other labels than 0 and 1

QUANTITY = st.sampled_from([0.0, 0.5, 3.0, 3.25, 900.0])


@pytest.mark.parametrize("classes", [(0, 1, 2), (2, 0, 1)])
def test_a_quarter_of_each_of_several_classes_is_held_out(classes: tuple[int, ...]) -> None:
    labels = np.repeat([0.0, 1.0, 2.0], [96, 6, 2])
    for seed in (42, 7, -1):
        train, test = split_rows(table_of(labels.tolist()), "disease", seed, classes=classes)

        assert sorted([*train, *test]) == list(range(104))
        assert np.bincount(labels[test].astype(int)).tolist() == [24, 2, 1]


def test_a_patient_of_several_classes_counts_as_the_largest_code() -> None:
    patients = np.repeat(np.arange(12), 2)
    labels = np.array([[0, 2]] * 4 + [[1, 0]] * 4 + [[0, 0]] * 4).ravel()  # 4 patients of each class, by largest code
    for seed in range(20):
        test = split_rows(table_of(labels.tolist()), "disease", seed, patients, (0, 1, 2))[1]

        assert len(test) == 6
        assert sorted(patients[test[::2]] // 4) == [0, 1, 2]  # one patient of each class, with both rows


def test_two_classes_are_split_alike_whether_stated_or_not() -> None:
    table = table_of([0, 1, 1, 1] * 30)
    for seed in range(20):
        np.testing.assert_array_equal(
            split_rows(table, "disease", seed)[1], split_rows(table, "disease", seed, classes=(1, 0))[1]
        )


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(labels=st.lists(QUANTITY, max_size=60), label=QUANTITY, seed=SEED)
def test_a_quarter_is_held_out_by_a_quantity_and_a_new_patient_moves_at_most_one(
    labels: list[float], label: float, seed: int
) -> None:
    before = set(split_rows(table_of(labels), "disease", seed, classes=())[1].tolist()) if labels else set()
    after = set(split_rows(table_of([*labels, label]), "disease", seed, classes=())[1].tolist())

    assert len(before) == int(len(labels) / 4 + 0.5)
    assert len(before ^ (after - {len(labels)})) <= 1


def test_a_quantity_does_not_change_who_is_held_out() -> None:
    quantities = np.random.default_rng(1).normal(size=80).tolist()
    tests = [split_rows(table_of(labels), "disease", 3, classes=())[1].tolist() for labels in (quantities, [0.0] * 80)]

    assert tests[0] == tests[1]


@pytest.mark.parametrize("classes", [(0, 1, 2), ()])
def test_folds_of_other_labels_have_equal_sizes_and_classes_are_spread(classes: tuple[int, ...]) -> None:
    labels = [0.0] * 40 + [1.0] * 10 + [2.0] * 5
    fold_of = assign_folds(table_of(labels), "disease", 5, 42, classes=classes)

    assert np.bincount(fold_of).tolist() == [11] * 5
    if classes:
        assert [np.bincount(fold_of[np.array(labels) == code]).tolist() for code in classes] == [
            [8] * 5,
            [2] * 5,
            [1] * 5,
        ]


# Folds

FOLDS = st.integers(2, 12)


def folds_of(table: pd.DataFrame, folds: int, seed: int = 42) -> list[int]:
    return [int(fold) for fold in assign_folds(table, "disease", folds, seed)]


@given(labels=st.lists(st.sampled_from([0, 1]), min_size=1, max_size=80), folds=FOLDS, seed=SEED)
def test_sizes_of_folds_and_of_their_classes_differ_by_one_at_most(labels: list[int], folds: int, seed: int) -> None:
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
    assert np.ptp(sizes) <= 1  # a patient counts once, however many rows


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


def test_another_seed_gives_other_folds() -> None:
    table = table_of([0, 1] * 50)

    assert folds_of(table, 5, 1) == folds_of(table, 5, 1)
    same = np.mean(np.array(folds_of(table, 5, 1)) == folds_of(table, 5, 2))
    assert 0.05 < same < 0.4  # a fifth by chance


def test_every_pair_of_patients_shares_a_fold_about_equally_often() -> None:
    """4 patients of one class in 2 folds: each of the 3 pairings is equally frequent."""
    table = table_of([1, 1, 1, 1])
    partners = [
        np.flatnonzero(np.array(fold_of[1:]) == fold_of[0])
        for fold_of in (folds_of(table, 2, seed) for seed in range(600))
    ]

    times = np.bincount(np.concatenate(partners), minlength=3)
    assert times.sum() == 600
    assert times.min() > 150  # of 200, with a deviation of 12
