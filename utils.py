"""Helpers that the scripts share: how a script runs and ends, with one line where the user can fix what is wrong."""

from federated_health.cli.console import run_process, run_script

__all__ = ["run_process", "run_script"]
