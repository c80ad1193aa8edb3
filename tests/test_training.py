"""Compiled local training against plain NumPy, and one averaged step against one step on the pooled rows."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.ml.backend import load_keras, load_tensorflow
from federated_health.ml.keras_models import build_encoder, build_head, encode
from federated_health.ml.networks import Network, Weights, initial_weights, weight_shapes
from federated_health.ml.normalisation import Normalisation, column_sums, merge_sums, normalisation_from
from federated_health.ml.targets import target_of
from federated_health.names import MODELS, OPTIMIZERS

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]

TINY = Task(
    name="tiny",
    columns=(
        Measurement(name="age", meaning="age", unit="years", low=0, high=120),
        Measurement(name="chol", meaning="cholesterol", unit="mg/dl", low=50, high=1000),
        Category(name="sex", meaning="sex", codes={0: "female", 1: "male"}),
    ),
    label=Label(name="ill", meaning="is ill"),
)  # seven features


@pytest.fixture(scope="module")
def training() -> ModuleType:
    load_tensorflow()
    from federated_health.ml import training

    return training


@pytest.fixture(scope="module")
def keras_training() -> ModuleType:
    from federated_health.ml import keras_training

    return keras_training


@pytest.fixture(scope="module")
def local_models() -> ModuleType:
    from federated_health.hospital import local_model

    return local_model


@dataclass(frozen=True)
class Recipe:
    seed: int = 42
    local_epochs: int = 3
    batch_size: int = 8
    learning_rate: float = 0.1
    l2: float = 0.0
    optimizer: str = "sgd"


# An independent implementation, in float64


def forward(weights: list[Exact], features: Exact) -> tuple[Exact, Exact]:
    """Hidden activations (the features themselves for logistic regression) and log-odds."""
    hidden = features if len(weights) == 2 else np.maximum(features @ weights[0] + weights[1], 0)
    return hidden, (hidden @ weights[-2] + weights[-1])[:, 0]


def step(
    weights: list[Exact],
    features: Exact,
    labels: Exact,
    rate: float,
    l2: float,
    mu: float = 0.0,
    start: list[Exact] | None = None,
) -> tuple[list[Exact], float]:
    """One gradient step on mean cross-entropy + l2 / 2 * squared kernels + mu / 2 * squared distance from the start.

    Returns, too, the sum of the cross-entropies.
    """
    hidden, logits = forward(weights, features)
    risk = 1 / (1 + np.exp(-logits))
    loss = float(-np.log(np.where(labels > 0.5, risk, 1 - risk)).sum())
    slope = ((risk - labels) / len(labels))[:, None]
    gradients = [hidden.T @ slope, slope.sum(axis=0)]
    if len(weights) == 4:
        back = (slope @ weights[2].T) * (hidden > 0)
        gradients = [features.T @ back, back.sum(axis=0), *gradients]
    penalised = [gradient + l2 * array * (array.ndim > 1) for gradient, array in zip(gradients, weights, strict=True)]
    pulls = [mu * (array - old) for array, old in zip(weights, start or weights, strict=True)]
    return [array - rate * (g + pull) for array, g, pull in zip(weights, penalised, pulls, strict=True)], loss


def descend(
    weights: list[Array],
    features: Array,
    labels: Array,
    order: npt.NDArray[np.int32],
    rate: float,
    l2: float,
    mu: float = 0.0,
) -> tuple[list[Exact], float]:
    start = [array.astype(np.float64) for array in weights]
    moved, total = start, 0.0
    for batch in order:
        rows = batch[batch >= 0]
        moved, loss = step(
            moved, features[rows].astype(np.float64), labels[rows].astype(np.float64), rate, l2, mu, start
        )
        total += loss
    return moved, total / int((order >= 0).sum())


def rows_of(number: int, seed: int = 0) -> tuple[Array, Array]:
    """Features and labels that have something to do with each other."""
    generator = np.random.default_rng(seed)
    features = generator.normal(0, 1, (number, TINY.feature_width)).astype(np.float32)
    labels = (features[:, 0] - features[:, 1] + generator.normal(0, 1, number) > 0).astype(np.float32)
    return features, labels


def some_weights(model: str, task: Task = TINY) -> list[Array]:
    generator = np.random.default_rng(3)
    return [
        generator.normal(0, 0.4, shape).astype(np.float32) for shape in weight_shapes(task, Network(model)).values()
    ]


def order_of(training: ModuleType, **changes: Any) -> npt.NDArray[np.int32]:
    arguments: dict[str, Any] = {
        "seed": 42,
        "hospital": "cleveland",
        "round_number": 1,
        "rows": 10,
        "epochs": 3,
        "batch_size": 4,
    }
    order: npt.NDArray[np.int32] = training.batch_order(**(arguments | changes))
    return order


@pytest.fixture(scope="module")
def trainers(training: ModuleType) -> dict[str, Any]:
    return {model: training.LocalTrainer(build_head(TINY, Network(model)), target_of(TINY)) for model in MODELS}


# Batches


@pytest.mark.parametrize(
    ("rows", "batch_size", "shape"),
    [(10, 4, (9, 4)), (8, 4, (6, 4)), (3, 4, (3, 4)), (1, 1, (3, 1)), (10, 0, (3, 10)), (10, 10, (3, 10))],
)
def test_every_epoch_has_every_row_once_and_pads_only_its_last_batch(
    training: ModuleType, rows: int, batch_size: int, shape: tuple[int, int]
) -> None:
    order = order_of(training, rows=rows, batch_size=batch_size)

    assert order.shape == shape
    for epoch in np.split(order, 3):
        flat = epoch.ravel()
        assert sorted(flat[:rows]) == list(range(rows))
        assert (flat[rows:] == -1).all()
        assert len(flat) - rows < shape[1]


def test_the_order_depends_on_seed_hospital_and_round(training: ModuleType) -> None:
    reference = order_of(training, rows=50)

    np.testing.assert_array_equal(order_of(training, rows=50), reference)
    for change in ({"seed": 43}, {"hospital": "hungary"}, {"round_number": 2}):
        assert not np.array_equal(order_of(training, rows=50, **change), reference)


def test_the_order_is_the_same_in_every_process(training: ModuleType) -> None:
    name = int(hashlib.sha256(b"cleveland").hexdigest()[:16], 16)  # Python's own hash differs from process to process
    generator = np.random.default_rng([42, name, 1])

    order = order_of(training, rows=10, epochs=2, batch_size=0)

    assert order.tolist() == [generator.permutation(10).tolist(), generator.permutation(10).tolist()]


def test_each_epoch_is_shuffled_anew(training: ModuleType) -> None:
    first, second, third = np.split(order_of(training, rows=50, batch_size=0), 3)

    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
    assert not np.array_equal(first[0], np.arange(50))


def test_more_epochs_begin_with_the_same_order(training: ModuleType) -> None:
    np.testing.assert_array_equal(order_of(training, epochs=5)[:9], order_of(training, epochs=3))


# Local training


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize(
    ("rows", "batch_size"), [(45, 8), (48, 8), (45, 0), (5, 8)], ids=["short last batch", "even", "all rows", "few"]
)
def test_local_training_is_plain_gradient_descent(
    training: ModuleType, trainers: dict[str, Any], model: str, l2: float, rows: int, batch_size: int
) -> None:
    features, labels = rows_of(rows)
    order = order_of(training, rows=rows, batch_size=batch_size, epochs=4)

    trained, loss = trainers[model].train(some_weights(model), features, labels, order, learning_rate=0.2, l2=l2)

    expected, expected_loss = descend(some_weights(model), features, labels, order, 0.2, l2)
    for array, wanted in zip(trained, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-5)
        assert array.dtype == np.float32
    assert loss == pytest.approx(expected_loss, abs=1e-5)


def test_a_step_worked_by_hand(trainers: dict[str, Any]) -> None:
    """Weights of zero give a risk of 1/2: the slope of the bias is the mean of 1/2 - label."""
    features = np.zeros((4, 7), dtype=np.float32)
    features[:, 0] = [1, 2, 3, 4]
    labels = np.array([1, 1, 1, 0], dtype=np.float32)
    weights = [np.zeros((7, 1), np.float32), np.zeros(1, np.float32)]

    (kernel, bias), loss = trainers["logistic"].train(
        weights, features, labels, np.array([[0, 1, 2, 3]], np.int32), learning_rate=1.0, l2=5.0
    )

    assert bias[0] == pytest.approx(0.25)
    assert kernel[:, 0] == pytest.approx([(0.5 * (1 + 2 + 3) - 0.5 * 4) / 4, *[0] * 6])
    assert loss == pytest.approx(np.log(2))


def test_the_penalty_spares_biases(trainers: dict[str, Any]) -> None:
    """Rows without features, at a bias whose risk is the share of positives: only the penalty changes weights."""
    features, labels = np.zeros((4, 7), np.float32), np.array([1, 1, 1, 0], np.float32)
    weights = [np.full((7, 1), 2.0, np.float32), np.array([np.log(3)], np.float32)]
    order = np.array([[0, 1, 2, 3]], np.int32)

    (kernel, bias), _ = trainers["logistic"].train(weights, features, labels, order, learning_rate=0.1, l2=0.5)

    np.testing.assert_allclose(kernel, 2.0 - 0.1 * 0.5 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(bias, np.log(3), rtol=1e-6)


# FedProx's proximal term


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mu", [0.01, 1.0, 4.0])
@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 0), (6, 0), (4, 8)], ids=["one step", "six steps", "batches"])
def test_the_proximal_term_is_in_every_gradient_step(
    training: ModuleType, trainers: dict[str, Any], model: str, mu: float, epochs: int, batch_size: int
) -> None:
    features, labels = rows_of(45)
    order = order_of(training, rows=45, batch_size=batch_size, epochs=epochs)

    trained, loss = trainers[model].train(
        some_weights(model), features, labels, order, learning_rate=0.2, l2=0.1, proximal_mu=mu
    )

    expected, expected_loss = descend(some_weights(model), features, labels, order, 0.2, 0.1, mu)
    for array, wanted in zip(trained, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-5)
        assert array.dtype == np.float32
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    without, _ = descend(some_weights(model), features, labels, order, 0.2, 0.1)
    first = epochs == 1  # at the first step the distance from the start is 0
    apart = max(float(np.abs(a - b).max()) for a, b in zip(expected, without, strict=True))
    assert (apart < 1e-12) is first


def test_two_proximal_steps_worked_by_hand(trainers: dict[str, Any]) -> None:
    """At a bias of 0 the slope is 0.5 - 0.75: a step of 1 leads to 0.25. The second's slope has mu * 0.25 more."""
    features, labels = np.zeros((4, 7), np.float32), np.array([1, 1, 1, 0], np.float32)
    weights = [np.zeros((7, 1), np.float32), np.zeros(1, np.float32)]
    order = np.array([[0, 1, 2, 3]] * 2, np.int32)

    (_, bias), _ = trainers["logistic"].train(
        weights, features, labels, order, learning_rate=1.0, l2=0.0, proximal_mu=0.4
    )

    assert bias[0] == pytest.approx(0.25 - (1 / (1 + np.exp(-0.25)) - 0.75) - 0.4 * 0.25, abs=1e-6)


