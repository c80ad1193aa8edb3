"""Tables of a study's page, and the sentences that go with them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from federated_health.ml.metrics import LESS_IS_BETTER, SMALL_CLASS
from federated_health.ml.verdicts import Difference, Interval, verdict_text
from federated_health.report import formatting, sections
from federated_health.report.cells import Cell, Marked
from federated_health.report.formatting import INTERVAL, LOW_SHARE, capitalise, figure, list_some
from federated_health.report.page import Block, Section, Table
from federated_health.report.panels import Panels
from federated_health.studies.benefit.comparison import RECALIBRATED, RECALIBRATED_AGAINST_OWN
from federated_health.studies.benefit.estimates import SIGNED, estimate_names
from federated_health.studies.benefit.training_setups import TrainingSetup

Figures = Mapping[str, Any]
"""The content of evidence.json, or of one of its entries (see `compare_models`)."""

MEAN = "mean over hospitals"
NAMES = {
    TrainingSetup.OWN: "own patients only",
    TrainingSetup.FEDERATED: "federated",
    TrainingSetup.POOLED: "pooled",
    TrainingSetup.LEAVE_ONE_OUT: "external validation",
}
"""Training setups as tables name them."""


def models_of(figures: Figures) -> dict[str, str]:
    """The models that tables show: model -> its name; with the recalibrated one, if there is one."""
    names = {str(setup): name for setup, name in NAMES.items()}
    is_recalibrated = RECALIBRATED in figures["all"]["models"]
    return {**names, RECALIBRATED: "recalibrated"} if is_recalibrated else names


SMALL = f"* Fewer than {SMALL_CLASS} patients of a class, or a mean that includes such a hospital: very noisy."
"""What the mark * means."""


def interval_of(entry: Figures, model: str, name: str) -> Interval:
    """One of the `comparisons` of a model with its interval."""
    return Interval(**entry["models"][model][name])


def difference_of(entry: Figures, name: str, figure: str, kind: str = "differences") -> Difference:
    """A difference of `comparisons` by the name that it has in evidence.json."""
    return Difference(**entry[kind][name][figure])


def by_hospital(
    caption: str,
    cells: Callable[[Figures], Mapping[str, Cell]],
    figures: Figures,
    panels: Panels,
    name: str = "",
    *,
    note: str = "",
) -> Table:
    """A table with one row per hospital, then the mean over hospitals and all patients.

    Args:
        cells: a row, of the entry of a hospital or of all.
        name: the figure of all cells; by default cells are of the figures in their heads.
    """
    rows = {name: cells(entry) for name, entry in figures["hospitals"].items()}
    last = {MEAN: cells(figures["mean"]), sections.ALL: cells(figures["all"])}
    small = [hospital for hospital, entry in figures["hospitals"].items() if entry["small"]]
    if small and panels.target.has_classes and name not in LESS_IS_BETTER:
        rows |= {hospital: marked(rows[hospital], panels) for hospital in small}
        last[MEAN] = marked(last[MEAN], panels)
        note = f"{note} {SMALL}"
    return sections.figures_table(caption, rows, last=last, note=note.strip())


def marked(row: Mapping[str, Cell], panels: Panels) -> dict[str, Cell]:
    """A row whose figures have the mark *, besides means over all patients: few of a class matter little to them."""
    means = [panels.title(name) for name in (*LESS_IS_BETTER, "accuracy")]
    return {
        name: Marked(cell) if isinstance(cell, float | Interval) and name not in means else cell
        for name, cell in row.items()
    }


def figure_table(name: str, figures: Figures, panels: Panels) -> Table:
    """One of the `comparisons`, of every training setup."""
    return by_hospital(
        f"{capitalise(panels.title(name))} by hospital and model ({INTERVAL})",
        lambda entry: {label: interval_of(entry, setup, name) for setup, label in models_of(figures).items()},
        figures,
        panels,
        name,
    )


def means_table(models: Mapping[str, str], figures: Figures, panels: Panels, *, first: str, note: str = "") -> Table:
    """Estimates as means over hospitals; of those that are best in the middle, the lowest and the highest.

    Args:
        models: name of a row -> model.
        first: what the rows are.
    """
    mean = figures["mean"]
    rows: dict[str, dict[str, Cell]] = {}
    for label, model in models.items():
        ranges = {name: mean["ranges"][model][name] for name in estimate_names(panels.target) if name in SIGNED}
        rows[label] = {
            panels.title(name): _range(ranges[name]) if name in ranges else mean["models"][model][name]
            for name in estimate_names(panels.target)
        }
    if mean["small"] and panels.target.has_classes:
        rows = {label: marked(row, panels) for label, row in rows.items()}
        note = f"{note} {SMALL}".strip()
    lowest = " Of calibration and observed/expected, the hospitals' lowest and highest value, since opposite faults "
    lowest += "would cancel in a mean."
    has_ranges = any(name in SIGNED for name in estimate_names(panels.target))
    caption = f"Other figures by {first}, as means over hospitals"
    return sections.figures_table(caption, rows, first=first, note=f"{note}{lowest if has_ranges else ''}".strip())


def _range(ends: Mapping[str, float | None]) -> str:
    low, high = ends["low"], ends["high"]
    return formatting.NOT_DEFINED if low is None or high is None else f"{figure(low)} to {figure(high)}"


def estimates_table(figures: Figures, panels: Panels, note: str) -> Table:
    """All estimates by hospital and model."""
    rows: list[dict[str, Mapping[str, Cell]]] = [
        {
            f"{name}: {label}": {
                panels.title(key): entry["models"][setup][key] for key in estimate_names(panels.target)
            }
            for name, entry in part.items()
            for setup, label in models_of(figures).items()
        }
        for part in (figures["hospitals"], {sections.ALL: figures["all"]})
    ]
    return sections.figures_table(
        "Other figures by hospital and model", rows[0], last=rows[1], first="hospital and model", note=note
    )


def decisions_at_thresholds(figures: Figures, panels: Panels) -> Section:
    """Sensitivity and specificity of every model at its own threshold, and where one of them is low."""
    shares = {"Sensitivity": "recall", "Specificity": "specificity"}
    tables = [_share_table(title, key, figures, panels) for title, key in shares.items()]
    low = list(_low_shares(figures))
    text = (
        "Each model at its own threshold, which maximises F1 over its training patients. Sensitivity (recall) is the "
        "share of positive patients who are predicted positive, specificity the share of negative patients who are "
        "predicted negative."
    )
    return Section("Sensitivity and specificity", [*([list_some(low, " ")] if low else []), text, *tables])


def _share_table(title: str, key: str, figures: Figures, panels: Panels) -> Table:
    def row(entry: Figures) -> dict[str, Cell]:
        return {label: entry["models"][model][key] for model, label in NAMES.items()}

    return by_hospital(f"{title} by hospital and model", row, figures, panels)


def _low_shares(figures: Figures) -> Iterator[str]:
    """A sentence on each share of the federated model that is below LOW_SHARE at a hospital."""
    for name, entry in figures["hospitals"].items():
        federated = entry["models"][TrainingSetup.FEDERATED]
        positives, rows = entry["positives"], entry["rows"]
        for key, title, number, kind in (
            ("recall", "sensitivity", positives, "positive"),
            ("specificity", "specificity", rows - positives, "negative"),
        ):
            share = federated[key]
            if share is not None and share < LOW_SHARE:
                own = entry["models"][TrainingSetup.OWN][key]
                yield (
                    f"At {name} the federated model predicts {100 * share:.0f} % of the {number:,} {kind} patients "
                    f"correctly ({title} {figure(share)}; own model {figure(own)}): most of them are predicted "
                    f"{'negative' if kind == 'positive' else 'positive'}."
                )


_ELSEWHERE = ("accuracy", "recall", "specificity", "average_precision", "log_loss")
"""Estimates that the table of the external validation leaves to other tables."""


def external_validation(figures: Figures, panels: Panels) -> Section:
    """The federated model of the other hospitals, tested on the hospital that it never saw."""
    setup, target = TrainingSetup.LEAVE_ONE_OUT, panels.target
    names = [key for key in estimate_names(target) if key not in _ELSEWHERE]

    def row(entry: Figures) -> dict[str, Cell]:
        models = entry["models"][setup]
        shown: dict[str, Cell] = {panels.title(name): interval_of(entry, setup, name) for name in target.comparisons}
        return shown | {
            panels.title(key): models[key] if key in models else _range(entry["ranges"][setup][key]) for key in names
        }

    change = by_hospital(
        f"Federated model against external validation: by how much it is better ({INTERVAL})",
        lambda entry: {panels.title(name): difference_of(entry, setup, name) for name in target.comparisons},
        figures,
        panels,
        note="Above 0 the model that was also trained on patients of the hospital is better.",
    )
    return Section(
        "External validation",
        [
            "Each hospital is left out once: the federated model of the other hospitals is tested on the patients of "
            "the hospital that it never saw (leave-one-hospital-out). This is what a hospital gets that does not join, "
            "and what a new hospital can expect.",
            by_hospital("External validation at the hospital left out", row, figures, panels),
            change,
        ],
    )


def recalibration(figures: Figures, panels: Panels) -> Iterator[Section]:
    """The federated model before and after recalibration at each hospital; nothing where no hospital has one."""
    entries = {name: of["recalibration"] for name, of in figures["hospitals"].items() if "recalibration" in of}
    if not entries:
        return
    against_own = _against_own(panels, figures["mean"]["differences"][RECALIBRATED_AGAINST_OWN])
    lines = {name: _recalibration_line(of, panels) for name, of in entries.items()}
    changes = {name: _recalibration_change(figures["hospitals"][name]) for name in entries}
    own: dict[str, dict[str, Cell]] = {}
    for name, of in entries.items():
        compared = of["comparisons"]
        own[name] = _against_own(panels, {key: one["difference"] for key, one in compared.items()})
        own[name] |= {f"{panels.title(key)}: verdict": verdict_text(one["verdict"]) for key, one in compared.items()}
    lacking = [name for name in figures["hospitals"] if name not in entries]
    without = f" Without one, since a class has too few patients: {list_some(lacking, ', ')}." if lacking else ""
    yield Section(
        "Recalibration",
        [
            "A hospital can correct the federated model's risks for its own patients: to the log-odds it adds an "
            "intercept, and multiplies them by a slope where that is clearly below 1 (logistic recalibration). Here "
            "the correction for a fold is fitted to the hospital's out-of-fold scores of the other folds, so no "
            f"patient is scored by a correction that was fitted to this patient.{without} The order of a hospital's "
            "patients stays the same, and so do decisions, since the threshold is recalibrated, too.",
            sections.figures_table("Brier score before and after recalibration", changes),
            sections.figures_table(
                "Recalibration, and calibration before and after",
                lines,
                note="Intercept and slope are fitted to all out-of-fold scores; a slope of 1 is not fitted.",
            ),
            sections.figures_table(
                f"The recalibrated federated model against the own model ({INTERVAL})",
                own,
                last={MEAN: against_own},
                note="Above 0 the recalibrated model is better; the verdicts are adjusted for the number of hospitals.",
            ),
        ],
    )


def _recalibration_line(of: Figures, panels: Panels) -> dict[str, Cell]:
    """Intercept and slope of a hospital's recalibration, and its calibration before and after."""
    calibration: dict[str, Cell] = {
        f"{panels.title(key)} {when}": of[when][key]
        for key in ("calibration_intercept", "calibration_slope")
        for when in ("before", "after")
    }
    intercept = Difference(**of["intercept"])  # which is shown with its sign
    return {"intercept": intercept, "slope": "1" if of["slope"] is None else Interval(**of["slope"]), **calibration}


