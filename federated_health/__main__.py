"""`python -m federated_health SUBCOMMAND`."""

from federated_health.cli.console import run_script
from federated_health.cli.main import main

if __name__ == "__main__":
    run_script(main)
