"""Parts of a run's page that are drawn from what hospitals released of the last model."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.hospital.benefit import PERMUTATIONS
from federated_health.messages.content import Evaluation
from federated_health.ml.bootstrap import Resampled
from federated_health.ml.curves import CURVE_DRAWS, CalibrationCurve, Curve, calibration_curve, roc_curve
from federated_health.ml.metrics import MIN_CELL_SIZE, merge_counts, probability, spread_patients
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.names import FEDERATION
from federated_health.report.formatting import list_some, percent_of
from federated_health.report.page import Section, Text
from federated_health.report.sections import (
    calibration_section,
    confusion_section,
    first_panels,
    roc_section,
    which_columns,
    who_holds_what,
)
from federated_health.server.history import Round
from federated_health.server.plain_run import PlainRun

Array = npt.NDArray[np.float64]

FROM_CELLS = (
    f"Scores leave a hospital only as cells of at least {MIN_CELL_SIZE} patients of a class; the curves take these "
    "patients as spread evenly within their cell, and lack a class that has fewer."
)


def curves_of_run(federation: PlainRun) -> Iterator[Section]:
    """ROC and calibration from released cells; nothing where no hospital released both classes."""
    scores = {name: _patients(one) for name, one in federation.evaluations.items()}
    drawn, more = first_panels(name for name, (high, low) in scores.items() if len(high) and len(low))
    lacking = [name for name, (high, low) in scores.items() if not (len(high) and len(low))]
    panels = {name: scores[name] for name in drawn}
    if scores:
        high, low = (np.concatenate([one[place] for one in scores.values()]) for place in (0, 1))
        if len(high) and len(low):
            panels[FEDERATION] = high, low
    if not panels:
        return
    rocs: dict[str, Curve] = {}
    calibrations: dict[str, CalibrationCurve] = {}
    for name, (high, low) in panels.items():
        log_odds = np.concatenate([high, low])
        labels = np.concatenate([np.ones(len(high)), np.zeros(len(low))])
        seed = [federation.settings.seed, *name.encode()]
        rocs[name] = roc_curve(log_odds, Resampled.of(labels, seed, CURVE_DRAWS))
        calibrations[name] = calibration_curve(probability(log_odds), labels)
    without = f"Without a curve of its own: {list_some(lacking, ', ')}." if lacking else ""
    yield roc_section(
        rocs,
        "Held-out patients, with 95 % bootstrap bands at each point.",
        Text(words=" ".join(filter(None, [FROM_CELLS, without, more]))),
    )
    bins = (
        f"{name}: predicted {', '.join(map(percent_of, one.predicted))}, "
        f"observed {', '.join(map(percent_of, one.observed))}"
        for name, one in calibrations.items()
    )
    alt = f"Mean predicted risk and observed share of each bin of patients. {list_some(bins)}."
    yield calibration_section(calibrations, "Held-out patients, from the same cells.", alt)


def _patients(one: Evaluation) -> tuple[Array, Array]:
    """Log-odds of the positive and of the negative, as far as they are known."""
    nothing = np.zeros((0, 3))
    high, low = (spread_patients(nothing if part is None else part) for part in (one.positives, one.negatives))
    return high, low


def confusion_of_run(federation: PlainRun, last: Round, *, stopped: bool) -> Iterator[Section]:
    """Who is predicted positive, rightly or wrongly; of the last round's model where the run was stopped."""
    counts = {name: one.counts for name, one in federation.evaluations.items()}
    if stopped:  # then the threshold is that of the rounds
        counts = {name: one.counts for name, one in last.hospitals.items() if one.counts}
    if not counts:
        return
    drawn, more = first_panels(counts)
    matrices = {name: counts[name].matrix for name in drawn}
    matrices[FEDERATION] = merge_counts(counts.values()).matrix
    words = f"Held-out patients; predicted positive from a risk of {federation.threshold} on. {more}"
    yield confusion_section(matrices, words.strip())


def holdings_of_run(federation: PlainRun, figures: Mapping[str, Any]) -> Iterator[Section]:
    """Label balance and missing cells of every hospital, as far as it releases them."""
    task = federation.settings.task_declaration
    counts = {name: one.counts for name, one in federation.evaluations.items()}
    if not counts:
        return
    observed = figures.get("observed", {})
    rows = {name: figures["hospitals"][name]["train_examples"] for name in observed}
    shares = [
        [1.0 - one[column] / rows[name] if one[column] else np.nan for column in task.column_names]
        for name, one in observed.items()
    ]
    yield who_holds_what(
        task,
        {name: (one.positives, one.examples - one.positives) for name, one in counts.items()},
        np.array(shares),
        names=list(observed),
        of_labels="Each hospital's held-out patients.",
        of_missing=f"Each hospital's training patients; not released where fewer than {MIN_OBSERVED} have a value.",
    )


def columns_of_run(figures: Mapping[str, Any]) -> Iterator[Section]:
    """How much the loss rises when a column is shuffled; nothing where hospitals were not asked."""
    if importance := figures.get("importance"):
        yield which_columns(importance, f"Held-out patients, mean of {PERMUTATIONS} shuffles at every hospital.")
