"""The page of a run, for the server or for one hospital, which sees less, and the data from which it is made."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from types import ModuleType
from typing import Any

from federated_health.data.tasks import Task
from federated_health.files import hash_file
from federated_health.messages.content import Evaluation, Registration, TrainConfig
from federated_health.ml.bootstrap import PERMUTATIONS
from federated_health.ml.metrics import SMALL_CLASS, figure_title, merge_counts
from federated_health.ml.networks import Weights, weights_hash
from federated_health.ml.normalisation import MIN_OBSERVED
from federated_health.ml.rounds import Round
from federated_health.ml.targets.binary_figures import SCORE_FIGURES
from federated_health.ml.verdicts import Interval
from federated_health.names import FEDERATION, MODEL
from federated_health.report import (
    checklist,
    decision_curves,
    overview,
    recalibration,
    sample_size,
    sections,
    subgroups,
)
from federated_health.report.cells import Cell, Marked, figure_cell, show
from federated_health.report.charts import draw_forest
from federated_health.report.formatting import (
    INTERVAL,
    MAX_ROWS,
    SUPPRESSED,
    capitalise,
    describe_missed,
    describe_rows,
    describe_small_in_mean,
    figure,
    largest_of,
    list_some,
    number_of,
)
from federated_health.report.page import Block, Caution, Folded, Number, Numbers, Page, Picture, Section, write_report
from federated_health.report.panels import Panels, panels_of
from federated_health.settings import Settings


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A completed or stopped run as the writer of the page knows it. Sections without data are left out.

    Attributes:
        config: the train config of the final model; `rounds` counts the completed rounds.
        figures: `hospitals`, `federation` and what else there is of metrics.json.
        hospital: the hospital that writes the page; empty for the server.
        hospitals: number of hospitals that trained, if `rounds` does not hold all of them; 0 if it is not known.
        settings: None if `hospital` does not know them.
        rounds: the completed rounds, as far as they are known.
        evaluations: final evaluations by hospital, or of the federation alone.
        problems: one line each.
        stopped: whether the run ended before its last round.
        secure: whether the server learned sums over hospitals only.
        privacy_spent: the differential privacy that `hospital` has spent, in a sentence.
        sent: what left `hospital`, from its ledger; empty for a summary of what every hospital sends.
        facts: further names and values, such as hashes of files.
        date: when the run ended, as the page shows it.
    """

    task: Task
    config: TrainConfig
    figures: Mapping[str, Any]
    hospital: str = ""
    hospitals: int = 0
    settings: Settings | None = None
    registrations: Mapping[str, Registration] = field(default_factory=dict)
    rounds: Sequence[Round] = ()
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    problems: Sequence[str] = ()
    stopped: bool = False
    secure: bool = False
    privacy_spent: str = ""
    sent: Sequence[Section] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def rounds_trained(self) -> Counter[str]:
        """Hospital -> number of known rounds in which it trained; without hospitals that did not train."""
        return Counter(name for record in self.rounds for name, part in record.hospitals.items() if part.train_examples)

    @property
    def everyone(self) -> str:
        """Name of all patients of the page together: the hospital that writes it, if its evaluation is known."""
        return self.hospital if self.hospital in self.evaluations else FEDERATION

    @property
    def hospital_count(self) -> int:
        """Number of hospitals that trained; 0 if `hospital` does not know it."""
        return self.hospitals or len(self.rounds_trained)


def metrics_of(config: TrainConfig, *, stopped: bool) -> dict[str, Any]:
    """The entries of metrics.json that describe how a model was trained, and whether its run was stopped."""
    keys = ("task", "strategy", "strategy_args", "rounds", "seed", "threshold")
    entries: dict[str, Any] = {key: getattr(config, key) for key in keys}
    entries |= {"model": config.network.model, "network": config.network.to_config()}
    entries |= {"class_weights": list(config.class_weights)} if config.class_weights else {}
    entries |= {"stopped": True} if stopped else {}
    return entries | ({"privacy": config.privacy.to_json()} if config.privacy else {})


def hashes_of_model(model: Path, weights: Weights) -> dict[str, str]:
    """Facts of a run's page that identify its saved model."""
    return {"SHA-256 of the weights": weights_hash(weights), f"SHA-256 of {MODEL}": hash_file(model)}


def write_run_report(path: Path, run: RunSummary) -> None:
    """Write the page of a run, as `write_report` does."""
    write_report(path, lambda: page_of_run(run))


