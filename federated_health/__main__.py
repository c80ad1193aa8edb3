"""`federated-health SUBCOMMAND`, or `python -m federated_health SUBCOMMAND`."""

import sys

from federated_health.cli.console import run_process, run_script
from federated_health.cli.main import main as run_subcommand


def main() -> None:
    """Run a subcommand and end the process; `server` and `client` end as fast as the scripts do."""
    run = run_process if sys.argv[1:2] in (["server"], ["client"]) else run_script
    run(run_subcommand)


if __name__ == "__main__":
    main()