def test_a_stronger_proximal_term_keeps_weights_nearer_to_the_start(
    training: ModuleType, trainers: dict[str, Any]
) -> None:
    features, labels = rows_of(45)
    order = order_of(training, rows=45, batch_size=8, epochs=20)
    start, moves = some_weights("mlp"), []
    for mu in (0.0, 0.1, 1.0, 10.0, 1000.0):
        trained, _ = trainers["mlp"].train(
            start, features, labels, order, learning_rate=min(0.1, 1 / (mu + 1e-9)), l2=0.0, proximal_mu=mu
        )
        moves.append(max(np.abs(array - old).max() for array, old in zip(trained, start, strict=True)))

    assert moves == sorted(moves, reverse=True)
    assert moves[-1] < 1e-3 < 0.1 < moves[0]


@pytest.mark.parametrize("model", MODELS)
def test_a_proximal_weight_of_zero_changes_no_bit(training: ModuleType, trainers: dict[str, Any], model: str) -> None:
    features, labels = rows_of(45)
    order = order_of(training, rows=45, batch_size=8, epochs=10)

    without, _ = trainers[model].train(some_weights(model), features, labels, order, learning_rate=0.2, l2=0.01)
    zero, _ = trainers[model].train(
        some_weights(model), features, labels, order, learning_rate=0.2, l2=0.01, proximal_mu=0.0
    )

    assert [array.tobytes() for array in zero] == [array.tobytes() for array in without]


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_log_odds_of_an_independent_forward_pass(trainers: dict[str, Any], model: str) -> None:
    features, _ = rows_of(70)

    scores = trainers[model].score(some_weights(model), features)

    expected = forward([array.astype(np.float64) for array in some_weights(model)], features.astype(np.float64))[1]
    assert scores.shape == (70,)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_padding_does_not_change_results(training: ModuleType, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    features, labels = rows_of(45)
    order = order_of(training, rows=45, batch_size=8)
    results = []
    for bucket in (1, 64, 200):
        monkeypatch.setattr(training, "ROW_BUCKET", bucket)
        trainer = training.LocalTrainer(build_head(TINY, Network(model)), target_of(TINY))
        trained, loss = trainer.train(some_weights(model), features, labels, order, learning_rate=0.2, l2=0.1)
        results.append([*trained, np.array(loss), trainer.score(trained, features)])

    for padded in results[1:]:
        for array, wanted in zip(padded, results[0], strict=True):
            np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "padded"),
    [(1, 64), (64, 64), (303, 320), (1024, 1024), (1025, 2048), (4097, 8192), (8192, 8192), (37_441, 40_960)],
)
def test_hospitals_of_similar_size_share_a_shape(training: ModuleType, rows: int, padded: int) -> None:
    """Small tables to a multiple of 64, larger ones to a power of 2, and large ones by at most 8191 rows."""
    array = training.pad_rows(np.ones((rows, 2), dtype=np.float32), -1)

    assert array.shape == (padded, 2)
    assert array.sum() == 2 * (rows - (padded - rows))


