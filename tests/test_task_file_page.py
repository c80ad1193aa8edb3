"""docs/task-files.md: its example is what the commands print, and its tables have all keys of a task file."""

import re
import shlex
from pathlib import Path

import pytest

from federated_health.data.task_files import parse_task
from federated_health.data.tasks import find_difference
from federated_health.errors import DataError
from tests.support.script_calls import RunScript
from tests.support.scripts import PROJECT
from tests.support.strokes import write_strokes

PAGE = (PROJECT / "docs" / "task-files.md").read_text()


def block_of(mark: str) -> str:
    """The code block that stands below a comment with that mark."""
    (block,) = re.findall(rf"<!-- {mark} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert isinstance(block, str)
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
    known = str(caught.value).split("known are: ")[1].removesuffix(", or codes")
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
    ],
)
def test_what_is_compared_is_what_the_page_says(old: str, new: str, is_compared: bool) -> None:
    text = block_of("completed task")
    assert text.count(old) == 1
    server, hospital = (parse_task(content.encode(), "x.toml") for content in (text, text.replace(old, new)))
    difference = find_difference(hospital.agreement, server.agreement)
    assert (difference is not None) == is_compared


def test_a_difference_is_printed_as_shown() -> None:
    text = block_of("completed task")
    server, hospital = (parse_task(content.encode(), "x.toml") for content in (text, text.replace("mm Hg", "kPa")))
    assert f"```\n{find_difference(hospital.agreement, server.agreement)}\n```" in PAGE
