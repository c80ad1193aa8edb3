"""The report of a study: the benefit of joining per hospital, and how the figures were obtained."""

from collections.abc import Iterator

import numpy as np

from federated_health.ml.metrics import DEFAULT_THRESHOLD, merge_counts
from federated_health.ml.verdicts import Interval
from federated_health.report import formatting, overview, sections
from federated_health.report.cells import Cell
from federated_health.report.charts import draw_intervals
from federated_health.report.checklist import OPEN, known_of_task, with_checklist
from federated_health.report.decision_curves import decision_sections
from federated_health.report.page import Block, Caution, Number, Numbers, Page, Picture, Section
from federated_health.report.panels import Panels, panels_of
from federated_health.report.sample_size import Sample, sample_size_sections
from federated_health.report.subgroups import subgroup_sections
from federated_health.studies.benefit.benefit_tables import (
    MEAN,
    NAMES,
    Figures,
    by_hospital,
    decisions_at_thresholds,
    difference_of,
    estimates_table,
    every_repeat,
    external_validation,
    figure_table,
    interval_of,
    means_table,
    models_of,
    recalibration,
    uncertainty,
)
from federated_health.studies.benefit.binary_charts import READING, curves_and_decisions
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import FEDERATED, OTHERS, OWN, Scores
from federated_health.studies.benefit.decision_curves import study_decision_curves
from federated_health.studies.benefit.journal import Results
from federated_health.studies.benefit.subgroups import EVERYONE
from federated_health.studies.benefit.training_setups import INNER_FOLDS, EvaluationProtocol, TrainingSetup
from federated_health.studies.study import describe_left_out

