"""Helpers that the scripts share: how a script runs and ends, and what it prints."""

from federated_health.cli.console import print_figures, print_lines, round_progress, run_process, run_script, say

__all__ = ["print_figures", "print_lines", "round_progress", "run_process", "run_script", "say"]
