"""From what was seen of every federation to the figures of an audit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.studies.audit.audit_plan import (
    AVERAGES,
    FINAL,
    UPDATES,
    FullShadowRun,
    HalfShadowRun,
    Inverted,
    Outcome,
    Plan,
    SmallShadowRun,
    Trial,
    Worth,
)
from federated_health.studies.audit.membership import lira_scores, measure

PLAIN, ENCRYPTED = "plain", "encrypted"

LOSS, LIRA, DROP, SHARE = "loss threshold", "LiRA", "LiRA on loss drops", "LiRA on gradient shares"

ATTACKS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    FINAL: {LOSS: ("confidence", False), LIRA: ("confidence", True)},
    UPDATES: {DROP: ("drop", True), SHARE: ("share", True)},
    AVERAGES: {DROP: ("drop", True), SHARE: ("share", True)},
}
"""What is attacked -> attack -> what it looks at, and whether shadow models calibrate it; the last one stands for all.
Confidences order patients as losses do, the other way round."""

Results = Mapping[Trial, Outcome]
Array = npt.NDArray[np.float64]


def figures_of_audit(plan: Plan, results: Results) -> dict[str, Any]:
    """The figures as in audit.json, by privacy; None for what is not there to be attacked, or not defined.

    Returns:
        privacy -> `attacked` and `whole`, what the models are worth that were trained on half of the rows and on all of
        them; `attacks`, what is attacked -> attack -> figures (see `membership.Strength`); `hospitals`, hospital ->
        what is attacked -> figures of the last attack; `inversion`, rows -> shares (see `plan.Inverted`).
    """
    figures = {privacy: _figures_of(privacy, plan, results) for privacy in plan.privacies}
    if PLAIN in figures:
        figures = {PLAIN: figures[PLAIN], ENCRYPTED: without_updates(figures[PLAIN]), **figures}
    return figures


def without_updates(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of encrypted averaging, in which nobody but their hospital holds an update.

    The averages, and so the final model, are those of plain averaging up to 1e-6.
    """
    inversion = {rows: {**one, "update": None} for rows, one in plain["inversion"].items()}
    return {
        **plain,
        "attacks": {**plain["attacks"], UPDATES: None},
        "hospitals": {name: {**one, UPDATES: None} for name, one in plain["hospitals"].items()},
        "inversion": inversion,
    }


def _figures_of(privacy: str, plan: Plan, results: Results) -> dict[str, Any]:
    halved = [results[HalfShadowRun(privacy=privacy, run=run)] for run in range(plan.runs)]
    whole = [results[FullShadowRun(privacy=privacy, run=run)] for run in range(plan.wholes)]
    members, places = plan.members(), plan.places()
    attacks: dict[str, Any] = {}
    hospitals: dict[str, Any] = {name: {} for name in plan.hospitals}
    for target, ways in ATTACKS.items():
        attacks[target] = {}
        for way, (kind, calibrated) in ways.items():
            seen = np.array([_statistics_of(one)[target][kind] for one in halved])
            scores = lira_scores(seen, members) if calibrated else seen
            attacks[target][way] = asdict(measure(scores, members, plan.seed))
        for name, place in places.items():  # of the last attack
            hospitals[name][target] = asdict(measure(scores[:, place], members[:, place], plan.seed))
    return {
        "attacked": _worth([one.worth for one in halved]),
        "whole": _worth([one.worth for one in whole]),
        "attacks": attacks,
        "hospitals": hospitals,
        "inversion": {
            str(rows): _shares(
                [results[SmallShadowRun(privacy=privacy, rows=rows, draw=draw)].inverted for draw in range(plan.draws)]
            )
            for rows in plan.sizes
        },
    }


def _statistics_of(one: Outcome) -> Mapping[str, Mapping[str, Array]]:
    assert one.statistics is not None, "it is a Halved federation's"
    return one.statistics


def _worth(worths: Sequence[Worth | None]) -> dict[str, float | None]:
    """Mean ROC-AUC of some federations, and its standard deviation from one to the next."""
    everyone = [one.everyone for one in worths if one is not None and one.everyone is not None]
    means = [one.mean for one in worths if one is not None and one.mean is not None]
    return {
        "roc_auc": float(np.mean(everyone)) if everyone else None,
        "deviation": float(np.std(everyone, ddof=1)) if len(everyone) > 1 else None,
        "mean_over_hospitals": float(np.mean(means)) if means else None,
    }


def _shares(inverted: Sequence[Inverted | None]) -> dict[str, float | None]:
    """Means over draws."""
    rows = [asdict(one) for one in inverted if one is not None]
    keys = ("update", "average", "typical", "random")
    return {key: float(np.mean([row[key] for row in rows])) if rows else None for key in keys}
