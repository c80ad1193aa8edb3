"""What is encrypted, in plain: what vectors hold, and that sums of them say what all rows together would."""

import numpy as np
import pytest

from federated_health.data.tasks import HEART_DISEASE, TASKS
from federated_health.encryption import vectors
from federated_health.encryption.ckks import SLOTS
from federated_health.encryption.vectors import BINS, FinalSums
from federated_health.errors import EncryptionError
from federated_health.ml.metrics import (
    Counts,
    choose_threshold,
    count_outcomes,
    probability,
    roc_auc,
    roc_auc_from_microaggregates,
)
from federated_health.ml.networks import initial_weights, weight_shapes
from federated_health.ml.normalisation import column_sums, merge_sums, normalisation_from
from federated_health.ml.rounds import HospitalRound

MEASUREMENTS = HEART_DISEASE.measurements
NOISE = 6e-9


def noisy(vector: np.ndarray, seed: int = 0) -> np.ndarray:
    """As it comes out of the cipher."""
    return vector + np.random.default_rng(seed).normal(0, NOISE, len(vector))


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_shares_of_weights_add_up_to_the_weighted_mean(model: str) -> None:
    one, other = (initial_weights(HEART_DISEASE, model, seed) for seed in (1, 2))
    together = vectors.flatten(one, 0.75) + vectors.flatten(other, 0.25)
    read = vectors.unflatten(together, weight_shapes(HEART_DISEASE, model))
    assert list(read) == list(one)
    for name, array in read.items():
        assert array.dtype == np.float32
        assert array == pytest.approx(0.75 * one[name].astype(np.float64) + 0.25 * other[name], abs=1e-7)


