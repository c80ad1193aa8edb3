"""The page of a federation's run: drawn only from what hospitals released (see `messages`)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from federated_health.ml.bootstrap import SMALL_CLASS, Interval, Verdict
from federated_health.ml.metrics import THRESHOLD
from federated_health.ml.networks import weights_hash
from federated_health.names import FEDERATION
from federated_health.report.charts import draw_intervals, draw_learning_curves
from federated_health.report.formatting import (
    AUC,
    FLATTERS,
    INTERVAL,
    MEANINGS,
    RULE,
    figure,
    figures_table,
    list_some,
    list_verdicts,
    number_of,
    title_of,
    with_interval,
)
from federated_health.report.page import Block, Bullets, Caution, Page, Picture, Section, Text
from federated_health.report.released import privacy_of_run, released_by_hospitals
from federated_health.report.run_curves import columns_of_run, confusion_of_run, curves_of_run, holdings_of_run
from federated_health.report.sections import (
    FOOTER,
    model_card,
    settings_section,
    verdict_card,
    verdict_cards,
)
from federated_health.report.svg import MAX_ROWS
from federated_health.server.history import HospitalRound, Round
from federated_health.server.plain_run import PlainRun

ALSO_CALLED = (
    "Recall is also called sensitivity, and precision the positive predictive value; F1 is their harmonic mean."
)
FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "brier")


def page_of_run(
    federation: PlainRun,
    figures: Mapping[str, Any],
    rounds: Sequence[Round],
    *,
    stopped: bool,
    others: Mapping[str, str],
) -> Page:
    """Everything that the server knows of a run, as a page.

    Args:
        figures: see `PlainRun.evaluate_finally`.
        rounds: those that are finished, at least one.
        others: further facts to be shown beside the settings, such as hashes of files.
    """
    task = federation.settings.task_declaration
    hospitals = sorted({name for record in rounds for name, one in record.hospitals.items() if _trained(one)})
    together = f"{number_of(len(hospitals), 'hospital')}, {number_of(len(rounds), 'round')}"
    words = [
        f"Estimates the risk of this: {task.label.meaning}.",
        f"{together}, strategy {federation.settings.strategy}{', stopped before its last round' if stopped else ''}.",
    ]
    if joining := figures.get("joining"):
        verdicts = Counter(Verdict(one["verdict"]) for one in joining.values())
        words.append(f"Was joining worth it? {list_verdicts(verdicts)}")
    limits = [
        "One split of each hospital's patients into trained-on and held-out ones: another split gives other figures.",
        *(["The run was stopped before its last round."] if stopped else []),
    ]
    return Page(
        title=f"{task.name}: a model of {number_of(len(hospitals), 'hospital')}",
        lead=" ".join(words),
        sections=(
            _participants(federation, figures, rounds),
            *joining_section(figures),
            _quality(federation, figures, stopped=stopped),
            learning_section(rounds),
            *curves_of_run(federation),
            *confusion_of_run(federation, rounds[-1], stopped=stopped),
            *holdings_of_run(federation, figures),
            *columns_of_run(figures),
            *privacy_of_run(federation.privacy),
            released_by_hospitals(asked=federation.asks_benefit, private=federation.privacy is not None),
            settings_section(
                federation.settings,
                [
                    ("rounds that were finished", str(rounds[-1].number)),
                    ("threshold", str(federation.threshold)),
                    ("SHA-256 of the schema", task.schema_hash),
                    ("SHA-256 of the weights", weights_hash(federation.weights)),
                    *others.items(),
                ],
            ),
            model_card(task, hospitals, limits),
        ),
        footer=FOOTER,
    )


def _participants(federation: PlainRun, figures: Mapping[str, Any], rounds: Sequence[Round]) -> Section:
    introduced = sorted(federation.registrations.values(), key=lambda one: one.name)
    rows = {
        one.name: [
            str(one.train_examples),
            str(one.test_examples),
            str(sum(one.name in record.hospitals and _trained(record.hospitals[one.name]) for record in rounds)),
        ]
        for one in introduced
    }
    blocks: list[Block] = [
        figures_table("Patients of each hospital", rows, ["trained on", "held out", "rounds trained in"])
    ]
    if gone := [name for name in rows if name not in figures["hospitals"]]:
        blocks.append(Text(words=f"Gave no figures of the last model: {list_some(gone, ', ')}."))
    if "joining" not in figures:
        why = "no hospital was asked, or none could answer"
        if federation.privacy is not None:
            why = "differential privacy leaves no room for the comparison"
        blocks.append(Text(words=f"What joining gave them is not known: {why}."))
    if faults := federation.problems.describe():
        more = [f"and {len(faults) - MAX_ROWS:,} more lines, in metrics.json"] if len(faults) > MAX_ROWS else []
        blocks += [
            Text(words="What did not go as it should:"),
            Bullets(items=(*faults[:MAX_ROWS], *more)),
        ]
    return Section(title="Who took part", blocks=tuple(blocks))


def _trained(one: HospitalRound) -> bool:
    return one.train_examples > 0


def joining_section(figures: Mapping[str, Any]) -> Iterator[Section]:
    """What joining gave hospitals, where they were asked (see `summaries.summarise_benefits`)."""
    joining = figures.get("joining")
    if not joining:
        return
    cards = [
        verdict_card(
            name,
            one["verdict"],
            Interval(**one["difference"]),
            (one["roc_auc"]["value"], one["own_roc_auc"]),
            small=one["small"],
        )
        for name, one in joining.items()
    ]
    blocks: list[Block] = [
        Text(
            words="Each hospital also trained a model of its own patients alone, with the same settings, and compared "
            f"the two on its held-out patients. {AUC}"
        ),
        *verdict_cards(cards),
        *_intervals(
            {name: Interval(**one["difference"]) for name, one in joining.items()},
            "federated minus own",
            "difference of ROC-AUC",
            "Right of 0 the federated model is better.",
        ),
        Text(words=RULE),
        Caution(
            words="One split of few patients says little: expect wide intervals. Where rows may be in one place, "
            "the command python -m federated_health evidence tests every patient, several times."
        ),
    ]
    yield Section(title="Was joining worth it?", blocks=tuple(blocks))


def _intervals(of: Mapping[str, Interval], what: str, quantity: str, words: str = "") -> Iterator[Picture]:
    """A row a hospital, if one has the figure; of many the first few."""
    if any(one.value is not None for one in of.values()):
        caption = (
            f"{quantity[0].upper()}{quantity[1:]}, {what}, on each hospital's held-out patients, with its {INTERVAL}."
        )
        figures = (f"{name} {with_interval(one, signed=quantity != 'ROC-AUC')}" for name, one in of.items())
        yield Picture(
            svg=draw_intervals(
                {what: dict(list(of.items())[:MAX_ROWS])},
                quantity=quantity,
                reference=None if quantity == "ROC-AUC" else 0.0,
            ),
            alt=f"{caption} {list_some(figures)}.",
            caption=f"{caption} {words}".strip(),
        )


def _quality(federation: PlainRun, figures: Mapping[str, Any], *, stopped: bool) -> Section:
    title = "How good the model is"
    rows = {name: [figure(one[key]) for key in FIGURES] for name, one in figures["hospitals"].items()}
    if not rows:
        return Section(title=title, blocks=(Text(words="No hospital evaluated the model: there are no figures."),))
    whole, threshold = figures["federation"], federation.threshold
    chosen = "" if threshold == THRESHOLD else ", at which F1 over all training rows is greatest"
    few = [name for name, one in federation.evaluations.items() if one.counts.rarer_class < SMALL_CLASS]
    words = f"Fewer than {SMALL_CLASS} patients of one class, so that ROC-AUC says little: {list_some(few, ', ')}. "
    little = words if few else ""
    early = "The run was stopped before hospitals computed ROC-AUCs. " if stopped else ""
    blocks: list[Block] = [
        figures_table(
            f"Figures on held-out patients{', after the last finished round' if stopped else ''}",
            rows,
            [title_of(key) for key in FIGURES],
            last={
                FEDERATION: [figure(whole[key]) for key in FIGURES],
                "hospital mean": [figure(whole["mean_roc_auc"]) if key == "roc_auc" else "" for key in FIGURES],
            },
            note=f"{early}{little}Predicted positive: a risk of at least {threshold}{chosen}. {MEANINGS} {ALSO_CALLED}",
        ),
        *_intervals(
            {name: Interval(**one["roc_auc"]) for name, one in figures.get("joining", {}).items()},
            "federated model",
            "ROC-AUC",
        ),
    ]
    if whole["roc_auc"] is not None:
        blocks.append(Caution(words=FLATTERS))
    return Section(title=title, blocks=tuple(blocks))


def learning_section(rounds: Sequence[Round]) -> Section:
    """Losses of every round."""
    names = sorted({name for record in rounds for name in record.hospitals})
    parts = [{**record.hospitals, FEDERATION: record.federation} for record in rounds]
    ways = {
        name: [part.get(name) for part in parts]  # None where it did not answer
        for name in [*names, FEDERATION]
    }
    tested = {name: [one.counts.loss if one and one.counts else None for one in way] for name, way in ways.items()}
    trained = {name: [one.train_loss if one else None for one in way] for name, way in ways.items()}
    numbers = [record.number for record in rounds]
    return Section(
        title="Learning curves",
        blocks=tuple(
            Picture(
                svg=draw_learning_curves(series, quantity=f"{what}, nats", rounds=numbers),
                alt=f"{what[0].upper()}{what[1:]} after the last round: "
                f"{list_some((f'{name} {figure(values[-1])}' for name, values in series.items()), ', ')}.",
                caption=caption,
            )
            for series, what, caption in (
                (
                    tested,
                    "loss on held-out patients",
                    "Mean loss (binary cross-entropy) on held-out patients after each round. Lower is better; a risk "
                    "of 50 % for everybody gives 0.693. A gap: the hospital did not answer.",
                ),
                (
                    trained,
                    "loss on training patients",
                    "The same on training patients, while each hospital trained and before the weights were averaged. "
                    "Where this falls and the loss above rises, more rounds harm.",
                ),
            )
            if any(value is not None for values in series.values() for value in values)
        ),
    )
