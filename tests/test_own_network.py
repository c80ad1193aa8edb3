"""Networks from a user's file: what is refused, what the server learns of one, and how one trains."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

import client
from federated_health.data.hospital import load_hospital
from federated_health.data.labels import ClassLabel
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task, write_agreement
from federated_health.errors import JoinError, NetworkError, SettingsError
from federated_health.hospital.handlers import InMemoryHospital, hospital_of
from federated_health.messages.content import CONFIG, REGISTRATION
from federated_health.messages.server_messages import read_train_config
from federated_health.ml import network_file
from federated_health.ml.backend import load_keras
from federated_health.ml.network_file import check_network, describe_network, read_description, read_network
from federated_health.ml.networks import (
    FILE,
    NETWORK_FILE,
    Network,
    agreement_of,
    initial_weights,
    weight_shapes,
)
from federated_health.server.own_network import check_own_network
from federated_health.server.plain_run import PlainRun
from federated_health.settings import OPERATIONAL, Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.scripts import PROJECT
from tests.support.train_configs import train_config

EXAMPLE = PROJECT / "examples" / "networks" / "batch_norm.py"
WIDTH = HEART_DISEASE.feature_width

slow = pytest.mark.slow
with_keras = pytest.mark.usefixtures("keras")
"""Keras is loaded, so that networks are built in this process."""


def sequential(*layers: str) -> str:
    """A network file whose network has these layers."""
    return f"""
import keras
from keras import layers

def build(features, outputs):
    return keras.Sequential([keras.Input((features,)), {", ".join(layers)}])
"""


PLAIN = sequential('layers.Dense(4, activation="tanh")', "layers.Dense(outputs)")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(source: str, name: str = "my_network.py") -> Network:
        path = tmp_path / name
        path.write_text(source)
        return read_network(path)

    return write_file


# What can be told without executing the file


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"missing\.py: cannot be read \(No such file"):
        read_network(tmp_path / "missing.py")


def test_a_syntax_error_is_refused_with_its_line(write: Any) -> None:
    with pytest.raises(NetworkError, match=r"my_network\.py: line 3: "):
        write("import keras\n\ndef build(features, outputs:\n    pass\n")


def test_a_file_without_build_is_refused(write: Any) -> None:
    with pytest.raises(NetworkError, match="no function build"):
        write("def make(features, outputs): ...\n")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes(b"build = 1\0")
    with pytest.raises(NetworkError, match=r"x\.py"):
        read_network(tmp_path / "x.py")


def test_reading_a_file_does_not_execute_it(write: Any) -> None:
    assert write("raise SystemExit\ndef build(features, outputs): ...\n").model == FILE


# What its execution shows; here in the test's process, which has loaded Keras

HELPER = """
import keras

