"""The page of a run, for the server or for one hospital, which sees less. run_charts.py has the charts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from federated_health.files import hash_file
from federated_health.messages.content import TrainConfig
from federated_health.ml import load_privacy_plan
from federated_health.ml.metrics import (
    DEFAULT_THRESHOLD,
    MIN_CELL_SIZE,
    SMALL_CLASS,
    Interval,
    describe_small_in_mean,
    figure_title,
)
from federated_health.ml.networks import Weights, weights_hash
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.names import FEDERATION, MODEL
from federated_health.report import run_charts, sections
from federated_health.report.charts import draw_intervals
from federated_health.report.formatting import (
    INTERVAL,
    MAX_ROWS,
    figure,
    first_of,
    list_some,
    list_verdicts,
    number_of,
    with_interval,
)
from federated_health.report.page import Block, Caution, Page, Picture, Section, write_report
from federated_health.report.run_summary import RunSummary

FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "brier")
_ALIASES = "Recall is also called sensitivity, and precision the positive predictive value; F1 is their harmonic mean."


def metrics_of(config: TrainConfig, *, stopped: bool) -> dict[str, Any]:
    """The entries of metrics.json that describe how a model was trained, and whether its run was stopped."""
    keys = ("task", "strategy", "strategy_args", "rounds", "seed", "threshold")
    entries: dict[str, Any] = {key: getattr(config, key) for key in keys}
    entries |= {"model": config.network.model, "network": config.network.to_config()}
    entries |= {"stopped": True} if stopped else {}
    return entries | ({"privacy": config.privacy.to_json()} if config.privacy else {})


def hashes_of_model(model: Path, weights: Weights) -> dict[str, str]:
    """Facts of a run's page that identify its saved model."""
    return {"SHA-256 of the weights": weights_hash(weights), f"SHA-256 of {MODEL}": hash_file(model)}


def write_run_report(path: Path, run: RunSummary) -> None:
    """Write the page of a run, as `write_report` does."""
    write_report(path, lambda: page_of_run(run))