@pytest.mark.parametrize("model", MODELS)
def test_the_same_call_twice_is_identical_to_the_bit(
    training: ModuleType, trainers: dict[str, Any], model: str
) -> None:
    features, labels = rows_of(45)
    order = order_of(training, rows=45, batch_size=8, epochs=10)
    fresh = training.LocalTrainer(build_head(TINY, Network(model)), target_of(TINY))

    runs = [
        trainer.train(some_weights(model), features, labels, order, learning_rate=0.2, l2=0.01)
        for trainer in (trainers[model], trainers[model], fresh)
    ]

    for trained, loss in runs[1:]:
        assert loss == runs[0][1]
        assert [array.tobytes() for array in trained] == [array.tobytes() for array in runs[0][0]]


def test_training_does_not_change_its_arguments(training: ModuleType, trainers: dict[str, Any]) -> None:
    features, labels = rows_of(45)
    weights, order = some_weights("mlp"), order_of(training, rows=45)
    before = [array.copy() for array in (*weights, features, labels, order)]

    trainers["mlp"].train(weights, features, labels, order, learning_rate=0.2, l2=0.1)

    for array, copy in zip((*weights, features, labels, order), before, strict=True):
        np.testing.assert_array_equal(array, copy)


class CountingHead:
    """A head that counts its calls: TensorFlow calls it only while it compiles."""

    def __init__(self) -> None:
        self.head = build_head(TINY, Network())
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.head, name)

    def stateless_call(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls += 1
        return self.head.stateless_call(*arguments, **keywords)


def test_hospitals_of_one_bucket_share_one_compilation_over_all_rounds(training: ModuleType) -> None:
    head = CountingHead()
    trainer = training.LocalTrainer(head, target_of(TINY))
    weights, compiled = some_weights("mlp"), set()
    for round_number in range(3):
        for rows in (40, 50, 64):
            features, labels = rows_of(rows)
            order = order_of(training, rows=rows, round_number=round_number, batch_size=8)
            rate = 0.1 + round_number / 100
            weights, _ = trainer.train(weights, features, labels, order, learning_rate=rate, l2=0.01 * round_number)
            trainer.score(weights, features)
            compiled.add(head.calls)

    assert len(compiled) == 1
    for mu in (0.1, 0.2):  # the proximal term is compiled once more, whatever its weight
        trainer.train(weights, features, labels, order, learning_rate=0.1, l2=0.0, proximal_mu=mu)
        compiled.add(head.calls)
    assert len(compiled) == 2


# Real hospitals


@pytest.fixture(scope="module")
def hospitals(hospitals_folder: Path) -> list[Hospital]:
    names = ("cleveland", "hungary", "switzerland", "va-long-beach")
    return [
        load_hospital(hospitals_folder / f"client_{number}.csv", HEART_DISEASE, name, 42)
        for number, name in enumerate(names, start=1)
    ]


@pytest.fixture(scope="module")
def normalisation(hospitals: list[Hospital]) -> Normalisation:
    positions = list(HEART_DISEASE.measurement_positions)
    return normalisation_from(merge_sums(column_sums(hospital.train.values[:, positions]) for hospital in hospitals))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_one_full_step_at_each_hospital_averaged_by_rows_is_one_step_on_the_pooled_rows(
    local_models: ModuleType, hospitals: list[Hospital], normalisation: Normalisation, model: str, l2: float
) -> None:
    start = initial_weights(HEART_DISEASE, Network(model), 42)
    recipe = Recipe(local_epochs=1, batch_size=0, learning_rate=0.5, l2=l2)
    rows = [len(hospital.train) for hospital in hospitals]
    assert len(set(rows)) == 4  # the mean by rows is not the plain one

    updates = [
        local_models.LocalModel(hospital, Network(model), normalisation).train(start, recipe, 1)[0]
        for hospital in hospitals
    ]

    encoder = build_encoder(HEART_DISEASE, normalisation)
    pooled = np.concatenate([encode(encoder, HEART_DISEASE, hospital.train.values) for hospital in hospitals])
    labels = np.concatenate([hospital.train.labels for hospital in hospitals])
    first = [array.astype(np.float64) for array in start.values()]
    expected, _ = step(first, pooled.astype(np.float64), labels.astype(np.float64), 0.5, l2)
    for name, wanted, before in zip(start, expected, first, strict=True):
        averaged = np.average([update[name].astype(np.float64) for update in updates], axis=0, weights=rows)
        np.testing.assert_allclose(averaged, wanted, rtol=0, atol=1e-5)
        assert np.abs(wanted - before).max() > 1e-3  # the step went somewhere


@pytest.mark.parametrize("model", MODELS)
def test_a_hospital_trains_on_its_training_rows_and_scores_its_held_out_rows(
    training: ModuleType,
    local_models: ModuleType,
    hospitals: list[Hospital],
    normalisation: Normalisation,
    model: str,
) -> None:
    hospital, recipe = hospitals[2], Recipe(local_epochs=2, batch_size=32, l2=0.01)
    local = local_models.LocalModel(hospital, Network(model), normalisation)
    start: Weights = initial_weights(HEART_DISEASE, Network(model), 1)

    trained, loss = local.train(start, recipe, 5)
    scores = local.score(trained)

    encoder = build_encoder(HEART_DISEASE, normalisation)
    order = order_of(
        training, seed=42, hospital="switzerland", round_number=5, rows=len(hospital.train), epochs=2, batch_size=32
    )
    features = encode(encoder, HEART_DISEASE, hospital.train.values)
    expected, expected_loss = descend(list(start.values()), features, hospital.train.labels, order, 0.1, 0.01)
    assert list(trained) == list(weight_shapes(HEART_DISEASE, Network(model)))
    for array, wanted in zip(trained.values(), expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-5)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    held_out = encode(encoder, HEART_DISEASE, hospital.test.values).astype(np.float64)
    np.testing.assert_allclose(scores, forward(expected, held_out)[1], atol=1e-4)


def test_a_round_does_not_depend_on_earlier_training_in_the_process(
    local_models: ModuleType, hospitals: list[Hospital], normalisation: Normalisation
) -> None:
    start, recipe = initial_weights(HEART_DISEASE, Network(), 1), Recipe()
    alone, _ = local_models.LocalModel(hospitals[0], Network(), normalisation).train(start, recipe, 2)
    for hospital in hospitals[1:]:
        local_models.LocalModel(hospital, Network(), normalisation).train(start, recipe, 1)

    again, _ = local_models.LocalModel(hospitals[0], Network(), normalisation).train(start, recipe, 2)

    assert [array.tobytes() for array in again.values()] == [array.tobytes() for array in alone.values()]


# Heads with state, random layers, losses and constraints of their own, against a loop of Keras's own

HEADS: Mapping[str, Callable[[Any], list[Any]]] = {
    "batch normalisation and dropout": lambda layers: [
        layers.Dense(8, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.4),
        layers.Dense(1),
    ],
    "losses and constraints": lambda layers: [
        layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1", kernel_constraint="unit_norm"),
        layers.Dense(1),
    ],
    "frozen": lambda layers: [layers.Dense(8, activation="tanh", trainable=False), layers.Dense(1)],
}


def build_layers(name: str) -> Any:
    keras = load_keras()
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((TINY.feature_width,)), *HEADS[name](keras.layers)])