class Scale(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
"""

WRONG: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "failing import": ("import keras\nimport no_such_package\n" + PLAIN, ("line 2", "no_such_package")),
    "exit": ("raise SystemExit('bye')\n" + PLAIN, ("line 1", "SystemExit", "bye")),
    "no function": ("build = 3\n", ("build(features, outputs)",)),
    "signature": ("def build(features): ...\n", ("build(features, outputs)", "got build(features)")),
    "keyword only": ("def build(features, *, outputs): ...\n", ("build(features, outputs)",)),
    "failing build": ("def build(features, outputs):\n    return 1 / 0\n", ("line 2", "ZeroDivisionError")),
    "nothing": ("def build(features, outputs): ...\n", ("keras.Model", "NoneType")),
    "input shape": (
        PLAIN.replace("keras.Input((features,))", "keras.Input((28,))"),
        ("(None, 28)", f"(None, {WIDTH})"),
    ),
    "layer of another shape": (
        PLAIN.replace("keras.Input((features,))", "keras.Input((features,)), layers.Reshape((7, 7))"),
        ("line 6",),
    ),
    "output size": (PLAIN.replace("Dense(outputs)", "Dense(3)"), ("(None, 3)", "(None, 1)")),
    "two outputs": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    return keras.Model(x, [keras.layers.Dense(1)(x), keras.layers.Dense(1)(x)])\n",
        ("one output", "(None, 1), (None, 1)"),
    ),
    "sigmoid": (
        PLAIN.replace("Dense(outputs)", 'Dense(outputs, activation="sigmoid")'),
        ("no activation at the end", "sigmoid"),
    ),
    "softmax": (PLAIN.replace("Dense(outputs)", "Dense(outputs), layers.Softmax()"), ("softmax",)),
    "lambda": (PLAIN.replace("Dense(outputs)", "Dense(outputs), layers.Lambda(lambda x: 2 * x)"), ("Lambda",)),
    "own layer": (HELPER + PLAIN.replace("Dense(outputs)", "Dense(outputs), Scale()"), ("Scale", "Keras's own")),
    "own model": (
        "import keras\nclass Net(keras.Model):\n    pass\ndef build(features, outputs):\n    return Net()\n",
        ("Net", "Keras's own"),
    ),
    "own activation": (
        "def swish(x):\n    return x * 2\n" + PLAIN.replace('"tanh"', "swish"),
        ("functions", "swish"),
    ),
    "registered activation": (
        "import keras\n@keras.saving.register_keras_serializable()\ndef swosh(x):\n    return x * 2\n"
        + PLAIN.replace('"tanh"', "swosh"),
        ("functions", "swosh"),
    ),
    "half precision": (PLAIN.replace("Dense(4,", 'Dense(4, dtype="float16",'), ("float32", "float16")),
    "double precision": (PLAIN.replace("Dense(4,", 'Dense(4, dtype="float64", name="wide",'), ("float64", "wide")),
    "mixed precision at the end": (
        PLAIN.replace("Dense(outputs)", 'Dense(outputs, dtype="mixed_float16")'),
        ("outputs of float32", "float16"),
    ),
    "state": (
        PLAIN.replace("layers.Dense(4,", 'layers.Normalization(name="scaling"), layers.Dense(4,'),
        ("scaling", "count", "int"),
    ),
    "nothing to train": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    return keras.Model(x, keras.ops.sum(x, axis=-1, keepdims=True))\n",
        ("trainable",),
    ),
    "infinite output": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    y = keras.layers.Dense(outputs)(x)\n    return keras.Model(x, y / (0.0 * y))\n",
        ("finite",),
    ),
    "infinite slope": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    y = keras.layers.Dense(outputs)(x)\n    return keras.Model(x, y + keras.ops.sqrt(0.0 * y))\n",
        ("training", "finite weights"),
    ),
    "no slope": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    y = keras.layers.Dense(outputs)(x)\n    return keras.Model(x, keras.ops.stop_gradient(y))\n",
        ("training", "slope"),
    ),
    "sigmoid as an operation": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    return keras.Model(x, keras.ops.sigmoid(keras.layers.Dense(outputs)(x)))\n",
        ("no activation at the end", "sigmoid"),
    ),
    "outputs by name": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    return keras.Model(x, {'risk': keras.layers.Dense(outputs)(x)})\n",
        ("one output", "dict"),
    ),
    "inputs of integers": (
        PLAIN.replace("Input((features,))", "Input((features,), dtype='int32')"),
        ("inputs of float32", "int32"),
    ),
    "another architecture in each call": (
        "import itertools, keras\nkeras.units = getattr(keras, 'units', itertools.count(1))\n"
        + PLAIN.replace("Dense(4,", "Dense(next(keras.units),"),
        ("same weights", "second"),
    ),
    "a class that is no function": ("build = int\n", ("build(features, outputs)",)),
    "rows that depend on each other": (
        "import keras\ndef build(features, outputs):\n    x = keras.Input((features,))\n"
        "    y = keras.layers.Dense(outputs)(x)\n"
        "    return keras.Model(x, y - keras.ops.mean(y, axis=0, keepdims=True))\n",
        ("other rows",),
    ),
}


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    return load_keras()


@slow
@with_keras
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_network_is_refused_in_one_line(write: Any, name: str) -> None:
    source, words = WRONG[name]
    with pytest.raises(NetworkError) as raised:
        check_network(HEART_DISEASE, write(source), 1)
    text = str(raised.value)
    assert "my_network.py" in text
    assert "\n" not in text
    for word in words:
        assert word in text, text


@slow
@with_keras
@pytest.mark.parametrize(
    "layers",
    [
        ('layers.Dense(4, activation="relu")', "layers.Dense(outputs)"),
        ("layers.Dense(4)", "layers.LayerNormalization()", "layers.GaussianNoise(0.1)", "layers.Dense(outputs)"),
        ('layers.Dense(4, activation="gelu")', "layers.Dense(outputs, activation='linear')"),
        ("layers.Reshape((features, 1))", "layers.Conv1D(2, 3)", "layers.Flatten()", "layers.Dense(outputs)"),
        ("layers.Reshape((1, features))", "layers.GRU(3)", "layers.Dense(outputs)"),
        ("keras.Sequential([layers.Dense(3), layers.Dropout(0.5)])", "layers.Dense(outputs)"),
        ("layers.BatchNormalization(trainable=False)", "layers.Dense(outputs, use_bias=False)"),
    ],
    ids=["dense", "normalised", "linear", "convolution", "recurrent", "nested", "frozen"],
)
def test_networks_of_keras_own_layers_are_accepted(write: Any, layers: tuple[str, ...]) -> None:
    assert check_network(HEART_DISEASE, write(sequential(*layers)), 1).weights


@slow
@with_keras
def test_a_sequential_model_without_an_input_is_built(write: Any) -> None:
    network = write(PLAIN.replace("keras.Input((features,)), ", ""))
    shapes = check_network(HEART_DISEASE, network, 1).shapes
    assert list(shapes.values()) == [(WIDTH, 4), (4,), (4, 1), (1,)]


@slow
@with_keras
def test_what_a_network_is_made_of_is_described(write: Any) -> None:
    example = describe_network(HEART_DISEASE, read_network(EXAMPLE), 1)
    assert example.state == ("004/moving_mean", "005/moving_variance", "010/moving_mean", "011/moving_variance")
    assert list(example.shapes.values())[:7] == [(WIDTH, 32), *[(32,)] * 5, (32, 16)]
    assert (example.is_random, example.has_penalties) == (True, False)
    plain = describe_network(HEART_DISEASE, write(PLAIN), 1)
    assert (plain.state, plain.is_random, plain.has_penalties) == ((), False, False)
    for penalty in ("kernel_regularizer='l2'", "activity_regularizer='l1'", "bias_constraint='non_neg'"):
        description = describe_network(HEART_DISEASE, write(PLAIN.replace("Dense(4,", f"Dense(4, {penalty},")), 1)
        assert description.has_penalties, penalty


@slow
@with_keras
def test_initial_weights_depend_on_the_seed_and_not_on_earlier_calls(write: Any) -> None:
    network = write(PLAIN)
    first = initial_weights(HEART_DISEASE, network, 1)
    load_keras().layers.Dense(3)(np.zeros((1, 2)))  # Keras numbers its layers
    from federated_health.ml.network_check import describe

    again = describe(HEART_DISEASE, network, 1).weights
    assert list(first) == list(again) == list(weight_shapes(HEART_DISEASE, network))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["000/kernel"], initial_weights(HEART_DISEASE, network, 2)["000/kernel"])


@slow
@with_keras
def test_building_a_network_leaves_the_random_numbers_of_the_process_alone(write: Any) -> None:
    import random

    from federated_health.ml.network_check import describe

    random.seed(5)
    np.random.seed(5)  # the generator that a user's own code may use
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    describe(HEART_DISEASE, write(PLAIN), 1)
    assert (random.random(), np.random.rand()) == expected


@slow
@with_keras
def test_another_process_gives_the_weights_of_this_one() -> None:
    network = read_network(EXAMPLE)
    here = describe_network(HEART_DISEASE, network, 7)
    there = network_file._ask_process(HEART_DISEASE, network, 7)
    assert list(there.weights) == list(here.weights)
    assert all(np.array_equal(there.weights[name], here.weights[name]) for name in here.weights)
    assert (there.state, there.is_random, there.has_penalties) == (here.state, here.is_random, here.has_penalties)


@slow
@with_keras
def test_a_file_may_hold_dataclasses_and_leaves_the_global_types_of_keras_alone(write: Any) -> None:
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    source += "@dataclass\nclass Sizes:\n    hidden: int = 4\n" + PLAIN.replace("Dense(4,", "Dense(Sizes().hidden,")
    assert check_network(HEART_DISEASE, write(source), 1).weights
    mixed = "import keras\nkeras.config.set_dtype_policy('mixed_bfloat16')\n"
    mixed += PLAIN.replace("Dense(outputs)", "Dense(outputs, dtype='float32')")
    assert check_network(HEART_DISEASE, write(mixed), 1).weights
    assert load_keras().config.dtype_policy().name == "float32"


@slow
def test_another_process_refuses_in_one_line_what_prints_and_fails(write: Any) -> None:
    network = write("print('hello')\nimport no_such_package\n" + PLAIN)
    with pytest.raises(NetworkError, match=r"my_network\.py: line 2: ModuleNotFoundError: .*no_such_package"):
        network_file._ask_process(HEART_DISEASE, network, 7)


@slow
@pytest.mark.parametrize("code", [0, network_file.REFUSED, 7])
def test_a_file_that_ends_the_process_is_refused(write: Any, code: int) -> None:
    network = write(f"import os\nos._exit({code})\n" + PLAIN)
    with pytest.raises(NetworkError, match=f"ended with code {code}"):
        network_file._ask_process(HEART_DISEASE, network, 7)


@slow
def test_a_file_that_does_not_end_is_refused(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_file, "MAX_SECONDS", 0.1)
    with pytest.raises(NetworkError, match=r"within 0\.1 s"):
        network_file._ask_process(HEART_DISEASE, write(PLAIN), 7)


def test_a_description_can_be_sent() -> None:
    weights = {"000/kernel": np.ones((2, 3), np.float32), "001/moving_mean": np.zeros(3, np.float32)}
    sent = network_file.Description(weights, state=("001/moving_mean",), is_random=True)
    received = read_description(network_file.write_description(sent))
    assert received.state == sent.state
    assert (received.is_random, received.has_penalties) == (True, False)
    assert list(received.shapes.items()) == list(sent.shapes.items())


# Settings


def settings_of(**flags: Any) -> Settings:
    return Settings.from_config({name.replace("_", "-"): value for name, value in flags.items()})


def test_a_file_is_the_network_and_its_hash_is_agreed_on(write: Any) -> None:
    network = write(PLAIN)
    settings = settings_of(network=str(network.path))
    assert settings.network_declaration == network
    assert settings.agreement == {**HEART_DISEASE.agreement, NETWORK_FILE: f"SHA-256 {network.sha256}"}
    moved = write(PLAIN, "moved.py")
    assert moved == network  # wherever it lies
    assert write(PLAIN + "\n", "other.py") != network
    assert "network" in OPERATIONAL


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"model": "logistic"}, "model"),
        ({"hidden": "32,16"}, "hidden"),
        ({"activation": "tanh"}, "activation"),
        ({"dropout": 0.5}, "dropout"),
    ],
)
def test_settings_of_the_mlp_contradict_a_file(write: Any, flags: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=f"^{word}: .*--network"):
        settings_of(network=str(write(PLAIN).path), **flags)


@slow
@with_keras
@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "qfedavg"])
def test_a_network_with_state_needs_a_strategy_that_does_not_extrapolate(strategy: str) -> None:
    with pytest.raises(SettingsError, match="state of this --network"):
        check_own_network(settings_of(network=str(EXAMPLE), strategy=strategy))


@slow
@with_keras
@pytest.mark.parametrize("strategy", ["fedavg", "average", "fedprox", "fedmedian", "trimmed", "krum", "bulyan"])
def test_a_network_with_state_goes_with_means_and_selections(strategy: str) -> None:
    check_own_network(settings_of(network=str(EXAMPLE), strategy=strategy))


@slow
@with_keras
@pytest.mark.parametrize(
    "layers",
    [
        ("layers.BatchNormalization()", "layers.Dense(outputs)"),
        ("layers.Dropout(0.5)", "layers.Dense(outputs)"),
        ("layers.Dense(outputs, kernel_regularizer='l2')",),
    ],
)
def test_differential_privacy_refuses_what_it_cannot_account_for(write: Any, layers: tuple[str, ...]) -> None:
    network = write(sequential(*layers))
    with pytest.raises(SettingsError, match="--dp-epsilon"):
        check_own_network(settings_of(network=str(network.path), dp_epsilon=4.0))


@slow
@with_keras
def test_differential_privacy_takes_plain_layers(write: Any) -> None:
    check_own_network(settings_of(network=str(write(PLAIN).path), dp_epsilon=4.0))


# The agreement of server and hospital


def request(network: Network | None) -> Message:
    agreement = write_agreement(agreement_of(HEART_DISEASE, network))
    config: Any = {"task": HEART_DISEASE.name, "schema": HEART_DISEASE.schema_hash, "terms": agreement}
    return Message(RecordDict({CONFIG: ConfigRecord(config)}), 1, REGISTRATION)


@pytest.mark.usefixtures("server_identity")
def test_server_and_hospital_need_the_same_file(write: Any, hospitals_folder: Path) -> None:
    hospital = load_hospital(hospitals_folder / "client_1.csv", HEART_DISEASE, "cleveland", 42)
    servers, other = write(PLAIN), write(PLAIN + "# mine\n", "other.py")
    copy = write(PLAIN, "copy.py")
    assert hospital_of(request(servers), InMemoryHospital(hospital, copy.path)) is hospital
    assert hospital_of(request(None), InMemoryHospital(hospital)) is hospital
    for own, network in ((other.path, servers), (None, servers), (other.path, None)):
        with pytest.raises(JoinError, match=r"network file \(--network"):
            hospital_of(request(network), InMemoryHospital(hospital, own))


def test_a_train_config_does_not_tell_where_the_file_is(write: Any) -> None:
    network = write(PLAIN)
    config = train_config(network=network)
    record = config.to_record()
    assert str(network.path) not in str(record)
    received = read_train_config(record)
    assert received.network == network
    assert received.network.path is None


@slow
@with_keras
def test_a_file_that_changed_since_the_hospital_joined_is_not_executed(write: Any) -> None:
    from federated_health.ml.keras_models import build_head

    network = write(PLAIN)
    assert network.path is not None
    network.path.write_text("raise SystemExit\n" + PLAIN)
    with pytest.raises(NetworkError, match="changed"):
        build_head(HEART_DISEASE, network)
    with pytest.raises(NetworkError, match="--network"):
        build_head(HEART_DISEASE, replace(network, path=None))


# Whole runs in process


@pytest.fixture
def hospitals(hospitals_folder: Path) -> list[Any]:
    names = ("cleveland", "switzerland")
    files = ("client_1.csv", "client_3.csv")
    return [
        load_hospital(hospitals_folder / file, HEART_DISEASE, name, 42) for file, name in zip(files, names, strict=True)
    ]


def run_with(hospitals: list[Any], **flags: Any) -> PlainRun:
    chosen = {"hospitals": len(hospitals), "rounds": 2, "local-epochs": 1, "appraisal": False, "min-hospitals": 1}
    settings = Settings.from_config({**chosen, **{name.replace("_", "-"): value for name, value in flags.items()}})
    path = settings.network_declaration.path
    contexts = {hospital.name: InMemoryHospital(hospital, path) for hospital in hospitals}
    return PlainRun(InProcessTransport(client.app, contexts), settings)


@slow
@with_keras
def test_state_is_averaged_like_weights(hospitals: list[Any]) -> None:
    from federated_health.hospital.handlers import local_model

    run = run_with(hospitals, network=str(EXAMPLE), rounds=1)
    run.run()
    config = replace(run.train_config(), rounds=0)
    start = initial_weights(HEART_DISEASE, config.network, config.seed)
    trained = [
        local_model(hospital, config.network, config.normalisation).train(start, config, 1)[0] for hospital in hospitals
    ]
    rows = [len(hospital.train) for hospital in hospitals]
    for name, array in run.weights.items():
        mean = np.average([weights[name] for weights in trained], axis=0, weights=rows)
        np.testing.assert_allclose(array, mean, atol=1e-6, err_msg=name)
    assert not np.array_equal(run.weights["004/moving_mean"], start["004/moving_mean"])


@slow
@with_keras
@pytest.mark.parametrize("flags", [{"network": str(EXAMPLE)}, {"hidden": "8,4", "dropout": 0.3, "optimizer": "adam"}])
def test_a_run_repeats_to_the_bit(hospitals: list[Any], flags: dict[str, Any]) -> None:
    first, second = run_with(hospitals, **flags), run_with(hospitals, **flags)
    first.run()
    second.run()
    assert all(np.array_equal(array, second.weights[name]) for name, array in first.weights.items())


@slow
@with_keras
def test_a_saved_model_loads_with_plain_keras_and_predicts_the_same(hospitals: list[Any], tmp_path: Path) -> None:
    from federated_health.hospital.local_model import LocalModel
    from federated_health.ml.keras_models import predict
    from federated_health.ml.targets.binary import probability
    from federated_health.report.saved_model import save_final_model

    run = run_with(hospitals, network=str(EXAMPLE))
    run.run()
    config = run.train_config()
    save_final_model(tmp_path / "model.keras", HEART_DISEASE, config, run.weights)
    model = load_keras().saving.load_model(tmp_path / "model.keras")
    risk = predict(model, HEART_DISEASE, hospitals[0].test.values)[:, 0]
    own = LocalModel(hospitals[0], config.network, config.normalisation)
    np.testing.assert_allclose(risk, probability(own.score(run.weights)), atol=1e-6)
    assert str(tmp_path) not in (tmp_path / "model.keras").read_bytes().decode(errors="replace")


@slow
@with_keras
def test_a_model_of_one_hospitals_own_rows_is_a_run_of_that_hospital_alone(hospitals: list[Any]) -> None:
    from federated_health.hospital.benefit import score_alone
    from federated_health.hospital.handlers import local_model

    run = run_with(hospitals[:1], network=str(EXAMPLE))
    run.run()
    config = run.train_config()
    local = local_model(hospitals[0], config.network, config.normalisation)
    np.testing.assert_array_equal(score_alone(local, config), local.score(run.weights))


@slow
@with_keras
def test_the_python_api_takes_a_file(hospitals_folder: Path) -> None:
    import federated_health as fh

    tables = {name: pd.read_csv(hospitals_folder / f"client_{i}.csv") for i, name in ((1, "north"), (3, "south"))}
    result = fh.federate(tables, "heart-disease", network=EXAMPLE, rounds=1, local_epochs=1, appraisal=False)
    assert len(result.model.predict(tables["north"].head(3))) == 3
    with pytest.raises(SettingsError, match="hidden"):
        fh.federate(tables, "heart-disease", network=EXAMPLE, hidden="3")


@slow
@with_keras
def test_a_network_has_an_output_per_class(write: Any) -> None:
    label = ClassLabel(name="stage", meaning="stage", codes={0: "none", 1: "mild", 2: "severe"})
    task = Task(name="stages", columns=HEART_DISEASE.columns, label=label)
    network = write(PLAIN)
    assert list(check_network(task, network, 1).shapes.values())[-1] == (3,)
    with pytest.raises(NetworkError, match=r"\(None, 3\)"):
        check_network(task, write(PLAIN.replace("Dense(outputs)", "Dense(1)")), 1)


@slow
def test_no_server_module_loads_keras_for_a_file(write: Any) -> None:
    """What the server imports to know of a network; the import of Keras itself is in another process."""
    import subprocess

    network = write(PLAIN)
    code = (
        "import sys; from pathlib import Path; from federated_health.data.task_files import HEART_DISEASE;"
        "from federated_health.ml import network_file;"
        f"network = network_file.read_network(Path({str(network.path)!r}));"
        "print(len(network_file.check_network(HEART_DISEASE, network, 1).shapes));"
        "print({'keras', 'tensorflow', 'my_network'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[:2] == ["4", "set()"]
