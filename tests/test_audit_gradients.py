"""Patients' gradients against finite differences and gradients that are written out."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.data.tasks import HEART_DISEASE
from federated_health.ml.networks import initial_weights
from federated_health.studies.audit.gradients import (
    Layers,
    along,
    difference,
    gradients_of,
    kernels_of,
    layers_of,
    product,
    products,
)
from federated_health.studies.audit.membership import losses

Array = npt.NDArray[np.float64]
GENERATOR = np.random.default_rng(1)
FEATURES = GENERATOR.normal(size=(5, HEART_DISEASE.feature_width))
LABELS = np.array([0.0, 1.0, 1.0, 0.0, 1.0])


def layers(model: str, seed: int = 1) -> Layers:
    return layers_of(initial_weights(HEART_DISEASE, model, seed))


def moved(start: Layers, direction: Layers, by: float) -> Layers:
    return [(k + by * dk, b + by * db) for (k, b), (dk, db) in zip(start, direction, strict=True)]


def loss_at(weights: Layers) -> Array:
    return losses(gradients_of(weights, FEATURES, LABELS).log_odds, LABELS)


def flat(direction: Layers) -> Array:
    return np.concatenate([part.ravel() for layer in direction for part in layer])


def unit(like: Layers, place: int) -> Layers:
    """The direction of one weight alone."""
    ends = np.cumsum([0, *(part.size for layer in like for part in layer)])
    line = np.zeros(ends[-1])
    line[place] = 1.0
    parts = iter(line[a:b] for a, b in pairwise(ends))
    return [(next(parts).reshape(kernel.shape), next(parts).reshape(bias.shape)) for kernel, bias in like]


def test_log_odds_of_a_network_by_hand() -> None:
    """relu(1*2 + 1) = 3 and relu(-1*2 + 0) = 0; 3*0.5 + 0*9 - 1 = 0.5."""
    network = [(np.array([[1.0, -1.0]]), np.array([1.0, 0.0])), (np.array([[0.5], [9.0]]), np.array([-1.0]))]
    found = gradients_of(network, np.array([[2.0]]), np.array([1.0]))
    assert found.log_odds.tolist() == [0.5]
    pull = 1 / (1 + np.exp(-0.5)) - 1
    assert found.deltas[1].tolist() == [[pytest.approx(pull)]]
    assert found.deltas[0].tolist() == [[pytest.approx(0.5 * pull), 0.0]]


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_the_product_with_a_direction_is_how_fast_the_loss_changes(model: str) -> None:
    start = layers(model)
    direction = difference(layers(model, 2), start)
    step = 1e-6
    expected = (loss_at(moved(start, direction, step)) - loss_at(moved(start, direction, -step))) / (2 * step)
    assert along(gradients_of(start, FEATURES, LABELS), direction) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_products_are_those_of_gradients_written_out(model: str) -> None:
    start, other = layers(model), layers(model, 3)
    size = flat(start).size
    one, two = (
        np.array([along(gradients_of(at, FEATURES, LABELS), unit(start, place)) for place in range(size)])
        for at in (start, other)
    )
    found = products(gradients_of(start, FEATURES, LABELS), gradients_of(other, FEATURES, LABELS))
    assert found == pytest.approx(one.T @ two)
    assert product(start, other) == pytest.approx(flat(start) @ flat(other))


def test_kernels_alone_are_what_the_penalty_pulls() -> None:
    network = [(np.array([[2.0]]), np.array([3.0]))]
    assert product(kernels_of(network), network) == 4.0
    assert network[0][1].tolist() == [3.0]
