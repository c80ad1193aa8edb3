"""The report of a study: the benefit of joining per hospital, and how the figures were obtained."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from federated_health.ml.bootstrap import Resampled, rarer_class
from federated_health.ml.curves import CURVE_DRAWS, calibration_curve, roc_curve
from federated_health.ml.metrics import Interval, count_outcomes, describe_small_in_mean, figure_title, probability
from federated_health.report import formatting, sections
from federated_health.report.charts import draw_intervals
from federated_health.report.page import Block, Caution, Page, Picture, Section, Table
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import POINT_ESTIMATES, Scores
from federated_health.studies.benefit.journal import Results
from federated_health.studies.benefit.training_setups import INNER_FOLDS, EvaluationProtocol, TrainingSetup

Figures = Mapping[str, Any]
"""The content of evidence.json, or of one of its entries (see `compare_models`)."""

MEAN = "mean over hospitals"
NAMES = {
    TrainingSetup.OWN: "own patients only",
    TrainingSetup.FEDERATED: "federated",
    TrainingSetup.POOLED: "pooled",
    TrainingSetup.LEAVE_ONE_OUT: "without it",
}
DIFFERENCES = {
    "minus own only": "federated_minus_own",
    "minus without it": "federated_minus_without",
    "minus pooled": "federated_minus_pooled",
}
SETUPS = [
    "own patients only: a model trained on that hospital's patients alone",
    "federated: one model of all hospitals' training patients, whose records stay where they are",
    "pooled: one model of all training patients in one place, as if records could be shared",
    "without it: the federated model of the other hospitals, which is what a hospital gets if it does not join",
]
READING = (
    f"{sections.FIGURES_EXPLAINED} Accuracy uses each model's own threshold, which maximises F1 over its training "
    "patients. Average precision: mean precision over all thresholds. Perfect calibration has a slope of 1 and an "
    "intercept of 0; a slope below 1 means that risks are too extreme, an intercept above 0 that they are too low."
)


def benefit_page(
    cohort: Cohort, protocol: EvaluationProtocol, results: Results, scores: Scores, figures: Figures
) -> Page:
    """The report of a study."""
    hospitals = figures["hospitals"]
    hashes, more = formatting.first_of({f"SHA-256 of {name}'s CSV": digest for name, digest in cohort.hashes.items()})
    hashes |= {"further hospitals": f"{more:,}; their hashes are in evidence.json"} if more else {}
    facts = {
        "strategies": ", ".join(protocol.strategies),
        "folds": str(protocol.folds),
        "repeats": str(protocol.repeats),
        "rounds chosen by inner cross-validation": "yes" if protocol.tune else "no",
        "SHA-256 of the schema": cohort.task.schema_hash,
        **hashes,
    }
    network = protocol.settings.network_declaration
    return Page(
        title=f"Benefit of joining: {cohort.task.name}",
        lead=f"{formatting.list_verdicts(entry['verdict'] for entry in hospitals.values())} "
        f"{formatting.number_of(figures['all']['patients'], 'patient')}; the models estimate the risk of this: "
        f"{cohort.task.label.meaning}.",
        sections=[
            _verdicts(figures),
            _models(figures),
            *_strategies(protocol, figures),
            _roc_curves(scores, protocol.settings.seed),
            _calibration(scores, figures),
            _decisions(scores),
            _holdings(cohort),
            sections.importance_section(
                _importance(cohort, protocol, results), "The federated models, on the held-out patients of each fold."
            ),
            _method(protocol),
            Section("All other figures", [_all_estimates(figures)], folded=True),
            sections.settings_section(
                protocol.settings,
                {**facts, **network.facts},
                leave_out=frozenset({"appraisal", "strategy"}) | network.unused_settings,
            ),
            sections.model_card(
                cohort.task, list(hospitals), ["This study does not keep its models; server.py makes the one to use."]
            ),
        ],
    )


def _auc(entry: Figures, model: str) -> Interval:
    return Interval(**entry["models"][model]["roc_auc"])


def _difference(entry: Figures, name: str) -> str:
    return formatting.with_interval(Interval(**entry["differences"][name]), signed=True)


def _verdicts(figures: Figures) -> Section:
    benefits, details, differences = {}, {}, {}
    for name, entry in figures["hospitals"].items():
        benefits[name] = {
            **entry,
            "roc_auc": entry["models"][TrainingSetup.FEDERATED]["roc_auc"],
            "own_roc_auc": _auc(entry, TrainingSetup.OWN).value,
            "difference": entry["differences"]["federated_minus_own"],
        }
        details[name] = f"{formatting.number_of(entry['patients'], 'patient')}, {entry['positives']:,} positive."
        if (left_out := _difference(entry, "federated_minus_without")) != formatting.NOT_DEFINED:
            details[name] = f"Federated minus the federation without it: {left_out}. {details[name]}"
        differences[name] = {label: Interval(**entry["differences"][key]) for label, key in DIFFERENCES.items()}
    alt = formatting.list_some(
        f"{name}: {', '.join(f'{label} {_difference(entry, key)}' for label, key in DIFFERENCES.items())}"
        for name, entry in figures["hospitals"].items()
    )
    caption = (
        "ROC-AUC of the federated model minus that of another model on the same patients, with its "
        f"{formatting.INTERVAL}."
    )
    blocks: list[Block] = [
        f"Four training setups, each tested on held-out patients. {sections.AUC}",
        SETUPS,
        *sections.verdict_cards(benefits, details),
    ]
    if (mean := _difference(figures["mean"], "federated_minus_own")) != formatting.NOT_DEFINED:
        blocks.append(f"Mean over hospitals, federated minus own patients only: {mean}.")
    picture = Picture(
        svg=draw_intervals(differences, quantity="federated minus another: ROC-AUC", reference=0.0),
        alt=f"{caption} {alt}.",
        caption=f"{caption} Right of 0 the federated model is better.",
    )
    return Section("Benefit per hospital", [*blocks, picture, sections.VERDICT_RULE])


def _models(figures: Figures) -> Section:
    last = {MEAN: figures["mean"], sections.ALL: figures["all"]}
    intervals = {
        name: {label: _auc(entry, setup) for setup, label in NAMES.items()}
        for name, entry in {**figures["hospitals"], **last}.items()
    }
    means = {label: _estimates(figures["mean"], setup) for setup, label in NAMES.items()}
    return Section(
        "How good the models are",
        [
            Picture(
                svg=draw_intervals(intervals, quantity="ROC-AUC", reference=None),
                alt="The same figures as in the table of ROC-AUCs below.",
                caption=f"ROC-AUC on held-out patients, with its {formatting.INTERVAL}.",
            ),
            _table(
                f"ROC-AUC ({formatting.INTERVAL})",
                lambda entry: {label: formatting.with_interval(_auc(entry, setup)) for setup, label in NAMES.items()},
                figures,
            ),
            Caution(sections.POOLED_AUC),
            sections.figures_table("Other figures, as means over hospitals", means, first="model", note=READING),
        ],
    )


def _table(caption: str, cells: Callable[[Figures], Mapping[str, str]], figures: Figures, note: str = "") -> Table:
    """A table with one row per hospital, then the mean over hospitals and all patients."""
    rows = {name: cells(entry) for name, entry in figures["hospitals"].items()}
    small = figures["mean"]["small"]
    last = {f"{MEAN} *" if small else MEAN: cells(figures["mean"]), sections.ALL: cells(figures["all"])}
    note = f"{note} {describe_small_in_mean(small) if small else ''}".strip()
    return sections.figures_table(caption, rows, last=last, note=note)


def _all_estimates(figures: Figures) -> Table:
    rows, last = (
        {f"{name}: {label}": _estimates(entry, setup) for name, entry in part.items() for setup, label in NAMES.items()}
        for part in (figures["hospitals"], {sections.ALL: figures["all"]})
    )
    return sections.figures_table("By hospital and model", rows, last=last, first="hospital and model", note=READING)


def _estimates(entry: Figures, model: str) -> dict[str, str]:
    return {figure_title(key): formatting.figure(entry["models"][model][key]) for key in POINT_ESTIMATES}


def _strategies(protocol: EvaluationProtocol, figures: Figures) -> Iterator[Section]:
    """Further strategies compared with the first one; nothing if there are none."""
    first, *further = protocol.strategies
    if not further:
        return
    aucs = _table(
        f"ROC-AUC of {first}, and the difference that other strategies make ({formatting.INTERVAL})",
        lambda entry: {
            first: formatting.figure(_auc(entry, TrainingSetup.FEDERATED).value),
            **{f"{name} minus {first}": _difference(entry, f"{name}_minus_federated") for name in further},
        },
        figures,
        note="By chance, about 1 in 20 strategies that make no difference has an interval without 0.",
    )
    models = {first: TrainingSetup.FEDERATED, **{strategy: strategy for strategy in further}}
    means = {strategy: _estimates(figures["mean"], model) for strategy, model in models.items()}
    others = sections.figures_table("Other figures of strategies, as means over hospitals", means, first="strategy")
    yield Section("Strategies", [aucs, others])


def _roc_curves(scores: Scores, seed: int) -> Section:
    """ROC curves of the out-of-fold scores with bootstrap bands, for hospitals with patients of both classes."""
    places = {name: place for place, (name, labels) in enumerate(scores.labels.items()) if rarer_class(labels) > 0}
    if not places:
        return Section("ROC curves", ["No hospital has patients of both classes."])
    drawn, more = sections.first_panels(places)
    curves = {}
    for name, place in drawn.items():
        resampled = Resampled.of(scores.labels[name], [seed, place], CURVE_DRAWS)
        curves[name] = roc_curve(scores.models[TrainingSetup.FEDERATED][name].log_odds, resampled)
    one_class = formatting.list_some([name for name in scores.labels if name not in places], ", ")
    text = f"Without a curve, because all patients are of one class: {one_class}. {more}" if one_class else more
    caption = "The federated model on each hospital's patients, mean over repeats; 95 % bootstrap bands at each point."
    return sections.roc_section(curves, caption, *([text.strip()] if text else []))


def _calibration(scores: Scores, figures: Figures) -> Section:
    """Predicted risk against the observed share, of federated models."""
    federated = TrainingSetup.FEDERATED
    drawn, more = sections.first_panels(scores.labels)
    parts = {
        **{name: (scores.models[federated][name], drawn[name], figures["hospitals"][name]) for name in drawn},
        sections.ALL: (scores.all_patients(federated), scores.all_labels, figures["all"]),
    }
    curves, text = {}, []
    for name, (out_of_fold, labels, entry) in parts.items():
        risks = probability(out_of_fold.log_odds)
        weights = np.full(risks.size, 1.0 / len(risks))
        curves[name] = calibration_curve(risks.ravel(), np.tile(labels, len(risks)), weights)
        metrics = entry["models"][federated]
        line = (f"{key} {formatting.figure(metrics[f'calibration_{key}'])}" for key in ("slope", "intercept"))
        text.append(f"{name}: {', '.join(line)}")
    caption = f"Held-out patients of all repeats, by the federated models. {more}".strip()
    alt = f"Calibration of the federated model. {formatting.list_some(text)}."
    return sections.calibration_section(curves, caption, alt)


def _decisions(scores: Scores) -> Section:
    """Confusion matrices of the first repeat."""
    drawn, more = sections.first_panels(scores.labels)
    matrices = {}
    for name, labels in drawn.items():
        out_of_fold = scores.models[TrainingSetup.FEDERATED][name]
        positive = probability(out_of_fold.log_odds[0]) >= out_of_fold.thresholds[0]
        matrices[name] = count_outcomes(positive.astype(np.float64), labels).matrix
    caption = f"Held-out patients of the first repeat, by the federated models at their own thresholds. {more}"
    return sections.confusion_section(matrices, caption.strip())


def _holdings(cohort: Cohort) -> Section:
    """Label balance and missing values of every hospital."""
    columns = list(cohort.task.column_names)
    labels = {name: cohort.labels(name) for name in cohort.tables}
    return sections.holdings_section(
        cohort.task,
        {name: (int(values.sum()), int((1 - values).sum())) for name, values in labels.items()},
        {name: table[columns].isna().mean().tolist() for name, table in cohort.tables.items()},
        of_labels="All patients.",
        of_missing="All patients. A zero that stands for a missing value counts as missing.",
    )


def _importance(cohort: Cohort, protocol: EvaluationProtocol, results: Results) -> dict[str, float]:
    """Rise of a patient's mean loss by column, as mean over repeats; models of the first strategy only."""
    key = TrainingSetup.FEDERATED, protocol.strategies[0]
    federated = [result for fit, result in results.items() if (fit.setup, fit.subject) == key]
    sums = [np.array(values) for result in federated for values in result.importance.values()]
    patients = sum(len(result.scores[name]) for result in federated for name in result.importance)
    return dict(zip(cohort.task.column_names, (np.sum(sums, axis=0) / patients).tolist(), strict=True))


def _method(protocol: EvaluationProtocol) -> Section:
    tuned = (
        f"Every model's number of rounds, up to {protocol.settings.rounds}, is chosen by {INNER_FOLDS}-fold "
        "cross-validation inside its training rows, by the lowest loss. All setups are tuned alike."
        if protocol.tune
        else "All models are trained with the settings below, which were chosen for federated runs."
    )
    items = [
        f"{formatting.number_of(protocol.repeats, 'repeat')} of {protocol.folds}-fold cross-validation, stratified by "
        "class within each hospital. All models of a fold share one split into training and held-out patients; equal "
        "rows are never on both sides.",
        tuned,
        "The same apps and strategies train every model in process as over the network; own and pooled models are "
        "runs of one hospital.",
        "A repeat scores every patient once, by a model that was not trained on that patient. Each figure is computed "
        "on these concatenated scores, as the mean over repeats.",
        "There is no correction for multiple tests: of many hospitals without a difference, about 1 in 20 gains or "
        "loses by chance.",
    ]
    return Section("Methods", [items])
