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
from federated_health.studies.audit.shadow_runs import (
    AVERAGES,
    FINAL,
    HALF,
    UPDATES,
    AuditPlan,
    ShadowRun,
    ShadowRunResult,
)
from tests.support.cohorts import patients

LEAKS = {"plain": 2.0, "epsilon 8": 0.5, "epsilon 1": 0.0}
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
            name: replace(settings, dp_epsilon=0.0 if name == "plain" else float(name.split()[1])) for name in LEAKS
        },
        "half_runs": 8,
        "full_runs": 2,
        "sizes": (1, 4, 20),
        "draws": 2,
        "seed": 7,
    }
    return AuditPlan(**(defaults | changes))


@dataclass(frozen=True)
class Audit:
    """The content of an audit's page."""

    plan: AuditPlan

    @cached_property
    def results(self) -> dict[ShadowRun, ShadowRunResult]:
        return {shadow: self._result(shadow, number) for number, shadow in enumerate(self.plan.shadow_runs())}

    @cached_property
    def figures(self) -> dict[str, Any]:
        return audit_figures(self.plan, self.results)

    def _result(self, shadow: ShadowRun, number: int) -> ShadowRunResult:
        aucs: dict[str, Any] = {"roc_auc": 0.9 - 0.01 * (shadow.privacy != "plain"), "mean_roc_auc": 0.8}
        if shadow.kind != HALF:
            return ShadowRunResult(**aucs, inversion={"update": 1.0, "average": 0.5, "typical": 0.25, "random": 0.375})
        generator = np.random.default_rng(number)
        members = self.plan.members()[shadow.number]
        leak = LEAKS[shadow.privacy] * members

        def statistic(strength: float) -> Any:
            return strength * leak + generator.normal(size=len(members))

        return ShadowRunResult(
            **aucs,
            statistics={
                FINAL: {"confidence": statistic(0.25)},
                UPDATES: {"drop": statistic(0.5), "share": statistic(1.0)},
                AVERAGES: {"drop": statistic(0.25), "share": statistic(0.5)},
            },
        )


@cache
def example_audit() -> Audit:
    """One audit for all tests that only read it, since its intervals take seconds."""
    return Audit(plan_of())
