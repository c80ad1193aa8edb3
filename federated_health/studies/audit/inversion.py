"""Gradient inversion: patients' columns reconstructed from one update of their hospital, and the share recovered.

Dummy patients are changed until local training on them gives the observed update (Zhu et al. 2019, "Deep leakage from
gradients"), by the cosine of the two (Geiping et al. 2020, "Inverting gradients"). A single patient has a closed form:
the gradient of the first layer's kernel is the patient's features times that of its bias (Phong et al. 2018,
"Privacy-preserving deep learning via additively homomorphic encryption").
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.ml.backend import load_tensorflow
from federated_health.ml.normalisation import Normalisation
from federated_health.settings import Settings
from federated_health.studies.audit.observations import Step, difference, layers_of

ITERATIONS = 2000
STEP_SIZE = 0.1
DUMMIES = 64
MIN_STARTS, MAX_STARTS = 2, 8
"""Limits of the number of searches, which start from about DUMMIES dummy patients together; the best one is used."""

MAX_DEVIATION = 4.0
"""Largest deviation of a measurement from its mean in the search, in standard deviations."""

TOLERANCE = 0.5
"""Largest error of a recovered measurement, in standard deviations over all training patients."""

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """The local training behind an update, as the attacker knows or guesses it.

    Attributes:
        order: [steps, batch], positions of patients in each step, -1 for none (see `training.batch_order`).
    """

    order: Indices
    learning_rate: float
    l2: float


def known_training(settings: Settings, hospital: str, rows: int) -> Training:
    """The first round's local training as the server knows it.

    The server knows the seed, and so the batches. Under differential privacy these are secret, and the attacker assumes
    that every patient is in every step.
    """
    from federated_health.ml.training import batch_order  # noqa: PLC0415  # imports TensorFlow

    if settings.dp_epsilon:
        order = np.tile(np.arange(rows, dtype=np.int32), (settings.dp_steps, 1))
        return Training(order=order, learning_rate=settings.dp_learning_rate, l2=settings.l2)
    epochs, batch_size = settings.local_epochs, settings.batch_size
    order = batch_order(
        seed=settings.seed, hospital=hospital, round_number=1, rows=rows, epochs=epochs, batch_size=batch_size
    )
    return Training(order=order, learning_rate=settings.learning_rate, l2=settings.l2)


def invert(task: Task, step: Step, training: Training, patients: int, seed: int) -> Array:
    """Features of this many patients whose training gives the update, [patients, task.feature_width].

    Args:
        step: the hospital's weights before and after its local training.
        seed: seed of the dummy patients at the start of the searches.
    """
    if patients == 1:
        return invert_single(step, training)
    tf = load_tensorflow()
    generator = np.random.default_rng(seed)
    movement = difference(layers_of(step.after), layers_of(step.before))
    target = np.concatenate([part.ravel() for layer in movement for part in layer])
    known = (
        [tf.constant(array, tf.float32) for array in step.before.values()],
        tf.constant(target / (np.linalg.norm(target) or 1.0), tf.float32),
        tf.constant(training.learning_rate, tf.float32),
        tf.constant(training.l2, tf.float32),
    )
    search = _compiled_search(task, tuple(map(tuple, training.order.tolist())))
    found = [
        search(tf.constant(generator.normal(size=(patients, task.feature_width + 1)), tf.float32), *known)
        for _ in range(max(MIN_STARTS, min(MAX_STARTS, DUMMIES // patients)))
    ]
    best = int(np.argmin([float(distance) for _, distance in found]))
    return np.asarray(found[best][0], dtype=np.float64)


def invert_single(step: Step, training: Training) -> Array:
    """Features of the only patient behind an update, [1, width], by least squares over the first layer's units."""
    (before, _), *_ = layers_of(step.before)
    (kernel, bias), *_ = difference(layers_of(step.after), layers_of(step.before))
    # The effect of the L2 penalty is removed, computed as if the kernel had not moved.
    kernel = kernel + len(training.order) * training.learning_rate * training.l2 * before
    scale = float(bias @ bias)
    return (kernel @ bias / scale if scale else np.zeros(len(kernel)))[None, :]


def to_columns(task: Task, features: Floats, normalisation: Normalisation) -> Array:
    """Features as one number per column, [patients, columns].

    A category becomes the position of its greatest feature, a measurement its value in its own unit, NaN if its missing
    flag is above 0.5.
    """
    scales = iter(zip(normalisation.mean, normalisation.variance, strict=True))
    columns = []
    for column, place in zip(task.columns, task.feature_slices, strict=True):
        part = features[:, place].astype(np.float64)
        if isinstance(column, Measurement):
            mean, variance = next(scales)
            columns.append(np.where(part[:, 1] > 0.5, np.nan, part[:, 0] * variance**0.5 + mean))
        else:
            columns.append(part.argmax(axis=1).astype(np.float64))
    return np.column_stack(columns)


def tolerances(task: Task, patients: Array) -> Array:
    """Distance within which a value counts as recovered, [columns], from [patients, columns]; 0 for categories."""
    deviations = pd.DataFrame(patients).std(ddof=0).fillna(0.0)  # NaN for a column without a value
    return np.where(_is_measurement(task), TOLERANCE * deviations, 0.0)


