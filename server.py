"""The server of a federated run: gathers hospitals, averages their weights round by round, and saves one model.

`python server.py --hospitals 4 --rounds 30 --out runs/first`

`app` is an ordinary Flower ServerApp, so that `flwr run .` runs it, too. Flags and output:
`federated_health/cli/server.py`. `docs/from-quickstart.md` compares it with Flower's quickstart.
"""

import federated_health  # noqa: F401  # isort: skip  # first: it configures gRPC's log

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import utils
from federated_health.cli.server import figures_when_stopped, save_results, serve
from federated_health.errors import RunError
from federated_health.server.plain_run import make_run
from federated_health.server.run_folder import RunFolder
from federated_health.server.strategies import make_strategy
from federated_health.settings import Settings
from federated_health.transport.interface import transport_of

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run over any grid: hospitals in terminals or in process, Flower's simulation or its deployment."""
    settings = Settings.from_config(context.run_config)
    strategy = make_strategy(settings)  # FedAvg by default
    with RunFolder(settings) as folder:
        run = make_run(transport_of(grid), settings, strategy)
        if folder.checkpoint is not None:
            run.resume(folder.checkpoint)
        run.gather(utils.say)
        folder.begin(run)
        stopped_by: BaseException | None = None
        try:
            with utils.round_progress(settings.rounds) as show:
                for completed in run.rounds():  # each: configure, send, aggregate, evaluate
                    folder.append_round(run)
                    show(completed)
            figures = run.evaluate()
        except (KeyboardInterrupt, RunError) as error:
            stopped_by, figures = error, figures_when_stopped(run, error)
        save_results(folder, run, figures, stopped_by)


if __name__ == "__main__":
    utils.run_process(lambda: serve(app))
