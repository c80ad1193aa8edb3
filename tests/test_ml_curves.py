"""ROC curves against scikit-learn; calibration against Newton's method written here, and worked by hand."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from federated_health.ml.bootstrap import Resampled
from federated_health.ml.calibration import Calibration, calibration
from federated_health.ml.curves import GRID_POINTS, calibration_curve, precision_recall_curve, roc_curve
from federated_health.ml.intervals import estimate_roc_auc
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import MIN_CLASS_SIZE

Array = npt.NDArray[np.float64]


def patients(seed: int, number: int, slope: float = 1.0, intercept: float = 0.0) -> tuple[Array, Array]:
    """Log-odds x, and labels that are 1 with log-odds intercept + slope x: the expected calibration."""
    generator = np.random.default_rng(seed)
    log_odds = generator.normal(-0.3, 1.5, number)
    return log_odds, (generator.random(number) < probability(intercept + slope * log_odds)).astype(np.float64)


# ROC curves


@pytest.mark.parametrize("decimals", [0, 1, 9], ids=["many ties", "some ties", "no ties"])
def test_a_curve_is_that_of_scikit_learn(decimals: int) -> None:
    log_odds, labels = patients(1, 120)
    log_odds = log_odds.round(decimals)

    curve = roc_curve(log_odds, Resampled.of(labels, seed=1, draws=10))

    alarms, hits, _ = reference.roc_curve(labels, log_odds, drop_intermediate=False)
    assert len(curve.x) == GRID_POINTS
    assert (curve.x[0], curve.x[-1], curve.y[-1]) == (0.0, 1.0, 1.0)
    between = ~np.isin(curve.x, alarms)
    np.testing.assert_allclose(curve.y[between], np.interp(curve.x[between], alarms, hits), atol=1e-12)
    highest = np.array([hits[alarms <= x + 1e-12].max() for x in curve.x[~between]])
    np.testing.assert_allclose(curve.y[~between], highest, atol=1e-12)


def test_a_curve_worked_by_hand() -> None:
    """From the highest score: a positive, then one of each, then a negative, a positive, and two negatives."""
    scores, labels = np.array([5.0, 4.0, 4.0, 3.0, 2.0, 1.0, 1.0]), np.array([1, 1, 0, 0, 1, 0, 0])

    y = roc_curve(scores, Resampled.of(labels, seed=1, draws=4)).y

    # Corners: (0, 1/3), (1/4, 2/3), (1/2, 2/3), (1/2, 1), (1, 1).
    assert [y[0], y[10], y[25], y[30], y[50], y[100]] == pytest.approx([1 / 3, 1 / 3 + 0.4 / 3, 2 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize("decimals", [0, 9], ids=["ties", "no ties"])
def test_a_precision_recall_curve_has_the_precisions_of_scikit_learn(decimals: int) -> None:
    log_odds, labels = patients(3, 150, intercept=-1.5)
    log_odds = log_odds.round(decimals)

    curve = precision_recall_curve(log_odds, Resampled.of(labels, seed=1, draws=10))

    precisions, recalls, _ = reference.precision_recall_curve(labels, log_odds)
    for recall, precision in zip(curve.x[1:], curve.y[1:], strict=True):
        highest = np.flatnonzero(recalls[:-1] >= recall - 1e-9)[-1]  # the thresholds rise
        assert precision == pytest.approx(precisions[highest])
    assert curve.y[0] == curve.y[1]
    assert curve.low is not None
    assert (curve.low <= curve.y + 0.2).all()


def test_the_area_under_a_curve_is_the_auc() -> None:
    log_odds, labels = patients(2, 800)

    curve = roc_curve(log_odds, Resampled.of(labels, seed=1, draws=10))

    assert np.trapezoid(curve.y, curve.x) == pytest.approx(reference.roc_auc_score(labels, log_odds), abs=0.005)


def test_repeats_give_the_mean_curve() -> None:
    (first, labels), second = patients(3, 80), np.random.default_rng(0).normal(size=80)
    resampled = Resampled.of(labels, seed=1, draws=30)

    mean, *curves = (roc_curve(scores, resampled) for scores in (np.stack([first, second]), first, second))

    np.testing.assert_allclose(mean.y, (curves[0].y + curves[1].y) / 2, atol=1e-12)


def test_a_curve_of_folds_is_their_mean_weighted_by_pairs() -> None:
    """Fold 0 has 1 pair, in order; fold 1 has 2 pairs, of which one is in order: 1 at all rates, and 0 up to 1/2."""
    labels = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    scores, folds = np.array([-8.0, -9.0, 5.0, 6.0, 4.0]), np.array([0, 0, 1, 1, 1])
    resampled = Resampled.of(labels, seed=1, draws=20)

    curve = roc_curve(scores, resampled, folds)

    assert curve.y[[0, 49, 50, 100]] == pytest.approx([1 / 3, 1 / 3, 1.0, 1.0])


def test_the_area_under_a_curve_of_folds_is_the_auc_of_pairs_within_folds() -> None:
    generator = np.random.default_rng(3)
    labels = (np.arange(300) % 3 == 0).astype(np.float64)
    folds = np.stack([generator.permutation(300) % 5 for _ in range(2)])
    scores = generator.normal(labels + 3.0 * folds, 1.0)  # each fold has its own scale

    curve = roc_curve(scores, Resampled.of(labels, seed=1, draws=40), folds)

    expected, joint = (
        estimate_roc_auc(scores, labels, None, folds).value,
        roc_curve(scores, Resampled.of(labels, 1, 40)),
    )
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(expected, abs=0.005)
    assert float(np.trapezoid(joint.y, joint.x)) != pytest.approx(expected, abs=0.05)
    assert curve.low is not None
    assert curve.high is not None
    assert (curve.low <= curve.y + 1e-12).mean() > 0.95
    assert (curve.high >= curve.y - 1e-12).mean() > 0.95


def test_a_draw_without_a_pair_within_a_fold_is_left_out_of_the_band() -> None:
    labels, folds = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 1, 2])
    curve = roc_curve(np.array([2.0, 1.0, 0.0, 0.0]), Resampled.of(labels, seed=1, draws=100), folds)
    assert curve.low is not None
    assert curve.low.tolist() == curve.y.tolist() == [1.0] * len(curve.x)


def test_a_band_and_an_interval_use_the_same_draws() -> None:
    """Each draw's curve by scikit-learn, with the draw as weights."""
    log_odds, labels = patients(4, 60)
    resampled = Resampled.of(labels, seed=1, draws=80)

    curve = roc_curve(log_odds, resampled)

    assert curve.low is not None
    assert curve.high is not None
    assert (curve.low <= curve.y).all()
    assert (curve.y <= curve.high).all()
    inside = 37  # no multiple of a patient, so that no curve rises straight up there
    rates = []
    for draw in resampled.times.T:
        held = draw > 0  # scikit-learn's corners of no weight would change nothing but their number
        alarms, hits, _ = reference.roc_curve(labels[held], log_odds[held], sample_weight=draw[held])
        rates.append(np.interp(curve.x[inside], alarms, hits))
    expected = np.quantile(rates, [0.025, 0.975])
    assert (curve.low[inside], curve.high[inside]) == pytest.approx(tuple(expected), abs=1e-9)


