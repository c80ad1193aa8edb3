"""Gradient inversion: patients' columns rebuilt from one update of their hospital, and how well.

Dummy patients are moved until local training on them, done over again, gives the update that was seen (Zhu et al. 2019,
"Deep leakage from gradients"), by the cosine of the two (Geiping et al. 2020, "Inverting gradients"). Of a single
patient there is a closed form: what the first layer's kernel gets is the patient's features times what its bias gets
(Phong et al. 2018, "Privacy-preserving deep learning via additively homomorphic encryption").
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.ml.backend import load_tensorflow
from federated_health.ml.normalisation import Normalisation
from federated_health.studies.audit.gradients import difference, layers_of
from federated_health.studies.audit.observations import Step

ITERATIONS = 2000
DUMMIES = 64
MAX_STARTS, MIN_STARTS = 8, 2
"""Of searches from other dummy patients, of which the best is taken: as many as make DUMMIES together."""

STEP_SIZE = 0.1

FURTHEST = 4.0
"""Standard deviations from the mean within which a measurement is looked for."""

CLOSE = 0.5
"""Standard deviations of all training patients within which a measurement counts as recovered."""

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What the attacker knows, or guesses, of the local training that led to an update.

    Attributes:
        order: [steps, batch], positions of patients in each step, see `training.batch_order`: the server knows the
            seed. All of them in each step where it does not know who takes part.
    """

    order: Indices
    learning_rate: float
    l2: float


