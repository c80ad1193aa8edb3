"""Contents of encrypted vectors, here in plain: their sums give the figures of all rows together."""

import numpy as np
import pytest

from federated_health.data.task_files import HEART_DISEASE, TASKS
from federated_health.encryption import vectors
from federated_health.encryption.ckks import SLOTS
from federated_health.encryption.vectors import BINS, FinalSums
from federated_health.errors import EncryptionError
from federated_health.ml.curves import choose_threshold, roc_auc_from_microaggregates
from federated_health.ml.networks import Network, initial_weights, weight_shapes
from federated_health.ml.normalisation import column_sums, merge_sums, normalisation_from
from federated_health.ml.rounds import HospitalRound
from federated_health.ml.scores import roc_auc
from federated_health.ml.targets.binary import Counts, count_outcomes, probability

MEASUREMENTS = HEART_DISEASE.measurements
NOISE = 6e-9


def noisy(vector: np.ndarray, seed: int = 0) -> np.ndarray:
    """A vector with errors as decryption gives them."""
    return vector + np.random.default_rng(seed).normal(0, NOISE, len(vector))


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_shares_of_weights_add_up_to_the_weighted_mean(model: str) -> None:
    first, second = (initial_weights(HEART_DISEASE, Network(model), seed) for seed in (1, 2))
    together = vectors.flatten(first, 0.75) + vectors.flatten(second, 0.25)
    mean = vectors.unflatten(together, weight_shapes(HEART_DISEASE, Network(model)))
    assert list(mean) == list(first)
    for name, array in mean.items():
        assert array.dtype == np.float32
        assert array == pytest.approx(0.75 * first[name].astype(np.float64) + 0.25 * second[name], abs=1e-7)


