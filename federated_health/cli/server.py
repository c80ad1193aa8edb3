"""The command `server.py`: its flags, its output, and a ServerApp over gRPC streams."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from federated_health import encryption
from federated_health.cli import console, parsing
from federated_health.errors import RunError, SettingsError
from federated_health.messages.validation import max_reply_bytes
from federated_health.ml.metrics import DEFAULT_THRESHOLD, SMALL_CLASS, figure_title
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import verdict_text
from federated_health.names import FEDERATION
from federated_health.report.formatting import describe_small_in_mean
from federated_health.security import load_tls
from federated_health.server.plain_run import make_run
from federated_health.server.run import FederatedRun
from federated_health.server.run_folder import RunFolder, settings_to_resume
from federated_health.server.strategies import make_strategy
from federated_health.settings import Settings
from federated_health.transport.channels import check_address
from federated_health.transport.interface import server_context, transport_of
from federated_health.transport.listening import check_room
from federated_health.transport.stream_server import serve_streams

if TYPE_CHECKING:
    from federated_health.ml.rounds import Round
    from federated_health.ml.targets import Target

EXAMPLES = (
    "--hospitals 4 --rounds 30 --out runs/first",
    '--strategy fedprox --strategy-args "proximal-mu=0.1"',
    "--tls server-tls --address 10.0.0.5:8080",
    "--resume runs/first",
)

AUC_NOTE = (
    "The federation's ROC-AUC is over all held-out patients, from microaggregated scores. It is too high where the "
    "share of positive patients differs between hospitals; below it is the mean of the hospitals' own ROC-AUCs."
)

BENEFIT_NOTE = (
    "own: a model trained on the hospital's own rows alone. Difference: {difference}, with a 95 % bootstrap interval "
    "over the held-out patients. * {few}: too noisy to interpret."
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of server.py."""
    description = "Gathers hospitals, averages their weights round by round, and saves one model and a report."
    parser = parsing.CommandParser(description, examples=EXAMPLES)
    parsing.add_settings(parser, Settings, leave_out={"data"})
    return parser


def main() -> None:
    """The installed command; it runs the same as server.py."""
    serve(federate)


def federate(grid: Grid, context: Context) -> None:
    """One run over any grid, with the settings of the run config."""
    settings = Settings.from_config(context.run_config)
    with start_run(grid, settings, make_strategy(settings)) as (run, record):
        for completed in run.rounds():
            record(completed)


def serve(app: Callable[[Grid, Context], None]) -> None:
    """Parse the flags, listen, and run a ServerApp, or a function, over the streams of the hospitals that join."""
    flags = parsing.by_flag(make_parser().parse_args())
    resumed = flags.get("resume")
    config = settings_to_resume(Path(resumed), flags) if resumed else flags
    settings = Settings.from_config(config)
    settings.check_given(flags)
    console.configure_logging(verbose=settings.verbose)
    identity = load_tls(Path(settings.tls), "server") if settings.tls else None
    check_address(settings.address, encrypted=identity is not None, insecure=settings.insecure)
    if settings.network:
        from federated_health.server.own_network import check_own_network  # noqa: PLC0415  # only with a file

        console.say(f"checking {settings.network}, which takes some seconds")
        check_own_network(settings)
    limit = max_reply_bytes(settings.task_declaration, settings.network_declaration)
    if settings.encrypt:
        if identity is None:
            raise SettingsError("encrypt: needs --tls: hospitals share their key with peers that a certificate names")
        limit = encryption.max_reply_bytes(settings.task_declaration, settings.network_declaration)
    check_room(settings.hospitals)
    agreement = settings.agreement
    with serve_streams(settings.address, agreement, console.say, max_message_bytes=limit, tls=identity) as transport:
        console.say(f"listening on {settings.address}{f', as {identity.party}, with mutual TLS' if identity else ''}")
        app(transport, server_context(settings.to_config()))


@contextmanager
def start_run(
    grid: Grid, settings: Settings, strategy: Strategy
) -> Iterator[tuple[FederatedRun, Callable[["Round"], None]]]:
    """Gather the hospitals of a run; at the end of the block evaluate the final model, and print and save the results.

    If an error or Ctrl-C ends the block, the results of the last completed round are saved.

    Yields:
        The run, and a function that shows a completed round and adds it to the run's folder.
    """
    with RunFolder(settings) as folder:
        run = make_run(transport_of(grid), settings, strategy)
        if folder.checkpoint is not None:
            run.resume(folder.checkpoint)
        run.gather(console.say)
        folder.begin(run)
        stopped_by: BaseException | None = None
        try:
            with round_progress(settings.rounds, target_of(settings.task_declaration)) as show:

                def record(completed: "Round") -> None:
                    folder.append_round(run)
                    show(completed)

                yield run, record
            figures = run.evaluate()
        except (KeyboardInterrupt, RunError) as error:
            stopped_by, figures = error, figures_when_stopped(run, error)
        save_results(folder, run, figures, stopped_by)


