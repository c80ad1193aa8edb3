"""Two registrations of a toy hospital, before and after patients were added, subtract to these patients."""

from itertools import combinations_with_replacement

import numpy as np
import pytest

from federated_health.data.columns import Measurement
from federated_health.data.hospital import Patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.content import Registration
from federated_health.ml.normalisation import column_sums, withheld_sums
from federated_health.studies.audit.differencing import (
    MAX_SOLUTIONS,
    added_values,
    share_told_by_sums,
    values_with_sums,
)

AGE = Measurement("age", "age", "years", low=0, high=120)
CHOLESTEROL = Measurement("chol", "cholesterol", "mg/dl", low=50, high=1000)
MEASUREMENTS = (AGE, CHOLESTEROL)

SIX: list[list[float]] = [[41, 233], [44, 250], [58, 204], [60, 199], [63, np.nan], [71, 301]]
"""Age and cholesterol of six patients."""


def registered(rows: list[list[float]]) -> Registration:
    values = np.array(rows, dtype=float)
    return Registration(name="a", train_examples=len(rows), test_examples=2, sums=column_sums(values))


def test_the_values_of_the_only_patient_who_was_added_are_known() -> None:
    assert added_values(registered(SIX), registered([*SIX, [52, 212]]), MEASUREMENTS) == [[(52.0,)], [(212.0,)]]


def test_a_value_that_is_missing_is_known_to_be_missing() -> None:
    assert added_values(registered(SIX), registered([*SIX, [52, np.nan]]), MEASUREMENTS) == [[(52.0,)], [()]]


def test_a_patient_who_replaces_another_one_is_known_too() -> None:
    """Age 52 enters the sums while 44 leaves them: the sums differ by 8, the squares by 768."""
    exchanged = [row for row in SIX if row[0] != 44]
    ages, cholesterol = added_values(registered(SIX), registered([*exchanged, [52, 212]]), MEASUREMENTS)
    (age,), (value,) = ages[0], cholesterol[0]
    assert len(ages) == len(cholesterol) == 1
    assert [age, value] == pytest.approx([52, 212])


def test_a_registration_that_did_not_change_says_that_nobody_was_added() -> None:
    assert added_values(registered(SIX), registered(SIX), MEASUREMENTS) == [[()], [()]]


def test_two_patients_are_known_as_a_pair_of_values() -> None:
    ages, _ = added_values(registered(SIX), registered([*SIX, [52, 212], [39, 260]]), MEASUREMENTS)
    assert len(ages) == 1
    assert ages[0] == pytest.approx([39, 52])


def test_sums_that_are_withheld_give_nothing_away() -> None:
    """A column that fewer than five patients have has no sums, and with differential privacy none has."""
    few = [[age, chol if place < 3 else np.nan] for place, (age, chol) in enumerate(SIX)]
    assert added_values(registered(few), registered([*few, [52, 212]]), MEASUREMENTS) == [[(52.0,)], []]
    private = Registration(name="a", train_examples=6, test_examples=2, sums=withheld_sums(2))
    assert added_values(private, private, MEASUREMENTS) == [[], []]


def test_a_repeated_release_gives_nothing_away() -> None:
    """A hospital that repeats its earlier release defeats the attack, whoever was added."""
    earlier = registered(SIX)
    assert added_values(earlier, earlier, MEASUREMENTS) == [[()], [()]]


def test_many_patients_at_once_are_not_searched() -> None:
    more = [*SIX, *[[50.0 + age, 200.0] for age in range(5)]]
    assert added_values(registered(SIX), registered(more), MEASUREMENTS) == [[], []]


def test_whole_numbers_with_given_sums_are_all_found() -> None:
    """Every set of 3 numbers from 1 to 6, by the sums that it has."""
    by_sums: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for values in combinations_with_replacement(range(1, 7), 3):
        sums = sum(values), sum(value**2 for value in values)
        by_sums.setdefault(sums, []).append(tuple(map(float, values)))
    for (total, squares), expected in by_sums.items():
        assert sorted(values_with_sums(3, total, squares, 1, 6)) == expected
    assert values_with_sums(3, 6, 14, 1, 6) == [(1, 2, 3)]


def test_impossible_sums_have_no_solution() -> None:
    assert values_with_sums(1, 52, 52**2 + 1, 0, 120) == []
    assert values_with_sums(1, 130, 130**2, 0, 120) == []
    assert values_with_sums(2, 10, 49, 0, 120) == []
    assert values_with_sums(3, 6.5, 14, 0, 120) == []
    assert values_with_sums(0, 3, 9, 0, 120) == []


def test_the_search_ends_after_a_limited_number_of_solutions() -> None:
    assert len(values_with_sums(4, 2000, 1_100_000, 0, 1000)) <= MAX_SOLUTIONS


def share_told(number: int, ages: list[float], cholesterol: float = 0.5) -> float | None:
    """Of patients whose cholesterol is not in whole numbers, so that ages count only."""
    values = np.full((len(ages), len(HEART_DISEASE.columns)), np.nan)
    names = list(HEART_DISEASE.column_names)
    values[:, names.index("age")], values[:, names.index("chol")] = ages, 200 + cholesterol
    patients = Patients(values, np.zeros(len(ages), dtype=np.float32))
    return share_told_by_sums(patients, HEART_DISEASE, number, seed=1, draws=20)


def test_one_or_two_patients_are_always_told_by_their_sums() -> None:
    assert share_told(1, [41, 44, 58, 63]) == share_told(2, [41, 44, 58, 63]) == 1.0


def test_three_patients_are_told_where_no_others_have_their_sums() -> None:
    """1, 2 and 3 are the only whole numbers with their sums; 10, 13 and 19 have those of 9, 15 and 18."""
    assert share_told(3, [1, 2, 3]) == 1.0
    assert (10 + 13 + 19, 10**2 + 13**2 + 19**2) == (9 + 15 + 18, 9**2 + 15**2 + 18**2)
    assert share_told(3, [10, 13, 19]) == 0.0


def test_without_whole_numbers_nothing_is_searched() -> None:
    assert share_told(3, [41.5, 44, 58]) is None
