"""Whom the problem log of a run of `chaos.py` blames: the hospital at fault, and no other."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from chaos_hangs import MAX_UNANSWERED
from chaos_hospital import FAR_TOO_LARGE, ON_THE_WAY
from chaos_trials import Fault, Trial
from chaos_verdict import Verdict

TOO_LATE = "sent its reply too late"
"""The only reason for a rejection that is not the hospital's fault."""

NO_ANSWER = "it did not answer within"
"""Beginning of the reason of a message without a reply, of a hospital that is connected."""


def find_wrong_blame(
    trial: Trial, verdict: Verdict, victim: str, liars: Collection[str] = (), refusal: str = ""
) -> list[str]:
    """Problems with the problem log in metrics.json.

    It should count each invalid reply, name hospitals that lie, count few messages that a hanging hospital did not
    answer, and of others no rejection but of late replies.

    Args:
        liars: names of the hospitals that lie.
        refusal: line with which the server ended the run instead of saving it.
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
    named = refusal + json.dumps({key: value for key, value in faults.items() if key != "absent"})
    problems += [f"the problem log does not name {name}" for name in liars if name not in named]
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
