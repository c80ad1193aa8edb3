"""Gradient inversion: one patient exactly, several by search, and the share of columns recovered."""

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.ml.networks import Network, Weights, initial_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.studies.audit.inversion import (
    Training,
    invert,
    invert_single,
    recovered_share,
    to_columns,
    tolerances,
    typical_patient,
)
from federated_health.studies.audit.observations import Step

Array = npt.NDArray[np.float64]
NAN = float("nan")
ALL_AT_ONCE = np.array([[0]], dtype=np.int32)

TASK = Task(
    name="two-columns",
    columns=(
        Measurement(name="pressure", meaning="", unit="mm Hg", low=0, high=300),
        Category(name="pain", meaning="", codes={1: "a", 2: "b"}),
    ),
    label=Label(name="ill", meaning=""),
)
SCALE = Normalisation(mean=(120.0,), variance=(400.0,))


def test_a_single_patient_of_a_logistic_regression_is_reconstructed_exactly() -> None:
    """One step: kernel and bias move against (p - y) times the features, and (p - y)."""
    features = np.array([[0.3, -1.7, 0.0, 1.0]])
    kernel, bias, rate, penalty = np.array([[0.1], [0.4], [-0.2], [0.9]]), np.array([0.05]), 0.1, 0.01
    pull = 1 / (1 + np.exp(-(features @ kernel + bias))) - 1
    before = {"kernel": kernel, "bias": bias}
    after = {"kernel": kernel - rate * (features.T @ pull + penalty * kernel), "bias": bias - rate * pull[0]}
    step = Step(before, after)
    reconstructed = invert_single(step, Training(order=ALL_AT_ONCE, learning_rate=rate, l2=penalty))
    assert reconstructed == pytest.approx(features)


def test_an_update_without_movement_gives_features_of_zero() -> None:
    weights = initial_weights(HEART_DISEASE, Network(), 1)
    reconstructed = invert_single(Step(weights, weights), Training(order=ALL_AT_ONCE, learning_rate=0.1, l2=0.0))
    assert reconstructed.tolist() == [[0.0] * HEART_DISEASE.feature_width]


def test_features_become_columns_in_their_own_units() -> None:
    features = np.array([[1.5, 0.2, 0.1, 0.7, 0.2], [3.0, 0.9, 0.5, 0.1, 0.6]])
    columns = to_columns(TASK, features, SCALE)
    assert columns[0].tolist() == [150.0, 1.0]
    assert np.isnan(columns[1, 0])
    assert columns[1, 1] == 2.0


def test_tolerance_is_half_a_standard_deviation_of_the_measured_values() -> None:
    patients = np.array([[100.0, 0.0], [140.0, 1.0], [NAN, 2.0]])
    assert tolerances(TASK, patients).tolist() == [10.0, 0.0]
    assert tolerances(TASK, np.array([[NAN, 0.0]])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("guesses", "share"),
    [
        ([[150.0, 2.0], [100.0, 0.0], [NAN, 1.0]], 1.0),  # in another order
        ([[109.9, 0.0], [140.1, 2.0], [NAN, 1.0]], 1.0),  # within 10
        ([[110.1, 0.0], [139.9, 2.0], [NAN, 1.0]], 4 / 6),
        ([[100.0, 1.0], [100.0, 1.0], [100.0, 1.0]], 2 / 6),  # each patient is assigned one guess
        ([[NAN, 0.0], [NAN, 2.0], [130.0, 1.0]], 3 / 6),  # a missing value equals no other
    ],
)
def test_recovered_share_matches_hand_calculation(guesses: list[list[float]], share: float) -> None:
    patients = np.array([[100.0, 0.0], [150.0, 2.0], [NAN, 1.0]])
    assert recovered_share(np.array(guesses), patients, np.array([10.0, 0.0])) == pytest.approx(share)


def test_guesses_are_assigned_optimally_and_not_greedily() -> None:
    """The first guess fits the first patient best, but the second guess fits nobody else."""
    patients = np.array([[100.0, 0.0], [100.0, 1.0]])
    guesses = np.array([[100.0, 0.0], [100.0, 0.0]])
    assert recovered_share(guesses, patients, np.array([10.0, 0.0])) == pytest.approx(3 / 4)


def test_the_typical_patient_has_medians_and_the_most_frequent_codes() -> None:
    patients = np.array([[100.0, 1.0], [150.0, 1.0], [NAN, 2.0], [180.0, 0.0]])
    assert typical_patient(TASK, patients).tolist() == [150.0, 1.0]
    mostly_missing = typical_patient(TASK, np.array([[100.0, 2.0], [NAN, 2.0], [NAN, 0.0]]))
    assert np.isnan(mostly_missing[0])
    assert mostly_missing[1] == 2.0


def trained(features: Array, labels: Array, order: npt.NDArray[np.int32]) -> tuple[Step, Training]:
    from federated_health.ml.keras_models import build_head
    from federated_health.ml.training import LocalTrainer

    before = initial_weights(HEART_DISEASE, Network(), 1)
    after, _ = LocalTrainer(build_head(HEART_DISEASE, Network()), target_of(HEART_DISEASE)).train(
        list(before.values()),
        features.astype(np.float32),
        labels.astype(np.float32),
        order,
        learning_rate=0.05,
        l2=0.003,
    )
    moved: Weights = dict(zip(before, after, strict=True))
    return Step(before, moved), Training(order=order, learning_rate=0.05, l2=0.003)


def some_patients(number: int) -> tuple[Array, Array]:
    """Features of made-up heart patients, and their columns in standard deviations."""
    generator = np.random.default_rng(number)
    features = np.zeros((number, HEART_DISEASE.feature_width))
    for column, place in zip(HEART_DISEASE.columns, HEART_DISEASE.feature_slices, strict=True):
        if isinstance(column, Measurement):
            features[:, place.start] = generator.uniform(-2, 2, number)
        else:
            features[np.arange(number), generator.integers(place.start, place.stop, number)] = 1.0
    return features, generator.integers(0, 2, number).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
def test_patients_of_a_small_update_are_reconstructed(number: int) -> None:
    """After five steps, of which the server knows the order."""
    features, labels = some_patients(number)
    step, training = trained(features, labels, np.tile(np.arange(number, dtype=np.int32), (5, 1)))
    reconstructed = invert(HEART_DISEASE, step, training, number, seed=1)
    scale = Normalisation(*((value,) * len(HEART_DISEASE.measurements) for value in (0.0, 1.0)))
    truth, found = (to_columns(HEART_DISEASE, values, scale) for values in (features, reconstructed))
    within = np.where([isinstance(column, Measurement) for column in HEART_DISEASE.columns], 0.5, 0.0)
    assert recovered_share(found, truth, within) > 0.9


@pytest.mark.slow
def test_another_update_gives_other_patients() -> None:
    """The result comes from the update, and not from the search alone."""
    step, training = trained(*some_patients(1), ALL_AT_ONCE)
    other, _ = trained(*some_patients(2), np.array([[0, 1]], dtype=np.int32))
    patient, others = (invert(HEART_DISEASE, update, training, 1, seed=1) for update in (step, other))
    assert np.abs(patient - others).max() > 0.5
