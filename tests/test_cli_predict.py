"""predict.py as a user meets it: its columns, and the models and tables that it rejects."""

import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from federated_health.data.patient_table import read_patients
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.data.task_writing import write_task
from federated_health.ml.keras_models import build_model, load_model, predict_risk, save_model
from federated_health.ml.networks import Network, initial_weights
from federated_health.ml.normalisation import Normalisation
from tests.support.script_calls import RunScript, assert_one_line, assert_refused, write_csv

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
    exact = predict_risk(load_model(model), HEART_DISEASE, values).astype(float)
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
