"""Local training and scoring of one hospital's rows, compiled.

All local epochs of a round are one XLA-compiled function, so that a step takes microseconds where Keras's `fit` takes
milliseconds. Batches are rows of an index table with a fixed batch shape: a short last batch is exact, and results are
the same to the bit on every machine of one kind.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.backend import load_tensorflow
from federated_health.ml.targets import Target

tf = load_tensorflow()

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]

ROW_BUCKET = 64
"""Rows are padded to a multiple of this, so that hospitals of similar size share one compilation."""

LARGE_BUCKET = 8192
"""As ROW_BUCKET, for large tables; between 1024 rows and this, they are padded to a power of 2."""


def batch_order(*, seed: int, hospital: str, round_number: int, rows: int, epochs: int, batch_size: int) -> Indices:
    """Rows of each step's batch: one shuffle per epoch, which depends on seed, hospital and round only.

    Args:
        batch_size: rows in a batch; 0 for all rows in one.

    Returns:
        [epochs * ceil(rows / batch_size), batch_size], positions of rows; -1 fills a short last batch.
    """
    batch_size = batch_size or rows
    generator = random_generator(seed, hospital, round_number)
    steps = -(-rows // batch_size)
    order = np.full((epochs, steps * batch_size), -1, dtype=np.int32)
    for epoch in range(epochs):
        order[epoch, :rows] = generator.permutation(rows)
    return order.reshape(epochs * steps, batch_size)


def random_generator(seed: int, hospital: str, round_number: int, *purpose: int) -> np.random.Generator:
    """A generator whose numbers depend on seed, hospital, round and purpose only."""
    name = int.from_bytes(hashlib.sha256(hospital.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, name, round_number, *purpose])


LAYERS = 1
"""Purpose of the generator for random layers, such as Dropout; that for batches has none."""


class Compiled:
    """A function that XLA compiles once for each combination of its arguments' shapes.

    The caller names the combination, since TensorFlow's own look-up takes longer than an epoch of training.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = tf.function(function, jit_compile=True, autograph=False)
        self.variants: dict[Hashable, Any] = {}

    def __call__(self, shapes: Hashable, *arguments: Any) -> Any:
        if shapes not in self.variants:
            self.variants[shapes] = self._function.get_concrete_function(*arguments)
        return self.variants[shapes](*arguments)


