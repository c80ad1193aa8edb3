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
from federated_health.ml.training import ROW_BUCKET, Array, Indices
from federated_health.privacy.entropy import gaussian_noise, poisson_sample

tf = load_tensorflow()

BLOCK = 128
"""Number of patients whose gradients, each as large as the weights, are in memory at once."""

GROWTH = 4
"""Patients with up to 1, 4, 16, ... rows are computed together, each filled up with empty rows to that number."""


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
    number, groups = int(patients.max()) + 1, group_patients(patients)
    deviation = plan.noise_multiplier * plan.clip
    sampled = poisson_sample(number, plan.sampling_rate, plan.steps)
    noise = [gaussian_noise(deviation, (plan.steps, *array.shape)) for array in weights.values()]
    trained = _compile_steps(task, network)(
        [tf.constant(array) for array in weights.values()],
        tf.constant(_pad(features, 0)),
        tf.constant(_pad(labels, 0)),
        [tf.constant(_pad(rows, -1)) for _, rows in groups],
        [tuple(map(tf.constant, arrange_sample(sampled[:, members]))) for members, _ in groups],
        [tf.constant(array) for array in noise],
        *(tf.constant(value, tf.float64) for value in (plan.clip, plan.sampling_rate * number)),
        *(tf.constant(value, tf.float32) for value in (plan.learning_rate, l2, proximal_mu)),
    )
    return {name: array.numpy() for name, array in zip(weights, trained, strict=True)}


def group_patients(patients: npt.NDArray[np.intp]) -> list[tuple[npt.NDArray[np.intp], Indices]]:
    """Patients by their number of rows: up to 1, `GROWTH`, `GROWTH`**2, ..., groups without patients left out.

    Returns:
        Of each group the numbers of its patients, [patients], and the positions of their rows, [patients, most rows],
        -1 where a patient has no more.
    """
    numbers = np.bincount(patients)
    first = np.cumsum(numbers) - numbers
    by_patient = np.argsort(patients, kind="stable").astype(np.int32)
    groups, smaller, size = [], 0, 1
    while smaller < numbers.max():
        members = np.flatnonzero((smaller < numbers) & (numbers <= size))
        if len(members):
            place = np.arange(size)
            last = numbers[members, np.newaxis] - 1
            rows = by_patient[first[members, np.newaxis] + np.minimum(place, last)]
            groups.append((members, np.where(place <= last, rows, np.int32(-1))))
        smaller, size = size, size * GROWTH
    return groups


def arrange_sample(sampled: npt.NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """The sampled patients of a group in blocks, of which a step computes no more than it needs.

    Args:
        sampled: [steps, patients].

    Returns:
        Places of the sampled patients in their group, [steps, blocks, block], those first, then -1; and each step's
        number of blocks with patients, [steps]. There is room for the whole group, so the shapes are the same for
        every sample.
    """
    steps, patients = sampled.shape
    room, counts = _room_for(patients), sampled.sum(axis=1)
    block = min(BLOCK, room)
    order = np.full((steps, room), -1, np.int32)
    step, place = np.nonzero(sampled)
    order[step, np.arange(len(step)) - np.repeat(np.cumsum(counts) - counts, counts)] = place
    return order.reshape(steps, -1, block), (-(-counts // block)).astype(np.int32)


def _pad(array: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
    """The array with rows of this value below, so that hospitals of similar size share one compilation."""
    padded = np.full((_room_for(len(array)), *array.shape[1:]), value, array.dtype)
    padded[: len(array)] = array
    return padded


def _room_for(number: int) -> int:
    """The next power of 2, at least `ROW_BUCKET`."""
    return max(ROW_BUCKET, 1 << (number - 1).bit_length())


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
    groups: list[Any],
    sampled: list[tuple[Any, Any]],
    noise: list[Any],
    clip: Any,
    expected_patients: Any,
    learning_rate: Any,
    l2: Any,
    proximal_mu: Any,
) -> list[Any]:
    def take_step(step: Any, *weights: Any) -> tuple[Any, ...]:
        sums = [tf.zeros_like(array, tf.float64) for array in weights]
        for rows, (blocks, number_of_blocks) in zip(groups, sampled, strict=True):
            sums = _add_clipped(
                sums, head, target, list(weights), features, labels, rows, blocks[step], number_of_blocks[step], clip
            )
        trained = []
        for array, old, total, added in zip(weights, start, sums, noise, strict=True):
            gradient = tf.cast((total + added[step]) / expected_patients, array.dtype) + proximal_mu * (array - old)
            if array.shape.rank > 1:
                gradient += l2 * array
            trained.append(array - learning_rate * gradient)
        return step + 1, *trained

    steps = noise[0].shape[0]
    _, *trained = tf.while_loop(lambda step, *_: step < steps, take_step, (tf.constant(0), *start))
    return list(trained)


def _add_clipped(
    sums: list[Any],
    head: Any,
    target: Target[Any],
    weights: list[Any],
    features: Any,
    labels: Any,
    rows: Any,
    blocks: Any,
    number_of_blocks: Any,
    clip: Any,
) -> list[Any]:
    """Add the clipped gradients of a group's sampled patients to the float64 sums per weight array, block by block.

    Args:
        rows: [patients, most rows], see `group_patients`.
        blocks: [blocks, block], see `arrange_sample`.
    """
    zero = tf.constant(0.0, tf.float64)

    def add_block(number: Any, *sums: Any) -> tuple[Any, ...]:
        patients = blocks[number]
        of_block = tf.gather(rows, tf.maximum(patients, 0))
        present = tf.cast(of_block >= 0, tf.float32)
        of_block = tf.where(of_block >= 0, of_block, of_block[:, :1])  # in its place, the patient's own first row
        gradients = _patient_gradients(
            head, target, weights, tf.gather(features, of_block), tf.gather(labels, of_block), present
        )
        block = patients.shape[0]
        norms = tf.sqrt(tf.add_n([tf.reduce_sum(tf.reshape(array, (block, -1)) ** 2, axis=1) for array in gradients]))
        factors = tf.where(patients >= 0, tf.minimum(tf.ones_like(norms), clip / norms), zero)
        totals = []
        for total, array in zip(sums, gradients, strict=True):
            factor = tf.reshape(factors, (block, *[1] * (array.shape.rank - 1)))
            is_finite = tf.reshape(tf.math.is_finite(norms), factor.shape)
            totals.append(total + tf.reduce_sum(tf.where(is_finite, factor * array, zero), axis=0))
        return number + 1, *totals

    _, *sums = tf.while_loop(lambda number, *_: number < number_of_blocks, add_block, (tf.constant(0), *sums))
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
