"""The saved model takes raw values, missing ones too, and agrees with an independent implementation in NumPy."""

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.task_files import HEART_DISEASE, parse_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from federated_health.ml.backend import load_keras
from federated_health.ml.keras_models import build_encoder, build_head, build_model, encode, predict
from federated_health.ml.model_files import load_model, read_description, save_model
from federated_health.ml.networks import FILE, Network, Weights, initial_weights, weight_shapes, weights_hash
from federated_health.ml.normalisation import Normalisation
from federated_health.names import ACTIVATIONS, MODELS
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow

NAN = math.nan
TINY = Task(
    name="tiny-task",
    columns=(
        Category(name="sex", meaning="sex", codes={0: "female", 1: "male"}),
        Measurement(name="age", meaning="age", unit="years", low=0, high=120),
        Measurement(name="chol", meaning="cholesterol", unit="mg/dl", low=50, high=1000, zero_is_missing=True),
        Category(name="thal", meaning="thal", codes={3: "normal", 6: "fixed", 7: "reversible"}),
    ),
    label=Label(name="ill", meaning="is ill"),
)
TINY_SCALE = Normalisation(mean=(50.0, 200.0), variance=(4.0, 100.0))
HEART_SCALE = Normalisation(mean=(54.4, 131.7, 246.7, 149.6, 1.04), variance=(81.0, 309.0, 2682.0, 523.0, 1.35))

Values = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    return load_keras()


def heart_patients(rows: int = 50) -> Values:
    """Rows over the whole range of every column, a third of the cells missing, zeros and unknown codes among them."""
    generator = np.random.default_rng(5)
    values = np.empty((rows, len(HEART_DISEASE.columns)))
    for i, column in enumerate(HEART_DISEASE.columns):
        if isinstance(column, Measurement):
            values[:, i] = generator.uniform(column.low, column.high, rows)
            values[generator.random(rows) < 0.15, i] = 0.0
        else:
            values[:, i] = generator.choice([*column.codes, 9], rows)
    values[generator.random(values.shape) < 0.33] = NAN
    return values


def features_of(task: Task, scale: Normalisation, values: Values) -> Values:
    """Expected features, patient by patient, in float64 and without Keras."""
    table = []
    for patient in values:
        scales = zip(scale.mean, scale.variance, strict=True)
        row: list[float] = []
        for column, value in zip(task.columns, patient, strict=True):
            if isinstance(column, Measurement):
                mean, variance = next(scales)
                missing = math.isnan(value) or (column.zero_is_missing and value == 0)
                row += [0.0 if missing else (value - mean) / math.sqrt(variance), float(missing)]
            else:
                known = [float(value == code) for code in column.codes]
                row += [*known, 0.0 if any(known) else 1.0]
        table.append(row)
    return np.array(table)


def risk_of(task: Task, model: str, scale: Normalisation, weights: Weights, values: Values) -> Values:
    hidden = features_of(task, scale, values)
    if model == "mlp":
        hidden = np.maximum(hidden @ weights["hidden/kernel"] + weights["hidden/bias"], 0)
    risk: Values = 1 / (1 + np.exp(-(hidden @ weights["logit/kernel"] + weights["logit/bias"])))
    return risk[:, 0]


def some_weights(task: Task, model: str) -> Weights:
    """Weights without zeros, biases included."""
    generator = np.random.default_rng(8)
    return {
        name: generator.normal(0, 0.4, shape).astype(np.float32)
        for name, shape in weight_shapes(task, Network(model)).items()
    }


# Weights


DEEP = Network(hidden=(5, 3, 2), activation="tanh", dropout=0.25)


@pytest.mark.parametrize("network", [*map(Network, MODELS), DEEP], ids=["mlp", "logistic", "deep"])
@pytest.mark.parametrize("task", [TINY, HEART_DISEASE], ids=lambda task: task.name)
def test_names_shapes_and_order_of_weights_are_those_of_keras(task: Task, network: Network) -> None:
    head = build_head(task, network)

    assert [(array.path.removeprefix("network-head/"), tuple(array.shape)) for array in head.weights] == list(
        weight_shapes(task, network).items()
    )
    assert len(head.trainable_variables) == len(head.weights)


