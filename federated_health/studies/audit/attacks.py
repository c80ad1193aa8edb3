"""The attacks of an audit on its shadow runs, and the figures that they give."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from federated_health.studies.audit import shadow_runs
from federated_health.studies.audit.membership import lira_scores, measure_attack
from federated_health.studies.audit.shadow_runs import AVERAGES, FINAL, UPDATES, AuditPlan, HeldOutAuc

PLAIN, ENCRYPTED = "plain", "encrypted"

LOSS, LIRA, DROP, SHARE = "loss threshold", "LiRA", "LiRA on loss drops", "LiRA on gradient shares"

ATTACKS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    FINAL: {LOSS: ("confidence", False), LIRA: ("confidence", True)},
    UPDATES: {DROP: ("drop", True), SHARE: ("share", True)},
    AVERAGES: {DROP: ("drop", True), SHARE: ("share", True)},
}
"""Target -> attack -> the statistic that it uses, and whether shadow models calibrate it (LiRA). The last attack on a
target is the one for figures by hospital. Confidences order patients as losses do, in reverse."""

Results = Mapping[shadow_runs.ShadowRun, shadow_runs.ShadowRunResult]


def audit_figures(plan: AuditPlan, results: Results) -> dict[str, Any]:
    """The figures as in audit.json, by privacy setting; None for what cannot be attacked or is undefined.

    Returns:
        privacy -> `attacked` and `whole`: how good the models are that were trained on half of the rows and on all;
        `attacks`: target -> attack -> figures (see `membership.AttackStrength`); `hospitals`: hospital -> target ->
        figures of the last attack; `inversion`: rows -> shares (see `shadow_runs.RecoveredShares`).
    """
    figures = {privacy: _figures_of(privacy, plan, results) for privacy in plan.privacies}
    if PLAIN in figures:
        figures = {PLAIN: figures[PLAIN], ENCRYPTED: _without_updates(figures[PLAIN]), **figures}
    return figures


def _without_updates(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of encrypted averaging, in which only the hospital itself has its update.

    The averages, and so the final model, equal those of plain averaging up to 1e-6.
    """
    return {
        **plain,
        "attacks": {**plain["attacks"], UPDATES: None},
        "hospitals": {name: {**targets, UPDATES: None} for name, targets in plain["hospitals"].items()},
        "inversion": {rows: {**shares, "update": None} for rows, shares in plain["inversion"].items()},
    }


def _figures_of(privacy: str, plan: AuditPlan, results: Results) -> dict[str, Any]:
    half = [results[shadow_runs.HalfShadowRun(privacy=privacy, run=run)] for run in range(plan.half_runs)]
    full = [results[shadow_runs.FullShadowRun(privacy=privacy, run=run)] for run in range(plan.full_runs)]
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
    inversions: dict[int, list[Any]] = {rows: [] for rows in plan.sizes}
    for run in plan.shadow_runs():
        if isinstance(run, shadow_runs.SmallShadowRun) and run.privacy == privacy:
            inversions[run.rows].append(results[run].inversion)
    return {
        "attacked": _auc_figures([result.auc for result in half]),
        "whole": _auc_figures([result.auc for result in full]),
        "attacks": attacks,
        "hospitals": hospitals,
        "inversion": {
            str(rows): {
                key.name: _mean([getattr(shares, key.name) for shares in draws])
                for key in fields(shadow_runs.RecoveredShares)
            }
            for rows, draws in inversions.items()
        },
    }


def _auc_figures(aucs: Sequence[HeldOutAuc | None]) -> dict[str, float | None]:
    """Mean held-out ROC-AUC of several runs, and its standard deviation between runs."""
    values = [auc.all_patients for auc in aucs if auc is not None and auc.all_patients is not None]
    return {
        "roc_auc": _mean(values),
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "mean_over_hospitals": _mean([auc.hospital_mean for auc in aucs if auc is not None]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
