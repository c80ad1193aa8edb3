"""The page of a federation's run: drawn only from what hospitals released (see `messages`)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from federated_health.appraisal import PERMUTATIONS
from federated_health.curves import CalibrationCurve, Curve, calibration_curve, roc_curve
from federated_health.federation import Federation
from federated_health.intervals import Interval, Resampled
from federated_health.messages import Evaluation
from federated_health.metrics import MINIMUM_CELL, THRESHOLD, Counts, merge_counts, probability, spread_patients
from federated_health.model import weights_hash
from federated_health.names import FEDERATION
from federated_health.report.charts import draw_intervals, draw_learning_curves
from federated_health.report.page import Block, Card, Cards, Caution, Page, Picture, Section, Text
from federated_health.report.panels import draw_calibration, draw_confusion, draw_roc
from federated_health.report.sections import (
    FLATTERS,
    RULE,
    SMALL,
    figure,
    figures_table,
    model_card,
    settings_section,
    title_of,
    verdict_card,
    which_columns,
    who_holds_what,
    with_interval,
)
from federated_health.summaries import Round

FROM_CELLS = (
    f"Scores leave a hospital only as cells of at least {MINIMUM_CELL} patients of a class; the curves take these "
    "patients as spread evenly within their cell. A class of fewer is not in them."
)
BAND_DRAWS = 500
FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "brier")


def page_of_run(
    federation: Federation,
    figures: Mapping[str, Any],
    rounds: Sequence[Round],
    *,
    stopped: bool,
    others: Mapping[str, str],
) -> Page:
    """Everything that the server knows of a run, as a page.

    Args:
        figures: see `Federation.evaluate_finally`.
        rounds: those that are finished, at least one.
        others: further facts to be shown beside the settings, such as hashes of files.
    """
    task = federation.settings.task_declaration
    hospitals = list(figures["hospitals"])
    words = f"{len(hospitals)} hospitals, {len(rounds)} rounds, strategy {federation.settings.strategy}"
    limits = [
        "One split of each hospital's patients into trained-on and held-out ones: another split gives other figures.",
        *(["The run was stopped before its last round."] if stopped else []),
    ]
    return Page(
        title=f"A model of {len(hospitals)} hospitals: {task.name}",
        lead=f"{words}{', stopped before its last round' if stopped else ''}.",
        sections=(
            _participants(figures),
            _quality(federation, figures),
            _learning(rounds),
            *_curves(federation),
            *_confusion(federation, rounds[-1]),
            *_holdings(federation, figures),
            *_columns(figures),
            settings_section(
                federation.settings,
                [
                    ("rounds that were finished", str(rounds[-1].number)),
                    ("threshold", str(federation.threshold)),
                    ("schema", task.schema_hash),
                    ("SHA-256 of the weights", weights_hash(federation.weights)),
                    *others.items(),
                ],
            ),
            model_card(task, hospitals, limits),
        ),
    )


def _participants(figures: Mapping[str, Any]) -> Section:
    joining = figures.get("joining", {})
    rows = {name: [str(one["train_examples"]), str(one["test_examples"])] for name, one in figures["hospitals"].items()}
    blocks: list[Block] = [figures_table("Patients", rows, ["trained on", "held out"])]
    if joining:
        blocks += [
            Text(
                words="Each hospital also trained a model of its own rows alone, with the same settings, and "
                "compared the two on its held-out patients:"
            ),
            Cards(items=tuple(_card(name, one) for name, one in joining.items())),
            Picture(
                svg=draw_intervals(
                    {"federated minus own": {name: Interval(**one["difference"]) for name, one in joining.items()}},
                    quantity="difference of ROC-AUC",
                    reference=0.0,
                ),
                alt="; ".join(
                    f"{name}: {with_interval(Interval(**one['difference']), signed=True)}"
                    for name, one in joining.items()
                ),
                caption="Federated minus own, with 95 % intervals. Right of 0 the federated model is better.",
            ),
            Text(words=RULE),
            Caution(
                words="One split of few patients says little: expect wide intervals. Where rows may be in one place, "
                "the command python -m federated_health evidence tests every patient, several times."
            ),
        ]
    return Section(title="Who took part, and was it worth it?", blocks=tuple(blocks))


def _card(name: str, one: Mapping[str, Any]) -> Card:
    words = SMALL if one["small"] else ""
    return verdict_card(name, Interval(**one["difference"]), one["own_roc_auc"], one["roc_auc"]["value"], words)


def _quality(federation: Federation, figures: Mapping[str, Any]) -> Section:
    rows = {name: [figure(one[key]) for key in FIGURES] for name, one in figures["hospitals"].items()}
    blocks: list[Block] = []
    if whole := figures["federation"]:
        rows[FEDERATION] = [figure(whole[key]) for key in FIGURES]
        rows["hospital mean"] = [figure(whole["mean_roc_auc"]) if key == "roc_auc" else "" for key in FIGURES]
    chosen = "" if federation.threshold == THRESHOLD else ", at which F1 over all training rows is greatest"
    blocks.append(
        figures_table(
            "Figures on held-out patients",
            rows,
            [title_of(key) for key in FIGURES],
            note=f"Predicted positive: a risk of at least {federation.threshold}{chosen}.",
        )
    )
    if joining := figures.get("joining"):
        aucs = {name: Interval(**one["roc_auc"]) for name, one in joining.items()}
        blocks.append(
            Picture(
                svg=draw_intervals({"federated model": aucs}, quantity="ROC-AUC", reference=None),
                alt="; ".join(f"{name}: {with_interval(one)}" for name, one in aucs.items()),
                caption="ROC-AUC of each hospital's held-out patients with 95 % intervals.",
            )
        )
    return Section(title="How good the model is", blocks=(*blocks, Caution(words=FLATTERS)))


def _learning(rounds: Sequence[Round]) -> Section:
    names = list(dict.fromkeys(name for record in rounds for name in record.hospitals))
    numbers = [record.number for record in rounds]
    tested = {
        name: [_test_loss(record.hospitals[name].counts if name in record.hospitals else None) for record in rounds]
        for name in names
    }
    tested[FEDERATION] = [_test_loss(record.federation.counts) for record in rounds]
    trained: dict[str, list[float | None]] = {
        name: [record.hospitals[name].train_loss if name in record.hospitals else None for record in rounds]
        for name in names
    }
    trained[FEDERATION] = [record.federation.train_loss for record in rounds]
    ends = ", ".join(f"{name} {figure(values[-1])}" for name, values in tested.items())
    return Section(
        title="Learning curves",
        blocks=(
            Picture(
                svg=draw_learning_curves(tested, quantity="loss on held-out patients, nats", rounds=numbers),
                alt=f"After the last round: {ends}.",
                caption="Mean binary cross-entropy of held-out patients after each round.",
            ),
            Picture(
                svg=draw_learning_curves(trained, quantity="loss on training rows, nats", rounds=numbers),
                alt="After the last round: " + ", ".join(f"{name} {figure(one[-1])}" for name, one in trained.items()),
                caption="The same while training, before the weights were averaged.",
            ),
        ),
    )


def _test_loss(counts: Counts | None) -> float | None:
    return counts.loss if counts else None


def _curves(federation: Federation) -> Iterator[Section]:
    """ROC and calibration from released cells; nothing where no hospital released both classes."""
    rocs: dict[str, Curve] = {}
    calibrations: dict[str, CalibrationCurve] = {}
    parts: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for name, one in federation.evaluations.items():
        high, low = _patients(one)
        parts.append((high, low))
        _add_curves(name, high, low, federation.settings.seed, rocs, calibrations)
    if parts:
        high, low = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        _add_curves(FEDERATION, high, low, federation.settings.seed, rocs, calibrations)
    if not rocs:
        return
    found = ", ".join(f"{name} {np.interp(0.1, one.x, one.y):.0%}" for name, one in rocs.items())
    yield Section(
        title="ROC curves",
        blocks=(
            Picture(
                svg=draw_roc(rocs),
                alt=f"At a false-positive rate of 10 %, the share of the positive that is found: {found}.",
                caption="Held-out patients, with pointwise 95 % bootstrap bands.",
            ),
            Text(words=FROM_CELLS),
        ),
    )
    yield Section(
        title="Calibration",
        blocks=(
            Picture(
                svg=draw_calibration(calibrations),
                alt="; ".join(
                    f"{name}: predicted {', '.join(f'{x:.0%}' for x in one.predicted)}, observed "
                    f"{', '.join(f'{y:.0%}' for y in one.observed)}"
                    for name, one in calibrations.items()
                ),
                caption="Predicted risk against the share of held-out patients who are positive, in bins of about "
                "equal size, with 95 % Wilson intervals; from the same cells. On the diagonal a risk is what it says.",
            ),
        ),
    )


def _patients(one: Evaluation) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Log-odds of the positive and of the negative, as far as they are known."""
    nothing = np.zeros((0, 3))
    cells = (one.positives, one.negatives)
    high, low = (spread_patients(nothing if part is None else part) for part in cells)
    return high, low


