"""`federated-health SUBCOMMAND`, or `python -m federated_health SUBCOMMAND`."""

import sys

from federated_health import interrupts


def main() -> None:
    """Run a subcommand and end the process; `server` and `client` end as fast as the scripts do."""
    interrupts.begin_script("__main__")
    from federated_health.cli.console import run_process, run_script  # noqa: PLC0415  # Ctrl-C ends these imports, too
    from federated_health.cli.main import main as run_subcommand  # noqa: PLC0415  # as above

    run = run_process if sys.argv[1:2] in (["server"], ["client"]) else run_script
    run(run_subcommand)


if __name__ == "__main__":
    main()
