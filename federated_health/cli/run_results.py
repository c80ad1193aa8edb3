"""The end of a run at `server.py`: prints the final figures and what each hospital gains, and saves the results."""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from federated_health.cli import console, tables
from federated_health.errors import RunError
from federated_health.interrupts import SIGNALS
from federated_health.messages.content import FINAL_EVALUATION
from federated_health.ml.metrics import (
    DEFAULT_THRESHOLD,
    LESS_IS_BETTER,
    SMALL_CLASS,
    describe_difference,
    figure_title,
)
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import verdict_text
from federated_health.names import FEDERATION, REPORT
from federated_health.report.cells import Marked
from federated_health.report.formatting import SUPPRESSED, describe_rows, describe_small_in_mean
from federated_health.server.run import FederatedRun
from federated_health.server.run_folder import RunFolder

if TYPE_CHECKING:
    from federated_health.ml.targets import Target

AUC_NOTE = (
    "The federation's ROC-AUC is over all held-out patients, from microaggregated scores. It is too high where the "
    "share of positive patients differs between hospitals; below it is the mean of the hospitals' own ROC-AUCs."
)

BENEFIT_NOTE = (
    "own: a model trained on the hospital's own rows alone. A difference above 0 means that the federated model is "
    "better; with a 95 % interval. gains, loses: the p-value, adjusted for the number of hospitals (Holm), is below "
    "0.05; may gain, may lose: it is only before the adjustment. * {few}: too noisy to interpret."
)


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
    """Print the figures and save the run; a closed terminal does not interrupt it, nor does Ctrl-C, unless repeated.

    Args:
        stopped_by: what ended the run before its last round; raised again after the results are saved.
    """
    try:
        with interrupts_deferred("still saving the results; Ctrl-C again ends at once, without them"):
            _print_and_save(folder, run, figures, stopped=stopped_by is not None)
    except RunError as error:
        raise stopped_by or error from None
    if stopped_by is not None:
        console.say(f"--resume {folder.path} resumes the run")
        raise stopped_by


@contextmanager
def interrupts_deferred(announcement: str) -> Iterator[None]:
    """Defer Ctrl-C or SIGTERM to the end of the block, and announce that; a second one ends the block at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return
    caught: list[int] = []

    def defer(number: int, _: object) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt
        # A handler may interrupt a print, within which it must not print.
        threading.Thread(target=console.say, args=(announcement,), daemon=True).start()

    before = {number: signal.signal(number, defer) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


def _print_and_save(folder: RunFolder, run: FederatedRun, figures: Mapping[str, Any], *, stopped: bool) -> None:
    try:
        task = run.settings.task_declaration
        target = target_of(task)
        unreleased = {name: part.suppressed for name, part in run.evaluations.items() if not part.has_counts}
        suppressed = [f"{name} ({reasons[FINAL_EVALUATION]})" for name, reasons in unreleased.items()]
        print_final_figures(figures, run.threshold, target, suppressed, describe_rows(task))
        print_benefit(figures.get("joining", {}), target, figures["hospitals"])
        if problems := run.problems.describe():
            console.print_lines("Problems in this run:", problems)
        console.say("saving the results, which takes some seconds")
    finally:
        folder.finish(run, figures, stopped=stopped)
    files = "model.keras, report.html, tables/, metrics.json, rounds.csv and settings.json"
    console.say(f"saved {folder.path}/{files}")
    console.say(f"report: {folder.path}/{REPORT}")


def print_final_figures(
    figures: Mapping[str, Any],
    threshold: float,
    target: "Target[Any]",
    suppressed: Sequence[str] = (),
    note: str = "",
) -> None:
    """Print the final table: hospitals, the federation, and with classes the mean of the ROC-AUCs within hospitals.

    Args:
        suppressed: hospitals that suppress their figures, each with the reason.
        note: what the figures count, if rows are not patients.
    """
    federation = dict(figures["federation"] or {})
    if any(key.endswith("_noise") for key in federation):
        from federated_health.cli.noisy_figures import print_noisy_figures  # noqa: PLC0415  # of runs with privacy only

        print_noisy_figures({**figures["hospitals"], FEDERATION: federation}, target)
        return
    mean, small = federation.pop("mean_roc_auc", None), federation.pop("small_in_mean", 0)
    rows, notes = tables.choose_figures({**figures["hospitals"], FEDERATION: federation}, federation, target)
    chosen = "" if threshold == DEFAULT_THRESHOLD else ", which gives the greatest F1 on all training patients"
    notes += [f"Predicted positive: a risk of at least {threshold}{chosen}."] if target.has_threshold else []
    notes += [AUC_NOTE] if federation.get("roc_auc") is not None else []
    notes += [f"{SUPPRESSED}: {', '.join(suppressed)}."] if suppressed else []
    if mean is not None and small:
        notes.append(describe_small_in_mean(small))
        mean = Marked(mean)
    if target.has_classes:
        rows["hospital mean"] = {"roc_auc": mean}
    tables.print_figures("Figures on held-out patients", rows, "\n".join(filter(None, [*notes, note])))


def print_benefit(joining: Mapping[str, Any], target: "Target[Any]", hospitals: Mapping[str, Any]) -> None:
    """Print what each hospital gains by joining: a table per figure, and the verdict on each hospital in words.

    Args:
        hospitals: figures of the final evaluation, for hospitals of too few patients for a comparison.
    """
    if not joining:
        return
    for name in target.comparisons:
        rows = {
            hospital: _row(
                of["comparisons"][name],
                hospitals.get(hospital, {}).get(name),
                is_marked=of["small"] and not (target.has_classes and name in LESS_IS_BETTER),
            )
            for hospital, of in joining.items()
        }
        title = f"Benefit of joining: {figure_title(name)} on held-out patients, {describe_difference(name)}"
        tables.print_figures(title, rows)
    has_sentences = tables.print_verdicts(joining, target)
    warned = [name for name, benefit in joining.items() if benefit.get("data_warnings")]
    note = f"\nSee {', '.join(warned)} under 'Problems in this run', which may explain the verdict." if warned else ""
    start = "\n" if has_sentences else ""
    console.console.print(escape(f"{start}{BENEFIT_NOTE.format(few=target.describe_few(SMALL_CLASS))}{note}"), "")


def _row(comparison: Mapping[str, Any], evaluated: float | None, *, is_marked: bool) -> dict[str, Any]:
    own, federated = (comparison[model]["value"] for model in ("own", "federated"))
    federated = evaluated if federated is None else federated
    return {
        "own": Marked(own) if is_marked and own is not None else own,
        "federated": Marked(federated) if is_marked and federated is not None else federated,
        "difference": tables.difference(comparison["difference"]),
        "verdict": verdict_text(comparison["verdict"]),
    }
