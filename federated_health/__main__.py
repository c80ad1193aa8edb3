"""`python -m federated_health VERB`: what is not for every day."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import utils
from federated_health.demo import SCENARIOS, run_demo
from federated_health.intervals import SMALL_CLASS
from federated_health.security import command as certificates
from federated_health.settings import OPERATIONAL, Settings, read_defaults

CLIENT_APP = "client:app"
"""Where Flower's own runtimes find it, too."""

NOT_OF_A_STUDY = {*OPERATIONAL, "task", "hospitals", "min-hospitals", "max-update-norm", "appraisal"}
"""Settings that are a federation's alone, or that a study sets itself."""


def add_demo(verbs: Any) -> None:
    """The verb demo."""
    demo = verbs.add_parser("demo", help="a server and its hospitals as processes on this machine")
    demo.add_argument("--task", choices=tuple(SCENARIOS), default=next(iter(SCENARIOS)), help="default: %(default)s")
    demo.add_argument("--out", type=Path, help="default: runs/demo, or runs/demo-TASK; overwritten")
    demo.add_argument("--rounds", type=int, help="rounds (default: the server's)")
    demo.set_defaults(run=start_demo)


def start_demo(flags: argparse.Namespace) -> None:
    """A server and its hospitals as processes."""
    usual = Path("runs/demo" if flags.task == next(iter(SCENARIOS)) else f"runs/demo-{flags.task}")
    extra = ["--rounds", str(flags.rounds)] if flags.rounds is not None else []
    run_demo(flags.out or usual, flags.task, extra)


def add_evidence(verbs: Any) -> None:
    """The verb evidence."""
    words = "is joining worth it? own, federated, pooled and left-out models, compared by cross-validation"
    parser = verbs.add_parser("evidence", help=words, description=words)
    defaults = read_defaults()
    parser.add_argument("--data", type=Path, default=Path(str(defaults["data"])), help="folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"), help="default: %(default)s; resumes there")
    parser.add_argument("--force", action="store_true", help="start anew where --out holds another study, or a run")
    parser.add_argument("--folds", type=utils.count, default=5, help="of cross-validation (default: %(default)s)")
    parser.add_argument("--repeats", type=utils.count, default=5, help="of it, each split anew (default: %(default)s)")
    parser.add_argument("--jobs", type=utils.count, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument(
        "--strategies",
        help="to be compared, between commas, instead of --strategy; --strategy-args are the first one's",
    )
    parser.add_argument(
        "--tune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="choose every model's number of rounds, up to --rounds, inside its own training rows (default: yes)",
    )
    utils.add_settings(parser, Settings, defaults, leave_out=NOT_OF_A_STUDY)
    parser.set_defaults(run=gather_evidence)


def gather_evidence(flags: argparse.Namespace) -> None:
    """Run or resume a study, and show and write what it found."""
    from federated_health.evidence import command

    given = {name.replace("_", "-"): value for name, value in vars(flags).items()}
    own = {name: given[name] for name in read_defaults() if name in given and name not in NOT_OF_A_STUDY}
    strategies = flags.strategy if flags.strategies is None else flags.strategies
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
    with utils.progress("model") as show:
        figures = command.run(request, app=CLIENT_APP, jobs=flags.jobs, show=show)
    show_evidence(figures)
    utils.say(f"wrote {flags.out}/evidence.json and report.html")


def add_certificates(verbs: Any) -> None:
    """The verb certificates, with verbs of its own."""
    words = "who is who: found an authority, make keys, sign, revoke, renew and show"
    parser = verbs.add_parser("certificates", help=words, description=certificates.WORDS)
    certificates.add_verbs(parser)
    parser.set_defaults(run=show_certificates)


def show_certificates(flags: argparse.Namespace) -> None:
    """Do what the verb below certificates says, and show what came of it."""
    for title, lines in flags.pages(flags):
        utils.print_lines(title, lines)


def show_evidence(figures: Mapping[str, Any]) -> None:
    """Three tables: ROC-AUC, what joining gave each hospital, and the other figures as means over hospitals."""
    rows = {**figures["hospitals"], "mean": figures["mean"], "all": figures["all"]}
    aucs = {name: {way: of["roc_auc"]["value"] for way, of in one["models"].items()} for name, one in rows.items()}
    utils.print_figures("ROC-AUC of out-of-fold scores", aucs, AUC_NOTE)
    joining = {
        name: {
            "patients": one.get("patients", ""),
            "federated - own": utils.difference(one["differences"]["federated_minus_own"]),
            "joining": one.get("verdict", "") + (" *" if one.get("small") else ""),
        }
        for name, one in rows.items()
    }
    utils.print_figures("What joining gives: difference of ROC-AUC, 95 % interval", joining, JOINING_NOTE)
    if further := [key for key in figures["mean"]["differences"] if key.endswith("_minus_federated")]:
        strategies = {
            name: {key.removesuffix("_minus_federated"): utils.difference(one["differences"][key]) for key in further}
            for name, one in rows.items()
        }
        first = figures["study"]["strategy"]
        utils.print_figures(f"Other strategies minus {first}: difference of ROC-AUC, 95 % interval", strategies)
    others = {
        way: {key.removeprefix("calibration_"): value for key, value in model.items() if key != "roc_auc"}
        for way, model in figures["mean"]["models"].items()
    }
    utils.print_figures("Other figures, as means over hospitals (slope and intercept: of calibration)", others)


AUC_NOTE = "all: over all patients together; where hospitals differ in how many are positive, it flatters."

JOINING_NOTE = (
    "gains or loses: the whole interval is on one side of 0. Intervals are a bootstrap over patients, given the fitted "
    f"models.\n* fewer than {SMALL_CLASS} patients of a class: the figures say little."
)


def main() -> None:
    """Parse the verb and its flags, and call it."""
    parser = utils.make_parser("What is not for every day.", prog="python -m federated_health")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_demo(verbs)
    add_evidence(verbs)
    add_certificates(verbs)
    flags = parser.parse_args()
    flags.run(flags)


if __name__ == "__main__":
    utils.run_door(main)
