"""Merged sums are those of the pooled rows; sums over fewer than five rows are not released."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.errors import RunError
from federated_health.ml.normalisation import MIN_OBSERVED, ColumnSums, column_sums, merge_sums, normalisation_from

NAN = math.nan
Rows = npt.NDArray[np.float64]


def sums(count: list[float], total: list[float], squares: list[float]) -> ColumnSums:
    return ColumnSums(count=np.array(count), total=np.array(total), squares=np.array(squares))


def as_lists(sums: ColumnSums) -> list[list[float]]:
    return [sums.count.tolist(), sums.total.tolist(), sums.squares.tolist()]


def hospital(seed: int, rows: int, missing: float) -> Rows:
    """Columns of quite different size, some cells missing."""
    generator = np.random.default_rng(seed)
    values = generator.normal([50.0, 240.0, 1.0], [9.0, 50.0, 1.1], (rows, 3))
    values[generator.random(values.shape) < missing] = NAN
    return values


def test_sums_worked_by_hand() -> None:
    values = np.array([[1.0, 10.0], [2.0, NAN], [3.0, 30.0], [4.0, 40.0], [5.0, 50.0], [6.0, 60.0]])

    assert as_lists(column_sums(values)) == [[6, 5], [21, 190], [91, 100 + 900 + 1600 + 2500 + 3600]]


def test_a_column_observed_in_four_rows_is_not_released_and_one_in_five_is() -> None:
    values = np.array([[1.0, 1.0]] * 4 + [[NAN, 1.0], [NAN, NAN]])

    assert MIN_OBSERVED == 5
    assert as_lists(column_sums(values)) == [[0, 5], [0, 5], [0, 5]]


def test_a_column_without_any_value_has_no_sums() -> None:
    assert as_lists(column_sums(np.full((9, 1), NAN))) == [[0], [0], [0]]


def test_a_merged_normalisation_is_that_of_the_pooled_rows() -> None:
    hospitals = [hospital(1, 227, 0.0), hospital(2, 220, 0.2), hospital(3, 92, 0.5), hospital(4, 150, 0.1)]
    pooled = np.concatenate(hospitals)

    merged = normalisation_from(merge_sums(column_sums(rows) for rows in hospitals))

    np.testing.assert_allclose(merged.mean, np.nanmean(pooled, axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.variance, np.nanvar(pooled, axis=0), rtol=1e-9)


def test_a_column_leaves_out_a_hospital_with_too_few_observed_rows() -> None:
    large, small = hospital(1, 100, 0.1), hospital(2, 30, 0.0)
    small[4:, 1] = NAN  # four observed cholesterols
    pooled = np.concatenate([large, small])
    expected = [
        np.nanmean(pooled[:, 0]),
        np.nanmean(large[:, 1]),
        np.nanmean(pooled[:, 2]),
    ]

    merged = normalisation_from(merge_sums([column_sums(large), column_sums(small)]))

    np.testing.assert_allclose(merged.mean, expected, rtol=1e-12)
    np.testing.assert_allclose(merged.variance[1], np.nanvar(large[:, 1]), rtol=1e-9)


def test_merging_does_not_depend_on_the_order() -> None:
    parts = [column_sums(hospital(seed, 20 + seed, 0.3)) for seed in range(4)]
    reference = merge_sums(parts)

    for order in itertools.permutations(parts):
        merged = merge_sums(order)
        np.testing.assert_array_equal(merged.count, reference.count)
        np.testing.assert_allclose(merged.total, reference.total, rtol=1e-12)
        np.testing.assert_allclose(merged.squares, reference.squares, rtol=1e-12)


def test_merging_does_not_depend_on_the_grouping() -> None:
    a, b, c = (column_sums(hospital(seed, 30, 0.1)) for seed in range(3))

    for left, right in zip(as_lists(merge_sums([merge_sums([a, b]), c])), as_lists(merge_sums([a, b, c])), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


VALUE = st.one_of(st.just(NAN), st.floats(-1000, 1000, allow_nan=False).map(lambda value: round(value, 3)))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(hospitals=st.lists(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=30), min_size=1, max_size=5))
def test_any_hospitals_merge_to_their_pooled_rows(hospitals: list[list[tuple[float, float]]]) -> None:
    tables = [np.array(rows) for rows in hospitals]
    released = []
    for table in tables:  # columns that are not released are missing in the pool
        table = table.copy()
        table[:, (~np.isnan(table)).sum(axis=0) < MIN_OBSERVED] = NAN
        released.append(table)
    pooled = np.concatenate(released)

    merged = normalisation_from(merge_sums(column_sums(table) for table in tables))

    for i, column in enumerate(pooled.T):
        present = column[~np.isnan(column)]
        if len(present) == 0:
            assert (merged.mean[i], merged.variance[i]) == (0, 1)
            continue
        scale = max(float((present**2).mean()), 1e-12)
        assert merged.mean[i] == pytest.approx(present.mean(), abs=1e-9 * max(1.0, scale**0.5))
        if present.var() > 1e-8 * scale:
            assert merged.variance[i] == pytest.approx(present.var(), abs=1e-9 * scale)
        assert merged.variance[i] > 0


def test_a_column_that_no_hospital_released_is_left_unscaled() -> None:
    assert normalisation_from(sums([0], [0], [0])) == normalisation_from(merge_sums([sums([0], [0], [0])] * 3))
    assert normalisation_from(sums([0], [0], [0])).mean == (0.0,)
    assert normalisation_from(sums([0], [0], [0])).variance == (1.0,)


def test_a_column_that_never_varies_is_left_unscaled() -> None:
    constant = normalisation_from(column_sums(np.full((1000, 2), [0.1, 233.3])))

    np.testing.assert_allclose(constant.mean, [0.1, 233.3])
    assert constant.variance == (1.0, 1.0)


def test_a_small_but_real_variance_is_kept() -> None:
    values = np.array([[100.0], [100.1]] * 10)

    assert normalisation_from(column_sums(values)).variance[0] == pytest.approx(0.0025, rel=1e-6)


@pytest.mark.parametrize(
    ("impossible", "words"),
    [
        (sums([-6], [1], [1]), "expected whole counts and finite sums"),
        (sums([6.5], [6], [9]), "expected whole counts and finite sums"),
        (sums([NAN], [6], [9]), "expected whole counts and finite sums"),
        (sums([6], [math.inf], [9]), "expected whole counts and finite sums"),
        (sums([6], [6], [-math.inf]), "expected whole counts and finite sums"),
        (sums([6], [60], [599]), "expected no negative variance"),  # at least 60 * 60 / 6
        (sums([6], [0], [-1]), "expected no negative variance"),
        (sums([6, 6], [6, 60], [9, 0]), "expected no negative variance"),
    ],
)
def test_impossible_sums_are_rejected(impossible: ColumnSums, words: str) -> None:
    with pytest.raises(RunError, match=words):
        normalisation_from(impossible)