def rows_of(seed: int, number: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    low, high = (np.array([getattr(column, end) for column in MEASUREMENTS]) for end in ("low", "high"))
    values = generator.uniform(low, high, (number, len(MEASUREMENTS)))
    values[generator.random(values.shape) < 0.2] = np.nan
    return values


def test_the_normalisation_is_that_of_a_plain_run() -> None:
    parts = [rows_of(1, 300), rows_of(2, 80), rows_of(3, 7)]
    parts[1][:, 2] = np.nan  # a hospital that never measures it
    parts[2][3:, 1] = np.nan  # three rows or fewer: not released
    patients = 600
    total = np.sum([vectors.write_sums(rows, MEASUREMENTS, patients) for rows in parts], axis=0)
    normalisation = vectors.read_normalisation(noisy(total), MEASUREMENTS, patients)
    plain = normalisation_from(merge_sums(column_sums(rows) for rows in parts))
    assert normalisation.mean == pytest.approx(plain.mean, rel=1e-6)
    assert normalisation.variance == pytest.approx(plain.variance, rel=1e-6)


def test_unobserved_and_constant_columns_are_left_unscaled() -> None:
    values = rows_of(1, 50)
    values[:, 0], values[:, 1] = np.nan, MEASUREMENTS[1].low
    sums = noisy(vectors.write_sums(values, MEASUREMENTS, 50))
    normalisation = vectors.read_normalisation(sums, MEASUREMENTS, 50)
    assert (normalisation.mean[0], normalisation.variance[0]) == (0.0, 1.0)
    assert normalisation.mean[1] == pytest.approx(MEASUREMENTS[1].low, abs=1e-4)
    assert normalisation.variance[1] == 1.0


@pytest.mark.parametrize("value", [np.nan, 1e6, -0.5])
@pytest.mark.parametrize("position", [0, len(MEASUREMENTS), 2 * len(MEASUREMENTS)])
def test_impossible_sums_are_rejected(value: float, position: int) -> None:
    sums = vectors.write_sums(np.nan * rows_of(1, 50), MEASUREMENTS, 50)
    sums[position] = value
    with pytest.raises(EncryptionError, match="sums of columns are impossible"):
        vectors.read_normalisation(sums, MEASUREMENTS, 50)


def test_rounds_lie_side_by_side_and_add_up() -> None:
    counts = Counts(true_positives=5, false_positives=1, true_negatives=3, loss_sum=4.5, squared_error_sum=1.25)
    first = HospitalRound(train_examples=30, train_loss=0.5, counts=counts)
    other = HospitalRound(train_examples=10, train_loss=0.9, counts=counts)
    untrained = HospitalRound(train_examples=0, train_loss=None, counts=counts)
    total = sum(vectors.write_round(1, figures, 60) for figures in (first, other, untrained))
    total = total + vectors.write_round(2, other, 60)
    assert total.shape == (SLOTS,)
    merged = vectors.read_round(1, noisy(total), 60)
    assert merged.train_examples == 40
    assert merged.train_loss == pytest.approx((30 * 0.5 + 10 * 0.9) / 40)
    assert isinstance(merged.counts, Counts)
    assert merged.counts.matrix == (9, 3, 0, 15)
    assert merged.counts.loss_sum == pytest.approx(13.5, abs=1e-5)
    assert vectors.read_round(2, noisy(total), 60).train_examples == 10
    assert vectors.read_round(3, noisy(total), 60).counts is None


def test_a_block_holds_256_rounds() -> None:
    figures = HospitalRound(train_examples=4, train_loss=1.0, counts=None)
    last, following = (np.flatnonzero(vectors.write_round(number, figures, 4)) for number in (256, 257))
    assert vectors.ROUNDS_PER_BLOCK == 256
    assert last.max() == SLOTS - 1
    assert following.max() == vectors.FIGURES_PER_ROUND - 1


@pytest.mark.parametrize("seed", range(20))
def test_figures_from_bins_are_close_to_the_exact_ones(seed: int) -> None:
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


def test_scores_beyond_all_bins_are_in_the_outermost_bins() -> None:
    scores = np.array([-1e30, -12.0, 11.999, 1e30], dtype=np.float32)
    bins = vectors.histogram(scores, np.array([0, 0, 1, 1], dtype=np.float32))
    assert (bins[BINS - 1], bins[BINS]) == (2, 2)
    assert bins.sum() == 4


def test_final_sums_are_read_as_their_total() -> None:
    columns = len(HEART_DISEASE.columns)
    counts = Counts(true_positives=5, false_negatives=2, true_negatives=3, loss_sum=4.5, squared_error_sum=1.25)
    sums = FinalSums(
        counts=counts,
        roc_auc=0.75,
        with_roc_auc=1,
        importance=np.arange(columns, dtype=np.float64),
        scores=np.eye(1, 2 * BINS, 7)[0] * 10,
    )
    vector = noisy(3 * sums.to_vector(900))
    total = FinalSums.from_vector(vector, columns, 900)
    assert len(vector) == FinalSums.length(columns)
    assert total.counts.matrix == (9, 0, 6, 15)
    assert total.roc_auc == pytest.approx(2.25)
    assert total.with_roc_auc == 3
    assert total.importance == pytest.approx(3.0 * np.arange(columns), abs=1e-4)
    assert np.round(total.scores).tolist() == (3 * sums.scores).tolist()


@pytest.mark.parametrize("figures", [[-1.0, 0, 0, 0, 0, 0], [np.nan, 0, 0, 0, 0, 0], [1, 0, 0, 0, np.inf, 0]])
def test_impossible_counts_and_scores_are_rejected(figures: list[float]) -> None:
    with pytest.raises(EncryptionError, match="sums of counts are impossible"):
        vectors.read_counts(np.array(figures))
    with pytest.raises(EncryptionError, match="sums of scores are impossible"):
        vectors.read_histogram(np.array([*figures, *np.full(2 * BINS - 6, -1.0)]))


def test_every_task_fits_into_the_vectors() -> None:
    for task in TASKS.values():
        assert FinalSums.length(len(task.columns)) <= SLOTS