def loop_of_keras(
    head: Any, features: Array, labels: Array, order: Any, optimizer: str, seed: int
) -> list[npt.NDArray[Any]]:
    """The weights after one step per batch with Keras's own layers and optimizer, at rate 0.01 and L2 0.1."""
    tf, keras = load_tensorflow(), load_keras()
    generator = np.random.default_rng(seed)
    own = keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.01}})
    own.build(head.trainable_variables)
    for variable in head.non_trainable_variables:
        if variable.name == "seed_generator_state":
            variable.assign(generator.integers(2**31, size=variable.shape))

    def take_step(batch: Any, targets: Any) -> None:
        with tf.GradientTape() as tape:
            outputs = head(batch, training=True)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, outputs[:, 0]))
            kernels = [variable.value for variable in head.trainable_variables if len(variable.shape) > 1]
            loss += tf.add_n([0.05 * tf.reduce_sum(kernel**2) for kernel in kernels]) + sum(head.losses)
        slopes = tape.gradient(loss, [variable.value for variable in head.trainable_variables])
        own.apply(slopes, head.trainable_variables)

    compiled = tf.function(take_step, jit_compile=True)  # whose random numbers differ from those of other kernels
    for rows in order:
        present = rows[rows >= 0]
        compiled(features[present], labels[present])
    weights: list[npt.NDArray[Any]] = head.get_weights()
    return weights


