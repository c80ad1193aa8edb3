"""The page of a study: is joining worth it, for whom, and how do we know."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from federated_health.curves import calibration_curve, roc_curve
from federated_health.evidence.cohort import Cohort
from federated_health.evidence.figures import PLAIN_FIGURES, Scores, count_verdicts
from federated_health.evidence.regimes import INNER_FOLDS, Protocol, Regime
from federated_health.evidence.study import Results
from federated_health.intervals import LEVEL, Interval, Resampled
from federated_health.metrics import count_outcomes, probability
from federated_health.report.charts import draw_intervals
from federated_health.report.page import Bullets, Cards, Caution, Page, Picture, Section, Table, Text
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

ALL = "all patients"
WORDS = {
    Regime.OWN: "own rows only",
    Regime.FEDERATED: "federated",
    Regime.POOLED: "pooled",
    Regime.WITHOUT: "without it",
}
BAND_DRAWS = 500
READING = (
    "Accuracy at each model's own threshold, at which F1 over its training rows is greatest. Ideal are a "
    "calibration slope of 1 and an intercept of 0; a slope below 1 means that risks are too extreme, an intercept "
    "above 0 that they are too low."
)


def page_of_study(
    cohort: Cohort, protocol: Protocol, results: Results, scores: Scores, figures: Mapping[str, Any]
) -> Page:
    """Everything that a study found, as a page.

    Args:
        figures: see `figures_of_study`.
    """
    hospitals = figures["hospitals"]
    counts = count_verdicts(figures)
    verdicts = ", ".join(f"{verdict}: {number}" for verdict, number in counts.items() if number)
    return Page(
        title="Is joining worth it?",
        lead=f"{cohort.task.name}: {len(hospitals)} hospitals, {figures['all']['patients']} patients. {verdicts}.",
        sections=(
            _answer(figures),
            _models(figures),
            *_strategies(protocol, figures),
            _curves(scores, protocol.settings.seed),
            _calibration(scores, figures),
            _confusion(scores),
            _holdings(cohort),
            which_columns(_importance(cohort, results), "Of the federated models, on the rows that each held out."),
            _method(protocol),
            Section(
                title="All other figures",
                blocks=(_other_figures("By hospital and model", {**hospitals, ALL: figures["all"]}),),
                folded=True,
            ),
            settings_section(
                protocol.settings,
                [
                    ("strategies", ", ".join(protocol.strategies)),
                    ("folds", str(protocol.folds)),
                    ("repeats", str(protocol.repeats)),
                    ("rounds chosen inside training rows", "yes" if protocol.tune else "no"),
                    ("schema", cohort.task.schema_hash),
                    *((f"SHA-256 of {name}'s rows", one) for name, one in cohort.hashes.items()),
                ],
            ),
            model_card(
                cohort.task, list(hospitals), ["This study's models are not kept; server.py makes the one to use."]
            ),
        ),
    )


def _interval(content: Mapping[str, Any]) -> Interval:
    return Interval(**content)


def _answer(figures: Mapping[str, Any]) -> Section:
    hospitals = figures["hospitals"]
    cards, differences = [], {}
    for name, one in hospitals.items():
        against = one["differences"]
        aucs = {way: one["models"][way]["roc_auc"]["value"] for way in (Regime.OWN, Regime.FEDERATED)}
        outside = with_interval(_interval(against["federated_minus_without"]), signed=True)
        words = (
            f"Against the federation without it: {outside}. {one['patients']} patients, {one['positives']} positive."
        )
        cards.append(
            verdict_card(
                name,
                _interval(against["federated_minus_own"]),
                aucs[Regime.OWN],
                aucs[Regime.FEDERATED],
                f"{words} {SMALL}" if one["small"] else words,
            )
        )
        differences[name] = {
            "federated minus own": _interval(against["federated_minus_own"]),
            "minus without it": _interval(against["federated_minus_without"]),
            "minus pooled": _interval(against["federated_minus_pooled"]),
        }
    mean = _interval(figures["mean"]["differences"]["federated_minus_own"])
    return Section(
        title="The answer, hospital by hospital",
        blocks=(
            Cards(items=tuple(cards)),
            Text(words=f"Mean over hospitals, federated minus own: {with_interval(mean, signed=True)}."),
            Picture(
                svg=draw_intervals(differences, quantity="difference of ROC-AUC", reference=0.0),
                alt="; ".join(
                    f"{name}, {what}: {with_interval(one, signed=True)}"
                    for name, group in differences.items()
                    for what, one in group.items()
                ),
                caption="Differences of ROC-AUC on each hospital's own patients, with 95 % intervals. Right of 0 the "
                "federated model is better.",
            ),
            Text(words=RULE),
        ),
    )


def _models(figures: Mapping[str, Any]) -> Section:
    rows = {**figures["hospitals"], "mean over hospitals": figures["mean"], ALL: figures["all"]}
    aucs = {
        name: {WORDS[regime]: _interval(one["models"][regime]["roc_auc"]) for regime in Regime}
        for name, one in rows.items()
    }
    return Section(
        title="How good the models are",
        blocks=(
            Bullets(
                items=(
                    "own rows only: a model of that hospital's training rows alone",
                    "federated: one model of all hospitals' training rows, which stay where they are",
                    "pooled: one model of all training rows in one place, as if records could be shared",
                    "without it: the federated model of the other hospitals, what a hospital gets that does not join",
                )
            ),
            Picture(
                svg=draw_intervals(aucs, quantity="ROC-AUC", reference=None),
                alt="The same figures as in the table of ROC-AUCs below.",
                caption=f"ROC-AUC of out-of-fold scores with {LEVEL:.0%} intervals.",
            ),
            figures_table(
                "ROC-AUC (95 % interval)",
                {name: [with_interval(one) for one in group.values()] for name, group in aucs.items()},
                [WORDS[regime] for regime in Regime],
            ),
            Caution(words=FLATTERS),
            _other_figures("Other figures, as means over hospitals", {"": figures["mean"]}),
        ),
    )


def _other_figures(caption: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """PLAIN_FIGURES of every way."""
    others = {
        f"{name}: {WORDS[regime]}" if name else WORDS[regime]: [
            figure(one["models"][regime][key]) for key in PLAIN_FIGURES
        ]
        for name, one in rows.items()
        for regime in Regime
    }
    return figures_table(caption, others, [title_of(key) for key in PLAIN_FIGURES], note=READING)


def _strategies(protocol: Protocol, figures: Mapping[str, Any]) -> Iterator[Section]:
    """What further strategies give, where there are any."""
    first, *further = protocol.strategies
    if not further:
        return
    rows = {**figures["hospitals"], "mean over hospitals": figures["mean"], ALL: figures["all"]}
    yield Section(
        title="Strategies",
        blocks=(
            figures_table(
                f"ROC-AUC; further strategies minus {first}, with 95 % interval",
                {
                    name: [
                        figure(one["models"][Regime.FEDERATED]["roc_auc"]["value"]),
                        *(
                            with_interval(_interval(one["differences"][f"{way}_minus_federated"]), signed=True)
                            for way in further
                        ),
                    ]
                    for name, one in rows.items()
                },
                [first, *further],
            ),
        ),
    )


def _curves(scores: Scores, seed: int) -> Section:
    curves = {}
    for place, (name, labels) in enumerate(scores.labels.items()):
        resampled = Resampled.of(labels, [seed, place], BAND_DRAWS)
        if resampled.is_defined:
            curves[name] = roc_curve(scores.ways[Regime.FEDERATED][name].log_odds, resampled)
    if not curves:
        return Section(title="ROC curves", blocks=(Text(words="No hospital has patients of both classes."),))
    return Section(
        title="ROC curves",
        blocks=(
            Picture(
                svg=draw_roc(curves),
                alt="At a false-positive rate of 10 %, the share of the positive that is found: "
                + ", ".join(f"{name} {np.interp(0.1, one.x, one.y):.0%}" for name, one in curves.items()),
                caption="The federated model on each hospital's patients, mean over repeats; pointwise 95 % bands.",
            ),
        ),
    )


def _calibration(scores: Scores, figures: Mapping[str, Any]) -> Section:
    curves = {}
    for name, labels in {**scores.labels, ALL: scores.all_labels}.items():
        of = scores.of_all(Regime.FEDERATED) if name == ALL else scores.ways[Regime.FEDERATED][name]
        risks = probability(of.log_odds)
        curves[name] = calibration_curve(
            risks.ravel(), np.tile(labels, len(risks)), np.full(risks.size, 1.0 / len(risks))
        )
    rows = {**figures["hospitals"], ALL: figures["all"]}
    slopes = [
        f"{name}: slope {figure(one['models'][Regime.FEDERATED]['calibration_slope'])}, intercept "
        f"{figure(one['models'][Regime.FEDERATED]['calibration_intercept'])}"
        for name, one in rows.items()
    ]
    return Section(
        title="Calibration",
        blocks=(
            Picture(
                svg=draw_calibration(curves),
                alt="; ".join(slopes),
                caption="The federated model: predicted risk against the share of patients who are positive, all "
                "repeats together, in bins of about equal size, with 95 % Wilson intervals. On the diagonal a risk "
                "means what it says.",
            ),
        ),
    )


def _confusion(scores: Scores) -> Section:
    matrices = {}
    for name, labels in scores.labels.items():
        one = scores.ways[Regime.FEDERATED][name]
        decided = probability(one.log_odds[0]) >= one.thresholds[0]  # each patient at the threshold of their own fold
        counts = count_outcomes(decided.astype(np.float64), labels)
        matrices[name] = counts.matrix
    return Section(
        title="Decisions at the threshold",
        blocks=(
            Picture(
                svg=draw_confusion(matrices),
                alt="; ".join(
                    f"{name}: {tn} true negatives, {fp} false positives, {fn} false negatives, {tp} true positives"
                    for name, (tn, fp, fn, tp) in matrices.items()
                ),
                caption="The federated models of the first repeat, each at its own threshold.",
            ),
        ),
    )


def _holdings(cohort: Cohort) -> Section:
    labels = {name: cohort.labels(name) for name in cohort.numbers}
    missing = [rows[list(cohort.task.column_names)].isna().mean().to_numpy() for rows in cohort.numbers.values()]
    return who_holds_what(
        cohort.task,
        {name: (int(one.sum()), int(len(one) - one.sum())) for name, one in labels.items()},
        np.array(missing),
        names=list(labels),
        of_labels="All patients.",
        of_missing="All patients; zeros that are read as missing are among them.",
    )


def _importance(cohort: Cohort, results: Results) -> dict[str, float]:
    """Mean over repeats of the rise of a patient's mean loss, by column."""
    sums = [np.array(one) for scored in results.values() for one in scored.importance.values()]
    patients = sum(len(scored.scores[name]) for scored in results.values() for name in scored.importance)
    return dict(zip(cohort.task.column_names, (np.sum(sums, axis=0) / patients).tolist(), strict=True))


def _method(protocol: Protocol) -> Section:
    tuned = (
        f"Every model's number of rounds, up to {protocol.settings.rounds}, is chosen by {INNER_FOLDS}-fold "
        "cross-validation inside the rows that it is trained on, by the least loss. All regimes are tuned alike."
        if protocol.tune
        else "All models are trained with the settings below; these were chosen for federations."
    )
    return Section(
        title="How this was found out",
        blocks=(
            Bullets(
                items=(
                    f"{protocol.repeats} times {protocol.folds}-fold cross-validation, stratified by class within each "
                    "hospital. All models of a fold are trained and tested on the same rows; equal rows are never on "
                    "both sides.",
                    tuned,
                    "Every model is fitted in process by the same apps and strategies as a federation over the "
                    "network; own and pooled models are federations of one.",
                    "A repeat scores every patient once, by a model that was not trained on that patient. The "
                    "ROC-AUC is that of these concatenated scores, and a figure is the mean over repeats.",
                    "Several hospitals are compared at once, without a correction for that: of many hospitals "
                    "without a difference, one in twenty would get a verdict by chance.",
                )
            ),
        ),
    )