def load_private_runs() -> ModuleType:
    """The sections of runs with differential privacy or secure aggregation."""
    from federated_health.report import private_runs  # noqa: PLC0415  # most runs have neither

    return private_runs


def page_of_run(run: RunSummary) -> Page:
    """A page with everything that its writer knows of a run."""
    config = run.config
    options: dict[str, Any] = {
        "seed": config.seed,
        "threshold": config.threshold,
        "balanced": bool(config.class_weights),
    }
    results = {**run.figures["hospitals"], FEDERATION: run.figures["federation"] or {}}
    options |= {"are_bins": run.secure and not run.hospital, "everyone": run.everyone, "results": results}
    panels = panels_of(run.task, **options)
    model = f"a model of {number_of(run.hospital_count, 'hospital')}"
    title = model if run.hospital_count else f"{run.hospital} in a federation"
    page = Page(
        title=f"{run.task.name}: {title}",
        lead=_question(run, panels),
        byline=_byline(run),
        summary=list(_overview(run, panels)),
        sections=[
            *_benefit(run, panels),
            _quality(run, panels),
            *_curves_and_decisions(run, panels),
            *recalibration.sections_of_run(run),
            *decision_curves.sections_of_run(run),
            *subgroups.subgroup_sections(run.task, run.figures, _why_no_subgroups(run)),
            *sections.learning_curves(run.rounds, panels),
            *_holdings(run, panels),
            *_importance(run, panels),
            *_folded(sample_size.sections_of_run(run)),
            *_participants(run),
            sections.network_section(run.task, run.config),
            *([load_private_runs().privacy_section(run, panels)] if run.config.privacy else []),
            *(_folded(run.sent) or [_sent_by_hospitals(run, panels)]),
            *_settings(run, panels),
            _limits(run, panels),
        ],
    )
    return checklist.with_checklist(page, checklist.known_of_run(run))


def _folded(parts: Iterable[Section]) -> list[Section]:
    return [replace(part, folded=True) for part in parts]


def _question(run: RunSummary, panels: Panels) -> str:
    model = f"a model of {number_of(run.hospital_count, 'hospital')}" if run.hospital_count else "the federated model"
    whose = f"{run.hospital}'s own model" if run.hospital else "each hospital's own model"
    known = "joining" in run.figures
    question = f"Does {model} estimate this better than {whose}" if known else f"How well does {model} estimate this"
    return f"{question}: {panels.estimate} {run.task.label.meaning}?"


def _byline(run: RunSummary) -> list[str]:
    """Short facts of a run, the date first."""
    facts = [run.date] if run.date else []
    facts += [number_of(run.hospital_count, "hospital")] if run.hospital_count else []
    facts += [number_of(run.config.rounds, "round"), f"strategy {run.config.strategy}"]
    facts += ["stopped before its last round"] if run.stopped else []
    facts += ["secure aggregation: the server learned sums over all hospitals only"] if run.secure else []
    return facts + (["differential privacy"] if run.config.privacy else [])


def _overview(run: RunSummary, panels: Panels) -> Iterator[Block]:
    """The first screen: verdicts, large numbers, and the difference that joining makes."""
    entries = run.figures.get("joining", {})
    if entries:
        yield overview.verdict_strip(entries, of_one=bool(run.hospital))
    if numbers := [*_large_numbers(run, panels)]:
        yield Numbers(numbers)
    yield from overview.forest(entries, _sizes(run), panels)


def _large_numbers(run: RunSummary, panels: Panels) -> Iterator[Number]:
    """The figures that say most, over hospitals, and the number of patients."""
    hospitals = run.figures["hospitals"]
    row = (hospitals.get(run.hospital) if run.hospital else run.figures["federation"]) or {}
    noise = {key: value for key, value in row.items() if key.endswith("_noise")}
    for key, explained in panels.large_figures.items():
        value, name = row.get(key), capitalise(panels.title(key))
        within = [of[key] for of in hospitals.values() if of.get(key) is not None]
        spread = f"{figure(min(within))} to {figure(max(within))} within hospitals" if len(within) > 1 else ""
        is_small = key == "roc_auc" and bool(row.get("small"))
        if key == "roc_auc" and row.get("mean_roc_auc") is not None:
            value, name, is_small = row["mean_roc_auc"], f"Mean {name}", row.get("small_in_mean") != 0
        if run.hospital and (compared := _comparison(run, run.hospital, key)):
            spread = f"{INTERVAL} {figure(compared['low'])} to {figure(compared['high'])}"
        if key + "_noise" in noise:
            spread = f"\N{PLUS-MINUS SIGN} {figure(noise[key + '_noise'])} by noise"
        if value is not None:
            few = (
                f"* {panels.target.describe_few(SMALL_CLASS)}{'' if row.get('small') else ' at a hospital'}: very noisy"
            )
            parts = [spread, explained, few if is_small else ""]
            yield Number(
                name=name, value=show(Marked(value) if is_small else value), text="; ".join(filter(None, parts))
            )
    train, test = row.get("train_examples"), row.get("test_examples")
    if train is not None and test is not None:
        where = f"{number_of(run.hospital_count, 'hospital')}: " if run.hospital_count else ""
        text = f"{where}{train:,} to train the model, {test:,} held out to test it"
        yield Number(name=capitalise(run.task.noun), value=f"{train + test:,}", text=text)


