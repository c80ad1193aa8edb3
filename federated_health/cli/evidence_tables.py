"""The tables that the subcommand `evidence` prints."""

from collections.abc import Mapping
from typing import Any

from federated_health.cli.tables import difference, print_figures, print_verdicts
from federated_health.ml.metrics import LESS_IS_BETTER, SMALL_CLASS, figure_title
from federated_health.ml.targets import Target
from federated_health.ml.verdicts import verdict_text
from federated_health.report.cells import Marked
from federated_health.report.formatting import capitalise, describe_small_in_mean
from federated_health.studies.benefit.estimates import SIGNED
from federated_health.studies.benefit.training_setups import TrainingSetup

MODELS_NOTE = (
    "external: external validation, the federated model of the other hospitals, tested on a hospital that it never saw"
)
BENEFIT_NOTE = (
    "Above 0 the federated model is better. p is adjusted for the number of hospitals (Holm), intervals are not. "
    "gains, loses: p is below 0.05; may gain, may lose: only before the adjustment. "
    "Intervals are over patients, given the fitted models."
)
AUC_NOTE = "all: over all patients together; too high where the shares of classes differ between hospitals."

_MODELS = {str(TrainingSetup.LEAVE_ONE_OUT): "external"}
"""Names of models in tables, where they are not those of evidence.json."""


def print_evidence(figures: Mapping[str, Any], target: Target[Any]) -> None:
    """Print how good the models are and what each hospital gains, by each figure, and figures as means over hospitals.

    Args:
        figures: content of evidence.json.
    """
    for name in target.comparisons:
        _print_models(figures, target, name)
    for name in target.comparisons:
        _print_benefit(figures, target, name)
    print_verdicts(figures["hospitals"], target)
    for name in target.comparisons:
        _print_strategies(figures, name)
    if target.has_threshold:
        _print_decisions(figures)
    _print_means(figures)


def _rows(figures: Mapping[str, Any], *, mark: bool = False) -> dict[str, Any]:
    """The entries of hospitals, of the mean and of all, by their names in tables."""
    hospitals = {f"{name} *" if mark and of["small"] else name: of for name, of in figures["hospitals"].items()}
    return {**hospitals, "mean": figures["mean"], "all": figures["all"]}


def _print_models(figures: Mapping[str, Any], target: Target[Any], name: str) -> None:
    is_marked = name == "roc_auc" and target.has_classes
    values = {
        row: {
            _MODELS.get(model, model): Marked(value) if is_marked and entry.get("small") else value
            for model, value in ((model, of[name]["value"]) for model, of in entry["models"].items())
        }
        for row, entry in _rows(figures).items()
    }
    notes = [MODELS_NOTE]
    if is_marked:
        notes.append(AUC_NOTE)
        small = figures["mean"]["small"]
        notes += [describe_small_in_mean(small)] if small else []
    print_figures(f"{capitalise(figure_title(name))} of out-of-fold scores", values, "\n".join(notes))


def _print_benefit(figures: Mapping[str, Any], target: Target[Any], name: str) -> None:
    order = "own - federated" if name in LESS_IS_BETTER else "federated - own"
    own, benefit = str(TrainingSetup.OWN), {}
    for row, entry in _rows(figures, mark=target.has_classes and name not in LESS_IS_BETTER).items():
        compared = entry.get("comparisons", {}).get(name, {})
        benefit[row] = {
            "patients": entry.get("patients", ""),
            order: difference(entry["differences"][own][name]),
            "p": compared.get("adjusted_p_value", ""),
            "verdict": verdict_text(compared["verdict"]) if compared else "",
        }
    few = f"\n* {target.describe_few(SMALL_CLASS)}: too noisy to interpret." if target.has_classes else ""
    title = f"Benefit of joining: difference of {figure_title(name)}, 95 % interval"
    print_figures(title, benefit, f"{BENEFIT_NOTE}{few}" if name == target.comparisons[-1] else "")


def _print_strategies(figures: Mapping[str, Any], name: str) -> None:
    first, *further = figures["study"]["strategies"]
    if not further:
        return
    differences = {
        row: {strategy: difference(entry["differences"][strategy][name]) for strategy in further}
        for row, entry in _rows(figures).items()
    }
    order = f"{first} minus other strategies" if name in LESS_IS_BETTER else f"Other strategies minus {first}"
    print_figures(f"{order}: difference of {figure_title(name)}, 95 % interval", differences)


def _print_decisions(figures: Mapping[str, Any]) -> None:
    """Sensitivity and specificity of the federated and the own models."""
    decisions = {
        row: {
            f"{title} {setup}": entry["models"][setup][key]
            for setup in (TrainingSetup.FEDERATED, TrainingSetup.OWN)
            for title, key in (("sens.", "recall"), ("spec.", "specificity"))
        }
        for row, entry in _rows(figures).items()
    }
    print_figures("Sensitivity and specificity, each model at its own threshold", decisions)


def _print_means(figures: Mapping[str, Any]) -> None:
    """All other figures as means over hospitals; of those that are best in the middle, lowest and highest."""
    mean = figures["mean"]
    others: dict[str, dict[str, Any]] = {}
    ranges: dict[str, dict[str, Any]] = {}
    for model, of in mean["models"].items():
        shown = _MODELS.get(model, model)
        others[shown] = {key: value for key, value in of.items() if not isinstance(value, Mapping)}
        ranges[shown] = {
            key: "-" if ends["low"] is None else f"{ends['low']:.3f} to {ends['high']:.3f}"
            for key in SIGNED
            if (ends := mean["ranges"][model].get(key))
        }
    print_figures("Other figures, as means over hospitals", others)
    if any(ranges.values()):
        print_figures("Calibration: lowest and highest of the hospitals", ranges)