def rows_of(seed: int, number: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    low, high = (np.array([getattr(one, end) for one in MEASUREMENTS]) for end in ("low", "high"))
    values = generator.uniform(low, high, (number, len(MEASUREMENTS)))
    values[generator.random(values.shape) < 0.2] = np.nan
    return values


def test_the_normalisation_is_that_of_a_plain_run() -> None:
    parts = [rows_of(1, 300), rows_of(2, 80), rows_of(3, 7)]
    parts[1][:, 2] = np.nan  # a hospital that never measures it
    parts[2][3:, 1] = np.nan  # three rows or fewer: not released
    patients = 600
    summed = np.sum([vectors.write_sums(one, MEASUREMENTS, patients) for one in parts], axis=0)
    read = vectors.read_normalisation(noisy(summed), MEASUREMENTS, patients)
    plain = normalisation_from(merge_sums(column_sums(one) for one in parts))
    assert read.mean == pytest.approx(plain.mean, rel=1e-6)
    assert read.variance == pytest.approx(plain.variance, rel=1e-6)


def test_columns_that_nobody_has_or_that_never_vary_are_left_unscaled() -> None:
    values = rows_of(1, 50)
    values[:, 0], values[:, 1] = np.nan, MEASUREMENTS[1].low
    read = vectors.read_normalisation(noisy(vectors.write_sums(values, MEASUREMENTS, 50)), MEASUREMENTS, 50)
    assert (read.mean[0], read.variance[0]) == (0.0, 1.0)
    assert read.mean[1] == pytest.approx(MEASUREMENTS[1].low, abs=1e-4)
    assert read.variance[1] == 1.0


@pytest.mark.parametrize("spoiled", [np.nan, 1e6, -0.5])
def test_sums_that_no_hospitals_can_have_sent_are_refused_without_a_value(spoiled: float) -> None:
    for place in (0, len(MEASUREMENTS), 2 * len(MEASUREMENTS)):
        sums = vectors.write_sums(np.nan * rows_of(1, 50), MEASUREMENTS, 50)
        sums[place] = spoiled
        with pytest.raises(EncryptionError, match=r"none that hospitals can have sent$"):
            vectors.read_normalisation(sums, MEASUREMENTS, 50)


def test_rounds_lie_side_by_side_and_add_up() -> None:
    counts = Counts(true_positives=5, false_positives=1, true_negatives=3, loss_sum=4.5, squared_error_sum=1.25)
    first = HospitalRound(train_examples=30, train_loss=0.5, counts=counts)
    other = HospitalRound(train_examples=10, train_loss=0.9, counts=counts)
    untrained = HospitalRound(train_examples=0, train_loss=None, counts=counts)
    total = sum(vectors.write_round(1, one, 60) for one in (first, other, untrained))
    total = total + vectors.write_round(2, other, 60)
    assert total.shape == (SLOTS,)
    one = vectors.read_round(1, noisy(total), 60)
    assert one.train_examples == 40
    assert one.train_loss == pytest.approx((30 * 0.5 + 10 * 0.9) / 40)
    assert one.counts is not None
    assert one.counts.matrix == (9, 3, 0, 15)
    assert one.counts.loss_sum == pytest.approx(13.5, abs=1e-5)
    assert vectors.read_round(2, noisy(total), 60).train_examples == 10
    assert vectors.read_round(3, noisy(total), 60).counts is None


def test_a_block_holds_its_rounds_and_the_next_begins_again() -> None:
    one = HospitalRound(train_examples=4, train_loss=1.0, counts=None)
    last, following = (np.flatnonzero(vectors.write_round(number, one, 4)) for number in (256, 257))
    assert vectors.ROUNDS_PER_BLOCK == 256
    assert last.max() == SLOTS - 1
    assert following.max() == vectors.FIGURES_PER_ROUND - 1


@pytest.mark.parametrize("seed", range(20))
def test_figures_from_bins_are_within_what_is_declared_of_the_exact_ones(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.random(231) < 0.55).astype(np.float32)
    log_odds = (generator.normal(0, 2, 231) + 2.2 * labels - 1).astype(np.float32)
    parts = np.array_split(np.arange(231), 4)
    summed = np.sum([vectors.histogram(log_odds[part], labels[part]) for part in parts], axis=0)
    positives, negatives = vectors.read_histogram(noisy(summed / 920) * 920)
    assert positives[:, 0].sum() == labels.sum()
    assert negatives[:, 0].sum() == (1 - labels).sum()
    assert roc_auc_from_microaggregates(positives, negatives) == pytest.approx(roc_auc(log_odds, labels), abs=0.002)
    chosen = choose_threshold(positives, negatives)
    assert chosen is not None
    best = max(count_outcomes(probability(log_odds), labels, at).f1 or 0 for at in probability(np.sort(log_odds)))
    assert (count_outcomes(probability(log_odds), labels, chosen).f1 or 0) > best - 0.01


def test_scores_beyond_all_bins_are_in_the_outermost() -> None:
    scores = np.array([-1e30, -12.0, 11.999, 1e30], dtype=np.float32)
    bins = vectors.histogram(scores, np.array([0, 0, 1, 1], dtype=np.float32))
    assert (bins[BINS - 1], bins[BINS]) == (2, 2)
    assert bins.sum() == 4


def test_final_sums_come_back_added_up() -> None:
    columns = len(HEART_DISEASE.columns)
    counts = Counts(true_positives=5, false_negatives=2, true_negatives=3, loss_sum=4.5, squared_error_sum=1.25)
    one = FinalSums(
        counts=counts,
        roc_auc=0.75,
        with_roc_auc=1,
        importance=np.arange(columns, dtype=np.float64),
        scores=np.eye(1, 2 * BINS, 7)[0] * 10,
    )
    summed = noisy(3 * one.to_vector(900))
    read = FinalSums.from_vector(summed, columns, 900)
    assert len(summed) == FinalSums.length(columns)
    assert read.counts.matrix == (9, 0, 6, 15)
    assert read.roc_auc == pytest.approx(2.25)
    assert read.with_roc_auc == 3
    assert read.importance == pytest.approx(3.0 * np.arange(columns), abs=1e-4)
    assert np.round(read.scores).tolist() == (3 * one.scores).tolist()


@pytest.mark.parametrize("figures", [[-1.0, 0, 0, 0, 0, 0], [np.nan, 0, 0, 0, 0, 0], [1, 0, 0, 0, np.inf, 0]])
def test_counts_that_cannot_be_are_refused(figures: list[float]) -> None:
    with pytest.raises(EncryptionError, match="none that hospitals can have sent"):
        vectors.read_counts(np.array(figures))
    with pytest.raises(EncryptionError, match="none that hospitals can have sent"):
        vectors.read_histogram(np.array([*figures, *np.full(2 * BINS - 6, -1.0)]))


def test_every_task_fits_into_the_vectors() -> None:
    for task in TASKS.values():
        assert FinalSums.length(len(task.columns)) <= SLOTS
