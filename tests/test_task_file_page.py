"""docs/task-files.md: its example is what the commands print, and its tables have all keys of a task file."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from federated_health.data.task_files import LABEL_KINDS, parse_task
from federated_health.data.tasks import find_difference
from federated_health.errors import DataError
from federated_health.setting_fields import TRAINING
from tests.support.script_calls import RunScript
from tests.support.scripts import PROJECT
from tests.support.strokes import write_strokes

PAGE = (PROJECT / "docs" / "task-files.md").read_text()


def blocks_of(mark: str) -> list[str]:
    """The code blocks that stand below a comment with that mark."""
    return re.findall(rf"<!-- {mark} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)


def block_of(mark: str) -> str:
    """The only code block that stands below a comment with that mark."""
    (block,) = blocks_of(mark)
    return block


def arguments_of(mark: str) -> list[str]:
    """The arguments of the command with that mark, without the redirection of its output."""
    return shlex.split(block_of(mark).partition(">")[0].removeprefix("python -m federated_health"))


def test_the_draft_is_as_shown(run_script: RunScript) -> None:
    write_strokes(Path("strokes.csv"))
    drafted = run_script("federated-health", *arguments_of("task draft"))
    assert drafted.code == 0
    assert drafted.output == block_of("drafted task")


@pytest.mark.parametrize("mark", ["task check", "task show"])
def test_the_completed_file_is_checked_and_shown_as_shown(run_script: RunScript, mark: str) -> None:
    Path("stroke.toml").write_text(block_of("completed task"))
    result = run_script("federated-health", *arguments_of(mark))
    assert result.succeeded
    assert result.output == block_of(f"output of {mark}")


def test_the_completed_file_accepts_the_export(run_script: RunScript) -> None:
    write_strokes(Path("strokes.csv"))
    Path("stroke.toml").write_text(block_of("completed task"))
    arguments = [*arguments_of("task check"), "--data", "strokes.csv"]
    assert run_script("federated-health", *arguments).succeeded


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("At the top", ""),
        ("The label", "[label]"),
        ("The patient", '[patient]\ncolumn = "id"'),
        ("Training settings", "[training]"),
        ("A measurement", "[columns.age]"),
        ("A category", "[columns.sex]"),
    ],
)
def test_the_tables_have_all_keys(heading: str, table: str) -> None:
    """The parser lists the keys that it knows where one is unknown."""
    section = PAGE.split(f"### {heading}\n")[1].split("\n#")[0]
    keys = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)[1:]
    text = block_of("completed task")
    text = text.replace(table, f"{table}\nunknown = 1") if table in text else f"{text}\n{table}\nunknown = 1"
    text = text if table else f"unknown = 1\n{block_of('completed task')}"
    with pytest.raises(DataError, match="unknown key") as caught:
        parse_task(text.encode(), "stroke.toml")
    known = str(caught.value).split("known are: ")[1]
    known = re.sub(", or (codes|further keys of another kind)$", "", known)
    assert keys == known.split(", ")


@pytest.mark.parametrize(
    ("old", "new", "is_compared"),
    [
        ('name = "stroke"', 'name = "strokes"', True),
        ('meaning = "stroke within five years"', 'meaning = "no stroke within five years"', True),
        ('column = "stroke"', 'column = "insult"', True),
        ("[columns.age]", '[patient]\ncolumn = "id"\n\n[columns.age]', True),
        ("[columns.age]", "[columns.Age]", True),
        ('meaning = "sex"', 'meaning = "gender"', True),
        ('"mm Hg"', '"mmHg"', True),
        ("[50, 300]", "[50, 301]", True),
        ("[50, 300]", "[50, 300]\nzero_is_missing = true", True),
        ('1 = "male"', '1 = "man"', True),
        ("[100, 180]", "[100, 190]", True),  # which decides the scale
        ("[100, 180]", "[100, 180]\nscale = [140, 41]", True),
        ("[100, 180]", "[100, 180]\nscale = [140, 40]", False),
        ("other_units = { kPa = { factor = 7.50062 } }\n", "", False),
        ("risk_codes = [2]", "risk_codes = [1, 2]", False),
        ('factor = 7.50062 } }\nassociation = "positive"', "factor = 7.50062 } }", False),
        ("[columns.age]", "# years, not months\n[columns.age]", False),
        ("[columns.age]", "[training]\nrounds = 3\n\n[columns.age]", False),
    ],
)
def test_what_is_compared_is_what_the_page_says(old: str, new: str, is_compared: bool) -> None:
    text = block_of("completed task")
    assert text.count(old) == 1
    server, hospital = (parse_task(content.encode(), "x.toml") for content in (text, text.replace(old, new)))
    difference = find_difference(hospital.agreement, server.agreement)
    assert (difference is not None) == is_compared


def test_the_training_settings_of_the_page_are_valid_and_have_the_limits_of_the_flags() -> None:
    (example,) = blocks_of("training settings")
    task = parse_task(f"{block_of('completed task')}\n{example}".encode(), "stroke.toml")
    assert task.training == tomllib.loads(example)["training"]
    section = PAGE.split("### Training settings\n")[1].split("\n#")[0]
    allowed = dict(re.findall(r"^\| (\w+) \| (.*?) \|", section, re.MULTILINE)[1:])
    assert {key: text.split(";")[0] for key, text in allowed.items()} == {
        key: limits["range"] if limits["type"] is not str else allowed[key] for key, limits in TRAINING.items()
    }


def test_a_difference_is_printed_as_shown() -> None:
    text = block_of("completed task")
    server, hospital = (parse_task(content.encode(), "x.toml") for content in (text, text.replace("mm Hg", "kPa")))
    assert f"```\n{find_difference(hospital.agreement, server.agreement)}\n```" in PAGE


def test_the_page_has_the_keys_and_an_example_of_each_kind_of_label() -> None:
    section = PAGE.split("### Kinds of labels\n")[1].split("\n### ")[0]
    kinds = re.findall(r"^\| (\w+) \|", section.split("further keys")[0], re.MULTILINE)[1:]
    assert tuple(kinds) == LABEL_KINDS
    keys = re.findall(r"^\| (\w+) \| (\w+) \|", section, re.MULTILINE)
    columns = "[columns.age]" + block_of("completed task").partition("[columns.age]")[2]
    columns = re.sub(r"^(association|risk_codes) = .*$", "", columns, flags=re.MULTILINE)
    examples = [tomllib.loads(example)["label"]["kind"] for example in blocks_of("labels of other kinds")]
    assert examples == kinds[1:]
    for kind, example in zip(examples, blocks_of("labels of other kinds"), strict=True):
        text = f'name = "any"\n{example}\n{columns}'
        assert parse_task(text.encode(), "any.toml").label.kind == kind
        with pytest.raises(DataError, match="unknown key") as caught:
            parse_task(text.replace("[label]", "[label]\nunknown = 1").encode(), "any.toml")
        known = str(caught.value).split("known are: column, meaning, kind, ")[1].split(", ")
        assert known == [key for of, key in keys if of == kind]
