"""Differentially private local training: sums of clipped per-patient gradients plus noise, compiled (DP-SGD).

Algorithm 1 of Abadi et al. 2016, "Deep Learning with Differential Privacy", with the true Poisson sampling that its
accounting assumes.

Norms, sums and noise are float64; only the noisy result is rounded to the weights' float32. In float32 a norm whose
squares underflow would be 0 and its gradient would stay unclipped, large sums would round by more than one patient may
add, and the last bits of a small noisy sum would reveal its size without the noise (Mironov 2012, see
`privacy.entropy`).
"""

from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import Task
from federated_health.ml.backend import load_tensorflow
from federated_health.ml.keras_models import build_head
from federated_health.ml.networks import Network, Weights
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.ml.targets import Target, target_of
from federated_health.ml.training import ROW_BUCKET, Array
from federated_health.privacy.entropy import gaussian_noise, poisson_sample

tf = load_tensorflow()

BLOCK = 512
"""Number of patients whose gradients, each as large as the weights, are in memory at once."""


def train_privately(
    task: Task,
    network: Network,
    weights: Weights,
    features: Array,
    labels: Array,
    patients: npt.NDArray[np.intp],
    plan: PrivacyPlan,
    *,
    l2: float,
    proximal_mu: float = 0.0,
) -> Weights:
    """A round's noisy steps, in which no patient changes a step's sum of gradients by more than `plan.clip`.

    Spend the round first. Samples and noise come from the operating system's entropy, so that no two calls give the
    same weights.

    A patient's gradient of the target's loss is the sum over the patient's rows. Over all weights together, it is
    scaled down to the L2 norm `plan.clip` if it is longer; a gradient that is not finite is dropped. The sum over a
    step's sample of patients, plus noise, is divided by the expected sample size. This reveals nothing about the
    sample, but the number of patients, which is public. The gradients of the penalties (see `LocalTrainer.train`) do
    not depend on patients and are added unclipped.

    Args:
        features: [rows, width].
        labels: [rows].
        patients: number of each row's patient, from 0, [rows].

    Returns:
        The new weights. No loss: it would depend on training rows, and no budget accounts for it.
    """
    rows, present = _rows_of_patients(patients)
    number, deviation = len(rows), plan.noise_multiplier * plan.clip
    padding = (0, -number % (ROW_BUCKET if number <= BLOCK else BLOCK))
    sampled = poisson_sample(number, plan.sampling_rate, plan.steps)
    noise = [gaussian_noise(deviation, (plan.steps, *array.shape)) for array in weights.values()]
    trained = _compile_steps(task, network)(
        [tf.constant(array) for array in weights.values()],
        tf.constant(np.pad(features[rows], (padding, (0, 0), (0, 0)))),
        tf.constant(np.pad(labels[rows], (padding, (0, 0)))),
        tf.constant(np.pad(present, (padding, (0, 0)))),
        tf.constant(np.pad(sampled, ((0, 0), padding))),
        [tf.constant(array) for array in noise],
        *(tf.constant(value, tf.float64) for value in (plan.clip, plan.sampling_rate * number)),
        *(tf.constant(value, tf.float32) for value in (plan.learning_rate, l2, proximal_mu)),
    )
    return {name: array.numpy() for name, array in zip(weights, trained, strict=True)}


def _rows_of_patients(patients: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], Array]:
    """Positions of each patient's rows, [patients, most rows], and 1 for each, or 0 where it repeats the first."""
    numbers = np.bincount(patients)
    place = np.arange(numbers.max(initial=1))
    present = place < numbers[:, np.newaxis]
    first = np.cumsum(numbers) - numbers
    rows = np.argsort(patients, kind="stable")[first[:, np.newaxis] + np.where(present, place, 0)]
    return rows, present.astype(np.float32)


@cache
def _compile_steps(task: Task, network: Network) -> Any:
    """One compilation per process and architecture."""
    return tf.function(partial(_train_steps, build_head(task, network), target_of(task)), jit_compile=True)


def _train_steps(
    head: Any,
    target: Target[Any],
    start: list[Any],
    features: Any,
    labels: Any,
    present: Any,
    sampled: Any,
    noise: list[Any],
    clip: Any,
    expected_patients: Any,
    learning_rate: Any,
    l2: Any,
    proximal_mu: Any,
) -> list[Any]:
    def take_step(step: Any, *weights: Any) -> tuple[Any, ...]:
        sums = _sum_clipped(head, target, list(weights), features, labels, present, sampled[step], clip)
        trained = []
        for array, old, total, added in zip(weights, start, sums, noise, strict=True):
            gradient = tf.cast((total + added[step]) / expected_patients, array.dtype) + proximal_mu * (array - old)
            if array.shape.rank > 1:
                gradient += l2 * array
            trained.append(array - learning_rate * gradient)
        return step + 1, *trained

    steps = sampled.shape[0]
    _, *trained = tf.while_loop(lambda step, *_: step < steps, take_step, (tf.constant(0), *start))
    return list(trained)


def _sum_clipped(
    head: Any,
    target: Target[Any],
    weights: list[Any],
    features: Any,
    labels: Any,
    present: Any,
    sampled: Any,
    clip: Any,
) -> list[Any]:
    """Per weight array, the float64 sum of the sampled patients' clipped gradients, computed block by block."""
    block = min(features.shape[0], BLOCK)
    blocks = features.shape[0] // block
    features, labels, present, sampled = (
        tf.reshape(array, (blocks, block, *array.shape[1:])) for array in (features, labels, present, sampled)
    )
    zero = tf.constant(0.0, tf.float64)

    def add_block(number: Any, *sums: Any) -> tuple[Any, ...]:
        gradients = _patient_gradients(head, target, weights, features[number], labels[number], present[number])
        norms = tf.sqrt(tf.add_n([tf.reduce_sum(tf.reshape(array, (block, -1)) ** 2, axis=1) for array in gradients]))
        factors = tf.where(sampled[number], tf.minimum(tf.ones_like(norms), clip / norms), zero)
        totals = []
        for total, array in zip(sums, gradients, strict=True):
            factor = tf.reshape(factors, (block, *[1] * (array.shape.rank - 1)))
            is_finite = tf.reshape(tf.math.is_finite(norms), factor.shape)
            totals.append(total + tf.reduce_sum(tf.where(is_finite, factor * array, zero), axis=0))
        return number + 1, *totals

    zeros = [tf.zeros_like(array, tf.float64) for array in weights]
    _, *sums = tf.while_loop(lambda number, *_: number < blocks, add_block, (tf.constant(0), *zeros))
    return list(sums)


def _patient_gradients(
    head: Any, target: Target[Any], weights: list[Any], features: Any, labels: Any, present: Any
) -> list[Any]:
    """Each patient's own gradient, the sum over its rows: per weight array, float64 [patients, *shape]."""

    def gradient_of(patient: tuple[Any, Any, Any]) -> Any:
        inputs, of_rows, are_present = patient
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, _ = head.stateless_call(weights, [], inputs)
            loss = tf.reduce_sum(are_present * target.losses(tf, of_rows, outputs))
        return tape.gradient(loss, weights)

    return [tf.cast(array, tf.float64) for array in tf.vectorized_map(gradient_of, (features, labels, present))]