# Calibration slope and intercept


def fit_by_newton(log_odds: Array, labels: Array) -> tuple[float, float]:
    """Slope, and intercept with the slope held at 1, of logistic regressions without penalty."""
    both, shift = np.zeros(2), 0.0
    design = np.column_stack([np.ones_like(log_odds), log_odds])
    for _ in range(60):
        risk = 1 / (1 + np.exp(-design @ both))
        information = design.T @ (design * (risk * (1 - risk))[:, None])
        both = both + np.linalg.solve(information, design.T @ (labels - risk))
        risk = 1 / (1 + np.exp(-(shift + log_odds)))
        shift += float((labels - risk).sum() / (risk * (1 - risk)).sum())
    return float(both[1]), shift


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [30, 400])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_slope_and_intercept_are_those_of_an_independent_fit(seed: int, number: int, scale: float) -> None:
    log_odds, labels = patients(seed, number, slope=0.8, intercept=0.4)

    result = calibration(log_odds * scale, labels)

    slope, intercept = fit_by_newton(log_odds * scale, labels)
    assert result.intercept == pytest.approx(intercept, abs=1e-8)
    assert result.slope == (pytest.approx(slope, rel=1e-6) if slope < 100 else None)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.0), (1.0, 0.7), (1.0, -1.2)])
