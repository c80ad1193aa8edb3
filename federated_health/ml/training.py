"""Local training and scoring of one hospital's rows, compiled.

All local epochs of a round are one XLA-compiled function, so that a step takes microseconds where Keras's `fit` takes
milliseconds. Batches are rows of an index table with a fixed batch shape: a short last batch is exact, and results are
the same to the bit on every machine of one kind.
"""

import hashlib
from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.backend import load_keras, load_tensorflow
from federated_health.ml.networks import SGD
from federated_health.ml.targets import Target

tf = load_tensorflow()

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]

ROW_BUCKET = 64
"""Rows are padded to a multiple of this, so that hospitals of similar size share one compilation."""


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

    Weights are passed with every call, in the order of `head.weights`. Those that are not trainable are the head's
    state, such as the moving statistics of BatchNormalization.

    Args:
        target: gives the loss of the head's outputs.
        exact_batches: whether a short last batch is a batch of its own size, as a head needs whose layers look at all
            rows of a batch; otherwise it is padded with rows that do not count, which needs fewer compilations.
    """

    def __init__(self, head: Any, target: Target[Any], *, exact_batches: bool = False) -> None:
        self._head = head
        self._target = target
        self._exact_batches = exact_batches
        position = {id(variable): i for i, variable in enumerate(head.weights)}
        self._trainable = [position[id(variable)] for variable in head.trainable_variables]
        # None is the state of a random layer, such as Dropout, which is no weight.
        self._state = [position.get(id(variable)) for variable in head.non_trainable_variables]
        self._trainers: dict[str, Compiled] = {}
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
        optimizer: str = SGD,
        generator: np.random.Generator | None = None,
    ) -> tuple[list[Array], float]:
        """Gradient descent on the target's mean loss plus l2/2 times the squared kernels.

        FedProx adds proximal_mu/2 times the squared distance of all trainable weights from those given (Li et al. 2020,
        equation 2); at 0 that term is not compiled in. Losses that layers add, such as a kernel's regulariser, count.

        Args:
            weights: as the head lists them.
            features: [rows, width].
            labels: [rows].
            order: see `batch_order`.
            row_weights: [rows], factor of each row's loss; None for 1, which is not compiled in.
            optimizer: Keras's name of the optimizer; its state is new in each call.
            generator: draws the states of random layers; needed if the head has any.

        Returns:
            The new weights, and the mean loss per row over all steps, without the penalties; each row's loss is that of
            its step, times its weight.
        """
        padded = _pad_rows(features)
        batches, steps = self._arrange(order)
        if optimizer not in self._trainers:
            variables = self._head.trainable_variables
            steps_of = Descent(variables) if optimizer == SGD else KerasOptimizer(optimizer, variables)
            self._trainers[optimizer] = Compiled(partial(self._train_steps, steps_of))
        trained, state, loss = self._trainers[optimizer](
            (padded.shape, *(batch.shape for batch in batches), bool(proximal_mu), row_weights is None),
            [tf.constant(weights[i]) for i in self._trainable],
            [tf.constant(array) for array in self._state_of(weights, generator)],
            tf.constant(padded),
            tf.constant(_pad_rows(labels)),
            None if row_weights is None else tf.constant(_pad_rows(row_weights)),
            [tf.constant(batch) for batch in batches],
            tf.constant(steps),
            [_float(learning_rate), _float(l2), _float(proximal_mu) if proximal_mu else None],
        )
        new_weights = list(weights)
        for i, array in zip([*self._trainable, *self._state], [*trained, *state], strict=True):
            if i is not None:
                new_weights[i] = array.numpy()
        return new_weights, float(loss) / int((order >= 0).sum())

    def score(self, weights: list[Array], features: Array) -> Array:
        """The outputs of features [rows, width]: [rows] where the target has one output, else [rows, outputs]."""
        padded = _pad_rows(features)
        trained = [tf.constant(weights[i]) for i in self._trainable]
        state = [tf.constant(array) for array in self._state_of(weights, None)]
        outputs = self._score(padded.shape, trained, state, tf.constant(padded)).numpy()
        return (outputs[:, 0] if self._target.outputs == 1 else outputs)[: len(features)]  # type: ignore[no-any-return]

    def _state_of(self, weights: list[Array], generator: np.random.Generator | None) -> list[npt.NDArray[Any]]:
        """The head's state, as Keras lists it; of random layers 0 without a generator, where they do nothing."""
        state = []
        for i, variable in zip(self._state, self._head.non_trainable_variables, strict=True):
            if i is not None:
                state.append(weights[i])
            elif generator is None:
                state.append(np.zeros(variable.shape, variable.dtype))
            else:
                state.append(generator.integers(2**31, size=variable.shape).astype(variable.dtype))
        return state

    def _arrange(self, order: Indices) -> tuple[list[Indices], int]:
        """The batches of `_train_steps`, and how many there are of the first kind: in all, or full ones per epoch."""
        if not self._exact_batches:
            return [_pad_rows(order, -1)], len(order)
        present = (order >= 0).sum(axis=1)
        size = order.shape[1]
        epoch_ends = np.flatnonzero(present < size)
        if not len(epoch_ends):  # every batch is full, so that it does not matter where an epoch ends
            return [_pad_rows(order, -1), np.empty((1, 0), np.int32)], len(order)
        short = order[epoch_ends, : present[epoch_ends[0]]]
        return [_pad_rows(order[present == size], -1), short], int(epoch_ends[0])

    def _forward(self, weights: list[Any], state: list[Any], features: Any) -> Any:
        outputs, _ = self._head.stateless_call(weights, state, features, training=False)
        return outputs

    def _train_steps(
        self,
        optimizer: "Descent | KerasOptimizer",
        start: list[Any],
        state: list[Any],
        features: Any,
        labels: Any,
        row_weights: Any,
        batches: list[Any],
        steps: Any,
        scalars: list[Any],
    ) -> tuple[list[Any], list[Any], Any]:
        """All steps of a round.

        Args:
            state: of the head, as Keras lists it.
            batches: [steps, batch size], rows of each step, -1 for none; or with exact batches those that are full, and
                [epochs, rows] of the short ones, each of which ends an epoch.
            steps: number of steps, or with exact batches of those before a short one.
        """
        learning_rate, l2, proximal_mu = scalars
        width = len(start)

        def take_step(rows: Any, loss_sum: Any, *values: Any) -> tuple[Any, ...]:
            weights, state = list(values[:width]), list(values[width:])
            present = None
            if not self._exact_batches:
                present = tf.cast(rows >= 0, tf.float32)
                rows = tf.maximum(rows, 0)
            batch, targets = tf.gather(features, rows), tf.gather(labels, rows)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs, state, added = self._head.stateless_call(
                    weights, state, batch, training=True, return_losses=True
                )
                losses = self._target.losses(tf, targets, outputs)
                if present is not None:
                    losses = present * losses
                if row_weights is not None:  # decided at compile time
                    losses *= tf.gather(row_weights, rows)
                kernels = [tf.reduce_sum(array**2) for array in weights if array.shape.rank > 1]
                count = tf.reduce_sum(present) if present is not None else tf.cast(tf.size(rows), tf.float32)
                objective = tf.reduce_sum(losses) / count
                if kernels:
                    objective += 0.5 * l2 * tf.add_n(kernels)
                if proximal_mu is not None:  # decided at compile time
                    moves = [tf.reduce_sum((array - old) ** 2) for array, old in zip(weights, start, strict=True)]
                    objective += 0.5 * proximal_mu * tf.add_n(moves)
                for loss in added:
                    objective += loss
            gradients = tape.gradient(objective, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            moved = optimizer.step(weights, gradients, learning_rate)
            return loss_sum + tf.reduce_sum(losses), *moved, *state

        def take_steps(first: Any, last: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
            def next_step(step: Any, *values: Any) -> tuple[Any, ...]:
                return step + 1, *take_step(batches[0][step], *values)

            return tf.while_loop(lambda step, *_: step < last, next_step, (first, *values))[1:]  # type: ignore[no-any-return]

        def take_epoch(epoch: Any, *values: Any) -> tuple[Any, ...]:
            if batches[0].shape[0]:
                values = take_steps(epoch * steps, (epoch + 1) * steps, values)
            if batches[1].shape[1]:
                values = take_step(batches[1][epoch], *values)
            return epoch + 1, *values

        optimizer.begin(start, learning_rate)
        values = (tf.constant(0.0), *start, *state)
        if self._exact_batches:
            epochs = batches[1].shape[0]
            values = tf.while_loop(lambda epoch, *_: epoch < epochs, take_epoch, (tf.constant(0), *values))[1:]
        else:
            values = take_steps(tf.constant(0), steps, values)
        return list(values[1 : 1 + width]), list(values[1 + width :]), values[0]


class Descent:
    """Plain stochastic gradient descent, on weights that the loop passes on."""

    def __init__(self, variables: list[Any]) -> None:
        self._constraints = [variable.constraint for variable in variables]

    def begin(self, weights: list[Any], learning_rate: Any) -> None:
        """Do nothing: there is no state."""

    def step(self, weights: list[Any], gradients: list[Any], learning_rate: Any) -> list[Any]:
        """The weights after one step."""
        moved = [array - learning_rate * slope for array, slope in zip(weights, gradients, strict=True)]
        return [limit(array) if limit else array for array, limit in zip(moved, self._constraints, strict=True)]


class KerasOptimizer:
    """One of Keras's optimizers. It works on variables: Keras has no stateless optimizers on TensorFlow."""

    def __init__(self, name: str, variables: list[Any]) -> None:
        self._variables = variables
        self._optimizer = load_keras().optimizers.get(name)
        self._optimizer.build(variables)
        self._initial = [variable.numpy() for variable in self._optimizer.variables]

    def begin(self, weights: list[Any], learning_rate: Any) -> None:
        """Set the weights from which the steps begin, and the optimizer to its state before any step."""
        for variable, array in zip(self._variables, weights, strict=True):
            variable.assign(array)
        for variable, array in zip(self._optimizer.variables, self._initial, strict=True):
            variable.assign(array)
        self._optimizer.learning_rate.assign(learning_rate)

    def step(self, weights: list[Any], gradients: list[Any], learning_rate: Any) -> list[Any]:  # noqa: ARG002
        """The weights after one step; the variables hold those before it, too."""
        self._optimizer.apply(gradients, self._variables)
        return [tf.identity(variable.value) for variable in self._variables]


@lru_cache(maxsize=64)
def _float(value: float) -> Any:
    """A setting as a constant, made once since it is the same in every round."""
    return tf.constant(value, tf.float32)


def _pad_rows(array: npt.NDArray[Any], value: float = 0) -> npt.NDArray[Any]:
    """The array with rows of this value below, up to a multiple of `ROW_BUCKET` rows."""
    rows = -(-len(array) // ROW_BUCKET) * ROW_BUCKET
    padded = np.full((rows, *array.shape[1:]), value, dtype=array.dtype)
    padded[: len(array)] = array
    return padded
