"""Sections of a run's page with charts, drawn only from what hospitals released."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from federated_health.messages.content import Evaluation
from federated_health.ml.bootstrap import PERMUTATIONS, Resampled
from federated_health.ml.curves import CURVE_DRAWS, calibration_curve, roc_curve, spread_patients
from federated_health.ml.metrics import MIN_CELL_SIZE, Counts, merge_counts, probability
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.names import FEDERATION
from federated_health.report import sections
from federated_health.report.charts import draw_learning_curves
from federated_health.report.formatting import figure, list_some, percent_of
from federated_health.report.page import Block, Picture, Section
from federated_health.report.run_summary import RunSummary

Array = npt.NDArray[np.float64]

_FROM_CELLS = (
    f"Scores leave a hospital only as averages over groups of at least {MIN_CELL_SIZE} patients of one class. The "
    "curves spread these patients evenly within their group. A class with fewer patients is left out."
)
_FROM_BINS = (
    "Encrypted scores were added up over all hospitals, in bins of log-odds. The curves place patients in the middle "
    "of their bin."
)
_HELD_OUT_LOSS = (
    "Mean loss (binary cross-entropy) on held-out patients after each round. Lower is better; a risk of 50 % for every "
    "patient gives 0.693. A gap means that the hospital did not reply."
)
_TRAINING_LOSS = (
    "Mean loss on training patients during local training, before the weights were averaged. If it falls while the "
    "loss on held-out patients rises, more rounds make the model worse."
)


def learning_curves(run: RunSummary) -> Iterator[Section]:
    """Losses of every round; nothing if no round is known."""
    parts = [{**record.hospitals, FEDERATION: record.federation} for record in run.rounds]
    names = [*sorted({name for record in run.rounds for name in record.hospitals}), FEDERATION]
    known = {name: [part.get(name) for part in parts] for name in names}
    held_out = {name: [part.counts.loss if part and part.counts else None for part in of] for name, of in known.items()}
    training = {name: [part.train_loss if part else None for part in of] for name, of in known.items()}
    numbers = [record.number for record in run.rounds]
    pictures: list[Block] = []
    for series, quantity, caption in (
        (held_out, "loss on held-out patients", _HELD_OUT_LOSS),
        (training, "loss on training patients", _TRAINING_LOSS),
    ):
        if any(value is not None for values in series.values() for value in values):
            drawing = draw_learning_curves(series, quantity=f"{quantity}, nats", rounds=numbers)
            ends = list_some((f"{name} {figure(values[-1])}" for name, values in series.items()), ", ")
            alt = f"{quantity.capitalize()} after the last round: {ends}."
            pictures.append(Picture(svg=drawing, alt=alt, caption=caption))
    if pictures:
        yield Section("Learning curves", pictures)


def curves_of_run(run: RunSummary) -> Iterator[Section]:
    """ROC and calibration curves of released score groups; nothing if no hospital released both classes."""
    scores = {name: _log_odds(evaluation) for name, evaluation in run.evaluations.items()}
    has_both = {name: part for name, part in scores.items() if all(map(len, part))}
    panels, more = sections.first_panels(has_both)
    if scores and FEDERATION not in scores:
        everyone = [np.concatenate(parts) for parts in zip(*scores.values(), strict=True)]
        if all(map(len, everyone)):
            panels[FEDERATION] = everyone
    if not panels:
        return
    rocs, calibrations = {}, {}
    for name, (positive, negative) in panels.items():
        log_odds = np.concatenate([positive, negative])
        labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
        rocs[name] = roc_curve(log_odds, Resampled.of(labels, [run.config.seed, *name.encode()], CURVE_DRAWS))
        calibrations[name] = calibration_curve(probability(log_odds), labels)
    lacking = [name for name in scores if name not in has_both]
    without = f"Without a curve of its own: {list_some(lacking, ', ')}." if lacking else ""
    notes = [_FROM_BINS if run.encrypted else _FROM_CELLS, without, more]
    caption = "Held-out patients, with 95 % bootstrap bands at each point."
    yield sections.roc_section(rocs, caption, " ".join(filter(None, notes)))
    bins = list_some(
        f"{name}: predicted {', '.join(map(percent_of, curve.predicted))}, "
        f"observed {', '.join(map(percent_of, curve.observed))}"
        for name, curve in calibrations.items()
    )
    caption = f"Held-out patients, from the same {'bins' if run.encrypted else 'groups'}."
    alt = f"Mean predicted risk and observed share of each bin of patients. {bins}."
    yield sections.calibration_section(calibrations, caption, alt)


def _log_odds(evaluation: Evaluation) -> list[Array]:
    """Log-odds of the positive and of the negative patients, as far as they are known."""
    none = np.zeros((0, 3))
    return [spread_patients(evaluation.scores.get(name, none)) for name in ("positives", "negatives")]


def confusion_of_run(run: RunSummary) -> Iterator[Section]:
    """Confusion matrices of the final model, or of the last round's model if the run was stopped."""
    sums = {name: evaluation.counts for name, evaluation in run.evaluations.items()}
    if run.stopped and not sums:  # then the threshold is that of the rounds
        sums = {name: part.counts for name, part in run.rounds[-1].hospitals.items() if part.counts}
    counts = {name: part for name, part in sums.items() if isinstance(part, Counts)}
    if not counts:
        return
    drawn, more = sections.first_panels(counts)
    matrices = {name: part.matrix for name, part in drawn.items()}
    matrices.setdefault(FEDERATION, merge_counts(counts.values()).matrix)
    caption = f"Held-out patients. Predicted positive: a risk of at least {run.config.threshold}. {more}"
    yield sections.confusion_section(matrices, caption.strip())


def holdings_of_run(run: RunSummary) -> Iterator[Section]:
    """Class balance and missing values of every hospital, as far as they were released."""
    task = run.task
    evaluations = {name: evaluation.counts for name, evaluation in run.evaluations.items() if name != FEDERATION}
    counts = {name: part for name, part in evaluations.items() if isinstance(part, Counts)}
    if not counts:
        return
    missing = {}
    for name, observed in run.figures.get("observed", {}).items():
        rows = run.figures["hospitals"][name]["train_examples"]
        missing[name] = [1.0 - observed[key] / rows if observed[key] else np.nan for key in task.column_names]
    yield sections.holdings_section(
        task,
        {name: (count.positives, count.examples - count.positives) for name, count in counts.items()},
        missing,
        of_labels="Each hospital's held-out patients.",
        of_missing=f"Each hospital's training patients; not released if fewer than {MIN_OBSERVED} have a value.",
    )


def importance_of_run(run: RunSummary) -> Iterator[Section]:
    """Permutation importance of the columns; nothing if hospitals were not asked."""
    if importance := run.figures.get("importance"):
        patients = f"Held-out patients, mean of {PERMUTATIONS} shuffles per hospital."
        yield sections.importance_section(importance, patients)
