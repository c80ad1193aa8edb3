"""Weights that an active server makes up: they isolate rows of toy patients, and count those above a value."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.data.hospital import Patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.keras_models import build_encoder, encode
from federated_health.ml.networks import Network, Weights, weight_shapes
from federated_health.ml.normalisation import Normalisation, column_sums, normalisation_from
from federated_health.ml.targets.binary import count_outcomes, probability
from federated_health.studies.audit.crafted_weights import (
    CountingServer,
    counting_weights,
    isolated_rows,
    isolating_weights,
)
from federated_health.studies.audit.observations import Step, layers_of, log_odds_of, patient_gradients
from tests.support.cohorts import patients

MLP, LOGISTIC = Network(hidden=(16,)), Network(model="logistic", hidden=())
AGE = HEART_DISEASE.measurements[0]


def rows_of(number: int, seed: int = 1) -> tuple[Patients, Normalisation, npt.NDArray[np.float32]]:
    """Toy patients with whole ages, the normalisation of their measurements, and their features."""
    table = patients(number, seed)
    table["age"] = table["age"].round()
    rows = Patients.from_table(table, HEART_DISEASE)
    positions = list(HEART_DISEASE.measurement_positions)
    normalisation = normalisation_from(column_sums(rows.values[:, positions]))
    return rows, normalisation, encode(build_encoder(HEART_DISEASE, normalisation), HEART_DISEASE, rows.values)


def trained(weights: Weights, features: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> Weights:
    """The weights after a step of gradient descent on the mean loss, without a penalty."""
    arrays = []
    for (kernel, bias), (inputs, errors) in zip(
        layers_of(weights), patient_gradients(layers_of(weights), features, labels), strict=True
    ):
        arrays += [kernel - 0.05 * inputs.T @ errors / len(labels), bias - 0.05 * errors.mean(axis=0)]
    return {name: array.astype(np.float32) for name, array in zip(weights, arrays, strict=True)}


def averaged(parts: list[Weights]) -> Weights:
    return {name: np.mean([part[name] for part in parts], axis=0, dtype=np.float32) for name in parts[0]}


def test_isolated_rows_are_those_of_patients_even_from_the_average_of_hospitals() -> None:
    rows, _, features = rows_of(60)
    weights = isolating_weights(HEART_DISEASE, weight_shapes(HEART_DISEASE, MLP), 60, np.random.default_rng(5))
    updates = [trained(weights, features[part], rows.labels[part]) for part in np.split(np.arange(60), 3)]
    found = isolated_rows(HEART_DISEASE, Step(weights, averaged(updates)), shrinkage=1.0)
    assert len(found) >= 2
    distances = np.abs(found[:, None] - features[None]).max(axis=2)
    assert (distances.min(axis=1) < 0.05).all()
    assert len(set(distances.argmin(axis=1))) == len(found)


def test_rows_are_not_isolated_from_a_noisy_average() -> None:
    """Noise of the size that differential privacy adds is far above what one row moves."""
    rows, _, features = rows_of(60)
    weights = isolating_weights(HEART_DISEASE, weight_shapes(HEART_DISEASE, MLP), 60, np.random.default_rng(5))
    update = trained(weights, features, rows.labels)
    generator = np.random.default_rng(6)
    noisy = {
        name: array + generator.normal(scale=0.05, size=array.shape).astype(np.float32)
        for name, array in update.items()
    }
    assert len(isolated_rows(HEART_DISEASE, Step(weights, noisy), shrinkage=1.0)) == 0


def test_the_l2_penalty_is_taken_into_account() -> None:
    rows, _, features = rows_of(60)
    weights = isolating_weights(HEART_DISEASE, weight_shapes(HEART_DISEASE, MLP), 60, np.random.default_rng(5))
    update = trained(weights, features, rows.labels)
    update["hidden/kernel"] = update["hidden/kernel"] - np.float32(0.01) * weights["hidden/kernel"]
    found = isolated_rows(HEART_DISEASE, Step(weights, update), shrinkage=0.99)
    assert len(found) >= 2
    assert (np.abs(found[:, None] - features[None]).max(axis=2).min(axis=1) < 0.05).all()


@pytest.mark.parametrize("network", [MLP, LOGISTIC, Network(hidden=(8, 4))])
def test_counting_weights_predict_1_above_the_bound_and_0_up_to_it(network: Network) -> None:
    rows, normalisation, features = rows_of(40)
    ages, shapes = rows.values[:, HEART_DISEASE.measurement_positions[0]], weight_shapes(HEART_DISEASE, network)
    for bound in (45.5, 55.5, 60.5):
        weights = counting_weights(HEART_DISEASE, shapes, normalisation, 0, bound)
        risks = probability(log_odds_of(layers_of(weights), features))
        assert ((risks >= 0.5) == (ages > bound)).all()
        assert 0 < (ages > bound).sum() < 40


def asked(ages: list[int], labels: list[int], questions: int, smallest: int = 0) -> Counter[tuple[int, int]]:
    """What a counting server finds out of a hospital that suppresses counts from 1 to below `smallest`."""
    server = CountingServer(AGE, start=54.3)
    for _ in range(questions):
        bound = server.next_bound()
        risks = (np.array(ages) > bound).astype(np.float64)
        counts = count_outcomes(risks, np.array(labels, dtype=np.float32))
        sums = {
            "true_positives": counts.true_positives,
            "false_positives": counts.false_positives,
            "true_negatives": counts.true_negatives,
            "false_negatives": counts.false_negatives,
        }
        server.note(bound, {} if any(0 < count < smallest for count in sums.values()) else sums)
    return server.found()


AGES, LABELS = [41, 44, 44, 58, 63, 63, 71], [0, 0, 1, 1, 0, 1, 1]


def test_thirty_counts_tell_the_ages_and_outcomes_of_seven_patients() -> None:
    assert asked(AGES, LABELS, 30) == Counter(zip(AGES, LABELS, strict=True))


def test_few_counts_tell_some_of_them_and_never_a_wrong_one() -> None:
    found = asked(AGES, LABELS, 20)
    assert 0 < found.total() < 7
    assert found <= Counter(zip(AGES, LABELS, strict=True))


def test_minimum_cells_leave_nothing_to_count() -> None:
    """Of seven patients, 3 and 4 of the outcomes, every count is 0 or below 5."""
    assert asked(AGES, LABELS, 30, smallest=5) == Counter()
