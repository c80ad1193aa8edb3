"""Helpers that the scripts share: they run a script, and print an error that the user can fix as one line."""

from federated_health.cli.console import run_process, run_script

__all__ = ["run_process", "run_script"]
