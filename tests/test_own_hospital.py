"""The hospital that a client's flags name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from federated_health.data.manifest import OwnHospital, find_own_hospital
from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.errors import DataError, SettingsError
from tests.support.scripts import PROJECT


def test_a_number_names_a_hospital_and_the_task_of_the_folder(hospitals_folder: Path) -> None:
    own = find_own_hospital(hospitals_folder, 2, None, None)
    assert own == OwnHospital(data=hospitals_folder / "client_2.csv", name="hungary", task=HEART_DISEASE)


def test_a_given_task_overrides_the_folder_s(hospitals_folder: Path) -> None:
    assert find_own_hospital(hospitals_folder, 2, None, None, task=READMISSION.name).task == READMISSION


def test_a_file_has_the_default_task_unless_one_is_given() -> None:
    for task, expected in ((None, HEART_DISEASE), (READMISSION.name, READMISSION)):
        own = find_own_hospital(Path("none"), None, Path("a.csv"), "a", task=task)
        assert own == OwnHospital(data=Path("a.csv"), name="a", task=expected)


@pytest.mark.parametrize(
    ("number", "data", "name"),
    [(None, None, None), (1, Path("a.csv"), "a"), (None, Path("a.csv"), None), (None, None, "a"), (1, None, "a")],
)
def test_flags_for_neither_or_both_ways_are_refused(number: int | None, data: Path | None, name: str | None) -> None:
    with pytest.raises(SettingsError, match=r"--hospital.* or --data.*--name"):
        find_own_hospital(Path(), number, data, name)


@pytest.mark.parametrize("name", ["federation", "Upper", ""])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"lower-case.*federation"):
        find_own_hospital(Path(), None, Path("a.csv"), name)


def test_a_number_outside_the_folder_is_refused(hospitals_folder: Path) -> None:
    with pytest.raises(DataError, match="4, got 5"):
        find_own_hospital(hospitals_folder, 5, None, None)


def test_finding_and_reading_a_hospital_loads_no_module_that_writes_or_generates_data(hospitals_folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from federated_health.data.hospital import load_hospital; "
        "from federated_health.data.manifest import find_own_hospital; "
        f"own = find_own_hospital(Path({str(hospitals_folder)!r}), 1, None, None); "
        "load_hospital(own.data, own.task, own.name, 42); "
        "print(*(name for name in sys.modules if name.startswith('federated_health.data.')))"
    )

    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True, capture_output=True, text=True)

    modules = {name.removeprefix("federated_health.data.") for name in ended.stdout.split()}
    tasks = {"columns", "tasks", "task_files", "toml_reading"}
    assert modules == {*tasks, "csv_reading", "data_check", "hospital", "manifest", "split"}


STROKE = """\
name = "stroke"
label = { column = "died", meaning = "died" }
columns.age = { meaning = "age", unit = "years", range = [0, 120] }
"""


def write_manifest(folder: Path, **entry: object) -> Path:
    """A CSV, a task file and a manifest, as a hospital may write them by hand; returns the CSV's path."""
    (folder / "stroke.toml").write_text(STROKE)
    (folder / "north.toml").touch()
    hospital = {"file": "export.csv", "name": "north", **entry}
    manifest = {"task": "stroke", "task_file": {"file": "stroke.toml"}, "hospitals": [hospital]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / "export.csv"


def test_a_csv_takes_name_task_and_mapping_from_the_manifest_beside_it(tmp_path: Path) -> None:
    own = find_own_hospital(Path(), None, write_manifest(tmp_path, mapping="north.toml"), None)
    assert (own.name, own.task.name, own.task_file) == ("north", "stroke", tmp_path / "stroke.toml")
    assert own.mapping == tmp_path / "north.toml"


def test_flags_override_the_manifest_beside_a_csv(tmp_path: Path) -> None:
    data = write_manifest(tmp_path, mapping="north.toml")
    own = find_own_hospital(Path(), None, data, "south", task="readmission", mapping=Path("other.toml"))
    assert (own.name, own.task, own.task_file, own.mapping) == ("south", READMISSION, None, Path("other.toml"))


@pytest.mark.parametrize("content", [None, "[]", "{", '{"hospitals": 3}', '{"hospitals": [{"file": "other.csv"}]}'])
def test_a_manifest_that_does_not_list_the_csv_is_ignored(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    own = find_own_hospital(Path(), None, tmp_path / "export.csv", "north")
    assert (own.task, own.task_file, own.mapping) == (HEART_DISEASE, None, None)


def test_a_manifest_with_a_value_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json"):
        find_own_hospital(Path(), None, write_manifest(tmp_path, mapping=["north.toml"]), "north")


@pytest.mark.parametrize("name", ["pipe", ".", "none.toml", "a\0b", "\ud800", "x" * 5000])
def test_a_manifest_names_files_only(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    manifest = {"task": "heart-disease", "hospitals": [{"file": "a.csv", "name": "a", "mapping": name}]}
    for content in (
        manifest,
        {**manifest, "task_file": {"file": name}, "hospitals": [{"file": "a.csv", "name": "a"}]},
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"manifest\.json.*not a file") as caught:
            find_own_hospital(Path("none"), None, tmp_path / "a.csv", "a")
        assert str(caught.value).isprintable()


def test_a_pipe_instead_of_a_manifest_is_ignored(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    assert find_own_hospital(Path("none"), None, tmp_path / "a.csv", "a").task == HEART_DISEASE


def test_a_task_and_a_task_file_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="both"):
        find_own_hospital(Path(), None, Path("a.csv"), "a", task="readmission", task_file=tmp_path / "stroke.toml")
