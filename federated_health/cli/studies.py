"""The subcommands `evidence` and `audit`: their flags, and the tables that they print."""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from federated_health.cli import parsing, setting_flags
from federated_health.cli.console import console, say
from federated_health.cli.evidence_tables import print_evidence
from federated_health.cli.tables import print_figures
from federated_health.ml.targets import target_of
from federated_health.names import DEFAULT_DATA, REPORT
from federated_health.setting_fields import flag_of
from federated_health.settings import OPERATIONAL, Settings
from federated_health.studies.audit import audit_study
from federated_health.studies.audit.audit_page import (
    inversion_rows,
    one_model_rows,
    small_hospital_rows,
    strength_rows,
    sums_of_few_rows,
)
from federated_health.studies.audit.drawn_hospital import PATIENTS
from federated_health.studies.benefit import benefit_study
from federated_health.studies.study import find_hospitals

EVIDENCE_DESCRIPTION = (
    "Measures the benefit of joining: compares own, federated, pooled and leave-one-hospital-out models by "
    "cross-validation."
)
EVIDENCE_EXAMPLES = (
    "",
    "--strategies fedavg,fedprox:proximal-mu=0.01,fedprox:proximal-mu=0.1",
    "--folds 3 --repeats 1 --no-tune --rounds 10 --out runs/quick",
)

AUDIT_DESCRIPTION = (
    "Attacks models, updates and released sums, with and without differential privacy and secure aggregation. Measures "
    "whether an attacker can tell which patients were trained on or held out, and can reconstruct their rows."
)
AUDIT_EXAMPLES = ("", "--shadows 8 --epsilons 2,8 --out runs/quick-audit")

OF_A_FEDERATION = OPERATIONAL | {
    *("task", "hospitals", "min-hospitals", "max-update-norm", "max-share", "appraisal", "secure-aggregation"),
    "class-weight",  # a model of one hospital alone may lack a class
}
NOT_FOR_EVIDENCE = OF_A_FEDERATION - {"network"} | {
    flag_of(field) for field in fields(Settings) if field.name.startswith("dp_")
}
NOT_FOR_AUDIT = OF_A_FEDERATION | {"dp-epsilon", "optimizer", "activation", "dropout"}
"""Settings without a flag: the study itself sets them, or does not use them. The audit's attacks compute gradients of
layers with ReLU and steps of plain gradient descent.
"""

PER_CORE = "(at least 1; default: one per core, %(default)s here)"
ATTACK_NOTE = (
    "0.5 is guessing. A dash: the server does not see it. With secure aggregation it sees averages and sums over all "
    "hospitals."
)


def evidence() -> None:
    """The command `evidence`: run or resume a study of the benefit of joining, and print its results."""
    parser = parsing.CommandParser(EVIDENCE_DESCRIPTION, examples=EVIDENCE_EXAMPLES)
    study = parser.add_argument_group("the study")
    help_text = "folder for the results; an interrupted study in it is resumed"
    _add_folders(study, out=Path("runs/evidence"), out_help=help_text)
    help_text = "replace another study, or a run, in --out (default: stop with an error)"
    study.add_argument("--force", action="store_true", help=help_text)
    _add_count(study, "--jobs", f"number of parallel processes; results do not depend on it {PER_CORE}", os.cpu_count())
    help_text = "parts of each hospital's rows, each held out once (at least 2; default: %(default)s)"
    _add_count(study, "--folds", help_text, 5)
    help_text = "number of cross-validations, each with new folds (at least 1; default: %(default)s)"
    _add_count(study, "--repeats", help_text, 5)
    study.add_argument(
        "--strategies",
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        metavar="A,B,...",
        help="strategies to compare on the same folds, each with arguments of its own, such as "
        "fedavg,fedprox:proximal-mu=0.01,fedadam:eta=0.1:tau=0.01; the first is the one whose benefit of joining is "
        "measured (default: --strategy with --strategy-args)",
    )
    study.add_argument(
        "--tune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="choose each model's number of rounds, up to --rounds, within its training rows (default: yes)",
    )
    setting_flags.add_settings(parser, Settings, leave_out=NOT_FOR_EVIDENCE)
    flags = parser.parse_args()
    task, _, _ = find_hospitals(flags.data, flags.task_file)
    print_evidence(_run(benefit_study.run, flags, "models"), target_of(task))
    say(f"wrote {flags.out}/{benefit_study.EVIDENCE}, scores.csv, learning_curves.csv, report.html and tables/")
    say(f"report: {flags.out}/{REPORT}")


