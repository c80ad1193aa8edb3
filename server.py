"""The federation's server: gathers hospitals, averages their weights round by round, and saves one model.

`python server.py --hospitals 4 --rounds 30 --out runs/first`

`app` is an ordinary Flower ServerApp, so `flwr run .` runs it, too. Settings: [tool.flwr.app.config] in pyproject.toml.
"""

from federated_health.errors import RunError  # isort: skip  # first, for what the package says to gRPC

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federated_health.server.kinds import check_tls, make_run, max_reply_bytes
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import utils
from federated_health.cli import parsing
from federated_health.cli.examples import EXAMPLES
from federated_health.ml.bootstrap import SMALL_CLASS
from federated_health.ml.metrics import THRESHOLD
from federated_health.names import FEDERATION
from federated_health.security import Role, load_identity
from federated_health.server.plain_run import PlainRun
from federated_health.server.run import FederatedRun
from federated_health.server.run_folder import RunFolder, settings_to_resume
from federated_health.settings import Settings, read_defaults
from federated_health.transport.channels import check_address
from federated_health.transport.flower_engines import check_simulation
from federated_health.transport.interface import server_context
from federated_health.transport.listening import check_room
from federated_health.transport.stream_server import serve_streams

AUC_NOTE = (
    "The federation's roc auc is over all held-out patients, from coarse cells of scores. Where hospitals differ in "
    "how many patients are positive, it flatters; the mean of the AUCs within hospitals stands below it."
)

JOINING_NOTE = (
    "own: a model of the hospital's own rows alone. Difference: federated minus own, with its 95 % bootstrap interval "
    f"over the held-out patients. * fewer than {SMALL_CLASS} of them are of one class: the figures say little."
)

CHOSEN = ", at which F1 over all training rows is greatest."

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run, over any grid: terminals, in process, Flower's simulation or its deployment engine."""
    settings = Settings.from_config(context.run_config)
    check_simulation(grid, settings)
    with RunFolder(settings) as folder:
        federation = make_run(grid, settings)
        if folder.checkpoint is not None:
            federation.resume(folder.checkpoint)
        federation.gather(utils.say)
        folder.begin(federation)
        stop: BaseException | None = None
        try:
            with utils.round_progress(settings.rounds) as show:
                for record in federation.rounds():
                    folder.append_round(federation)
                    counts = record.federation.counts
                    show(record.number, counts.loss if counts else None, counts.accuracy if counts else None)
            folder.prepare_to_finish(federation)
            figures = federation.evaluate_finally()
        except (KeyboardInterrupt, RunError) as error:
            if federation.last_round is None:
                raise
            stop = error
            why = f" ({error})" if isinstance(error, RunError) else ""
            utils.say(f"stopped after round {federation.last_round.number}{why}; saving what the finished rounds gave")
            figures = federation.figures_of_last_round()
        try:
            save(folder, federation, figures, stopped=stop is not None)
        except RunError as error:
            raise stop or error from None
        if stop is not None:
            if not settings.encrypt:
                utils.say(f"--resume {folder.path} goes on with the run")
            raise stop


def save(folder: RunFolder, federation: FederatedRun, figures: dict[str, Any], *, stopped: bool) -> None:
    """Show the figures and save the run, undisturbed by Ctrl-C and whether or not anyone is there to read."""
    with utils.interrupts_deferred():
        try:
            if isinstance(federation, PlainRun):
                show_figures(figures, federation.threshold)
                show_joining(figures.get("joining", {}))
            if faults := federation.problems.describe():
                utils.print_lines("What did not go as it should:", faults)
            utils.say("saving what there is, which may take some seconds")
        finally:
            folder.finish(federation, figures, stopped=stopped)
        if isinstance(federation, PlainRun):
            utils.say(f"saved {folder.path}/model.keras, report.html, metrics.json, rounds.csv and settings.json")
        else:
            where = ", ".join(figures["has_result"]) or "nobody"
            utils.say(f"saved {folder.path}/metrics.json; model, figures and report (client.py --out) have: {where}")


def show_figures(figures: dict[str, Any], threshold: float) -> None:
    """The final table: hospitals, the federation, and the mean of the AUCs within hospitals."""
    federation = dict(figures["federation"] or {})
    mean = federation.pop("mean_roc_auc", None)
    rows = {**figures["hospitals"], FEDERATION: federation}
    note = f"Predicted positive: a risk of at least {threshold}" + ("." if threshold == THRESHOLD else CHOSEN)
    note += f"\n{AUC_NOTE}" if federation.get("roc_auc") is not None else ""
    utils.print_figures("Figures on held-out patients", {**rows, "hospital mean": {"roc_auc": mean}}, note)


def show_joining(joining: Mapping[str, Any]) -> None:
    """What hospitals said that joining gave them."""
    rows = {
        name: {
            "own": one["own_roc_auc"],
            "federated": one["roc_auc"]["value"],
            "difference": utils.difference(one["difference"]),
            "joining": one["verdict"] + (" *" if one["small"] else ""),
        }
        for name, one in joining.items()
    }
    if rows:
        utils.print_figures("What joining gave: ROC-AUC on held-out patients", rows, JOINING_NOTE)


def serve() -> None:
    """Parse the flags, which must agree with those of a run that is resumed; listen, and run `app` over the streams."""
    words = "Gathers hospitals, averages their weights round by round, and saves one model and a report."
    parser = parsing.make_parser(words, examples=EXAMPLES["server.py"])
    parsing.add_settings(parser, Settings, defaults := read_defaults(), leave_out={"data"})
    flags = parsing.by_flag(parser.parse_args())
    config = settings_to_resume(Path(flags["resume"]), flags) if flags.get("resume") else {**defaults, **flags}
    settings = Settings.from_config(config)
    settings.check_given(flags)
    utils.configure_logging(verbose=settings.verbose)
    tls = load_identity(Path(settings.tls), Role.SERVER) if settings.tls else None
    check_address(settings.address, encrypted=tls is not None, insecure=settings.insecure)
    check_tls(settings, has_identity=tls is not None)
    check_room(settings.hospitals)
    task, largest = settings.task_declaration, max_reply_bytes(settings)
    with serve_streams(settings.address, task.agreement, utils.say, max_message_bytes=largest, tls=tls) as grid:
        utils.say(f"listening on {settings.address}{f', as {tls.party}, with mutual TLS' if tls else ''}")
        app(grid, server_context(settings.to_config()))


if __name__ == "__main__":
    utils.run_process(serve)
