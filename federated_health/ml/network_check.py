"""Building the network of a user's file, and refusing one that federated training could not use.

The file is code: it is executed here, in a process of the side that has this copy.
"""

import inspect
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from federated_health.data.tasks import Task
from federated_health.errors import NetworkError
from federated_health.ml.backend import load_keras
from federated_health.ml.keras_training import KerasTrainer
from federated_health.ml.network_file import BUILD, Description, read_source
from federated_health.ml.networks import Network
from federated_health.ml.targets import target_of
from federated_health.ml.training import batch_order
from federated_health.names import printable

HEAD = "network-head"
"""Name of the network in a saved model; no column has a hyphen in its name."""

MAX_CHARACTERS = 300
"""Longest text of another's exception in an error message."""

TRIAL_ROWS = 8

FINAL_ACTIVATIONS = ("sigmoid", "hard_sigmoid", "softmax", "log_softmax", "exponential", "softplus")
"""Activations that a network must not end with, since its target applies them to the outputs."""

FINAL_OPERATIONS = {name.replace("_", ""): name for name in FINAL_ACTIVATIONS} | {"exp": "exp"}
"""The same by the lower-case class name of a Keras operation or layer."""

MODULE = "network_file"
"""Name of the file's module while it is executed and built: dataclasses and pickle look their module up."""


def build_own(task: Task, network: Network, seed: int = 0) -> Any:
    """The Keras model that this side's copy of the file builds; NetworkError if it cannot be trained by a federation.

    The same seed gives the same initial weights.
    """
    path, source = read_source(network)
    keras = load_keras()
    with _randomness(seed):
        head = _call_build(path, source, task.feature_width, target_of(task).outputs)
    if not isinstance(head, keras.Model):
        raise NetworkError(f"{path}: build: expected a keras.Model, got {type(head).__name__}")
    if isinstance(head, keras.Sequential) and not head.built:  # without an Input, as many examples are
        with _explained(path, "build"), _randomness(seed):
            head.build((None, task.feature_width))
    _check_layers(path, head)
    _check_ends(path, head, task.feature_width, target_of(task).outputs)
    _check_variables(path, head)
    head.name = HEAD
    return head


def describe(task: Task, network: Network, seed: int) -> Description:
    """The network's initial weights for a seed, and what matters for training it."""
    head = build_own(task, network, seed)
    trainable = {id(variable) for variable in head.trainable_variables}
    names = [f"{i:03}/{variable.name}" for i, variable in enumerate(head.weights)]  # Keras's own paths count calls
    return Description(
        weights={name: variable.numpy() for name, variable in zip(names, head.weights, strict=True)},
        state=tuple(name for name, v in zip(names, head.weights, strict=True) if id(v) not in trainable),
        is_random=len(head.non_trainable_variables) > len(head.weights) - len(trainable),
        has_penalties=bool(head.losses) or any(_has_penalty(layer) for layer in _layers_of(head)),
    )


def try_out(task: Task, network: Network) -> None:
    """Save and load the network, and take one training step and one evaluation on random rows.

    Raises:
        NetworkError: one of them fails, or gives what is not finite.
    """
    head, target = build_own(task, network), target_of(task)
    path = network.path or Path(BUILD)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(TRIAL_ROWS, task.feature_width)).astype(np.float32)
    features[0] = 0
    weights = head.get_weights()
    trainer = KerasTrainer(head, target, exact_batches=True)
    with _explained(path, "evaluation"):
        outputs = trainer.score(weights, features)
    if outputs.shape[0] != TRIAL_ROWS or not np.isfinite(outputs).all():
        raise NetworkError(f"{path}: evaluation: expected finite outputs, got others on random features")
    if not np.allclose(outputs[:3], trainer.score(weights, features[:3]), rtol=1e-3, atol=1e-5):
        raise NetworkError(f"{path}: expected outputs of a row that do not depend on the other rows, got such outputs")
    _check_saving(path, head, features)
    shapes, again = ([tuple(array.shape) for array in built.weights] for built in (head, build_own(task, network)))
    if shapes != again:
        raise NetworkError(f"{path}: build: expected the same weights in each call, got other shapes in the second one")
    order = batch_order(seed=0, hospital=BUILD, round_number=1, rows=TRIAL_ROWS, epochs=1, batch_size=0)
    labels = np.zeros(TRIAL_ROWS, np.float32)
    with _explained(path, "training"):
        trained, loss = trainer.train(weights, features, labels, order, learning_rate=1e-3, l2=0.0, generator=generator)
    if all(map(np.array_equal, trained, weights)):
        raise NetworkError(f"{path}: training: expected weights in which the loss has a slope, got none")
    if not np.isfinite(loss) or not all(np.isfinite(array).all() for array in trained):
        raise NetworkError(f"{path}: training: expected finite weights, got others after one step on random features")


def _call_build(path: Path, source: bytes, features: int, outputs: int) -> Any:
    """What `build(features, outputs)` of the file returns."""
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    wrong = f"{path}: expected a function build(features, outputs) that returns a keras.Model"
    with _isolated(module):
        with _explained(path, "import"):
            exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))  # this side's own file
        build, shown = getattr(module, BUILD, None), BUILD
        if not callable(build):
            raise NetworkError(f"{wrong}, got none")
        try:
            signature = inspect.signature(build)
            shown += str(signature)
            signature.bind(features, outputs)
        except (TypeError, ValueError):
            raise NetworkError(f"{wrong}, got {shown}") from None
        with _explained(path, BUILD):
            return build(features, outputs)


