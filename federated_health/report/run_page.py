"""The page of a run: of a server, or of one hospital, which sees less. Sections with charts are in run_charts.py."""

from collections import Counter
from collections.abc import Iterator, Mapping

from federated_health.data.tasks import get_task
from federated_health.ml import load_privacy_plan
from federated_health.ml.metrics import MIN_CELL_SIZE, SMALL_CLASS, THRESHOLD, Interval, Verdict
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.names import FEDERATION
from federated_health.report import run_charts, sections
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
from federated_health.report.page import Block, Bullets, Caution, Page, Picture, Section, Text
from federated_health.report.run_files import RunSummary

FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "brier")
_ALIASES = "Recall is also called sensitivity, and precision the positive predictive value; F1 is their harmonic mean."


def page_of_run(run: RunSummary) -> Page:
    """Everything that the writer of the page knows of a run."""
    task = get_task(run.config.task)
    model = f"a model of {number_of(run.hospital_count, 'hospital')}"
    title = model if run.hospital_count else f"{run.hospital} in a federation"
    return Page(
        title=f"{task.name}: {title}",
        lead=_lead(run),
        sections=(
            *_participants(run),
            *_benefit(run),
            _quality(run),
            *run_charts.learning_curves(run),
            *run_charts.curves_of_run(run),
            *run_charts.confusion_of_run(run),
            *run_charts.holdings_of_run(run),
            *run_charts.importance_of_run(run),
            *_privacy(run),
            _sent_by_hospitals(run),
            *_settings(run),
            _limits(run),
        ),
        footer=sections.FOOTER,
    )


def _lead(run: RunSummary) -> str:
    parts = [number_of(run.hospital_count, "hospital")] if run.hospital_count else []
    parts += [number_of(run.config.rounds, "round"), f"strategy {run.config.strategy}"]
    parts += ["stopped before its last round"] if run.stopped else []
    qualifier = ""
    if run.encrypted:
        qualifier = "; averaged while encrypted, so that the server could read neither updates nor figures"
    elif run.hospital:
        qualifier = ", with differential privacy"
    lead = f"Estimates the risk of: {get_task(run.config.task).label.meaning}. {', '.join(parts)}{qualifier}."
    if not run.hospital and (benefits := run.figures.get("joining")):
        verdicts = Counter(Verdict(benefit["verdict"]) for benefit in benefits.values())
        lead += f" Was joining worth it? {list_verdicts(verdicts)}"
    return lead


def _participants(run: RunSummary) -> Iterator[Section]:
    if not run.registrations:
        return
    columns = ["trained on", "held out", "rounds trained in"]
    rows = {
        name: [str(registration.train_examples), str(registration.test_examples), str(run.rounds_trained[name])]
        for name, registration in sorted(run.registrations.items())
    }
    blocks: list[Block] = [sections.figures_table("Patients of each hospital", rows, columns)]
    if missing := [name for name in rows if name not in run.figures["hospitals"]]:
        blocks.append(Text(f"No figures of the final model: {list_some(missing, ', ')}."))
    if "joining" not in run.figures:
        private = "differential privacy leaves no budget for the comparison"
        reason = private if run.config.privacy else "no hospital was asked, or none could answer"
        blocks.append(Text(f"The benefit of joining is not known: {reason}."))
    if run.problems:
        more = len(run.problems) - MAX_ROWS
        others = [f"and {more:,} more lines, in metrics.json"] if more > 0 else []
        blocks += [Text("Problems in this run:"), Bullets((*run.problems[:MAX_ROWS], *others))]
    yield Section(title="Participants", blocks=tuple(blocks))


