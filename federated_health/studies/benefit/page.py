"""The page of a study: is joining worth it, for whom, and how do we know."""

from collections.abc import Iterator, Mapping
from typing import Any

from federated_health.ml.metrics import Interval
from federated_health.report.charts import draw_intervals
from federated_health.report.formatting import (
    INTERVAL,
    MAX_ROWS,
    figure,
    list_some,
    list_verdicts,
    number_of,
    title_of,
    with_interval,
)
from federated_health.report.page import Block, Bullets, Caution, Page, Picture, Section, Table, Text
from federated_health.report.sections import (
    ALL,
    AUC,
    FIGURES_EXPLAINED,
    FOOTER,
    POOLED_AUC,
    VERDICT_RULE,
    figures_table,
    importance_section,
    model_card,
    settings_section,
    verdict_card,
    verdict_cards,
)
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.figures import PLAIN_FIGURES, Scores, count_verdicts
from federated_health.studies.benefit.pictures import (
    calibration_of_study,
    confusion_of_study,
    holdings_of_study,
    importance_of_study,
    roc_of_study,
)
from federated_health.studies.benefit.study import Results
from federated_health.studies.benefit.training_setups import INNER_FOLDS, Protocol, TrainingSetup

MEAN = "mean over hospitals"
WORDS = {
    TrainingSetup.OWN: "own patients only",
    TrainingSetup.FEDERATED: "federated",
    TrainingSetup.POOLED: "pooled",
    TrainingSetup.WITHOUT: "without it",
}
MEANING_OF = (
    "own patients only: a model of that hospital's training patients alone",
    "federated: one model of all hospitals' training patients, whose records stay where they are",
    "pooled: one model of all training patients in one place, as if records could be shared",
    "without it: the federated model of the other hospitals, which is what a hospital gets that does not join",
)
READING = (
    f"{FIGURES_EXPLAINED} Accuracy is at each model's own threshold, at which F1 over its training rows is greatest. "
    "Average precision: mean precision over all thresholds. Ideal are a calibration slope of 1 and an intercept of 0; "
    "a slope below 1 means that risks are too extreme, an intercept above 0 that they are too low."
)


def page_of_study(
    cohort: Cohort, protocol: Protocol, results: Results, scores: Scores, figures: Mapping[str, Any]
) -> Page:
    """Everything that a study found, as a page.

    Args:
        figures: see `figures_of_study`.
    """
    hospitals = figures["hospitals"]
    words = [
        list_verdicts(count_verdicts(figures)),
        f"{number_of(figures['all']['patients'], 'patient')}; the models estimate the risk of this: "
        f"{cohort.task.label.meaning}.",
    ]
    return Page(
        title=f"Is joining worth it? {cohort.task.name}",
        lead=" ".join(words),
        sections=(
            _answer(figures),
            _models(figures),
            *_strategies(protocol, figures),
            roc_of_study(scores, protocol.settings.seed),
            calibration_of_study(scores, figures),
            confusion_of_study(scores),
            holdings_of_study(cohort),
            importance_section(
                importance_of_study(cohort, protocol, results),
                "The federated models, on the patients that each held out.",
            ),
            _method(protocol),
            Section(
                title="All other figures",
                blocks=(_other_figures("By hospital and model", hospitals, {ALL: figures["all"]}),),
                folded=True,
            ),
            settings_section(
                protocol.settings,
                [
                    ("strategies", ", ".join(protocol.strategies)),
                    ("folds", str(protocol.folds)),
                    ("repeats", str(protocol.repeats)),
                    ("rounds chosen inside training rows", "yes" if protocol.tune else "no"),
                    ("SHA-256 of the schema", cohort.task.schema_hash),
                    *_hashes(cohort),
                ],
                leave_out=frozenset({"appraisal", "strategy"}),
            ),
            model_card(
                cohort.task, list(hospitals), ["This study's models are not kept; server.py makes the one to use."]
            ),
        ),
        footer=FOOTER,
    )


def _hashes(cohort: Cohort) -> list[tuple[str, str]]:
    shown = [(f"SHA-256 of {name}'s CSV", one) for name, one in list(cohort.hashes.items())[:MAX_ROWS]]
    more = len(cohort.hashes) - MAX_ROWS
    return shown + ([("further hospitals", f"{more:,}; their hashes are in evidence.json")] if more > 0 else [])


def _interval(content: Mapping[str, Any]) -> Interval:
    return Interval(**content)


