"""The hospital that a client's flags name."""

import subprocess
import sys
from pathlib import Path

import pytest

from federated_health.data.manifest import OwnHospital, find_own_hospital
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.errors import DataError, SettingsError
from tests.support.scripts import PROJECT

HEART = HEART_DISEASE.name


def test_a_number_names_a_hospital_and_the_task_of_the_folder(hospitals_folder: Path) -> None:
    own = find_own_hospital(hospitals_folder, 2, None, None, None, READMISSION.name)
    assert own == OwnHospital(hospitals_folder / "client_2.csv", "hungary", HEART_DISEASE)


def test_a_given_task_overrides_the_folder_s(hospitals_folder: Path) -> None:
    assert find_own_hospital(hospitals_folder, 2, None, None, READMISSION.name, HEART).task == READMISSION


def test_a_file_has_the_default_task_unless_one_is_given() -> None:
    for task, expected in ((None, HEART_DISEASE), (READMISSION.name, READMISSION)):
        own = find_own_hospital(Path("none"), None, Path("a.csv"), "a", task, HEART)
        assert own == OwnHospital(Path("a.csv"), "a", expected)


@pytest.mark.parametrize(
    ("number", "data", "name"),
    [(None, None, None), (1, Path("a.csv"), "a"), (None, Path("a.csv"), None), (None, None, "a"), (1, None, "a")],
)
def test_flags_for_neither_or_both_ways_are_refused(number: int | None, data: Path | None, name: str | None) -> None:
    with pytest.raises(SettingsError, match=r"--hospital.* or --data.*--name"):
        find_own_hospital(Path(), number, data, name, None, HEART)


@pytest.mark.parametrize("name", ["federation", "Upper", ""])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"lower-case.*federation"):
        find_own_hospital(Path(), None, Path("a.csv"), name, None, HEART)


def test_a_number_outside_the_folder_is_refused(hospitals_folder: Path) -> None:
    with pytest.raises(DataError, match="4, got 5"):
        find_own_hospital(hospitals_folder, 5, None, None, None, HEART)


def test_finding_and_reading_a_hospital_loads_no_module_that_writes_or_generates_data(hospitals_folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from federated_health.data.hospital import load_hospital; "
        "from federated_health.data.manifest import find_own_hospital; "
        f"own = find_own_hospital(Path({str(hospitals_folder)!r}), 1, None, None, None, 'heart-disease'); "
        "load_hospital(own.data, own.task, own.name, 42); "
        "print(*(name for name in sys.modules if name.startswith('federated_health.data.')))"
    )

    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True, capture_output=True, text=True)

    modules = {name.removeprefix("federated_health.data.") for name in ended.stdout.split()}
    assert modules == {"columns", "tasks", "csv_reading", "data_check", "hospital", "manifest", "split"}
