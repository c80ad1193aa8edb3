"""Membership inference: cases by hand, an independent implementation, overfitted and untrained models."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm

from federated_health.ml.verdicts import Interval
from federated_health.studies.audit.membership import (
    AttackStrength,
    confidences,
    largest_roc_auc,
    lira_scores,
    losses,
    measure_attack,
    true_positive_rates,
)

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
ONCE = np.ones((4, 1))


def halves(runs: int, patients: int, seed: int) -> Flags:
    """Every second run has the complement of the one before it."""
    generator = np.random.default_rng(seed)
    first = [generator.permutation(patients) < patients // 2 for _ in range(runs // 2)]
    return np.array([half for members in first for half in (members, ~members)])


def test_losses_and_confidences_use_the_patients_own_label() -> None:
    log_odds, labels = np.array([np.log(3.0), np.log(3.0), -1000.0]), np.array([1.0, 0.0, 1.0])
    assert losses(log_odds, labels) == pytest.approx([-np.log(0.75), -np.log(0.25), 1000.0])
    assert confidences(log_odds, labels) == pytest.approx([np.log(3.0), -np.log(3.0), -1000.0])


# Strength of an attack


def test_a_perfect_attack_has_auc_1_and_finds_all() -> None:
    members = halves(6, 40, 1)
    strength = measure_attack(members.astype(np.float64), members, 1)
    assert strength == AttackStrength(
        roc_auc=Interval(value=1.0, low=1.0, high=1.0),
        one_model=Interval(value=1.0, low=1.0, high=1.0),
        undecided=0.0,
        true_positive_rate=Interval(value=1.0, low=1.0, high=1.0),
        patients=40,
        false_positives=0,
    )


def test_an_attack_with_equal_scores_has_auc_one_half_and_finds_nobody() -> None:
    members = halves(6, 400, 1)
    strength = measure_attack(np.full(members.shape, 0.3), members, 1)
    assert strength.roc_auc == Interval(value=0.5, low=0.5, high=0.5)
    assert strength.true_positive_rate == Interval(value=0.0, low=0.0, high=0.0)
    assert strength.false_positives == 2


def test_the_auc_is_the_mean_over_runs() -> None:
    """Pairs of a member and another: 4 of 4 are right in the first run, and 1 of 4 in the second."""
    members = np.array([[True, True, False, False], [True, False, True, False]])
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 3.0, 4.0, 5.0]])
    assert measure_attack(scores, members, 1).roc_auc.value == pytest.approx((1.0 + 0.25) / 2)


def test_repeated_runs_do_not_narrow_the_interval() -> None:
    """Runs share their patients: three copies of every run hold no more information than one."""
    members = halves(4, 60, 2)
    scores = members + np.random.default_rng(3).normal(size=members.shape)
    interval, repeated = (measure_attack(np.tile(scores, (n, 1)), np.tile(members, (n, 1)), 5).roc_auc for n in (1, 3))
    assert vars(repeated) == pytest.approx(vars(interval))
    assert interval.low is not None
    assert interval.high is not None
    assert 0.05 < interval.high - interval.low < 0.4


def test_more_rows_of_the_same_patients_do_not_narrow_the_interval() -> None:
    members = halves(4, 60, 2)
    scores = members + np.random.default_rng(3).normal(size=members.shape)
    patients = np.repeat(np.arange(60), 3)

    once = measure_attack(scores, members, 5)
    threefold = measure_attack(np.repeat(scores, 3, axis=1), np.repeat(members, 3, axis=1), 5, patients=patients)

    assert threefold.patients == once.patients == 60
    assert vars(threefold.roc_auc) == pytest.approx(vars(once.roc_auc))


def test_the_interval_of_one_model_is_that_of_a_single_run_and_wider_than_that_of_the_mean() -> None:
    members = halves(20, 100, 2)
    scores = 0.35 * members + np.random.default_rng(3).normal(size=members.shape)
    many = measure_attack(scores, members, 5)
    singles = [measure_attack(scores[[run]], members[[run]], 5) for run in range(20)]
    lows, highs = ([getattr(strength.roc_auc, end) for strength in singles] for end in ("low", "high"))
    assert many.one_model.value == many.roc_auc.value
    assert many.one_model.low == pytest.approx(np.mean(lows), abs=0.01)
    assert many.one_model.high == pytest.approx(np.mean(highs), abs=0.01)
    undecided = np.mean([low <= 0.5 <= high for low, high in zip(lows, highs, strict=True)])
    assert many.undecided == pytest.approx(undecided, abs=0.051)  # other draws: one run of 20 may differ
    assert 0.2 < undecided < 0.95
    assert many.roc_auc.low is not None
    assert many.one_model.low is not None
    assert many.one_model.low < 0.5 < many.roc_auc.low


def test_an_attack_without_members_has_no_figure() -> None:
    assert measure_attack(np.zeros((2, 5)), np.zeros((2, 5), dtype=bool), 1).roc_auc == Interval()


def test_intervals_of_an_attack_without_signal_have_nominal_coverage() -> None:
    """95 of 100 intervals contain one half; of 60, at least 52 do with probability 0.997."""
    covered, values = 0, []
    for seed in range(60):
        members = halves(8, 120, seed)
        generator = np.random.default_rng([seed, 1])
        # The statistic depends on the patient, and not on membership.
        statistics = generator.normal(size=120) + generator.normal(size=members.shape)
        auc = measure_attack(lira_scores(statistics, members), members, seed, draws=200).roc_auc
        assert auc.low is not None
        assert auc.high is not None
        covered += auc.low <= 0.5 <= auc.high
        values.append(auc.value)
    assert covered >= 52
    assert np.mean(np.array(values, dtype=np.float64)) == pytest.approx(0.5, abs=0.008)


@pytest.mark.parametrize(
    ("rate", "found"),
    [
        (0.0, 1 / 3),  # above both others
        (0.49, 1 / 3),
        (0.5, 2 / 3),  # above one of two others
        (1.0, 1.0),
    ],
)
def test_true_positive_rate_matches_hand_calculation(rate: float, found: float) -> None:
    scores, members = np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    assert true_positive_rates(scores, members, np.ones((5, 1)), rate).tolist() == [pytest.approx(found)]


def test_patients_of_equal_score_are_found_together_or_not_at_all() -> None:
    scores, members = np.array([2.0, 2.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])
    assert true_positive_rates(scores, members, ONCE, 0.0).tolist() == [0.0]
    assert true_positive_rates(scores, members, ONCE, 0.5).tolist() == [1.0]


def test_a_draw_counts_patients_as_often_as_they_were_drawn() -> None:
    """In the second draw, the first member counts three times and the first non-member does not count."""
    scores, members = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])
    times = np.array([[1.0, 3.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert true_positive_rates(scores, members, times, 0.0).tolist() == [0.5, 1.0]


def test_one_per_cent_of_300_patients_is_3() -> None:
    """The product 0.01 * 300 must not be rounded down to 2."""
    scores = np.concatenate([[10.0], np.arange(300.0, 0.0, -1.0) / 100])
    members = np.concatenate([[1.0], np.zeros(300)])
    scores[0] = scores[3] - 0.005  # below three others
    assert true_positive_rates(scores, members, np.ones((301, 1))).tolist() == [1.0]
    scores[0] = scores[4] - 0.005
    assert true_positive_rates(scores, members, np.ones((301, 1))).tolist() == [0.0]


# LiRA


@pytest.mark.parametrize("runs", [8, 80], ids=["variance of all", "variance of each"])
def test_lira_is_the_likelihood_ratio_of_shadows_with_and_without_the_patient(runs: int) -> None:
    members = halves(runs, 24, 4)
    statistics = members * 0.5 + np.random.default_rng(5).normal(size=members.shape) * np.linspace(1.0, 7.0, 24)
    expected = np.zeros(statistics.shape)
    for target in range(runs):
        complement = target + 1 if target % 2 == 0 else target - 1
        shadows = [run for run in range(runs) if run not in (target, complement)]
        for inside, sign in ((True, 1), (False, -1)):
            groups = [
                [statistics[run, patient] for run in shadows if members[run, patient] == inside]
                for patient in range(24)
            ]
            variances = np.array([np.var(group, ddof=1) for group in groups])
            deviation = np.sqrt(variances.mean() if runs == 8 else variances)
            means = [np.mean(group) for group in groups]
            expected[target] += sign * norm.logpdf(statistics[target], means, deviation)
    assert lira_scores(statistics, members) == pytest.approx(expected)


def test_lira_finds_members_that_a_threshold_does_not() -> None:
    """Patients differ from each other far more than membership changes their statistic."""
    members = halves(20, 200, 6)
    generator = np.random.default_rng(7)
    statistics = generator.normal(size=200) * 50 + members + generator.normal(size=members.shape) * 0.5
    plain, calibrated = (
        measure_attack(scores, members, 1, draws=50).roc_auc
        for scores in (statistics, lira_scores(statistics, members))
    )
    assert plain.value == pytest.approx(0.5, abs=0.05)
    assert calibrated.value is not None
    assert calibrated.value > 0.85


def test_too_few_shadows_are_refused() -> None:
    members = halves(4, 10, 1)
    with pytest.raises(ValueError, match="shadow models"):
        lira_scores(np.zeros(members.shape), members)


# Models


def model_trained_on(features: Array, labels: Array, epochs: int, seed: int) -> Array:
    """Log-odds of all rows after training on the first half of them."""
    from federated_health.data.task_files import HEART_DISEASE
    from federated_health.ml.keras_models import build_head
    from federated_health.ml.networks import Network, initial_weights
    from federated_health.ml.targets import target_of
    from federated_health.ml.training import LocalTrainer, batch_order

    half = len(labels) // 2
    weights = list(initial_weights(HEART_DISEASE, Network(), seed).values())
    trainer = LocalTrainer(build_head(HEART_DISEASE, Network()), target_of(HEART_DISEASE))
    x, y = features.astype(np.float32), labels.astype(np.float32)
    if epochs:
        order = batch_order(seed=seed, hospital="a", round_number=1, rows=half, epochs=epochs, batch_size=0)
        weights, _ = trainer.train(weights, x[:half], y[:half], order, learning_rate=0.3, l2=0.0)
    return trainer.score(weights, x).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [0, 400])
def test_losses_reveal_the_members_of_an_overfitted_model_and_not_of_an_untrained_one(epochs: int) -> None:
    """Of 20 patients whose labels no column explains, a model can only memorise the labels."""
    from federated_health.data.task_files import HEART_DISEASE

    generator = np.random.default_rng(8)
    scores = []
    for seed in range(4):
        features = generator.normal(size=(40, HEART_DISEASE.feature_width))
        labels = np.tile([0.0, 1.0], 20)
        scores.append(-losses(model_trained_on(features, labels, epochs, seed), labels))
    members = np.tile(np.arange(40) < 20, (4, 1))
    auc = measure_attack(np.array(scores), members, 1).roc_auc
    assert auc.low is not None
    assert auc.high is not None
    assert (auc.low > 0.6) == (epochs > 0)
    if not epochs:
        assert auc.low < 0.5 < auc.high


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 0.0), (2.0, 1e-5), (2.0, 0.2), (8.0, 1e-3)])
def test_the_largest_roc_auc_is_the_area_above_the_trade_off_function(epsilon: float, delta: float) -> None:
    """By a numerical integral of the misses that (epsilon, delta) allows at each false-positive rate."""
    rates = (np.arange(200_000) + 0.5) / 200_000
    lines = 1 - delta - np.exp(epsilon) * rates, np.exp(-epsilon) * (1 - delta - rates)
    misses = np.maximum(np.maximum(*lines), 0)
    assert largest_roc_auc(epsilon, delta) == pytest.approx(1 - misses.mean(), abs=1e-4)


def test_without_privacy_loss_no_attack_is_better_than_guessing_and_without_a_bound_any_is_possible() -> None:
    assert largest_roc_auc(0.0, 0.0) == 0.5
    assert largest_roc_auc(1000.0, 0.0) == pytest.approx(1.0)
