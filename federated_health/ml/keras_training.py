"""Compiled local training of any Keras head, with any of Keras's optimizers.

A plain run does not need it: `training` has stochastic gradient descent of heads without state.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.backend import load_keras, load_tensorflow
from federated_health.ml.targets import Target
from federated_health.ml.training import Array, Indices, LocalTrainer, objective_of, pad_rows
from federated_health.names import SGD

tf = load_tensorflow()


class KerasTrainer(LocalTrainer):
    """Training and scoring of a head that may have state, such as the moving statistics of BatchNormalization.

    State is weights that are not trainable, and that of random layers, such as Dropout, which is no weight. Losses that
    layers add, such as a kernel's regulariser, count.

    Args:
        optimizer: Keras's name; its own state is new in each call of `train`.
        exact_batches: whether a short last batch is a batch of its own size, as a head needs whose layers look at all
            rows of a batch; otherwise it is padded with rows that do not count, which needs fewer compilations.
    """

    def __init__(self, head: Any, target: Target[Any], optimizer: str = SGD, *, exact_batches: bool = False) -> None:
        super().__init__(head, target)
        self._exact_batches = exact_batches
        position = {id(variable): i for i, variable in enumerate(head.weights)}
        self._random = [variable for variable in head.non_trainable_variables if id(variable) not in position]
        position |= {id(variable): i for i, variable in enumerate(self._random, len(position))}
        self._trainable = [position[id(variable)] for variable in head.trainable_variables]
        self._state = [position[id(variable)] for variable in head.non_trainable_variables]
        variables = head.trainable_variables
        self._optimizer = Descent(variables) if optimizer == SGD else KerasOptimizer(optimizer, variables)

    def _values_of(self, weights: list[Array], generator: np.random.Generator | None) -> list[npt.NDArray[Any]]:
        """The weights, then the states of random layers: 0 without a generator, where these layers do nothing."""
        states = [
            np.zeros(variable.shape, variable.dtype)
            if generator is None
            else generator.integers(2**31, size=variable.shape).astype(variable.dtype)
            for variable in self._random
        ]
        return [*weights, *states]

    def _arrange(self, order: Indices) -> tuple[list[Indices], int]:
        """The batches of `_train_steps`, and how many there are of the first kind: in all, or full ones per epoch."""
        if not self._exact_batches:
            return super()._arrange(order)
        present = (order >= 0).sum(axis=1)
        size = order.shape[1]
        epoch_ends = np.flatnonzero(present < size)
        if not len(epoch_ends):  # every batch is full, so that it does not matter where an epoch ends
            return [pad_rows(order, -1), np.empty((1, 0), np.int32)], len(order)
        short = order[epoch_ends, : present[epoch_ends[0]]]
        return [pad_rows(order[present == size], -1), short], int(epoch_ends[0])

    def _forward(self, values: list[Any], features: Any) -> Any:
        weights, state = [values[i] for i in self._trainable], [values[i] for i in self._state]
        outputs, _ = self._head.stateless_call(weights, state, features, training=False)
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
            start: see `_values_of`.
            batches: one table, [steps, batch size], of the rows of each step, -1 for none; or with exact batches those
                that are full, and [epochs, rows] of the short ones, each of which ends an epoch.
            steps: number of steps, or with exact batches of those before a short one.
        """
        width = len(self._trainable)
        first = [start[i] for i in self._trainable]

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
                count = tf.reduce_sum(present) if present is not None else tf.cast(tf.size(rows), tf.float32)
                objective = objective_of(losses, count, weights, first, scalars)
                for loss in added:
                    objective += loss
            gradients = tape.gradient(objective, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            moved = self._optimizer.step(weights, gradients, scalars[0])
            return loss_sum + tf.reduce_sum(losses), *moved, *state

        def take_steps(begin: Any, end: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
            def next_step(step: Any, *values: Any) -> tuple[Any, ...]:
                return step + 1, *take_step(batches[0][step], *values)

            return tf.while_loop(lambda step, *_: step < end, next_step, (begin, *values))[1:]  # type: ignore[no-any-return]

        def take_epoch(epoch: Any, *values: Any) -> tuple[Any, ...]:
            if batches[0].shape[0]:
                values = take_steps(epoch * steps, (epoch + 1) * steps, values)
            if batches[1].shape[1]:
                values = take_step(batches[1][epoch], *values)
            return epoch + 1, *values

        self._optimizer.begin(first, scalars[0])
        values = (tf.constant(0.0), *first, *(start[i] for i in self._state))
        if self._exact_batches:
            epochs = batches[1].shape[0]
            values = tf.while_loop(lambda epoch, *_: epoch < epochs, take_epoch, (tf.constant(0), *values))[1:]
        else:
            values = take_steps(tf.constant(0), steps, values)
        after = list(start)
        for i, value in zip([*self._trainable, *self._state], values[1:], strict=True):
            after[i] = value
        return after, values[0]


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