SETUPS = [
    "own patients only: a model trained on that hospital's patients alone",
    "federated: one model of all hospitals' training patients, whose records stay where they are",
    "pooled: one model of all training patients in one place, as if records could be shared",
    "external validation: the federated model of the other hospitals, tested on a hospital that it never saw, which "
    "is what a hospital gets if it does not join",
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
    page = Page(
        title=f"Benefit of joining: {cohort.task.name}",
        lead=f"What does each hospital gain by joining? The models estimate {panels.estimate} this: "
        f"{cohort.task.label.meaning}.",
        byline=[
            formatting.today(),
            formatting.number_of(len(hospitals), "hospital"),
            _number_of_patients(figures["all"]),
            f"{formatting.number_of(protocol.repeats, 'repeat')} of {protocol.folds}-fold cross-validation",
        ],
        summary=list(_overview(panels, figures)),
        sections=[
            _verdicts(panels, figures, cohort),
            _models(panels, figures),
            *([decisions_at_thresholds(figures, panels)] if panels.target.has_threshold else []),
            external_validation(figures, panels),
            *recalibration(figures, panels),
            *_strategies(panels, protocol, figures),
            *_curves_and_decisions(panels, scores, figures),
            *_decision_curves(scores),
            *subgroup_sections(cohort.task, figures, everyone=EVERYONE, patients="out-of-fold"),
            _holdings(panels, cohort, scores),
            sections.importance_section(
                _importance(cohort, protocol, results),
                "The federated models, on the held-out patients of each fold.",
                panels,
            ),
            *_sample_size(cohort, protocol, figures),
            _method(panels, protocol),
            uncertainty(figures, panels),
            every_repeat(figures, panels),
            Section("All other figures", [estimates_table(figures, panels, _reading(panels))], folded=True),
            sections.settings_section(
                protocol.settings,
                {**facts, **network.facts},
                leave_out=frozenset({"appraisal", "strategy"}) | network.unused_settings,
            ),
            sections.model_card(
                panels,
                list(hospitals),
                ["This study does not keep its models; server.py makes the one to use."],
                has_subgroups="subgroups" in figures,
            ),
        ],
    )
    return with_checklist(page, _known(cohort, protocol))


def _sample_size(cohort: Cohort, protocol: EvaluationProtocol, figures: Figures) -> Iterator[Section]:
    """The sample sizes of a binary label: a model is trained on all folds but one, and every row is tested."""
    entries = {**figures["hospitals"], EVERYONE: figures["all"]}
    samples = {
        name: Sample(
            train=entry["rows"] - -(-entry["rows"] // protocol.folds),
            test=entry["rows"],
            prevalence=entry["positives"] / entry["rows"],
        )
        for name, entry in entries.items()
        if 0 < entry.get("positives", 0) < entry["rows"]
    }
    roc_auc = figures["mean"]["models"].get(TrainingSetup.FEDERATED, {}).get("roc_auc", {}).get("value")
    yield from sample_size_sections(cohort.task, samples, roc_auc, everyone=EVERYONE)


def _known(cohort: Cohort, protocol: EvaluationProtocol) -> dict[str, str]:
    """What a study says of the items of TRIPOD+AI."""
    known = known_of_task(cohort.task)
    left_out = f"{known['11']}; {describe_left_out(cohort.left_out)}" if cohort.left_out else known["11"]
    return known | {
        "4": "comparison of ways to train a model, and its evaluation by cross-validation and at hospitals left out",
        "5a": f"one table per hospital, {formatting.list_some(cohort.tables, ', ')}. Where they come from is {OPEN}",
        "11": left_out,
        "12a": f"{formatting.number_of(protocol.repeats, 'repeat')} of {protocol.folds}-fold cross-validation within "
        "each hospital",
        "12d": "see How good the models are and External validation",
        "12e": "see Methods and Uncertainty",
        "12f": "see Recalibration",
        "18e": "the tables of all hospitals were collected in one place for this study",
        "23a": "see How good the models are and Subgroups",
        "23b": "see Benefit per hospital",
        "24": "see Recalibration",
    }


def _number_of_patients(entry: Figures) -> str:
    """How many patients there are, and how many rows if that is another number."""
    patients, rows = entry["patients"], entry["rows"]
    of_patients = formatting.number_of(patients, "patient")
    return of_patients if rows == patients else f"{formatting.number_of(rows, 'row')} of {of_patients}"


def _reading(panels: Panels) -> str:
    return f"{panels.explained} {READING}" if panels.target.has_threshold else panels.explained


def _overview(panels: Panels, figures: Figures) -> Iterator[Block]:
    """The answer at a glance."""
    hospitals = figures["hospitals"]
    yield overview.verdict_strip(hospitals)
    yield Numbers(list(_large_numbers(panels, figures)))
    yield from overview.forest(hospitals, {name: entry["patients"] for name, entry in hospitals.items()}, panels)


def _large_numbers(panels: Panels, figures: Figures) -> Iterator[Number]:
    """The figures by which models are compared, as means over hospitals, and that of the external validation."""
    mean, first = figures["mean"], panels.target.comparisons[0]

    def value_of(setup: TrainingSetup, name: str) -> str:
        return formatting.figure(interval_of(mean, setup, name).value)

    for name in panels.target.comparisons:
        difference = _signed(difference_of(mean, OWN, name))
        yield Number(
            name=f"{formatting.capitalise(panels.title(name))}, mean over hospitals",
            value=overview.name_of(value_of(FEDERATED, name), mean, panels, name),
            text=f"own models {value_of(OWN, name)}; {panels.difference(figure=name)} {difference}",
        )
    yield Number(
        name=f"{formatting.capitalise(panels.title(first))} in external validation",
        value=overview.name_of(value_of(TrainingSetup.LEAVE_ONE_OUT, first), mean, panels, first),
        text="mean over hospitals, each tested with the model of the others, which never saw it",
    )


def _decision_curves(scores: Scores) -> Iterator[Section]:
    """Net benefits of the federated and the own models, of the largest hospitals and of all together."""
    curves = study_decision_curves(scores)
    if not curves:
        return
    everyone = curves.pop(sections.ALL)
    drawn, which = sections.largest_panels(curves, {name: len(scores.labels[name]) for name in curves})
    patients = f"Out-of-fold risks of all repeats. {which}".strip()
    yield from decision_sections({**drawn, sections.ALL: everyone}, patients, sections.ALL)


def _verdicts(panels: Panels, figures: Figures, cohort: Cohort) -> Section:
    hospitals, mean, comparisons = figures["hospitals"], figures["mean"], panels.target.comparisons
    details = {name: f"{_number_of_patients(of)}{panels.describe_labels(of)}." for name, of in hospitals.items()}
    means = [
        f"{panels.difference('federated', 'own', name)} {panels.title(name)} {_signed(difference)}"
        for name in comparisons
        if (difference := difference_of(mean, OWN, name)).value is not None
    ]
    return Section(
        "Benefit per hospital",
        [
            f"Four training setups, each tested on held-out patients. {panels.compared_explained}",
            SETUPS,
            *overview.verdict_blocks(hospitals, panels, details),
            *([f"Means over hospitals: {'; '.join(means)}."] if means else []),
            *(_differences(name, panels, figures) for name in comparisons),
            panels.verdict_rule,
            *([Caution(f"{formatting.capitalise(describe_left_out(cohort.left_out))}.")] if cohort.left_out else []),
        ],
    )


def _differences(name: str, panels: Panels, figures: Figures) -> Picture:
    """How much better the federated model is than those of other setups, by one of the `comparisons`."""
    differences = {
        overview.name_of(hospital, entry, panels, name): {
            NAMES[setup]: difference_of(entry, setup, name) for setup in OTHERS
        }
        for hospital, entry in figures["hospitals"].items()
    }
    alt = formatting.list_some(
        f"{hospital}: {', '.join(f'{label} {_signed(interval)}' for label, interval in of.items())}"
        for hospital, of in differences.items()
    )
    title = formatting.capitalise(panels.title(name))
    direction = panels.difference("the federated model", "another", name)
    caption = f"{title}: {direction} on the same patients, with its {formatting.INTERVAL}."
    return Picture(
        svg=draw_intervals(differences, quantity=f"difference of {panels.title(name)}", reference=0.0),
        alt=f"{caption} {alt}.",
        caption=f"{caption} Right of 0 the federated model is better.",
        title=title,
    )


def _signed(interval: Interval) -> str:
    return formatting.with_interval(interval, signed=True)


def _models(panels: Panels, figures: Figures) -> Section:
    last = {MEAN: figures["mean"], sections.ALL: figures["all"]}
    blocks: list[Block] = []
    for name in panels.target.comparisons:
        intervals = {
            overview.name_of(hospital, entry, panels, name): {
                label: interval_of(entry, setup, name) for setup, label in models_of(figures).items()
            }
            for hospital, entry in {**figures["hospitals"], **last}.items()
        }
        title = formatting.capitalise(panels.title(name))
        blocks.append(
            Picture(
                svg=draw_intervals(intervals, quantity=panels.title(name), reference=None),
                alt=f"The same figures as in the table of {title} by hospital and model.",
                caption=f"{title} on held-out patients, with its {formatting.INTERVAL}.",
                title=title,
            )
        )
    blocks += [figure_table(name, figures, panels) for name in panels.target.comparisons]
    models = {label: model for model, label in models_of(figures).items()}
    return Section(
        "How good the models are",
        [
            *blocks,
            Caution(panels.pooled_explained),
            means_table(models, figures, panels, first="model", note=_reading(panels)),
        ],
    )


def _strategies(panels: Panels, protocol: EvaluationProtocol, figures: Figures) -> Iterator[Section]:
    """Further strategies compared with the first one; nothing if there are none."""
    first, *further = protocol.strategies
    if not further:
        return
    blocks: list[Block] = []
    for name in panels.target.comparisons:
        title = formatting.capitalise(panels.title(name))

        def row(entry: Figures, name: str = name) -> dict[str, Cell]:
            differences = {
                panels.difference(strategy, first, name): difference_of(entry, strategy, name) for strategy in further
            }
            return {first: interval_of(entry, FEDERATED, name), **differences}

        note = "Above 0 the further strategy is better. Not adjusted for the number of strategies or hospitals: by "
        note += "chance, about 1 in 20 strategies that make no difference has an interval without 0."
        blocks.append(
            by_hospital(
                f"{title} of {first}, and differences ({formatting.INTERVAL})", row, figures, panels, name, note=note
            )
        )
        corrected = {
            strategy: {
                panels.difference("it", first, name): difference_of(figures["mean"], strategy, name),
                "corrected": difference_of(figures["mean"], strategy, name, "corrected_differences"),
            }
            for strategy in further
        }
        blocks.append(
            sections.figures_table(
                f"{title}: mean difference over hospitals, over patients and corrected", corrected, first="strategy"
            )
        )
    models = {first: str(FEDERATED), **{strategy: strategy for strategy in further}}
    yield Section("Strategies", [*blocks, means_table(models, figures, panels, first="strategy")])


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
        "on these scores, as the mean over repeats.",
        *_of_pairs(panels),
        "Intervals are over patients: other patients of the same hospitals would have given other figures. They treat "
        "the fitted models and their folds as fixed. The corrected intervals of Nadeau and Bengio (2003) include the "
        "variation between training sets, as far as folds that share training patients show it.",
        "P-values of the verdicts are adjusted for the number of hospitals (Holm 1979), for each figure on its own. "
        "Intervals are not adjusted, and neither are comparisons of strategies.",
    ]
    if panels.task.patient:
        items.append(
            "Figures count rows, of which a patient may have several; so do the numbers of patients in charts of "
            "labels and decisions. Intervals take all rows of a patient together."
        )
    return Section("Methods", [items])


def _of_pairs(panels: Panels) -> Iterator[str]:
    if panels.target.has_classes:
        yield (
            "The ROC-AUC compares pairs of patients who were held out in the same fold and repeat only, each scored by "
            "one model. Models of different folds do not share an exact scale; over all pairs, the models of few "
            "patients, which differ most between folds, would look worse than they are."
        )
