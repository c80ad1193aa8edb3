"""Subgroups that a task file declares."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from federated_health.data.subgroups import MAX_SUBGROUPS, subgroups_of
from federated_health.data.task_files import TASKS, parse_task, read_task_file
from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task, find_difference
from federated_health.errors import DataError
from federated_health.ml.predictions import read_task
from tests.support.targets import LABELS, task_of

TASK = """\
name = "stroke"

[label]
column = "died"
meaning = "died within 30 days"

[subgroups]
SUBGROUPS

[columns.age]
meaning = "age"
unit = "years"
range = [0, 120]

[columns.sex]
meaning = "sex"
codes = { 0 = "female", 1 = "male" }

[columns.site]
meaning = "site of the stroke"
codes = { 1 = "a", 2 = "b", 3 = "c", 4 = "d", 5 = "e", 6 = "f", 7 = "g", 8 = "h", 9 = "i" }
"""


def parse(declared: str) -> Task:
    return parse_task(TASK.replace("SUBGROUPS", declared).encode(), "stroke.toml")


def test_each_code_and_each_band_is_a_group() -> None:
    task = parse('sex = "codes"\nage = [50, 62.5]')
    rows = np.array([[49.9, 0, 1], [50, 1, 1], [62.4, 0, 1], [62.5, np.nan, 1], [np.nan, 1, 1]])

    found = {(group.column, group.name): group.mask(rows).tolist() for group in subgroups_of(task)}

    assert found == {
        ("sex", "female"): [True, False, True, False, False],
        ("sex", "male"): [False, True, False, False, True],
        ("age", "under 50"): [True, False, False, False, False],
        ("age", "50 to under 62.5"): [False, True, True, False, False],
        ("age", "62.5 and over"): [False, False, False, True, False],
    }


def test_a_task_without_subgroups_has_none() -> None:
    assert subgroups_of(task_of("binary")) == ()


@pytest.mark.parametrize(
    ("declared", "key", "problem"),
    [
        ('ages = "codes"', "subgroups.ages", "expected one of the columns age, sex, site"),
        ("sex = [0.5]", "subgroups.sex", "category"),
        ('sex = "all"', "subgroups.sex", "category"),
        ('age = "codes"', "subgroups.age", "edges"),
        ("age = []", "subgroups.age", "edges"),
        ("age = [60, 50]", "subgroups.age", "higher"),
        ("age = [50, 50]", "subgroups.age", "higher"),
        ("age = [0, 50]", "subgroups.age", "above 0"),
        ("age = [50, 120]", "subgroups.age", "below 120"),
        ("age = [true]", "subgroups.age", "edges"),
        ("age = [nan]", "subgroups.age", "edges"),
        ('site = "codes"\nage = [40, 50, 60]', "subgroups", f"at most {MAX_SUBGROUPS} groups in all, got 13"),
    ],
)
def test_a_mistake_is_one_line_with_the_key(declared: str, key: str, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(declared)
    text = str(caught.value)
    assert text.startswith("stroke.toml, line ")
    assert f": {key}: " in text
    assert problem in text
    assert "\n" not in text


def test_codes_of_the_same_meaning_are_no_groups() -> None:
    """Figures are by the name of a group: one group would replace the other."""
    task = TASK.replace('1 = "male"', '1 = "female"').replace("SUBGROUPS", 'sex = "codes"')
    with pytest.raises(DataError, match=r"subgroups\.sex: expected codes of sex with different meanings"):
        parse_task(task.encode(), "stroke.toml")


def test_only_a_table_declares_subgroups() -> None:
    with pytest.raises(DataError, match="subgroups: expected a table"):
        parse_task(
            TASK.replace("[subgroups]\nSUBGROUPS", "").replace("[label]", 'subgroups = "sex"\n[label]').encode(), "x"
        )


@pytest.mark.parametrize("kind", [kind for kind in LABELS if kind != "binary"])
def test_labels_of_other_kinds_have_no_subgroups(kind: str) -> None:
    text = write_task(replace(task_of(kind), subgroups={"age": (50.0,)}))
    with pytest.raises(DataError, match=f"only a binary label has subgroups.*{kind}"):
        parse_task(text.encode(), "task.toml")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_tasks_of_the_package_declare_valid_subgroups(task: Task) -> None:
    assert list(task.subgroups) == ["sex", "age"]
    assert parse_task(write_task(task).encode(), "task.toml").agreement == task.agreement


def test_a_written_task_file_declares_the_same_subgroups(tmp_path: Path) -> None:
    task = parse('sex = "codes"\nage = [50, 62.5]')
    (tmp_path / "task.toml").write_text(write_task(task))
    assert read_task_file(tmp_path / "task.toml").subgroups == {"sex": (), "age": (50, 62.5)}


def test_server_and_hospital_agree_on_subgroups() -> None:
    task, other = parse("age = [50, 60]"), parse("age = [50, 65]")
    difference = find_difference(other.agreement, task.agreement)
    assert difference is not None
    assert "subgroups by age" in difference
    assert "50, 65" in difference
    assert task.schema_hash == other.schema_hash, "rows mean the same"


def test_a_task_without_subgroups_keeps_its_agreement() -> None:
    assert not any("subgroup" in name for name in task_of("binary").agreement)


def test_a_model_of_a_task_without_subgroups_still_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = parse("age = [50, 60]")
    before = replace(task, subgroups={})
    described = {"task_file": write_task(before), "schema": before.schema_hash, "threshold": 0.5}
    monkeypatch.setattr("federated_health.ml.predictions.read_description", lambda _: described)
    (tmp_path / "task.toml").write_text(write_task(task))

    found, _ = read_task(tmp_path / "model.keras", tmp_path / "task.toml")

    assert found.subgroups == {}
