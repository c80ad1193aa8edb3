"""The README says what is so: its tables equal the declarations, and its links lead somewhere."""

import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from federated_health import __main__ as verbs
from federated_health.columns import Category, Measurement
from federated_health.partitions import KINDS
from federated_health.rules import flag_of
from federated_health.security import Role, load_identity
from federated_health.settings import Settings, read_defaults
from federated_health.strategies import STRATEGIES, read_arguments
from federated_health.tasks import HEART_DISEASE, READMISSION, Task
from tests.conftest import PROJECT

README = (PROJECT / "README.md").read_text()


def table_under(heading: str) -> dict[str, list[str]]:
    """First cell -> the other cells of the first table under a heading."""
    section = README.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.mark.parametrize(
    ("heading", "task"),
    [("Bring your own hospital", HEART_DISEASE), ("Columns of the second task", READMISSION)],
)
def test_the_columns_are_those_of_the_task(heading: str, task: Task) -> None:
    table = table_under(heading)
    assert list(table) == [*task.column_names, task.label.name]
    assert table[task.label.name][1] == "0 or 1, never missing"
    for column in task.columns:
        what, values = table[column.name]
        assert what == column.meaning
        match column:
            case Measurement():
                zero = "; 0 is read as missing" if column.zero_is_missing else ""
                assert values == f"{column.unit}, {column.low:g} to {column.high:g}{zero}"
            case Category():
                assert values == ", ".join(f"{code} {word}" for code, word in column.codes.items())


def test_the_settings_are_all_there_with_their_defaults() -> None:
    table = table_under("Settings")
    defaults = read_defaults()
    flags = {flag_of(setting): setting for setting in fields(Settings)}
    assert set(table) == {f"--{flag}" for flag in flags if flag != "data"}
    for name, (default, _) in table.items():
        value = defaults[name.removeprefix("--")]
        words = {"": "empty", False: "no", True: "yes"}.get(value) if isinstance(value, str | bool) else f"{value:g}"
        assert default == (words or value)


def test_the_strategies_are_all_there_with_their_parameters() -> None:
    assert table_under("Strategies") == {
        name: [
            declared.meaning,
            "; ".join(f"{one.name}={one.default} ({one.meaning}; {one.rule})" for one in declared.parameters),
            f"{declared.least_hospitals(read_arguments(name, ''))}"
            + (f": {declared.least_reason}" if declared.least_reason else ""),
        ]
        for name, declared in STRATEGIES.items()
    }


def test_every_kind_of_partition_is_there() -> None:
    assert list(table_under("Any split")) == list(KINDS)


def test_the_modules_are_all_in_the_design() -> None:
    section = README.split("## Design\n", 1)[1].split("Decisions, and why:")[0]
    named = set(re.findall(r"\b(\w+)\.py\b", section)) | set(re.findall(r"\b(\w+)/ ", section))
    modules = {path.stem for path in (PROJECT / "federated_health").iterdir() if not path.stem.startswith("__")}
    assert modules - named == set()


def without_chance(text: str) -> str:
    """A text whose fingerprints and times are all the same."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", re.sub(r"([0-9a-f]{4} ){15}[0-9a-f]{4}", "FINGERPRINT", text))


def test_the_commands_for_certificates_do_and_say_what_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_folder: Path
) -> None:
    section = README.split("## Across machines", 1)[1].split("\n## ", 1)[0]
    commands = "".join(re.findall(r"<!-- certificates -->\n```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    assert len(commands) == 6
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command.removeprefix("python -m ")))
        verbs.main()
    said = without_chance(capsys.readouterr().out)
    shown = re.findall(r"\n```\n((?:wrote|signed) .*?)```", section, re.DOTALL)
    assert len(shown) == 2
    for block in shown:
        assert without_chance(block) in said
    assert load_identity(in_folder / "server-tls", Role.SERVER).name == "fl.example.org"
    assert load_identity(in_folder / "cleveland-tls", Role.HOSPITAL).name == "cleveland"


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not link.startswith("https://") and not (PROJECT / link).exists()] == []