@contextmanager
def round_progress(total: int, target: "Target[Any]") -> Iterator[Callable[["Round"], None]]:
    """A progress bar over rounds with the loss and the target's figure; about ten lines where there is no terminal.

    Yields:
        A function to call after each round; the first one need not be round 1.
    """
    columns = TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}")
    terminal = console.console
    with Progress(*columns, TimeElapsedColumn(), console=terminal, disable=not terminal.is_terminal) as progress:
        bar = progress.add_task("round", total=total, text="")
        started = time.monotonic()
        ends: list[float] = []

        def update(completed: "Round") -> None:
            ends.append(time.monotonic())
            number, counts = completed.number, completed.federation.counts
            # The server of an encrypted run cannot read the counts.
            text = ""
            if counts:
                headline = f"{figure_title(target.headline)} {console.figure(counts.headline)}"
                text = f"loss {console.figure(counts.loss)}  {headline}"
            progress.update(bar, completed=number, text=text)
            if not terminal.is_terminal and (number % max(1, total // 10) == 0 or len(ends) == 1 or number == total):
                console.say(f"round {number}/{total}{text and f': {text}'}")
            if number == total:
                rate = (len(ends) - 1) / max(ends[-1] - ends[0], 1e-9)
                after_first = f"; {rate:.1f} rounds per second after the first" if rate else ""
                console.say(f"{len(ends)} rounds in {ends[-1] - started:.1f} s{after_first}")

        yield update


def figures_when_stopped(run: FederatedRun, error: BaseException) -> dict[str, Any]:
    """The last completed round's figures, after an error or Ctrl-C; without a completed round, raises the error."""
    if run.last_round is None:
        raise error
    reason = f" ({error})" if isinstance(error, RunError) else ""
    console.say(f"stopped after round {run.last_round.number}{reason}; saving the results of the completed rounds")
    return run.figures_of_last_round()


def save_results(
    folder: RunFolder, run: FederatedRun, figures: Mapping[str, Any], stopped_by: BaseException | None = None
) -> None:
    """Print the figures and save the run; Ctrl-C and a closed terminal do not interrupt it.

    Args:
        stopped_by: what ended the run before its last round; raised again after the results are saved.
    """
    try:
        with console.interrupts_deferred():
            _print_and_save(folder, run, figures, stopped=stopped_by is not None)
    except RunError as error:
        raise stopped_by or error from None
    if stopped_by is not None:
        if run.weights is not None:
            console.say(f"--resume {folder.path} resumes the run")
        raise stopped_by


def _print_and_save(folder: RunFolder, run: FederatedRun, figures: Mapping[str, Any], *, stopped: bool) -> None:
    try:
        if run.weights is not None:
            target = target_of(run.settings.task_declaration)
            print_final_figures(figures, run.threshold, target)
            print_benefit(figures.get("joining", {}), target)
        if problems := run.problems.describe():
            console.print_lines("Problems in this run:", problems)
        console.say("saving the results, which takes some seconds")
    finally:
        folder.finish(run, figures, stopped=stopped)
    if run.weights is not None:
        files = "model.keras, report.html, metrics.json, rounds.csv and settings.json"
    else:
        hospitals = ", ".join(figures["has_result"]) or "no hospital"
        files = f"metrics.json; model, figures and report (client.py --out) are at: {hospitals}"
    console.say(f"saved {folder.path}/{files}")


def print_final_figures(figures: Mapping[str, Any], threshold: float, target: "Target[Any]") -> None:
    """Print the final table: hospitals, the federation, and with classes the mean of the ROC-AUCs within hospitals."""
    federation = dict(figures["federation"] or {})
    mean, small = federation.pop("mean_roc_auc", None), federation.pop("small_in_mean", 0)
    rows = {**figures["hospitals"], FEDERATION: federation}
    chosen = "" if threshold == DEFAULT_THRESHOLD else ", which gives the greatest F1 on all training patients"
    notes = [f"Predicted positive: a risk of at least {threshold}{chosen}."] if target.has_threshold else []
    notes += [AUC_NOTE] if federation.get("roc_auc") is not None else []
    if mean is not None and small:
        notes.append(describe_small_in_mean(small))
        mean = f"{console.figure(mean)} *"
    if target.has_classes:
        rows["hospital mean"] = {"roc_auc": mean}
    console.print_figures("Figures on held-out patients", rows, "\n".join(notes))


def print_benefit(joining: Mapping[str, Any], target: "Target[Any]") -> None:
    """Print what each hospital gains by joining."""
    rows = {
        name: {
            "own": benefit[f"own_{target.compared}"],
            "federated": benefit[target.compared]["value"],
            "difference": console.difference(benefit["difference"]),
            "verdict": verdict_text(benefit["verdict"]) + (" *" if benefit["small"] else ""),
        }
        for name, benefit in joining.items()
    }
    warned = [name for name, benefit in joining.items() if benefit.get("data_warnings")]
    note = f"\nSee {', '.join(warned)} under 'Problems in this run', which may explain the verdict." if warned else ""
    if rows:
        title = f"Benefit of joining: {figure_title(target.compared)} on held-out patients"
        difference = "own minus federated" if target.less_is_better else "federated minus own"
        explained = BENEFIT_NOTE.format(difference=difference, few=target.describe_few(SMALL_CLASS))
        console.print_figures(title, rows, explained + note)