def _recalibration_change(hospital: Figures) -> dict[str, Cell]:
    """What recalibration does to a hospital's Brier score and log-loss."""
    models, recalibrated = hospital["models"], hospital["recalibration"]
    return {
        "before": models[TrainingSetup.FEDERATED]["brier"]["value"],
        "after": models[RECALIBRATED]["brier"]["value"],
        f"before minus after ({INTERVAL})": difference_of(hospital, RECALIBRATED, "brier"),
        "log-loss before": recalibrated["before"]["log_loss"],
        "log-loss after": recalibrated["after"]["log_loss"],
    }


def _against_own(panels: Panels, differences: Mapping[str, Mapping[str, Any]]) -> dict[str, Cell]:
    """Differences between the recalibrated and the own model, by figure."""
    return {
        f"{panels.difference('recalibrated', 'own', key)} {panels.title(key)}": Difference(**of)
        for key, of in differences.items()
    }


def uncertainty(figures: Figures, panels: Panels) -> Section:
    """The differences with intervals over patients and over training sets."""
    blocks: list[Block] = [
        "An interval over patients says how much a difference depends on which patients were tested. It treats the "
        "models as fixed. The corrected interval (Nadeau and Bengio 2003) is over folds and repeats, and includes that "
        "other training patients and seeds give other models. Verdicts rest on the interval over patients. A corrected "
        "interval that contains 0 where the other does not says that with other training patients the difference could "
        "be another. It is around the mean over folds, in which each fold counts the same.",
    ]
    blocks += [_difference_table(name, figures, panels) for name in panels.target.comparisons]
    return Section("Uncertainty", blocks)


