"""A short form of `make chaos`: each kind of fault once, and one of the runs with Keras."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chaos_trials import Fault

from tests.support.scripts import PROJECT

pytestmark = pytest.mark.slow


def test_a_run_with_each_kind_of_fault_ends_well(tmp_path: Path) -> None:
    report = tmp_path / "chaos.json"
    flags = ("--runs", len(Fault), "--real", 1, "--longest-cut", 4, "--json", report)
    command = [sys.executable, str(PROJECT / "benchmarks" / "chaos.py"), *map(str, flags)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    result = json.loads(report.read_text())
    assert {one["fault"] for one in result["outcomes"]} == set(Fault)
    assert result["ended_well"] == result["runs"] == len(Fault)
    assert result["bit_identical"] == result["compared"] == len(Fault) - 2
    assert "Traceback" not in ran.stdout
