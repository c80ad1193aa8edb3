"""The verb `evidence`: its flags, and what it shows on the console."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from federated_health.cli import console, parsing
from federated_health.ml.metrics import SMALL_CLASS
from federated_health.setting_fields import flag_of
from federated_health.settings import OF_A_FEDERATION, Settings, read_defaults

WORDS = "is joining worth it? own, federated, pooled and left-out models, compared by cross-validation"

NOT_OF_A_STUDY = OF_A_FEDERATION | {flag_of(one) for one in fields(Settings) if one.name.startswith("dp_")}
"""Settings for which the verb has no flag."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    defaults = read_defaults()
    study = parser.add_argument_group("the study")
    parsing.add_folder(study, "--data", "folder that create_dataset.py wrote", Path(str(defaults["data"])))
    words = "folder of the results, where a study that was stopped goes on"
    parsing.add_folder(study, "--out", words, Path("runs/evidence"))
    study.add_argument(
        "--force",
        action="store_true",
        help="start anew where --out holds another study, or a run (default: refuse)",
    )
    words = "parts of every hospital's rows, each of them held out once (at least 2; default: %(default)s)"
    parsing.add_count(study, "--folds", words, 5)
    words = "how often, each time split anew (at least 1; default: %(default)s)"
    parsing.add_count(study, "--repeats", words, 5)
    words = "processes at a time; no result depends on it (at least 1; default: one a core, %(default)s here)"
    parsing.add_count(study, "--jobs", words, os.cpu_count())
    study.add_argument(
        "--strategies",
        metavar="A,B,...",
        help="compare these on the same folds; --strategy-args are the first one's (default: --strategy alone)",
    )
    study.add_argument(
        "--tune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="choose every model's number of rounds, up to --rounds, inside its own training rows (default: yes)",
    )
    parsing.add_settings(parser, Settings, defaults, leave_out=NOT_OF_A_STUDY)


def gather(flags: argparse.Namespace, app: str) -> None:
    """Run or resume a study, and show and write what it found.

    Args:
        app: where the hospitals' ClientApp is, such as client:app.
    """
    from federated_health.studies.benefit import command

    given = {**read_defaults(), **parsing.by_flag(flags)}
    own = {name: given[name] for name in read_defaults() if name in given and name not in NOT_OF_A_STUDY}
    strategies = str(given["strategy"]) if flags.strategies is None else flags.strategies
    request = command.Request(
        data=flags.data,
        out=flags.out,
        force=flags.force,
        folds=flags.folds,
        repeats=flags.repeats,
        strategies=tuple(name.strip() for name in strategies.split(",")),
        tune=flags.tune,
        settings=own,
    )
    with console.progress("model") as show:
        figures = command.run(request, app=app, jobs=flags.jobs, show=show)
    _show(figures)
    console.say(f"wrote {flags.out}/evidence.json and report.html")


def _show(figures: Mapping[str, Any]) -> None:
    """Three tables: ROC-AUC, what joining gave each hospital, and the other figures as means over hospitals."""
    rows = {**figures["hospitals"], "mean": figures["mean"], "all": figures["all"]}
    aucs = {name: {way: of["roc_auc"]["value"] for way, of in one["models"].items()} for name, one in rows.items()}
    console.print_figures("ROC-AUC of out-of-fold scores", aucs, AUC_NOTE)
    joining = {
        name: {
            "patients": one.get("patients", ""),
            "federated - own": console.difference(one["differences"]["federated_minus_own"]),
            "joining": one.get("verdict", "") + (" *" if one.get("small") else ""),
        }
        for name, one in rows.items()
    }
    console.print_figures("What joining gives: difference of ROC-AUC, 95 % interval", joining, JOINING_NOTE)
    if further := [key for key in figures["mean"]["differences"] if key.endswith("_minus_federated")]:
        strategies = {
            name: {key.removesuffix("_minus_federated"): console.difference(one["differences"][key]) for key in further}
            for name, one in rows.items()
        }
        first = figures["study"]["strategy"]
        console.print_figures(f"Other strategies minus {first}: difference of ROC-AUC, 95 % interval", strategies)
    others = {
        way: {key.removeprefix("calibration_"): value for key, value in model.items() if key != "roc_auc"}
        for way, model in figures["mean"]["models"].items()
    }
    console.print_figures("Other figures, as means over hospitals (slope and intercept: of calibration)", others)


AUC_NOTE = "all: over all patients together; where hospitals differ in how many are positive, it flatters."

JOINING_NOTE = (
    "gains or loses: the whole interval is on one side of 0. Intervals are a bootstrap over patients, given the fitted "
    f"models.\n* fewer than {SMALL_CLASS} patients of a class: the figures say little."
)
