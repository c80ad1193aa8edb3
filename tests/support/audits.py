"""Made-up audits for tests: the statistics of each patient are drawn at random, and nothing is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.settings import Settings
from federated_health.studies.audit.attacks import audit_figures
from federated_health.studies.audit.audit_page import SMALL_HOSPITAL
from federated_health.studies.audit.shadow_runs import (
    AVERAGES,
    DRAWN,
    FINAL,
    HALF,
    HELD_OUT,
    HELD_OUT_SUM,
    UPDATES,
    AuditPlan,
    ShadowRun,
    ShadowRunResult,
)
from federated_health.studies.audit.small_hospital import OWN, SUM
from tests.support.cohorts import patients

LEAKS = {"plain": 2.0, "disclosure control": 2.0, "epsilon 8": 1.0, "epsilon 1": 0.0}
"""Privacy setting -> difference between the statistics of members and of others, in standard deviations."""


def hospitals_of(sizes: Mapping[str, int]) -> dict[str, Hospital]:
    """Made-up hospitals with these numbers of training rows, and half as many held-out rows."""
    hospitals = {}
    for seed, (name, rows) in enumerate(sizes.items()):
        everyone = Patients.from_table(patients(rows + rows // 2, seed), HEART_DISEASE)
        train, test = np.arange(rows), np.arange(rows, rows + rows // 2)
        hospitals[name] = Hospital(name=name, task=HEART_DISEASE, train=everyone.take(train), test=everyone.take(test))
    return hospitals


def plan_of(**changes: Any) -> AuditPlan:
    """Three small hospitals, of which `small` is the smallest."""
    hospitals = hospitals_of({"large": 40, "small": 20, "middle": 31})
    settings = replace(Settings(), hospitals=3)
    defaults: dict[str, Any] = {
        "hospitals": hospitals,
        "privacies": {
            name: replace(settings, dp_epsilon=float(name.split()[1]) if "epsilon" in name else 0.0) for name in LEAKS
        },
        "half_runs": 8,
        "full_runs": 2,
        "sizes": (1, 4, 20),
        "draws": 2,
        "drawn": 2,
        "seed": 7,
    }
    return AuditPlan(**(defaults | changes))


def findings_of(privacy: str, number: int) -> dict[str, dict[str, float | None]]:
    """Findings of a drawn hospital: 1 and 0.5 in plain runs, half as much from the sums over all hospitals, and 0."""
    found = 1.0 - 0.5 * number if privacy == "plain" else 0.0
    by_view = {OWN: found, SUM: found / 2} if privacy == "plain" else {OWN: found}
    return {view: {**dict.fromkeys(SMALL_HOSPITAL, value), "members": None} for view, value in by_view.items()}


@dataclass(frozen=True)
class Audit:
    """The content of an audit's page."""

    plan: AuditPlan

    @cached_property
    def results(self) -> dict[ShadowRun, ShadowRunResult]:
        return {shadow: self._result(shadow) for shadow in self.plan.shadow_runs()}

    @cached_property
    def figures(self) -> dict[str, Any]:
        return audit_figures(self.plan, self.results)

    def _result(self, shadow: ShadowRun) -> ShadowRunResult:
        aucs: dict[str, Any] = {"roc_auc": 0.9 - 0.01 * (shadow.privacy != "plain"), "mean_roc_auc": 0.8}
        if shadow.kind == DRAWN:
            return ShadowRunResult(**aucs, findings=findings_of(shadow.privacy, shadow.number))
        if shadow.kind != HALF:
            return ShadowRunResult(**aucs, inversion={"update": 1.0, "average": 0.5, "typical": 0.25, "random": 0.375})
        generator = np.random.default_rng([list(self.plan.privacies).index(shadow.privacy), shadow.number])

        def statistic(strength: float, target: str = FINAL) -> Any:
            members = self.plan.members(target)[shadow.number]
            return strength * LEAKS[shadow.privacy] * members + generator.normal(size=len(members))

        return ShadowRunResult(
            **aucs,
            statistics={
                FINAL: {"confidence": statistic(0.25)},
                UPDATES: {"drop": statistic(0.5), "share": statistic(1.0)},
                AVERAGES: {"drop": statistic(0.25), "share": statistic(0.5)},
                HELD_OUT: {"confidence": statistic(0.0, HELD_OUT), "subset": statistic(2.0, HELD_OUT)},
                HELD_OUT_SUM: {"subset": statistic(0.5, HELD_OUT)},
            },
        )


@cache
def example_audit() -> Audit:
    """One audit for all tests that only read it, since its intervals take seconds."""
    return Audit(plan_of())
