"""The server of a federated run: gathers hospitals, averages their weights round by round, and saves one model.

`python server.py --hospitals 4 --rounds 30 --out runs/first`

`app` is an ordinary Flower ServerApp, so that `flwr run .` runs it, too. Flags and output:
`federated_health/cli/server.py`. `docs/from-quickstart.md` compares it with Flower's quickstart.
"""

from federated_health import interrupts  # isort: skip  # first: the package configures gRPC's log

interrupts.begin_script(__name__)  # Ctrl-C ends a script during the imports below, too

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import utils
from federated_health.cli.server import serve, start_run
from federated_health.server.strategies import make_strategy
from federated_health.settings import Settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run over any grid: hospitals in terminals or in process, Flower's simulation or its deployment."""
    settings = Settings.from_config(context.run_config)
    strategy = make_strategy(settings)  # FedAvg by default
    with start_run(grid, settings, strategy) as (run, record):  # waits until the hospitals have registered
        for completed in run.rounds():  # each: configure, send, aggregate, evaluate
            record(completed)
    # On leaving the block: the final model is evaluated, and saved with its figures.


if __name__ == "__main__":
    utils.run_process(lambda: serve(app))
