"""Tasks: the declarations, and what is derived from them."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

import federated_health
from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.task_files import HEART_DISEASE, READMISSION, TASKS, get_task
from federated_health.data.tasks import Task
from federated_health.errors import SettingsError
from federated_health.settings import Settings
from tests.support.script_calls import RunScript

SEX = Category(name="sex", meaning="sex", codes={0: "female", 1: "male"})
AGE = Measurement(name="age", meaning="age", unit="years", low=0, high=120)
STAGE = Category(name="stage", meaning="stage", codes={1: "one", 2: "two", 3: "three"})
CHOL = Measurement(name="chol", meaning="cholesterol", unit="mg/dl", low=50, high=1000, zero_is_missing=True)
TINY = Task(name="tiny", columns=(SEX, AGE, STAGE, CHOL), label=Label(name="ill", meaning="is ill"))


def test_names_and_positions_follow_the_order_of_the_declaration() -> None:
    assert TINY.column_names == ("sex", "age", "stage", "chol")
    assert [column.name for column in TINY.measurements] == ["age", "chol"]
    assert TINY.measurement_positions == (1, 3)


def test_a_measurement_is_two_features_and_a_category_one_more_than_its_codes() -> None:
    assert TINY.feature_width == (2 + 1) + 2 + (3 + 1) + 2


def test_the_heart_task_has_uci_s_thirteen_columns_in_uci_s_order() -> None:
    assert " ".join(HEART_DISEASE.column_names) == (
        "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal"
    )
    assert HEART_DISEASE.measurement_positions == (0, 3, 4, 7, 9)
    assert HEART_DISEASE.label.name == "disease"
    # Five measurements, and eight categories of 2, 4, 2, 3, 2, 3, 4 and 3 codes.
    assert HEART_DISEASE.feature_width == 5 * 2 + (3 + 5 + 3 + 4 + 3 + 4 + 5 + 4)


def test_the_heart_task_has_uci_s_codes() -> None:
    codes = {column.name: list(column.codes) for column in HEART_DISEASE.columns if isinstance(column, Category)}

    assert codes == {
        "sex": [0, 1],
        "cp": [1, 2, 3, 4],
        "fbs": [0, 1],
        "restecg": [0, 1, 2],
        "exang": [0, 1],
        "slope": [1, 2, 3],
        "ca": [0, 1, 2, 3],
        "thal": [3, 6, 7],
    }


def test_zero_means_missing_only_where_no_living_patient_has_it() -> None:
    names = [column.name for column in HEART_DISEASE.measurements if column.zero_is_missing]

    assert names == ["trestbps", "chol", "thalach"]


def test_equal_declarations_have_one_schema_hash() -> None:
    assert len(TINY.schema_hash) == 64
    assert replace(TINY).schema_hash == TINY.schema_hash


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(TINY, name="other"), id="name"),
        pytest.param(replace(TINY, columns=(AGE, SEX, STAGE, CHOL)), id="order"),
        pytest.param(replace(TINY, columns=(SEX, AGE, STAGE)), id="one column less"),
        pytest.param(replace(TINY, columns=(SEX, replace(AGE, unit="months"), STAGE, CHOL)), id="unit"),
        pytest.param(replace(TINY, columns=(SEX, replace(AGE, high=130), STAGE, CHOL)), id="bound"),
        pytest.param(replace(TINY, columns=(SEX, replace(AGE, zero_is_missing=True), STAGE, CHOL)), id="zero"),
        pytest.param(
            replace(TINY, columns=(replace(SEX, codes={0: "male", 1: "female"}), AGE, STAGE, CHOL)),
            id="meaning of a code",
        ),
        pytest.param(replace(TINY, label=Label(name="well", meaning="is ill")), id="label"),
    ],
)
def test_a_change_of_meaning_changes_the_schema_hash(other: Task) -> None:
    assert other.schema_hash != TINY.schema_hash


def test_a_task_is_found_by_its_name() -> None:
    assert get_task("heart-disease") is HEART_DISEASE
    assert all(get_task(name).name == name for name in TASKS)


def test_the_generated_records_have_a_second_name_wherever_a_task_is_named(run_script: RunScript) -> None:
    assert get_task("readmission-generated") is READMISSION
    assert Settings(task="readmission-generated").task == "readmission"
    assert federated_health.read_task("readmission-generated") is READMISSION
    shown = run_script("federated-health", "task", "show", "readmission-generated").output
    assert shown == run_script("federated-health", "task", "show", "readmission").output
    for source in ("readmission", "readmission-generated"):
        run_script("create_dataset.py", "--source", source, "--patients", "60", "--out", source)
    csvs = [Path(folder, "client_1.csv").read_bytes() for folder in ("readmission", "readmission-generated")]
    assert csvs[0] == csvs[1]
    check = ("--data", "readmission/client_1.csv", "--task", "readmission-generated", "--check")
    assert run_script("client.py", *check).succeeded


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        SettingsError, match=r"task: expected .*heart-disease, readmission-30d, readmission, .*got 'heart'"
    ):
        get_task("heart")


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TINY.name = "other"  # type: ignore[misc]
