"""The attacks of an audit on its shadow runs, and their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from federated_health.studies.audit import shadow_runs
from federated_health.studies.audit.membership import lira_scores, measure_attack
from federated_health.studies.audit.shadow_runs import AVERAGES, FINAL, UPDATES, AuditPlan, ShadowRunResult

PLAIN, ENCRYPTED = "plain", "encrypted"

LOSS, LIRA, DROP, SHARE = "loss threshold", "LiRA", "LiRA on loss drops", "LiRA on gradient shares"

ATTACKS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    FINAL: {LOSS: ("confidence", False), LIRA: ("confidence", True)},
    UPDATES: {DROP: ("drop", True), SHARE: ("share", True)},
    AVERAGES: {DROP: ("drop", True), SHARE: ("share", True)},
}
"""Target -> attack -> the statistic that it uses, and whether shadow models calibrate it (LiRA). Figures by
hospital are those of the last attack on a target. Confidences order patients as losses do, in reverse."""

Results = Mapping[shadow_runs.ShadowRun, ShadowRunResult]


def audit_figures(plan: AuditPlan, results: Results) -> dict[str, Any]:
    """The figures as in audit.json, by privacy setting; None for what cannot be attacked or is undefined.

    Returns:
        privacy -> `attacked` and `whole`: quality of the models that were trained on half of the rows and on all;
        `attacks`: target -> attack -> figures (see `membership.AttackStrength`); `hospitals`: hospital -> target ->
        figures of the last attack; `inversion`: rows -> mean shares of recovered columns.
    """
    figures = {privacy: _figures_of(privacy, plan, results) for privacy in plan.privacies}
    plain = figures[PLAIN]
    # With encrypted averaging only the hospital itself has its update. The averages, and so the final model, equal
    # those of plain averaging up to 1e-6.
    encrypted = {
        **plain,
        "attacks": {**plain["attacks"], UPDATES: None},
        "hospitals": {name: {**targets, UPDATES: None} for name, targets in plain["hospitals"].items()},
        "inversion": {rows: {**shares, "update": None} for rows, shares in plain["inversion"].items()},
    }
    return {PLAIN: plain, ENCRYPTED: encrypted, **figures}


def _figures_of(privacy: str, plan: AuditPlan, results: Results) -> dict[str, Any]:
    half = [results[run] for run in plan.runs(privacy, shadow_runs.HALF)]
    members = plan.members()
    attacks: dict[str, Any] = {target: {} for target in ATTACKS}
    hospitals: dict[str, Any] = {name: {} for name in plan.hospitals}
    for target, by_attack in ATTACKS.items():
        for attack, (statistic, is_calibrated) in by_attack.items():
            scores = np.array([result.statistics[target][statistic] for result in half])
            if is_calibrated:
                scores = lira_scores(scores, members)
            attacks[target][attack] = asdict(measure_attack(scores, members, plan.seed))
        for name, patients in plan.slices().items():  # the last attack
            strength = measure_attack(scores[:, patients], members[:, patients], plan.seed)
            hospitals[name][target] = asdict(strength)
    inversion = {}
    for rows in plan.sizes:
        draws = [results[run].inversion for run in plan.runs(privacy, shadow_runs.SMALL, rows)]
        inversion[str(rows)] = {key: _mean([shares[key] for shares in draws]) for key in draws[0]}
    return {
        "attacked": _auc_figures(half),
        "whole": _auc_figures([results[run] for run in plan.runs(privacy, shadow_runs.FULL)]),
        "attacks": attacks,
        "hospitals": hospitals,
        "inversion": inversion,
    }


def _auc_figures(runs: Sequence[ShadowRunResult]) -> dict[str, float | None]:
    """Mean held-out ROC-AUC of several runs, and its standard deviation between runs."""
    aucs = [run.roc_auc for run in runs if run.roc_auc is not None]
    return {
        "roc_auc": _mean(aucs),
        "deviation": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        "mean_over_hospitals": _mean([run.mean_roc_auc for run in runs]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