def recovered_share(guesses: Array, patients: Array, tolerance: Array) -> float:
    """Share of columns recovered, with every guess assigned to one patient as well as possible.

    A column is recovered if it is within its tolerance (see `tolerances`), or missing in both.

    Args:
        guesses, patients: [the same number, columns].
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  # slow to import

    shares = close_columns(guesses, patients, tolerance).mean(axis=2)
    return float(shares[linear_sum_assignment(shares, maximize=True)].mean())


def close_columns(guesses: Array, patients: Array, tolerance: Array) -> npt.NDArray[np.bool_]:
    """Whether each column of each guess is that of each patient, [guesses, patients, columns]."""
    guess, patient = guesses[:, None, :], patients[None, :, :]
    is_close: npt.NDArray[np.bool_] = np.abs(guess - patient) <= tolerance
    return is_close | (np.isnan(guess) & np.isnan(patient))


def typical_patient(task: Task, patients: Array) -> Array:
    """The best single guess, [columns]: medians of measurements (missing if most are), most frequent categories."""
    table = pd.DataFrame(patients)
    medians = table.median().where(2 * table.count() >= len(table))
    return np.where(_is_measurement(task), medians, table.mode().iloc[0])


def _is_measurement(task: Task) -> list[bool]:
    return [isinstance(column, Measurement) for column in task.columns]


@cache
def _compiled_search(task: Task, order: tuple[tuple[int, ...], ...]) -> Any:
    """A search for patients whose local training gives an update; compiled once per order of batches.

    Returns:
        A function of parameters [patients, width + 1], weights, direction of the update, learning rate and l2, which
        returns features [patients, width] and 1 minus the cosine.
    """
    tf = load_tensorflow()

    def features_of(parameters: Any) -> Any:
        parts = []
        for column, place in zip(task.columns, task.feature_slices, strict=True):
            part = parameters[:, place]
            if isinstance(column, Measurement):
                missing = tf.sigmoid(part[:, 1:])
                parts += [MAX_DEVIATION * tf.tanh(part[:, :1] / MAX_DEVIATION) * (1.0 - missing), missing]
            else:
                parts.append(tf.nn.softmax(part))
        return tf.concat(parts, axis=1)

    def distance(parameters: Any, start: list[Any], target: Any, learning_rate: Any, l2: Any) -> Any:
        features, labels = features_of(parameters), tf.sigmoid(parameters[:, -1:])
        weights = list(start)
        for batch in order:
            rows = [row for row in batch if row >= 0]
            gradients = _mean_gradient(weights, tf.gather(features, rows), tf.gather(labels, rows), l2)
            weights = [array - learning_rate * gradient for array, gradient in zip(weights, gradients, strict=True)]
        moved = tf.concat([tf.reshape(new - old, [-1]) for new, old in zip(weights, start, strict=True)], axis=0)
        return 1.0 - tf.reduce_sum(moved * target) / (tf.norm(moved) + 1e-12)

    def search(parameters: Any, start: list[Any], target: Any, learning_rate: Any, l2: Any) -> Any:
        """Adam (Kingma and Ba 2015), with a step size that decreases to 0."""

        def move(number: Any, parameters: Any, mean: Any, square: Any) -> tuple[Any, ...]:
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                loss = distance(parameters, start, target, learning_rate, l2)
            gradient = tape.gradient(loss, parameters)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            time = tf.cast(number, tf.float32)
            size = STEP_SIZE * (1.0 - time / ITERATIONS)
            unbiased = tf.sqrt(square / (1.0 - 0.999 ** (time + 1.0))) + 1e-12
            return number + 1, parameters - size * mean / (1.0 - 0.9 ** (time + 1.0)) / unbiased, mean, square

        start_values = tf.constant(0), parameters, tf.zeros_like(parameters), tf.zeros_like(parameters)
        _, parameters, *_ = tf.while_loop(lambda number, *_: number < ITERATIONS, move, start_values)
        return features_of(parameters), distance(parameters, start, target, learning_rate, l2)

    return tf.function(search, jit_compile=True)


def _mean_gradient(weights: list[Any], features: Any, labels: Any, l2: Any) -> list[Any]:
    """Gradient of mean cross-entropy plus l2/2 times the squared kernels, written out: nested tapes compile slowly."""
    tf = load_tensorflow()
    kernels, biases = weights[::2], weights[1::2]
    inputs = [features]
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        inputs.append(tf.nn.relu(inputs[-1] @ kernel + bias))
    delta = (tf.sigmoid(inputs[-1] @ kernels[-1] + biases[-1]) - labels) / features.shape[0]
    gradients: list[Any] = []
    for kernel, values in zip(reversed(kernels), reversed(inputs), strict=True):
        gradients = [tf.transpose(values) @ delta + l2 * kernel, tf.reduce_sum(delta, axis=0), *gradients]
        delta = delta @ tf.transpose(kernel) * tf.cast(values > 0, tf.float32)
    return gradients
