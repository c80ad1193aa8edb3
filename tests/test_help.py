"""--help explains every flag, with its group and default; its examples are commands that the parsers accept.

argparse has no public access to the flags and groups of a parser, so these tests read its private attributes.
"""

import argparse
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from federated_health.cli import parsing
from federated_health.setting_fields import flag_of
from federated_health.settings import Settings
from tests.support.parsers import COMMAND, SCRIPTS, all_parsers

PARSERS = all_parsers()


def examples_of(parser: argparse.ArgumentParser) -> list[str]:
    """The commands that a --help shows."""
    return [line.strip() for line in parser.format_help().split("Examples:\n", 1)[1].splitlines()]


def flags_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All flags and arguments, except --help, --version and subcommands."""
    excluded = argparse._HelpAction, argparse._VersionAction, argparse._SubParsersAction
    return [action for action in parser._actions if not isinstance(action, excluded)]


def test_every_script_and_subcommand_has_a_parser() -> None:
    assert {*PARSERS} == {
        *SCRIPTS,
        COMMAND,
        *(f"{COMMAND} {script.removesuffix('.py').replace('_', '-')}" for script in SCRIPTS),
        *(
            f"{COMMAND} {subcommand}"
            for subcommand in (
                "demo",
                "evidence",
                "audit",
                "certificates",
                "mapping",
                "policy",
                "superlink",
                "supernode",
                "task",
            )
        ),
        *(f"{COMMAND} task {subcommand}" for subcommand in ("draft", "check", "show")),
        *(
            f"{COMMAND} certificates {subcommand}"
            for subcommand in ("init", "sign", "revoke", "request", "renew", "show")
        ),
        f"{COMMAND} mapping draft",
        *(f"{COMMAND} policy {subcommand}" for subcommand in ("draft", "check")),
    }


@pytest.mark.parametrize("name", PARSERS)
def test_every_flag_has_a_help_text_and_a_default(name: str) -> None:
    for action in flags_of(PARSERS[name]):
        text = action.help or ""
        assert len(text.split()) >= 3, action.dest
        if action.option_strings and not action.required:
            assert "default: " in text, action.dest


PATHS = {"DIR", "FILE", "PATH", "CSV", "EXPORT", "REQUEST", "MODEL", "PATIENTS"}
"""Placeholders of flags that name files or folders. create_dataset.py itself checks SOURCE, which may be a word."""


@pytest.mark.parametrize("name", PARSERS)
def test_an_empty_path_is_an_error_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise it would be the current folder, or mean that the flag is not given."""
    for action in flags_of(PARSERS[name]):
        assert action.type is not Path, action.dest
        if action.metavar not in PATHS:
            assert action.type not in (parsing.path, parsing.path_text), action.dest
            continue
        positional = [flag.dest for flag in flags_of(PARSERS[name]) if not flag.option_strings]
        arguments = ["" if dest == action.dest else "x" for dest in positional]
        with pytest.raises(SystemExit) as ended:
            PARSERS[name].parse_args([*arguments, *(f"{flag}=" for flag in action.option_strings[:1])])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(f"{action.dest.replace('_', '-')}|{action.metavar}", error)
        assert "expected a path, got ''" in error


@pytest.mark.parametrize("name", PARSERS)
def test_the_help_text_shows_the_default_of_the_parser(name: str) -> None:
    project = Settings().to_config()
    in_words = {flag_of(setting): setting.metadata["shown"] for setting in fields(Settings)}
    for action in flags_of(PARSERS[name]):
        shown = re.search(r"default: ([^;)]*)\)", (action.help or "") % {"default": action.default})
        if action.default is argparse.SUPPRESS:
            flag = action.option_strings[0].removeprefix("--")
            value = project[flag]
            assert shown is not None
            expected = ("no", "yes")[value] if isinstance(value, bool) else "none" if value == "" else str(value)
            assert shown[1] == (in_words[flag] or expected)
        elif action.default not in (None, False, True, [], (1.0, 2.0, 4.0, 8.0)):
            assert shown is not None, action.dest
            assert shown[1].removesuffix(" here").endswith(str(action.default)), action.dest


@pytest.mark.parametrize("name", ["server.py", "client.py", "create_dataset.py", f"{COMMAND} evidence"])
def test_every_flag_of_a_long_help_is_in_a_group(name: str) -> None:
    parser = PARSERS[name]
    ungrouped = {action.dest for group in parser._action_groups[:2] for action in group._group_actions}
    assert ungrouped == {"help"}
    assert len(parser._action_groups) >= 5 - ("create" in name)
    assert all(group._group_actions for group in parser._action_groups[2:])


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_has_examples(name: str) -> None:
    examples = examples_of(PARSERS[name])
    assert len(examples) >= (1 if name.endswith(("revoke", "renew")) else 2)
    assert all(example.startswith(f"python {name}" if name in SCRIPTS else name) for example in examples)


@pytest.mark.parametrize("example", sorted({example for parser in PARSERS.values() for example in examples_of(parser)}))
def test_an_example_is_accepted_by_its_parser(example: str) -> None:
    name, *arguments = shlex.split(example.removeprefix("python ").partition(" > ")[0])
    if name == COMMAND:
        name = f"{name} {arguments.pop(0)}"
    assert vars(PARSERS[name].parse_args(arguments))


@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_a_terminal_of_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines, _, _ = PARSERS[name].format_help().partition("Examples:\n")  # a command stands in one line, to be copied
    assert [line for line in lines.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", PARSERS)
def test_a_flag_cannot_be_abbreviated(name: str) -> None:
    assert not PARSERS[name].allow_abbrev


def test_paragraphs_are_wrapped_and_commands_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    flags = "--rounds 3 " * 6
    text = parsing.CommandParser("word " * 20, prog="server.py", examples=[flags]).format_help()
    assert f"  python server.py {flags}".rstrip() in text.splitlines()
    assert max(len(line) for line in text.splitlines() if "python" not in line) < 40
