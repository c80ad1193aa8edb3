"""federated-health task: draft, check and show, as a user meets them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.task_files import TASKS, read_task_file
from tests.conftest import PROJECT
from tests.support.script_calls import RunScript, assert_refused, write_csv

STROKE = (PROJECT / "examples" / "own_question" / "stroke.toml").read_text()


def write(text: str, name: str = "stroke.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def patients(rows: int = 80) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    columns = {"age": generator.integers(40, 95, rows), "sex": generator.integers(0, 2, rows)}
    return pd.DataFrame({**columns, "died_30d": generator.integers(0, 2, rows)})


def complete(text: str) -> str:
    """A draft in which a person has replaced every placeholder."""
    return text.replace('"?"', '"something"')


def test_a_draft_is_completed_checked_and_shown(run_script: RunScript) -> None:
    write_csv(patients())
    drafted = run_script("federated-health", "task", "draft", "mine.csv", "--target", "died_30d", "--name", "stroke")
    assert drafted.code == 0
    assert drafted.error.startswith("5 lines")
    write(drafted.output)
    unfinished = run_script("federated-health", "task", "check", "stroke.toml")
    assert unfinished.code == 1
    assert unfinished.error.startswith("error: stroke.toml: ")

    write(complete(drafted.output))
    checked = run_script("federated-health", "task", "check", "stroke.toml", "--data", "mine.csv")
    assert checked.succeeded
    assert "stroke.toml: valid: task stroke, 2 columns, label died_30d\n" in checked.output
    assert "this hospital can join" in checked.output
    assert run_script("client.py", "--data", "mine.csv", "--task-file", "stroke.toml", "--check").succeeded

    shown = run_script("federated-health", "task", "show", "stroke.toml")
    assert shown.succeeded
    assert re.search(r"age +something +something, 0 to 120", shown.output)


def test_every_open_place_and_every_column_with_a_mistake_is_listed_with_its_line(run_script: RunScript) -> None:
    text = STROKE.replace('meaning = "sex"', 'meaning = "?"').replace('"mmol/l"', '"?"')
    text = text.replace("range = [10, 2000]", "range = [2000, 10]").replace('0 = "none"', '0 = "?"')
    result = run_script("federated-health", "task", "check", write(text))
    lines = text.splitlines()
    expected = {
        lines.index('meaning = "?"') + 1: "columns.sex.meaning",
        lines.index('unit = "?"') + 1: "columns.glucose.unit",
        next(number for number, line in enumerate(lines, 1) if '0 = "?"' in line): "columns.earlier_strokes.codes",
        lines.index("range = [2000, 10]") + 1: "columns.creatinine.range",
    }
    found = re.findall(r"^  stroke\.toml, line (\d+): (\S+): ", result.output, re.MULTILINE)
    assert {int(line): key for line, key in found} == expected
    assert result.code == 1
    assert result.error.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "stroke-mortality"', 'name = "Stroke"', "line 4: name"),
        ('column = "died_30d"', 'column = "age"', "line 7: label.column"),
        ("range = [0, 42]", "range = [0]", "columns.nihss.range"),
        ('meaning = "sex"', 'meaning = "?"', "columns.sex.meaning"),
        ("range = [0, 42]", "range = [0", "not valid TOML"),
        ("[columns.age]", "[columns]\nage = 1\n[column.age]", "columns.age"),
    ],
)
def test_a_single_mistake_is_the_error_itself(run_script: RunScript, old: str, new: str, words: str) -> None:
    assert STROKE.count(old) == 1
    write(STROKE.replace(old, new))
    result = run_script("federated-health", "task", "check", "stroke.toml")
    assert result.code == 1
    assert words in result.error + result.output


def test_a_file_without_columns_is_refused(run_script: RunScript) -> None:
    write(STROKE.split("[columns.age]")[0])
    assert_refused(run_script("federated-health", "task", "check", "stroke.toml"), 1, "stroke.toml", "columns")


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_of_the_package_are_valid(run_script: RunScript, name: str) -> None:
    path = PROJECT / "federated_health" / "data" / "shipped_tasks" / f"{name}.toml"
    result = run_script("federated-health", "task", "check", path)
    assert result.succeeded
    assert f"valid: task {name}, {len(TASKS[name].columns)} columns" in result.output


def notes_on(run_script: RunScript, text: str) -> str:
    """The output of a check of a valid task file."""
    result = run_script("federated-health", "task", "check", write(text))
    assert result.succeeded
    return result.output


def test_notes_name_what_may_be_missing(run_script: RunScript) -> None:
    assert notes_on(run_script, STROKE).count("note: ") == 1  # codes of sex and thrombolysis
    without_patient = STROKE.replace('[patient]\ncolumn = "patient_id"\n', "")
    assert "patient" in notes_on(run_script, without_patient)
    without_signs = re.sub(r"^(association|risk_codes) = .*\n", "", STROKE, flags=re.MULTILINE)
    assert "inverted label" in notes_on(run_script, without_signs)
    without_median = STROKE.replace("typical_median = [0, 15]\n", "")
    assert re.search("typical_median.*: nihss\n", notes_on(run_script, without_median))
    wide = STROKE.replace("range = [0, 42]", "range = [0, 100000]")
    assert re.search("every number.*: nihss\n", notes_on(run_script, wide))
    assert re.search("codes without gaps.*: sex, thrombolysis\n", notes_on(run_script, STROKE))


def test_data_that_breaks_the_task_fails_the_check(run_script: RunScript) -> None:
    write_csv(patients().replace({"sex": {1: 7}}))
    text = complete(run_script("federated-health", "task", "draft", "mine.csv", "--target", "died_30d").output)
    write(text.replace("7 =", "8 ="))
    result = run_script("federated-health", "task", "check", "stroke.toml", "--data", "mine.csv")
    assert result.code == 1
    assert "valid: task mine" in result.output
    assert "sex" in result.error


def test_check_and_show_list_the_training_settings(run_script: RunScript) -> None:
    path = write(STROKE + '\n[training]\nrounds = 7\nhidden = "32,16"\n')
    for subcommand in ("check", "show"):
        result = run_script("federated-health", "task", subcommand, path)
        assert result.succeeded
        assert "training: rounds 7, hidden 32,16\n" in result.output


@pytest.mark.parametrize("name", TASKS)
def test_show_has_the_table_of_the_documentation(run_script: RunScript, name: str) -> None:
    page = (PROJECT / "docs" / "own-data.md").read_text()
    shown = run_script("federated-health", "task", "show", name, "--markdown")
    assert shown.succeeded
    head, _, *rows = shown.output.splitlines()
    assert head in page
    assert len(rows) == len(TASKS[name].columns) + (2 if TASKS[name].patient else 1)
    label = TASKS[name].label
    for row in rows:
        assert row in page or label.name in row  # whose meaning has its source, too


def test_show_takes_a_file_or_a_name(run_script: RunScript) -> None:
    shown = run_script("federated-health", "task", "show", write(STROKE))
    for column in read_task_file(Path("stroke.toml")).columns:
        assert re.search(rf"^ {column.name} ", shown.output, re.MULTILINE)
    assert "patient_id" in shown.output
    assert_refused(run_script("federated-health", "task", "show", "nosuch"), 2, "heart-disease, readmission")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--target", "died"], 1, ["did you mean died_30d"]),
        (["--target", "same"], 1, ["got 1 different"]),
        (["--target", "died_30d", "--name", "My Task"], 2, ["--name", "hyphens"]),
        ([], 2, ["--target"]),
    ],
)
def test_a_draft_that_is_not_possible_is_refused(
    run_script: RunScript, arguments: list[str], code: int, words: list[str]
) -> None:
    write_csv(patients().assign(same=1))
    result = run_script("federated-health", "task", "draft", "mine.csv", *arguments)
    assert_refused(result, code, *words)


def test_a_missing_export_is_refused(run_script: RunScript) -> None:
    result = run_script("federated-health", "task", "draft", "none.csv", "--target", "x")
    assert_refused(result, 1, "none.csv")


def test_a_check_of_an_export_takes_its_mapping(run_script: RunScript) -> None:
    folder = PROJECT / "examples" / "own_question"
    arguments = ("federated-health", "task", "check", folder / "stroke.toml")
    mapping = ("--mapping", folder / "riverside" / "mapping.toml")
    result = run_script(*arguments, "--data", folder / "riverside" / "export.csv", *mapping)
    assert result.succeeded
    assert "320 rows of 294 patients" in result.output
    assert_refused(run_script(*arguments, *mapping), 2, "--data")
