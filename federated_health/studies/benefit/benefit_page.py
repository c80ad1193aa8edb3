"""The report of a study: the benefit of joining per hospital, and how the figures were obtained."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from federated_health.ml.metrics import DEFAULT_THRESHOLD, figure_title, merge_counts
from federated_health.ml.verdicts import Difference, Interval
from federated_health.report import formatting, overview, sections
from federated_health.report.charts import draw_intervals
from federated_health.report.formatting import describe_small_in_mean
from federated_health.report.page import Block, Caution, Page, Picture, Section, Table
from federated_health.report.panels import Panels, panels_of
from federated_health.studies.benefit.binary_charts import READING, curves_and_decisions
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import Scores, difference_name
from federated_health.studies.benefit.estimates import estimate_names
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
OTHERS = {TrainingSetup.OWN: "own only", TrainingSetup.LEAVE_ONE_OUT: "without it", TrainingSetup.POOLED: "pooled"}
"""Models that are compared with the federated one."""

SETUPS = [
    "own patients only: a model trained on that hospital's patients alone",
    "federated: one model of all hospitals' training patients, whose records stay where they are",
    "pooled: one model of all training patients in one place, as if records could be shared",
    "without it: the federated model of the other hospitals, which is what a hospital gets if it does not join",
]


def benefit_page(
    cohort: Cohort, protocol: EvaluationProtocol, results: Results, scores: Scores, figures: Figures
) -> Page:
    """The report of a study."""
    panels = panels_of(cohort.task, everyone=sections.ALL, seed=protocol.settings.seed)
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
        f"{_number_of_patients(figures['all'])}; the models estimate {panels.estimate} this: "
        f"{cohort.task.label.meaning}.",
        sections=[
            _verdicts(panels, figures),
            _models(panels, figures),
            *_strategies(panels, protocol, figures),
            *_curves_and_decisions(panels, scores, figures),
            _holdings(panels, cohort, scores),
            sections.importance_section(
                _importance(cohort, protocol, results),
                "The federated models, on the held-out patients of each fold.",
                panels,
            ),
            _method(panels, protocol),
            Section("All other figures", [_all_estimates(panels, figures)], folded=True),
            sections.settings_section(
                protocol.settings,
                {**facts, **network.facts},
                leave_out=frozenset({"appraisal", "strategy"}) | network.unused_settings,
            ),
            sections.model_card(
                panels, list(hospitals), ["This study does not keep its models; server.py makes the one to use."]
            ),
        ],
    )


def _number_of_patients(entry: Figures) -> str:
    """How many patients there are, and how many rows if that is another number."""
    patients, rows = entry["patients"], entry["rows"]
    of_patients = formatting.number_of(patients, "patient")
    return of_patients if rows == patients else f"{formatting.number_of(rows, 'row')} of {of_patients}"


def _figure(panels: Panels, entry: Figures, model: str) -> Interval:
    return Interval(**entry["models"][model][panels.target.compared])


def _difference(panels: Panels, entry: Figures, other: str, model: str = TrainingSetup.FEDERATED) -> Difference:
    return Difference(**entry["differences"][difference_name(panels.target, other, model)])


def _signed(interval: Interval) -> str:
    return formatting.with_interval(interval, signed=True)


def _reading(panels: Panels) -> str:
    return f"{panels.explained} {READING}" if panels.target.has_threshold else panels.explained


def _verdicts(panels: Panels, figures: Figures) -> Section:
    benefits, details, differences = {}, {}, {}
    compared, is_less = panels.target.compared, panels.target.less_is_better
    labels = {setup: f"{name} minus it" if is_less else f"minus {name}" for setup, name in OTHERS.items()}
    without = formatting.capitalise(panels.difference("federated", "the federation without it"))
    for name, entry in figures["hospitals"].items():
        benefits[name] = {
            **entry,
            "comparisons": {
                compared: {
                    "verdict": entry["verdict"],
                    "own": entry["models"][TrainingSetup.OWN][compared],
                    "federated": entry["models"][TrainingSetup.FEDERATED][compared],
                    "difference": asdict(_difference(panels, entry, TrainingSetup.OWN)),
                }
            },
        }
        details[name] = f"{_number_of_patients(entry)}{panels.describe_labels(entry)}."
        left_out = _signed(_difference(panels, entry, TrainingSetup.LEAVE_ONE_OUT))
        if left_out != formatting.NOT_DEFINED:
            details[name] = f"{without}: {left_out}. {details[name]}"
        differences[name] = {label: _difference(panels, entry, setup) for setup, label in labels.items()}
    alt = formatting.list_some(
        f"{name}: {', '.join(f'{label} {_signed(interval)}' for label, interval in of_hospital.items())}"
        for name, of_hospital in differences.items()
    )
    title = formatting.capitalise(panels.compared)
    pair = ("the federated model", "another model")
    first, second = reversed(pair) if is_less else pair
    caption = f"{title} of {first} minus that of {second} on the same patients, with its {formatting.INTERVAL}."
    blocks: list[Block] = [
        f"Four training setups, each tested on held-out patients. {panels.compared_explained}",
        SETUPS,
        *overview.verdict_blocks(benefits, panels, details),
    ]
    if (mean := _signed(_difference(panels, figures["mean"], TrainingSetup.OWN))) != formatting.NOT_DEFINED:
        blocks.append(f"Mean over hospitals, {panels.difference('federated', 'own patients only')}: {mean}.")
    quantity = f"{panels.difference('federated', 'another')}: {figure_title(compared)}"
    picture = Picture(
        svg=draw_intervals(differences, quantity=quantity, reference=0.0),
        alt=f"{caption} {alt}.",
        caption=f"{caption} Right of 0 the federated model is better.",
    )
    return Section("Benefit per hospital", [*blocks, picture, panels.verdict_rule])


def _models(panels: Panels, figures: Figures) -> Section:
    last = {MEAN: figures["mean"], sections.ALL: figures["all"]}
    intervals = {
        name: {label: _figure(panels, entry, setup) for setup, label in NAMES.items()}
        for name, entry in {**figures["hospitals"], **last}.items()
    }
    means = {label: _estimates(panels, figures["mean"], setup) for setup, label in NAMES.items()}
    title = formatting.capitalise(panels.compared)
    return Section(
        "How good the models are",
        [
            Picture(
                svg=draw_intervals(intervals, quantity=panels.compared, reference=None),
                alt=f"The same figures as in the table of {figure_title(panels.target.compared)}s below.",
                caption=f"{title} on held-out patients, with its {formatting.INTERVAL}.",
            ),
            _table(
                f"{title} ({formatting.INTERVAL})",
                lambda entry: {
                    label: formatting.with_interval(_figure(panels, entry, setup)) for setup, label in NAMES.items()
                },
                figures,
                panels,
            ),
            Caution(panels.pooled_explained),
            sections.figures_table(
                "Other figures, as means over hospitals", means, first="model", note=_reading(panels)
            ),
        ],
    )


def _table(
    caption: str, cells: Callable[[Figures], Mapping[str, str]], figures: Figures, panels: Panels, note: str = ""
) -> Table:
    """A table with one row per hospital, then the mean over hospitals and all patients."""
    rows = {name: cells(entry) for name, entry in figures["hospitals"].items()}
    is_marked = figures["mean"]["small"] and panels.target.has_classes
    last = {f"{MEAN} *" if is_marked else MEAN: cells(figures["mean"]), sections.ALL: cells(figures["all"])}
    note = f"{note} {describe_small_in_mean(figures['mean']['small']) if is_marked else ''}".strip()
    return sections.figures_table(caption, rows, last=last, note=note)


def _all_estimates(panels: Panels, figures: Figures) -> Table:
    rows, last = (
        {
            f"{name}: {label}": _estimates(panels, entry, setup)
            for name, entry in part.items()
            for setup, label in NAMES.items()
        }
        for part in (figures["hospitals"], {sections.ALL: figures["all"]})
    )
    note = _reading(panels)
    return sections.figures_table("By hospital and model", rows, last=last, first="hospital and model", note=note)


def _estimates(panels: Panels, entry: Figures, model: str) -> dict[str, str]:
    names = estimate_names(panels.target)
    return {panels.title(key): formatting.figure(entry["models"][model][key]) for key in names}


def _strategies(panels: Panels, protocol: EvaluationProtocol, figures: Figures) -> Iterator[Section]:
    """Further strategies compared with the first one; nothing if there are none."""
    first, *further = protocol.strategies
    if not further:
        return
    compared = _table(
        f"{formatting.capitalise(panels.compared)} of {first}, and the difference that other strategies make "
        f"({formatting.INTERVAL})",
        lambda entry: {
            first: formatting.figure(_figure(panels, entry, TrainingSetup.FEDERATED).value),
            **{
                panels.difference(name, first): _signed(_difference(panels, entry, TrainingSetup.FEDERATED, name))
                for name in further
            },
        },
        figures,
        panels,
        note="By chance, about 1 in 20 strategies that make no difference has an interval without 0.",
    )
    models = {first: TrainingSetup.FEDERATED, **{strategy: strategy for strategy in further}}
    means = {strategy: _estimates(panels, figures["mean"], model) for strategy, model in models.items()}
    others = sections.figures_table("Other figures of strategies, as means over hospitals", means, first="strategy")
    yield Section("Strategies", [compared, others])


def _curves_and_decisions(panels: Panels, scores: Scores, figures: Figures) -> Iterator[Section]:
    """Curves and confusion matrices of the federated models; of a label that is not binary, of the first repeat."""
    target = scores.target
    if target.has_threshold:
        yield from curves_and_decisions(scores, figures, panels.seed)
        return
    outputs = {name: model.outputs[0] for name, model in scores.models[TrainingSetup.FEDERATED].items()}
    groups = {name: target.group_scores(outputs[name], labels) for name, labels in scores.labels.items()}
    yield from panels.curves(groups)
    sums = {name: target.measure(outputs[name], labels, DEFAULT_THRESHOLD) for name, labels in scores.labels.items()}
    drawn, more = sections.largest_panels(sums, {name: part.examples for name, part in sums.items()})
    drawn[sections.ALL] = merge_counts(sums.values())
    caption = f"Held-out patients of the first repeat, by the federated models. {more}"
    yield from panels.decisions(drawn, caption.strip())


def _holdings(panels: Panels, cohort: Cohort, scores: Scores) -> Section:
    """Labels and missing values of every hospital."""
    columns = list(cohort.task.column_names)
    federated = scores.models[TrainingSetup.FEDERATED]
    sums = {
        name: scores.target.measure(federated[name].outputs[0], labels, DEFAULT_THRESHOLD)
        for name, labels in scores.labels.items()
    }
    return sections.holdings_section(
        cohort.task,
        panels.holdings(sums, "All patients."),
        {name: table[columns].isna().mean().tolist() for name, table in cohort.tables.items()},
        "All patients. A zero that stands for a missing value counts as missing.",
    )


def _importance(cohort: Cohort, protocol: EvaluationProtocol, results: Results) -> dict[str, float]:
    """Rise of a patient's mean loss by column, as mean over repeats; models of the first strategy only."""
    key = TrainingSetup.FEDERATED, protocol.strategies[0]
    federated = [result for fit, result in results.items() if (fit.setup, fit.subject) == key]
    sums = [np.array(values) for result in federated for values in result.importance.values()]
    patients = sum(len(result.scores[name]) for result in federated for name in result.importance)
    return dict(zip(cohort.task.column_names, (np.sum(sums, axis=0) / patients).tolist(), strict=True))