def _benefit(run: RunSummary) -> Iterator[Section]:
    """The benefit of joining per hospital that answered; nothing if hospitals were not asked."""
    benefits = run.figures.get("joining")
    if not benefits:
        return
    differences = {name: Interval(**benefit["difference"]) for name, benefit in benefits.items()}
    cards = []
    for name, benefit in benefits.items():
        aucs = benefit["roc_auc"]["value"], benefit["own_roc_auc"]
        small = benefit["small"]
        cards.append(sections.verdict_card(name, benefit["verdict"], differences[name], aucs, small=small))
    blocks = (
        Text(
            "Each hospital also trained a model of its own patients alone, with the same settings, and compared the "
            f"two on its held-out patients. {sections.AUC}"
        ),
        *sections.verdict_cards(cards),
        *_intervals(differences, "federated minus own", "difference of ROC-AUC", reference=0.0),
        Text(sections.VERDICT_RULE),
        Caution(
            "One split of few patients gives wide intervals. If rows may be in one place, the command "
            "python -m federated_health evidence tests every patient, several times."
        ),
    )
    yield Section(title="Was joining worth it?", blocks=blocks)


def _intervals(
    intervals: Mapping[str, Interval], model: str, quantity: str, *, reference: float | None = None
) -> Iterator[Picture]:
    """One row per hospital, for the first MAX_ROWS; nothing if the figure is not defined for any hospital."""
    if all(interval.value is None for interval in intervals.values()):
        return
    title = f"{quantity[0].upper()}{quantity[1:]}"
    caption = f"{title}, {model}, on each hospital's held-out patients, with its {INTERVAL}."
    signed = reference is not None
    figures = list_some(f"{name} {with_interval(interval, signed=signed)}" for name, interval in intervals.items())
    shown = {model: dict(list(intervals.items())[:MAX_ROWS])}
    yield Picture(
        svg=draw_intervals(shown, quantity=quantity, reference=reference),
        alt=f"{caption} {figures}.",
        caption=f"{caption} Right of 0 the federated model is better." if signed else caption,
    )


def _quality(run: RunSummary) -> Section:
    title = "How good the model is"
    rows = {name: [figure(row.get(key)) for key in FIGURES] for name, row in run.figures["hospitals"].items()}
    if not rows:
        return Section(title=title, blocks=(Text("No hospital evaluated the model: there are no figures."),))
    federation, threshold = run.figures["federation"], run.config.threshold
    last = {}
    if federation is not None:
        last[FEDERATION] = [figure(federation[key]) for key in FIGURES]
        last["hospital mean"] = [figure(federation["mean_roc_auc"]) if key == "roc_auc" else "" for key in FIGURES]
    notes = ["The run was stopped before hospitals computed ROC-AUCs."] if run.stopped else []
    if few := [name for name, row in run.evaluations.items() if row.counts.rarer_class < SMALL_CLASS]:
        noisy = f"Fewer than {SMALL_CLASS} patients of one class, so that ROC-AUC is too noisy to interpret"
        notes.append(f"{noisy}: {list_some(few, ', ')}.")
    chosen = "" if threshold == THRESHOLD else ", which gives the greatest F1 on all training rows"
    notes += [f"Predicted positive: a risk of at least {threshold}{chosen}.", sections.FIGURES_EXPLAINED, _ALIASES]
    caption = f"Figures on held-out patients{', after the last finished round' if run.stopped else ''}"
    columns = [title_of(key) for key in FIGURES]
    blocks: list[Block] = [sections.figures_table(caption, rows, columns, last=last, note=" ".join(notes))]
    if not run.hospital:
        aucs = {name: Interval(**benefit["roc_auc"]) for name, benefit in run.figures.get("joining", {}).items()}
        blocks += _intervals(aucs, "federated model", "ROC-AUC")
        if federation["roc_auc"] is not None:
            blocks.append(Caution(sections.POOLED_AUC))
    return Section(title=title, blocks=tuple(blocks))