def every_repeat(figures: Figures, panels: Panels) -> Section:
    """The `comparisons` of every repeat, with their standard deviation."""
    text = (
        "Each repeat has its own folds and its own seed of training, so the standard deviation over repeats is also "
        "that over seeds. Other figures of every repeat are in evidence.json."
    )
    tables = [_repeats_table(name, figures, panels) for name in panels.target.comparisons]
    return Section("Every repeat", [text, *tables], folded=True)


def _difference_table(name: str, figures: Figures, panels: Panels) -> Table:
    """The differences between federated and own models by one of the `comparisons`, with both intervals."""

    def row(entry: Figures) -> dict[str, Cell]:
        difference = difference_of(entry, TrainingSetup.OWN, name)
        adjusted: Cell = entry["comparisons"][name]["adjusted_p_value"] if "comparisons" in entry else ""
        corrected = difference_of(entry, TrainingSetup.OWN, name, "corrected_differences")
        return {"over patients": difference, "p": difference.p_value, "p, Holm": adjusted, "corrected": corrected}

    caption = f"{capitalise(panels.title(name))}: {panels.difference(figure=name)} ({INTERVAL})"
    return by_hospital(caption, row, figures, panels, name)


def _repeats_table(name: str, figures: Figures, panels: Panels) -> Table:
    """One of the `comparisons` of every repeat."""

    has_marks = panels.target.has_classes and name not in LESS_IS_BETTER

    def rows(places: Mapping[str, str]) -> dict[str, dict[str, Cell]]:
        found: dict[str, dict[str, Cell]] = {}
        for key, place in places.items():
            entry = figures["hospitals"].get(key) or figures[key]
            for setup, label in models_of(figures).items():
                of = figures["repeats"][key][setup][name]
                values: dict[str, Cell] = {f"repeat {number + 1}": value for number, value in enumerate(of["values"])}
                values = {"mean": of["mean"], "SD": of["sd"], **values}
                found[f"{place}: {label}"] = marked(values, panels) if has_marks and entry.get("small") else values
        return found

    return sections.figures_table(
        f"{capitalise(panels.title(name))} of every repeat",
        rows({key: key for key in figures["hospitals"]}),
        last=rows({"mean": MEAN, "all": sections.ALL}),
        first="hospital and model",
        note=f"SD: standard deviation over repeats.{f' {SMALL}' if has_marks and figures['mean']['small'] else ''}",
    )