def _comparison(run: RunSummary, hospital: str, key: str) -> Mapping[str, float] | None:
    """The federated model's figure with its interval at a hospital; None where it is not known."""
    compared = run.figures.get("joining", {}).get(hospital, {}).get("comparisons", {}).get(key)
    return None if compared is None or compared["federated"]["value"] is None else compared["federated"]


def _sizes(run: RunSummary) -> dict[str, int]:
    """Hospital -> number of its held-out patients, as far as they are known."""
    return {name: row.get("test_examples") or 0 for name, row in run.figures["hospitals"].items()}


def _participants(run: RunSummary) -> Iterator[Section]:
    if not run.registrations:
        return
    rows = {
        name: {
            f"training {run.task.noun}": registration.train_examples,
            f"held-out {run.task.noun}": registration.test_examples,
            "rounds trained": run.rounds_trained[name],
        }
        for name, registration in sorted(run.registrations.items())
    }
    blocks: list[Block] = [sections.figures_table("Patients of each hospital", rows, note=describe_rows(run.task))]
    if not run.secure and (missing := [name for name in rows if name not in run.figures["hospitals"]]):
        blocks.append(f"No figures of the final model: {list_some(missing, ', ')}.")
    if "joining" not in run.figures:
        private = "differential privacy leaves no budget for the comparison"
        unknown = "no hospital was asked for it, or none could compute it"
        unknown = "with secure aggregation it stays at each hospital" if run.secure else unknown
        reason = private if run.config.privacy else unknown
        blocks.append(f"The benefit of joining is not known: {reason}.")
    if run.problems:
        more = len(run.problems) - MAX_ROWS
        others = [f"and {more:,} more lines, in metrics.json"] if more > 0 else []
        blocks += ["Problems in this run:", [*run.problems[:MAX_ROWS], *others]]
    yield Section("Participants", blocks)


def _benefit(run: RunSummary, panels: Panels) -> Iterator[Section]:
    """The benefit of joining per hospital that answered; nothing if hospitals were not asked."""
    benefits = run.figures.get("joining")
    if not benefits:
        return
    yield Section(
        "Benefit of joining",
        [
            f"{'This' if run.hospital else 'Each'} hospital also trained a model on its own patients alone, with the "
            f"same settings, and compared both models on its held-out patients. {panels.compared_explained}",
            *overview.verdict_blocks(benefits, panels),
            Folded(
                "How verdicts are reached",
                [
                    panels.verdict_rule,
                    Caution(
                        "One split of few patients gives wide intervals. If records may be collected in one place, the "
                        "command python -m federated_health evidence tests models on every patient, several times."
                    ),
                ],
            ),
        ],
    )


def _intervals(run: RunSummary, panels: Panels) -> Iterator[Picture]:
    """The federated model's figures by hospital with their intervals, where hospitals sent them."""
    entries, which = largest_of(run.figures.get("joining", {}), _sizes(run), MAX_ROWS)
    for name in panels.target.comparisons:
        known = {hospital: Interval(**of["comparisons"][name]["federated"]) for hospital, of in entries.items()}
        if all(interval.value is None for interval in known.values()):
            continue
        # Without a comparison, the final evaluation knows the figure alone.
        shown = {
            overview.name_of(hospital, entries[hospital], panels, name): interval
            if interval.value is not None
            else Interval(value=run.figures["hospitals"].get(hospital, {}).get(name))
            for hospital, interval in known.items()
        }
        is_hollow = any(interval.value is not None and interval.low is None for interval in shown.values())
        hollow = "Hollow: without an interval." if is_hollow else ""
        title = capitalise(panels.title(name))
        caption = f"{title} of the federated model on each hospital's held-out patients, with its {INTERVAL}."
        notes = filter(None, [caption, hollow, overview.explain_marks(shown, panels), which])
        figures = list_some(f"{hospital} {show(interval)}" for hospital, interval in shown.items())
        yield Picture(
            svg=draw_forest(
                {hospital: (of, "neutral") for hospital, of in shown.items()},
                quantity=f"{title} of the federated model",
                is_difference=False,
            ),
            alt=f"{caption} {figures}.",
            caption=" ".join(notes),
        )


