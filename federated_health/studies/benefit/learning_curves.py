"""learning_curves.csv: loss and figures of a study's federated models after every round."""

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated_health.files import write_text
from federated_health.ml.rounds import HospitalRound
from federated_health.ml.targets import Target

if TYPE_CHECKING:
    from federated_health.studies.benefit.journal import Results

LEARNING_CURVES = "learning_curves.csv"

Curve = list[list[float | None]]
"""Figures of each round, in the order of `figure_names`; None where one is withheld or not defined."""


def figure_names(target: Target[Any]) -> tuple[str, ...]:
    """Names of the figures of a round, as in rounds.csv."""
    return ("train_loss", *(f"test_{name}" for name in ("loss", target.headline, *target.also_per_round)))


def curve_of(rounds: Iterable[HospitalRound], target: Target[Any]) -> Curve:
    """The figures of these rounds of all hospitals together."""
    names = ("loss", "headline", *target.also_per_round)
    return [
        [figures.train_loss, *(getattr(figures.counts, name) if figures.counts else None for name in names)]
        for figures in rounds
    ]


def write_learning_curves(path: Path, results: "Results", target: Target[Any]) -> None:
    """Write a line per strategy, repeat, fold and round; a StorageError if it cannot be written.

    Columns: strategy; repeat, fold and round, from 1; then figures over all hospitals with the names of rounds.csv:
    the loss on training rows, and those on the held-out rows of the fold under the round's new weights.
    """
    text = StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["strategy", "repeat", "fold", "round", *figure_names(target)])
    for fit, result in results.items():
        for number, figures in enumerate(result.curve, 1):
            cells = ("" if figure is None else f"{figure:.9g}" for figure in figures)
            lines.writerow([fit.subject, fit.repeat + 1, fit.fold + 1, number, *cells])
    write_text(path, text.getvalue())
