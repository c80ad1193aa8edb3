"""The README and docs/ say what is so: their tables equal the declarations, and their links lead somewhere."""

import ast
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from federated_health.cli import main as cli
from federated_health.data.columns import Category, Measurement
from federated_health.data.partitions import KINDS
from federated_health.data.task_files import TASKS
from federated_health.data.tasks import Task
from federated_health.ml.strategies import STRATEGIES, read_arguments
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.setting_fields import flag_of
from federated_health.settings import Settings
from tests.conftest import PROJECT

PAGES = {
    path.relative_to(PROJECT).as_posix(): path.read_text()
    for path in (
        *PROJECT.glob("*.md"),
        *(page for of in ("docs", "data", "benchmarks") for page in (PROJECT / of).glob("*.md")),
    )
}
"""Every page, by its path."""


def section_of(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    assert isinstance(section, str)
    return section


def table_under(page: str, heading: str) -> dict[str, list[str]]:
    """First cell -> the other cells of the first table under a heading."""
    lines = section_of(page, heading).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_columns_are_those_of_the_task(task: Task) -> None:
    table = table_under("docs/own-data.md", f"Columns of {task.name}")
    assert list(table) == [*task.column_names, task.label.name, *([task.patient] if task.patient else [])]
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


def test_the_settings_are_all_there_as_the_help_explains_them() -> None:
    table = table_under("docs/settings.md", "Settings")
    defaults = Settings().to_config()
    settings = {f"--{flag_of(setting)}": setting for setting in fields(Settings) if setting.name != "data"}
    assert set(table) == {*settings}
    for flag, (default, allowed, words) in table.items():
        value, rules = defaults[flag.removeprefix("--")], settings[flag].metadata
        shown = {"": "none", False: "no", True: "yes"}.get(value) if isinstance(value, str | bool) else f"{value:g}"
        assert default == (rules["shown"] or shown or value)
        choices = ", ".join(rules["choices"]) if flag != "--strategy" else ""  # which have a table of their own
        assert allowed == (rules["range"] or choices), flag
        assert words == rules["help"] or (flag == "--strategy-args" and words.split(";")[0] in rules["help"])


def test_the_strategies_are_all_there_with_their_parameters() -> None:
    assert table_under("docs/settings.md", "Strategies") == {
        name: [
            declared.meaning,
            "; ".join(f"{one.name}={one.default} ({one.meaning}; {one.rule})" for one in declared.parameters),
            f"{declared.min_hospitals(read_arguments(name, ''))}"
            + (f": {declared.min_reason}" if declared.min_reason else ""),
        ]
        for name, declared in STRATEGIES.items()
    }


def test_every_kind_of_partition_is_there() -> None:
    assert list(table_under("docs/own-data.md", "Any partition")) == list(KINDS)


def without_chance(text: str) -> str:
    """A text whose fingerprints and times are all the same."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", re.sub(r"([0-9a-f]{4} ){15}[0-9a-f]{4}", "FINGERPRINT", text))


def test_the_commands_for_certificates_do_and_say_what_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_folder: Path
) -> None:
    section = PAGES["docs/operating.md"].split("## Across machines", 1)[1].split("\n## ", 1)[0]
    commands = "".join(re.findall(r"<!-- certificates -->\n```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    assert len(commands) == 6
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command.removeprefix("python -m ")))
        cli.main()
    said = without_chance(capsys.readouterr().out)
    shown = re.findall(r"\n```\n((?:wrote|signed) .*?)```", section, re.DOTALL)
    assert len(shown) == 2
    for block in shown:
        assert without_chance(block) in said
    assert load_identity(in_folder / "server-tls", Role.SERVER).name == "fl.example.org"
    assert load_identity(in_folder / "cleveland-tls", Role.HOSPITAL).name == "cleveland"


def anchors_of(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (PROJECT / page).parent / path if path else PROJECT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target.read_text()), link


VARYING = r"\.\.\.|;|\d+|NAME|\bX\b|\bhospital\b|\bserver\b|\bcolumn\b|\bprotocol\b|\bcertificate\b|an unknown peer"
"""What a message fills in."""


def test_messages_are_quoted_as_the_program_words_them() -> None:
    """The fixed parts of each message in the table stand in the program."""
    said = words_of_the_program()
    rows = section_of("docs/operating.md", "A message, and what to do").splitlines()
    cells = [row.split("|")[2] for row in rows if row.startswith(("| client", "| server"))]
    quoted = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 25
    for message in quoted:
        pieces = [piece.strip(" ;:,") for piece in re.split(VARYING, message)]
        assert [piece for piece in pieces if piece and piece not in said] == [], message


def words_of_the_program() -> str:
    """All texts in the program's code, one after the other; what an f-string fills in is `{}`."""
    texts = []
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("federated_health/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.JoinedStr(values=values):
                    texts.append(
                        "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in values)
                    )
                case ast.Constant(value=str(text)):
                    texts.append(text)
    return "\n".join(texts)


def test_every_page_of_docs_is_in_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)\)", PAGES["README.md"]))
    assert {page for page in PAGES if page.startswith("docs/")} - linked == set()
