"""Subcommands as processes, wherever they are started."""

import subprocess
from pathlib import Path

import pytest

import federated_health
from federated_health.processes import command


@pytest.mark.slow
def test_a_subcommand_imports_no_module_of_the_current_folder(tmp_path: Path) -> None:
    for name in ("types.py", "json.py", "names.py", "federated_health.py"):
        (tmp_path / name).write_text("raise ImportError('a module of the current folder')")

    ended = subprocess.run(command("--version"), cwd=tmp_path, check=False, capture_output=True, text=True)

    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, federated_health.__version__, "")