def _quality(run: RunSummary, panels: Panels) -> Section:
    title = "How good the model is"
    rows = {name: _figures(row, panels) for name, row in run.figures["hospitals"].items()}
    federation = run.figures["federation"]
    if not rows and federation is None:
        return Section(title, ["No hospital evaluated the model: there are no figures."])
    last: dict[str, dict[str, Cell]] = {}
    is_marked = False
    if federation is not None:
        last[FEDERATION] = _figures(federation, panels)
        if "mean_roc_auc" in federation:
            mean, small = federation["mean_roc_auc"], federation["small_in_mean"]
            is_marked = mean is not None and small != 0
            last["hospital mean"] = {figure_title("roc_auc"): Marked(mean) if is_marked else mean}
    are_without_auc = run.stopped and panels.target.has_classes
    notes = ["The run was stopped before hospitals computed ROC-AUCs."] if are_without_auc else []
    if is_marked:
        notes.append(describe_small_in_mean(small))
    if suppressed := [name for name, row in run.evaluations.items() if not row.has_counts]:
        notes.append(f"{SUPPRESSED}: {list_some(suppressed, ', ')}; see Participants for the reasons.")
    if few := [name for name, row in run.evaluations.items() if row.counts.is_small and row.has_counts]:
        mark = "* " if panels.target.has_classes else ""
        notes.append(f"{mark}{panels.noisy}: {list_some(few, ', ')}.")
    notes += [*filter(None, [panels.decisions_explained]), panels.explained]
    notes += [load_private_runs().explain_noise(panels)] if run.config.privacy else []
    caption = f"Figures on held-out patients{', after the last completed round' if run.stopped else ''}"
    blocks: list[Block] = [sections.figures_table(caption, rows, last=last, note=" ".join(notes))]
    known = run.figures["hospitals"] or {FEDERATION: federation}
    blocks += map(Caution, describe_missed(run.task.label, known))
    if not run.hospital:
        blocks += _intervals(run, panels)
        if federation.get("roc_auc", 0) is not None:
            blocks.append(Caution(panels.pooled_explained))
    return Section(title, blocks)


def _figures(row: Mapping[str, float | None], panels: Panels) -> dict[str, Cell]:
    if any(key.endswith("_noise") for key in row):
        noisy = load_private_runs().with_noise(row)
        known = [key for key in panels.shown_figures if row.get(key) is not None or key not in SCORE_FIGURES]
        return {panels.title(key): noisy.get(key) for key in known}
    return {panels.title(key): figure_cell(row, key) for key in panels.shown_figures}


def _curves_and_decisions(run: RunSummary, panels: Panels) -> Iterator[Section]:
    """Curves of the released groups of scores, and confusion matrices, as charts of one section."""
    yield from sections.abreast("Curves and decisions", [*_curves(run, panels), *_decisions(run, panels)])


def _curves(run: RunSummary, panels: Panels) -> Iterator[Section]:
    groups = {name: evaluation.scores for name, evaluation in run.evaluations.items()}
    yield from panels.curves(groups)


def _decisions(run: RunSummary, panels: Panels) -> Iterator[Section]:
    """Confusion matrices of the final model, or of the last round's model if the run was stopped."""
    sums = {name: evaluation.counts for name, evaluation in run.evaluations.items() if evaluation.has_counts}
    if run.stopped and not sums:  # then the threshold is that of the rounds
        last = run.rounds[-1]
        parts = {FEDERATION: last.federation} if run.secure else last.hospitals
        sums = {name: part.counts for name, part in parts.items() if part.counts}
    if not sums:
        return
    drawn, more = sections.largest_panels(sums, {name: part.examples for name, part in sums.items()})
    if not run.hospital:
        drawn.setdefault(FEDERATION, merge_counts(sums.values()))
    yield from panels.decisions(drawn, f"Held-out patients. {more}".strip())


def _why_no_subgroups(run: RunSummary) -> str:
    """Why a run has no figures of the task's subgroups; empty if it is a plain one that was not stopped."""
    if run.config.privacy:
        return "differential privacy leaves no budget for them"
    if run.secure and not run.hospital:
        return "with secure aggregation they stay at each hospital, whose own page shows them"
    return "the run was stopped before hospitals computed them" if run.stopped else ""


