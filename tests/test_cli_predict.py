"""predict.py as a user meets it: its columns, and the models and tables that it rejects."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from federated_health.data.patient_table import read_patients
from federated_health.data.task_files import HEART_DISEASE, READMISSION, parse_task
from federated_health.data.task_writing import write_task
from federated_health.errors import DataError
from federated_health.ml.backend import load_keras
from federated_health.ml.keras_models import build_model, predict
from federated_health.ml.model_files import load_model, save_model
from federated_health.ml.networks import Network, initial_weights, weights_hash
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.predictions import load_task_model
from federated_health.ml.targets import target_of
from tests.support.mutations import damaged_bytes, damaged_json
from tests.support.script_calls import RunScript, assert_one_line, assert_refused, write_csv
from tests.support.targets import task_of

NORMALISATION = Normalisation(mean=(54.0, 130.0, 250.0, 150.0, 1.0), variance=(81.0, 300.0, 2700.0, 520.0, 1.3))


def test_a_missing_model_is_named(run_script: RunScript) -> None:
    assert_one_line(run_script("predict.py", "none.keras", "patients.csv"), "none.keras", "cannot be read")


def test_a_file_that_is_not_a_model_is_rejected(run_script: RunScript) -> None:
    Path("fake.keras").write_text("not a zip")
    assert_one_line(run_script("predict.py", "fake.keras", "patients.csv"), "fake.keras: is not a model")


def save_some_model(path: Path, **description: object) -> None:
    weights = initial_weights(HEART_DISEASE, Network("logistic"), 3)
    model = build_model(HEART_DISEASE, Network("logistic"), NORMALISATION, weights)
    save_model(path, model, {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, **description})


@pytest.mark.slow
def test_a_prediction_follows_from_the_rounded_risk(run_script: RunScript, patients: pd.DataFrame) -> None:
    path = write_csv(patients.drop(columns="disease"))
    model = Path("model.keras")
    save_some_model(model)
    values = read_patients(path, HEART_DISEASE, labelled=False)[1].to_numpy()
    exact = predict(load_model(model), HEART_DISEASE, values)[:, 0].astype(float)
    rounded_up = next(risk for risk in sorted(exact) if 0.4 < risk < round(risk, 6))

    for threshold, description in ((0.5, {}), (round(rounded_up, 6), {"threshold": round(rounded_up, 6)})):
        save_some_model(model, **description)
        result = run_script("predict.py", model, path)
        assert result.succeeded
        table = pd.read_csv(io.StringIO(result.output), dtype=str, keep_default_na=False)
        assert list(table.columns) == [*patients.columns[:-1], "risk", "prediction"]
        risk = table["risk"].astype(float)
        assert risk.tolist() == pytest.approx(exact.tolist(), abs=1.1e-6)
        assert table["prediction"].tolist() == [str(int(value >= threshold)) for value in risk]
        assert 0 < table["prediction"].astype(int).sum() < len(table)
        pd.testing.assert_frame_equal(table[patients.columns[:-1]], patients[patients.columns[:-1]], check_dtype=False)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["risk", "prediction"])
def test_an_existing_column_is_not_overwritten(run_script: RunScript, patients: pd.DataFrame, column: str) -> None:
    save_some_model(Path("model.keras"), threshold=0.4)
    result = run_script("predict.py", "model.keras", write_csv(patients.assign(**{column: "1"})), "--out", "risk.csv")
    assert_one_line(result, f"mine.csv: already has a column {column}")
    assert not Path("risk.csv").exists()


@pytest.mark.parametrize("threshold", [None, "0.5", 2.0, -0.1])
def test_a_threshold_outside_0_to_1_is_rejected(run_script: RunScript, threshold: object) -> None:
    with zipfile.ZipFile("model.keras", "w") as archive:
        description = {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, "threshold": threshold}
        archive.writestr("federated_health.json", json.dumps(description))
    result = run_script("predict.py", "model.keras", "none.csv")
    assert_one_line(result, "model.keras: threshold: expected a number from 0 to 1")


def test_a_model_of_other_columns_is_rejected(run_script: RunScript) -> None:
    with zipfile.ZipFile("model.keras", "w") as archive:
        archive.writestr("federated_health.json", json.dumps({"task": "heart-disease", "schema": "0" * 64}))
    assert_one_line(run_script("predict.py", "model.keras", "none.csv"), "model.keras: ", "heart-disease")


@pytest.mark.slow
def test_the_patients_are_not_overwritten_by_their_risks(run_script: RunScript, patients: pd.DataFrame) -> None:
    save_some_model(Path("model.keras"), threshold=0.4)
    path = write_csv(patients.drop(columns="disease"))
    before = path.read_bytes()
    assert_one_line(run_script("predict.py", "model.keras", path, "--out", f"./{path}"), "is the input file", "--out")
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("task_file", ["\ud800", "a." * 5000, "x = " + "9" * 5000, write_task(READMISSION)])
def test_a_model_with_the_declaration_of_another_task_is_rejected(run_script: RunScript, task_file: str) -> None:
    model = Path("model.keras")
    save_some_model(model, task_file=task_file, schema=READMISSION.schema_hash)
    columns = ",".join(READMISSION.column_names)
    Path("mine.csv").write_text(f"{columns}\n{',' * (len(READMISSION.columns) - 2)}1,1\n")
    assert_refused(run_script("predict.py", model, "mine.csv"), 1, "model.keras")


def test_a_model_whose_description_is_nested_too_deeply_is_rejected(run_script: RunScript) -> None:
    with zipfile.ZipFile("model.keras", "w") as archive:
        archive.writestr("federated_health.json", "[" * 100_000)
    assert_refused(run_script("predict.py", "model.keras", "mine.csv"), 1, "model.keras")


# Models of strangers


def save_described_model(path: Path) -> dict[str, bytes]:
    """A model with the hash of its weights; returns the members of its file."""
    network = Network("logistic")
    weights = initial_weights(HEART_DISEASE, network, 3)
    save_some_model(path, network=network.to_config(), weights_sha256=weights_hash(weights))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.slow
def test_a_model_whose_weights_were_changed_is_rejected(run_script: RunScript, patients: pd.DataFrame) -> None:
    members = save_described_model(Path("model.keras"))
    table = write_csv(patients.drop(columns="disease"))
    assert run_script("predict.py", "model.keras", table, "--out", "risk.csv").succeeded
    first = initial_weights(HEART_DISEASE, Network("logistic"), 3)["logit/kernel"][0, 0]
    changed = members["model.weights.h5"].replace(first.tobytes(), (first + np.float32(0.01)).tobytes())
    write_members(Path("model.keras"), {**members, "model.weights.h5": changed})
    assert_refused(run_script("predict.py", "model.keras", table, "--out", "2.csv"), 1, "model.keras", "weights")
    assert not Path("2.csv").exists()


@pytest.mark.slow
def test_a_model_of_another_file_name_is_rejected(run_script: RunScript, patients: pd.DataFrame) -> None:
    save_described_model(Path("model.keras"))
    Path("model.keras").rename("model.h5")
    assert_refused(run_script("predict.py", "model.h5", write_csv(patients)), 1, "model.h5", ".keras")


@pytest.mark.slow
@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_damaged_network_is_loaded_or_refused_in_one_line(in_folder: Path, member: str) -> None:
    path, refused = in_folder / "model.keras", 0
    members = save_described_model(path)
    damage = damaged_json if member == "config.json" else damaged_bytes
    for content in damage(members[member], 40):
        write_members(path, {**members, member: content})
        try:
            load_task_model(path, HEART_DISEASE)
        except DataError as error:
            refused += "\n" not in str(error)
    assert refused > 20


@pytest.mark.slow
def test_a_network_that_holds_code_is_rejected_and_not_executed(in_folder: Path) -> None:
    keras = load_keras()
    members = save_described_model(in_folder / "model.keras")

    def execute(values: Any) -> Any:
        Path("executed").touch()
        return values

    code = keras.layers.Lambda(execute, output_shape=(1,))
    network = keras.Sequential([keras.Input((1,)), code]).to_json()
    Path("executed").unlink(missing_ok=True)
    write_members(in_folder / "model.keras", {**members, "config.json": network.encode()})
    with pytest.raises(DataError):
        load_model(in_folder / "model.keras")
    assert not Path("executed").exists()


# Labels of other kinds

KERNELS = {
    "classes": [[1.0, -0.5, 0.2], [0.3, 0.1, -0.4], [-1.0, 0.8, 0.5], [0.2, 0.3, 0.4]],
    "number": [[0.8], [0.5], [-0.4], [-0.2]],
    "count": [[0.5], [0.2], [-0.3], [0.1]],
}
"""Weights of age (scaled value, missing flag) and weight, for each output."""

BIASES = {"classes": [0.1, -0.2, 0.3], "number": [0.25], "count": [1.5]}


def save_model_of(kind: str) -> Path:
    """A logistic network with the weights above, under the normalisation of mean 50 and 80 and deviation 10 and 20."""
    task, network = task_of(kind), Network("logistic")
    weights = {
        "logit/kernel": np.array(KERNELS[kind], dtype=np.float32),
        "logit/bias": np.array(BIASES[kind], dtype=np.float32),
    }
    model = build_model(task, network, Normalisation(mean=(50.0, 80.0), variance=(100.0, 400.0)), weights)
    path = Path("model.keras")
    save_model(path, model, {"task": task.name, "schema": task.schema_hash, "task_file": write_task(task)})
    return path


def outputs_of(kind: str) -> npt.NDArray[np.float64]:
    """The network's outputs for the two patients below, [2, outputs], by hand."""
    features = np.array([[(63 - 50) / 10, 0, (95 - 80) / 20, 0], [(40 - 50) / 10, 0, 0, 1]])
    outputs: npt.NDArray[np.float64] = features @ np.array(KERNELS[kind]) + np.array(BIASES[kind])
    return outputs