def test_hidden_layers_have_their_units_activation_and_dropout() -> None:
    layers = build_head(TINY, DEEP).layers

    assert [(layer.units, layer.activation.__name__) for layer in layers[::2]] == [
        (5, "tanh"),
        (3, "tanh"),
        (2, "tanh"),
        (1, "linear"),
    ]
    assert [layer.rate for layer in layers[1::2]] == [0.25] * 3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_keras_knows_every_activation(activation: str) -> None:
    build_head(TINY, Network(activation=activation))


def test_settings_that_a_network_does_not_have_do_not_make_another_one() -> None:
    assert Network("logistic", hidden=(3,), activation="tanh", dropout=0.5) == Network("logistic")
    assert hash(Network("logistic", hidden=(3,))) == hash(Network("logistic"))


@pytest.mark.parametrize("network", [Network(), Network("logistic"), DEEP, Network(FILE, sha256="ab" * 32)])
def test_a_network_can_be_sent(network: Network) -> None:
    assert Network.from_config(network.to_config()) == network


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "cnn"},
        {"hidden": "0"},
        {"hidden": "16,x"},
        {"hidden": "1000000000"},
        {"hidden": ",".join(["2"] * 100)},
        {"activation": "os.system"},
        {"dropout": 1.0},
        {"dropout": float("nan")},
        {"dropout": "0.5"},
        {"network-sha256": 3},
    ],
)
def test_an_invalid_network_of_another_side_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|has|is"):
        Network.from_config({**Network().to_config(), **changes})


@pytest.mark.parametrize("model", MODELS)
def test_initial_weights_depend_on_the_seed_only(model: str) -> None:
    first, again, other = (initial_weights(HEART_DISEASE, Network(model), seed) for seed in (1, 1, 2))

    assert weights_hash(first) == weights_hash(again)
    assert weights_hash(first) != weights_hash(other)
    assert {name: array.shape for name, array in first.items()} == weight_shapes(HEART_DISEASE, Network(model))


def test_initial_kernels_are_glorot_uniform_and_biases_zero() -> None:
    weights = initial_weights(HEART_DISEASE, Network(), 3)
    limit = math.sqrt(6 / (41 + 16))

    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}
    assert 0.95 * limit < np.abs(weights["hidden/kernel"]).max() <= limit
    assert weights["hidden/kernel"].var() == pytest.approx(limit**2 / 3, rel=0.1)
    assert np.abs(weights["logit/kernel"]).max() <= math.sqrt(6 / 17)
    assert not weights["hidden/bias"].any()
    assert not weights["logit/bias"].any()


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.array([1, 2], np.float64)},
        {"a": np.array([[1, 2]], np.float32)},
        {"b": np.array([1, 2], np.float32)},
        {"a": np.array([1, np.nextafter(np.float32(2), np.float32(3))], np.float32)},
    ],
    ids=["type", "shape", "name", "a bit"],
)
def test_the_hash_of_weights_depends_on_names_types_shapes_and_bits(other: Weights) -> None:
    assert weights_hash(other) != weights_hash({"a": np.array([1, 2], np.float32)})


# Encoder


