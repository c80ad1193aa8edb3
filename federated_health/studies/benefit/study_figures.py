"""Everything that a study computes of its scores, as in evidence.json."""

from typing import Any

from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import Scores, compare_models
from federated_health.studies.benefit.decision_curves import describe_decision_curves, study_decision_curves
from federated_health.studies.benefit.recalibrated import describe_recalibration
from federated_health.studies.benefit.subgroups import study_subgroups


def study_figures(cohort: Cohort, scores: Scores) -> dict[str, Any]:
    """What `compare_models` returns, and `recalibration` in the entries of hospitals, subgroups and decision curves."""
    figures = compare_models(scores)
    for name, recalibration in describe_recalibration(scores, figures["hospitals"]).items():
        figures["hospitals"][name]["recalibration"] = recalibration
    if subgroups := study_subgroups(cohort, scores):
        figures["subgroups"] = subgroups
    if curves := study_decision_curves(scores):
        figures["decision_curves"] = describe_decision_curves(curves)
    return figures