def predicted(run_script: RunScript, kind: str) -> pd.DataFrame:
    Path("mine.csv").write_text("age,weight,ward\n63,95,7\n40,,8\n")
    result = run_script("predict.py", save_model_of(kind), "mine.csv")
    assert result.succeeded
    table = pd.read_csv(io.StringIO(result.output))
    assert table[["age", "ward"]].to_numpy().tolist() == [[63, 7], [40, 8]]
    return table.drop(columns=["age", "weight", "ward"])


@pytest.mark.slow
def test_classes_get_a_probability_each_and_the_most_probable_code(run_script: RunScript) -> None:
    table, powers = predicted(run_script, "classes"), np.exp(outputs_of("classes"))
    assert list(table) == ["probability_0", "probability_1", "probability_3", "prediction"]  # the codes of the label
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(table.iloc[:, :3], probabilities, atol=1e-6)
    assert table["prediction"].tolist() == [3, 1]  # outputs of 0.65, -0.25, 0.935 and of -0.7, 0.6, 0.5


@pytest.mark.slow
def test_a_number_is_predicted_in_its_unit(run_script: RunScript) -> None:
    table = predicted(run_script, "number")
    assert list(table) == ["prediction"]
    np.testing.assert_allclose(
        table["prediction"], 30 + 10 * outputs_of("number")[:, 0], atol=1e-5
    )  # the label's scale