def test_calibration_recovers_known_slope_and_intercept(slope: float, intercept: float) -> None:
    log_odds, labels = patients(7, 40_000, slope=slope, intercept=intercept)

    result = calibration(log_odds, labels)

    assert result.slope == pytest.approx(slope, abs=0.06)  # its deviation is about 0.015 to 0.03
    if slope == 1.0:
        assert result.intercept == pytest.approx(intercept, abs=0.05)


def test_a_patient_who_stands_for_several_counts_as_often() -> None:
    log_odds, labels = patients(11, 60)
    times = np.random.default_rng(12).integers(1, 5, 60)

    weighted = calibration(log_odds, labels, times.astype(np.float64))

    repeated = calibration(np.repeat(log_odds, times), np.repeat(labels, times))
    assert (weighted.slope, weighted.intercept) == pytest.approx((repeated.slope, repeated.intercept))


def test_doubled_log_odds_have_half_the_slope() -> None:
    log_odds, labels = patients(8, 300)

    once, twice = calibration(log_odds, labels).slope, calibration(2 * log_odds, labels).slope

    assert once is not None
    assert twice == pytest.approx(once / 2)


def test_shifted_log_odds_keep_their_slope_and_shift_the_intercept_back() -> None:
    log_odds, labels = patients(9, 300)

    original, shifted = calibration(log_odds, labels), calibration(log_odds + 1.5, labels)

    assert shifted.slope == pytest.approx(original.slope)
    assert original.intercept is not None
    assert shifted.intercept == pytest.approx(original.intercept - 1.5)


def test_one_risk_for_all_has_an_intercept_and_no_slope() -> None:
    """A share of 10 in 40 is a log-odds of log(1/3)."""
    labels = np.repeat([1.0, 0.0], [10, 30])

    result = calibration(np.full(40, 0.1), labels)  # 40 of them do not quite add up to 4

    assert result.slope is None
    assert result.intercept == pytest.approx(np.log(1 / 3) - 0.1)


def test_two_nearly_equal_risks_have_the_slope_of_their_groups() -> None:
    """Shares of 8 in 20 and 12 in 20 are log-odds of -0.4055 and 0.4055."""
    log_odds = np.repeat([-0.30, -0.28], 20)
    labels = np.concatenate([np.arange(20) < 8, np.arange(20) < 12]).astype(np.float64)
    even = np.tile(labels[:20], 2)

    assert calibration(log_odds, labels).slope == pytest.approx(2 * np.log(1.5) / 0.02)
    assert calibration(log_odds, even).slope == pytest.approx(0.0, abs=1e-6)
    assert calibration(np.repeat([-0.3, np.nextafter(-0.3, 0)], 20), even).intercept is not None


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("gap", [0.0, 0.5], ids=["they touch", "they do not"])
def test_scores_that_separate_the_classes_have_no_slope(sign: float, gap: float) -> None:
    high, low = np.linspace(gap, 2, 10), np.linspace(-1, 0, 12)

    result = calibration(sign * np.concatenate([high, low]), np.repeat([1.0, 0.0], [10, 12]))

    assert result.slope is None
    assert result.intercept is not None


@pytest.mark.parametrize("fewer", [0, 1, MIN_CLASS_SIZE - 1, MIN_CLASS_SIZE])
@pytest.mark.parametrize("rare", [0.0, 1.0])
def test_calibration_needs_five_patients_of_each_class(fewer: int, rare: float) -> None:
    labels = np.concatenate([np.full(fewer, rare), np.full(30, 1 - rare)])
    log_odds = np.random.default_rng(0).normal(size=len(labels))

    result = calibration(log_odds, labels)

    assert (result == Calibration()) is (fewer < 5)