@pytest.mark.parametrize(
    ("name", "rows", "batch_size", "optimizer"),
    [
        *[("batch normalisation and dropout", rows, size, "sgd") for rows, size in ((45, 8), (16, 8), (5, 8), (20, 0))],
        *[("batch normalisation and dropout", 16, 8, name) for name in OPTIMIZERS if name != "sgd"],
        *[(name, 45, 8, optimizer) for name in HEADS for optimizer in ("sgd", "adam") if "batch" not in name],
    ],
)
def test_any_head_and_optimizer_trains_as_in_a_loop_of_keras(
    training: ModuleType, keras_training: ModuleType, name: str, rows: int, batch_size: int, optimizer: str
) -> None:
    features, labels = rows_of(rows)
    order = order_of(training, rows=rows, batch_size=batch_size, epochs=3)
    head = build_layers(name)
    weights = head.get_weights()
    trainer = keras_training.KerasTrainer(head, target_of(TINY), optimizer, exact_batches=True)
    for _ in range(2):  # no state of the optimizer or of random layers remains
        trained, _ = trainer.train(
            weights,
            features,
            labels,
            order,
            learning_rate=0.01,
            l2=0.1,
            generator=np.random.default_rng(6),
        )
    expected = loop_of_keras(build_layers(name), features, labels, order, optimizer, seed=6)
    for array, other in zip(trained, expected, strict=True):
        np.testing.assert_allclose(array, other, atol=1e-6)
    assert max(np.abs(array - old).max() for array, old in zip(trained, weights, strict=True)) > 1e-3


