"""Local training that hides each patient: sums of clipped per-patient gradients plus noise, compiled (DP-SGD).

Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1, with the true Poisson sampling that its
accounting assumes. Who is sampled and what noise is added comes from outside: this module draws nothing.

Norms, sums and noise are float64, and only what has its noise is rounded to the weights' float32. In float32 a norm
whose squares underflow would be 0 and go unclipped, sums of many would round by more than one patient may add, and the
last bits of a small noisy sum would tell how large it was without its noise (Mironov 2012, see `privacy.entropy`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.backend import load_tensorflow
from federated_health.ml.training import ROW_BUCKET, Array

tf = load_tensorflow()

BLOCK = 512
"""Patients whose gradients are in memory at once, each as large as the weights."""


class PrivateTrainer:
    """Compiled noisy steps of one architecture, for the rows of any hospital.

    Args:
        head: Keras model from features to log-odds, without state other than its trainable weights.
    """

    def __init__(self, head: Any) -> None:
        self._head = head
        self._train = tf.function(self._train_steps, jit_compile=True)

    def train(
        self,
        weights: Sequence[Array],
        features: Array,
        labels: Array,
        sampled: npt.NDArray[np.bool_],
        noise: Sequence[Array],
        *,
        clip: float,
        expected_rows: float,
        learning_rate: float,
        l2: float,
        proximal_mu: float = 0.0,
    ) -> list[Array]:
        """Gradient descent in which a patient moves no step's sum of gradients by more than `clip`.

        Each patient's gradient of the binary cross-entropy, over all weights together, is scaled down to the L2 norm
        `clip` where it is longer; one that is not finite counts as none. The sum over a step's sample, plus noise, is
        divided by the expected size of a sample, which tells nothing about the sample's. The gradients of the penalties
        (see `LocalTrainer.train`) depend on no patient and are added unclipped.

        Args:
            weights: as the head lists them.
            features: [rows, width].
            labels: [rows], 0 or 1.
            sampled: [steps, rows], whose gradients a step takes.
            noise: for each of the weights float64 [steps, *shape], added to the step's sum.

        Returns:
            The new weights; no loss, which would tell of the rows what nothing accounts for.
        """
        padding = -len(features) % (ROW_BUCKET if len(features) <= BLOCK else BLOCK)
        moved = self._train(
            [tf.constant(array) for array in weights],
            tf.constant(np.pad(features, ((0, padding), (0, 0)))),
            tf.constant(np.pad(labels, (0, padding))),
            tf.constant(np.pad(sampled, ((0, 0), (0, padding)))),
            [tf.constant(array, tf.float64) for array in noise],
            tf.constant(clip, tf.float64),
            tf.constant(expected_rows, tf.float64),
            tf.constant(learning_rate, tf.float32),
            tf.constant(l2, tf.float32),
            tf.constant(proximal_mu, tf.float32),
        )
        return [array.numpy() for array in moved]

    def _train_steps(
        self,
        weights: list[Any],
        features: Any,
        labels: Any,
        sampled: Any,
        noise: list[Any],
        clip: Any,
        expected_rows: Any,
        learning_rate: Any,
        l2: Any,
        proximal_mu: Any,
    ) -> list[Any]:
        start = weights

        def take_step(step: Any, *weights: Any) -> tuple[Any, ...]:
            sums = self._sum_clipped(list(weights), features, labels, sampled[step], clip)
            moved = []
            for array, old, total, drawn in zip(weights, start, sums, noise, strict=True):
                slope = tf.cast((total + drawn[step]) / expected_rows, array.dtype) + proximal_mu * (array - old)
                if array.shape.rank > 1:
                    slope += l2 * array
                moved.append(array - learning_rate * slope)
            return step + 1, *moved

        steps = sampled.shape[0]
        _, *moved = tf.while_loop(lambda step, *_: step < steps, take_step, (tf.constant(0), *weights))
        return list(moved)

    def _sum_clipped(self, weights: list[Any], features: Any, labels: Any, sampled: Any, clip: Any) -> list[Any]:
        """For each of the weights, the float64 sum of the sampled patients' clipped gradients; a block at a time."""
        block = min(features.shape[0], BLOCK)
        blocks = features.shape[0] // block
        features, labels, sampled = (
            tf.reshape(array, (blocks, block, *array.shape[1:])) for array in (features, labels, sampled)
        )

        whole, none = tf.constant(1.0, tf.float64), tf.constant(0.0, tf.float64)

        def add_block(number: Any, *sums: Any) -> tuple[Any, ...]:
            gradients = [
                tf.cast(one, tf.float64) for one in self._patient_gradients(weights, features[number], labels[number])
            ]
            squares = [tf.reduce_sum(tf.reshape(one, (block, -1)) ** 2, axis=1) for one in gradients]
            norms = tf.sqrt(tf.add_n(squares))
            factors = tf.where(sampled[number], tf.minimum(whole, clip / norms), none)
            added = []
            for total, one in zip(sums, gradients, strict=True):
                each = tf.reshape(factors, (block, *[1] * (one.shape.rank - 1)))
                usable = tf.reshape(tf.math.is_finite(norms), each.shape)
                added.append(total + tf.reduce_sum(tf.where(usable, each * one, none), axis=0))
            return number + 1, *added

        zeros = [tf.zeros_like(array, tf.float64) for array in weights]
        _, *sums = tf.while_loop(lambda number, *_: number < blocks, add_block, (tf.constant(0), *zeros))
        return list(sums)

    def _patient_gradients(self, weights: list[Any], features: Any, labels: Any) -> list[Any]:
        """Each patient's own gradient, for each of the weights [rows, *shape]."""

        def gradient_of(patient: tuple[Any, Any]) -> Any:
            inputs, label = patient
            with tf.GradientTape() as tape:
                tape.watch(weights)
                logits, _ = self._head.stateless_call(weights, [], inputs[None])
                loss = tf.nn.sigmoid_cross_entropy_with_logits(label, logits[0, 0])
            return tape.gradient(loss, weights)

        return list(tf.vectorized_map(gradient_of, (features, labels)))
