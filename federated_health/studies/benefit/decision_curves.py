"""Decision curves of a study, from out-of-fold scores: the federated model's and each hospital's own."""

from collections.abc import Mapping
from typing import Any

from federated_health.ml.decision_curves import THRESHOLDS, DecisionCounts, count_decisions, merge_decisions
from federated_health.report import sections
from federated_health.studies.benefit.comparison import Scores
from federated_health.studies.benefit.training_setups import TrainingSetup

MODELS = (TrainingSetup.FEDERATED, TrainingSetup.OWN)


def study_decision_curves(scores: Scores) -> dict[str, dict[str, DecisionCounts]]:
    """Hospital, and all patients together -> model -> counts, as means over repeats; nothing for other labels."""
    if not scores.target.has_threshold:
        return {}
    curves = {
        name: {
            str(model): count_decisions(scores.models[model][name].outputs, labels, scores.ids.get(name))
            for model in MODELS
        }
        for name, labels in scores.labels.items()
    }
    together = {str(model): merge_decisions(models[model] for models in curves.values()) for model in MODELS}
    return {**curves, sections.ALL: together}


def describe_decision_curves(curves: Mapping[str, Mapping[str, DecisionCounts]]) -> dict[str, Any]:
    """The curves as in evidence.json: `thresholds`, then hospital -> model -> net benefit at each, and its interval."""
    described: dict[str, Any] = {"thresholds": THRESHOLDS.tolist()}
    for name, models in curves.items():
        described[name] = {"treat_all": next(iter(models.values())).treat_all.tolist()}
        for model, of in models.items():
            low, high = of.band or (None, None)
            described[name][model] = {
                "net_benefit": of.net_benefit.tolist(),
                "low": None if low is None else low.tolist(),
                "high": None if high is None else high.tolist(),
            }
    return described
