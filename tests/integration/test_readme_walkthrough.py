"""The README's walkthrough, command by command as it is written there, in a fresh copy of the project."""

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest

from federated_health.processes import PROJECT, free_port, process

pytestmark = pytest.mark.slow


def commands_of(readme: str) -> list[list[str]]:
    """The commands of all blocks that are marked as the walkthrough's, with this Python for `python`."""
    blocks = re.findall(r"<!-- walkthrough -->\n```sh\n(.*?)```", readme, re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert all(line[0] == "python" for line in lines)
    return [[sys.executable, *line[1:]] for line in lines]


def figures_in(table: str) -> dict[str, list[float]]:
    """Name -> figures, of every line that ends in a figure."""
    rows = re.findall(r"^ (\S.*?) {2,}([\d. ]+\d) *$", table, re.MULTILINE)
    assert len(rows) == 6, table
    return {name: [float(cell) for cell in cells.split()] for name, cells in rows}


def test_the_walkthrough_works_as_it_is_written(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        ".venv", ".git", "runs", "client_*.csv", "manifest.json", "__pycache__", ".*_cache"
    )
    shutil.copytree(PROJECT, checkout, ignore=ignored)
    create, serve, *joins, predict = commands_of((checkout / "README.md").read_text())
    address = f"127.0.0.1:{free_port()}"  # the default port may be in use where this test runs
    subprocess.run(create, cwd=checkout, check=True, capture_output=True, timeout=60)
    with ExitStack() as stack:
        server = stack.enter_context(process([*serve, "--address", address], tmp_path / "server.txt", checkout))
        hospitals = [
            stack.enter_context(process([*join, "--server", address], tmp_path / f"{number}.txt", checkout))
            for number, join in enumerate(joins, start=1)
        ]
        assert server.wait(180) == 0, (tmp_path / "server.txt").read_text()
        assert [hospital.wait(30) for hospital in hospitals] == [0, 0, 0, 0]
    subprocess.run(predict, cwd=checkout, check=True, capture_output=True, timeout=60)

    readme = (checkout / "README.md").read_text()
    said = (tmp_path / "server.txt").read_text()
    shown = readme.split("Figures on held-out patients\n", 1)[1].split("```", 1)[0]
    printed = figures_in(said.split("Figures on held-out patients\n", 1)[1])
    for name, figures in figures_in(shown).items():
        assert printed[name] == pytest.approx(figures, abs=0.02), name  # another kind of processor rounds otherwise
    risks = pd.read_csv(checkout / "runs" / "first" / "risk.csv")["risk"]
    rows = re.findall(r"^[ABC],.*,(0\.\d{6})$", readme, re.MULTILINE)
    assert risks.tolist() == pytest.approx([float(risk) for risk in rows], abs=1e-3)
