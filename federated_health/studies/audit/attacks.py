"""The attacks of an audit on its shadow runs, and their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from federated_health.data.hospital import Patients
from federated_health.data.split import PatientIds
from federated_health.studies.audit import shadow_runs
from federated_health.studies.audit.differencing import share_told_by_sums
from federated_health.studies.audit.membership import lira_scores, measure_attack
from federated_health.studies.audit.shadow_runs import (
    AVERAGES,
    DISCLOSURE_CONTROL,
    FINAL,
    HELD_OUT,
    HELD_OUT_SUM,
    UPDATES,
    AuditPlan,
    ShadowRunResult,
)
from federated_health.studies.audit.small_hospital import OWN, SUM

PLAIN, SECURE_AGGREGATION = "plain", "secure aggregation"

LOSS, LIRA, DROP, SHARE = "loss threshold", "LiRA", "LiRA on loss drops", "LiRA on gradient shares"
SUBSET = "subset recovery"

ATTACKS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    FINAL: {LOSS: ("confidence", False), LIRA: ("confidence", True)},
    UPDATES: {DROP: ("drop", True), SHARE: ("share", True)},
    AVERAGES: {DROP: ("drop", True), SHARE: ("share", True)},
    HELD_OUT: {LOSS: ("confidence", False), SUBSET: ("subset", False)},
    HELD_OUT_SUM: {SUBSET: ("subset", False)},
}
"""Target -> attack -> the statistic that it uses, and whether shadow models calibrate it (LiRA). Figures by
hospital are those of the last attack on a target. Confidences order patients as losses do, in reverse."""

FEW = range(1, 6)
"""Numbers of patients whose sums are searched, up to the default minimum cell."""

Results = Mapping[shadow_runs.ShadowRun, ShadowRunResult]


def audit_figures(plan: AuditPlan, results: Results) -> dict[str, Any]:
    """The figures as in audit.json, by privacy setting; None for what cannot be attacked or is undefined.

    Returns:
        privacy -> `attacked` and `whole`: quality of the models that were trained on half of the rows and on all;
        `attacks`: target -> attack -> figures (see `membership.AttackStrength`); `control`: ROC-AUC of the attacks on
        the final model for halves that were not trained on; `hospitals`: hospital -> target -> figures of the last
        attack; `inversion`: rows -> mean shares of recovered columns; `small_hospital`: means over the drawn hospitals
        (see `small_hospital.attack_small_hospital`).
    """
    figures = {privacy: _figures_of(privacy, plan, results) for privacy in plan.privacies}
    plain = figures[PLAIN]
    # With secure aggregation the server has sums over all hospitals in place of their updates and sums. The averages,
    # and so the final model, equal those of plain averaging up to 1e-6.
    hidden = {UPDATES: None, HELD_OUT: None}
    secure = {
        **plain,
        "attacks": {**plain["attacks"], **hidden},
        "hospitals": {name: {**targets, **hidden} for name, targets in plain["hospitals"].items()},
        "inversion": {rows: {**shares, "update": shares["average"]} for rows, shares in plain["inversion"].items()},
        "small_hospital": _findings(PLAIN, SUM, plan, results),
    }
    without_noise = {name: figures[name] for name in (PLAIN, DISCLOSURE_CONTROL) if name in figures}
    return {**without_noise, SECURE_AGGREGATION: secure, **figures}


def sums_of_few(plan: AuditPlan) -> dict[str, float | None]:
    """How often the sums over few training patients tell all their values, by the number of patients."""
    patients = Patients.concatenate(plan.patients(FINAL).values())
    return {str(number): share_told_by_sums(patients, plan.task, number, plan.seed) for number in FEW}


def _figures_of(privacy: str, plan: AuditPlan, results: Results) -> dict[str, Any]:
    half = [results[run] for run in plan.runs(privacy, shadow_runs.HALF)]
    attacks: dict[str, Any] = {target: {} for target in ATTACKS}
    hospitals: dict[str, Any] = {name: {} for name in plan.hospitals}
    control: dict[str, Any] = {}
    for target, by_attack in ATTACKS.items():
        members, numbers = plan.members(target), _patients_of_rows(plan, target)
        for attack, (statistic, is_calibrated) in by_attack.items():
            scores = np.array([result.statistics[target][statistic] for result in half])
            if is_calibrated:
                scores = lira_scores(scores, members)
            attacks[target][attack] = asdict(measure_attack(scores, members, plan.seed, patients=numbers))
            if target == FINAL:  # the next pair of runs has other halves
                others = np.roll(members, 2, axis=0)
                control[attack] = asdict(measure_attack(scores, others, plan.seed, patients=numbers))["roc_auc"]
        for name, place in plan.slices(target).items():  # the last attack
            own = None if numbers is None else np.unique(numbers[place], return_inverse=True)[1]
            strength = measure_attack(scores[:, place], members[:, place], plan.seed, patients=own)
            hospitals[name][target] = asdict(strength)
    inversion = {}
    inverted = PLAIN if privacy == DISCLOSURE_CONTROL else privacy  # their updates are the same
    for rows in plan.sizes:
        draws = [results[run].inversion for run in plan.runs(inverted, shadow_runs.SMALL, rows)]
        inversion[str(rows)] = {key: _mean([shares[key] for shares in draws]) for key in draws[0]}
    return {
        "attacked": _auc_figures(half),
        "whole": _auc_figures([results[run] for run in plan.runs(privacy, shadow_runs.FULL)]),
        "attacks": attacks,
        "control": control,
        "hospitals": hospitals,
        "inversion": inversion,
        "small_hospital": _findings(privacy, OWN, plan, results),
    }


def _patients_of_rows(plan: AuditPlan, target: str) -> PatientIds | None:
    """Number of each row's patient, from 0, of all hospitals; None if each row is a patient of its own."""
    everyone = Patients.concatenate(plan.patients(target).values())
    return None if everyone.ids is None else everyone.number_patients()


def _findings(privacy: str, view: str, plan: AuditPlan, results: Results) -> dict[str, float | None]:
    """What is found out of a small hospital in one view of the server, as means over the draws."""
    draws = [results[run].findings[view] for run in plan.runs(privacy, shadow_runs.DRAWN)]
    return {attack: _mean([findings[attack] for findings in draws]) for attack in (draws[0] if draws else {})}


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