def page_of_run(run: RunSummary) -> Page:
    """A page with everything that its writer knows of a run."""
    model = f"a model of {number_of(run.hospital_count, 'hospital')}"
    title = model if run.hospital_count else f"{run.hospital} in a federation"
    return Page(
        title=f"{run.task.name}: {title}",
        lead=_lead(run),
        sections=[
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
        ],
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
    lead = f"Estimates the risk of: {run.task.label.meaning}. {', '.join(parts)}{qualifier}."
    if not run.hospital and (benefits := run.figures.get("joining")):
        lead += f" Benefit of joining: {list_verdicts(benefit['verdict'] for benefit in benefits.values())}"
    return lead


def _participants(run: RunSummary) -> Iterator[Section]:
    if not run.registrations:
        return
    rows = {
        name: {
            "training patients": str(registration.train_examples),
            "held-out patients": str(registration.test_examples),
            "rounds trained": str(run.rounds_trained[name]),
        }
        for name, registration in sorted(run.registrations.items())
    }
    blocks: list[Block] = [sections.figures_table("Patients of each hospital", rows)]
    if missing := [name for name in rows if name not in run.figures["hospitals"]]:
        blocks.append(f"No figures of the final model: {list_some(missing, ', ')}.")
    if "joining" not in run.figures:
        private = "differential privacy leaves no budget for the comparison"
        reason = private if run.config.privacy else "no hospital was asked for it, or none could compute it"
        blocks.append(f"The benefit of joining is not known: {reason}.")
    if run.problems:
        more = len(run.problems) - MAX_ROWS
        others = [f"and {more:,} more lines, in metrics.json"] if more > 0 else []
        blocks += ["Problems in this run:", [*run.problems[:MAX_ROWS], *others]]
    yield Section("Participants", blocks)


def _benefit(run: RunSummary) -> Iterator[Section]:
    """The benefit of joining per hospital that answered; nothing if hospitals were not asked."""
    benefits = run.figures.get("joining")
    if not benefits:
        return
    differences = {name: Interval(**benefit["difference"]) for name, benefit in benefits.items()}
    blocks: list[Block] = [
        "Each hospital also trained a model on its own patients alone, with the same settings, and compared both "
        f"models on its held-out patients. {sections.AUC}",
        *sections.verdict_cards(benefits),
        *_intervals(differences, "federated minus own", "difference of ROC-AUC", reference=0.0),
        sections.VERDICT_RULE,
        Caution(
            "One split of few patients gives wide intervals. If records may be collected in one place, the command "
            "python -m federated_health evidence tests models on every patient, several times."
        ),
    ]
    yield Section("Benefit of joining", blocks)


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
    shown, _ = first_of(intervals)
    yield Picture(
        svg=draw_intervals({model: shown}, quantity=quantity, reference=reference),
        alt=f"{caption} {figures}.",
        caption=f"{caption} Right of 0 the federated model is better." if signed else caption,
    )


def _quality(run: RunSummary) -> Section:
    title = "How good the model is"
    rows = {name: _figures(row) for name, row in run.figures["hospitals"].items()}
    if not rows:
        return Section(title, ["No hospital evaluated the model: there are no figures."])
    federation, threshold = run.figures["federation"], run.config.threshold
    last, is_marked = {}, False
    if federation is not None:
        last[FEDERATION] = _figures(federation)
        mean, small = figure(federation["mean_roc_auc"]), federation.get("small_in_mean")  # unknown if encrypted
        if is_marked := federation["mean_roc_auc"] is not None and small != 0:
            mean += " *"
        last["hospital mean"] = {**dict.fromkeys(last[FEDERATION], ""), figure_title("roc_auc"): mean}
    notes = ["The run was stopped before hospitals computed ROC-AUCs."] if run.stopped else []
    if is_marked:
        notes.append(describe_small_in_mean(small))
    if few := [name for name, row in run.evaluations.items() if row.counts.is_small]:
        noisy = f"Fewer than {SMALL_CLASS} held-out patients of one class, so ROC-AUC is too noisy to interpret"
        notes.append(f"{noisy}: {list_some(few, ', ')}.")
    chosen = "" if threshold == DEFAULT_THRESHOLD else ", which gives the greatest F1 on all training patients"
    notes += [f"Predicted positive: a risk of at least {threshold}{chosen}.", sections.FIGURES_EXPLAINED, _ALIASES]
    caption = f"Figures on held-out patients{', after the last completed round' if run.stopped else ''}"
    blocks: list[Block] = [sections.figures_table(caption, rows, last=last, note=" ".join(notes))]
    if not run.hospital:
        aucs = {name: Interval(**benefit["roc_auc"]) for name, benefit in run.figures.get("joining", {}).items()}
        blocks += _intervals(aucs, "federated model", "ROC-AUC")
        if federation["roc_auc"] is not None:
            blocks.append(Caution(sections.POOLED_AUC))
    return Section(title, blocks)


def _figures(row: Mapping[str, float | None]) -> dict[str, str]:
    return {figure_title(key): figure(row.get(key)) for key in FIGURES}


def _privacy(run: RunSummary) -> Iterator[Section]:
    """The guarantee to each training patient and how it was met; nothing without differential privacy."""
    plan = run.config.privacy
    if plan is None:
        return
    guarantee = (
        f"Every hospital trained with ({plan.epsilon:g}, {plan.delta:g})-differential privacy for its training "
        f"patients, over the whole run: {load_privacy_plan().GUARANTEE}."
    )
    items = [
        f"{number_of(plan.steps, 'step')} per round: in each step a patient takes part with probability "
        f"{plan.sampling_rate:g}, its gradient is clipped to an L2 norm of {plan.clip:g}, and the hospital adds "
        f"Gaussian noise of {plan.noise_multiplier:g} times that to their sum.",
        f"The noise is enough for {plan.rounds} rounds, which each hospital counts on its own disk: a repeated round "
        "counts again.",
        "Columns are scaled by the ranges that the task declares. No sums, training losses, training scores or "
        "comparisons with a hospital's own model were released, so the threshold is 0.5.",
    ]
    items += [f"Privacy budget of this hospital: {run.privacy_spent}."] if run.privacy_spent else []
    exact = Caution("Figures on held-out patients are exact: differential privacy does not protect these patients.")
    yield Section("Differential privacy", [guarantee, items, exact])


def _sent_by_hospitals(run: RunSummary) -> Section:
    """A summary of the data that left the hospitals; `messages` has the exact list."""
    private = run.config.privacy is not None
    if run.encrypted:
        sums, weights, losses = "sums of its columns, ", "weights", "losses"
        if private:
            sums, weights, losses = "", "noisy weights", "their losses"
        items = [
            "At registration: its name, the columns that it expects, the numbers of its training and held-out "
            "patients, and its certificate.",
            f"Encrypted, so that the server could only add them: {sums}its model's {weights} in every round, counts of "
            f"held-out patients and sums of {losses}, and at the end numbers of patients by score.",
            "The key, to the other hospitals alone, each time sealed for one of them and signed.",
        ]
        source = "What was decrypted stayed at the hospitals; this page uses it."
    else:
        sums = (
            "; for each measurement the number of training patients who have it, and the sum and the sum of squares of "
            f"its values (nothing if fewer than {MIN_OBSERVED} have it)"
        )
        associations = "; for each measurement and each code of a category its correlation with the label"
        items = [
            "At registration: its name, the columns that it expects, the numbers of its training and held-out patients"
            f"{'' if private else sums + associations}.",
            f"In each round: its model's {'noisy weights' if private else 'weights and mean training loss'}; the "
            "numbers of held-out patients predicted correctly and wrongly in either class, and the sums of their "
            "losses.",
            f"At the end: the same counts, its ROC-AUC, and its scores of {'' if private else 'training and of '}"
            f"held-out patients as score groups of at least {MIN_CELL_SIZE} patients of a class, each with their "
            "number, and mean and deviation of the scores.",
        ]
        if run.settings is not None and run.settings.appraisal and not private:
            items.append(
                "At the end: the benefit of joining, how much each column matters on its held-out patients, and the "
                "number of training patients with a value in each column."
            )
        source = "This page also uses figures that stayed here." if run.hospital else "This page uses nothing else."
    return Section("What each hospital sent", [items, f"No patient's record left a hospital. {source}"])


def _settings(run: RunSummary) -> Iterator[Section]:
    if run.settings is not None:
        config = run.config
        facts = {"completed rounds": str(config.rounds), "threshold": str(config.threshold)}
        facts |= {"SHA-256 of the schema": config.schema, **config.network.facts, **run.facts}
        yield sections.settings_section(run.settings, facts, leave_out=config.network.unused_settings)


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
    return sections.model_card(run.task, hospitals, limits)
