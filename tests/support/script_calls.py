"""The scripts called in this process, for tests of what a user meets."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

import client
import server
from federated_health.cli import client as cli_client
from federated_health.cli import create_dataset, predict
from federated_health.cli import server as cli_server

SCRIPTS = {
    "server.py": lambda: cli_server.serve(server.app),
    "client.py": lambda: cli_client.run_client(client.app),
    "create_dataset.py": create_dataset.main,
    "predict.py": predict.main,
}


Run = Callable[..., tuple[int, str]]


Show = Callable[..., tuple[int, str, str]]


def assert_one_line(result: tuple[int, str], *parts: str) -> None:
    code, said = result
    assert code not in (0, None)
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    for part in parts:
        assert part in said


def write(table: pd.DataFrame, name: str = "mine.csv") -> Path:
    path = Path(name)
    table.to_csv(path, index=False)
    return path


def rows_of(page: str) -> dict[str, list[str]]:
    """The table's rows: column -> its cells. Findings are indented by more than one space."""
    lines = [line.split() for line in page.splitlines() if re.match(r" \S", line)]
    return {words[0]: words[1:] for words in lines}