@pytest.mark.parametrize("extreme", [300.0, -300.0])
def test_extreme_log_odds_do_not_break_the_fit(extreme: float) -> None:
    log_odds, labels = patients(10, 50)
    log_odds[np.flatnonzero(labels == 1)[0]] = extreme

    result = calibration(log_odds, labels)

    assert result.intercept is not None
    assert result.slope is not None


# Calibration curves


def test_bins_worked_by_hand() -> None:
    """50 patients are two bins of 25 (at least 20 each): risks 0.00 to 0.24, and 0.25 to 0.49."""
    risk = np.arange(50) / 100
    positive = (np.arange(50) % 5 == 0).astype(np.float64)
    positive[25:] = 1.0

    curve = calibration_curve(risk[::-1], positive[::-1])

    assert curve.patients.tolist() == [25.0, 25.0]
    assert curve.predicted == pytest.approx([0.12, 0.37])
    assert curve.observed == pytest.approx([0.2, 1.0])
    # Wilson's interval of 5 in 25: (p + z2/2n -+ z sqrt(p (1 - p)/n + z2/4n2)) / (1 + z2/n), with z2 = 3.841459.
    middle, half, whole = 0.2 + 0.0768292, 1.959964 * np.sqrt(0.0064 + 0.00153658), 1.15365836
    assert (curve.low[0], curve.high[0]) == pytest.approx(((middle - half) / whole, (middle + half) / whole), abs=1e-6)
    assert (curve.low[1], curve.high[1]) == pytest.approx((25 / (25 + 3.841459), 1.0))


def test_weights_worked_by_hand() -> None:
    """40 patients known by 4 points are two bins: 10 + 10 below, 15 + 5 above."""
    curve = calibration_curve(
        np.array([0.9, 0.1, 0.3, 0.5]), np.array([1.0, 0.0, 1.0, 0.0]), np.array([5.0, 10.0, 10.0, 15.0])
    )

    assert curve.patients.tolist() == [20.0, 20.0]
    assert curve.predicted == pytest.approx([0.2, (0.5 * 15 + 0.9 * 5) / 20])
    assert curve.observed == pytest.approx([0.5, 0.25])


def test_a_group_of_equal_risk_is_in_the_bin_of_its_middle() -> None:
    """The 16th to the 30th of 40 patients, whose middle is beyond the half."""
    curve = calibration_curve(np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, 0.0]), np.array([15.0, 15.0, 10.0]))

    assert curve.patients.tolist() == [15.0, 25.0]


@pytest.mark.parametrize(("number", "bins"), [(1, 1), (39, 1), (40, 2), (199, 9), (200, 10), (5000, 10)])
def test_bins_hold_at_least_twenty_patients_and_are_at_most_ten(number: int, bins: int) -> None:
    curve = calibration_curve(np.random.default_rng(0).random(number), np.ones(number))

    assert len(curve.patients) == bins
    assert curve.patients.sum() == number
    assert np.ptp(curve.patients) <= 1
    assert (np.diff(curve.predicted) > 0).all()


@pytest.mark.parametrize("backwards", [False, True])
def test_patients_of_equal_risk_share_a_bin_in_any_order(backwards: bool) -> None:
    """In a file sorted by label, three bins of one predicted risk would seem to rise."""
    risk, positive = np.full(60, 0.4), np.repeat([0.0, 1.0], [40, 20])

    curve = calibration_curve(risk, positive[::-1] if backwards else positive)

    assert curve.patients.tolist() == [60.0]
    assert curve.observed == pytest.approx([1 / 3])


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0]), st.floats(0.01, 30)), min_size=1, max_size=80).map(
        lambda rows: np.array(rows).T
    )
)
def test_bins_hold_every_patient_and_intervals_contain_the_share(rows: Array) -> None:
    risk, positive, weights = rows

    curve = calibration_curve(risk, positive, weights)

    assert curve.patients.sum() == pytest.approx(weights.sum())
    assert (curve.patients * curve.predicted).sum() == pytest.approx((weights * risk).sum())
    assert (curve.patients * curve.observed).sum() == pytest.approx((weights * positive).sum())
    assert (curve.low >= 0).all()
    assert (curve.low <= curve.observed).all()  # a picture draws the distances, which must not be negative
    assert (curve.observed <= curve.high).all()
    assert (curve.high <= 1).all()