def _privacy(run: RunSummary) -> Iterator[Section]:
    """What was promised to each training patient, and how; nothing without differential privacy."""
    plan = run.config.privacy
    if plan is None:
        return
    items = (
        f"{number_of(plan.steps, 'step')} per round: in each step a patient takes part with probability "
        f"{plan.sampling_rate:g}, its gradient is clipped to an L2 norm of {plan.clip:g}, and the hospital adds "
        f"Gaussian noise of {plan.noise_multiplier:g} times that to their sum.",
        f"The noise is enough for {plan.rounds} rounds, which each hospital counts on its own disk: a repeated round "
        "counts again.",
        "Columns are scaled by the ranges that the task declares. No sums, training losses, training scores or "
        "comparisons with a hospital's own model were released, so the threshold is 0.5.",
        *([f"This hospital's own account: {run.privacy_spent}."] if run.privacy_spent else []),
    )
    promise = Text(
        f"Every hospital trained with ({plan.epsilon:g}, {plan.delta:g})-differential privacy of its training "
        f"patients, over the whole run: {load_privacy_plan().PROMISE}."
    )
    exact = Caution("Figures on held-out patients, above, are exact: differential privacy does not protect these.")
    yield Section(title="Differential privacy", blocks=(promise, Bullets(items), exact))


def _sent_by_hospitals(run: RunSummary) -> Section:
    """A summary for readers who must know what left the hospitals; `messages` has the exact list."""
    private = run.config.privacy is not None
    if run.encrypted:
        sums, weights = ("", "noisy weights") if private else ("sums of its columns, ", "weights")
        losses = "sums of their losses" if private else "sums of losses"
        items = [
            "At registration: its name, the columns that it expects, the numbers of its training and held-out "
            "patients, and its certificate.",
            f"Encrypted, so that the server could only add them: {sums}its model's {weights} in every round, counts "
            f"{'of held-out patients ' if private else ''}and {losses}, and at the end numbers of "
            f"{'the same' if private else 'patients'} by score.",
            "The key, to the other hospitals alone, each time sealed for one of them and signed.",
        ]
        source = "What was decrypted stayed at the hospitals, and this page is drawn from it."
    else:
        sums = (
            "; for each measurement the number of training patients who have it, and the sum and the sum of squares of "
            f"its values (nothing if fewer than {MIN_OBSERVED} have it)"
        )
        items = [
            "At registration: its name, the columns that it expects, the numbers of its training and held-out patients"
            f"{'' if private else sums}.",
            f"In each round: its model's {'noisy weights' if private else 'weights and mean training loss'}; the "
            "numbers of held-out patients predicted correctly and wrongly in either class, and the sums of their "
            "losses.",
            f"At the end: the same counts, its ROC-AUC, and its scores of {'' if private else 'training and of '}"
            f"held-out patients as cells of at least {MIN_CELL_SIZE} patients of a class, each with their number, and "
            "mean and deviation of the scores.",
        ]
        if run.settings is not None and run.settings.appraisal and not private:
            items.append(
                "At the end: the benefit of joining, how much each column matters on its held-out patients, and the "
                "number of training patients who have each column."
            )
        source = "This page is drawn from what stayed here, too." if run.hospital else "This page uses nothing else."
    summary = Text(f"No patient's record left a hospital. {source}")
    return Section(title="What each hospital sent", blocks=(Bullets(tuple(items)), summary))


def _settings(run: RunSummary) -> Iterator[Section]:
    if run.settings is not None:
        config = run.config
        facts = [("rounds that were finished", str(config.rounds)), ("threshold", str(config.threshold))]
        facts += [("SHA-256 of the schema", config.schema), *run.facts.items()]
        yield sections.settings_section(run.settings, facts)


def _limits(run: RunSummary) -> Section:
    split = "One split of each hospital's patients into training and held-out patients"
    limits = [f"{split}: another split gives other figures."]
    hospitals = sorted(run.rounds_trained)
    if run.hospital:
        others = number_of(run.hospitals - 1, "other hospital") if run.hospitals else "others"
        hospitals = [f"{run.hospital} and {others}"]
        separate = "no hospital's own figures were sent to another"
        why = separate if run.encrypted else "the server has the report of all hospitals"
        limits.append(f"This page shows what {run.hospital} may see: {why}.")
    if run.stopped:
        limits.append("The run was stopped before its last round.")
    if run.settings is None:
        limits += [f"{name}: {value}" for name, value in run.facts.items()]
    return sections.model_card(get_task(run.config.task), hospitals, limits)
