"""Recalibration of log-odds at one hospital, against statsmodels."""

from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm

from federated_health.ml.recalibration import fit_recalibration

EXACT = 1e-6

Vector = npt.NDArray[np.float64]


def draw_patients(rows: int, intercept: float, slope: float) -> tuple[Vector, Vector]:
    """Log-odds of a model and labels whose true log-odds are a line of them."""
    generator = np.random.default_rng(0)
    log_odds = generator.normal(0.3, 1.5, rows)
    labels = generator.random(rows) < 1 / (1 + np.exp(-(intercept + slope * log_odds)))
    return log_odds, labels.astype(np.float64)


def fit(log_odds: Vector, labels: Vector, patients: Any = None) -> Any:
    """The recalibration of rows that are enough for one."""
    found = fit_recalibration(log_odds, labels, patients)
    assert found is not None
    return found


def intervals(model: Any, patients: Any) -> Vector:
    """Coefficients and 95 % intervals of statsmodels, [coefficients, (value, low, high)]."""
    how = {} if patients is None else {"cov_type": "cluster", "cov_kwds": {"groups": patients}}
    result = model.fit(tol=1e-12, **how)
    return np.column_stack([result.params, result.conf_int()])


@pytest.mark.parametrize("patients", [None, np.arange(2000) // 2], ids=["one row per patient", "two rows"])
def test_line_and_intervals_are_those_of_logistic_regression(patients: Any) -> None:
    log_odds, labels = draw_patients(400 if patients is None else len(patients), 0.8, 0.6)
    found = fit(log_odds, labels, patients)
    model = sm.GLM(labels, sm.add_constant(log_odds), family=sm.families.Binomial())
    coefficients = np.array([astuple(found.intercept), astuple(found.slope)])
    np.testing.assert_allclose(coefficients, intervals(model, patients), rtol=0, atol=EXACT)


@pytest.mark.parametrize("patients", [None, np.arange(200) // 2], ids=["one row per patient", "two rows"])
def test_slope_is_held_at_1_where_its_interval_contains_1(patients: Any) -> None:
    log_odds, labels = draw_patients(200, 1.0, 0.9)
    found = fit(log_odds, labels, patients)
    line = sm.GLM(labels, sm.add_constant(log_odds), family=sm.families.Binomial())
    model = sm.GLM(labels, np.ones(200), family=sm.families.Binomial(), offset=log_odds)
    assert intervals(line, patients)[1, 2] > 1
    assert found.slope is None
    np.testing.assert_allclose(astuple(found.intercept), intervals(model, patients)[0], rtol=0, atol=EXACT)
    # At the maximum, the mean risk is the share of positives.
    assert (1 / (1 + np.exp(-found.apply(log_odds)))).mean() == pytest.approx(labels.mean(), abs=1e-9)


def test_correction_of_many_patients_finds_the_true_line() -> None:
    log_odds, labels = draw_patients(40_000, -0.7, 0.6)
    found = fit(log_odds, labels)
    np.testing.assert_allclose(found.apply(np.array([0.0, 1.0])), [-0.7, -0.1], atol=0.06)
    assert found.slope.low < 0.6 < found.slope.high


def test_slope_above_1_is_not_believed_of_training_rows() -> None:
    log_odds, labels = draw_patients(10_000, -0.7, 1.4)
    found = fit(log_odds, labels)
    assert found.slope is None
    assert found.intercept.value == pytest.approx(-0.7, abs=0.2)


def test_too_few_patients_of_a_class_give_nothing() -> None:
    labels = np.repeat([1.0, 0.0], [100, 4])
    assert fit_recalibration(np.linspace(-1, 1, 104), labels) is None
    assert fit_recalibration(np.linspace(-1, 1, 105), np.append(labels, 0.0)) is not None


def test_classes_are_counted_in_patients_not_in_rows() -> None:
    labels = np.repeat([1.0, 0.0], [40, 40])
    four_without = np.concatenate([np.arange(40), 40 + np.arange(40) // 10])
    assert fit_recalibration(np.linspace(-1, 1, 80), labels, four_without) is None


@pytest.mark.parametrize("gap", [0.0, 1e-9, 3.0], ids=["touching", "nearly equal", "far apart"])
def test_separated_classes_give_no_slope(gap: float) -> None:
    labels = np.repeat([0.0, 1.0], [80, 80])
    log_odds = np.linspace(-2, 2, 160) + gap * labels
    for order in (log_odds, -log_odds):
        found = fit(order, labels)
        assert found.slope is None
        assert abs(found.intercept.value) < 5


def test_equal_log_odds_give_no_slope() -> None:
    found = fit(np.full(200, 0.4), np.tile([0.0, 1.0], 100))
    assert found.slope is None
    assert found.intercept.value == pytest.approx(-0.4)


@pytest.mark.parametrize("scale", [1e3, 1e30, np.inf])
def test_extreme_log_odds_give_nothing_rather_than_a_warning(scale: float) -> None:
    labels = np.tile([0.0, 1.0, 1.0], 50)
    with np.errstate(all="raise", under="ignore"):
        assert fit_recalibration(scale * (2 * labels - 1), labels) is None


def test_reversed_ranking_is_not_turned_round() -> None:
    log_odds, labels = draw_patients(1000, 0.0, -1.0)
    assert fit(log_odds, labels).slope is None