def test_features_worked_by_hand() -> None:
    values = np.array(
        [
            [1, 54, 230, 6],
            [0, NAN, 0, 3],
            [NAN, 0, NAN, NAN],
            [2, 50, 200, 4],
        ],
        dtype=np.float64,
    )

    features = encode(build_encoder(TINY, TINY_SCALE), TINY, values)

    assert features.tolist() == [
        # female, male, missing | age, missing | chol, missing | normal, fixed, reversible, missing
        [0, 1, 0, 2, 0, 3, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, -25, 0, 0, 1, 0, 0, 0, 1],
        [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert features.dtype == np.float32


def test_features_are_those_of_an_independent_encoding() -> None:
    values = heart_patients()

    features = encode(build_encoder(HEART_DISEASE, HEART_SCALE), HEART_DISEASE, values)

    assert features.shape == (50, HEART_DISEASE.feature_width)
    np.testing.assert_allclose(
        features, features_of(HEART_DISEASE, HEART_SCALE, values.astype(np.float32).astype(np.float64)), atol=1e-5
    )


def test_no_column_of_a_task_can_have_the_name_of_another_operation_of_a_model() -> None:
    zeros = Measurement("a", "a", "u", low=0, high=1, zero_is_missing=True)
    task = Task(name="t", columns=(zeros, *TINY.columns), label=TINY.label)
    scale = Normalisation(mean=(0.0,) * len(task.measurements), variance=(1.0,) * len(task.measurements))
    for model in MODELS:
        whole = build_model(task, Network(model), scale, some_weights(task, model))
        for name in {operation.name for operation in whole.operations} - set(task.column_names):
            column = f'[columns."{name}"]\nmeaning = "m"\nunit = "u"\nrange = [0, 1]\n'
            with pytest.raises(DataError, match="name"):
                parse_task(f'name = "t"\nlabel = {{ column = "y", meaning = "m" }}\n{column}'.encode(), "t.toml")


def test_a_column_may_have_the_name_of_a_part_of_the_network() -> None:
    columns = tuple(Measurement(name, "m", "u", low=0, high=1) for name in ("head", "hidden", "logit", "features"))
    task = Task(name="head", columns=columns, label=TINY.label)
    scale = Normalisation(mean=(0.0,) * 4, variance=(1.0,) * 4)
    whole = build_model(task, Network(), scale, some_weights(task, "mlp"))
    assert predict(whole, task, np.zeros((2, 4))).shape == (2, 1)


def test_the_encoder_has_no_weights() -> None:
    assert build_encoder(HEART_DISEASE, HEART_SCALE).variables == []


# The whole model


@pytest.mark.parametrize("model", MODELS)
def test_the_model_gives_the_risk_of_an_independent_forward_pass(model: str) -> None:
    weights, values = some_weights(HEART_DISEASE, model), heart_patients()
    whole = build_model(HEART_DISEASE, Network(model), HEART_SCALE, weights)

    risk = predict(whole, HEART_DISEASE, values)[:, 0]

    assert risk.shape == (50,)
    np.testing.assert_allclose(risk, risk_of(HEART_DISEASE, model, HEART_SCALE, weights, values), atol=1e-5)
    assert np.ptp(risk) > 0.1


@pytest.mark.parametrize("missing", [*range(13), None])
def test_a_value_may_be_missing_in_any_column_and_in_all(missing: int | None) -> None:
    whole = build_model(HEART_DISEASE, Network(), HEART_SCALE, some_weights(HEART_DISEASE, "mlp"))
    patient = np.array([[63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 3, 0, 6]], dtype=np.float64)
    before = predict(whole, HEART_DISEASE, patient)[0, 0]
    patient[0, slice(None) if missing is None else missing] = NAN

    risk = predict(whole, HEART_DISEASE, patient)[0, 0]

    assert 0 < risk < 1
    assert risk != before


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_loads_in_plain_keras_and_predicts_the_same(
    tmp_path: Path, keras: ModuleType, model: str
) -> None:
    weights, values = some_weights(HEART_DISEASE, model), heart_patients()
    whole = build_model(HEART_DISEASE, Network(model), HEART_SCALE, weights)
    path = tmp_path / "model.keras"

    save_model(path, whole, {"task": "heart-disease"})
    loaded = keras.saving.load_model(path)

    inputs = {name: values[:, [i]].astype(np.float32) for i, name in enumerate(HEART_DISEASE.column_names)}
    np.testing.assert_allclose(np.asarray(loaded(inputs)), predict(whole, HEART_DISEASE, values), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        predict(load_model(path), HEART_DISEASE, values),
        predict(whole, HEART_DISEASE, values),
        rtol=0,
        atol=1e-6,
    )


def test_a_saved_model_consists_of_keras_s_own_objects(tmp_path: Path) -> None:
    model = build_model(TINY, Network(), TINY_SCALE, some_weights(TINY, "mlp"))
    save_model(tmp_path / "model.keras", model, {"task": "tiny-task"})

    entries: list[dict[str, Any]] = []
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        json.loads(archive.read("config.json"), object_hook=entries.append)
    modules = {entry["module"] for entry in entries if "module" in entry}  # from which `load_model` imports

    assert {module.partition(".")[0] for module in modules} == {"keras"}


# Files


@pytest.fixture
def tiny_model() -> Any:
    return build_model(TINY, Network("logistic"), TINY_SCALE, some_weights(TINY, "logistic"))


def test_a_model_file_holds_its_description(tmp_path: Path, tiny_model: Any) -> None:
    description = {"task": "tiny-task", "round": 3, "hospitals": ["zürich"], "nested": {"mean": [1 / 3]}}

    save_model(tmp_path / "model.keras", tiny_model, description)

    assert read_description(tmp_path / "model.keras") == description
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_the_description_is_read_without_keras(tmp_path: Path, tiny_model: Any) -> None:
    save_model(tmp_path / "model.keras", tiny_model, {"task": "tiny-task"})
    code = (
        "import sys; from pathlib import Path; from federated_health.ml.model_files import read_description; "
        f"print(read_description(Path({str(tmp_path / 'model.keras')!r}))['task'], 'keras' in sys.modules, "
        "'tensorflow' in sys.modules)"
    )

    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["tiny-task", "False", "False"]


class FullDisk:
    """A model that cannot be saved completely."""

    def save(self, path: Path) -> None:
        path.write_bytes(b"half a model")
        raise OSError(28, "No space left on device")


def unwritable(_tiny: Any) -> tuple[Any, Mapping[str, Any], type[Exception]]:
    return FullDisk(), {}, OSError


def undescribable(tiny: Any) -> tuple[Any, Mapping[str, Any], type[Exception]]:
    return tiny, {"task": object()}, TypeError


@pytest.mark.parametrize("failing", [unwritable, undescribable])
def test_a_failed_save_leaves_the_earlier_model_and_nothing_else(tmp_path: Path, tiny_model: Any, failing: Any) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"the earlier model")
    model, description, error = failing(tiny_model)

    with pytest.raises(error):
        save_model(path, model, description)

    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"model.keras": b"the earlier model"}


def foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")


def foreign_bytes(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 not really")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def broken_description(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("federated_health.json", "{")


def other_description(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("federated_health.json", '["task", "heart-disease"]')


def null_description(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("federated_health.json", "null")


@pytest.mark.parametrize(
    "make", [foreign_zip, foreign_bytes, empty, broken_description, other_description, null_description]
)
def test_a_file_that_save_model_did_not_write_is_a_data_error(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "model.keras"
    make(path)

    for read in (read_description, load_model):
        with pytest.raises(DataError, match="is not a model"):
            read(path)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.keras: cannot be read"):
        read_description(tmp_path / "model.keras")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_model_is_a_data_error(tmp_path: Path, tiny_model: Any, share: float) -> None:
    path = tmp_path / "model.keras"
    save_model(path, tiny_model, {"task": "tiny-task"})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(DataError):
        read_description(path)
    with pytest.raises(DataError):
        load_model(path)


def rewrite(path: Path, **members: bytes | None) -> None:
    """Replace members of a zip by others, or by nothing."""
    with zipfile.ZipFile(path) as archive:
        content: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("__", "."): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(name, data)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"config__json": None}, id="no config"),
        pytest.param({"config__json": b"{"}, id="broken config"),
        pytest.param({"config__json": b"{}"}, id="empty config"),
        pytest.param({"config__json": json.dumps({"class_name": "Evil", "config": {}}).encode()}, id="unknown class"),
        pytest.param({"model__weights__h5": None}, id="no weights"),
        pytest.param({"model__weights__h5": b"not HDF5"}, id="broken weights"),
    ],
)
def test_a_model_with_a_damaged_part_is_a_data_error(
    tmp_path: Path, tiny_model: Any, members: dict[str, bytes | None]
) -> None:
    path = tmp_path / "model.keras"
    save_model(path, tiny_model, {"task": "tiny-task"})
    rewrite(path, **members)

    with pytest.raises(DataError, match="damaged"):
        load_model(path)