def invert(task: Task, step: Step, training: Training, patients: int, seed: int) -> Array:
    """Features of as many patients, whose training would give the update, [patients, task.feature_width].

    Args:
        step: the hospital's weights before and after its local training.
        seed: of the first dummy patients; the best of several searches is taken.
    """
    if patients == 1:
        return invert_single(step, training)
    tf = load_tensorflow()
    generator = np.random.default_rng(seed)
    target = np.concatenate(
        [part.ravel() for layer in difference(layers_of(step.after), layers_of(step.before)) for part in layer]
    )
    known = (
        [tf.constant(array, tf.float32) for array in step.before.values()],
        tf.constant(target / (np.linalg.norm(target) or 1.0), tf.float32),
        tf.constant(training.learning_rate, tf.float32),
        tf.constant(training.l2, tf.float32),
    )
    descend = _descent(task, training.order.tobytes(), training.order.shape)
    tried = [
        descend(tf.constant(generator.normal(size=(patients, task.feature_width + 1)), tf.float32), *known)
        for _ in range(max(MIN_STARTS, min(MAX_STARTS, DUMMIES // patients)))
    ]
    best = int(np.argmin([float(loss) for _, loss in tried]))
    return np.asarray(tried[best][0], dtype=np.float64)


def invert_single(step: Step, training: Training) -> Array:
    """Features of the one patient behind an update, [1, width], by least squares over the first layer's units."""
    (before, _), *_ = layers_of(step.before)
    (kernel, bias), *_ = difference(layers_of(step.after), layers_of(step.before))
    # The penalty's part, as if the kernel had stayed as it was.
    kernel = kernel + len(training.order) * training.learning_rate * training.l2 * before
    scale = float(bias @ bias)
    return (kernel @ bias / scale if scale else np.zeros(len(kernel)))[None, :]


def columns_of(task: Task, features: Floats, normalisation: Normalisation) -> Array:
    """Features as one number a column, [patients, columns]: of a category the place of its greatest feature; of a
    measurement its value in its own unit, NaN where it is missing rather than not.
    """
    scales = iter(zip(normalisation.mean, normalisation.variance, strict=True))
    columns = []
    for column, place in zip(task.columns, task.feature_slices, strict=True):
        part = np.asarray(features, dtype=np.float64)[:, place]
        if isinstance(column, Measurement):
            mean, variance = next(scales)
            columns.append(np.where(part[:, 1] > 0.5, np.nan, part[:, 0] * variance**0.5 + mean))
        else:
            columns.append(part.argmax(axis=1).astype(np.float64))
    return np.column_stack(columns)


def tolerances(task: Task, patients: Array) -> Array:
    """How far a value may be from a patient's to count as recovered, [columns]: 0 of categories.

    Args:
        patients: [patients, columns], whose standard deviations are taken.
    """
    within = np.zeros(patients.shape[1])
    for place, column in enumerate(task.columns):
        measured = patients[~np.isnan(patients[:, place]), place]
        if isinstance(column, Measurement) and len(measured):
            within[place] = CLOSE * measured.std()
    return within


def recovered(guesses: Array, patients: Array, within: Array) -> float:
    """The share of columns recovered, when every guess is assigned to a patient as well as can be.

    A column is recovered where it is within its tolerance, or missing as it should be.

    Args:
        guesses, patients: [the same number, columns], see `columns_of`.
        within: [columns], see `tolerances`.
    """
    from scipy.optimize import linear_sum_assignment  # takes a while to import

    one, other = guesses[:, None, :], patients[None, :, :]
    shares = ((np.abs(one - other) <= within) | (np.isnan(one) & np.isnan(other))).mean(axis=2)
    return float(shares[linear_sum_assignment(shares, maximize=True)].mean())


def typical(task: Task, patients: Array) -> Array:
    """The patient whom one would guess: of each column the median of those measured, or the commonest; [columns]."""
    guess = np.empty(patients.shape[1])
    for place, column in enumerate(task.columns):
        values = patients[:, place]
        measured = values[~np.isnan(values)]
        if isinstance(column, Measurement):
            guess[place] = np.median(measured) if 2 * len(measured) >= len(values) else np.nan
        else:
            kinds, number = np.unique(measured, return_counts=True)
            guess[place] = kinds[number.argmax()]
    return guess


@cache
def _descent(task: Task, order: bytes, shape: tuple[int, int]) -> Any:
    """A compiled search from some dummy patients to better ones; made once for each plan of local training.

    Returns:
        A function from parameters [patients, width + 1], weights, the direction of the update, learning rate and l2 to
        features [patients, width] and 1 minus the cosine.
    """
    tf = load_tensorflow()
    batches = np.frombuffer(order, dtype=np.int32).reshape(shape)

    def features_of(parameters: Any) -> Any:
        parts = []
        for column, place in zip(task.columns, task.feature_slices, strict=True):
            part = parameters[:, place]
            if isinstance(column, Measurement):
                missing = tf.sigmoid(part[:, 1:])
                parts += [FURTHEST * tf.tanh(part[:, :1] / FURTHEST) * (1.0 - missing), missing]
            else:
                parts.append(tf.nn.softmax(part))
        return tf.concat(parts, axis=1)

    def distance(parameters: Any, start: list[Any], target: Any, learning_rate: Any, l2: Any) -> Any:
        features, labels = features_of(parameters), tf.sigmoid(parameters[:, -1:])
        weights = list(start)
        for batch in batches:
            rows = batch[batch >= 0]
            slopes = _mean_gradient(weights, tf.gather(features, rows), tf.gather(labels, rows), l2)
            weights = [array - learning_rate * slope for array, slope in zip(weights, slopes, strict=True)]
        moved = tf.concat([tf.reshape(new - old, [-1]) for new, old in zip(weights, start, strict=True)], axis=0)
        return 1.0 - tf.reduce_sum(moved * target) / (tf.norm(moved) + 1e-12)

    def search(parameters: Any, start: list[Any], target: Any, learning_rate: Any, l2: Any) -> Any:
        """Adam (Kingma and Ba 2015), with a step size that falls to zero."""

        def move(number: Any, parameters: Any, mean: Any, square: Any) -> tuple[Any, ...]:
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                far = distance(parameters, start, target, learning_rate, l2)
            slope = tape.gradient(far, parameters)
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            time = tf.cast(number, tf.float32)
            size = STEP_SIZE * (1.0 - time / ITERATIONS)
            unbiased = tf.sqrt(square / (1.0 - 0.999 ** (time + 1.0))) + 1e-12
            return number + 1, parameters - size * mean / (1.0 - 0.9 ** (time + 1.0)) / unbiased, mean, square

        nothing = tf.zeros_like(parameters)
        _, parameters, *_ = tf.while_loop(
            lambda number, *_: number < ITERATIONS, move, (tf.constant(0), parameters, nothing, nothing)
        )
        return features_of(parameters), distance(parameters, start, target, learning_rate, l2)

    return tf.function(search, jit_compile=True)


def _mean_gradient(weights: list[Any], features: Any, labels: Any, l2: Any) -> list[Any]:
    """Of mean cross-entropy plus l2/2 times the squared kernels, written out: a tape in a tape compiles for long."""
    tf = load_tensorflow()
    kernels, biases = weights[::2], weights[1::2]
    inputs = [features]
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        inputs.append(tf.nn.relu(inputs[-1] @ kernel + bias))
    delta = (tf.sigmoid(inputs[-1] @ kernels[-1] + biases[-1]) - labels) / features.shape[0]
    slopes: list[Any] = []
    for kernel, values in zip(reversed(kernels), reversed(inputs), strict=True):
        slopes = [tf.transpose(values) @ delta + l2 * kernel, tf.reduce_sum(delta, axis=0), *slopes]
        delta = delta @ tf.transpose(kernel) * tf.cast(values > 0, tf.float32)
    return slopes