def _holdings(run: RunSummary, panels: Panels) -> Iterator[Section]:
    """Labels and missing values of every hospital, as far as they were released."""
    sums = {name: part.counts for name, part in run.evaluations.items() if part.has_counts and name != FEDERATION}
    if not sums:
        return
    missing = {}
    for name, observed in run.figures.get("observed", {}).items():
        rows = run.figures["hospitals"][name]["train_examples"]
        missing[name] = [1.0 - observed[key] / rows if observed[key] else nan for key in run.task.column_names]
    sums, which = largest_of(sums, _sizes(run), MAX_ROWS)
    missing = {name: missing[name] for name in sums if name in missing}
    whose = "this hospital" if run.hospital else "each hospital"
    labels = panels.holdings(sums, f"{whose.capitalize()}'s held-out patients. {which}".strip())
    of_missing = f"{whose.capitalize()}'s training patients; not released if fewer than {MIN_OBSERVED} have a value."
    of_missing = f"{of_missing} {which}".strip()
    yield sections.holdings_section(run.task, labels, missing, of_missing, whose)


def _importance(run: RunSummary, panels: Panels) -> Iterator[Section]:
    """Permutation importance of the columns; nothing if hospitals were not asked."""
    if importance := run.figures.get("importance"):
        patients = f"Held-out patients, mean of {PERMUTATIONS} shuffles per hospital."
        yield sections.importance_section(importance, patients, panels)


def _sent_by_hospitals(run: RunSummary, panels: Panels) -> Section:
    """A summary of the data that left the hospitals; `messages` has the exact list."""
    private = run.config.privacy is not None
    own = "This page also uses figures that stayed here." if run.hospital else "This page uses nothing else."
    if run.secure:
        items = load_private_runs().list_sent_masked(run)
    else:
        sums = (
            "; for each measurement the number of training patients who have it, and the sum and the sum of squares of "
            f"its values (nothing if fewer than {MIN_OBSERVED} have it)"
        )
        associations = "; for each measurement and each code of a category its correlation with the label"
        if not panels.target.has_threshold:
            associations = ""
        classes = f"; the number of training patients of each class (0 if fewer than {MIN_OBSERVED})"
        classes = classes if panels.balanced else ""
        items = [
            "At registration: its name, the columns that it expects, the numbers of its training and held-out patients"
            f"{'' if private else sums + associations + classes}.",
        ]
        if private:
            items += load_private_runs().list_sent_privately(panels)
        else:
            items += [
                f"In each round: its model's weights and mean training loss; {panels.sent_sums}.",
                f"At the end: {panels.sent_groups.format(scores='training and of ')}.",
            ]
            if run.figures.get("subgroups"):
                items.append(
                    "At the end: of its held-out patients in each subgroup, numbers predicted correctly and wrongly in "
                    "either class, and ROC-AUC, expected events and calibration with their precision."
                )
        if run.settings is not None and run.settings.appraisal and not private:
            items.append(
                "At the end: the benefit of joining, how much each column matters on its held-out patients, and the "
                "number of training patients with a value in each column."
            )
    return Section("What each hospital sent", [items, f"No patient's record left a hospital. {own}"], folded=True)


def _settings(run: RunSummary, panels: Panels) -> Iterator[Section]:
    if run.settings is not None:
        config = run.config
        facts = {"completed rounds": str(config.rounds)}
        facts |= {"threshold": str(config.threshold)} if panels.target.has_threshold else {}
        facts |= {"SHA-256 of the schema": config.schema, **config.network.facts, **run.facts}
        yield sections.settings_section(run.settings, facts, leave_out=config.network.unused_settings)


def _limits(run: RunSummary, panels: Panels) -> Section:
    split = "One split of each hospital's patients into training and held-out patients"
    limits = [f"{split}: another split gives other figures."]
    hospitals = sorted(run.rounds_trained)
    if run.hospital:
        others = number_of(run.hospitals - 1, "other hospital") if run.hospitals else "others"
        hospitals = [f"{run.hospital} and {others}"]
        separate = "no hospital's own figures were sent to another"
        why = separate if run.secure else "the server has the report of all hospitals"
        limits.append(f"This page shows what {run.hospital} may see: {why}.")
    if run.stopped:
        limits.append("The run was stopped before its last round.")
    if run.settings is None:
        limits += [f"{name}: {value}" for name, value in run.facts.items()]
    return sections.model_card(panels, hospitals, limits, has_subgroups="subgroups" in run.figures)
