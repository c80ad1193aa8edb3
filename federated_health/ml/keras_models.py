"""The Keras models: raw columns in, probability out.

A model is an encoder, fixed by the task and the normalisation, and a head, whose weights the hospitals train. Both
consist of Keras's own layers and operations, so that a saved model loads with plain `keras.saving.load_model`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.ml.backend import load_keras
from federated_health.ml.networks import FILE, Network, hidden_names, weight_shapes
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of


def build_encoder(task: Task, normalisation: Normalisation) -> Any:
    """Keras model from raw columns to features.

    Inputs: float32 [rows, 1] by column name, NaN for missing. Output: float32 [rows, task.feature_width]. A measurement
    becomes its scaled value (0 where missing) and a flag for missing; a category becomes a one-hot whose last place is
    for missing and unknown codes.
    """
    keras = load_keras()
    inputs = {column.name: keras.Input((1,), name=column.name) for column in task.columns}
    scales = iter(zip(normalisation.mean, normalisation.variance, strict=True))
    features = []
    for column in task.columns:
        raw = inputs[column.name]
        if isinstance(column, Measurement):
            mean, variance = next(scales)
            missing = keras.ops.isnan(raw)
            if column.zero_is_missing:
                missing = keras.ops.logical_or(missing, keras.ops.equal(raw, 0.0))
            scaled = keras.ops.multiply(keras.ops.subtract(raw, mean), variance**-0.5)
            features += [keras.ops.where(missing, 0.0, scaled), keras.ops.cast(missing, "float32")]
        else:
            flags = [keras.ops.cast(keras.ops.equal(raw, float(code)), "float32") for code in column.codes]
            known = keras.ops.sum(keras.ops.concatenate(flags, axis=-1), axis=-1, keepdims=True)
            features += [*flags, keras.ops.subtract(1.0, known)]
    return keras.Model(inputs, keras.ops.concatenate(features, axis=-1), name="encoder")


def build_head(task: Task, network: Network) -> Any:
    """Keras model from features, float32 [rows, task.feature_width], to the outputs of the task's target.

    The outputs are float32 [rows, outputs], such as log-odds (see `targets`).

    Raises:
        NetworkError: the network is a file that cannot be used.
    """
    if network.model == FILE:
        from federated_health.ml.network_check import build_own  # noqa: PLC0415  # only where there is a file

        return build_own(task, network)
    keras = load_keras()
    layers = [keras.Input((task.feature_width,), name="features")]
    for name, units in zip(hidden_names(network), network.hidden, strict=True):
        layers.append(keras.layers.Dense(units, activation=network.activation, name=name))
        if network.dropout:
            layers.append(keras.layers.Dropout(network.dropout, name=f"{name}-dropout"))
    layers.append(keras.layers.Dense(target_of(task).outputs, name="logit"))
    return keras.Sequential(layers, name="network-head")  # no column has a hyphen in its name


def build_model(
    task: Task, network: Network, normalisation: Normalisation, weights: Mapping[str, npt.NDArray[Any]]
) -> Any:
    """The whole Keras model: raw columns in (see `build_encoder`), predictions of the task's target out."""
    encoder, head = build_encoder(task, normalisation), build_head(task, network)
    head.set_weights([weights[name] for name in weight_shapes(task, network)])
    predictions = target_of(task).predictions(load_keras(), head(encoder.output))
    return load_keras().Model(encoder.input, predictions, name=task.name.replace("-", "_"))


def encode(encoder: Any, task: Task, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Features, [rows, task.feature_width], of patients given as [rows, columns of the task], NaN for missing."""
    return np.asarray(encoder(_named_columns(task, values), training=False))


def predict(model: Any, task: Task, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """What a model returns, [rows, outputs], for patients given as [rows, columns of the task], NaN for missing."""
    return np.asarray(model(_named_columns(task, values), training=False))


def _named_columns(task: Task, values: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float32]]:
    """Columns as the Keras models take them: float32 [rows, 1] by name."""
    return {name: values[:, [i]].astype(np.float32) for i, name in enumerate(task.column_names)}
