"""`python -m federated_health SUBCOMMAND`."""

from federated_health.cli.main import main
from federated_health.cli.script import run_script

if __name__ == "__main__":
    run_script(main)
