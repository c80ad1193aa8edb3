"""Private training against an implementation in NumPy that goes patient by patient; samples and noise are given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.tasks import Task
from federated_health.ml.backend import load_tensorflow
from federated_health.ml.networks import Network, initial_weights, weight_shapes
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.names import MODELS

Exact = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]

TINY = Task(
    name="tiny",
    columns=(
        Measurement(name="age", meaning="age", unit="years", low=0, high=120),
        Category(name="sex", meaning="sex", codes={0: "female", 1: "male"}),
    ),
    label=Label(name="ill", meaning="is ill"),
)  # five features

pytestmark = pytest.mark.slow  # compiles


@dataclass(frozen=True)
class Recipe:
    """Settings of private steps without the limits of a `PrivacyPlan`."""

    clip: float
    sampling_rate: float
    learning_rate: float
    steps: int = 1
    noise_multiplier: float = 1.0


Train = Callable[..., list[Array]]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Train:
    """Private training with known samples and noise."""
    load_tensorflow()
    from federated_health.privacy import training

    def with_draws(
        model: str,
        weights: list[Array],
        features: Array,
        labels: Array,
        sampled: npt.NDArray[np.bool_],
        noise: list[Exact],
        recipe: Recipe,
        patients: npt.NDArray[np.intp] | None = None,
        **penalties: float,
    ) -> list[Array]:
        drawn = iter(noise)
        monkeypatch.setattr(training, "poisson_sample", lambda *_: sampled)
        monkeypatch.setattr(training, "gaussian_noise", lambda *_: next(drawn))
        named = dict(zip(weight_shapes(TINY, Network(model)), weights, strict=True))
        plan = cast(PrivacyPlan, recipe)
        numbers = np.arange(len(labels)) if patients is None else patients
        trained = training.train_privately(
            TINY, Network(model), named, features, labels, numbers, plan, **{"l2": 0.0, **penalties}
        )
        return list(trained.values())

    return with_draws


# An independent implementation: patient by patient, in float64


def gradient_of(weights: list[Exact], patient: Exact, label: float) -> list[Exact]:
    """Gradient of one patient's cross-entropy, by hand."""
    hidden = patient if len(weights) == 2 else np.maximum(patient @ weights[0] + weights[1], 0)
    error = float(expit((hidden @ weights[-2] + weights[-1])[0])) - label
    last = [np.outer(hidden, [error]), np.array([error])]
    if len(weights) == 2:
        return last
    back = (weights[2][:, 0] * error) * (hidden > 0)
    return [np.outer(patient, back), back, *last]


def length(parts: Iterable[Exact]) -> float:
    """L2 norm over all of them."""
    return float(np.sqrt(sum((part**2).sum() for part in parts)))


def descend(
    weights: list[Array],
    features: Array,
    labels: Array,
    sampled: npt.NDArray[np.bool_],
    noise: list[Exact],
    recipe: Recipe,
    l2: float,
    proximal_mu: float,
) -> list[Exact]:
    start = [array.astype(np.float64) for array in weights]
    now = list(start)
    for step, chosen in enumerate(sampled):
        sums = [np.zeros_like(array) for array in now]
        for patient in np.flatnonzero(chosen):
            gradient = gradient_of(now, features[patient].astype(np.float64), float(labels[patient]))
            factor = min(1.0, recipe.clip / length(gradient))
            sums = [total + factor * part for total, part in zip(sums, gradient, strict=True)]
        moved = []
        for array, old, total, drawn in zip(now, start, sums, noise, strict=True):
            slope = (total + drawn[step]) / (recipe.sampling_rate * len(labels)) + proximal_mu * (array - old)
            moved.append(array - recipe.learning_rate * (slope + (l2 * array if array.ndim > 1 else 0)))
        now = moved
    return now


def case(model: str, rows: int, steps: int, seed: int = 1) -> tuple[list[Array], Array, Array, npt.NDArray[np.bool_]]:
    generator = np.random.default_rng(seed)
    weights = list(initial_weights(TINY, Network(model), seed).values())
    features = generator.normal(size=(rows, TINY.feature_width)).astype(np.float32) * 3
    labels = (generator.random(rows) < 0.5).astype(np.float32)
    return weights, features, labels, generator.random((steps, rows)) < 0.5


def silence(weights: list[Array], steps: int) -> list[Exact]:
    return [np.zeros((steps, *array.shape)) for array in weights]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (7, 3), (64, 1), (65, 2), (700, 2)])  # 700 rows are two blocks
