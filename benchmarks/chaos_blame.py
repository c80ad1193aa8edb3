"""Whom the problem log of a run of `chaos.py` blames: the hospital at fault, and no other."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from chaos_hangs import MAX_UNANSWERED
from chaos_hospital import FAR_TOO_LARGE, ON_THE_WAY
from chaos_liars import LIES
from chaos_trials import Fault, Trial
from chaos_verdict import Verdict

from federated_health.names import FEDERATION

TOO_LATE = "sent its reply too late"
"""The only reason for a rejection that is not the hospital's fault."""

MAX_LOSS_OF_AUC = 0.05
"""By which wrong updates may lower the ROC-AUC without a word in the problem log."""

NO_ANSWER = "it did not answer within"
"""Beginning of the reason of a message without a reply, of a hospital that is connected."""


def find_wrong_blame(
    trial: Trial,
    verdict: Verdict,
    *,
    victim: str,
    liars: Collection[str] = (),
    output: str = "",
    undisturbed_auc: float = 0.0,
) -> list[str]:
    """Problems with the problem log of metrics.json, or with what the server printed of a run that it did not save.

    It should count each invalid reply, name hospitals that lie unless they did no harm, count few messages that a
    hanging hospital did not answer, and of other hospitals no rejection but of late replies.

    Args:
        liars: names of the hospitals that lie.
        output: lines that the server printed.
        undisturbed_auc: ROC-AUC of the undisturbed run.
    """
    faults = verdict.metrics.get("faults", {})
    at_fault = {*liars, victim} if trial.fault in (Fault.POISONED, Fault.LIAR) else set()
    problems = [
        f"a reply of {name} is rejected: {', '.join(reasons)}"
        for name, reasons in _rejections(faults).items()
        if name not in at_fault
    ]
    if trial.poison is not None:
        # A hospital that is disconnected for an invalid message may miss the rounds of its further ones.
        # gRPC ends a stream with a far too large message, and does not tell the server why.
        kind = "unanswered" if trial.poison.kind == FAR_TOO_LARGE else "rejected"
        counted = sum(faults.get(kind, {}).get(victim, {}).values())
        if counted < (1 if trial.poison.kind in ON_THE_WAY else trial.poison.times):
            problems.append(f"{counted} of {trial.poison.times} invalid replies are counted")
    if trial.fault is Fault.LIAR and not _is_harmless(trial, verdict, undisturbed_auc):
        problems += _find_unnamed(faults, liars, output)
    if trial.fault is Fault.HANG:
        unanswered = faults.get("unanswered", {}).get(victim, {})
        counted = sum(times for reason, times in unanswered.items() if reason.startswith(NO_ANSWER))
        if counted > MAX_UNANSWERED:
            problems.append(f"{counted} messages to a hanging hospital: expected at most {MAX_UNANSWERED}")
    return problems


def _rejections(faults: Mapping[str, Any]) -> dict[str, list[str]]:
    """Reasons for rejections by hospital, without those that are not its fault."""
    reasons = {
        name: [reason for reason in found if reason != TOO_LATE] for name, found in faults.get("rejected", {}).items()
    }
    return {name: found for name, found in reasons.items() if found}


def _is_harmless(trial: Trial, verdict: Verdict, undisturbed_auc: float) -> bool:
    """Whether wrong updates left a model about as good as the undisturbed one; other lies are always to be named."""
    return LIES[trial.kind].factor != 1.0 and verdict.roc_auc > undisturbed_auc - MAX_LOSS_OF_AUC


def _find_unnamed(faults: Mapping[str, Any], liars: Collection[str], output: str) -> list[str]:
    """Problems: liars who are not named, and others who are said to have sent opposed updates."""
    blamed = json.dumps({key: value for key, value in faults.items() if key != "absent"})
    blamed += "".join(line for line in output.splitlines() if "left out" in line or line.startswith("error: "))
    warnings = faults.get("data_warnings", {})
    accused = [name for name in warnings if "opposed" in " ".join(warnings[name]) and name not in (*liars, FEDERATION)]
    # Two of four hospitals that agree are no fewer than the honest ones: the log can only say that there is harm.
    named = [FEDERATION] if len(liars) > 1 and FEDERATION in warnings else liars
    return [
        *(f"the problem log does not name {name}" for name in named if name not in blamed),
        *(f"the problem log accuses {name}, which is honest" for name in accused),
    ]