def _answer(figures: Mapping[str, Any]) -> Section:
    hospitals = figures["hospitals"]
    cards, differences = [], {}
    for name, one in hospitals.items():
        against = {key: _interval(of) for key, of in one["differences"].items()}
        outside = against["federated_minus_without"]
        words = f"Federated minus the federation without it: {with_interval(outside, signed=True)}. "
        cards.append(
            verdict_card(
                name,
                one["verdict"],
                against["federated_minus_own"],
                (_auc(one, TrainingSetup.FEDERATED).value, _auc(one, TrainingSetup.OWN).value),
                small=one["small"],
                words=f"{'' if outside.value is None else words}{number_of(one['patients'], 'patient')}, "
                f"{one['positives']:,} positive.",
            )
        )
        differences[name] = {
            "minus own only": against["federated_minus_own"],
            "minus without it": against["federated_minus_without"],
            "minus pooled": against["federated_minus_pooled"],
        }
    mean = _interval(figures["mean"]["differences"]["federated_minus_own"])
    parts = (
        f"{name}: {', '.join(f'{what} {with_interval(one, signed=True)}' for what, one in group.items())}"
        for name, group in differences.items()
    )
    caption = f"ROC-AUC of the federated model minus that of another on the same patients, with its {INTERVAL}."
    blocks: list[Block] = [
        Text(words=f"Four ways to a model, each tested on patients that it was not trained on. {AUC}"),
        Bullets(items=MEANING_OF),
        *verdict_cards(cards),
    ]
    if mean.value is not None:
        words = f"Mean over hospitals, federated minus own patients only: {with_interval(mean, signed=True)}."
        blocks.append(Text(words=words))
    blocks += [
        Picture(
            svg=draw_intervals(differences, quantity="federated minus another: ROC-AUC", reference=0.0),
            alt=f"{caption} {list_some(parts)}.",
            caption=f"{caption} Right of 0 the federated model is better.",
        ),
        Text(words=VERDICT_RULE),
    ]
    return Section(title="The answer, hospital by hospital", blocks=tuple(blocks))


def _signed(difference: Mapping[str, Any]) -> str:
    return with_interval(_interval(difference), signed=True)


def _auc(one: Mapping[str, Any], way: str) -> Interval:
    return _interval(one["models"][way]["roc_auc"])


def _models(figures: Mapping[str, Any]) -> Section:
    together = {MEAN: figures["mean"], ALL: figures["all"]}
    hospitals, last = (
        {name: {WORDS[regime]: _auc(one, regime) for regime in TrainingSetup} for name, one in rows.items()}
        for rows in (figures["hospitals"], together)
    )
    cells, ends = (
        {name: [with_interval(one) for one in group.values()] for name, group in rows.items()}
        for rows in (hospitals, last)
    )
    return Section(
        title="How good the models are",
        blocks=(
            Picture(
                svg=draw_intervals({**hospitals, **last}, quantity="ROC-AUC", reference=None),
                alt="The same figures as in the table of ROC-AUCs below.",
                caption=f"ROC-AUC on patients whom the model was not trained on, with its {INTERVAL}.",
            ),
            figures_table(f"ROC-AUC ({INTERVAL})", cells, [WORDS[regime] for regime in TrainingSetup], last=ends),
            Caution(words=POOLED_AUC),
            _other_figures("Other figures, as means over hospitals", {"": figures["mean"]}),
        ),
    )


def _other_figures(
    caption: str, rows: Mapping[str, Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]] | None = None
) -> Table:
    """PLAIN_FIGURES of every regime."""
    cells, ends = (
        {
            f"{name}: {WORDS[regime]}" if name else WORDS[regime]: _plain_cells(one, regime)
            for name, one in part.items()
            for regime in TrainingSetup
        }
        for part in (rows, last or {})
    )
    first = "hospital and model" if last else "model"
    return figures_table(caption, cells, [title_of(key) for key in PLAIN_FIGURES], last=ends, note=READING, first=first)


def _plain_cells(one: Mapping[str, Any], way: str) -> list[str]:
    return [figure(one["models"][way][key]) for key in PLAIN_FIGURES]


def _strategies(protocol: Protocol, figures: Mapping[str, Any]) -> Iterator[Section]:
    """What further strategies give, where there are any."""
    first, *further = protocol.strategies
    if not further:
        return
    cells, ends = (
        {
            name: [
                figure(_auc(one, TrainingSetup.FEDERATED).value),
                *(_signed(one["differences"][f"{way}_minus_federated"]) for way in further),
            ]
            for name, one in rows.items()
        }
        for rows in (figures["hospitals"], {MEAN: figures["mean"], ALL: figures["all"]})
    )
    means = {first: _plain_cells(figures["mean"], TrainingSetup.FEDERATED)}
    means |= {way: _plain_cells(figures["mean"], way) for way in further}
    yield Section(
        title="Strategies",
        blocks=(
            figures_table(
                f"ROC-AUC of {first}, and what other strategies give more or less ({INTERVAL})",
                cells,
                [first, *(f"{way} minus {first}" for way in further)],
                last=ends,
                note="Of twenty strategies that are no different, one has an interval beside 0 by chance.",
            ),
            figures_table(
                "Other figures of strategies, as means over hospitals",
                means,
                [title_of(key) for key in PLAIN_FIGURES],
                first="strategy",
            ),
        ),
    )


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
                    f"{number_of(protocol.repeats, 'repeat')} of {protocol.folds}-fold cross-validation, stratified by "
                    "class within each hospital. All models of a fold are trained and tested on the same rows; equal "
                    "rows are never on both sides.",
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
