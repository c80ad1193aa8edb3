"""The scripts called in this process, for tests of what a user meets."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

import client
import server
from federated_health.cli import client as cli_client
from federated_health.cli import create_dataset, main, predict
from federated_health.cli import server as cli_server

SCRIPTS = {
    "server.py": lambda: cli_server.serve(server.app),
    "client.py": lambda: cli_client.run_client(client.app),
    "create_dataset.py": create_dataset.main,
    "predict.py": predict.main,
}

COMMANDS = {**SCRIPTS, "federated-health": main.main}


class ScriptResult(NamedTuple):
    """How a script ended: its exit code, and what it wrote to stdout and stderr."""

    code: int
    output: str
    error: str

    @property
    def succeeded(self) -> bool:
        """Whether it ended with code 0 and wrote nothing to stderr."""
        return (self.code, self.error) == (0, "")


RunScript = Callable[..., ScriptResult]


def assert_one_line(result: ScriptResult, *parts: str) -> None:
    """A script failed with one line, which contains all parts."""
    assert result.code != 0
    assert result.error.count("\n") == 1, result.error
    assert "Traceback" not in result.error
    for part in parts:
        assert part in result.error


def assert_refused(result: ScriptResult, code: int, *words: str) -> None:
    """A script failed with this code, one line that holds all of these words, and no output."""
    assert (result.code, result.output) == (code, "")
    assert result.error.startswith("error: ")
    assert_one_line(result, *words)


def write_csv(table: pd.DataFrame, name: str = "mine.csv") -> Path:
    path = Path(name)
    table.to_csv(path, index=False)
    return path


def rows_of(page: str) -> dict[str, list[str]]:
    """The table's rows: column -> its cells. Findings are indented by more than one space."""
    lines = [line.split() for line in page.splitlines() if re.match(r" \S", line)]
    return {words[0]: words[1:] for words in lines}