@pytest.mark.parametrize(("l2", "proximal_mu"), [(0.0, 0.0), (0.1, 0.3)])
def test_steps_are_those_of_numpy(
    train: Train, model: str, rows: int, steps: int, l2: float, proximal_mu: float
) -> None:
    weights, features, labels, sampled = case(model, rows, steps)
    generator = np.random.default_rng(2)
    noise = [generator.normal(0, 0.2, (steps, *array.shape)) for array in weights]
    recipe = Recipe(clip=0.4, sampling_rate=0.5, learning_rate=0.5, steps=steps)

    trained = train(model, weights, features, labels, sampled, noise, recipe, l2=l2, proximal_mu=proximal_mu)

    expected = descend(weights, features, labels, sampled, noise, recipe, l2, proximal_mu)
    for array, wanted in zip(trained, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("patient", range(3))
def test_no_patient_moves_a_sum_by_more_than_the_clipping_norm(train: Train, model: str, patient: int) -> None:
    weights, features, labels, _ = case(model, 3, 1)
    features[0] *= 1e4  # far beyond what is plausible
    features[2] *= 1e-3
    everybody = np.ones((1, 3), dtype=np.bool_)
    others = everybody.copy()
    others[0, patient] = False
    recipe = Recipe(clip=0.25, sampling_rate=1 / 3, learning_rate=1.0)

    with_patient, without = (
        train(model, weights, features, labels, sample, silence(weights, 1), recipe) for sample in (everybody, others)
    )

    parts = gradient_of([array.astype(np.float64) for array in weights], features[patient], labels[patient])
    moved = length(array.astype(np.float64) - other for array, other in zip(with_patient, without, strict=True))
    assert moved == pytest.approx(min(0.25, length(parts)), rel=1e-3)


def test_a_gradient_that_is_not_finite_is_dropped(train: Train) -> None:
    weights, features, labels, _ = case("mlp", 5, 1)
    features[2] = np.inf
    everybody, others = np.ones((1, 5), dtype=np.bool_), np.array([[True, True, False, True, True]])
    recipe = Recipe(clip=0.25, sampling_rate=0.5, learning_rate=1.0)

    trained, expected = (
        train("mlp", weights, features, labels, sample, silence(weights, 1), recipe) for sample in (everybody, others)
    )

    assert [array.tobytes() for array in trained] == [array.tobytes() for array in expected]


def test_a_step_without_patients_adds_noise_only(train: Train) -> None:
    weights, features, labels, _ = case("logistic", 4, 1)
    noise = [np.full((1, *array.shape), 0.6) for array in weights]
    nobody = np.zeros((1, 4), dtype=np.bool_)

    recipe = Recipe(clip=1.0, sampling_rate=0.5, learning_rate=0.5)

    trained = train("logistic", weights, features, labels, nobody, noise, recipe)

    for array, before in zip(trained, weights, strict=True):
        np.testing.assert_allclose(array, before - 0.15, atol=1e-6)  # 0.5 * 0.6 / 2


def test_the_divisor_does_not_depend_on_the_sample(train: Train) -> None:
    weights, features, labels, _ = case("logistic", 2, 1)
    features[1], labels[1] = features[0], labels[0]
    moves = []
    for sample in ([[True, False]], [[True, True]]):
        recipe = Recipe(clip=0.1, sampling_rate=0.5, learning_rate=1.0)
        kernel, _ = train("logistic", weights, features, labels, np.array(sample), silence(weights, 1), recipe)
        moves.append(kernel - weights[0])

    np.testing.assert_allclose(moves[1], 2 * moves[0], atol=1e-6)


def test_a_gradient_whose_squares_underflow_in_float32_is_clipped(train: Train) -> None:
    """Otherwise a server could ask for a tiny clip, and so for tiny noise, and see unclipped sums."""
    _, features, _, _ = case("logistic", 4, 1)
    weights = [np.zeros((features.shape[1], 1), np.float32), np.array([-50.0], np.float32)]
    everybody = np.ones((1, 4), dtype=np.bool_)
    recipe = Recipe(clip=1e-30, sampling_rate=0.25, learning_rate=1e22)

    labels = np.zeros(4, np.float32)
    kernel, _ = train("logistic", weights, features, labels, everybody, silence(weights, 1), recipe)

    assert 0 < np.abs(kernel).max() < 4 * 1e-30 * 1e22 * (1 + 1e-5)


def test_noise_is_added_before_anything_is_rounded(train: Train) -> None:
    """Otherwise the last bits of a sum that nearly cancels reveal its size without noise."""
    weights = [np.zeros((TINY.feature_width, 1), np.float32), np.zeros(1, np.float32)]
    features, labels = np.zeros((1, TINY.feature_width), np.float32), np.zeros(1, np.float32)
    features[0, 0] = 3.0  # the gradient is 1.5 there, 0.5 of the bias, and clipped to the norm 1
    clipped, left = 1.5 / np.sqrt(2.5), 1e-6 / 3
    noise = [np.zeros((1, *array.shape)) for array in weights]
    noise[0][0, 0, 0] = left - clipped

    recipe = Recipe(clip=1.0, sampling_rate=1.0, learning_rate=1.0)
    kernel, _ = train("logistic", weights, features, labels, np.array([[True]]), noise, recipe)

    assert kernel[0, 0] == pytest.approx(-left, rel=1e-7)


# Several rows of one patient


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", [30, 1400])  # 1400 rows are of 700 patients, in two blocks
def test_the_gradients_of_a_patient_s_rows_are_added_up_and_then_clipped(train: Train, model: str, rows: int) -> None:
    weights, features, labels, _ = case(model, rows, 1)
    generator = np.random.default_rng(4)
    number = rows // 2
    patients = generator.permutation(np.concatenate([np.arange(number), generator.integers(0, number, rows - number)]))
    sampled = generator.random((1, number)) < 0.5
    recipe = Recipe(clip=0.6, sampling_rate=0.5, learning_rate=1.0)

    trained = train(model, weights, features, labels, sampled, silence(weights, 1), recipe, patients)

    exact = [array.astype(np.float64) for array in weights]
    total = [np.zeros_like(array) for array in exact]
    for patient in np.flatnonzero(sampled[0]):
        of_rows = [gradient_of(exact, features[row], labels[row]) for row in np.flatnonzero(patients == patient)]
        gradient = [sum(parts) for parts in zip(*of_rows, strict=True)]
        factor = min(1.0, recipe.clip / length(gradient))
        total = [old + factor * new for old, new in zip(total, gradient, strict=True)]
    for array, before, added in zip(trained, exact, total, strict=True):
        np.testing.assert_allclose(array, before - added / (0.5 * number), rtol=0, atol=2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_patient_with_three_rows_moves_a_sum_by_at_most_the_clipping_norm(train: Train, model: str) -> None:
    weights, features, labels, _ = case(model, 6, 1)
    features *= 100
    patients = np.array([0, 1, 0, 2, 0, 3])
    everybody = np.ones((1, 4), dtype=np.bool_)
    others = np.array([[False, True, True, True]])
    recipe = Recipe(clip=0.25, sampling_rate=1 / 4, learning_rate=1.0)

    with_patient, without = (
        train(model, weights, features, labels, sample, silence(weights, 1), recipe, patients)
        for sample in (everybody, others)
    )

    moved = length(array.astype(np.float64) - other for array, other in zip(with_patient, without, strict=True))
    assert moved == pytest.approx(0.25, rel=1e-3)


def test_a_patient_whose_gradient_is_not_finite_changes_no_other_patient_s(train: Train) -> None:
    """A server could choose weights under which one patient's outputs overflow, and see what all others lose by it."""
    weights, features, labels, _ = case("mlp", 6, 1)
    weights[0][0] = 3e38
    features[:, 0] = [10.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    patients = np.array([0, 1, 1, 2, 2, 2])  # three rows are absent: two of patient 1, one of patient 2
    everybody, others = np.ones((1, 3), dtype=np.bool_), np.array([[False, True, True]])
    recipe = Recipe(clip=0.25, sampling_rate=0.5, learning_rate=1.0)

    trained, expected = (
        train("mlp", weights, features, labels, sample, silence(weights, 1), recipe, patients)
        for sample in (everybody, others)
    )

    assert [array.tobytes() for array in trained] == [array.tobytes() for array in expected]
    total = clipped_sum([array.astype(np.float64) for array in weights], features[1:], labels[1:], patients[1:], 0.25)
    np.testing.assert_allclose(trained[2], weights[2] - total[2] / (0.5 * 3), rtol=0, atol=2e-5)


def test_patients_are_sampled_and_not_rows(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, features, labels, _ = case("logistic", 6, 1)
    from federated_health.privacy import training

    drawn = []
    recipe = Recipe(clip=0.25, sampling_rate=0.5, learning_rate=1.0)
    patients = np.array([0, 0, 0, 1, 1, 1])
    train("logistic", weights, features, labels, np.ones((1, 2), np.bool_), silence(weights, 1), recipe, patients)

    def sample(number: int, *_: float) -> npt.NDArray[np.bool_]:
        drawn.append(number)
        return np.ones((1, number), np.bool_)

    monkeypatch.setattr(training, "poisson_sample", sample)
    monkeypatch.setattr(training, "gaussian_noise", lambda _, shape: np.zeros(shape))
    named = dict(zip(weight_shapes(TINY, Network("logistic")), weights, strict=True))
    plan = cast(PrivacyPlan, recipe)
    training.train_privately(TINY, Network("logistic"), named, features, labels, patients, plan, l2=0.0)
    assert drawn == [2]


# Patients with many rows


def visits(seed: int) -> npt.NDArray[np.intp]:
    """Patients of 230 rows in random order: one has 40, one 17, one 16, one 5, others 1 to 4."""
    numbers = [40, 17, 16, 5, *np.random.default_rng(seed).integers(1, 5, 200)]
    patients = np.repeat(np.arange(len(numbers)), numbers)[:230]
    return np.random.default_rng(seed).permutation(patients).astype(np.intp)


def clipped_sum(
    weights: list[Exact], features: Array, labels: Array, patients: npt.NDArray[np.intp], clip: float
) -> list[Exact]:
    """Sum of every patient's clipped gradient."""
    total = [np.zeros_like(array) for array in weights]
    for patient in np.unique(patients):
        rows = np.flatnonzero(patients == patient)
        parts = zip(*(gradient_of(weights, features[row], labels[row]) for row in rows), strict=True)
        gradient = [np.sum(part, axis=0) for part in parts]
        factor = min(1.0, clip / length(gradient))
        total = [old + factor * new for old, new in zip(total, gradient, strict=True)]
    return total


@pytest.mark.parametrize("model", MODELS)
def test_patients_with_1_to_40_rows_are_clipped_as_one_each(train: Train, model: str) -> None:
    weights, features, labels, _ = case(model, 230, 1)
    patients = visits(5)
    number = int(patients.max()) + 1
    recipe = Recipe(clip=0.6, sampling_rate=0.5, learning_rate=1.0)

    everybody = np.ones((1, number), np.bool_)
    trained = train(model, weights, features, labels, everybody, silence(weights, 1), recipe, patients)

    exact = [array.astype(np.float64) for array in weights]
    total = clipped_sum(exact, features.astype(np.float64), labels, patients, 0.6)
    for array, before, added in zip(trained, exact, total, strict=True):
        np.testing.assert_allclose(array, before - added / (0.5 * number), rtol=0, atol=2e-5)


@pytest.mark.parametrize("patient", [0, 1, 2, 3, -1])  # of 40, 17, 16, 5 and few rows
@pytest.mark.parametrize("scale", [0.01, 100])
def test_a_patient_with_40_rows_changes_a_sum_no_more_than_one_with_few(
    train: Train, patient: int, scale: float
) -> None:
    weights, features, labels, _ = case("mlp", 230, 1)
    features *= scale
    patients = visits(6)
    number = int(patients.max()) + 1
    everybody = np.ones((1, number), np.bool_)
    others = everybody.copy()
    others[0, patient] = False
    recipe = Recipe(clip=0.25, sampling_rate=1 / number, learning_rate=1.0)

    sums = [
        train("mlp", weights, features, labels, sample, silence(weights, 1), recipe, patients)
        for sample in (everybody, others)
    ]

    moved = length(array.astype(np.float64) - other for array, other in zip(*sums, strict=True))
    rows = patients == (patient % number)
    alone = clipped_sum(
        [array.astype(np.float64) for array in weights], features[rows], labels[rows], patients[rows], 1e9
    )
    assert moved == pytest.approx(min(0.25, length(alone)), rel=2e-3)
    assert moved <= 0.25 * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_in_one_group_with_its_patient(seed: int) -> None:
    load_tensorflow()
    from federated_health.privacy.training import group_patients

    patients = visits(seed)
    groups = group_patients(patients)

    assert [rows.shape[1] for _, rows in groups] == [1, 4, 16, 64]
    members = np.concatenate([members for members, _ in groups])
    assert sorted(members) == list(range(patients.max() + 1))
    for of_group, rows in groups:
        for patient, own in zip(of_group, rows, strict=True):
            assert sorted(own[own >= 0]) == list(np.flatnonzero(patients == patient))


def test_a_step_s_blocks_hold_its_sample_and_nobody_else() -> None:
    load_tensorflow()
    from federated_health.privacy.training import BLOCK, arrange_sample

    generator = np.random.default_rng(7)
    sampled = generator.random((5, 3 * BLOCK - 1)) < np.array([[0.0], [0.1], [0.5], [0.9], [1.0]])

    blocks, numbers = arrange_sample(sampled)

    assert blocks.shape[2] == BLOCK
    for chosen, order, number in zip(sampled, blocks, numbers, strict=True):
        assert order[order >= 0].tolist() == np.flatnonzero(chosen).tolist()
        assert number == -(-chosen.sum() // BLOCK)
        assert (order[number:] == -1).all()