@contextmanager
def _isolated(module: ModuleType) -> Iterator[None]:
    """Let a file's module be found until the block ends, and undo its changes of Keras's global types."""
    keras = load_keras()
    floats, policy = keras.config.floatx(), keras.config.dtype_policy()
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        sys.modules.pop(module.__name__, None)
        keras.config.set_floatx(floats)
        keras.config.set_dtype_policy(policy)


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn an exception of the file's code, or of Keras about it, into a NetworkError with its text and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        where = f"line {lines[-1]}" if lines else what
        text = " ".join(str(error).split())
        raise NetworkError(f"{path}: {where}: {type(error).__name__}: {printable(text, MAX_CHARACTERS)}") from None


@contextmanager
def _randomness(seed: int) -> Iterator[None]:
    """Seed Keras, Python and NumPy until the block ends; afterwards, the latter two continue as if nothing happened."""
    state, numpy_state = random.getstate(), np.random.get_state()
    load_keras().utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _layers_of(head: Any) -> list[Any]:
    """All layers, also those inside other layers, without the model itself."""
    return list(head._flatten_layers(include_self=False, recursive=True))


def _has_penalty(layer: Any) -> bool:
    penalties = [variable.regularizer or variable.constraint for variable in layer.weights]
    return any(penalties) or getattr(layer, "activity_regularizer", None) is not None


def _check_layers(path: Path, head: Any) -> None:
    for layer in [head, *_layers_of(head)]:
        kind = type(layer)
        if kind.__name__ == "Lambda":
            raise NetworkError(f"{path}: layer {layer.name}: expected none of Lambda, whose code no saved model holds")
        if not kind.__module__.startswith("keras."):
            raise NetworkError(
                f"{path}: layer {layer.name}: expected Keras's own layers, which every saved model loads with, got the "
                f"class {kind.__name__}"
            )
        for name in _foreign_names(layer.get_config() if layer is not head else None):
            raise NetworkError(
                f"{path}: layer {layer.name}: expected Keras's own functions and classes, which every saved model "
                f"loads with, got {name}"
            )


def _foreign_names(config: Any) -> Iterator[str]:
    """Names of functions and classes in a layer's config that are not Keras's own."""
    if isinstance(config, dict):
        if config.get("class_name") == "function":
            yield str(config.get("config"))
        elif not str(config.get("module") or "keras").startswith("keras"):
            yield str(config["class_name"])
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _foreign_names(value)


def _check_ends(path: Path, head: Any, features: int, outputs: int) -> None:
    """Check the shapes of inputs and outputs, and that the last layer leaves the activation to the target."""
    keras = load_keras()
    try:
        inputs, ends = [tuple(tensor.shape) for tensor in head.inputs], [tuple(tensor.shape) for tensor in head.outputs]
    except (AttributeError, ValueError):
        raise NetworkError(f"{path}: build: expected a sequential or functional model, got none of them") from None
    if inputs != [(None, features)]:
        raise NetworkError(f"{path}: build: expected one input of shape {(None, features)}, got {_listed(inputs)}")
    if ends != [(None, outputs)]:
        raise NetworkError(f"{path}: build: expected one output of shape {(None, outputs)}, got {_listed(ends)}")
    if isinstance(getattr(head, "_outputs_struct", None), dict):
        raise NetworkError(f"{path}: build: expected one output, got a dict of outputs")
    for what, tensor in (("inputs", head.inputs[0]), ("outputs", head.outputs[0])):
        if tensor.dtype != "float32":
            raise NetworkError(f"{path}: build: expected {what} of float32, got {tensor.dtype}")
    last = head
    while isinstance(last, keras.Model):
        last = last.outputs[0]._keras_history.operation
    name = getattr(getattr(last, "activation", None), "__name__", "")
    name = name or FINAL_OPERATIONS.get(type(last).__name__.lower(), "")
    if name in FINAL_OPERATIONS.values():
        raise NetworkError(
            f"{path}: layer {last.name}: expected no activation at the end, got {name}: the loss and the saved model "
            "apply it to the outputs"
        )


def _listed(shapes: list[tuple[int | None, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "none"


def _check_variables(path: Path, head: Any) -> None:
    """Check that weights are float32, and that other state is of random layers only."""
    owners = {id(variable): layer.name for layer in _layers_of(head) for variable in layer.variables}
    weights = {id(variable) for variable in head.weights}
    for variable in head.variables:
        owner = owners.get(id(variable), head.name)
        if id(variable) in weights:
            if variable.dtype != "float32":
                raise NetworkError(
                    f"{path}: layer {owner}: expected weights of float32, got {variable.dtype} for {variable.name}"
                )
        elif variable.name != "seed_generator_state":
            raise NetworkError(
                f"{path}: layer {owner}: expected no state but float32 weights and seeds, got {variable.name} of "
                f"{variable.dtype}"
            )
    if not head.trainable_variables:
        raise NetworkError(f"{path}: build: expected a network with trainable weights, got none")


def _check_saving(path: Path, head: Any, features: Any) -> None:
    """Check that plain Keras, without what the file registers, loads the saved network and predicts the same."""
    keras = load_keras()
    registered = keras.saving.get_custom_objects()
    own = dict(registered)
    with tempfile.TemporaryDirectory() as folder, _explained(path, "saving"):
        file = Path(folder) / "network.keras"
        head.save(file)
        registered.clear()
        try:
            loaded = keras.saving.load_model(file)
        finally:
            registered.update(own)
        same = np.array_equal(head(features, training=False), loaded(features, training=False))
    if not same:
        raise NetworkError(f"{path}: saving: expected a network that predicts the same once it is loaded, got another")