def _method(panels: Panels, protocol: EvaluationProtocol) -> Section:
    tuned = (
        f"Every model's number of rounds, up to {protocol.settings.rounds}, is chosen by {INNER_FOLDS}-fold "
        "cross-validation inside its training rows, by the lowest loss. All setups are tuned alike."
        if protocol.tune
        else "All models are trained with the settings below, which were chosen for federated runs."
    )
    whole = "rows of one patient" if panels.task.patient else "equal rows"
    stratified = ", stratified by class" if panels.target.has_classes else ""
    items = [
        f"{formatting.number_of(protocol.repeats, 'repeat')} of {protocol.folds}-fold cross-validation{stratified} "
        "within each hospital. All models of a fold share one split into training and held-out patients; "
        f"{whole} are never on both sides.",
        tuned,
        "The same apps and strategies train every model in process as over the network; own and pooled models are "
        "runs of one hospital.",
        "A repeat scores every patient once, by a model that was not trained on that patient. Each figure is computed "
        "on these concatenated scores, as the mean over repeats.",
        "There is no correction for multiple tests: of many hospitals without a difference, about 1 in 20 gains or "
        "loses by chance.",
    ]
    if panels.task.patient:
        items.append(
            "Figures count rows, of which a patient may have several; so do the numbers of patients in charts of "
            "labels and decisions. Intervals draw patients, each with all rows."
        )
    return Section("Methods", [items])
