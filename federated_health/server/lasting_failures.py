"""Finds failures of hospitals that another attempt at a round would repeat, so that waiting does not help."""

import builtins
from collections.abc import Callable, Collection, Mapping

from federated_health.messages.records import DIVERGED

MAX_SAME_FAILURES = 3
"""Number of times that a hospital whose update is needed may fail in the same way in a row."""


def find_lasting_cause(
    asked: Collection[str],
    failures: Mapping[str, str],
    earlier: Mapping[str, str],
    *,
    spare: int | None = None,
    repeats: Mapping[str, int] = {},
    suspicion: Callable[[], str] = str,
) -> str | None:
    """Why another attempt at a round would fail, too; None if it might not.

    It would if training diverged at too many hospitals, if all failed as before, or if too many failed
    MAX_SAME_FAILURES times in the same way. Training that diverged would diverge again, since it depends on the round
    only.

    Args:
        asked: names of the hospitals that were asked.
        failures, earlier: `ReplyCollector.failures` of this attempt and of the one before.
        spare: number of hospitals that may fail; by default all but one of those asked.
        repeats: hospital -> number of attempts in a row that failed in the same way.
        suspicion: which hospital may have caused that training diverged, as the end of a sentence.
    """
    diverged = sorted(name for name, reason in failures.items() if reason.startswith(DIVERGED))
    if asked and len(diverged) > (len(asked) - 1 if spare is None else spare):
        where = "every hospital" if len(diverged) == len(asked) else ", ".join(diverged)
        return f"training diverged at {where}; try a smaller --learning-rate{suspicion()}"
    if asked and set(failures) == set(asked) and failures == earlier:
        return f"every hospital failed twice in the same way, and its own log says more: {_list_causes(failures)}"
    stuck = {
        name: reason
        for name, reason in failures.items()
        if repeats.get(name, 0) >= MAX_SAME_FAILURES and not may_pass(reason)
    }
    if spare is not None and len(stuck) > spare:
        times = f"failed {MAX_SAME_FAILURES} times in the same way, and its update is needed"
        return f"a hospital {times}; its own log says more: {_list_causes(stuck)}"
    return None


def may_pass(reason: str) -> bool:
    """Whether a failure is an exception of the hospital's machine, such as a full disk, rather than of its work."""
    kind = getattr(builtins, reason.removesuffix(" at the hospital"), None)
    return isinstance(kind, type) and issubclass(kind, OSError | MemoryError)


def _list_causes(failures: Mapping[str, str]) -> str:
    hospitals_by_reason: dict[str, list[str]] = {}
    for name, reason in sorted(failures.items()):
        hospitals_by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in hospitals_by_reason.items())