def audit() -> None:
    """The command `audit`: run an audit, and print its results."""
    parser = parsing.CommandParser(AUDIT_DESCRIPTION, examples=AUDIT_EXAMPLES)
    group = parser.add_argument_group("the audit")
    _add_folders(group, out=Path("runs/audit"), out_help="folder for the results")
    help_text = "replace the report of a run in --out (default: stop with an error)"
    group.add_argument("--force", action="store_true", help=help_text)
    _add_count(group, "--jobs", f"number of parallel processes {PER_CORE}", os.cpu_count())
    help_text = "shadow runs per privacy setting, each on a random half of the rows; each is attacked with the others"
    help_text += f" (even, at least {audit_study.MIN_HALF_RUNS}; default: %(default)s)"
    _add_count(group, "--shadows", help_text, 32)
    help_text = "runs on all rows per privacy setting, to measure the model (at least 1; default: %(default)s)"
    _add_count(group, "--wholes", help_text, 5)
    help_text = "updates to reconstruct rows from, per number of rows in an update (at least 1; default: %(default)s)"
    _add_count(group, "--draws", help_text, 3)
    help_text = f"hospitals of {PATIENTS} patients that are drawn and attacked per privacy setting"
    _add_count(group, "--small-hospitals", f"{help_text} (at least 1; default: %(default)s)", 20)
    group.add_argument(
        "--epsilons",
        type=parsing.numbers,
        default=(1.0, 2.0, 4.0, 8.0),
        metavar="A,B,...",
        help="epsilons of the runs with differential privacy, attacked besides runs without it (default: 1,2,4,8)",
    )
    setting_flags.add_settings(parser, Settings, leave_out=NOT_FOR_AUDIT)
    flags = parser.parse_args()
    results = _run(audit_study.run, flags, "runs")
    _print_audit(results["privacies"])
    print_figures("Sums over few patients that have one solution", sums_of_few_rows(results["sums_of_few"]))
    say(f"wrote {flags.out}/{audit_study.AUDIT}, report.html and tables/")
    say(f"report: {flags.out}/{REPORT}")


def _add_folders(group: Any, *, out: Path, out_help: str) -> None:
    data = Path(DEFAULT_DATA)
    for flag, folder, help in (("--data", data, "folder that create_dataset.py wrote"), ("--out", out, out_help)):
        group.add_argument(
            flag, type=parsing.path, default=folder, metavar="DIR", help=f"{help} (default: %(default)s)"
        )
    help_text = "task file that declares the columns of the CSVs (default: the task of the folder)"
    group.add_argument("--task-file", type=parsing.path, metavar="FILE", help=help_text)


def _add_count(group: Any, flag: str, help: str, default: int | None) -> None:
    """Add a flag for a whole number of at least 1."""
    group.add_argument(flag, type=parsing.count, default=default, metavar="N", help=help)


def _run(study: Callable[..., dict[str, Any]], flags: argparse.Namespace, noun: str) -> dict[str, Any]:
    """Run a study, whose arguments have the names of its own flags, and show its progress in units of `noun`."""
    given = setting_flags.by_flag(flags)
    settings = {
        name: given.pop(name) for name in Settings().to_config().keys() - OPERATIONAL | {"network"} if name in given
    }
    own = {name.replace("-", "_"): value for name, value in given.items()}
    with _progress(noun) as show:
        return study(**own, settings=settings, show=show, announce=say)


@contextmanager
def _progress(noun: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time left; about ten lines instead where there is no terminal.

    Yields:
        A function to call with the number of finished items and the number of all.
    """
    counts = TextColumn(noun), MofNCompleteColumn(), BarColumn()
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    shown = console.is_terminal
    with Progress(*counts, *times, console=console, disable=not shown, speed_estimate_period=120) as bars:
        bar = bars.add_task(noun, total=None)

        def update(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)
            if not shown and (done % max(1, total // 10) == 0 or done == total):
                say(f"{noun} {done}/{total}")

        yield update


def _print_audit(figures: Mapping[str, Any]) -> None:
    """Print how good the models are, how strong the attacks on them, and what is reconstructed from an update."""
    aucs = {
        name: {"all rows": entry["whole"]["roc_auc"], "half of them, attacked": entry["attacked"]["roc_auc"]}
        for name, entry in figures.items()
    }
    print_figures("ROC-AUC of the models, over all held-out patients", aucs)
    print_figures("ROC-AUC of attacks, 95 % interval", strength_rows(figures, "roc_auc"), ATTACK_NOTE)
    print_figures("Attack on a single final model, mean 95 % interval", one_model_rows(figures))
    print_figures(
        "Share of training patients found at 1 % false positives", strength_rows(figures, "true_positive_rate")
    )
    if next(iter(figures.values()))["inversion"]:
        print_figures("Columns reconstructed from an update, by its number of rows", inversion_rows(figures))
    if next(iter(figures.values()))["small_hospital"]:
        print_figures(f"A hospital with {PATIENTS} patients, seen by the server", small_hospital_rows(figures))