def _add_curves(
    name: str,
    high: np.ndarray[Any, Any],
    low: np.ndarray[Any, Any],
    seed: int,
    rocs: dict[str, Curve],
    calibrations: dict[str, CalibrationCurve],
) -> None:
    if len(high) and len(low):
        log_odds = np.concatenate([high, low])
        labels = np.concatenate([np.ones(len(high)), np.zeros(len(low))])
        rocs[name] = roc_curve(log_odds, Resampled.of(labels, [seed, *name.encode()], BAND_DRAWS))
        calibrations[name] = calibration_curve(probability(log_odds), labels)


def _confusion(federation: Federation, last: Round) -> Iterator[Section]:
    counts = {name: one.counts for name, one in federation.evaluations.items()} or {
        name: one.counts for name, one in last.hospitals.items() if one.counts
    }
    if not counts:
        return
    matrices = {name: one.matrix for name, one in counts.items()}
    matrices[FEDERATION] = merge_counts(counts.values()).matrix
    yield Section(
        title="Decisions at the threshold",
        blocks=(
            Picture(
                svg=draw_confusion(matrices),
                alt="; ".join(
                    f"{name}: {tn} true negatives, {fp} false positives, {fn} false negatives, {tp} true positives"
                    for name, (tn, fp, fn, tp) in matrices.items()
                ),
                caption=f"Held-out patients; predicted positive from a risk of {federation.threshold} on.",
            ),
        ),
    )


def _holdings(federation: Federation, figures: Mapping[str, Any]) -> Iterator[Section]:
    task = federation.settings.task_declaration
    labels = {
        name: (one.counts.positives, one.counts.examples - one.counts.positives)
        for name, one in federation.evaluations.items()
    }
    if not labels:
        return
    observed = figures.get("observed", {})
    rows = {name: figures["hospitals"][name]["train_examples"] for name in observed}
    shares = [
        [1.0 - one[column] / rows[name] if one[column] else np.nan for column in task.column_names]
        for name, one in observed.items()
    ]
    yield who_holds_what(
        task,
        labels,
        np.array(shares),
        names=list(observed),
        of_labels="Held-out patients.",
        of_missing="Training rows; not released where fewer than five are observed.",
    )


def _columns(figures: Mapping[str, Any]) -> Iterator[Section]:
    if importance := figures.get("importance"):
        yield which_columns(importance, f"Held-out patients, mean of {PERMUTATIONS} shuffles at every hospital.")
