"""The command `server.py`: its flags, its output, and a ServerApp over gRPC streams."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from federated_health import secure_aggregation
from federated_health.cli import console, parsing, setting_flags
from federated_health.errors import RunError, SettingsError
from federated_health.messages.run_terms import RunTerms
from federated_health.messages.validation import max_reply_bytes
from federated_health.ml.metrics import figure_title
from federated_health.ml.targets import target_of
from federated_health.server.plain_run import make_run
from federated_health.server.run import FederatedRun
from federated_health.server.run_folder import RunFolder
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
    "--resume runs/first --rounds 60",
)

LINE_WIDTH = 71
"""Width of a line that is wrapped: with the time before it, it fits into 80 columns."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of server.py."""
    description = "Gathers hospitals, averages their weights round by round, and saves one model and a report."
    parser = parsing.CommandParser(description, examples=EXAMPLES)
    setting_flags.add_settings(parser, Settings, leave_out={"data"})
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
    flags = setting_flags.by_flag(make_parser().parse_args())
    config = flags
    if resumed := flags.get("resume"):
        from federated_health.server.resuming import settings_to_resume  # noqa: PLC0415  # a new run does without it

        config = settings_to_resume(Path(resumed), flags)
    settings = Settings.from_config(config)
    settings.check_given(flags)
    console.configure_logging(verbose=settings.verbose)
    identity = None
    if settings.tls:
        from federated_health.security import load_tls  # noqa: PLC0415  # optional feature

        identity = load_tls(Path(settings.tls), "server")
    check_address(settings.address, encrypted=identity is not None, insecure=settings.insecure)
    if settings.network:
        from federated_health.server.own_network import check_own_network  # noqa: PLC0415  # only with a file

        console.say(f"checking {settings.network}, which takes some seconds")
        check_own_network(settings)
    limit = max_reply_bytes(settings.task_declaration, settings.network_declaration)
    if settings.secure_aggregation:
        if identity is None:
            raise SettingsError("secure-aggregation: needs --tls: hospitals mask for peers that a certificate names")
        limit = secure_aggregation.max_reply_bytes(settings.task_declaration, settings.network_declaration)
    check_room(settings.hospitals)
    terms = RunTerms.of(settings, identity.authority_hash if identity else "")
    with serve_streams(
        settings.address, settings.agreement, console.say, max_message_bytes=limit, tls=identity, terms=terms.text
    ) as transport:
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
        if settings.task_declaration.training:
            from federated_health.task_settings import settings_from_task  # noqa: PLC0415  # most tasks state nothing

            of_task = ", ".join(f"{name}={value}" for name, value in settings_from_task(settings).items())
            line = f"settings of the task {settings.task}: {of_task or 'none'}"
            console.say(fill(line, LINE_WIDTH, subsequent_indent="  ", break_on_hyphens=False))
        run.gather(console.say)
        folder.begin(run)
        figures: dict[str, Any] = {}
        stopped_by: BaseException | None = None
        try:
            with round_progress(settings.rounds, target_of(settings.task_declaration)) as show:

                def record(completed: "Round") -> None:
                    folder.append_round(run)
                    show(completed)

                yield run, record
            figures = run.evaluate()
        except (KeyboardInterrupt, RunError) as error:
            stopped_by = error
        from federated_health.cli import run_results  # noqa: PLC0415  # once the rounds are over

        if stopped_by is not None:
            figures = run_results.figures_when_stopped(run, stopped_by)
        run_results.save_results(folder, run, figures, stopped_by)


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
            text = ""  # secure aggregation may have lost the counts
            if counts:
                name, figure = target.round_figure(counts)
                text = f"loss {console.figure(counts.loss)}  {figure_title(name)} {console.figure(figure)}"
            progress.update(bar, completed=number, text=text)
            if not terminal.is_terminal and (number % max(1, total // 10) == 0 or len(ends) == 1 or number == total):
                console.say(f"round {number}/{total}{text and f': {text}'}")
            if number == total:
                rate = (len(ends) - 1) / max(ends[-1] - ends[0], 1e-9)
                after_first = f"; {rate:.1f} rounds per second after the first" if rate else ""
                console.say(f"{len(ends)} rounds in {ends[-1] - started:.1f} s{after_first}")

        yield update