@pytest.mark.slow
def test_a_count_gets_the_expected_number(run_script: RunScript) -> None:
    table = predicted(run_script, "count")
    assert list(table) == ["expected"]
    np.testing.assert_allclose(table["expected"], np.exp(outputs_of("count")[:, 0]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "column"), [("classes", "probability_3"), ("number", "prediction"), ("count", "expected")]
)
def test_an_existing_column_of_another_kind_is_not_overwritten(run_script: RunScript, kind: str, column: str) -> None:
    Path("mine.csv").write_text(f"age,weight,{column}\n63,95,7\n")
    assert_one_line(run_script("predict.py", save_model_of(kind), "mine.csv"), f"already has a column {column}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_no_column_can_have_the_name_of_an_operation_or_of_a_column_of_predictions(in_folder: Path, kind: str) -> None:
    task = task_of(kind)
    operations = {operation.name for operation in load_model(in_folder / save_model_of(kind)).operations}
    added = target_of(task).prediction_columns(np.zeros((1, target_of(task).outputs)), 0.5)
    for name in {*operations, *added} - set(task.column_names):
        declared = write_task(task).replace("[columns.age]", f'[columns."{name}"]')
        with pytest.raises(DataError, match="name"):
            parse_task(declared.encode(), "t.toml")


# Recalibration at a site

SITES = {"north": {"intercept": 1.5, "slope": 0.5}, "south": {"intercept": -0.25, "slope": None}}


@pytest.mark.slow
def test_risks_are_recalibrated_for_a_site_and_decisions_stay(run_script: RunScript, patients: pd.DataFrame) -> None:
    save_some_model(Path("model.keras"), threshold=0.4, sites=SITES)
    path = write_csv(patients.drop(columns="disease"))
    tables = {}
    for site, (intercept, slope) in {"": (0.0, 1.0), "north": (1.5, 0.5), "south": (-0.25, 1.0)}.items():
        result = run_script("predict.py", "model.keras", path, *(["--site", site] if site else []), "--out", "risk.csv")
        assert (result.code, result.output) == (0, "")
        assert result.error.count("\n") == bool(site)
        assert site in result.error
        tables[site] = pd.read_csv("risk.csv")
        before = tables[""]["risk"]
        expected = 1 / (1 + np.exp(-intercept) * ((1 - before) / before) ** slope)
        np.testing.assert_allclose(tables[site]["risk"], expected, atol=2e-6)
        assert tables[site]["prediction"].equals(tables[""]["prediction"])
    assert 0 < tables[""]["prediction"].sum() < len(patients)


@pytest.mark.slow
def test_standard_output_holds_the_table_alone(run_script: RunScript, patients: pd.DataFrame) -> None:
    save_some_model(Path("model.keras"), sites=SITES)
    result = run_script("predict.py", "model.keras", write_csv(patients), "--site", "south")
    assert len(pd.read_csv(io.StringIO(result.output))) == len(patients)
    assert "south" in result.error


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_the_only_line(run_script: RunScript, patients: pd.DataFrame) -> None:
    save_some_model(Path("model.keras"), sites=SITES)
    result = run_script("predict.py", "model.keras", write_csv(patients), "--site", "south", "--out", "no/risk.csv")
    assert_one_line(result, "no/risk.csv", "cannot be written")


@pytest.mark.parametrize(
    ("sites", "words"),
    [(SITES, ("north, south", "got bern")), (None, ("holds no recalibration",))],
    ids=["some", "none"],
)
def test_an_unknown_site_is_refused_in_one_line(run_script: RunScript, sites: Any, words: tuple[str, ...]) -> None:
    description = {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, **({"sites": sites} if sites else {})}
    with zipfile.ZipFile("model.keras", "w") as archive:
        archive.writestr("federated_health.json", json.dumps(description))
    assert_one_line(run_script("predict.py", "model.keras", "p.csv", "--site", "bern", "--out", "o.csv"), *words)
    assert not Path("o.csv").exists()


@pytest.mark.parametrize("seed", range(20))
def test_a_description_with_damaged_sites_is_read_or_refused_in_one_line(run_script: RunScript, seed: int) -> None:
    description = {"task": "heart-disease", "schema": HEART_DISEASE.schema_hash, "sites": SITES}
    damaged = next(damaged_json(json.dumps({"sites": SITES}).encode(), 1, seed))
    with zipfile.ZipFile("model.keras", "w") as archive:
        archive.writestr("federated_health.json", json.dumps({**description, **json.loads(damaged)}))
    assert_one_line(run_script("predict.py", "model.keras", "no.csv", "--site", "north"))