def test_random_layers_depend_on_the_generator_and_do_nothing_in_scores(
    training: ModuleType, keras_training: ModuleType
) -> None:
    features, labels = rows_of(20)
    order = order_of(training, rows=20, batch_size=8, epochs=1)
    trainer = keras_training.KerasTrainer(
        build_layers("batch normalisation and dropout"), target_of(TINY), exact_batches=True
    )
    weights = build_layers("batch normalisation and dropout").get_weights()

    def train(seed: int) -> Any:
        arguments = {"learning_rate": 0.1, "l2": 0.0, "generator": np.random.default_rng(seed)}
        return trainer.train(weights, features, labels, order, **arguments)[0]

    assert all(np.array_equal(one, other) for one, other in zip(train(1), train(1), strict=True))
    assert not np.array_equal(train(1)[0], train(2)[0])
    np.testing.assert_array_equal(trainer.score(weights, features), trainer.score(weights, features))
    assert trainer.score(weights, features)[3] == pytest.approx(trainer.score(weights, features[3:4])[0], abs=1e-6)


def test_the_proximal_term_leaves_state_alone(training: ModuleType, keras_training: ModuleType) -> None:
    """With the greatest pull that a step allows, trainable weights return to the start, and moving statistics go on."""
    features, labels = rows_of(40)
    order = order_of(training, rows=40, batch_size=8, epochs=2)
    head = build_layers("batch normalisation and dropout")
    weights = head.get_weights()
    trainer = keras_training.KerasTrainer(head, target_of(TINY), exact_batches=True)
    arguments = {"learning_rate": 1e-4, "l2": 0.0, "proximal_mu": 1e4}
    trained, _ = trainer.train(weights, features, labels, order, generator=np.random.default_rng(1), **arguments)
    moved = [np.abs(array - old).max() for array, old in zip(trained, weights, strict=True)]
    is_state = ["moving" in variable.name for variable in head.weights]
    assert all((move > 1e-3) == state for move, state in zip(moved, is_state, strict=True))


def test_row_weights_multiply_each_rows_loss(training: ModuleType, trainers: dict[str, Any]) -> None:
    """A weight of 2 is a row that is there twice, at half the rate of twice as many rows in the batch."""
    features, labels = rows_of(20)
    twice = np.array([*range(20), *range(10)])
    full = order_of(training, rows=20, batch_size=0, epochs=1)
    order = order_of(training, rows=30, batch_size=0, epochs=1)
    row_weights = np.where(np.arange(20) < 10, 2.0, 1.0).astype(np.float32)
    weighted, loss = trainers["mlp"].train(
        some_weights("mlp"), features, labels, full, learning_rate=0.1, l2=0.0, row_weights=row_weights
    )
    doubled, other = trainers["mlp"].train(
        some_weights("mlp"), features[twice], labels[twice], order, learning_rate=0.15, l2=0.0
    )
    for array, expected in zip(weighted, doubled, strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-6)
    assert loss * 20 == pytest.approx(other * 30, rel=1e-5)