class LocalTrainer:
    """Compiled training and scoring of a head (see `build_head`), for the rows of any hospital.

    Weights are passed with every call, in the order of `head.weights`. The steps are plain stochastic gradient descent
    of a head without state; `keras_training.KerasTrainer` is for all others.

    Args:
        target: gives the loss of the head's outputs.
    """

    def __init__(self, head: Any, target: Target[Any]) -> None:
        self._head = head
        self._target = target
        self._train = Compiled(self._train_steps)
        self._score = Compiled(self._forward)

    def train(
        self,
        weights: list[Array],
        features: Array,
        labels: Array,
        order: Indices,
        *,
        learning_rate: float,
        l2: float,
        proximal_mu: float = 0.0,
        row_weights: Array | None = None,
        generator: np.random.Generator | None = None,
    ) -> tuple[list[Array], float]:
        """Gradient descent on the target's mean loss plus l2/2 times the squared kernels.

        FedProx adds proximal_mu/2 times the squared distance of all trainable weights from those given (Li et al. 2020,
        equation 2); at 0 that term is not compiled in.

        Args:
            weights: as the head lists them.
            features: [rows, width].
            labels: [rows].
            order: see `batch_order`.
            row_weights: [rows], factor of each row's loss; None for 1, which is not compiled in.
            generator: draws the states of random layers; needed if the head has any.

        Returns:
            The new weights, and the mean loss per row over all steps, without the penalties; each row's loss is that of
            its step, times its weight.
        """
        padded = pad_rows(features)
        batches, steps = self._arrange(order)
        trained, loss = self._train(
            (padded.shape, *(batch.shape for batch in batches), bool(proximal_mu), row_weights is None),
            [tf.constant(array) for array in self._values_of(weights, generator)],
            tf.constant(padded),
            tf.constant(pad_rows(labels)),
            None if row_weights is None else tf.constant(pad_rows(row_weights)),
            [tf.constant(batch) for batch in batches],
            tf.constant(steps),
            [_float(learning_rate), _float(l2), _float(proximal_mu) if proximal_mu else None],
        )
        return [array.numpy() for array in trained[: len(weights)]], float(loss) / int((order >= 0).sum())

    def score(self, weights: list[Array], features: Array) -> Array:
        """The outputs of features [rows, width]: [rows] where the target has one output, else [rows, outputs]."""
        padded, values = pad_rows(features), self._values_of(weights, None)
        outputs = self._score(padded.shape, [tf.constant(array) for array in values], tf.constant(padded)).numpy()
        return (outputs[:, 0] if self._target.outputs == 1 else outputs)[: len(features)]  # type: ignore[no-any-return]

    def _values_of(self, weights: list[Array], generator: np.random.Generator | None) -> list[npt.NDArray[Any]]:  # noqa: ARG002  # no random layers
        """The weights, then the head's other state."""
        return list(weights)

    def _arrange(self, order: Indices) -> tuple[list[Indices], int]:
        """The batches of `_train_steps`, and the number of steps."""
        return [pad_rows(order, -1)], len(order)

    def _forward(self, values: list[Any], features: Any) -> Any:
        outputs, _ = self._head.stateless_call(values, [], features, training=False)
        return outputs

    def _train_steps(
        self,
        start: list[Any],
        features: Any,
        labels: Any,
        row_weights: Any,
        batches: list[Any],
        steps: Any,
        scalars: list[Any],
    ) -> tuple[list[Any], Any]:
        """All steps of a round.

        Args:
            batches: one table, [steps, batch size], of the rows of each step, -1 for none.
        """
        (order,) = batches

        def take_step(step: Any, loss_sum: Any, *weights: Any) -> tuple[Any, ...]:
            rows = order[step]
            present = tf.cast(rows >= 0, tf.float32)
            rows = tf.maximum(rows, 0)
            batch, targets = tf.gather(features, rows), tf.gather(labels, rows)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs, _ = self._head.stateless_call(list(weights), [], batch, training=True)
                losses = present * self._target.losses(tf, targets, outputs)
                if row_weights is not None:  # decided at compile time
                    losses *= tf.gather(row_weights, rows)
                objective = objective_of(losses, tf.reduce_sum(present), weights, start, scalars)
            gradients = tape.gradient(objective, weights)
            moved = [array - scalars[0] * slope for array, slope in zip(weights, gradients, strict=True)]
            return step + 1, loss_sum + tf.reduce_sum(losses), *moved

        begin = tf.constant(0), tf.constant(0.0), *start
        _, loss_sum, *moved = tf.while_loop(lambda step, *_: step < steps, take_step, begin)
        return moved, loss_sum


def objective_of(losses: Any, count: Any, weights: Sequence[Any], start: Sequence[Any], scalars: list[Any]) -> Any:
    """What a step decreases, in TensorFlow: the mean loss with the penalties (see `LocalTrainer.train`).

    Args:
        losses: [rows], 0 where a batch has no row.
        count: number of rows in the batch.
        weights, start: that are trained, and as they were before the first step.
        scalars: learning rate, l2, and proximal_mu or None.
    """
    _, l2, proximal_mu = scalars
    objective = tf.reduce_sum(losses) / count
    if kernels := [tf.reduce_sum(array**2) for array in weights if array.shape.rank > 1]:
        objective += 0.5 * l2 * tf.add_n(kernels)
    if proximal_mu is not None:  # decided at compile time
        moves = [tf.reduce_sum((array - old) ** 2) for array, old in zip(weights, start, strict=True)]
        objective += 0.5 * proximal_mu * tf.add_n(moves)
    return objective


@lru_cache(maxsize=64)
def _float(value: float) -> Any:
    """A setting as a constant, made once since it is the same in every round."""
    return tf.constant(value, tf.float32)


def pad_rows(array: npt.NDArray[Any], value: float = 0) -> npt.NDArray[Any]:
    """The array with rows of this value below, up to a number of rows that others share (see `LARGE_BUCKET`)."""
    power = 1 << max(0, len(array) - 1).bit_length()
    bucket = ROW_BUCKET if power <= 1024 else min(power, LARGE_BUCKET)
    rows = -(-len(array) // bucket) * bucket
    padded = np.full((rows, *array.shape[1:]), value, dtype=array.dtype)
    padded[: len(array)] = array
    return padded
