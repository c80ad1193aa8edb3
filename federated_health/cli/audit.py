"""The verb `audit`: its flags, and what it shows on the console."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import utils
from federated_health.cli import parsing
from federated_health.settings import OF_A_FEDERATION, Settings, read_defaults

WORDS = "the attack on ourselves: who was trained on, and what is recorded of them, with and without privacy"

NOT_OF_AN_AUDIT = OF_A_FEDERATION | {"dp-epsilon"}
"""Settings for which the verb has no flag."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    defaults = read_defaults()
    audit = parser.add_argument_group("the audit")
    parsing.add_folder(audit, "--data", "folder that create_dataset.py wrote", Path(str(defaults["data"])))
    parsing.add_folder(audit, "--out", "folder of the results", Path("runs/audit"))
    audit.add_argument(
        "--force", action="store_true", help="replace the report where --out holds a run (default: refuse)"
    )
    words = "federations of random halves in each setting, each attacked with the others (default: %(default)s)"
    parsing.add_count(audit, "--shadows", words, 32)
    words = "federations of all rows in each setting, for what the model is worth (default: %(default)s)"
    parsing.add_count(audit, "--wholes", words, 5)
    words = "updates of each size that are inverted, to rebuild rows from them (default: %(default)s)"
    parsing.add_count(audit, "--draws", words, 3)
    audit.add_argument(
        "--epsilons",
        type=parsing.numbers,
        default=(1.0, 2.0, 4.0, 8.0),
        metavar="A,B,...",
        help="promises of differential privacy to attack, beside plain and encrypted runs (default: 1,2,4,8)",
    )
    words = "processes at a time (at least 1; default: one a core, %(default)s here)"
    parsing.add_count(audit, "--jobs", words, os.cpu_count())
    parsing.add_settings(parser, Settings, defaults, leave_out=NOT_OF_AN_AUDIT)


def attack(flags: argparse.Namespace, app: str) -> None:
    """Run an audit, and show and write what it found.

    Args:
        app: where the hospitals' ClientApp is, such as client:app.
    """
    from federated_health.studies.audit import audit_study as command

    given = parsing.by_flag(flags)
    own = {name: given[name] for name in read_defaults() if name in given and name not in NOT_OF_AN_AUDIT}
    request = command.Request(
        data=flags.data,
        out=flags.out,
        force=flags.force,
        shadows=flags.shadows,
        wholes=flags.wholes,
        draws=flags.draws,
        epsilons=flags.epsilons,
        settings=own,
    )
    with utils.progress("federation") as show:
        figures = command.run(request, app=app, jobs=flags.jobs, show=show)
    _show(figures["privacies"])
    utils.say(f"wrote {flags.out}/{command.AUDIT} and report.html")


def _show(figures: Mapping[str, Any]) -> None:
    """What the models are worth, how well they are attacked, and what is rebuilt from an update."""
    from federated_health.studies.audit import tables

    worth = {
        name: {"all rows": one["whole"]["roc_auc"], "half of them, attacked": one["attacked"]["roc_auc"]}
        for name, one in figures.items()
    }
    utils.print_figures("ROC-AUC of the models, over all held-out patients", worth)
    utils.print_figures("ROC-AUC of attacks, 95 % interval", tables.auc_rows(figures), AUC_NOTE)
    utils.print_figures("The attack on a single final model, mean 95 % interval", tables.one_model_rows(figures))
    utils.print_figures("Training patients found at 1 % false positives", tables.rate_rows(figures))
    if next(iter(figures.values()))["inversion"]:
        utils.print_figures("Columns rebuilt from an update of so many rows", tables.inversion_rows(figures))


AUC_NOTE = "0.5 is guessing. A dash: nobody but the hospital itself holds its update, and there is nothing to attack."
